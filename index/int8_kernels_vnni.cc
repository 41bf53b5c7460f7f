// AVX-512 with VNNI. Compiled with its own flags: nothing from a header with inline functions that another file may share belongs here.
#include <immintrin.h>

#include "index/int8_kernels.h"
#include "index/kernel_rows_avx512.h"

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

constexpr float kMaxSquares = 1.01e30f;  // kMaxSquaredLength, passage_index.h.
constexpr float kMaxInverseScale = 0x1p100f;

// Not less than the root of a sum of squares, which was made with float32's roundings.
inline float RootNotBelow(float sum_of_squares, int dim) {
  return __builtin_sqrtf(sum_of_squares) * (1 + static_cast<float>(dim / 16 + 32) * 0x1p-23f);
}

// One row, its codes 16 at a time: 4 to each of four steps.
template <typename Rows>
inline void QuantizeRow(const char* row, int dim, int r, PanelHeader* panel, char* codes) {
  const int full = dim / 16, rest = dim % 16;
  const __mmask16 tail = static_cast<__mmask16>((1u << rest) - 1);
  __m512 largest = _mm512_setzero_ps(), squares = _mm512_setzero_ps();
  for (int c = 0; c < full; ++c) {
    const __m512 z = Rows::Load(row + c * 16 * Rows::kBytes);
    largest = _mm512_max_ps(largest, _mm512_abs_ps(z));
    squares = _mm512_fmadd_ps(z, z, squares);
  }
  if (rest != 0) {
    const __m512 z = Rows::LoadTail(row + full * 16 * Rows::kBytes, tail);
    largest = _mm512_max_ps(largest, _mm512_abs_ps(z));
    squares = _mm512_fmadd_ps(z, z, squares);
  }
  const bool known = _mm512_reduce_add_ps(squares) <= kMaxSquares;  // Nor a NaN.
  const float wanted_scale = 127.0f / _mm512_reduce_max_ps(largest);
  const float inverse_scale = !known ? 1.0f : wanted_scale < kMaxInverseScale ? wanted_scale : kMaxInverseScale;
  const __m512 scale = _mm512_set1_ps(inverse_scale);
  const __mmask16 keep = known ? 0xFFFF : 0;
  __m512 length = _mm512_setzero_ps(), error = _mm512_setzero_ps();
  for (int c = 0; c < full + (rest != 0); ++c) {
    const char* const p = row + c * 16 * Rows::kBytes;
    const __m512 z = _mm512_maskz_mov_ps(keep, c < full ? Rows::Load(p) : Rows::LoadTail(p, tail));
    const __m512i code = _mm512_cvtps_epi32(_mm512_mul_ps(z, scale));
    const __m512 rounded = _mm512_cvtepi32_ps(code);
    const __m512 taken = _mm512_fmsub_ps(z, scale, rounded);
    length = _mm512_fmadd_ps(rounded, rounded, length);
    error = _mm512_fmadd_ps(taken, taken, error);
    const __m128i bytes = _mm_xor_si128(_mm512_cvtepi32_epi8(code), _mm_set1_epi8(-128));
    char* const out = codes + c * 4 * kStepBytes + r * kPanelElements;
    const int steps = c < full ? 4 : (rest + 3) / 4;
    const int32_t quads[4] = {_mm_extract_epi32(bytes, 0), _mm_extract_epi32(bytes, 1), _mm_extract_epi32(bytes, 2), _mm_extract_epi32(bytes, 3)};
    for (int s = 0; s < steps; ++s) __builtin_memcpy(out + s * kStepBytes, &quads[s], sizeof(quads[s]));
  }
  panel->inverse_scale[r] = inverse_scale;
  panel->length[r] = RootNotBelow(_mm512_reduce_add_ps(length), dim);
  panel->error[r] = known ? RootNotBelow(_mm512_reduce_add_ps(error), dim) : __builtin_inff();
}

template <typename Rows>
void MakePanelOf(const char* rows, int64_t row_count, int dim, PanelHeader* panel) {
  char* const codes = reinterpret_cast<char*>(panel + 1);
  for (int64_t r = 0; r < row_count; ++r) QuantizeRow<Rows>(rows + r * dim * Rows::kBytes, dim, static_cast<int>(r), panel, codes);
  for (int64_t r = row_count; r < kPanelRows; ++r) {
    panel->inverse_scale[r] = 1;
    panel->length[r] = panel->error[r] = 0;
    for (int s = 0; s < PanelSteps(dim); ++s) __builtin_memset(codes + s * kStepBytes + r * kPanelElements, 128, kPanelElements);
  }
}

void MakePanel(const void* rows, ElementType type, int64_t row_count, int dim, PanelHeader* panel) {
  const char* const first = static_cast<const char*>(rows);
  switch (type) {
    case ElementType::kFloat16: MakePanelOf<Float16Rows>(first, row_count, dim, panel); break;
    case ElementType::kBfloat16: MakePanelOf<Bfloat16Rows>(first, row_count, dim, panel); break;
    default: MakePanelOf<Float32Rows>(first, row_count, dim, panel); break;
  }
}

}  // namespace

const Int8Kernels kInt8KernelsVnni = {ScanAny, MakePanel, 1};

}  // namespace loci
