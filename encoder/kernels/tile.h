// The register tile: c[r, j] (+)= sum over k of a[r, k] * b[k, j] for kRows <= 6 rows and kVectors * kLanes columns.
//
// Every element is summed by FMA in one accumulator in the order of k, whatever the tile's shape, and splitting the depth over
// several calls (`accumulate`) keeps the bits: a result does not depend on which rows share a tile. Accumulators are named, since
// g++ 12 spills an array of them.
#ifndef LOCI_ENCODER_KERNELS_TILE_H_
#define LOCI_ENCODER_KERNELS_TILE_H_

#include "encoder/kernels/simd.h"

namespace loci::LOCI_SIMD {

using TileFunction = void (*)(const float* a, int64_t a_stride, const float* b, int64_t b_stride, float* c, int64_t c_stride,
                              int64_t depth, bool accumulate);

#if defined(__clang__)
#define LOCI_UNROLL_4 _Pragma("unroll 4")
#else
#define LOCI_UNROLL_4 _Pragma("GCC unroll 4")
#endif
#define LOCI_TILE_EACH_ROW(X) X(0) X(1) X(2) X(3) X(4) X(5)

template <int kRows, int kVectors>
__attribute__((noinline)) void Tile(const float* a, int64_t a_stride, const float* b, int64_t b_stride, float* c,
                                    int64_t c_stride, int64_t depth, bool accumulate) {
#define LOCI_TILE_DECLARE(r) Vec c##r##0 = Zero(), c##r##1 = Zero(), c##r##2 = Zero(), c##r##3 = Zero();
  LOCI_TILE_EACH_ROW(LOCI_TILE_DECLARE)
  if (accumulate) {
#define LOCI_TILE_LOAD(r)                                         \
  if constexpr (kRows > r) {                                      \
    const float* row = c + r * c_stride;                          \
    c##r##0 = Load(row);                                          \
    if constexpr (kVectors > 1) c##r##1 = Load(row + kLanes);     \
    if constexpr (kVectors > 2) c##r##2 = Load(row + 2 * kLanes); \
    if constexpr (kVectors > 3) c##r##3 = Load(row + 3 * kLanes); \
  }
    LOCI_TILE_EACH_ROW(LOCI_TILE_LOAD)
  }
  const float* a0 = a;
  const float* a3 = a + 3 * a_stride;  // Not read where kRows <= 3.
  LOCI_UNROLL_4
  for (int64_t k = 0; k < depth; ++k) {
    const Vec b0 = Load(b);
    Vec b1 = b0, b2 = b0, b3 = b0;
    if constexpr (kVectors > 1) b1 = Load(b + kLanes);
    if constexpr (kVectors > 2) b2 = Load(b + 2 * kLanes);
    if constexpr (kVectors > 3) b3 = Load(b + 3 * kLanes);
    b += b_stride;
#define LOCI_TILE_STEP(r)                                                 \
  if constexpr (kRows > r) {                                              \
    const Vec x = Set(r < 3 ? a0[r * a_stride] : a3[(r - 3) * a_stride]); \
    c##r##0 = Fma(x, b0, c##r##0);                                        \
    if constexpr (kVectors > 1) c##r##1 = Fma(x, b1, c##r##1);            \
    if constexpr (kVectors > 2) c##r##2 = Fma(x, b2, c##r##2);            \
    if constexpr (kVectors > 3) c##r##3 = Fma(x, b3, c##r##3);            \
  }
    LOCI_TILE_EACH_ROW(LOCI_TILE_STEP)
    ++a0;
    ++a3;
  }
#define LOCI_TILE_STORE(r)                                        \
  if constexpr (kRows > r) {                                      \
    float* row = c + r * c_stride;                                \
    Store(row, c##r##0);                                          \
    if constexpr (kVectors > 1) Store(row + kLanes, c##r##1);     \
    if constexpr (kVectors > 2) Store(row + 2 * kLanes, c##r##2); \
    if constexpr (kVectors > 3) Store(row + 3 * kLanes, c##r##3); \
  }
  LOCI_TILE_EACH_ROW(LOCI_TILE_STORE)
#undef LOCI_TILE_DECLARE
#undef LOCI_TILE_LOAD
#undef LOCI_TILE_STEP
#undef LOCI_TILE_STORE
}

// rows in [1, kTileRows], vectors in [1, kTileVectors].
LOCI_INLINE TileFunction GetTile(int rows, int vectors) {
#define LOCI_TILE_ROW_OF_TABLE(v) \
  { Tile<1, v>, Tile<2, v>, Tile<3, v>, Tile<4, v>, Tile<5, v>, Tile<6, v> }
  static constexpr TileFunction kTiles[kTileVectors][kTileRows] = {
    LOCI_TILE_ROW_OF_TABLE(1),
    LOCI_TILE_ROW_OF_TABLE(2),
#if defined(__AVX512F__)
    LOCI_TILE_ROW_OF_TABLE(3),
    LOCI_TILE_ROW_OF_TABLE(4),
#endif
  };
#undef LOCI_TILE_ROW_OF_TABLE
  return kTiles[vectors - 1][rows - 1];
}

}  // namespace loci::LOCI_SIMD

#endif  // LOCI_ENCODER_KERNELS_TILE_H_
