// What answers a store's requests: a view and the encoder that serves its vectors, as one unit.
#ifndef LOCI_RETRIEVER_SERVING_SET_H_
#define LOCI_RETRIEVER_SERVING_SET_H_

#include <memory>
#include <string>
#include <utility>

#include "base/mutex.h"
#include "encoder/text_encoder.h"
#include "index/view.h"

namespace loci {

// A request takes one and holds it to its end, so that no reply mixes two. Immutable after construction.
struct ServingSet {
  std::string store;
  std::shared_ptr<const View> view;
  // Its query half serves the passage half of the view's generation. Null where the server has none that does: vectors can still be
  // searched, texts can't.
  std::shared_ptr<TextEncoder> encoder;
};

// The one pointer that an activation swaps. Thread-safe.
class ServingSetHolder {
 public:
  // Null where nothing is served.
  std::shared_ptr<const ServingSet> Get() const {
    MutexLock lock(&mutex_);
    return current_;
  }
  // Returns what was served before.
  std::shared_ptr<const ServingSet> Publish(std::shared_ptr<const ServingSet> next) {
    MutexLock lock(&mutex_);
    current_.swap(next);
    return next;
  }
  // The same, where that still is `expected`; whether it was.
  bool Replace(const std::shared_ptr<const ServingSet>& expected, std::shared_ptr<const ServingSet> next) {
    MutexLock lock(&mutex_);
    if (current_ != expected) return false;
    current_.swap(next);  // Dies after the lock.
    return true;
  }

 private:
  mutable Mutex mutex_;
  std::shared_ptr<const ServingSet> current_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace loci

#endif  // LOCI_RETRIEVER_SERVING_SET_H_
