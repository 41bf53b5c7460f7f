#include "base/cuda/testing/fake_runtime.h"

#include <cstdlib>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace loci {

struct FakeCudaRuntime::Graph {
  std::vector<Work> nodes;
};

struct FakeCudaRuntime::Stream {
  std::deque<Work> queue;
  int64_t queued = 0;  // Ever.
  int64_t done = 0;
  std::unique_ptr<Graph> capture;
};

struct FakeCudaRuntime::Event {
  Stream* stream = nullptr;
  int64_t position = 0;
  EventWait wait = EventWait::kSpin;
};

FakeCudaRuntime::~FakeCudaRuntime() {
  MutexLock lock(&mutex_);
  for (const auto& [memory, bytes] : device_) std::free(memory);
  for (const auto& [memory, bytes] : pinned_) std::free(memory);
}

absl::Status FakeCudaRuntime::Ask(const std::string& call) const {
  std::function<absl::Status(const std::string&)> fault;
  {
    MutexLock lock(&mutex_);
    if (!sticky_.ok()) return sticky_;
    fault = fault_;
  }
  return fault ? fault(call) : absl::OkStatus();
}

void FakeCudaRuntime::SetFault(std::function<absl::Status(const std::string&)> fault) {
  MutexLock lock(&mutex_);
  fault_ = std::move(fault);
}

int64_t FakeCudaRuntime::device_bytes() const {
  MutexLock lock(&mutex_);
  return device_bytes_;
}
int64_t FakeCudaRuntime::pinned_bytes() const {
  MutexLock lock(&mutex_);
  return pinned_bytes_;
}
int64_t FakeCudaRuntime::allocations() const {
  MutexLock lock(&mutex_);
  return allocations_;
}
int64_t FakeCudaRuntime::live_handles() const {
  MutexLock lock(&mutex_);
  return handles_;
}
int64_t FakeCudaRuntime::live_graphs() const {
  MutexLock lock(&mutex_);
  return graphs_;
}
int64_t FakeCudaRuntime::graphs_captured() const {
  MutexLock lock(&mutex_);
  return captured_;
}
int64_t FakeCudaRuntime::graph_launches() const {
  MutexLock lock(&mutex_);
  return launches_;
}
int64_t FakeCudaRuntime::waits() const {
  MutexLock lock(&mutex_);
  return waits_;
}
int64_t FakeCudaRuntime::blocking_waits() const {
  MutexLock lock(&mutex_);
  return blocking_waits_;
}

absl::StatusOr<CudaRuntime::Memory> FakeCudaRuntime::GetMemory() {
  LOCI_RETURN_IF_ERROR(Ask("GetMemory"));
  MutexLock lock(&mutex_);
  return Memory{.free_bytes = memory_bytes_ - device_bytes_, .total_bytes = memory_bytes_};
}

absl::StatusOr<void*> FakeCudaRuntime::Take(int64_t bytes, bool pinned) {
  MutexLock lock(&mutex_);
  ++allocations_;
  if (!pinned && bytes > memory_bytes_ - device_bytes_) {
    return absl::ResourceExhaustedError(absl::StrCat("allocating ", bytes, " bytes on the device: out of memory"));
  }
  void* const memory = std::aligned_alloc(256, static_cast<size_t>((bytes + 255) / 256 * 256));
  std::memset(memory, 0xFF, static_cast<size_t>(bytes));
  (pinned ? pinned_ : device_)[memory] = bytes;
  (pinned ? pinned_bytes_ : device_bytes_) += bytes;
  return memory;
}

void FakeCudaRuntime::GiveBack(void* memory, bool pinned) {
  MutexLock lock(&mutex_);
  auto& all = pinned ? pinned_ : device_;
  const auto found = all.find(memory);
  if (found == all.end()) std::abort();
  (pinned ? pinned_bytes_ : device_bytes_) -= found->second;
  all.erase(found);
  std::free(memory);
}

absl::StatusOr<void*> FakeCudaRuntime::Allocate(int64_t bytes) {
  LOCI_RETURN_IF_ERROR(Ask("Allocate"));
  return Take(bytes, false);
}
void FakeCudaRuntime::Free(void* memory) { GiveBack(memory, false); }
absl::StatusOr<void*> FakeCudaRuntime::AllocatePinned(int64_t bytes) {
  LOCI_RETURN_IF_ERROR(Ask("AllocatePinned"));
  return Take(bytes, true);
}
void FakeCudaRuntime::FreePinned(void* memory) { GiveBack(memory, true); }

