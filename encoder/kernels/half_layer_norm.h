// The end of a sublayer in 16-bit numbers: hidden = LayerNorm(hidden + input), as layer_norm.h, and a rounded copy of it.
#ifndef LOCI_ENCODER_KERNELS_HALF_LAYER_NORM_H_
#define LOCI_ENCODER_KERNELS_HALF_LAYER_NORM_H_

#include <cstdint>

#include "encoder/kernels/op_types.h"

namespace loci {

// All matrices are [rows, dim]; none may overlap. The machine must have what `type` needs.
void HalfLayerNorm(HalfType type, float* hidden, Half* rounded, const float* input, const float* gamma, const float* beta,
                   float epsilon, int64_t rows, int64_t dim);

// `input` [count] rounded to nearest even. What is too large becomes infinite; bfloat16 has zeros for what is below its smallest normal
// number.
void RoundToHalf(HalfType type, Half* output, const float* input, int64_t count);

}  // namespace loci

#endif  // LOCI_ENCODER_KERNELS_HALF_LAYER_NORM_H_
