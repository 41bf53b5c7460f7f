// EncoderKernels on a FakeCudaRuntime: the device's kernel bodies on a simulated grid, dense layers summed in float32 and rounded.
#ifndef LOCI_ENCODER_CUDA_TESTING_SIMULATED_KERNELS_H_
#define LOCI_ENCODER_CUDA_TESTING_SIMULATED_KERNELS_H_

#include <map>
#include <utility>
#include <vector>

#include "base/cuda/testing/fake_runtime.h"
#include "base/cuda/testing/simulated_grid.h"
#include "encoder/cuda/body_kernels.h"

namespace loci::cuda {

class SimulatedKernels final : public BodyKernels<SimulatedKernels> {
 public:
  struct Options {
    ThreadOrder order = ThreadOrder::kForward;
    // The algorithms that dense layers may be pinned to: those before `invariant_candidate` sum in an order that depends on the number of
    // rows, as split-K does; that one and those behind it don't. Not below 0.
    int invariant_candidate = 0;
    int candidates = 3;
    // Algorithms before this one are candidates that refuse to run.
    int first_that_runs = 0;
    // Added to every other value that a dense layer gives: a device at fault.
    float wrong_by = 0;
    // Added, times the number of rows, to what a dense layer in a graph gives: a fault that products alone don't show.
    float wrong_in_graphs_by = 0;
  };

  SimulatedKernels(FakeCudaRuntime& runtime, const EncoderKernelsConfig& config, const Options& options)
      : BodyKernels(config), runtime_(runtime), options_(options) {}

  template <typename Kernel>
  absl::Status LaunchKernel(int blocks_x, int blocks_y, const typename Kernel::Args& args, CudaHandle stream) {
    const SimulatedGrid grid = {.blocks_x = blocks_x,
                                .blocks_y = blocks_y,
                                .block_size = Kernel::kBlockSize,
                                .shared_bytes = Kernel::kSharedBytes,
                                .order = options_.order};
    return runtime_.Enqueue(
        stream, [grid, args] { return RunSimulated(grid, [&args](SimulatedThread& thread) { Kernel::Run(thread, args); }); });
  }

  absl::StatusOr<int> AddDense(const void* weight, const void* bias, int cols, int depth) override;
  absl::Status Dense(int layer, void* output, const void* input, int32_t rows, CudaHandle stream) override;
  absl::StatusOr<int> DenseCandidates(int cols, int depth) override;
  void PinDense(int cols, int depth, int candidate) override { pinned_[{cols, depth}] = candidate; }

  // -1 where none is pinned.
  int pinned(int cols, int depth) const;

 private:
  struct Layer {
    const void* weight;
    const void* bias;
    int cols, depth;
  };

  FakeCudaRuntime& runtime_;
  const Options options_;
  std::vector<Layer> layers_;
  std::map<std::pair<int, int>, int> pinned_;
};

}  // namespace loci::cuda

#endif  // LOCI_ENCODER_CUDA_TESTING_SIMULATED_KERNELS_H_
