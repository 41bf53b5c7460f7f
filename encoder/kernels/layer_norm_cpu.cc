#include "encoder/kernels/cpu_variants.h"
#include "encoder/kernels/row_norm.h"

namespace loci::LOCI_SIMD {

void LayerNorm(float* output, const float* input, const float* residual, const float* gamma, const float* beta, float epsilon,
               int64_t rows, int64_t dim) {
  for (int64_t r = 0; r < rows; ++r) {
    float* out = output + r * dim;
    const float* in = input + r * dim;
    const float* add = residual == nullptr ? nullptr : residual + r * dim;
    for (int64_t i = 0; i < dim; i += kLanes) {
      const int count = static_cast<int>(dim - i < kLanes ? dim - i : kLanes);
      Vec x = LoadPartial(in + i, count);
      if (add != nullptr) x = Add(x, LoadPartial(add + i, count));
      StorePartial(out + i, x, count);
    }
    NormalizeRow(out, gamma, beta, epsilon, dim);
  }
}

}  // namespace loci::LOCI_SIMD
