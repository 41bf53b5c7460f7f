// OpenCudaRuntime on the CUDA runtime, linked statically: the process starts without a driver.
#include <cuda_runtime_api.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "base/cuda/error.h"
#include "base/cuda/runtime.h"
#include "base/status_macros.h"

namespace loci {
namespace {

absl::Status ToStatus(cudaError_t error, absl::string_view action) {
  if (error == cudaSuccess) return absl::OkStatus();
  (void)cudaGetLastError();  // One that is not sticky is told once.
  return CudaStatus(error, cudaGetErrorName(error), cudaGetErrorString(error), std::string(action));
}

cudaStream_t Stream(CudaHandle handle) { return static_cast<cudaStream_t>(handle); }
cudaEvent_t Event(CudaHandle handle) { return static_cast<cudaEvent_t>(handle); }

class DeviceRuntime : public CudaRuntime {
 public:
  DeviceRuntime(int ordinal, int multiprocessors) : ordinal_(ordinal), multiprocessors_(multiprocessors) {}

  int multiprocessor_count() const override { return multiprocessors_; }

  absl::StatusOr<Memory> GetMemory() override {
    LOCI_RETURN_IF_ERROR(Use());
    size_t free_bytes = 0, total_bytes = 0;
    LOCI_RETURN_IF_ERROR(ToStatus(cudaMemGetInfo(&free_bytes, &total_bytes), "asking for the device's memory"));
    return Memory{.free_bytes = static_cast<int64_t>(free_bytes), .total_bytes = static_cast<int64_t>(total_bytes)};
  }

  absl::StatusOr<void*> Allocate(int64_t bytes) override {
    LOCI_RETURN_IF_ERROR(Use());
    void* memory = nullptr;
    LOCI_RETURN_IF_ERROR(
        ToStatus(cudaMalloc(&memory, static_cast<size_t>(bytes)), absl::StrCat("allocating ", bytes, " bytes on the device")));
    return memory;
  }
  void Free(void* memory) override {
    if (Use().ok()) (void)cudaFree(memory);
  }
  absl::StatusOr<void*> AllocatePinned(int64_t bytes) override {
    LOCI_RETURN_IF_ERROR(Use());
    void* memory = nullptr;
    LOCI_RETURN_IF_ERROR(ToStatus(cudaHostAlloc(&memory, static_cast<size_t>(bytes), cudaHostAllocDefault),
                                  absl::StrCat("allocating ", bytes, " bytes of pinned memory")));
    return memory;
  }
  void FreePinned(void* memory) override {
    if (Use().ok()) (void)cudaFreeHost(memory);
  }

  absl::StatusOr<CudaHandle> CreateStream() override {
    LOCI_RETURN_IF_ERROR(Use());
    cudaStream_t stream = nullptr;
    LOCI_RETURN_IF_ERROR(ToStatus(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "creating a stream"));
    return static_cast<CudaHandle>(stream);
  }
  void DestroyStream(CudaHandle stream) override {
    if (Use().ok()) (void)cudaStreamDestroy(Stream(stream));
  }
  absl::StatusOr<CudaHandle> CreateEvent(EventWait wait) override {
    LOCI_RETURN_IF_ERROR(Use());
    cudaEvent_t event = nullptr;
    const unsigned flags = cudaEventDisableTiming | (wait == EventWait::kBlock ? cudaEventBlockingSync : 0);
    LOCI_RETURN_IF_ERROR(ToStatus(cudaEventCreateWithFlags(&event, flags), "creating an event"));
    return static_cast<CudaHandle>(event);
  }
  void DestroyEvent(CudaHandle event) override {
    if (Use().ok()) (void)cudaEventDestroy(Event(event));
  }

