// BERT's input: output[t] = LayerNorm(word[token_ids[t]] + type[0] + position[t - start of t's sequence]).
#ifndef LOCI_ENCODER_KERNELS_EMBEDDING_H_
#define LOCI_ENCODER_KERNELS_EMBEDDING_H_

#include <cstdint>

#include "base/device.h"
#include "encoder/kernels/op_types.h"

namespace loci {

// `output` is [offsets[sequence_count], dim]; sequence s has the tokens offsets[s] .. offsets[s + 1] - 1. Ids and lengths must lie
// within the tables.
void EmbeddingReference(float* output, const int32_t* token_ids, const int32_t* offsets, int64_t sequence_count,
                        const EmbeddingTables& tables, int64_t dim);

// The machine must have `isa`.
void Embedding(CpuIsa isa, float* output, const int32_t* token_ids, const int32_t* offsets, int64_t sequence_count,
               const EmbeddingTables& tables, int64_t dim);

}  // namespace loci

#endif  // LOCI_ENCODER_KERNELS_EMBEDDING_H_
