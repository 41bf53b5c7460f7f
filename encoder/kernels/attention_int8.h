// Scaled dot-product attention (attention.h) of one head, on bytes:
//
//   queries and keys are bytes, quantised per token; the weights e^(score - largest score of the query), in steps of 1/4095, and the values, in
//   1023 steps or fewer per channel of a sequence, are 16-bit integers. Weights are normalised by the sum of what they were rounded to.
//
// `qkv` is [tokens, 3 * head_dim]: q, k and v of this head; `context` has rows of head_dim floats, `stride` floats apart. On AVX2 it is
// float32 throughout.
#ifndef LOCI_ENCODER_KERNELS_ATTENTION_INT8_H_
#define LOCI_ENCODER_KERNELS_ATTENTION_INT8_H_

#include <cstdint>

#include "encoder/kernels/int8_types.h"

namespace loci {

// Bytes of scratch space, 64-byte aligned, for sequences of up to `max_length` tokens.
int64_t AttentionInt8ScratchBytes(Int8Isa isa, int64_t max_length, int64_t head_dim);

// The bits of a sequence's rows depend on that sequence alone. The machine must have `isa`.
void AttentionInt8(Int8Isa isa, float* context, int64_t stride, const float* qkv, const int32_t* offsets, int64_t sequence_count,
                   int64_t head_dim, uint8_t* scratch);

}  // namespace loci

#endif  // LOCI_ENCODER_KERNELS_ATTENTION_INT8_H_
