#include "index/row_codes.h"

#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <new>
#include <utility>

#include "absl/strings/str_cat.h"

namespace loci {
namespace {

constexpr int64_t kHugePage = int64_t{2} << 20;

int64_t RoundUp(int64_t bytes, int64_t unit) { return (bytes + unit - 1) / unit * unit; }

// Fills codes [dim] and returns the scale.
float Round(const float* vector, int dim, int8_t* codes) {
  float largest = 0;
  bool finite = true;
  for (int d = 0; d < dim; ++d) {
    const float size = std::abs(vector[d]);
    finite &= size <= std::numeric_limits<float>::max();
    largest = size > largest ? size : largest;
  }
  // A scale that is no normal number would not divide well.
  const float inverse = 127.0f / largest;
  if (!finite || !(inverse < 0x1p100f)) {
    std::fill_n(codes, dim, int8_t{0});
    return 0;
  }
  for (int d = 0; d < dim; ++d) codes[d] = static_cast<int8_t>(static_cast<int32_t>(std::rint(vector[d] * inverse)));
  return largest / 127.0f;
}

}  // namespace

const RowCodeKernels& GetRowCodeKernels(ScanIsa isa) { return isa == ScanIsa::kVnni ? kRowCodeKernelsVnni : kRowCodeKernelsAvx2; }

RoundedQuery::RoundedQuery(const float* query, int dim, int64_t stride, ScanIsa isa) {
  std::vector<int8_t> codes(static_cast<size_t>(dim));
  Round(query, dim, codes.data());
  for (const int8_t code : codes) offset_ -= 128 * code;
  if (GetRowCodeKernels(isa).code_bytes == 1) {
    bytes_.assign(static_cast<size_t>(stride), 0);
    std::memcpy(bytes_.data(), codes.data(), codes.size());
  } else {
    bytes_.assign(static_cast<size_t>(2 * stride), 0);
    std::vector<int16_t> wide(codes.begin(), codes.end());
    std::memcpy(bytes_.data(), wide.data(), 2 * wide.size());
  }
}

int64_t RowCodes::StrideOf(int dim) { return RoundUp(dim + static_cast<int64_t>(sizeof(float)), kRowCodeBlock); }

absl::StatusOr<RowCodes> RowCodes::Allocate(int64_t rows, int dim, ScanIsa isa) {
  const int64_t stride = StrideOf(dim);
  const bool huge = rows * stride >= kHugePage;
  const int64_t unit = huge ? kHugePage : kRowCodeBlock;
  const int64_t bytes = RoundUp(std::max<int64_t>(rows * stride, 1), unit);
  const Free free{static_cast<std::align_val_t>(unit)};
  std::unique_ptr<uint8_t, Free> memory(
      static_cast<uint8_t*>(::operator new(static_cast<size_t>(bytes), free.alignment, std::nothrow)), free);
  if (memory == nullptr) {
    return absl::ResourceExhaustedError(absl::StrCat("out of memory: codes of ", rows, " rows need ", bytes, " bytes"));
  }
  // Rows are looked at in no order: with pages of 4 KiB nearly each would also miss the translation of its address.
  if (huge) (void)::madvise(memory.get(), static_cast<size_t>(bytes), MADV_HUGEPAGE);
  return RowCodes(dim, stride, isa, std::move(memory), bytes);
}

RowCodes::RowCodes(int dim, int64_t stride, ScanIsa isa, std::unique_ptr<uint8_t, Free> memory, int64_t memory_bytes)
    : dim_(dim),
      stride_(stride),
      isa_(isa),
      kernels_(&GetRowCodeKernels(isa)),
      memory_bytes_(memory_bytes),
      memory_(std::move(memory)),
      codes_(memory_.get()) {}

void RowCodes::Set(int64_t row, const float* vector) {
  uint8_t* const out = codes_ + row * stride_;
  const float scale = Round(vector, dim_, reinterpret_cast<int8_t*>(out));
  for (int d = 0; d < dim_; ++d) out[d] ^= 0x80;
  std::memset(out + dim_, 0, static_cast<size_t>(stride_ - dim_));
  std::memcpy(out + stride_ - sizeof(scale), &scale, sizeof(scale));
}

}  // namespace loci
