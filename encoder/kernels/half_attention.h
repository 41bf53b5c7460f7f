// attention.h in 16-bit numbers, with the scale of the scores folded into the queries:
//
//   context[i, h] = sum over j of w_j v[j, h] / sum over j of w_j,   w_j = 2^(q[i, h] . k[j, h] - max over j of q[i, h] . k[j, h])
//
// which is softmax where q comes multiplied by log2(e) / sqrt(head_dim). Layouts are attention.h's. Weights are rounded to `type`
// before they meet the values; maximum, powers and the sum of weights are float32, scores and contexts are summed as in half_gemm.h.
#ifndef LOCI_ENCODER_KERNELS_HALF_ATTENTION_H_
#define LOCI_ENCODER_KERNELS_HALF_ATTENTION_H_

#include <cstdint>

#include "encoder/kernels/op_types.h"

namespace loci {

void HalfAttentionReference(HalfType type, float* context, const Half* qkv, const int32_t* offsets, int64_t sequence_count,
                            int64_t head_count, int64_t head_dim);

// Floats of scratch space, on a cache line, that HalfAttention needs for sequences of up to `max_length` tokens.
int64_t HalfAttentionScratchSize(HalfType type, int64_t max_length, int64_t head_dim);

// The bits of a sequence's rows depend on that sequence alone. The machine must have what `type` needs.
void HalfAttention(HalfType type, Half* context, const Half* qkv, const int32_t* offsets, int64_t sequence_count,
                   int64_t head_count, int64_t head_dim, float* scratch);

}  // namespace loci

#endif  // LOCI_ENCODER_KERNELS_HALF_ATTENTION_H_
