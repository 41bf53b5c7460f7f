// The device that searches exactly: chosen once at start, as the encoder's is.
#ifndef LOCI_SERVER_SEARCH_DEVICE_H_
#define LOCI_SERVER_SEARCH_DEVICE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/device.h"
#include "encoder/cuda/backend.h"
#include "index/placed_exact_index.h"

namespace loci {

// `encoders`: what encoders run on, or null. `memory_limit_bytes`: 0 is what is free.
using SearchDeviceOpener = std::function<absl::StatusOr<std::shared_ptr<ExactPlacer>>(
    int ordinal, const std::shared_ptr<CudaBackend>& encoders, int64_t memory_limit_bytes)>;

// On the encoders' device with their runtime and health, so that what fails for one has failed for both. FAILED_PRECONDITION, with the reason, where
// the device can't be used.
absl::StatusOr<std::shared_ptr<ExactPlacer>> OpenExactPlacer(int ordinal, const std::shared_ptr<CudaBackend>& encoders,
                                                             int64_t memory_limit_bytes);

struct SelectedSearchDevice {
  DeviceChoice choice;
  std::shared_ptr<ExactPlacer> placer;  // Null for the CPU.
};

// As SelectDevice: where the device can't be opened, or TrySearchDevice says that it can't search, `auto` takes the CPU with the reason, and an explicit
// cuda:N is FAILED_PRECONDITION. Either way the device, which encoders may share, may have failed.
absl::StatusOr<SelectedSearchDevice> SelectSearchDevice(std::string_view request, const CudaProbe& probe,
                                                        const std::shared_ptr<CudaBackend>& encoders, int64_t memory_limit_bytes,
                                                        const SearchDeviceOpener& open);

// Why a start that was told cuda:N ends: FAILED_PRECONDITION with `placed`, what GenerationManager::CheckPlacements says that is not OK, and what can be done
// about it. `memory_limit_bytes` as above.
absl::Status CantStartOn(const absl::Status& placed, int64_t memory_limit_bytes);

// Of `auto`: the CPU from now on, as the device can't be used. Nothing may hold the placer.
void LeaveSearchDevice(const absl::Status& why, SelectedSearchDevice* selected);

}  // namespace loci

#endif  // LOCI_SERVER_SEARCH_DEVICE_H_
