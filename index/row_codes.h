// Rows rounded to 8 bits in memory, row by row, for searches that look at a few rows here and there.
#ifndef LOCI_INDEX_ROW_CODES_H_
#define LOCI_INDEX_ROW_CODES_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "base/thread_pool.h"
#include "index/int8_kernels.h"
#include "index/row_code_kernels.h"

namespace loci {

// A query [dim] rounded to 8 bits, as the kernels of an instruction set read it.
// Immutable after construction.
class RoundedQuery {
 public:
  RoundedQuery(const float* query, int dim, int64_t stride, ScanIsa isa);
  RowCodeQuery codes() const { return {bytes_.data(), offset_}; }

 private:
  std::vector<char> bytes_;
  int32_t offset_ = 0;
};

// Row r's elements z as round(z / scale) in [-127, 127], scale = max |z| / 127; all zero where an element is not finite. A row's code and scale lie
// together: stride() bytes.
// Immutable after construction.
class RowCodes {
 public:
  // `copy_row(r, out)` fills out [dim] with row r; it is called by several threads where there is a `pool` (borrowed for this call, may be null).
  template <typename CopyRow>
  RowCodes(int64_t rows, int dim, ThreadPool* pool, ScanIsa isa, const CopyRow& copy_row) : RowCodes(rows, dim, isa) {
    constexpr int64_t kRange = 4096;
    const auto body = [&](int64_t range) {
      std::vector<float> row(static_cast<size_t>(dim));
      for (int64_t r = range * kRange; r < rows && r < (range + 1) * kRange; ++r) {
        copy_row(r, row.data());
        Set(r, row.data());
      }
    };
    const int64_t ranges = (rows + kRange - 1) / kRange;
    if (pool != nullptr && ranges > 1) {
      pool->ParallelFor(ranges, body);
    } else {
      for (int64_t range = 0; range < ranges; ++range) body(range);
    }
  }

  int64_t stride() const { return stride_; }
  int64_t memory_bytes() const { return memory_bytes_; }
  ScanIsa isa() const { return isa_; }

  // scores[i], for i < count: about the inner product of the query with row rows[i], times what is the same for all rows of a query.
  // `products` [count] is room to work in.
  void Score(const RowCodeQuery& query, const int32_t* rows, int64_t count, int32_t* products, float* scores) const {
    kernels_.gather(query, codes_, stride_, rows, count, products);
    for (int64_t i = 0; i < count; ++i) scores[i] = static_cast<float>(products[i]) * scale(rows[i]);
  }
  // A hint that the row will be scored soon. Inlined for certain: g++ 12 takes a function that only prefetches for one without effect.
  [[gnu::always_inline]] void Prefetch(int32_t row) const {
    for (int64_t b = 0; b < stride_; b += 64) __builtin_prefetch(codes_ + row * stride_ + b);
  }

 private:
  RowCodes(int64_t rows, int dim, ScanIsa isa);
  void Set(int64_t row, const float* vector);
  float scale(int64_t row) const {
    float scale;
    __builtin_memcpy(&scale, codes_ + (row + 1) * stride_ - sizeof(scale), sizeof(scale));
    return scale;
  }

  int dim_;
  int64_t stride_;
  ScanIsa isa_;
  const RowCodeKernels& kernels_;
  int64_t memory_bytes_;
  std::unique_ptr<uint8_t, void (*)(void*)> memory_;
  uint8_t* codes_;  // In memory_.
};

}  // namespace loci

#endif  // LOCI_INDEX_ROW_CODES_H_
