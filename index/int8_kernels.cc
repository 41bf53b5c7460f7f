#include "index/int8_kernels.h"

#include "base/device.h"

namespace loci {

ScanIsa DetectScanIsa() { return DetectCpuExtensions().vnni ? ScanIsa::kVnni : ScanIsa::kAvx2; }

const Int8Kernels& GetInt8Kernels(ScanIsa isa) { return isa == ScanIsa::kVnni ? kInt8KernelsVnni : kInt8KernelsAvx2; }

}  // namespace loci
