// The two compilations of the int8 kernels' *_cpu.cc. For dispatch_int8.cc, which picks one, and for nobody else.
#ifndef LOCI_ENCODER_KERNELS_INT8_VARIANTS_H_
#define LOCI_ENCODER_KERNELS_INT8_VARIANTS_H_

#include <cstdint>

#include "encoder/kernels/int8_types.h"

namespace loci {

#define LOCI_DECLARE_INT8_VARIANT(isa)                                                                                           \
  namespace isa {                                                                                                                \
  int64_t Int8PanelWidth();                                                                                                      \
  int64_t Int8GroupSize();                                                                                                       \
  int64_t Int8BytesOfValue();                                                                                                    \
  int64_t QuantizedRowBytes(int64_t depth);                                                                                      \
  void QuantizeRows(const QuantizedRows& output, const float* input, const ChannelMap& map, int64_t rows, int64_t depth);        \
  void GemmInt8(float* output, int64_t stride, const QuantizedRows& input, const QuantizedPanels& weight, const float* residual, \
                int64_t rows, bool gelu);                                                                                        \
  void LayerNormQuantize(float* values, const QuantizedRows& quantized, const ChannelMap& map, const float* gamma,               \
                         const float* beta, float epsilon, int64_t rows, int64_t dim);                                           \
  int64_t AttentionInt8ScratchBytes(int64_t max_length, int64_t head_dim);                                                       \
  void AttentionInt8(float* context, int64_t stride, const float* qkv, const int32_t* offsets, int64_t sequence_count,           \
                     int64_t head_dim, uint8_t* scratch);                                                                        \
  }

LOCI_DECLARE_INT8_VARIANT(avx2)
LOCI_DECLARE_INT8_VARIANT(avx512vnni)
#undef LOCI_DECLARE_INT8_VARIANT

}  // namespace loci

#endif  // LOCI_ENCODER_KERNELS_INT8_VARIANTS_H_
