#include "index/exact_kernels.h"

#include "base/device.h"

namespace loci {

const ExactKernels& GetExactKernels(CpuIsa isa) { return isa == CpuIsa::kAvx512 ? kExactKernelsAvx512 : kExactKernelsAvx2; }

}  // namespace loci
