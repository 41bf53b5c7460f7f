// AVX-512 with VNNI. Compiled with its own flags: nothing from a header with inline functions that another file may share belongs here.
#include <immintrin.h>

#include "index/int8_kernels.h"

namespace loci {
namespace {

constexpr int64_t kStepBytes = kPanelRows * kPanelElements;

inline int32_t LoadCodes(const char* p) {
  int32_t codes;
  __builtin_memcpy(&codes, p, sizeof(codes));
  return codes;
}

// Of a query that is not there nothing is used.
template <int I, int Q>
inline __m512i Offset(const Int8Bound* bounds) {
  return _mm512_set1_epi32(I < Q ? bounds[I < Q ? I : 0].offset : 0);
}

// Q queries by 64 rows. The accumulators have names, not places in an array: g++ 12 would keep those in memory.
#define LOCI_MULTIPLY(i, acc)                                                  \
  if constexpr (i < Q) {                                                       \
    const __m512i query = _mm512_set1_epi32(LoadCodes(queries + i * kPanelElements)); \
    acc##0 = _mm512_dpbusd_epi32(acc##0, z0, query);                           \
    acc##1 = _mm512_dpbusd_epi32(acc##1, z1, query);                           \
    acc##2 = _mm512_dpbusd_epi32(acc##2, z2, query);                           \
    acc##3 = _mm512_dpbusd_epi32(acc##3, z3, query);                           \
  }
#define LOCI_STORE(i, acc)                                              \
  if constexpr (i < Q) {                                                \
    _mm512_storeu_si512(products + i * kPanelRows, acc##0);             \
    _mm512_storeu_si512(products + i * kPanelRows + 16, acc##1);        \
    _mm512_storeu_si512(products + i * kPanelRows + 32, acc##2);        \
    _mm512_storeu_si512(products + i * kPanelRows + 48, acc##3);        \
  }
template <int Q>
__attribute__((noinline)) void Multiply(const char* queries, const Int8Bound* bounds, const char* codes, int steps, int32_t* products,
                                        const char* prefetch, int64_t prefetch_bytes) {
  __m512i a0 = Offset<0, Q>(bounds), a1 = a0, a2 = a0, a3 = a0;
  __m512i b0 = Offset<1, Q>(bounds), b1 = b0, b2 = b0, b3 = b0;
  __m512i c0 = Offset<2, Q>(bounds), c1 = c0, c2 = c0, c3 = c0;
  __m512i d0 = Offset<3, Q>(bounds), d1 = d0, d2 = d0, d3 = d0;
  __m512i e0 = Offset<4, Q>(bounds), e1 = e0, e2 = e0, e3 = e0;
  __m512i f0 = Offset<5, Q>(bounds), f1 = f0, f2 = f0, f3 = f0;
  const int64_t lines = prefetch_bytes / 64;
  const int64_t lines_per_step = (lines + steps - 1) / steps;
  const char* const prefetch_end = prefetch + lines * 64;
  for (int s = 0; s < steps; ++s, codes += kStepBytes, queries += Q * kPanelElements) {
    for (int64_t i = 0; i < lines_per_step && prefetch < prefetch_end; ++i, prefetch += 64) _mm_prefetch(prefetch, _MM_HINT_T0);
    const __m512i z0 = _mm512_loadu_si512(codes);
    const __m512i z1 = _mm512_loadu_si512(codes + 64);
    const __m512i z2 = _mm512_loadu_si512(codes + 128);
    const __m512i z3 = _mm512_loadu_si512(codes + 192);
    LOCI_MULTIPLY(0, a)
    LOCI_MULTIPLY(1, b)
    LOCI_MULTIPLY(2, c)
    LOCI_MULTIPLY(3, d)
    LOCI_MULTIPLY(4, e)
    LOCI_MULTIPLY(5, f)
  }
  LOCI_STORE(0, a)
  LOCI_STORE(1, b)
  LOCI_STORE(2, c)
  LOCI_STORE(3, d)
  LOCI_STORE(4, e)
  LOCI_STORE(5, f)
}
#undef LOCI_MULTIPLY
#undef LOCI_STORE

uint64_t Survivors(const int32_t* products, const Int8Bound& bound, const PanelHeader& panel) {
  const __m512 threshold = _mm512_set1_ps(bound.threshold), slack = _mm512_set1_ps(bound.slack);
  const __m512 length_factor = _mm512_set1_ps(bound.length_factor), error_factor = _mm512_set1_ps(bound.error_factor);
  uint64_t bits = 0;
#pragma GCC unroll 4
  for (int r = 0; r < kPanelRows; r += 16) {
    __m512 error = _mm512_fmadd_ps(_mm512_loadu_ps(panel.error + r), error_factor, slack);
    error = _mm512_fmadd_ps(_mm512_loadu_ps(panel.length + r), length_factor, error);
    const __m512 limit = _mm512_fmsub_ps(_mm512_loadu_ps(panel.inverse_scale + r), threshold, error);
    bits |= static_cast<uint64_t>(_mm512_cmp_ps_mask(_mm512_cvtepi32_ps(_mm512_loadu_si512(products + r)), limit, _CMP_NLT_UQ)) << r;
  }
  return bits;
}

void ScanAny(const void* queries, int query_count, const Int8Bound* bounds, const PanelHeader* panel, int steps, int32_t* products,
             uint64_t* survivors, const char* prefetch, int64_t prefetch_bytes) {
  const char* const query_codes = static_cast<const char*>(queries);
  const char* const codes = reinterpret_cast<const char*>(panel + 1);
  switch (query_count) {
    case 1: Multiply<1>(query_codes, bounds, codes, steps, products, prefetch, prefetch_bytes); break;
    case 2: Multiply<2>(query_codes, bounds, codes, steps, products, prefetch, prefetch_bytes); break;
    case 3: Multiply<3>(query_codes, bounds, codes, steps, products, prefetch, prefetch_bytes); break;
    case 4: Multiply<4>(query_codes, bounds, codes, steps, products, prefetch, prefetch_bytes); break;
    case 5: Multiply<5>(query_codes, bounds, codes, steps, products, prefetch, prefetch_bytes); break;
    default: Multiply<6>(query_codes, bounds, codes, steps, products, prefetch, prefetch_bytes); break;
  }
  for (int q = 0; q < query_count; ++q) survivors[q] = Survivors(products + q * kPanelRows, bounds[q], *panel);
}

}  // namespace

const Int8Kernels kInt8KernelsVnni = {ScanAny, 1};

}  // namespace loci
