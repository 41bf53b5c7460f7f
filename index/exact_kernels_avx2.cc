// AVX2, FMA and F16C: what every machine that Loci supports has. Two registers hold the 16 lanes.
#include <immintrin.h>

#include "index/exact_kernels.h"
#include "index/kernel_rows_avx2.h"
#include "index/tile_rows.h"

namespace loci {
namespace {

// Lanes (l, l + 8), then (l, l + 4), (l, l + 2), (l, l + 1).
inline float Reduce(__m256 low, __m256 high) {
  const __m256 eight = _mm256_add_ps(low, high);
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

template <typename Rows, int R, int Q, typename Source>
__attribute__((noinline)) void Tile(const float* queries, Source& source, int tiles_left, int64_t row_count, int dim, float* out,
                                    int64_t out_stride) {
  const int64_t padded_dim = PaddedDim(dim);
  const int full = dim / 16;
  if (full > 0 && row_count > 0) source.SpreadOver((row_count + R - 1) / R * PrefetchesOf(full) * tiles_left);
  const int tail_bytes = dim % 16 * Rows::kBytes;
  for (int64_t first = 0; first < row_count; first += R) {
    const int64_t last = row_count - 1;
    const char* p[R];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) p[r] = source.row(first + r < last ? first + r : last);

    __m256 low[Q][R], high[Q][R];
#pragma GCC unroll 8
    for (int q = 0; q < Q; ++q) {
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) low[q][r] = high[q][r] = _mm256_setzero_ps();
    }
    const float* chunk_queries = queries;
    for (int c = 0; c < full; ++c, chunk_queries += 16) {
      if (c % kChunksPerPrefetch == 0) source.PrefetchMore();
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const char* chunk = p[r] + c * 16 * Rows::kBytes;
        const __m256 z_low = Rows::Load(chunk);
        const __m256 z_high = Rows::Load(chunk + 8 * Rows::kBytes);
#pragma GCC unroll 8
        for (int q = 0; q < Q; ++q) {
          low[q][r] = _mm256_fmadd_ps(_mm256_loadu_ps(chunk_queries + q * padded_dim), z_low, low[q][r]);
          high[q][r] = _mm256_fmadd_ps(_mm256_loadu_ps(chunk_queries + q * padded_dim + 8), z_high, high[q][r]);
        }
      }
    }
    if (tail_bytes != 0) {
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        char padded[16 * Rows::kBytes] = {};
        __builtin_memcpy(padded, p[r] + full * 16 * Rows::kBytes, tail_bytes);
        const __m256 z_low = Rows::Load(padded);
        const __m256 z_high = Rows::Load(padded + 8 * Rows::kBytes);
#pragma GCC unroll 8
        for (int q = 0; q < Q; ++q) {
          low[q][r] = _mm256_fmadd_ps(_mm256_loadu_ps(chunk_queries + q * padded_dim), z_low, low[q][r]);
          high[q][r] = _mm256_fmadd_ps(_mm256_loadu_ps(chunk_queries + q * padded_dim + 8), z_high, high[q][r]);
        }
      }
    }
#pragma GCC unroll 8
    for (int q = 0; q < Q; ++q) {
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        if (first + r < row_count) out[q * out_stride + first + r] = Reduce(low[q][r], high[q][r]);
      }
    }
  }
}

// Three queries by two rows fill 12 of the 16 registers, four by one row 8.
template <typename Rows, typename Source>
void AnyTile(const float* queries, int query_count, Source source, int64_t row_count, int dim, float* out, int64_t out_stride) {
  for (int tiles_left = query_count <= 4 ? 1 : 2; tiles_left > 0; --tiles_left) {
    const int count = query_count / tiles_left;
    switch (count) {
      case 1: Tile<Rows, 4, 1>(queries, source, tiles_left, row_count, dim, out, out_stride); break;
      case 2: Tile<Rows, 2, 2>(queries, source, tiles_left, row_count, dim, out, out_stride); break;
      case 3: Tile<Rows, 2, 3>(queries, source, tiles_left, row_count, dim, out, out_stride); break;
      default: Tile<Rows, 1, 4>(queries, source, tiles_left, row_count, dim, out, out_stride); break;
    }
    queries += count * PaddedDim(dim);
    out += count * out_stride;
    query_count -= count;
  }
}

template <typename Rows>
void BlockTile(const float* queries, int query_count, const void* rows, int64_t row_count, int dim, float* out, int64_t out_stride,
               const char* prefetch, int64_t prefetch_bytes) {
  const BlockRows source(rows, static_cast<int64_t>(dim) * Rows::kBytes, prefetch, prefetch_bytes);
  AnyTile<Rows>(queries, query_count, source, row_count, dim, out, out_stride);
}

template <typename Rows>
void GatherTile(const float* queries, int query_count, const void* const* rows, int64_t row_count, int dim, float* out, int64_t out_stride,
                const void* const* prefetch, int64_t prefetch_count) {
  const GatheredRows source(rows, static_cast<int64_t>(dim) * Rows::kBytes, prefetch, prefetch_count);
  AnyTile<Rows>(queries, query_count, source, row_count, dim, out, out_stride);
}

uint64_t NotBelow(const float* scores, int count, float threshold) {
  const __m256 limit = _mm256_set1_ps(threshold);
  uint64_t bits = 0;
  int i = 0;
  for (; i + 8 <= count; i += 8) {
    const int keep = _mm256_movemask_ps(_mm256_cmp_ps(_mm256_loadu_ps(scores + i), limit, _CMP_NLT_UQ));
    bits |= static_cast<uint64_t>(static_cast<uint32_t>(keep)) << i;
  }
  for (; i < count; ++i) bits |= static_cast<uint64_t>(!(scores[i] < threshold)) << i;
  return bits;
}

}  // namespace

const ExactKernels kExactKernelsAvx2 = {BlockTile<Float32Rows>,  BlockTile<Float16Rows>,  BlockTile<Bfloat16Rows>,
                                          GatherTile<Float32Rows>, GatherTile<Float16Rows>, GatherTile<Bfloat16Rows>, NotBelow};

}  // namespace loci