  absl::Status CopyToDevice(void* to, const void* from, int64_t bytes, CudaHandle stream) override {
    LOCI_RETURN_IF_ERROR(Use());
    return ToStatus(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyHostToDevice, Stream(stream)),
                    "copying to the device");
  }
  absl::Status CopyToHost(void* to, const void* from, int64_t bytes, CudaHandle stream) override {
    LOCI_RETURN_IF_ERROR(Use());
    return ToStatus(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyDeviceToHost, Stream(stream)),
                    "copying from the device");
  }
  absl::Status CopyOnDevice(void* to, const void* from, int64_t bytes, CudaHandle stream) override {
    LOCI_RETURN_IF_ERROR(Use());
    return ToStatus(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyDeviceToDevice, Stream(stream)),
                    "copying on the device");
  }
  absl::Status Fill(void* to, int byte, int64_t bytes, CudaHandle stream) override {
    LOCI_RETURN_IF_ERROR(Use());
    return ToStatus(cudaMemsetAsync(to, byte, static_cast<size_t>(bytes), Stream(stream)), "filling device memory");
  }

  absl::Status Record(CudaHandle event, CudaHandle stream) override {
    LOCI_RETURN_IF_ERROR(Use());
    return ToStatus(cudaEventRecord(Event(event), Stream(stream)), "recording an event");
  }
  absl::Status Wait(CudaHandle event) override {
    LOCI_RETURN_IF_ERROR(Use());
    return ToStatus(cudaEventSynchronize(Event(event)), "waiting for the device");
  }

  absl::Status BeginCapture(CudaHandle stream) override {
    LOCI_RETURN_IF_ERROR(Use());
    // Other threads go on allocating and copying.
    return ToStatus(cudaStreamBeginCapture(Stream(stream), cudaStreamCaptureModeThreadLocal), "capturing a graph");
  }
  absl::StatusOr<CudaHandle> EndCapture(CudaHandle stream) override {
    LOCI_RETURN_IF_ERROR(Use());
    cudaGraph_t graph = nullptr;
    LOCI_RETURN_IF_ERROR(ToStatus(cudaStreamEndCapture(Stream(stream), &graph), "capturing a graph"));
    cudaGraphExec_t executable = nullptr;
    const absl::Status status = ToStatus(cudaGraphInstantiate(&executable, graph, 0), "instantiating a graph");
    (void)cudaGraphDestroy(graph);
    LOCI_RETURN_IF_ERROR(status);
    return static_cast<CudaHandle>(executable);
  }
  absl::Status LaunchGraph(CudaHandle graph, CudaHandle stream) override {
    LOCI_RETURN_IF_ERROR(Use());
    return ToStatus(cudaGraphLaunch(static_cast<cudaGraphExec_t>(graph), Stream(stream)), "launching a graph");
  }
  void DestroyGraph(CudaHandle graph) override {
    if (Use().ok()) (void)cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(graph));
  }

 private:
  absl::Status Use() const { return ToStatus(cudaSetDevice(ordinal_), "using the device"); }

  const int ordinal_;
  const int multiprocessors_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<CudaRuntime>> OpenCudaRuntime(int ordinal) {
  int driver_version = 0, runtime_version = 0;
  LOCI_RETURN_IF_ERROR(ToStatus(cudaRuntimeGetVersion(&runtime_version), "asking for the runtime's version"));
  LOCI_RETURN_IF_ERROR(ToStatus(cudaDriverGetVersion(&driver_version), "asking for the driver's version"));
  const std::string too_old = WhyDriverIsTooOld(driver_version, runtime_version);
  if (!too_old.empty()) return absl::FailedPreconditionError(too_old);
  int count = 0;
  LOCI_RETURN_IF_ERROR(ToStatus(cudaGetDeviceCount(&count), "counting the devices"));
  if (ordinal < 0 || ordinal >= count) {
    return absl::FailedPreconditionError(
        absl::StrCat("there is no CUDA device ", ordinal, "; this machine has ", count, ", counted from 0"));
  }
  int major = 0, minor = 0, multiprocessors = 0;
  LOCI_RETURN_IF_ERROR(
      ToStatus(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, ordinal), "asking for the device's kind"));
  LOCI_RETURN_IF_ERROR(
      ToStatus(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, ordinal), "asking for the device's kind"));
  LOCI_RETURN_IF_ERROR(ToStatus(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, ordinal),
                                "asking for the device's kind"));
  if (major < kLeastComputeMajor) {
    return absl::FailedPreconditionError(absl::StrCat("CUDA device ", ordinal, " has compute capability ", major, ".", minor,
                                                      ", the least is ", kLeastComputeMajor, ".0"));
  }
  LOCI_RETURN_IF_ERROR(ToStatus(cudaSetDevice(ordinal), "using the device"));
  return std::make_unique<DeviceRuntime>(ordinal, multiprocessors);
}

}  // namespace loci
