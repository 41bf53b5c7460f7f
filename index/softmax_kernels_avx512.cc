// AVX-512 (F, BW, VL, DQ). Compiled with its own flags: nothing from a header with inline functions that another file may share
// belongs here.
#include <immintrin.h>

#include "index/kernel_rows_avx512.h"
#include "index/softmax_kernels.h"

namespace loci {
namespace {

float Max(const float* scores, int64_t count) {
  __m512 best = _mm512_loadu_ps(scores);
  for (int64_t i = 16; i < count; i += 16) best = _mm512_max_ps(best, _mm512_loadu_ps(scores + i));
  return _mm512_reduce_max_ps(best);
}

// e^x for x <= 0.
inline __m512 Exp(__m512 x) {
  const __mmask16 keep = _mm512_cmp_ps_mask(x, _mm512_set1_ps(kLeastExponent), _CMP_GE_OQ);
  x = _mm512_maskz_mov_ps(keep, x);
  const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
  r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
  __m512 p = _mm512_set1_ps(1.0f / 5040);
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 720));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 120));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 24));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 6));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.5f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
  // Times 2^n, n >= -126: added to the exponent.
  const __m512i bits = _mm512_add_epi32(_mm512_castps_si512(p), _mm512_slli_epi32(_mm512_cvtps_epi32(n), 23));
  return _mm512_maskz_mov_ps(keep, _mm512_castsi512_ps(bits));
}

double Weigh(float* scores, int64_t count, float max, float inverse_temperature) {
  const __m512 top = _mm512_set1_ps(max), scale = _mm512_set1_ps(inverse_temperature);
  __m512 sum = _mm512_setzero_ps();
  for (int64_t i = 0; i < count; i += 16) {
    const __m512 weight = Exp(_mm512_mul_ps(_mm512_sub_ps(_mm512_loadu_ps(scores + i), top), scale));
    _mm512_storeu_ps(scores + i, weight);
    sum = _mm512_add_ps(sum, weight);
  }
  float lanes[16];
  _mm512_storeu_ps(lanes, sum);
  double total = 0;
  for (int l = 0; l < 16; ++l) total += static_cast<double>(lanes[l]);
  return total;
}

// C chunks of 16 dimensions by Q queries; with `kTail` the last chunk is begun only.
template <typename Rows, int C, int Q, bool kTail>
inline void Strip(const float* weights, int64_t weight_stride, const void* const* rows, int64_t row_count, int64_t byte_offset,
                  __mmask16 mask, double* sums, int64_t sum_stride) {
  __m512 acc[Q][C];
#pragma GCC unroll 8
  for (int q = 0; q < Q; ++q) {
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) acc[q][c] = _mm512_setzero_ps();
  }
  for (int64_t r = 0; r < row_count; ++r) {
    const char* row = static_cast<const char*>(rows[r]) + byte_offset;
    __m512 z[C];
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) {
      z[c] = kTail && c == C - 1 ? Rows::LoadTail(row + c * 16 * Rows::kBytes, mask) : Rows::Load(row + c * 16 * Rows::kBytes);
    }
#pragma GCC unroll 8
    for (int q = 0; q < Q; ++q) {
      const __m512 weight = _mm512_set1_ps(weights[q * weight_stride + r]);
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c) acc[q][c] = _mm512_fmadd_ps(weight, z[c], acc[q][c]);
    }
  }
#pragma GCC unroll 8
  for (int q = 0; q < Q; ++q) {
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) {
      double* out = sums + q * sum_stride + c * 16;
      const __m512d low = _mm512_cvtps_pd(_mm512_castps512_ps256(acc[q][c]));
      const __m512d high = _mm512_cvtps_pd(_mm512_extractf32x8_ps(acc[q][c], 1));
      if (kTail && c == C - 1) {
        const __mmask8 low_mask = static_cast<__mmask8>(mask), high_mask = static_cast<__mmask8>(mask >> 8);
        _mm512_mask_storeu_pd(out, low_mask, _mm512_add_pd(_mm512_maskz_loadu_pd(low_mask, out), low));
        _mm512_mask_storeu_pd(out + 8, high_mask, _mm512_add_pd(_mm512_maskz_loadu_pd(high_mask, out + 8), high));
      } else {
        _mm512_storeu_pd(out, _mm512_add_pd(_mm512_loadu_pd(out), low));
        _mm512_storeu_pd(out + 8, _mm512_add_pd(_mm512_loadu_pd(out + 8), high));
      }
    }
  }
}

