// What a CUDA error code means for Loci: whose fault it is, and who must act.
#ifndef LOCI_BASE_CUDA_ERROR_H_
#define LOCI_BASE_CUDA_ERROR_H_

#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace loci {

// `code` is a cudaError_t, `name` and `text` what the runtime says of it, `action` what was tried ("allocating 4096 bytes").
//   FAILED_PRECONDITION  the machine can't: no device, a driver older than the runtime (35), no code for this device's architecture,
//                        a device that is taken or forbidden
//   RESOURCE_EXHAUSTED   out of device memory (2)
//   UNAVAILABLE          everything else: a fault of the device or of a kernel, after which its context can't be trusted
// OK for 0.
absl::Status CudaStatus(int code, std::string_view name, std::string_view text, std::string_view action);

// The oldest devices that the kernels are compiled for: 8.0 (Ampere).
inline constexpr int kLeastComputeMajor = 8;

// Versions as CUDA counts them: 1000 * major + 10 * minor. Empty where the driver serves the runtime: within one major version each
// driver serves each runtime. Otherwise why not, with both versions.
std::string WhyDriverIsTooOld(int driver_version, int runtime_version);

}  // namespace loci

#endif  // LOCI_BASE_CUDA_ERROR_H_
