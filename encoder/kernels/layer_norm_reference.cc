#include <cmath>
#include <vector>

#include "encoder/kernels/layer_norm.h"

namespace loci {

void LayerNormReference(float* output, const float* input, const float* residual, const float* gamma, const float* beta,
                        float epsilon, int64_t rows, int64_t dim) {
  std::vector<double> x(dim);
  for (int64_t r = 0; r < rows; ++r) {
    double mean = 0;
    for (int64_t i = 0; i < dim; ++i) {
      x[i] = input[r * dim + i];
      if (residual != nullptr) x[i] += residual[r * dim + i];
      mean += x[i] / static_cast<double>(dim);
    }
    double variance = 0;
    for (int64_t i = 0; i < dim; ++i) variance += (x[i] - mean) * (x[i] - mean) / static_cast<double>(dim);
    for (int64_t i = 0; i < dim; ++i) {
      output[r * dim + i] = static_cast<float>((x[i] - mean) / std::sqrt(variance + epsilon) * gamma[i] + beta[i]);
    }
  }
}

}  // namespace loci
