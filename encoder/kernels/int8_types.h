// Plain types in the signatures of the int8 kernels. No function here: the files compiled for a wider instruction set include this.
#ifndef LOCI_ENCODER_KERNELS_INT8_TYPES_H_
#define LOCI_ENCODER_KERNELS_INT8_TYPES_H_

#include <cstdint>

namespace loci {

// Which kernels run: those of AVX2 (products of 16-bit integers) or of AVX-512 with VNNI (vpdpbusd). Both give the same integers.
enum class Int8Isa { kAvx2, kAvx512Vnni };

// Rows of unsigned bytes: the value of column k of row r is scale[r] * q[r, k] + offset[r]. Borrowed.
struct QuantizedRows {
  uint8_t* data = nullptr;  // [rows][QuantizedRowBytes]; columns beyond the last hold anything.
  float* scale = nullptr;   // [rows]
  float* offset = nullptr;  // [rows]
};

// What of a row is quantised: factor[k] * x[k] + shift[k], rounded once. Both null: x itself. Borrowed.
struct ChannelMap {
  const float* factor = nullptr;  // [depth]
  const float* shift = nullptr;   // [depth]
};

// A weight of signed bytes in [-127, 127]: the value of input k of output c is scale[c] * q[c, k]. Borrowed.
// The vectors have room for whole panels, zero beyond `cols`.
struct QuantizedPanels {
  const int8_t* data = nullptr;  // As PackWeightInt8 laid it out.
  const float* scale = nullptr;  // [cols]
  const float* sum = nullptr;    // [cols]: of q[c, k] over k
  const float* bias = nullptr;   // [cols]
  int64_t cols = 0;
  int64_t depth = 0;
};

}  // namespace loci

#endif  // LOCI_ENCODER_KERNELS_INT8_TYPES_H_
