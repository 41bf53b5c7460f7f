// Rows rounded to 8 bits in memory, row by row, for searches that look at a few rows here and there.
#ifndef LOCI_INDEX_ROW_CODES_H_
#define LOCI_INDEX_ROW_CODES_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <new>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/status_macros.h"
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
  // `copy_row(r, out)` fills out [dim] with row r. `check` (may be null) is asked now and then: what it returns other than OK ends this.
  // RESOURCE_EXHAUSTED where there is not so much memory. On the calling thread alone: threads that searches wait for are not to be had for this.
  template <typename CopyRow>
  static absl::StatusOr<RowCodes> Create(int64_t rows, int dim, ScanIsa isa, const CopyRow& copy_row,
                                         const std::function<absl::Status()>& check = nullptr) {
    LOCI_ASSIGN_OR_RETURN(RowCodes codes, Allocate(rows, dim, isa));
    std::vector<float> row(static_cast<size_t>(dim));
    for (int64_t r = 0; r < rows; ++r) {
      if (r % kRowsBetweenChecks == 0 && check != nullptr) LOCI_RETURN_IF_ERROR(check());
      copy_row(r, row.data());
      codes.Set(r, row.data());
    }
    return codes;
  }

  // Bytes of a row of `dim` values.
  static int64_t StrideOf(int dim);
  int64_t stride() const { return stride_; }
  int64_t memory_bytes() const { return memory_bytes_; }
  ScanIsa isa() const { return isa_; }

  // scores[i], for i < count: about the inner product of the query with row rows[i], times what is the same for all rows of a query.
  // `products` [count] is room to work in.
  void Score(const RowCodeQuery& query, const int32_t* rows, int64_t count, int32_t* products, float* scores) const {
    kernels_->gather(query, codes_, stride_, rows, count, products);
    for (int64_t i = 0; i < count; ++i) scores[i] = static_cast<float>(products[i]) * scale(rows[i]);
  }
  // A hint that the row will be scored soon. Inlined for certain: g++ 12 takes a function that only prefetches for one without effect.
  [[gnu::always_inline]] void Prefetch(int32_t row) const {
    for (int64_t b = 0; b < stride_; b += 64) __builtin_prefetch(codes_ + row * stride_ + b);
  }

 private:
  static constexpr int64_t kRowsBetweenChecks = 4096;
  struct Free {
    std::align_val_t alignment;
    void operator()(uint8_t* memory) const { ::operator delete(memory, alignment); }
  };

  static absl::StatusOr<RowCodes> Allocate(int64_t rows, int dim, ScanIsa isa);
  RowCodes(int dim, int64_t stride, ScanIsa isa, std::unique_ptr<uint8_t, Free> memory, int64_t memory_bytes);
  void Set(int64_t row, const float* vector);
  float scale(int64_t row) const {
    float scale;
    __builtin_memcpy(&scale, codes_ + (row + 1) * stride_ - sizeof(scale), sizeof(scale));
    return scale;
  }

  int dim_;
  int64_t stride_;
  ScanIsa isa_;
  const RowCodeKernels* kernels_;
  int64_t memory_bytes_;
  std::unique_ptr<uint8_t, Free> memory_;
  uint8_t* codes_;  // In memory_.
};

}  // namespace loci

#endif  // LOCI_INDEX_ROW_CODES_H_
