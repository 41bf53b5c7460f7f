// SearchKernels on the device.
#include <cuda_runtime_api.h>

#include <memory>

#include "base/cuda/device_thread.h"
#include "base/cuda/error.h"
#include "base/status_macros.h"
#include "index/cuda/body_kernels.h"

namespace loci::cuda {
namespace {

template <typename Kernel>
__global__ void __launch_bounds__(Kernel::kBlockSize, Kernel::kBlocksAtOnce)
    RunKernel(const __grid_constant__ typename Kernel::Args args) {
  DeviceThread thread;
  Kernel::Run(thread, args);
}

absl::Status ToStatus(cudaError_t error, const char* action) {
  return CudaStatus(error, cudaGetErrorName(error), cudaGetErrorString(error), action);
}

template <typename... Kernels>
absl::Status AllowShared(KernelTypes<Kernels...>, int bytes) {
  absl::Status status;
  (status.Update(ToStatus(cudaFuncSetAttribute(RunKernel<Kernels>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
                          "asking for shared memory")),
   ...);
  return status;
}

class CudaSearchKernels final : public BodySearchKernels<CudaSearchKernels> {
 public:
  CudaSearchKernels(int ordinal, const Device& device) : BodySearchKernels(device), ordinal_(ordinal) {}

  template <typename Kernel>
  absl::Status LaunchKernel(int blocks_x, int blocks_y, int shared_bytes, const typename Kernel::Args& args, CudaHandle stream) {
    LOCI_RETURN_IF_ERROR(ToStatus(cudaSetDevice(ordinal_), "using the device"));
    RunKernel<Kernel><<<dim3(static_cast<unsigned>(blocks_x), static_cast<unsigned>(blocks_y)), Kernel::kBlockSize,
                        static_cast<size_t>(shared_bytes), static_cast<cudaStream_t>(stream)>>>(args);
    return ToStatus(cudaGetLastError(), "launching a kernel");
  }

 private:
  const int ordinal_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<SearchKernels>> MakeCudaSearchKernels(int ordinal) {
  CudaSearchKernels::Device device;
  LOCI_RETURN_IF_ERROR(ToStatus(cudaDeviceGetAttribute(&device.multiprocessor_count, cudaDevAttrMultiProcessorCount, ordinal),
                                "asking for the device's kind"));
  LOCI_RETURN_IF_ERROR(
      ToStatus(cudaDeviceGetAttribute(&device.max_shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, ordinal),
               "asking for the device's kind"));
  LOCI_RETURN_IF_ERROR(ToStatus(cudaSetDevice(ordinal), "using the device"));
  LOCI_RETURN_IF_ERROR(AllowShared(LargeKernels(), device.max_shared_bytes));
  return std::make_unique<CudaSearchKernels>(ordinal, device);
}

}  // namespace loci::cuda
