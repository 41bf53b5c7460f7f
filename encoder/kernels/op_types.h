// Plain types in the kernels' signatures. No function here: the files compiled for a wider instruction set include this.
#ifndef LOCI_ENCODER_KERNELS_OP_TYPES_H_
#define LOCI_ENCODER_KERNELS_OP_TYPES_H_

namespace loci {

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
