#include "index/cuda/testing/simulated_kernels.h"

#include "index/cuda/body_kernels.h"

namespace loci::cuda {
namespace {

class SimulatedSearchKernels final : public BodySearchKernels<SimulatedSearchKernels> {
 public:
  SimulatedSearchKernels(FakeCudaRuntime& runtime, const SimulatedSearchOptions& options)
      : BodySearchKernels({.multiprocessor_count = options.multiprocessor_count, .max_shared_bytes = options.max_shared_bytes}),
        runtime_(runtime),
        options_(options) {}

  template <typename Kernel>
  absl::Status LaunchKernel(int blocks_x, int blocks_y, int shared_bytes, const typename Kernel::Args& args, CudaHandle stream) {
    if (shared_bytes > kSharedBytesOfAll && !LargeKernels::kHas<Kernel>) {
      return absl::InternalError("more shared memory than this kernel is allowed");
    }
    if (shared_bytes > options_.max_shared_bytes) return absl::InternalError("more shared memory than the device has");
    const SimulatedGrid grid = {.blocks_x = blocks_x,
                                .blocks_y = blocks_y,
                                .block_size = Kernel::kBlockSize,
                                .shared_bytes = shared_bytes,
                                .order = options_.order};
    return runtime_.Enqueue(
        stream, [grid, args] { return RunSimulated(grid, [&args](SimulatedThread& thread) { Kernel::Run(thread, args); }); });
  }

 private:
  FakeCudaRuntime& runtime_;
  const SimulatedSearchOptions options_;
};

}  // namespace

std::unique_ptr<SearchKernels> MakeSimulatedSearchKernels(FakeCudaRuntime& runtime, const SimulatedSearchOptions& options) {
  return std::make_unique<SimulatedSearchKernels>(runtime, options);
}

}  // namespace loci::cuda
