// AVX2, FMA and F16C: what every machine that Loci supports has. Two registers hold 16 lanes.
#include <immintrin.h>

#include "index/kernel_rows_avx2.h"
#include "index/softmax_kernels.h"

namespace loci {
namespace {

float Max(const float* scores, int64_t count) {
  __m256 best = _mm256_loadu_ps(scores);
  for (int64_t i = 8; i < count; i += 8) best = _mm256_max_ps(best, _mm256_loadu_ps(scores + i));
  float lanes[8];
  _mm256_storeu_ps(lanes, best);
  float max = lanes[0];
  for (int l = 1; l < 8; ++l) max = lanes[l] > max ? lanes[l] : max;
  return max;
}

// e^x for x <= 0.
inline __m256 Exp(__m256 x) {
  const __m256 keep = _mm256_cmp_ps(x, _mm256_set1_ps(kLeastExponent), _CMP_GE_OQ);
  x = _mm256_and_ps(keep, x);
  const __m256 n = _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(1.44269504f)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0.693359375f), x);
  r = _mm256_fnmadd_ps(n, _mm256_set1_ps(-2.12194440e-4f), r);
  __m256 p = _mm256_set1_ps(1.0f / 5040);
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f / 720));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f / 120));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f / 24));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f / 6));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(0.5f));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f));
  // Times 2^n, n >= -126: added to the exponent.
  const __m256i bits = _mm256_add_epi32(_mm256_castps_si256(p), _mm256_slli_epi32(_mm256_cvtps_epi32(n), 23));
  return _mm256_and_ps(keep, _mm256_castsi256_ps(bits));
}

double Weigh(float* scores, int64_t count, float max, float inverse_temperature) {
  const __m256 top = _mm256_set1_ps(max), scale = _mm256_set1_ps(inverse_temperature);
  __m256 sums[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
  for (int64_t i = 0; i < count; i += 16) {
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      float* const piece = scores + i + 8 * half;
      const __m256 weight = Exp(_mm256_mul_ps(_mm256_sub_ps(_mm256_loadu_ps(piece), top), scale));
      _mm256_storeu_ps(piece, weight);
      sums[half] = _mm256_add_ps(sums[half], weight);
    }
  }
  float lanes[16];
  _mm256_storeu_ps(lanes, sums[0]);
  _mm256_storeu_ps(lanes + 8, sums[1]);
  double total = 0;
  for (int l = 0; l < 16; ++l) total += static_cast<double>(lanes[l]);
  return total;
}

inline void AddTo(double* out, __m256 values) {
  _mm256_storeu_pd(out, _mm256_add_pd(_mm256_loadu_pd(out), _mm256_cvtps_pd(_mm256_castps256_ps128(values))));
  _mm256_storeu_pd(out + 4, _mm256_add_pd(_mm256_loadu_pd(out + 4), _mm256_cvtps_pd(_mm256_extractf128_ps(values, 1))));
}

// C chunks of 8 dimensions by Q queries.
template <typename Rows, int C, int Q>
inline void Strip(const float* weights, int64_t weight_stride, const void* const* rows, int64_t row_count, int64_t byte_offset,
                  double* sums, int64_t sum_stride) {
  __m256 acc[Q][C];
#pragma GCC unroll 8
  for (int q = 0; q < Q; ++q) {
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) acc[q][c] = _mm256_setzero_ps();
  }
  for (int64_t r = 0; r < row_count; ++r) {
    const char* row = static_cast<const char*>(rows[r]) + byte_offset;
    __m256 z[C];
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) z[c] = Rows::Load(row + c * 8 * Rows::kBytes);
#pragma GCC unroll 8
    for (int q = 0; q < Q; ++q) {
      const __m256 weight = _mm256_set1_ps(weights[q * weight_stride + r]);
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c) acc[q][c] = _mm256_fmadd_ps(weight, z[c], acc[q][c]);
    }
  }
#pragma GCC unroll 8
  for (int q = 0; q < Q; ++q) {
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) AddTo(sums + q * sum_stride + c * 8, acc[q][c]);
  }
}

