// EncoderKernels on the device: the bodies as kernels, dense layers by cuBLASLt.
#include <cuda_runtime_api.h>

#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/cuda/device_thread.h"
#include "base/cuda/error.h"
#include "base/status_macros.h"
#include "encoder/cuda/body_kernels.h"
#include "encoder/cuda/lt_dense.h"

namespace loci::cuda {
namespace {

template <typename Kernel>
__global__ void __launch_bounds__(Kernel::kBlockSize) RunKernel(const __grid_constant__ typename Kernel::Args args) {
  DeviceThread thread;
  Kernel::Run(thread, args);
}

absl::Status ToStatus(cudaError_t error, const char* action) {
  return CudaStatus(error, cudaGetErrorName(error), cudaGetErrorString(error), action);
}

class CudaEncoderKernels final : public BodyKernels<CudaEncoderKernels> {
 public:
  CudaEncoderKernels(int ordinal, const EncoderKernelsConfig& config, std::unique_ptr<LtDense> dense)
      : BodyKernels(config), ordinal_(ordinal), dense_(std::move(dense)) {}
  // cuBLASLt gives back what it has on the calling thread's device.
  ~CudaEncoderKernels() override {
    (void)Use();
    dense_.reset();
  }

  template <typename Kernel>
  absl::Status LaunchKernel(int blocks_x, int blocks_y, const typename Kernel::Args& args, CudaHandle stream) {
    static_assert(Kernel::kSharedBytes <= 48 << 10, "more shared memory than a kernel has without asking");
    LOCI_RETURN_IF_ERROR(Use());
    RunKernel<Kernel><<<dim3(static_cast<unsigned>(blocks_x), static_cast<unsigned>(blocks_y)), Kernel::kBlockSize,
                        Kernel::kSharedBytes, static_cast<cudaStream_t>(stream)>>>(args);
    return ToStatus(cudaGetLastError(), "launching a kernel");
  }

  absl::StatusOr<int> AddDense(const void* weight, const void* bias, int cols, int depth) override {
    return dense_->Add(weight, bias, cols, depth);
  }
  absl::Status Dense(int layer, void* output, const void* input, int32_t rows, CudaHandle stream) override {
    LOCI_RETURN_IF_ERROR(Use());
    return dense_->Run(layer, output, input, rows, stream);
  }
  absl::StatusOr<int> DenseCandidates(int cols, int depth) override {
    LOCI_RETURN_IF_ERROR(Use());
    return dense_->Candidates(cols, depth);
  }
  void PinDense(int cols, int depth, int candidate) override { dense_->Pin(cols, depth, candidate); }

 private:
  absl::Status Use() const { return ToStatus(cudaSetDevice(ordinal_), "using the device"); }

  const int ordinal_;
  std::unique_ptr<LtDense> dense_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<EncoderKernels>> MakeCudaEncoderKernels(int ordinal, const EncoderKernelsConfig& config) {
  LOCI_RETURN_IF_ERROR(ToStatus(cudaSetDevice(ordinal), "using the device"));
  LOCI_ASSIGN_OR_RETURN(std::unique_ptr<LtDense> dense, LtDense::Create(config.type, config.row_counts));
  return std::make_unique<CudaEncoderKernels>(ordinal, config, std::move(dense));
}

absl::Status CheckCudaLibraries() { return LtDense::CheckLibrary(); }

}  // namespace loci::cuda
