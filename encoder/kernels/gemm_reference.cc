#include <cmath>

#include "encoder/kernels/gemm.h"

namespace loci {

void GemmReference(float* output, const float* input, const float* weight, const float* bias, const float* residual, int64_t rows,
                   int64_t cols, int64_t depth, Activation activation) {
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < cols; ++c) {
      double x = bias[c];
      for (int64_t k = 0; k < depth; ++k) x += static_cast<double>(input[r * depth + k]) * weight[c * depth + k];
      if (activation == Activation::kGelu) x = 0.5 * x * (1.0 + std::erf(x / std::sqrt(2.0)));
      if (residual != nullptr) x += residual[r * cols + c];
      output[r * cols + c] = static_cast<float>(x);
    }
  }
}

}  // namespace loci
