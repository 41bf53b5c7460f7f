// EncoderKernels of a build without CUDA.
#include "encoder/cuda/kernels.h"

namespace loci::cuda {

absl::StatusOr<std::unique_ptr<EncoderKernels>> MakeCudaEncoderKernels(int, const EncoderKernelsConfig&) {
  return CheckCudaLibraries();
}

absl::Status CheckCudaLibraries() { return absl::FailedPreconditionError("this build has no CUDA in it"); }

}  // namespace loci::cuda
