// AVX-512 with VNNI. Compiled with its own flags: nothing from a header with inline functions that another file may share belongs here.
#include <immintrin.h>

#include "index/row_code_kernels.h"
#include "index/row_code_rows.h"

namespace loci {
namespace {

// The sums of four accumulators.
inline __m128i Sums(__m512i a, __m512i b, __m512i c, __m512i d) {
  const __m512i ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
  const __m512i cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
  const __m512i quads = _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
  const __m256i pairs = _mm256_add_epi32(_mm512_castsi512_si256(quads), _mm512_extracti64x4_epi64(quads, 1));
  return _mm_add_epi32(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256(pairs, 1));
}

void Gather(const RowCodeQuery& query, const uint8_t* row_codes, int64_t stride, const int32_t* rows, int64_t count,
            int32_t* products) {
  const char* const codes = static_cast<const char*>(query.codes);
  const __m128i offset = _mm_set1_epi32(query.offset);
  ForFourRows(row_codes, stride, rows, count, products, [&](const uint8_t* const* row, int32_t* out) {
    __m512i a = _mm512_setzero_si512(), b = a, c = a, d = a;
    for (int64_t at = 0; at < stride; at += kRowCodeBlock) {
      const __m512i q = _mm512_loadu_si512(codes + at);
      a = _mm512_dpbusd_epi32(a, _mm512_loadu_si512(row[0] + at), q);
      b = _mm512_dpbusd_epi32(b, _mm512_loadu_si512(row[1] + at), q);
      c = _mm512_dpbusd_epi32(c, _mm512_loadu_si512(row[2] + at), q);
      d = _mm512_dpbusd_epi32(d, _mm512_loadu_si512(row[3] + at), q);
    }
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm_add_epi32(Sums(a, b, c, d), offset));
  });
}

}  // namespace

const RowCodeKernels kRowCodeKernelsVnni = {Gather, 1};

}  // namespace loci
