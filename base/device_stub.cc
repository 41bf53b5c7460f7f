// ProbeCuda of a build without CUDA.
#include "base/device.h"

namespace loci {

CudaProbe ProbeCuda() { return {.built_in = false, .devices = {}, .detail = "this build has no CUDA in it"}; }

}  // namespace loci
