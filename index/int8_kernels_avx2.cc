// AVX2: codes are widened to 16 bits, since the 8-bit multiplication of AVX2 (vpmaddubsw) saturates.
#include <immintrin.h>

#include "index/int8_kernels.h"

namespace loci {
namespace {

constexpr int64_t kStepBytes = kPanelRows * kPanelElements;

constexpr int kQueryBytes = 2 * kPanelElements;  // Of a query in a step.

inline int64_t LoadCodes(const char* p) {
  int64_t codes;
  __builtin_memcpy(&codes, p, sizeof(codes));
  return codes;
}

// Q queries, `stride` bytes a step, by 16 rows from `first` on: a register holds four rows, each the sums of its even and odd pairs of elements.
template <int Q>
__attribute__((noinline)) void Products(const char* queries, int stride, const Int8Bound* bounds, const char* codes, int first, int steps,
                                        int32_t* products, const char* prefetch, int64_t lines) {
  __m256i acc[Q][4];
#pragma GCC unroll 4
  for (int q = 0; q < Q; ++q) {
#pragma GCC unroll 4
    for (int p = 0; p < 4; ++p) acc[q][p] = _mm256_setzero_si256();
  }
  codes += first * kPanelElements;
  const int64_t lines_per_step = (lines + steps - 1) / steps;
  const char* const prefetch_end = prefetch + lines * 64;
  for (int s = 0; s < steps; ++s, codes += kStepBytes, queries += stride) {
    for (int64_t i = 0; i < lines_per_step && prefetch < prefetch_end; ++i, prefetch += 64) _mm_prefetch(prefetch, _MM_HINT_T0);
    __m256i query[Q];
#pragma GCC unroll 4
    for (int q = 0; q < Q; ++q) query[q] = _mm256_set1_epi64x(LoadCodes(queries + q * kQueryBytes));
#pragma GCC unroll 4
    for (int p = 0; p < 4; ++p) {
      const __m256i z = _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes + 16 * p)));
#pragma GCC unroll 4
      for (int q = 0; q < Q; ++q) acc[q][p] = _mm256_add_epi32(acc[q][p], _mm256_madd_epi16(z, query[q]));
    }
  }
#pragma GCC unroll 4
  for (int q = 0; q < Q; ++q) {
    const __m256i offset = _mm256_set1_epi32(bounds[q].offset);
#pragma GCC unroll 2
    for (int p = 0; p < 4; p += 2) {
      // Rows 0 1 4 5 of the eight in the low half, 2 3 6 7 in the high one.
      const __m256i sums = _mm256_hadd_epi32(acc[q][p], acc[q][p + 1]);
      const __m256i rows = _mm256_permute4x64_epi64(sums, 0xD8);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(products + q * kPanelRows + first + 4 * p), _mm256_add_epi32(rows, offset));
    }
  }
}

void ScanAny(const void* queries, int query_count, const Int8Bound* bounds, const PanelHeader* panel, int steps, int32_t* products,
             uint64_t* survivors, const char* prefetch, int64_t prefetch_bytes) {
  const char* const query_codes = static_cast<const char*>(queries);
  const int stride = query_count * kQueryBytes;
  const char* const codes = reinterpret_cast<const char*>(panel + 1);
  int64_t lines = prefetch_bytes / 64;
  for (int first = 0; first < kPanelRows; first += 16) {
    for (int q = 0; q < query_count; q += 2) {
      const int64_t share = first == 48 && q + 2 >= query_count ? lines : lines / 4;
      int32_t* const out = products + q * kPanelRows;
      if (query_count - q >= 2) {
        Products<2>(query_codes + q * kQueryBytes, stride, bounds + q, codes, first, steps, out, prefetch, share);
      } else {
        Products<1>(query_codes + q * kQueryBytes, stride, bounds + q, codes, first, steps, out, prefetch, share);
      }
      prefetch += share * 64;
      lines -= share;
    }
  }
  for (int q = 0; q < query_count; ++q) {
    const __m256 threshold = _mm256_set1_ps(bounds[q].threshold), slack = _mm256_set1_ps(bounds[q].slack);
    const __m256 length_factor = _mm256_set1_ps(bounds[q].length_factor), error_factor = _mm256_set1_ps(bounds[q].error_factor);
    uint64_t bits = 0;
    for (int r = 0; r < kPanelRows; r += 8) {
      __m256 error = _mm256_fmadd_ps(_mm256_loadu_ps(panel->error + r), error_factor, slack);
      error = _mm256_fmadd_ps(_mm256_loadu_ps(panel->length + r), length_factor, error);
      const __m256 limit = _mm256_fmsub_ps(_mm256_loadu_ps(panel->inverse_scale + r), threshold, error);
      const __m256 product = _mm256_cvtepi32_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(products + q * kPanelRows + r)));
      bits |= static_cast<uint64_t>(static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(product, limit, _CMP_NLT_UQ)))) << r;
    }
    survivors[q] = bits;
  }
}

}  // namespace

const Int8Kernels kInt8KernelsAvx2 = {ScanAny, nullptr, 2};

}  // namespace loci
