// The register tile of 16-bit numbers: c[r, j] = sum over k of a[r, k] * b[k, j], in float32, for kRows <= kHalfTileRows rows (twice as
// many where kVectors <= 2) and kVectors * kLanes columns. `b` is [PairCount(depth)][b_stride][2]; where `depth` is odd, the second
// number of its last pairs must be finite.
//
// Every element is summed in one accumulator in the order of k, and joins the float32 sum where half_simd.h says, whatever the tile's
// shape: a result does not depend on which rows share a tile. For each kStepsOfPrefetch pairs of the depth, `ahead_lines` cache lines
// from `ahead` on are fetched into the L2 cache, which may lie anywhere. Accumulators are named, since g++ 12 spills an array of them.
#ifndef LOCI_ENCODER_KERNELS_HALF_TILE_H_
#define LOCI_ENCODER_KERNELS_HALF_TILE_H_

#include "encoder/kernels/half_simd.h"

namespace loci::LOCI_SIMD {

constexpr int kHalfTileRows = 6;
constexpr int kStepsOfPrefetch = 4;

#if defined(__clang__)
#define LOCI_HALF_UNROLL _Pragma("unroll 4")
#else
#define LOCI_HALF_UNROLL _Pragma("GCC unroll 4")
#endif
#define LOCI_HALF_EACH_ROW(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11)

template <int kRows, int kVectors>
__attribute__((noinline)) void HalfTile(const Half* a, int64_t a_stride, const Half* b, int64_t b_stride, float* c,
                                        int64_t c_stride, int64_t depth, const Half* ahead, int64_t ahead_lines) {
  static_assert(kRows * kVectors <= 24);
  const int64_t pairs = PairCount(depth);
  for (int64_t begin = 0; begin < pairs; begin += kChunkPairs) {
    const bool last = pairs - begin <= kChunkPairs;
    // Without the last number of an odd depth, which has no other beside it.
    const int64_t whole = last ? depth / 2 - begin : kChunkPairs;
#define LOCI_HALF_DECLARE(r) HalfSum c##r##0 = ZeroSum(), c##r##1 = ZeroSum(), c##r##2 = ZeroSum(), c##r##3 = ZeroSum();
    LOCI_HALF_EACH_ROW(LOCI_HALF_DECLARE)
    const Half* a0 = a + 2 * begin;
    const Half* a3 = a0 + 3 * a_stride;  // These are not read where there are fewer rows.
    const Half* a6 = a3 + 3 * a_stride;
    const Half* a9 = a6 + 3 * a_stride;
    const Half* row_b = b + 2 * begin * b_stride;
#define LOCI_HALF_STEP_ROW(r)                                                                                                   \
  if constexpr (kRows > r) {                                                                                                    \
    const __m512i x =                                                                                                           \
        LOCI_HALF_SET(r < 3 ? a0 + r * a_stride                                                                                 \
                            : (r < 6 ? a3 + (r - 3) * a_stride : (r < 9 ? a6 + (r - 6) * a_stride : a9 + (r - 9) * a_stride))); \
    c##r##0 = MultiplyAdd(x, b0, c##r##0);                                                                                      \
    if constexpr (kVectors > 1) c##r##1 = MultiplyAdd(x, b1, c##r##1);                                                          \
    if constexpr (kVectors > 2) c##r##2 = MultiplyAdd(x, b2, c##r##2);                                                          \
    if constexpr (kVectors > 3) c##r##3 = MultiplyAdd(x, b3, c##r##3);                                                          \
  }
#define LOCI_HALF_STEP()                                               \
  const __m512i b0 = LoadHalves(row_b);                                \
  __m512i b1 = b0, b2 = b0, b3 = b0;                                   \
  if constexpr (kVectors > 1) b1 = LoadHalves(row_b + kHalfLanes);     \
  if constexpr (kVectors > 2) b2 = LoadHalves(row_b + 2 * kHalfLanes); \
  if constexpr (kVectors > 3) b3 = LoadHalves(row_b + 3 * kHalfLanes); \
  LOCI_HALF_EACH_ROW(LOCI_HALF_STEP_ROW)
#define LOCI_HALF_SET SetPair
#define LOCI_HALF_NEXT() \
  row_b += 2 * b_stride; \
  a0 += 2;               \
  a3 += 2;               \
  a6 += 2;               \
  a9 += 2;
    int64_t k = 0;
    for (; k + kStepsOfPrefetch <= whole; k += kStepsOfPrefetch) {
      for (int64_t i = 0; i < ahead_lines; ++i, ahead += kHalfLanes)
        _mm_prefetch(reinterpret_cast<const char*>(ahead), _MM_HINT_T1);
      LOCI_HALF_UNROLL
      for (int j = 0; j < kStepsOfPrefetch; ++j) {
        LOCI_HALF_STEP()
        LOCI_HALF_NEXT()
      }
    }
    for (; k < whole; ++k) {
      LOCI_HALF_STEP()
      LOCI_HALF_NEXT()
    }
#undef LOCI_HALF_SET
#define LOCI_HALF_SET SetLast
    if (last && depth % 2 != 0) {
      LOCI_HALF_STEP()
    }
#undef LOCI_HALF_SET
#define LOCI_HALF_PUT(out, sum) Store(out, begin == 0 ? ToFloats(sum) : Add(Load(out), ToFloats(sum)));
#define LOCI_HALF_STORE(r)                                               \
  if constexpr (kRows > r) {                                             \
    float* row = c + r * c_stride;                                       \
    LOCI_HALF_PUT(row, c##r##0)                                          \
    if constexpr (kVectors > 1) LOCI_HALF_PUT(row + kLanes, c##r##1)     \
    if constexpr (kVectors > 2) LOCI_HALF_PUT(row + 2 * kLanes, c##r##2) \
    if constexpr (kVectors > 3) LOCI_HALF_PUT(row + 3 * kLanes, c##r##3) \
  }
    LOCI_HALF_EACH_ROW(LOCI_HALF_STORE)
#undef LOCI_HALF_DECLARE
#undef LOCI_HALF_STEP_ROW
#undef LOCI_HALF_STEP
#undef LOCI_HALF_NEXT
#undef LOCI_HALF_PUT
#undef LOCI_HALF_STORE
  }
}

using HalfTileFunction = void (*)(const Half* a, int64_t a_stride, const Half* b, int64_t b_stride, float* c, int64_t c_stride,
                                  int64_t depth, const Half* ahead, int64_t ahead_lines);

// vectors in [1, 4], rows in [1, kHalfTileRows], or up to twice as many where vectors <= 2.
LOCI_INLINE HalfTileFunction GetHalfTile(int64_t rows, int64_t vectors) {
#define LOCI_HALF_SIX(v) HalfTile<1, v>, HalfTile<2, v>, HalfTile<3, v>, HalfTile<4, v>, HalfTile<5, v>, HalfTile<6, v>
#define LOCI_HALF_TWELVE(v) \
  LOCI_HALF_SIX(v), HalfTile<7, v>, HalfTile<8, v>, HalfTile<9, v>, HalfTile<10, v>, HalfTile<11, v>, HalfTile<12, v>
  static constexpr HalfTileFunction kTiles[4][2 * kHalfTileRows] = {
      {LOCI_HALF_TWELVE(1)}, {LOCI_HALF_TWELVE(2)}, {LOCI_HALF_SIX(3)}, {LOCI_HALF_SIX(4)}};
#undef LOCI_HALF_SIX
#undef LOCI_HALF_TWELVE
  return kTiles[vectors - 1][rows - 1];
}

}  // namespace loci::LOCI_SIMD

#endif  // LOCI_ENCODER_KERNELS_HALF_TILE_H_
