// A fixed number of threads and a bounded queue.
#ifndef LOCI_BASE_THREAD_POOL_H_
#define LOCI_BASE_THREAD_POOL_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

namespace loci {

// Thread-safe.
class ThreadPool {
 public:
  // `name` (at most 15 characters) shows in the operating system's thread lists. `queue_limit` bounds tasks not yet started.
  ThreadPool(std::string name, int thread_count, int64_t queue_limit);
  // Runs what is queued, then joins. A task may not outlive what it captured.
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  // False, with `task` untouched by any thread, where the queue is full.
  [[nodiscard]] bool TrySubmit(std::function<void()> task);

  // Calls body(0) ... body(count - 1), each once, on this pool's threads and on the calling one, and returns when all have
  // returned. Progress never depends on a free pool thread, so that a pool task may call it.
  void ParallelFor(int64_t count, const std::function<void(int64_t)>& body);

  int thread_count() const;
  int64_t queue_size() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace loci

#endif  // LOCI_BASE_THREAD_POOL_H_
