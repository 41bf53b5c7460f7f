#include "encoder/cuda/backend.h"

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "base/strings.h"

namespace loci {

absl::StatusOr<std::shared_ptr<CudaBackend>> OpenCudaBackend(int ordinal) {
  LOCI_ASSIGN_OR_RETURN(std::unique_ptr<CudaRuntime> runtime, OpenCudaRuntime(ordinal));
  LOCI_RETURN_IF_ERROR(cuda::CheckCudaLibraries());
  return std::make_shared<CudaBackend>(
      absl::StrCat("cuda:", ordinal), std::move(runtime),
      [ordinal](const cuda::EncoderKernelsConfig& config) { return cuda::MakeCudaEncoderKernels(ordinal, config); });
}

absl::StatusOr<SelectedDevice> SelectDevice(std::string_view request, const CudaProbe& probe,
                                            const std::function<absl::StatusOr<std::shared_ptr<CudaBackend>>(int ordinal)>& open,
                                            const std::function<absl::Status(const std::shared_ptr<CudaBackend>&)>& try_it) {
  SelectedDevice selected;
  LOCI_ASSIGN_OR_RETURN(selected.choice, ChooseDevice(request, probe, /*cuda_backend=*/true));
  if (!selected.choice.cuda) return selected;
  absl::StatusOr<std::shared_ptr<CudaBackend>> backend = open(selected.choice.ordinal);
  absl::Status status = backend.status();
  if (status.ok() && try_it) status = try_it(*backend);
  if (status.ok()) {
    selected.cuda = *std::move(backend);
    return selected;
  }
  if (request != "auto") {
    return absl::FailedPreconditionError(absl::StrCat("device ", selected.choice.name, " can't be used: ", status.message()));
  }
  return SelectedDevice{
      .choice = {.name = "cpu",
                 .reason = absl::StrCat("auto takes the CPU: ", selected.choice.name, " can't be used: ", status.message())},
      .cuda = nullptr};
}

}  // namespace loci
