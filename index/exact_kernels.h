// Inner products of a few queries with many rows, and the comparison with a threshold, for one instruction set each.
// The order of summation is exact_index.h's; every implementation gives the same bits.
#ifndef LOCI_INDEX_EXACT_KERNELS_H_
#define LOCI_INDEX_EXACT_KERNELS_H_

#include <cstdint>

#include "base/vector_type.h"

namespace loci {

enum class CpuIsa;  // base/device.h, which is not included: it brings inline functions into files with flags of their own.

// Queries that one call of ExactKernels::tile takes at most.
inline constexpr int kTileQueries = 6;

// Elements of a padded query: a multiple of 16.
constexpr int64_t PaddedDim(int64_t dim) { return (dim + 15) / 16 * 16; }

// Functions of one instruction set. Immutable after construction.
struct ExactKernels {
  // out[q * out_stride + r] = score of query q and row r, for q < query_count (1 to kTileQueries) and r < row_count.
  // `queries` [query_count, PaddedDim(dim)], zero beyond dim; `rows` [row_count, dim] of the type; neither needs alignment.
  // `prefetch` (null, or the row_count rows that will be scored after these, of which `prefetch_bytes` exist) is a hint.
  using Tile = void (*)(const float* queries, int query_count, const void* rows, int64_t row_count, int dim, float* out,
                        int64_t out_stride, const char* prefetch, int64_t prefetch_bytes);
  // The same for rows anywhere: rows[r] is row r, [dim] of the type. Bit for bit the scores of `Tile`. `prefetch` (null, or prefetch_count rows)
  // are rows that will be scored soon, a hint.
  using GatherTile = void (*)(const float* queries, int query_count, const void* const* rows, int64_t row_count, int dim, float* out,
                              int64_t out_stride, const void* const* prefetch, int64_t prefetch_count);
  Tile tile_float32;
  Tile tile_float16;
  Tile tile_bfloat16;
  GatherTile gather_float32;
  GatherTile gather_float16;
  GatherTile gather_bfloat16;

  // Bit i is set where scores[i] is not below `threshold` (a NaN counts as not below), for i < count <= 64.
  uint64_t (*not_below)(const float* scores, int count, float threshold);

  Tile tile(ElementType type) const {
    return type == ElementType::kFloat16 ? tile_float16 : type == ElementType::kBfloat16 ? tile_bfloat16 : tile_float32;
  }
  GatherTile gather(ElementType type) const {
    return type == ElementType::kFloat16 ? gather_float16 : type == ElementType::kBfloat16 ? gather_bfloat16 : gather_float32;
  }
};

extern const ExactKernels kExactKernelsAvx2;
extern const ExactKernels kExactKernelsAvx512;

const ExactKernels& GetExactKernels(CpuIsa isa);

}  // namespace loci

#endif  // LOCI_INDEX_EXACT_KERNELS_H_
