// Plain types in the kernels' signatures. No function here: the files compiled for a wider instruction set include this.
#ifndef LOCI_ENCODER_KERNELS_OP_TYPES_H_
#define LOCI_ENCODER_KERNELS_OP_TYPES_H_

#include <cstdint>

namespace loci {

// A number of 16 bits: the upper half of a float32, or IEEE's half.
using Half = uint16_t;
enum class HalfType { kBfloat16, kFloat16 };

enum class Activation { kNone, kGelu };  // kGelu: x Phi(x), with the error function.

enum class Pooling { kMean, kCls, kMax };

// Tables are row-major, `dim` wide. Borrowed; constant while in use.
struct EmbeddingTables {
  const float* word = nullptr;      // [vocabulary, dim]
  const float* position = nullptr;  // [max_length, dim]
  const float* type = nullptr;      // [dim]: the row of segment 0
  const float* gamma = nullptr;     // [dim]
  const float* beta = nullptr;      // [dim]
  float epsilon = 0;
};

}  // namespace loci

#endif  // LOCI_ENCODER_KERNELS_OP_TYPES_H_