// The last dimensions, fewer than 8, of one query.
template <typename Rows>
void LastStrip(const float* weights, const void* const* rows, int64_t row_count, int64_t byte_offset, int count, double* sums) {
  __m256 acc = _mm256_setzero_ps();
  for (int64_t r = 0; r < row_count; ++r) {
    char padded[8 * Rows::kBytes] = {};
    __builtin_memcpy(padded, static_cast<const char*>(rows[r]) + byte_offset, static_cast<unsigned>(count) * Rows::kBytes);
    acc = _mm256_fmadd_ps(_mm256_set1_ps(weights[r]), Rows::Load(padded), acc);
  }
  float lanes[8];
  _mm256_storeu_ps(lanes, acc);
  for (int l = 0; l < count; ++l) sums[l] += static_cast<double>(lanes[l]);
}

template <typename Rows, int Q>
__attribute__((noinline)) void AllStrips(const float* weights, int64_t weight_stride, const void* const* rows, int64_t row_count, int dim,
                                         double* sums, int64_t sum_stride) {
  int d = 0;
  for (; d + 32 <= dim; d += 32) {
    Strip<Rows, 4, Q>(weights, weight_stride, rows, row_count, d * Rows::kBytes, sums + d, sum_stride);
  }
  for (; d + 8 <= dim; d += 8) Strip<Rows, 1, Q>(weights, weight_stride, rows, row_count, d * Rows::kBytes, sums + d, sum_stride);
  if (d < dim) {
    for (int q = 0; q < Q; ++q) {
      LastStrip<Rows>(weights + q * weight_stride, rows, row_count, d * Rows::kBytes, dim - d, sums + q * sum_stride + d);
    }
  }
}

// Two queries by four chunks fill 13 of the 16 registers.
template <typename Rows>
void Accumulate(const float* weights, int query_count, int64_t weight_stride, const void* const* rows, int64_t row_count, int dim,
                double* sums, int64_t sum_stride) {
  for (; query_count >= 2; query_count -= 2) {
    AllStrips<Rows, 2>(weights, weight_stride, rows, row_count, dim, sums, sum_stride);
    weights += 2 * weight_stride;
    sums += 2 * sum_stride;
  }
  if (query_count == 1) AllStrips<Rows, 1>(weights, weight_stride, rows, row_count, dim, sums, sum_stride);
}

template <typename Rows>
float MaxSquaredLength(const void* const* rows, int64_t row_count, int dim) {
  float best = 0;
  for (int64_t r = 0; r < row_count; ++r) {
    const char* row = static_cast<const char*>(rows[r]);
    __m256 acc[4] = {_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps()};
    int d = 0;
    // Eight dimensions at a time into the register that AVX-512's pair of 16 lanes has for them.
    for (; d + 8 <= dim; d += 8) {
      const __m256 z = Rows::Load(row + d * Rows::kBytes);
      acc[d / 8 % 4] = _mm256_fmadd_ps(z, z, acc[d / 8 % 4]);
    }
    if (d < dim) {
      char padded[8 * Rows::kBytes] = {};
      __builtin_memcpy(padded, row + d * Rows::kBytes, static_cast<unsigned>(dim - d) * Rows::kBytes);
      const __m256 z = Rows::Load(padded);
      acc[d / 8 % 4] = _mm256_fmadd_ps(z, z, acc[d / 8 % 4]);
    }
    float lanes[16];
    _mm256_storeu_ps(lanes, _mm256_add_ps(acc[0], acc[2]));
    _mm256_storeu_ps(lanes + 8, _mm256_add_ps(acc[1], acc[3]));
    float sum = 0;
    for (int l = 0; l < 16; ++l) sum += lanes[l];
    best = sum > best ? sum : best;
  }
  return best;
}

}  // namespace

const SoftmaxKernels kSoftmaxKernelsAvx2 = {Max,
                                            Weigh,
                                            Accumulate<Float32Rows>,
                                            Accumulate<Float16Rows>,
                                            Accumulate<Bfloat16Rows>,
                                            MaxSquaredLength<Float32Rows>,
                                            MaxSquaredLength<Float16Rows>,
                                            MaxSquaredLength<Bfloat16Rows>};

}  // namespace loci
