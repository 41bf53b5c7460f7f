// The two compilations of each *_cpu.cc. For dispatch.cc, which picks one, and for nobody else.
#ifndef LOCI_ENCODER_KERNELS_CPU_VARIANTS_H_
#define LOCI_ENCODER_KERNELS_CPU_VARIANTS_H_

#include <cstdint>

#include "encoder/kernels/op_types.h"

namespace loci {

#define LOCI_DECLARE_VARIANT(isa)                                                                                                \
  namespace isa {                                                                                                                \
  int64_t PackedPanelWidth();                                                                                                    \
  void Gemm(float* output, const float* input, const float* packed, const float* bias, const float* residual, int64_t rows,      \
            int64_t cols, int64_t depth, Activation activation);                                                                 \
  int64_t AttentionScratchSize(int64_t max_length, int64_t head_dim);                                                            \
  void Attention(float* context, const float* qkv, const int32_t* offsets, int64_t sequence_count, int64_t head_count,           \
                 int64_t head_dim, float* scratch);                                                                              \
  void LayerNorm(float* output, const float* input, const float* residual, const float* gamma, const float* beta, float epsilon, \
                 int64_t rows, int64_t dim);                                                                                     \
  void Embedding(float* output, const int32_t* token_ids, const int32_t* offsets, int64_t sequence_count,                        \
                 const EmbeddingTables& tables, int64_t dim);                                                                    \
  void Pool(float* output, const float* input, const int32_t* offsets, int64_t sequence_count, int64_t dim, Pooling pooling,     \
            bool normalize);                                                                                                     \
  }

LOCI_DECLARE_VARIANT(avx2)
LOCI_DECLARE_VARIANT(avx512)
#undef LOCI_DECLARE_VARIANT

}  // namespace loci

#endif  // LOCI_ENCODER_KERNELS_CPU_VARIANTS_H_
