// Scaled dot-product attention of whole sequences, without padding or mask:
//
//   context[i, h] = sum over j of softmax_j(q[i, h] . k[j, h] / sqrt(head_dim)) v[j, h]     (Vaswani et al. 2017)
//
// for tokens i, j of one sequence. `qkv` is [tokens, 3 * head_count * head_dim], each row q, then k, then v, heads side by side;
// `context` is [tokens, head_count * head_dim]. Sequence s has the tokens offsets[s] .. offsets[s + 1] - 1.
#ifndef LOCI_ENCODER_KERNELS_ATTENTION_H_
#define LOCI_ENCODER_KERNELS_ATTENTION_H_

#include <cstdint>

#include "base/device.h"

namespace loci {

void AttentionReference(float* context, const float* qkv, const int32_t* offsets, int64_t sequence_count, int64_t head_count,
                        int64_t head_dim);

// Floats of scratch space that Attention needs for sequences of up to `max_length` tokens.
int64_t AttentionScratchSize(CpuIsa isa, int64_t max_length, int64_t head_dim);

// The bits of a sequence's rows depend on that sequence alone. The machine must have `isa`.
void Attention(CpuIsa isa, float* context, const float* qkv, const int32_t* offsets, int64_t sequence_count, int64_t head_count,
               int64_t head_dim, float* scratch);

}  // namespace loci

#endif  // LOCI_ENCODER_KERNELS_ATTENTION_H_