absl::StatusOr<CudaHandle> FakeCudaRuntime::CreateStream() {
  LOCI_RETURN_IF_ERROR(Ask("CreateStream"));
  MutexLock lock(&mutex_);
  ++handles_;
  return static_cast<CudaHandle>(new Stream);
}
void FakeCudaRuntime::DestroyStream(CudaHandle stream) {
  delete static_cast<Stream*>(stream);
  MutexLock lock(&mutex_);
  --handles_;
}
absl::StatusOr<CudaHandle> FakeCudaRuntime::CreateEvent(EventWait wait) {
  LOCI_RETURN_IF_ERROR(Ask("CreateEvent"));
  MutexLock lock(&mutex_);
  ++handles_;
  return static_cast<CudaHandle>(new Event{.wait = wait});
}
void FakeCudaRuntime::DestroyEvent(CudaHandle event) {
  delete static_cast<Event*>(event);
  MutexLock lock(&mutex_);
  --handles_;
}

bool FakeCudaRuntime::is_capturing(CudaHandle stream) const { return static_cast<Stream*>(stream)->capture != nullptr; }

absl::Status FakeCudaRuntime::Enqueue(CudaHandle handle, Work work) {
  Stream& stream = *static_cast<Stream*>(handle);
  if (stream.capture != nullptr) {
    stream.capture->nodes.push_back(std::move(work));
    return absl::OkStatus();
  }
  stream.queue.push_back(std::move(work));
  ++stream.queued;
  return absl::OkStatus();
}

absl::Status FakeCudaRuntime::CopyToDevice(void* to, const void* from, int64_t bytes, CudaHandle stream) {
  LOCI_RETURN_IF_ERROR(Ask("CopyToDevice"));
  return Enqueue(stream, [=] {
    std::memcpy(to, from, static_cast<size_t>(bytes));
    return absl::OkStatus();
  });
}
absl::Status FakeCudaRuntime::CopyToHost(void* to, const void* from, int64_t bytes, CudaHandle stream) {
  LOCI_RETURN_IF_ERROR(Ask("CopyToHost"));
  return Enqueue(stream, [=] {
    std::memcpy(to, from, static_cast<size_t>(bytes));
    return absl::OkStatus();
  });
}
absl::Status FakeCudaRuntime::CopyOnDevice(void* to, const void* from, int64_t bytes, CudaHandle stream) {
  return CopyToDevice(to, from, bytes, stream);
}
absl::Status FakeCudaRuntime::Fill(void* to, int byte, int64_t bytes, CudaHandle stream) {
  LOCI_RETURN_IF_ERROR(Ask("Fill"));
  return Enqueue(stream, [=] {
    std::memset(to, byte, static_cast<size_t>(bytes));
    return absl::OkStatus();
  });
}

absl::Status FakeCudaRuntime::Record(CudaHandle event, CudaHandle handle) {
  LOCI_RETURN_IF_ERROR(Ask("Record"));
  Stream& stream = *static_cast<Stream*>(handle);
  if (stream.capture != nullptr) return absl::UnavailableError("an event was recorded into a graph");
  Event& recorded = *static_cast<Event*>(event);
  recorded.stream = &stream;
  recorded.position = stream.queued;
  return absl::OkStatus();
}

absl::Status FakeCudaRuntime::Wait(CudaHandle handle) {
  LOCI_RETURN_IF_ERROR(Ask("Wait"));
  const Event& event = *static_cast<Event*>(handle);
  {
    MutexLock lock(&mutex_);
    ++waits_;
    blocking_waits_ += event.wait == EventWait::kBlock;
  }
  if (event.stream == nullptr) return absl::OkStatus();
  Stream& stream = *event.stream;
  while (stream.done < event.position) {
    absl::Status status = Ask("run");
    if (status.ok()) status = stream.queue.front()();
    stream.queue.pop_front();
    ++stream.done;
    if (!status.ok()) {
      MutexLock lock(&mutex_);
      sticky_ = status;
      return status;
    }
  }
  return absl::OkStatus();
}

absl::Status FakeCudaRuntime::BeginCapture(CudaHandle stream) {
  LOCI_RETURN_IF_ERROR(Ask("BeginCapture"));
  static_cast<Stream*>(stream)->capture = std::make_unique<Graph>();
  return absl::OkStatus();
}
absl::StatusOr<CudaHandle> FakeCudaRuntime::EndCapture(CudaHandle stream) {
  std::unique_ptr<Graph> graph = std::move(static_cast<Stream*>(stream)->capture);
  LOCI_RETURN_IF_ERROR(Ask("EndCapture"));
  MutexLock lock(&mutex_);
  ++graphs_;
  ++captured_;
  return static_cast<CudaHandle>(graph.release());
}
absl::Status FakeCudaRuntime::LaunchGraph(CudaHandle graph, CudaHandle stream) {
  LOCI_RETURN_IF_ERROR(Ask("LaunchGraph"));
  for (const Work& node : static_cast<Graph*>(graph)->nodes) LOCI_RETURN_IF_ERROR(Enqueue(stream, node));
  MutexLock lock(&mutex_);
  ++launches_;
  return absl::OkStatus();
}
void FakeCudaRuntime::DestroyGraph(CudaHandle graph) {
  delete static_cast<Graph*>(graph);
  MutexLock lock(&mutex_);
  --graphs_;
}

}  // namespace loci
