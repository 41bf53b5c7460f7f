// AVX-512 with VNNI. Compiled with its own flags: nothing from a header with inline functions that another file may share belongs here.
#include <immintrin.h>

#include "index/int8_kernels.h"
#include "index/kernel_rows_avx512.h"
#include "index/quantized_limits.h"

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

constexpr float kMaxSquares = static_cast<float>(kMaxQuantizedSquaredLength);

// The largest magnitude of a row's elements; not finite where one of them is not. As bits magnitudes are in the order of numbers, infinity and NaN last.
template <typename Rows>
inline float LargestOf(const char* row, int dim) {
  __m512i bits = _mm512_setzero_si512();
  if constexpr (Rows::kBytes == 2) {
    const __m512i magnitude = _mm512_set1_epi16(0x7FFF);
    int d = 0;
    for (; d + 32 <= dim; d += 32) bits = _mm512_max_epu16(bits, _mm512_and_si512(_mm512_loadu_si512(row + 2 * d), magnitude));
    if (d < dim) {
      const __mmask32 tail = (__mmask32{1} << (dim - d)) - 1;
      bits = _mm512_max_epu16(bits, _mm512_and_si512(_mm512_maskz_loadu_epi16(tail, row + 2 * d), magnitude));
    }
    char halves[32];
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(halves), _mm256_max_epu16(_mm512_castsi512_si256(bits), _mm512_extracti64x4_epi64(bits, 1)));
    bits = _mm512_castps_si512(Rows::Load(halves));
  } else {
    const __m512i magnitude = _mm512_set1_epi32(0x7FFFFFFF);
    int d = 0;
    for (; d + 16 <= dim; d += 16) bits = _mm512_max_epu32(bits, _mm512_and_si512(_mm512_loadu_si512(row + 4 * d), magnitude));
    if (d < dim) {
      const __mmask16 tail = static_cast<__mmask16>((1u << (dim - d)) - 1);
      bits = _mm512_max_epu32(bits, _mm512_and_si512(_mm512_maskz_loadu_epi32(tail, row + 4 * d), magnitude));
    }
  }
  const uint32_t largest_bits = _mm512_reduce_max_epu32(bits);
  float largest;
  __builtin_memcpy(&largest, &largest_bits, sizeof(largest));
  return largest;
}

// Whether a row is not longer than what is known of.
template <typename Rows>
__attribute__((noinline)) bool IsShort(const char* row, int dim) {
  __m512 squares = _mm512_setzero_ps();
  int d = 0;
  for (; d + 16 <= dim; d += 16) {
    const __m512 z = Rows::Load(row + d * Rows::kBytes);
    squares = _mm512_fmadd_ps(z, z, squares);
  }
  if (d < dim) {
    const __m512 z = Rows::LoadTail(row + d * Rows::kBytes, static_cast<__mmask16>((1u << (dim - d)) - 1));
    squares = _mm512_fmadd_ps(z, z, squares);
  }
  return _mm512_reduce_add_ps(squares) <= kMaxSquares;  // Nor a NaN.
}

// The sums of four accumulators.
inline __m128 Sums(__m512 a, __m512 b, __m512 c, __m512 d) {
  const __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
  const __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
  const __m512 quads = _mm512_add_ps(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xEE));
  const __m256 pairs = _mm256_add_ps(_mm512_castps512_ps256(quads), _mm512_extractf32x8_ps(quads, 1));
  return _mm_add_ps(_mm256_castps256_ps128(pairs), _mm256_extractf128_ps(pairs, 1));
}

// Not less than the roots of sums of squares, which were made with float32's roundings.
inline __m128 RootsNotBelow(__m128 sums_of_squares, int dim) {
  return _mm_mul_ps(_mm_sqrt_ps(sums_of_squares), _mm_set1_ps(1 + static_cast<float>(dim / 16 + 32) * 0x1p-23f));
}

constexpr int kRowsAtOnce = 4;

