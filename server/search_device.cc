#include "server/search_device.h"

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "base/status_macros.h"
#include "index/cuda/cuda_exact_placer.h"
#include "server/search_device_trial.h"

namespace loci {

absl::StatusOr<std::shared_ptr<ExactPlacer>> OpenExactPlacer(int ordinal, const std::shared_ptr<CudaBackend>& encoders,
                                                             int64_t memory_limit_bytes) {
  SearchDevice device;
  if (encoders != nullptr && encoders->name() == absl::StrCat("cuda:", ordinal)) {
    device.name = encoders->name();
    device.runtime = std::shared_ptr<CudaRuntime>(encoders, &encoders->runtime());
    device.health = std::shared_ptr<CudaHealth>(encoders, &encoders->health());
    LOCI_ASSIGN_OR_RETURN(device.kernels, cuda::MakeCudaSearchKernels(ordinal));
  } else {
    LOCI_ASSIGN_OR_RETURN(device, OpenSearchDevice(ordinal));
  }
  return std::make_shared<CudaExactPlacer>(std::move(device), CudaSearchOptions(), memory_limit_bytes);
}

absl::StatusOr<SelectedSearchDevice> SelectSearchDevice(std::string_view request, const CudaProbe& probe,
                                                        const std::shared_ptr<CudaBackend>& encoders, int64_t memory_limit_bytes,
                                                        const SearchDeviceOpener& open) {
  SelectedSearchDevice selected;
  absl::StatusOr<DeviceChoice> choice = ChooseDevice(request, probe, /*cuda_backend=*/true);
  if (!choice.ok()) return Annotate(choice.status(), "exact search");
  selected.choice = *std::move(choice);
  if (!selected.choice.cuda) return selected;
  absl::StatusOr<std::shared_ptr<ExactPlacer>> placer = open(selected.choice.ordinal, encoders, memory_limit_bytes);
  const absl::Status works = placer.ok() ? TrySearchDevice(**placer) : placer.status();
  if (works.ok()) {
    selected.placer = *std::move(placer);
    return selected;
  }
  if (request != "auto") {
    return absl::FailedPreconditionError(absl::StrCat("exact search: device ", selected.choice.name, " can't be used: ", works.message()));
  }
  LeaveSearchDevice(works, &selected);
  return selected;
}

absl::Status CantStartOn(const absl::Status& placed, int64_t memory_limit_bytes) {
  std::string remedy = "with --search-device auto the server starts, and the CPU searches it";
  if (absl::IsResourceExhausted(placed)) {
    absl::StrAppend(&remedy, " until there is room; else free memory of the device");
    if (memory_limit_bytes > 0) absl::StrAppend(&remedy, ", or raise search_device_memory_bytes, now ", memory_limit_bytes);
  }
  return absl::FailedPreconditionError(absl::StrCat("exact search: ", placed.message(), ". What can be done: ", remedy));
}

void LeaveSearchDevice(const absl::Status& why, SelectedSearchDevice* selected) {
  selected->placer = nullptr;
  selected->choice = {.name = "cpu", .reason = absl::StrCat("auto takes the CPU: ", selected->choice.name, " can't be used: ", why.message())};
}

}  // namespace loci