template <typename Rows, int Q>
__attribute__((noinline)) void AllStrips(const float* weights, int64_t weight_stride, const void* const* rows, int64_t row_count, int dim,
                                         double* sums, int64_t sum_stride) {
  int d = 0;
  for (; d + 64 <= dim; d += 64) {
    Strip<Rows, 4, Q, false>(weights, weight_stride, rows, row_count, d * Rows::kBytes, 0, sums + d, sum_stride);
  }
  for (; d + 16 <= dim; d += 16) {
    Strip<Rows, 1, Q, false>(weights, weight_stride, rows, row_count, d * Rows::kBytes, 0, sums + d, sum_stride);
  }
  if (d < dim) {
    const __mmask16 mask = static_cast<__mmask16>((1u << (dim - d)) - 1);
    Strip<Rows, 1, Q, true>(weights, weight_stride, rows, row_count, d * Rows::kBytes, mask, sums + d, sum_stride);
  }
}

template <typename Rows>
void Accumulate(const float* weights, int query_count, int64_t weight_stride, const void* const* rows, int64_t row_count, int dim,
                double* sums, int64_t sum_stride) {
  while (query_count > 0) {
    const int count = query_count < 6 ? query_count : 6;
    switch (count) {
      case 1: AllStrips<Rows, 1>(weights, weight_stride, rows, row_count, dim, sums, sum_stride); break;
      case 2: AllStrips<Rows, 2>(weights, weight_stride, rows, row_count, dim, sums, sum_stride); break;
      case 3: AllStrips<Rows, 3>(weights, weight_stride, rows, row_count, dim, sums, sum_stride); break;
      case 4: AllStrips<Rows, 4>(weights, weight_stride, rows, row_count, dim, sums, sum_stride); break;
      case 5: AllStrips<Rows, 5>(weights, weight_stride, rows, row_count, dim, sums, sum_stride); break;
      default: AllStrips<Rows, 6>(weights, weight_stride, rows, row_count, dim, sums, sum_stride); break;
    }
    weights += count * weight_stride;
    sums += count * sum_stride;
    query_count -= count;
  }
}

template <typename Rows>
float MaxSquaredLength(const void* const* rows, int64_t row_count, int dim) {
  float best = 0;
  for (int64_t r = 0; r < row_count; ++r) {
    const char* row = static_cast<const char*>(rows[r]);
    __m512 even = _mm512_setzero_ps(), odd = _mm512_setzero_ps();
    int d = 0;
    for (; d + 32 <= dim; d += 32) {
      const __m512 a = Rows::Load(row + d * Rows::kBytes), b = Rows::Load(row + (d + 16) * Rows::kBytes);
      even = _mm512_fmadd_ps(a, a, even);
      odd = _mm512_fmadd_ps(b, b, odd);
    }
    if (d + 16 <= dim) {
      const __m512 a = Rows::Load(row + d * Rows::kBytes);
      even = _mm512_fmadd_ps(a, a, even);
      d += 16;
    }
    if (d < dim) {
      const __m512 b = Rows::LoadTail(row + d * Rows::kBytes, static_cast<__mmask16>((1u << (dim - d)) - 1));
      if (d % 32 == 0) {
        even = _mm512_fmadd_ps(b, b, even);
      } else {
        odd = _mm512_fmadd_ps(b, b, odd);
      }
    }
    float lanes[16];
    _mm512_storeu_ps(lanes, _mm512_add_ps(even, odd));
    float sum = 0;
    for (int l = 0; l < 16; ++l) sum += lanes[l];
    best = sum > best ? sum : best;
  }
  return best;
}

}  // namespace

const SoftmaxKernels kSoftmaxKernelsAvx512 = {Max,
                                              Weigh,
                                              Accumulate<Float32Rows>,
                                              Accumulate<Float16Rows>,
                                              Accumulate<Bfloat16Rows>,
                                              MaxSquaredLength<Float32Rows>,
                                              MaxSquaredLength<Float16Rows>,
                                              MaxSquaredLength<Bfloat16Rows>};

}  // namespace loci
