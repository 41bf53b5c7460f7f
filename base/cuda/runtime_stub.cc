// OpenCudaRuntime of a build without CUDA.
#include "base/cuda/runtime.h"

namespace loci {

absl::StatusOr<std::unique_ptr<CudaRuntime>> OpenCudaRuntime(int) {
  return absl::FailedPreconditionError("this build has no CUDA in it");
}

}  // namespace loci
