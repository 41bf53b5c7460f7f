// Where the rows of a kernel over row codes are, and what it asks for ahead. For files that are compiled with flags of their own, and for these alone: in
// an unnamed namespace, so that no other file's linker takes code from here.
#ifndef LOCI_INDEX_ROW_CODE_ROWS_H_
#define LOCI_INDEX_ROW_CODE_ROWS_H_

#include <immintrin.h>

#include <cstdint>

#include "index/row_code_kernels.h"

namespace loci {
namespace {

constexpr int64_t kRowsAtOnce = 4;
constexpr int64_t kRowsAhead = 8;

// multiply(four rows, their products) for all of `rows`, four after four.
template <typename Multiply>
inline void ForFourRows(const uint8_t* codes, int64_t stride, const int32_t* rows, int64_t count, int32_t* products,
                        const Multiply& multiply) {
  const auto at = [&](int64_t i) { return codes + rows[i] * stride; };
  for (int64_t first = 0; first < count; first += kRowsAtOnce) {
    const uint8_t* row[kRowsAtOnce];
    for (int64_t r = 0; r < kRowsAtOnce; ++r) {
      row[r] = at(first + r < count ? first + r : count - 1);
      if (first + r + kRowsAhead < count) {
        const uint8_t* const ahead = at(first + r + kRowsAhead);
        for (int64_t b = 0; b < stride; b += 64) _mm_prefetch(reinterpret_cast<const char*>(ahead + b), _MM_HINT_T0);
      }
    }
    if (first + kRowsAtOnce <= count) {
      multiply(row, products + first);
    } else {
      int32_t some[kRowsAtOnce];
      multiply(row, some);
      for (int64_t r = 0; first + r < count; ++r) products[first + r] = some[r];
    }
  }
}

}  // namespace
}  // namespace loci

#endif  // LOCI_INDEX_ROW_CODE_ROWS_H_
