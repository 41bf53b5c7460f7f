// Layer normalisation (Ba et al. 2016) of input + residual:
//
//   x = input[r] + residual[r];  output[r] = (x - mean(x)) / sqrt(var(x) + epsilon) * gamma + beta
//
// with the population variance. All matrices are [rows, dim]; `residual` may be null; `output` may be `input` or `residual`.
#ifndef LOCI_ENCODER_KERNELS_LAYER_NORM_H_
#define LOCI_ENCODER_KERNELS_LAYER_NORM_H_

#include <cstdint>

#include "base/device.h"

namespace loci {

void LayerNormReference(float* output, const float* input, const float* residual, const float* gamma, const float* beta,
                        float epsilon, int64_t rows, int64_t dim);

// The machine must have `isa`.
void LayerNorm(CpuIsa isa, float* output, const float* input, const float* residual, const float* gamma, const float* beta,
               float epsilon, int64_t rows, int64_t dim);

}  // namespace loci

#endif  // LOCI_ENCODER_KERNELS_LAYER_NORM_H_
