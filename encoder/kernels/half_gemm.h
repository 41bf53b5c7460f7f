// Dense layer in 16-bit numbers: output[r, c] = activation(sum over k of input[r, k] * weight[c, k] + bias[c]).
//
//   AlignedArray<Half> packed = PackHalfWeight(HalfType::kBfloat16, weight, cols, depth);        // once, at load
//   HalfGemm(HalfType::kBfloat16, output, input, packed.data(), bias, rows, cols, depth, Activation::kGelu);
//
// Inputs and weights are rounded to `type`. bfloat16 sums in float32; float16 sums kFloat16SumProducts (half_layout.h) in float16 and those
// sums in float32. Products are summed in the order of k: the bits of an output do not depend on `rows` or on its neighbours. Numbers below
// the smallest normal one count as zero in bfloat16.
#ifndef LOCI_ENCODER_KERNELS_HALF_GEMM_H_
#define LOCI_ENCODER_KERNELS_HALF_GEMM_H_

#include <cstdint>

#include "encoder/kernels/aligned.h"
#include "encoder/kernels/op_types.h"

namespace loci {

// The specification: of rounded inputs and weights, summed in double. `weight` is [cols, depth].
void HalfGemmReference(HalfType type, float* output, const Half* input, const float* weight, const float* bias, int64_t rows,
                       int64_t cols, int64_t depth, Activation activation);

// `weight` [cols, depth] rounded, as panels of kHalfPanelWidth = 64 columns: [ceil(cols / 64)][ceil(depth / 2)][64][2], filled up with zeros.
AlignedArray<Half> PackHalfWeight(HalfType type, const float* weight, int64_t cols, int64_t depth);

// `input` is [rows, depth], `output` [rows, cols], float32 or rounded to `type`; they may not overlap. The machine must have what
// `type` needs: AVX512_BF16 or AVX512_FP16.
void HalfGemm(HalfType type, float* output, const Half* input, const Half* packed, const float* bias, int64_t rows, int64_t cols,
              int64_t depth, Activation activation);
void HalfGemm(HalfType type, Half* output, const Half* input, const Half* packed, const float* bias, int64_t rows, int64_t cols,
              int64_t depth, Activation activation);

}  // namespace loci

#endif  // LOCI_ENCODER_KERNELS_HALF_GEMM_H_
