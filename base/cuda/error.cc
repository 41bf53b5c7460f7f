#include "base/cuda/error.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "base/strings.h"

namespace loci {
namespace {

// Numbers of cudaError_t, which have not changed since CUDA 10.1; this file is compiled without the toolkit too.
absl::StatusCode CodeOf(int code) {
  switch (code) {
    case 2:  // cudaErrorMemoryAllocation
      return absl::StatusCode::kResourceExhausted;
    case 3:    // cudaErrorInitializationError
    case 34:   // cudaErrorStubLibrary
    case 35:   // cudaErrorInsufficientDriver
    case 36:   // cudaErrorCallRequiresNewerDriver
    case 46:   // cudaErrorDevicesUnavailable
    case 98:   // cudaErrorInvalidDeviceFunction
    case 100:  // cudaErrorNoDevice
    case 101:  // cudaErrorInvalidDevice
    case 102:  // cudaErrorDeviceNotLicensed
    case 200:  // cudaErrorInvalidKernelImage
    case 209:  // cudaErrorNoKernelImageForDevice
    case 222:  // cudaErrorUnsupportedPtxVersion
    case 302:  // cudaErrorSharedObjectSymbolNotFound
    case 303:  // cudaErrorSharedObjectInitFailed
    case 803:  // cudaErrorSystemDriverMismatch
    case 804:  // cudaErrorCompatNotSupportedOnDevice
      return absl::StatusCode::kFailedPrecondition;
    default:
      return absl::StatusCode::kUnavailable;
  }
}

std::string Version(int version) { return absl::StrCat(version / 1000, ".", version % 1000 / 10); }

}  // namespace

absl::Status CudaStatus(int code, std::string_view name, std::string_view text, std::string_view action) {
  if (code == 0) return absl::OkStatus();
  return absl::Status(CodeOf(code),
                      absl::StrCat(AbslView(action), ": ", AbslView(text), " (", AbslView(name), ", CUDA error ", code, ")"));
}

std::string WhyDriverIsTooOld(int driver_version, int runtime_version) {
  if (driver_version >= runtime_version / 1000 * 1000) return "";
  const std::string has =
      driver_version == 0 ? "no NVIDIA driver is loaded" : absl::StrCat("the driver serves CUDA ", Version(driver_version));
  return absl::StrCat(has, ", this build needs ", runtime_version / 1000, ".0 (it has runtime ", Version(runtime_version), ")");
}

}  // namespace loci
