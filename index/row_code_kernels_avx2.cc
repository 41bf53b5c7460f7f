// AVX2: codes are widened to 16 bits, since the 8-bit multiplication of AVX2 (vpmaddubsw) saturates.
#include <immintrin.h>

#include "index/row_code_kernels.h"
#include "index/row_code_rows.h"

namespace loci {
namespace {

void Gather(const RowCodeQuery& query, const uint8_t* row_codes, int64_t stride, const int32_t* rows, int64_t count,
            int32_t* products) {
  const int16_t* const codes = static_cast<const int16_t*>(query.codes);
  const __m128i offset = _mm_set1_epi32(query.offset);
  ForFourRows(row_codes, stride, rows, count, products, [&](const uint8_t* const* row, int32_t* out) {
    __m256i a = _mm256_setzero_si256(), b = a, c = a, d = a;
    const auto wide = [](const uint8_t* p) { return _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); };
    for (int64_t at = 0; at < stride; at += 16) {
      const __m256i q = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes + at));
      a = _mm256_add_epi32(a, _mm256_madd_epi16(wide(row[0] + at), q));
      b = _mm256_add_epi32(b, _mm256_madd_epi16(wide(row[1] + at), q));
      c = _mm256_add_epi32(c, _mm256_madd_epi16(wide(row[2] + at), q));
      d = _mm256_add_epi32(d, _mm256_madd_epi16(wide(row[3] + at), q));
    }
    const __m256i quads = _mm256_hadd_epi32(_mm256_hadd_epi32(a, b), _mm256_hadd_epi32(c, d));
    const __m128i sums = _mm_add_epi32(_mm256_castsi256_si128(quads), _mm256_extracti128_si256(quads, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm_add_epi32(sums, offset));
  });
}

}  // namespace

const RowCodeKernels kRowCodeKernelsAvx2 = {Gather, 2};

}  // namespace loci
