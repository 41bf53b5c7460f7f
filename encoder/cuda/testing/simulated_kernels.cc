#include "encoder/cuda/testing/simulated_kernels.h"

#include <algorithm>

namespace loci::cuda {
namespace {

template <typename T>
void Multiply(T* output, const T* input, const T* weight, const T* bias, int64_t rows, int64_t cols, int64_t depth, int64_t split,
              float wrong_by) {
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < cols; ++c) {
      // Partial sums are rounded to float32, so that another split may give other bits.
      float total = 0;
      for (int64_t begin = 0; begin < depth; begin += split) {
        float sum = 0;
        for (int64_t k = begin; k < std::min(depth, begin + split); ++k)
          sum += ToFloat(input[r * depth + k]) * ToFloat(weight[c * depth + k]);
        total += sum;
      }
      output[r * cols + c] = FromFloat<T>(total + ToFloat(bias[c]) + (c % 2 == 0 ? wrong_by : 0));
    }
  }
}

}  // namespace

int SimulatedKernels::pinned(int cols, int depth) const {
  const auto found = pinned_.find({cols, depth});
  return found == pinned_.end() ? -1 : found->second;
}

absl::StatusOr<int> SimulatedKernels::AddDense(const void* weight, const void* bias, int cols, int depth) {
  layers_.push_back({weight, bias, cols, depth});
  return static_cast<int>(layers_.size()) - 1;
}

absl::StatusOr<int> SimulatedKernels::DenseCandidates(int cols, int depth) {
  const bool known =
      std::any_of(layers_.begin(), layers_.end(), [&](const Layer& l) { return l.cols == cols && l.depth == depth; });
  if (!known) return absl::InternalError("no such layer");
  return options_.candidates;
}

absl::Status SimulatedKernels::Dense(int index, void* output, const void* input, int32_t rows, CudaHandle stream) {
  const Layer layer = layers_[static_cast<size_t>(index)];
  if (!std::binary_search(config_.row_counts.begin(), config_.row_counts.end(), rows))
    return absl::InternalError("a number of rows that was not named");
  if (pinned(layer.cols, layer.depth) < 0) return absl::InternalError("a layer without an algorithm");
  if (pinned(layer.cols, layer.depth) < options_.first_that_runs) return absl::FailedPreconditionError("an algorithm that does not run");
  const float wrong_by = options_.wrong_by + (runtime_.is_capturing(stream) ? options_.wrong_in_graphs_by * static_cast<float>(rows) : 0);
  const bool invariant = pinned(layer.cols, layer.depth) >= options_.invariant_candidate;
  const int64_t split = invariant ? layer.depth : 1 + rows % 7;
  return runtime_.Enqueue(stream, [this, layer, output, input, rows, split, wrong_by] {
    const auto run = [&](auto element) {
      using T = decltype(element);
      Multiply(static_cast<T*>(output), static_cast<const T*>(input), static_cast<const T*>(layer.weight),
               static_cast<const T*>(layer.bias), rows, layer.cols, layer.depth, split, wrong_by);
      return absl::OkStatus();
    };
    if (config_.type == ElementType::kFloat32) return run(float());
    if (config_.type == ElementType::kFloat16) return run(Float16());
    return run(Bfloat16());
  });
}

}  // namespace loci::cuda
