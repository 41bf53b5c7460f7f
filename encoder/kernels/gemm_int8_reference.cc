#include <algorithm>
#include <cmath>
#include <vector>

#include "encoder/kernels/gemm_int8.h"

namespace loci {

void QuantizeRowsReference(uint8_t* output, float* scale, float* offset, const float* input, const ChannelMap& map, int64_t rows,
                           int64_t depth) {
  for (int64_t r = 0; r < rows; ++r) {
    std::vector<float> in(input + r * depth, input + (r + 1) * depth);
    if (map.factor != nullptr) {
      for (int64_t k = 0; k < depth; ++k) in[k] = std::fma(in[k], map.factor[k], map.shift[k]);
    }
    const auto [low, high] = std::minmax_element(in.begin(), in.end());
    const float range = *high - *low;
    const bool constant = !(range > 1e-30f);
    scale[r] = constant ? 0 : range * (1.0f / 255.0f);
    offset[r] = *low;
    const float inverse = constant ? 0 : 255.0f / range;
    for (int64_t k = 0; k < depth; ++k) {
      output[r * depth + k] = static_cast<uint8_t>(std::clamp(std::nearbyint((in[k] - *low) * inverse), 0.0f, 255.0f));
    }
  }
}

void GemmInt8Reference(float* output, const uint8_t* input, const float* row_scale, const float* row_offset, const int8_t* weight,
                       const float* scale, const float* bias, const float* residual, int64_t rows, int64_t cols, int64_t depth,
                       Activation activation) {
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < cols; ++c) {
      double sum = 0;
      for (int64_t k = 0; k < depth; ++k) {
        sum += (static_cast<double>(row_scale[r]) * input[r * depth + k] + row_offset[r]) *
               (static_cast<double>(scale[c]) * weight[c * depth + k]);
      }
      sum += bias[c];
      if (activation == Activation::kGelu) sum *= 0.5 * (1 + std::erf(sum * std::sqrt(0.5)));
      if (residual != nullptr) sum += residual[r * cols + c];
      output[r * cols + c] = static_cast<float>(sum);
    }
  }
}

}  // namespace loci
