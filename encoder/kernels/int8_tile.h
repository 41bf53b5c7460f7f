// The register tile of the int8 kernels: sums[r, c] = sum over k of a[r, k] * b[k, c] for kRows rows of unsigned bytes and one panel of
// signed ones, in exact 32-bit integers. vpdpbusd does not saturate; depths to 2^31 / (255 * 127) = 66,000 can't overflow.
//
// `a` has rows of `a_stride` bytes; `groups` is the depth in steps of kInt8Group values. A panel is [groups][kInt8Panel][kInt8Group].
// Accumulators are named, since g++ 12 spills an array of them.
#ifndef LOCI_ENCODER_KERNELS_INT8_TILE_H_
#define LOCI_ENCODER_KERNELS_INT8_TILE_H_

#include "encoder/kernels/simd.h"

namespace loci::LOCI_SIMD {

using Int8TileFunction = void (*)(const uint8_t* a, int64_t a_stride, const int8_t* b, int64_t groups, int32_t* sums);

#if defined(__AVX512VNNI__)

constexpr int kInt8Rows = 12;
constexpr int kInt8Panel = 32;  // Columns: two vectors; 24 accumulators of 32 registers.
constexpr int kInt8Group = 4;   // Values of the depth in one step.
constexpr int kInt8ValueBytes = 1;
constexpr int kInt8PrefetchBytes = 4096;  // Ahead in the panels, which lie one after the other.

#define LOCI_INT8_EACH_ROW(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11)

// kWords: both sides are signed 16-bit integers, two in a step (vpdpwssd), with the same bytes at the same places.
template <int kRows, bool kWords>
__attribute__((noinline)) void Int8Tile(const uint8_t* a, int64_t a_stride, const int8_t* b, int64_t groups, int32_t* sums) {
#define LOCI_INT8_DECLARE(r) __m512i c##r##0 = _mm512_setzero_si512(), c##r##1 = _mm512_setzero_si512();
  LOCI_INT8_EACH_ROW(LOCI_INT8_DECLARE)
  // Rows beyond kRows are not read.
  const uint8_t* a0 = a;
  const uint8_t* a3 = a + 3 * a_stride;
  const uint8_t* a6 = a + 6 * a_stride;
  const uint8_t* a9 = a + 9 * a_stride;
  // Addresses are fixed displacements: additions would take turns on the multipliers' ports.
#define LOCI_INT8_STEP(r)                                                                                     \
  if constexpr (kRows > r) {                                                                                  \
    int32_t four;                                                                                             \
    __builtin_memcpy(&four, (r < 3 ? a0 : r < 6 ? a3 : r < 9 ? a6 : a9) + (r % 3) * a_stride + 4 * kStep, 4); \
    const __m512i x = _mm512_set1_epi32(four);                                                                \
    c##r##0 = kWords ? _mm512_dpwssd_epi32(c##r##0, x, b0) : _mm512_dpbusd_epi32(c##r##0, x, b0);             \
    c##r##1 = kWords ? _mm512_dpwssd_epi32(c##r##1, x, b1) : _mm512_dpbusd_epi32(c##r##1, x, b1);             \
  }
#define LOCI_INT8_STEPS(step)                                                                            \
  {                                                                                                      \
    constexpr int kStep = step;                                                                          \
    const __m512i b0 = _mm512_load_si512(b + 128 * kStep);                                               \
    const __m512i b1 = _mm512_load_si512(b + 128 * kStep + 64);                                          \
    _mm_prefetch(reinterpret_cast<const char*>(b + 128 * kStep + kInt8PrefetchBytes), _MM_HINT_T0);      \
    _mm_prefetch(reinterpret_cast<const char*>(b + 128 * kStep + 64 + kInt8PrefetchBytes), _MM_HINT_T0); \
    LOCI_INT8_EACH_ROW(LOCI_INT8_STEP)                                                                   \
  }
  int64_t k = 0;
  for (; k + 4 <= groups; k += 4) {
    LOCI_INT8_STEPS(0)
    LOCI_INT8_STEPS(1)
    LOCI_INT8_STEPS(2)
    LOCI_INT8_STEPS(3)
    b += 4 * 128;
    a0 += 4 * 4;
    a3 += 4 * 4;
    a6 += 4 * 4;
    a9 += 4 * 4;
  }
  for (; k < groups; ++k) {
    LOCI_INT8_STEPS(0)
    b += 128;
    a0 += 4;
    a3 += 4;
    a6 += 4;
    a9 += 4;
  }
#undef LOCI_INT8_STEPS
#define LOCI_INT8_STORE(r)                                   \
  if constexpr (kRows > r) {                                 \
    _mm512_store_si512(sums + r * kInt8Panel, c##r##0);      \
    _mm512_store_si512(sums + r * kInt8Panel + 16, c##r##1); \
  }
  LOCI_INT8_EACH_ROW(LOCI_INT8_STORE)
}

#else

constexpr int kInt8Rows = 6;
constexpr int kInt8Panel = 16;
constexpr int kInt8Group = 2;
constexpr int kInt8ValueBytes = 2;  // vpmaddubsw would saturate; as 16-bit integers the sums are exact.

#define LOCI_INT8_EACH_ROW(X) X(0) X(1) X(2) X(3) X(4) X(5)

template <int kRows>
__attribute__((noinline)) void Int8Tile(const uint8_t* a, int64_t a_stride, const int8_t* b, int64_t groups, int32_t* sums) {
#define LOCI_INT8_DECLARE(r) __m256i c##r##0 = _mm256_setzero_si256(), c##r##1 = _mm256_setzero_si256();
  LOCI_INT8_EACH_ROW(LOCI_INT8_DECLARE)
  const uint8_t* a0 = a;
  const uint8_t* a3 = a + 3 * a_stride;  // Not read where kRows <= 3.
  for (int64_t k = 0; k < groups; ++k) {
    const __m256i b0 = _mm256_load_si256(reinterpret_cast<const __m256i*>(b));
    const __m256i b1 = _mm256_load_si256(reinterpret_cast<const __m256i*>(b + 32));
    b += 64;
#define LOCI_INT8_STEP(r)                                              \
  if constexpr (kRows > r) {                                           \
    int32_t two;                                                       \
    __builtin_memcpy(&two, (r < 3 ? a0 : a3) + (r % 3) * a_stride, 4); \
    const __m256i x = _mm256_set1_epi32(two);                          \
    c##r##0 = _mm256_add_epi32(c##r##0, _mm256_madd_epi16(x, b0));     \
    c##r##1 = _mm256_add_epi32(c##r##1, _mm256_madd_epi16(x, b1));     \
  }
    LOCI_INT8_EACH_ROW(LOCI_INT8_STEP)
    a0 += 4;
    a3 += 4;
  }
#define LOCI_INT8_STORE(r)                                                              \
  if constexpr (kRows > r) {                                                            \
    _mm256_store_si256(reinterpret_cast<__m256i*>(sums + r * kInt8Panel), c##r##0);     \
    _mm256_store_si256(reinterpret_cast<__m256i*>(sums + r * kInt8Panel + 8), c##r##1); \
  }
  LOCI_INT8_EACH_ROW(LOCI_INT8_STORE)
}

#endif

#undef LOCI_INT8_DECLARE
#undef LOCI_INT8_STEP
#undef LOCI_INT8_STORE

#if defined(__AVX512VNNI__)
#define LOCI_INT8_TILES(words)                                                                                              \
  {                                                                                                                         \
    Int8Tile<1, words>, Int8Tile<2, words>, Int8Tile<3, words>, Int8Tile<4, words>, Int8Tile<5, words>, Int8Tile<6, words>, \
        Int8Tile<7, words>, Int8Tile<8, words>, Int8Tile<9, words>, Int8Tile<10, words>, Int8Tile<11, words>,               \
        Int8Tile<12, words>                                                                                                 \
  }
// rows in [1, kInt8Rows].
LOCI_INLINE Int8TileFunction GetInt8Tile(int64_t rows) {
  static constexpr Int8TileFunction kTiles[] = LOCI_INT8_TILES(false);
  return kTiles[rows - 1];
}
LOCI_INLINE Int8TileFunction GetInt16Tile(int64_t rows) {
  static constexpr Int8TileFunction kTiles[] = LOCI_INT8_TILES(true);
  return kTiles[rows - 1];
}
#undef LOCI_INT8_TILES
#else
// rows in [1, kInt8Rows].
LOCI_INLINE Int8TileFunction GetInt8Tile(int64_t rows) {
  static constexpr Int8TileFunction kTiles[] = {Int8Tile<1>, Int8Tile<2>, Int8Tile<3>, Int8Tile<4>, Int8Tile<5>, Int8Tile<6>};
  return kTiles[rows - 1];
}
#endif

LOCI_INLINE int64_t Int8Groups(int64_t depth) { return (depth + kInt8Group - 1) / kInt8Group; }
LOCI_INLINE int64_t Int8RowBytes(int64_t depth) { return RoundUp(depth * kInt8ValueBytes, 64); }
LOCI_INLINE int64_t Int8PanelBytes(int64_t depth) { return Int8Groups(depth) * kInt8Panel * kInt8Group * kInt8ValueBytes; }

// Sums to values: the vector of 32-bit integers at `sums` times scale_r plus offset_r times the columns' sums, times the columns' scale.
LOCI_INLINE Vec Dequantize(const int32_t* sums, Vec row_scale, Vec row_offset, Vec col_scale, Vec col_sum, Vec bias) {
#if defined(__AVX512F__)
  const Vec x = _mm512_cvtepi32_ps(_mm512_load_si512(sums));
#else
  const Vec x = _mm256_cvtepi32_ps(_mm256_load_si256(reinterpret_cast<const __m256i*>(sums)));
#endif
  return Fma(Fma(row_offset, col_sum, Mul(row_scale, x)), col_scale, bias);
}

// A row's range, its scale and what to multiply by. A row of one value has the scale 0, and so has one whose range is next to nothing.
struct RowRange {
  float scale;
  float offset;
  float inverse;
};
constexpr float kLeastRange = 1e-30f;

LOCI_INLINE RowRange RangeOf(float low, float high) {
  const float range = high - low;
  if (!(range > kLeastRange)) return {0.0f, low, 0.0f};
  return {range * (1.0f / 255.0f), low, 255.0f / range};
}

#if defined(__AVX512F__)
LOCI_INLINE float HighestLane(Vec v) { return _mm512_reduce_max_ps(v); }
LOCI_INLINE float LowestLane(Vec v) { return _mm512_reduce_min_ps(v); }
#else
LOCI_INLINE float HighestLane(Vec v) {
  __m128 x = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  x = _mm_max_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_max_ss(x, _mm_shuffle_ps(x, x, 1)));
}
LOCI_INLINE float LowestLane(Vec v) {
  __m128 x = _mm_min_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  x = _mm_min_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_min_ss(x, _mm_shuffle_ps(x, x, 1)));
}
#endif

// Stores round((x - offset) * inverse) of kLanes values as the tile's activations.
LOCI_INLINE void StoreQuantized(uint8_t* out, Vec x, Vec offset, Vec inverse) {
  const Vec y = Mul(Sub(x, offset), inverse);
#if defined(__AVX512F__)
  const __m512i q = _mm512_max_epi32(_mm512_cvtps_epi32(y), _mm512_setzero_si512());
  if constexpr (kInt8ValueBytes == 1) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm512_cvtusepi32_epi8(q));
  } else {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm512_cvtusepi32_epi16(q));
  }
#else
  const __m256i q = _mm256_max_epi32(_mm256_min_epi32(_mm256_cvtps_epi32(y), _mm256_set1_epi32(255)), _mm256_setzero_si256());
  const __m256i words = _mm256_permute4x64_epi64(_mm256_packus_epi32(q, q), 0x08);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm256_castsi256_si128(words));
#endif
}

}  // namespace loci::LOCI_SIMD

#endif  // LOCI_ENCODER_KERNELS_INT8_TILE_H_
