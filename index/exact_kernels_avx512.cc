// AVX-512 (F, BW, VL, DQ). Compiled with its own flags: nothing from a header with inline functions that another file may share
// belongs here.
#include <immintrin.h>

#include "index/exact_kernels.h"
#include "index/kernel_rows_avx512.h"
#include "index/tile_rows.h"

namespace loci {
namespace {

// The sums of four accumulators: lanes (l, l + 8), then (l, l + 4), (l, l + 2), (l, l + 1).
inline __m128 Reduce4(__m512 a, __m512 b, __m512 c, __m512 d) {
  const __m512 ab = _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xEE));
  const __m512 cd = _mm512_add_ps(_mm512_shuffle_f32x4(c, d, 0x44), _mm512_shuffle_f32x4(c, d, 0xEE));
  const __m512 quads = _mm512_add_ps(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xDD));
  const __m512 pairs = _mm512_add_ps(quads, _mm512_permute_ps(quads, 0x4E));
  const __m512 sums = _mm512_add_ps(pairs, _mm512_permute_ps(pairs, 0xB1));
  const __m512i first_of_quad = _mm512_set_epi32(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 12, 8, 4, 0);
  return _mm512_castps512_ps128(_mm512_permutexvar_ps(first_of_quad, sums));
}

// R (a multiple of 4) rows by Q queries.
template <typename Rows, int R, int Q, typename Source>
inline void TileStep(const float* queries, int64_t padded_dim, const char* const* row, int dim, Source& source, float (*out)[R]) {
  __m512 acc[Q][R];
#pragma GCC unroll 8
  for (int q = 0; q < Q; ++q) {
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) acc[q][r] = _mm512_setzero_ps();
  }
  const char* p[R];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) p[r] = row[r];
  const int full = dim / 16;
  for (int c = 0; c < full; ++c) {
    if (c % kChunksPerPrefetch == 0) source.PrefetchMore();
    __m512 z[R];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) z[r] = Rows::Load(p[r] + c * 16 * Rows::kBytes);
#pragma GCC unroll 8
    for (int q = 0; q < Q; ++q) {
      const __m512 query = _mm512_loadu_ps(queries + q * padded_dim + c * 16);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) acc[q][r] = _mm512_fmadd_ps(query, z[r], acc[q][r]);
    }
  }
  if (dim % 16 != 0) {
    const __mmask16 mask = static_cast<__mmask16>((1u << (dim % 16)) - 1);
    __m512 z[R];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) z[r] = Rows::LoadTail(p[r] + full * 16 * Rows::kBytes, mask);
#pragma GCC unroll 8
    for (int q = 0; q < Q; ++q) {
      const __m512 query = _mm512_loadu_ps(queries + q * padded_dim + full * 16);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) acc[q][r] = _mm512_fmadd_ps(query, z[r], acc[q][r]);
    }
  }
#pragma GCC unroll 8
  for (int q = 0; q < Q; ++q) {
#pragma GCC unroll 8
    for (int r = 0; r < R; r += 4) {
      _mm_storeu_ps(&out[q][r], Reduce4(acc[q][r], acc[q][r + 1], acc[q][r + 2], acc[q][r + 3]));
    }
  }
}

template <typename Rows, int R, int Q, typename Source>
__attribute__((noinline)) void Tile(const float* queries, Source source, int64_t row_count, int dim, float* out, int64_t out_stride) {
  const int64_t padded_dim = PaddedDim(dim);
  if (dim >= 16 && row_count > 0) source.SpreadOver((row_count + R - 1) / R * PrefetchesOf(dim / 16));
  for (int64_t first = 0; first < row_count; first += R) {
    const int64_t last = row_count - 1;
    const char* row[R];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) row[r] = source.row(first + r < last ? first + r : last);
    float sums[Q][R];
    TileStep<Rows, R, Q>(queries, padded_dim, row, dim, source, sums);
    if (first + R <= row_count) {
#pragma GCC unroll 8
      for (int q = 0; q < Q; ++q) {
#pragma GCC unroll 8
        for (int r = 0; r < R; r += 4) _mm_storeu_ps(out + q * out_stride + first + r, _mm_loadu_ps(&sums[q][r]));
      }
    } else {
      for (int q = 0; q < Q; ++q) {
        for (int64_t r = 0; first + r < row_count; ++r) out[q * out_stride + first + r] = sums[q][r];
      }
    }
  }
}

template <typename Rows, typename Source>
void AnyTile(const float* queries, int query_count, const Source& source, int64_t row_count, int dim, float* out, int64_t out_stride) {
  switch (query_count) {
    case 1: Tile<Rows, 4, 1>(queries, source, row_count, dim, out, out_stride); break;
    case 2: Tile<Rows, 4, 2>(queries, source, row_count, dim, out, out_stride); break;
    case 3: Tile<Rows, 4, 3>(queries, source, row_count, dim, out, out_stride); break;
    case 4: Tile<Rows, 4, 4>(queries, source, row_count, dim, out, out_stride); break;
    case 5: Tile<Rows, 4, 5>(queries, source, row_count, dim, out, out_stride); break;
    default: Tile<Rows, 4, 6>(queries, source, row_count, dim, out, out_stride); break;
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
  const __m512 limit = _mm512_set1_ps(threshold);
  uint64_t bits = 0;
  for (int i = 0; i < count; i += 16) {
    const __mmask16 valid = count - i >= 16 ? 0xFFFF : static_cast<__mmask16>((1u << (count - i)) - 1);
    const __mmask16 keep = _mm512_mask_cmp_ps_mask(valid, _mm512_maskz_loadu_ps(valid, scores + i), limit, _CMP_NLT_UQ);
    bits |= static_cast<uint64_t>(keep) << i;
  }
  return bits;
}

}  // namespace

const ExactKernels kExactKernelsAvx512 = {BlockTile<Float32Rows>,  BlockTile<Float16Rows>,  BlockTile<Bfloat16Rows>,
                                            GatherTile<Float32Rows>, GatherTile<Float16Rows>, GatherTile<Bfloat16Rows>, NotBelow};

}  // namespace loci
