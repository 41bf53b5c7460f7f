// The devices that a parity test runs on: the simulated grid in each order of threads, and the machine's CUDA device where it has one.
#ifndef LOCI_ENCODER_CUDA_TESTING_TEST_DEVICES_H_
#define LOCI_ENCODER_CUDA_TESTING_TEST_DEVICES_H_

#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/cuda/testing/fake_runtime.h"
#include "encoder/cuda/backend.h"
#include "encoder/cuda/testing/simulated_kernels.h"

namespace loci::cuda {

inline std::shared_ptr<CudaBackend> SimulatedBackend(const SimulatedKernels::Options& options = {},
                                                     int64_t memory_bytes = int64_t{1} << 30) {
  auto runtime = std::make_unique<FakeCudaRuntime>(memory_bytes);
  FakeCudaRuntime& fake = *runtime;
  return std::make_shared<CudaBackend>("cuda:0", std::move(runtime), [&fake, options](const EncoderKernelsConfig& config) {
    return std::make_unique<SimulatedKernels>(fake, config, options);
  });
}

struct TestDevice {
  std::string name;  // "forward", "backward", "shuffled" or "cuda"
  bool simulated = true;
  ThreadOrder order = ThreadOrder::kForward;
};

inline std::vector<TestDevice> TestDevices() {
  return {{"forward", true, ThreadOrder::kForward},
          {"backward", true, ThreadOrder::kBackward},
          {"shuffled", true, ThreadOrder::kShuffled},
          {"cuda", false, {}}};
}

inline absl::StatusOr<std::shared_ptr<CudaBackend>> OpenTestDevice(const TestDevice& device) {
  if (device.simulated) return SimulatedBackend({.order = device.order});
  return OpenCudaBackend(0);
}

// Device memory with the values of a vector. Transfers wait.
template <typename T>
class DeviceArray {
 public:
  DeviceArray(CudaRuntime& runtime, const std::vector<T>& values) : runtime_(runtime), size_(values.size()) {
    memory_ = *Own<DeviceMemory>(runtime, runtime.Allocate(static_cast<int64_t>(size_ * sizeof(T) + 1)));
    pinned_ = *Own<PinnedMemory>(runtime, runtime.AllocatePinned(static_cast<int64_t>(size_ * sizeof(T) + 1)));
    stream_ = *Own<CudaStream>(runtime, runtime.CreateStream());
    event_ = *Own<CudaEvent>(runtime, runtime.CreateEvent(EventWait::kSpin));
    std::memcpy(pinned_.get(), values.data(), size_ * sizeof(T));
    if (!runtime.CopyToDevice(memory_.get(), pinned_.get(), static_cast<int64_t>(size_ * sizeof(T)), stream_.get()).ok() ||
        !Finish().ok())
      std::abort();
  }

  T* get() const { return static_cast<T*>(memory_.get()); }

  // What is there once `stream` has done what was put on it. A failure is the status.
  absl::StatusOr<std::vector<T>> Read(CudaHandle stream) {
    absl::Status status = runtime_.CopyToHost(pinned_.get(), memory_.get(), static_cast<int64_t>(size_ * sizeof(T)), stream);
    if (status.ok()) status = runtime_.Record(event_.get(), stream);
    if (status.ok()) status = runtime_.Wait(event_.get());
    if (!status.ok()) return status;
    const T* const values = static_cast<const T*>(pinned_.get());
    return std::vector<T>(values, values + size_);
  }

 private:
  absl::Status Finish() {
    absl::Status status = runtime_.Record(event_.get(), stream_.get());
    return status.ok() ? runtime_.Wait(event_.get()) : status;
  }

  CudaRuntime& runtime_;
  const size_t size_;
  DeviceMemory memory_;
  PinnedMemory pinned_;
  CudaStream stream_;
  CudaEvent event_;
};

}  // namespace loci::cuda

#endif  // LOCI_ENCODER_CUDA_TESTING_TEST_DEVICES_H_
