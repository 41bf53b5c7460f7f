// Work that waits for a thread, by kind: what waits of one kind is taken together.
//
//   if (waiting.Add(kind, item, weight)) Submit([kind] { ... waiting.Take(kind, kMaxWeight) ... });
#ifndef LOCI_RETRIEVER_WAITING_GROUPS_H_
#define LOCI_RETRIEVER_WAITING_GROUPS_H_

#include <cstdint>
#include <deque>
#include <map>
#include <utility>
#include <vector>

#include "base/mutex.h"

namespace loci {

// Of each kind of which something waits there is one *caller*, who has yet to call Take: the one whose Add said so, or the one whose Take left
// something. Nothing waits without one, so nothing is forgotten. Whoever adds bounds what waits. Thread-safe.
template <typename Kind, typename Item>
class WaitingGroups {
 public:
  struct Taken {
    std::vector<Item> items;  // In the order in which they came.
    bool more = false;        // Others of the kind still wait: Take is to be called again.
  };

  // True: nothing of `kind` waited, and the caller must see to it that Take is called.
  [[nodiscard]] bool Add(const Kind& kind, Item item, int64_t weight) {
    MutexLock lock(&mutex_);
    Queue& queue = queues_[kind];
    queue.emplace_back(std::move(item), weight);
    return queue.size() == 1;
  }

  // What has waited longest of `kind`: as much as weighs at most `max_weight` together, but one item whatever its weight.
  Taken Take(const Kind& kind, int64_t max_weight) {
    Taken taken;
    MutexLock lock(&mutex_);
    const auto found = queues_.find(kind);
    if (found == queues_.end()) return taken;
    Queue& queue = found->second;
    int64_t weight = 0;
    while (!queue.empty() && (taken.items.empty() || weight + queue.front().second <= max_weight)) {
      weight += queue.front().second;
      taken.items.push_back(std::move(queue.front().first));
      queue.pop_front();
    }
    taken.more = !queue.empty();
    if (!taken.more) queues_.erase(found);
    return taken;
  }

 private:
  using Queue = std::deque<std::pair<Item, int64_t>>;

  Mutex mutex_;
  std::map<Kind, Queue> queues_ ABSL_GUARDED_BY(mutex_);  // None is empty.
};

}  // namespace loci

#endif  // LOCI_RETRIEVER_WAITING_GROUPS_H_