// Four rows, their codes 16 at a time: 4 to each of four steps, where the rows' lie side by side. As many bytes from `ahead` on are asked for meanwhile.
template <typename Rows>
inline void QuantizeFourRows(const char* const* row, int dim, int first, const char* ahead, PanelHeader* panel, char* codes) {
  const int full = dim / 16, rest = dim % 16;
  const __mmask16 tail = static_cast<__mmask16>((1u << rest) - 1);
  __m512 length[kRowsAtOnce], error[kRowsAtOnce], scale[kRowsAtOnce];
  alignas(16) float inverse_scales[kRowsAtOnce];
  __mmask16 keep[kRowsAtOnce];
  unsigned unknown = 0;
#pragma GCC unroll 4
  for (int r = 0; r < kRowsAtOnce; ++r) {
    const float largest = LargestOf<Rows>(row[r], dim);
    const bool known = largest * largest * static_cast<float>(dim) < 0.5f * kMaxSquares || IsShort<Rows>(row[r], dim);
    const float wanted_scale = 127.0f / largest;
    inverse_scales[r] = !known ? 1.0f : wanted_scale < kMaxInverseScale ? wanted_scale : kMaxInverseScale;
    keep[r] = known ? 0xFFFF : 0;
    unknown |= static_cast<unsigned>(!known) << r;
    length[r] = error[r] = _mm512_setzero_ps();
    scale[r] = _mm512_set1_ps(inverse_scales[r]);
  }
  const auto quantize = [&](int c, auto load) __attribute__((always_inline)) {
    constexpr int kBytesAtOnce = kRowsAtOnce * 16 * Rows::kBytes;
#pragma GCC unroll 4
    for (int b = 0; b < kBytesAtOnce; b += 64) _mm_prefetch(ahead + c * kBytesAtOnce + b, _MM_HINT_T0);
    __m512i code[kRowsAtOnce];
#pragma GCC unroll 4
    for (int r = 0; r < kRowsAtOnce; ++r) {
      const __m512 z = load(r, row[r] + c * 16 * Rows::kBytes);
      const __m512 scaled = _mm512_mul_ps(z, scale[r]);
      code[r] = _mm512_cvtps_epi32(scaled);
      const __m512 rounded = _mm512_cvtepi32_ps(code[r]);
      const __m512 taken = _mm512_fmsub_ps(z, scale[r], rounded);
      length[r] = _mm512_fmadd_ps(rounded, rounded, length[r]);
      error[r] = _mm512_fmadd_ps(taken, taken, error[r]);
    }
    // A quarter of a register is a step: the four elements of each row, one row after the other.
    const __m512i steps = _mm512_packs_epi16(_mm512_packs_epi32(code[0], code[1]), _mm512_packs_epi32(code[2], code[3]));
    return _mm512_xor_si512(steps, _mm512_set1_epi8(-128));
  };
  char* out = codes + first * kPanelElements;
  const auto store = [&](__m512i steps, int count) __attribute__((always_inline)) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm512_castsi512_si128(steps));
    if (count > 1) _mm_storeu_si128(reinterpret_cast<__m128i*>(out + kStepBytes), _mm512_extracti32x4_epi32(steps, 1));
    if (count > 2) _mm_storeu_si128(reinterpret_cast<__m128i*>(out + 2 * kStepBytes), _mm512_extracti32x4_epi32(steps, 2));
    if (count > 3) _mm_storeu_si128(reinterpret_cast<__m128i*>(out + 3 * kStepBytes), _mm512_extracti32x4_epi32(steps, 3));
  };
  if (unknown == 0) {
    for (int c = 0; c < full; ++c, out += 4 * kStepBytes) store(quantize(c, [](int, const char* p) { return Rows::Load(p); }), 4);
  } else {
    for (int c = 0; c < full; ++c, out += 4 * kStepBytes) {
      store(quantize(c, [&](int r, const char* p) { return _mm512_maskz_mov_ps(keep[r], Rows::Load(p)); }), 4);
    }
  }
  if (rest != 0) {
    store(quantize(full, [&](int r, const char* p) { return _mm512_maskz_mov_ps(keep[r], Rows::LoadTail(p, tail)); }), (rest + 3) / 4);
  }
  const __m128 errors = RootsNotBelow(Sums(error[0], error[1], error[2], error[3]), dim);
  _mm_storeu_ps(panel->inverse_scale + first, _mm_load_ps(inverse_scales));
  _mm_storeu_ps(panel->length + first, RootsNotBelow(Sums(length[0], length[1], length[2], length[3]), dim));
  _mm_storeu_ps(panel->error + first, _mm_mask_mov_ps(errors, static_cast<__mmask8>(unknown), _mm_set1_ps(__builtin_inff())));
}

template <typename Rows>
__attribute__((noinline)) void MakePanelOf(const char* rows, int64_t row_count, int dim, PanelHeader* panel) {
  char* const codes = reinterpret_cast<char*>(panel + 1);
  const int64_t row_bytes = static_cast<int64_t>(dim) * Rows::kBytes;
  for (int64_t first = 0; first < row_count; first += kRowsAtOnce) {
    const char* row[kRowsAtOnce];
    // The last row stands for those that are not there.
    for (int64_t r = 0; r < kRowsAtOnce; ++r) row[r] = rows + (first + r < row_count ? first + r : row_count - 1) * row_bytes;
    // What is asked for beyond the rows' end is not read.
    const char* const ahead = rows + (first + 3 * kRowsAtOnce) * row_bytes;
    QuantizeFourRows<Rows>(row, dim, static_cast<int>(first), ahead, panel, codes);
  }
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
