// Frees what was replaced, after its last user let go, on a thread of its own: unmapping a generation takes long, and no request
// should pay for it.
#ifndef LOCI_RETRIEVER_DRAINER_H_
#define LOCI_RETRIEVER_DRAINER_H_

#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "base/mutex.h"

namespace loci {

// Thread-safe.
class Drainer {
 public:
  Drainer();
  // Ends the thread; what is still held elsewhere is then freed by its last holder.
  ~Drainer();
  // Ends the thread, once a `retired` that runs has returned; nothing is called after. For whoever made this.
  void Stop();

  // Takes a reference to something that nobody can get a new reference to. When this is the last one, it is released on the
  // drainer's thread, and `retired` is called there. What is draining already is not taken twice: the first call's `retired` stands.
  void Add(std::shared_ptr<const void> object, std::function<void()> retired);

  // Replaced objects that somebody still holds.
  int64_t draining_count() const;

 private:
  struct Entry {
    std::shared_ptr<const void> object;
    std::function<void()> retired;
  };
  void Run();

  mutable Mutex mutex_;
  CondVar changed_;
  std::vector<Entry> entries_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace loci

#endif  // LOCI_RETRIEVER_DRAINER_H_
