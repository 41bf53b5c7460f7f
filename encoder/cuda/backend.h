// A CUDA device that encoders run on: its runtime, its kernels, its health.
#ifndef LOCI_ENCODER_CUDA_BACKEND_H_
#define LOCI_ENCODER_CUDA_BACKEND_H_

#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "base/cuda/health.h"
#include "base/cuda/runtime.h"
#include "base/device.h"
#include "encoder/cuda/kernels.h"

namespace loci {

// Shared by all encoders of a device. An error in the work of any of them marks it failed for good (base/cuda/health.h). Thread-safe.
class CudaBackend {
 public:
  using KernelFactory = std::function<absl::StatusOr<std::unique_ptr<cuda::EncoderKernels>>(const cuda::EncoderKernelsConfig&)>;

  // `name` is "cuda:N".
  CudaBackend(std::string name, std::unique_ptr<CudaRuntime> runtime, KernelFactory make_kernels)
      : name_(std::move(name)), runtime_(std::move(runtime)), make_kernels_(std::move(make_kernels)), health_(name_) {}

  const std::string& name() const { return name_; }
  CudaRuntime& runtime() { return *runtime_; }
  CudaHealth& health() { return health_; }
  absl::StatusOr<std::unique_ptr<cuda::EncoderKernels>> MakeKernels(const cuda::EncoderKernelsConfig& config) {
    return make_kernels_(config);
  }

 private:
  const std::string name_;
  const std::unique_ptr<CudaRuntime> runtime_;
  const KernelFactory make_kernels_;
  CudaHealth health_;
};

// FAILED_PRECONDITION, with the reason, where the device can't be used: as OpenCudaRuntime, or without cuBLASLt.
absl::StatusOr<std::shared_ptr<CudaBackend>> OpenCudaBackend(int ordinal);

// The device that was asked for, and its backend; null for the CPU.
struct SelectedDevice {
  DeviceChoice choice;
  std::shared_ptr<CudaBackend> cuda;
};

// ChooseDevice, and beyond it that the device works: `open` opens it, `try_it` (may be null) says whether what is to run there can, for
// instance by loading the encoder. Where either fails, `auto` takes the CPU with the reason, and an explicit cuda:N is FAILED_PRECONDITION.
absl::StatusOr<SelectedDevice> SelectDevice(std::string_view request, const CudaProbe& probe,
                                            const std::function<absl::StatusOr<std::shared_ptr<CudaBackend>>(int ordinal)>& open,
                                            const std::function<absl::Status(const std::shared_ptr<CudaBackend>&)>& try_it);

}  // namespace loci

#endif  // LOCI_ENCODER_CUDA_BACKEND_H_
