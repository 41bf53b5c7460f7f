#include <algorithm>
#include <cmath>
#include <vector>

#include "encoder/kernels/attention.h"

namespace loci {

void AttentionReference(float* context, const float* qkv, const int32_t* offsets, int64_t sequence_count, int64_t head_count,
                        int64_t head_dim) {
  const int64_t hidden = head_count * head_dim;
  for (int64_t s = 0; s < sequence_count; ++s) {
    const int64_t begin = offsets[s], end = offsets[s + 1];
    for (int64_t h = 0; h < head_count; ++h) {
      const float* q = qkv + h * head_dim;
      const float* k = q + hidden;
      const float* v = k + hidden;
      for (int64_t i = begin; i < end; ++i) {
        std::vector<double> weight(end - begin);
        double largest = -1e300, sum = 0;
        for (int64_t j = begin; j < end; ++j) {
          double dot = 0;
          for (int64_t d = 0; d < head_dim; ++d) dot += static_cast<double>(q[i * 3 * hidden + d]) * k[j * 3 * hidden + d];
          weight[j - begin] = dot / std::sqrt(static_cast<double>(head_dim));
          largest = std::max(largest, weight[j - begin]);
        }
        for (double& w : weight) sum += w = std::exp(w - largest);
        for (int64_t d = 0; d < head_dim; ++d) {
          double x = 0;
          for (int64_t j = begin; j < end; ++j) x += weight[j - begin] / sum * v[j * 3 * hidden + d];
          context[i * hidden + h * head_dim + d] = static_cast<float>(x);
        }
      }
    }
  }
}

}  // namespace loci
