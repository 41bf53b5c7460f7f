// The two compilations of each half_*_cpu.cc. For half_dispatch.cc, which picks one, and for nobody else.
#ifndef LOCI_ENCODER_KERNELS_HALF_VARIANTS_H_
#define LOCI_ENCODER_KERNELS_HALF_VARIANTS_H_

#include <cstdint>

#include "encoder/kernels/op_types.h"

namespace loci {

#define LOCI_DECLARE_HALF_VARIANT(isa)                                                                                       \
  namespace isa {                                                                                                            \
  void RoundToHalf(Half* output, const float* input, int64_t count);                                                         \
  void HalfGemmToFloats(float* output, const Half* input, const Half* packed, const float* bias, int64_t rows, int64_t cols, \
                        int64_t depth, Activation activation);                                                               \
  void HalfGemmToHalves(Half* output, const Half* input, const Half* packed, const float* bias, int64_t rows, int64_t cols,  \
                        int64_t depth, Activation activation);                                                               \
  int64_t HalfAttentionScratchSize(int64_t max_length, int64_t head_dim);                                                    \
  void HalfAttention(Half* context, const Half* qkv, const int32_t* offsets, int64_t sequence_count, int64_t head_count,     \
                     int64_t head_dim, float* scratch);                                                                      \
  void HalfLayerNorm(float* hidden, Half* rounded, const float* input, const float* gamma, const float* beta, float epsilon, \
                     int64_t rows, int64_t dim);                                                                             \
  }

LOCI_DECLARE_HALF_VARIANT(avx512_bf16)
LOCI_DECLARE_HALF_VARIANT(avx512_fp16)
#undef LOCI_DECLARE_HALF_VARIANT

}  // namespace loci

#endif  // LOCI_ENCODER_KERNELS_HALF_VARIANTS_H_
