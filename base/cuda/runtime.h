// One CUDA device behind an interface, so that what drives it is tested on machines that have none.
//
//   LOCI_ASSIGN_OR_RETURN(std::unique_ptr<CudaRuntime> runtime, OpenCudaRuntime(0));
//   LOCI_ASSIGN_OR_RETURN(CudaStream stream, Own<CudaStream>(*runtime, runtime->CreateStream()));
//   LOCI_ASSIGN_OR_RETURN(DeviceMemory ids, Own<DeviceMemory>(*runtime, runtime->Allocate(4096)));
//   LOCI_RETURN_IF_ERROR(runtime->CopyToDevice(ids.get(), pinned.get(), 4096, stream.get()));
//
// Work on a stream runs in order, after the call has returned: what a copy reads or writes must stay until an event recorded behind it
// has been waited for. Errors are those of CudaStatus (base/cuda/error.h); one of earlier work may come from any later call.
#ifndef LOCI_BASE_CUDA_RUNTIME_H_
#define LOCI_BASE_CUDA_RUNTIME_H_

#include <cstdint>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace loci {

// Handles of the runtime: a cudaStream_t, a cudaEvent_t, a cudaGraphExec_t, or what a fake makes of them.
using CudaHandle = void*;

// How Wait waits for an event: by asking again and again, which holds a core and comes back at once, or by sleeping, for work that takes long.
enum class EventWait { kSpin, kBlock };

// Thread-safe: each call makes its device the calling thread's. A stream is used by one thread at a time.
class CudaRuntime {
 public:
  struct Memory {
    int64_t free_bytes = 0;
    int64_t total_bytes = 0;
  };

  virtual ~CudaRuntime() = default;

  virtual int multiprocessor_count() const = 0;
  virtual absl::StatusOr<Memory> GetMemory() = 0;

  // Device memory, aligned to 256 bytes, its content anything. RESOURCE_EXHAUSTED where there is not enough. `bytes` > 0.
  virtual absl::StatusOr<void*> Allocate(int64_t bytes) = 0;
  virtual void Free(void* memory) = 0;
  // Host memory that copies run from and to without a detour.
  virtual absl::StatusOr<void*> AllocatePinned(int64_t bytes) = 0;
  virtual void FreePinned(void* memory) = 0;

  virtual absl::StatusOr<CudaHandle> CreateStream() = 0;
  virtual void DestroyStream(CudaHandle stream) = 0;
  virtual absl::StatusOr<CudaHandle> CreateEvent(EventWait wait) = 0;
  virtual void DestroyEvent(CudaHandle event) = 0;

  virtual absl::Status CopyToDevice(void* to, const void* from, int64_t bytes, CudaHandle stream) = 0;
  virtual absl::Status CopyToHost(void* to, const void* from, int64_t bytes, CudaHandle stream) = 0;
  virtual absl::Status CopyOnDevice(void* to, const void* from, int64_t bytes, CudaHandle stream) = 0;
  virtual absl::Status Fill(void* to, int byte, int64_t bytes, CudaHandle stream) = 0;

  virtual absl::Status Record(CudaHandle event, CudaHandle stream) = 0;
  // Blocks until what was recorded is done. The only call here that waits for the device.
  virtual absl::Status Wait(CudaHandle event) = 0;

  // What is put on `stream` between the two is kept as a graph instead of run. The graph may be launched many times, one at a time.
  virtual absl::Status BeginCapture(CudaHandle stream) = 0;
  virtual absl::StatusOr<CudaHandle> EndCapture(CudaHandle stream) = 0;
  virtual absl::Status LaunchGraph(CudaHandle graph, CudaHandle stream) = 0;
  virtual void DestroyGraph(CudaHandle graph) = 0;
};

// FAILED_PRECONDITION in a build without CUDA, without such a device, with a driver older than the runtime, or for a device older than
// the kernels are compiled for.
absl::StatusOr<std::unique_ptr<CudaRuntime>> OpenCudaRuntime(int ordinal);

// Owners of what a runtime hands out, which must outlive them. Movable; empty by default. Thread-compatible.
template <void (CudaRuntime::*release)(void*)>
class CudaOwner {
 public:
  CudaOwner() = default;
  CudaOwner(CudaRuntime& runtime, void* handle) : runtime_(&runtime), handle_(handle) {}
  CudaOwner(CudaOwner&& other) noexcept : runtime_(other.runtime_), handle_(std::exchange(other.handle_, nullptr)) {}
  CudaOwner& operator=(CudaOwner&& other) noexcept {
    std::swap(runtime_, other.runtime_);
    std::swap(handle_, other.handle_);
    return *this;
  }
  ~CudaOwner() {
    if (handle_ != nullptr) (runtime_->*release)(handle_);
  }

  void* get() const { return handle_; }

 private:
  CudaRuntime* runtime_ = nullptr;
  void* handle_ = nullptr;
};

using DeviceMemory = CudaOwner<&CudaRuntime::Free>;
using PinnedMemory = CudaOwner<&CudaRuntime::FreePinned>;
using CudaStream = CudaOwner<&CudaRuntime::DestroyStream>;
using CudaEvent = CudaOwner<&CudaRuntime::DestroyEvent>;
using CudaGraph = CudaOwner<&CudaRuntime::DestroyGraph>;

// `made` is what the runtime's call returned:  LOCI_ASSIGN_OR_RETURN(stream, Own<CudaStream>(runtime, runtime.CreateStream()));
template <typename Owner>
absl::StatusOr<Owner> Own(CudaRuntime& runtime, absl::StatusOr<void*> made) {
  if (!made.ok()) return std::move(made).status();
  return Owner(runtime, *made);
}

}  // namespace loci

#endif  // LOCI_BASE_CUDA_RUNTIME_H_
