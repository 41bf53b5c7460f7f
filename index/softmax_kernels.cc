#include "index/softmax_kernels.h"

#include "base/device.h"

namespace loci {

const SoftmaxKernels& GetSoftmaxKernels(CpuIsa isa) { return isa == CpuIsa::kAvx512 ? kSoftmaxKernelsAvx512 : kSoftmaxKernelsAvx2; }

}  // namespace loci
