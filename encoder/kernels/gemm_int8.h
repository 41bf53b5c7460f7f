// Dense layer on bytes: activations quantised per row while running, weights per output channel once.
//
//   output[r, c] = activation(scale[c] * (row_scale[r] * sum over k of x[r, k] * w[c, k] + row_offset[r] * sum over k of w[c, k])
//                             + bias[c]) + residual[r, c]
//
//   Int8Weight weight = PackWeightInt8(isa, floats, bias, cols, depth);                        // once, at load
//   QuantizeRows(isa, rows_of_bytes, input, {}, rows, depth);
//   GemmInt8(isa, output, cols, rows_of_bytes, weight.panels(), nullptr, rows, Activation::kGelu);
//
// The sums are exact integers, so that an output's bits do not depend on the other rows, and differ between instruction sets only by how
// the last few float32 operations round. The activation is x Phi(x) within 5e-4 + 2e-7 |x|: well below a step
// of the bytes that it becomes.
#ifndef LOCI_ENCODER_KERNELS_GEMM_INT8_H_
#define LOCI_ENCODER_KERNELS_GEMM_INT8_H_

#include <cstdint>

#include "base/device.h"
#include "encoder/kernels/aligned.h"
#include "encoder/kernels/int8_types.h"
#include "encoder/kernels/op_types.h"

namespace loci {

Int8Isa ChooseInt8Isa(CpuIsa isa, const CpuExtensions& extensions);

// Bytes of one quantised row of `depth` values.
int64_t QuantizedRowBytes(Int8Isa isa, int64_t depth);

// Rows of their own.
struct Int8Rows {
  Int8Rows() = default;
  Int8Rows(Int8Isa isa, int64_t rows, int64_t depth);
  // From `row` on.
  QuantizedRows from(int64_t row) { return {data.data() + row * row_bytes, scale.data() + row, offset.data() + row}; }

  AlignedArray<uint8_t> data;
  AlignedFloats scale, offset;
  int64_t row_bytes = 0;
};

// A packed weight with its scales, sums and bias.
struct Int8Weight {
  QuantizedPanels panels() const { return {data.data(), scale.data(), sum.data(), bias.data(), cols, depth}; }
  int64_t size_bytes() const { return data.size_bytes() + scale.size_bytes() + sum.size_bytes() + bias.size_bytes(); }

  AlignedArray<int8_t> data;
  AlignedFloats scale, sum, bias;
  int64_t cols = 0;
  int64_t depth = 0;
};

// Quantises `weight` [cols, depth] per row: scale[c] = max |w[c, k]| / 127, q = round(w / scale). A row of zeros has the scale 0. `bias` is
// [cols].
Int8Weight PackWeightInt8(Int8Isa isa, const float* weight, const float* bias, int64_t cols, int64_t depth);

// Row by row, of what `map` makes of it: offset = the least value, scale = (the largest - offset) / 255,
// q = round((x - offset) * (255 / (the largest - offset))), ties to even. A row whose range is at most 1e-30 has the scale 0 and bytes 0.
// `input` is [rows, depth].
void QuantizeRows(Int8Isa isa, QuantizedRows output, const float* input, const ChannelMap& map, int64_t rows, int64_t depth);
void QuantizeRowsReference(uint8_t* output, float* scale, float* offset, const float* input, const ChannelMap& map, int64_t rows,
                           int64_t depth);

// `output` and `residual` (may be null, or `output`) have rows `stride` floats apart. The machine must have `isa`.
void GemmInt8(Int8Isa isa, float* output, int64_t stride, QuantizedRows input, const QuantizedPanels& weight,
              const float* residual, int64_t rows, Activation activation);
// In double, with the exact activation. `input` is [rows, depth] and `weight` [cols, depth].
void GemmInt8Reference(float* output, const uint8_t* input, const float* row_scale, const float* row_offset, const int8_t* weight,
                       const float* scale, const float* bias, const float* residual, int64_t rows, int64_t cols, int64_t depth,
                       Activation activation);

// LayerNorm (layer_norm.h) of `values` [rows, dim] in place, and its output quantised as QuantizeRows would.
void LayerNormQuantize(Int8Isa isa, float* values, QuantizedRows quantized, const ChannelMap& map, const float* gamma,
                       const float* beta, float epsilon, int64_t rows, int64_t dim);

}  // namespace loci

#endif  // LOCI_ENCODER_KERNELS_GEMM_INT8_H_
