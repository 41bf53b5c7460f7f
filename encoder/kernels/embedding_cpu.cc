#include "encoder/kernels/cpu_variants.h"
#include "encoder/kernels/row_norm.h"

namespace loci::LOCI_SIMD {

void Embedding(float* output, const int32_t* token_ids, const int32_t* offsets, int64_t sequence_count,
               const EmbeddingTables& tables, int64_t dim) {
  for (int64_t s = 0; s < sequence_count; ++s) {
    for (int64_t t = offsets[s]; t < offsets[s + 1]; ++t) {
      float* out = output + t * dim;
      const float* word = tables.word + token_ids[t] * dim;
      const float* position = tables.position + (t - offsets[s]) * dim;
      for (int64_t i = 0; i < dim; i += kLanes) {
        const int count = static_cast<int>(dim - i < kLanes ? dim - i : kLanes);
        const Vec x = Add(LoadPartial(word + i, count), LoadPartial(tables.type + i, count));
        StorePartial(out + i, Add(x, LoadPartial(position + i, count)), count);
      }
      NormalizeRow(out, tables.gamma, tables.beta, tables.epsilon, dim);
    }
  }
}

}  // namespace loci::LOCI_SIMD
