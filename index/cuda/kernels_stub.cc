// SearchKernels of a build without CUDA.
#include "index/cuda/kernels.h"

namespace loci::cuda {

absl::StatusOr<std::unique_ptr<SearchKernels>> MakeCudaSearchKernels(int) {
  return absl::FailedPreconditionError("this build has no CUDA in it");
}

}  // namespace loci::cuda
