#include "encoder/kernels/embedding.h"
#include "encoder/kernels/layer_norm.h"

namespace loci {

void EmbeddingReference(float* output, const int32_t* token_ids, const int32_t* offsets, int64_t sequence_count,
                        const EmbeddingTables& tables, int64_t dim) {
  for (int64_t s = 0; s < sequence_count; ++s) {
    for (int64_t t = offsets[s]; t < offsets[s + 1]; ++t) {
      for (int64_t i = 0; i < dim; ++i) {
        output[t * dim + i] = tables.word[token_ids[t] * dim + i] + tables.type[i] + tables.position[(t - offsets[s]) * dim + i];
      }
    }
  }
  LayerNormReference(output, output, nullptr, tables.gamma, tables.beta, tables.epsilon, offsets[sequence_count], dim);
}

}  // namespace loci
