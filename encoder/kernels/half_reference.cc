#include <algorithm>
#include <cmath>
#include <vector>

#include "base/vector_type.h"
#include "encoder/kernels/half_attention.h"
#include "encoder/kernels/half_gemm.h"

namespace loci {
namespace {

double ToDouble(HalfType type, Half x) {
  float wide;
  if (type == HalfType::kBfloat16) {
    Bfloat16ToFloat32(&x, &wide, 1);
    if (std::abs(wide) < 1.17549435e-38f) wide = 0;
  } else {
    Float16ToFloat32(&x, &wide, 1);
  }
  return wide;
}

double Rounded(HalfType type, float x) {
  Half half;
  if (type == HalfType::kBfloat16) {
    Float32ToBfloat16(&x, &half, 1);
  } else {
    Float32ToFloat16(&x, &half, 1);
  }
  return ToDouble(type, half);
}

}  // namespace

void HalfGemmReference(HalfType type, float* output, const Half* input, const float* weight, const float* bias, int64_t rows,
                       int64_t cols, int64_t depth, Activation activation) {
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < cols; ++c) {
      double x = bias[c];
      for (int64_t k = 0; k < depth; ++k) x += ToDouble(type, input[r * depth + k]) * Rounded(type, weight[c * depth + k]);
      if (activation == Activation::kGelu) x = 0.5 * x * (1.0 + std::erf(x / std::sqrt(2.0)));
      output[r * cols + c] = static_cast<float>(x);
    }
  }
}

void HalfAttentionReference(HalfType type, float* context, const Half* qkv, const int32_t* offsets, int64_t sequence_count,
                            int64_t head_count, int64_t head_dim) {
  const int64_t hidden = head_count * head_dim;
  for (int64_t s = 0; s < sequence_count; ++s) {
    const int64_t begin = offsets[s], end = offsets[s + 1];
    for (int64_t h = 0; h < head_count; ++h) {
      const Half* q = qkv + h * head_dim;
      const Half* k = q + hidden;
      const Half* v = k + hidden;
      for (int64_t i = begin; i < end; ++i) {
        std::vector<double> weight(end - begin);
        double largest = -1e300, sum = 0;
        for (int64_t j = begin; j < end; ++j) {
          double dot = 0;
          for (int64_t d = 0; d < head_dim; ++d)
            dot += ToDouble(type, q[i * 3 * hidden + d]) * ToDouble(type, k[j * 3 * hidden + d]);
          weight[j - begin] = dot;
          largest = std::max(largest, dot);
        }
        for (double& w : weight) sum += w = std::exp2(w - largest);
        for (int64_t d = 0; d < head_dim; ++d) {
          double x = 0;
          for (int64_t j = begin; j < end; ++j) x += weight[j - begin] / sum * ToDouble(type, v[j * 3 * hidden + d]);
          context[i * hidden + h * head_dim + d] = static_cast<float>(x);
        }
      }
    }
  }
}

}  // namespace loci
