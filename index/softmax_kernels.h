// What a softmax scan does with a tile of scores, for one instruction set each: weights e^x, and sums of rows by weight.
// The order of every sum is fixed here; every implementation gives the same bits.
#ifndef LOCI_INDEX_SOFTMAX_KERNELS_H_
#define LOCI_INDEX_SOFTMAX_KERNELS_H_

#include <cstdint>

#include "base/vector_type.h"

namespace loci {

enum class CpuIsa;  // base/device.h, which is not included: it brings inline functions into files with flags of their own.

// Scores are handled in lanes of so many: the number that a function below is given is a multiple of it.
inline constexpr int64_t kSoftmaxLanes = 16;
// Rows that one call of SoftmaxKernels::accumulate takes at most: so many products are added in float32, what they come to in float64.
inline constexpr int64_t kSoftmaxGroupRows = 256;
// e^x is 0 below this (where float32 leaves its normal numbers).
inline constexpr float kLeastExponent = -87.33f;

// Functions of one instruction set. Immutable after construction.
struct SoftmaxKernels {
  // The largest of scores[0, count), none of them NaN. count > 0.
  float (*max)(const float* scores, int64_t count);

  // Replaces each score s by w = e^((s - max) * inverse_temperature) and returns the sum of all w. `max` is finite and not below any score,
  // count is at most kSoftmaxGroupRows; -infinity gives exactly 0, `max` exactly 1. The relative error of w is below 2e-7 (1 + |exponent|):
  // the exponent is rounded to float32, then n = round(x log2 e), r = x - n ln 2 in two fused steps, a polynomial of degree 7 in r, times
  // 2^n. Lane l sums w[l], w[16 + l], ... in float32; the lanes are added in order, in float64.
  double (*weigh)(float* scores, int64_t count, float max, float inverse_temperature);

  // sums[q * sum_stride + d] += sum over r of weights[q * weight_stride + r] * rows[r][d], for q < query_count and d < dim: products are
  // added in float32 by fused steps in the order of r, from 0 on, for row_count <= kSoftmaxGroupRows rows; the result is added in float64.
  using Accumulate = void (*)(const float* weights, int query_count, int64_t weight_stride, const void* const* rows, int64_t row_count,
                              int dim, double* sums, int64_t sum_stride);
  Accumulate accumulate_float32;
  Accumulate accumulate_float16;
  Accumulate accumulate_bfloat16;

  // The largest squared length of the rows, in float32, within a relative error of 1e-6 + dim * 1e-7. row_count > 0.
  using MaxSquaredLength = float (*)(const void* const* rows, int64_t row_count, int dim);
  MaxSquaredLength squared_float32;
  MaxSquaredLength squared_float16;
  MaxSquaredLength squared_bfloat16;

  Accumulate accumulate(ElementType type) const {
    return type == ElementType::kFloat16 ? accumulate_float16 : type == ElementType::kBfloat16 ? accumulate_bfloat16 : accumulate_float32;
  }
  MaxSquaredLength max_squared_length(ElementType type) const {
    return type == ElementType::kFloat16 ? squared_float16 : type == ElementType::kBfloat16 ? squared_bfloat16 : squared_float32;
  }
};

extern const SoftmaxKernels kSoftmaxKernelsAvx2;
extern const SoftmaxKernels kSoftmaxKernelsAvx512;

const SoftmaxKernels& GetSoftmaxKernels(CpuIsa isa);

}  // namespace loci

#endif  // LOCI_INDEX_SOFTMAX_KERNELS_H_
