// A CUDA device made of host memory, which does nothing until it is waited for.
//
// Work put on a stream is queued and run by Wait, so that whoever reads a result too early, or writes over what a copy still has to read,
// gets other values than the test expects. Fresh memory is filled with bytes that are NaN in every float type.
#ifndef LOCI_BASE_CUDA_TESTING_FAKE_RUNTIME_H_
#define LOCI_BASE_CUDA_TESTING_FAKE_RUNTIME_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/cuda/runtime.h"
#include "base/mutex.h"

namespace loci {

// Thread-safe, as CudaRuntime is.
class FakeCudaRuntime : public CudaRuntime {
 public:
  using Work = std::function<absl::Status()>;

  explicit FakeCudaRuntime(int64_t memory_bytes = int64_t{1} << 30, int multiprocessors = 4)
      : memory_bytes_(memory_bytes), multiprocessors_(multiprocessors) {}
  ~FakeCudaRuntime() override;

  // A kernel: queued on `stream`, or kept in the graph that it captures.
  absl::Status Enqueue(CudaHandle stream, Work work);

  bool is_capturing(CudaHandle stream) const;

  // Asked at the beginning of each call by its name ("Allocate", "Record", ...) and by each piece of queued work as "run"; what it returns
  // that is not OK is the call's result. Null: nothing fails.
  void SetFault(std::function<absl::Status(const std::string& call)> fault);

  // Live device and pinned bytes, calls of Allocate and AllocatePinned so far, live handles and graphs.
  int64_t device_bytes() const;
  int64_t pinned_bytes() const;
  int64_t allocations() const;
  int64_t live_handles() const;
  int64_t live_graphs() const;
  int64_t graphs_captured() const;
  int64_t graph_launches() const;
  int64_t waits() const;
  int64_t blocking_waits() const;

  int multiprocessor_count() const override { return multiprocessors_; }
  absl::StatusOr<Memory> GetMemory() override;
  absl::StatusOr<void*> Allocate(int64_t bytes) override;
  void Free(void* memory) override;
  absl::StatusOr<void*> AllocatePinned(int64_t bytes) override;
  void FreePinned(void* memory) override;
  absl::StatusOr<CudaHandle> CreateStream() override;
  void DestroyStream(CudaHandle stream) override;
  absl::StatusOr<CudaHandle> CreateEvent(EventWait wait) override;
  void DestroyEvent(CudaHandle event) override;
  absl::Status CopyToDevice(void* to, const void* from, int64_t bytes, CudaHandle stream) override;
  absl::Status CopyToHost(void* to, const void* from, int64_t bytes, CudaHandle stream) override;
  absl::Status CopyOnDevice(void* to, const void* from, int64_t bytes, CudaHandle stream) override;
  absl::Status Fill(void* to, int byte, int64_t bytes, CudaHandle stream) override;
  absl::Status Record(CudaHandle event, CudaHandle stream) override;
  absl::Status Wait(CudaHandle event) override;
  absl::Status BeginCapture(CudaHandle stream) override;
  absl::StatusOr<CudaHandle> EndCapture(CudaHandle stream) override;
  absl::Status LaunchGraph(CudaHandle graph, CudaHandle stream) override;
  void DestroyGraph(CudaHandle graph) override;

 private:
  struct Stream;
  struct Event;
  struct Graph;

  absl::Status Ask(const std::string& call) const;
  absl::StatusOr<void*> Take(int64_t bytes, bool pinned);
  void GiveBack(void* memory, bool pinned);

  const int64_t memory_bytes_;
  const int multiprocessors_;
  mutable Mutex mutex_;
  std::function<absl::Status(const std::string&)> fault_ ABSL_GUARDED_BY(mutex_);
  std::map<void*, int64_t> device_ ABSL_GUARDED_BY(mutex_);
  std::map<void*, int64_t> pinned_ ABSL_GUARDED_BY(mutex_);
  int64_t device_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t pinned_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t allocations_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t handles_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t graphs_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t captured_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t launches_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t waits_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t blocking_waits_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Status sticky_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace loci

#endif  // LOCI_BASE_CUDA_TESTING_FAKE_RUNTIME_H_
