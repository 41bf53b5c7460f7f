// How the half_*_cpu.cc files lay out weights and sum, for those that pack or reckon with them. No function here, as in op_types.h.
#ifndef LOCI_ENCODER_KERNELS_HALF_LAYOUT_H_
#define LOCI_ENCODER_KERNELS_HALF_LAYOUT_H_

#include <cstdint>

namespace loci {

// Columns of a panel of packed weights (half_gemm.h) or keys.
inline constexpr int kHalfPanelWidth = 64;

// Products that a float16 sum takes before it joins a float32 one, in two interleaved halves that are added at the end. All that
// costs about what bfloat16's rounding of the factors does.
inline constexpr int64_t kFloat16SumProducts = 384;
// What is summed so, rounded factors and a rounded result included, is at most so many times the sum of the products' magnitudes:
// each product passes kFloat16SumProducts / 2 + 4 roundings at most, and 1.11 > (1 + 2^-11)^196.
inline constexpr double kFloat16SumGrowth = 1.11;

}  // namespace loci

#endif  // LOCI_ENCODER_KERNELS_HALF_LAYOUT_H_
