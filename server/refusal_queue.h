// Answers of requests that the server refused because it is overloaded, sent together rather than one by one.
//
//   refusals.Add([call, status] { call->Finish(status); });
//
// A refusal's price is not the server's work but the wake-ups, system calls and packets of sending it alone; what is saved there goes to the
// requests that were admitted. Who is refused is asked to wait for longer than this holds the answer anyway.
#ifndef LOCI_SERVER_REFUSAL_QUEUE_H_
#define LOCI_SERVER_REFUSAL_QUEUE_H_

#include <chrono>
#include <cstddef>
#include <functional>
#include <thread>
#include <vector>

#include "base/mutex.h"

namespace loci {

// Thread-safe.
class RefusalQueue {
 public:
  struct Options {
    std::chrono::microseconds hold{50'000};  // From the first answer that is held to the sending of all.
    size_t max_held = 1'024;                 // Answers; with so many they are sent at once.
  };
  explicit RefusalQueue(Options options);
  // Sends what it holds.
  ~RefusalQueue();
  RefusalQueue(const RefusalQueue&) = delete;
  RefusalQueue& operator=(const RefusalQueue&) = delete;

  // `send` is called once, on this queue's thread or, where the queue is full, on the calling one. It may not add to the queue.
  void Add(std::function<void()> send);

  std::chrono::microseconds hold() const { return options_.hold; }

 private:
  void Run();

  const Options options_;
  Mutex mutex_;
  CondVar changed_;
  std::vector<std::function<void()>> held_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;  // Last: it uses all above.
};

}  // namespace loci

#endif  // LOCI_SERVER_REFUSAL_QUEUE_H_
