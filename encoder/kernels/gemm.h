// Dense layer: output[r, c] = activation(sum over k of input[r, k] * weight[c, k] + bias[c]) + residual[r, c].
//
//   AlignedFloats packed = PackWeight(isa, weight, cols, depth);                       // once, at load
//   Gemm(isa, output, input, packed.data(), bias, nullptr, rows, cols, depth, Activation::kGelu);
//
// Every output is summed over k in order, by FMA in one accumulator: its bits do not depend on `rows` or on its neighbours.
#ifndef LOCI_ENCODER_KERNELS_GEMM_H_
#define LOCI_ENCODER_KERNELS_GEMM_H_

#include <cstdint>

#include "base/device.h"
#include "encoder/kernels/aligned.h"
#include "encoder/kernels/op_types.h"

namespace loci {

// The specification: obvious loops, summed in double. `weight` is [cols, depth] as PyTorch's Linear keeps it; `residual` is
// [rows, cols] or null.
void GemmReference(float* output, const float* input, const float* weight, const float* bias, const float* residual, int64_t rows,
                   int64_t cols, int64_t depth, Activation activation);

// `weight` [cols, depth] as `isa`'s column panels: [ceil(cols / width)][depth][width], filled up with zeros.
AlignedFloats PackWeight(CpuIsa isa, const float* weight, int64_t cols, int64_t depth);

// Columns in one panel of PackWeight: 64 for AVX-512, 16 for AVX2.
int64_t PanelWidth(CpuIsa isa);

// `packed` is PackWeight's of the same isa. `residual` is [rows, cols], null, or `output` itself. `input` and `output` may not
// overlap. The machine must have `isa`.
void Gemm(CpuIsa isa, float* output, const float* input, const float* packed, const float* bias, const float* residual,
          int64_t rows, int64_t cols, int64_t depth, Activation activation);

}  // namespace loci

#endif  // LOCI_ENCODER_KERNELS_GEMM_H_
