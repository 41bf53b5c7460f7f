#include <algorithm>
#include <cmath>
#include <vector>

#include "encoder/kernels/pooling.h"

namespace loci {

void PoolReference(float* output, const float* input, const int32_t* offsets, int64_t sequence_count, int64_t dim,
                   Pooling pooling, bool normalize) {
  std::vector<double> x(dim);
  for (int64_t s = 0; s < sequence_count; ++s) {
    double squares = 0;
    for (int64_t i = 0; i < dim; ++i) {
      x[i] = input[offsets[s] * dim + i];
      for (int64_t r = offsets[s] + 1; r < offsets[s + 1]; ++r) {
        if (pooling == Pooling::kMean) x[i] += input[r * dim + i];
        if (pooling == Pooling::kMax) x[i] = std::max<double>(x[i], input[r * dim + i]);
      }
      if (pooling == Pooling::kMean) x[i] /= offsets[s + 1] - offsets[s];
      squares += x[i] * x[i];
    }
    const double length = normalize ? std::max(std::sqrt(squares), 1e-12) : 1.0;
    for (int64_t i = 0; i < dim; ++i) output[s * dim + i] = static_cast<float>(x[i] / length);
  }
}

}  // namespace loci
