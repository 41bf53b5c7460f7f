// Work that waits for a thread, by kind: what waits of one kind is taken together.
//
//   if (waiting.Add(kind, item, weight)) Submit([kind] { ... waiting.Take(kind, kMaxWeight) ... });
//
// Or, where what was taken must be done before more of its kind is begun: Take(kind, kMaxWeight, /*stay=*/true), and Leave(kind) once it is.
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
// something, or who stays. Nothing waits without one, so nothing is forgotten. Whoever adds bounds what waits. Thread-safe.
template <typename Kind, typename Item>
class WaitingGroups {
 public:
  struct Taken {
    std::vector<Item> items;  // In the order in which they came.
    bool more = false;        // Others of the kind still wait: Take is to be called again.
  };

  // True: nothing of `kind` waited and nobody stays for it, and the caller must see to it that Take is called.
  [[nodiscard]] bool Add(const Kind& kind, Item item, int64_t weight) {
    MutexLock lock(&mutex_);
    Group& group = groups_[kind];
    group.queue.emplace_back(std::move(item), weight);
    return group.queue.size() == 1 && !group.stays;
  }

  // What has waited longest of `kind`: as much as weighs at most `max_weight` together, but one item whatever its weight. Who is to `stay` is the caller
  // still, whatever waits or comes (`more` is false), until Leave; not where nothing is taken.
  Taken Take(const Kind& kind, int64_t max_weight, bool stay = false) {
    Taken taken;
    MutexLock lock(&mutex_);
    const auto found = groups_.find(kind);
    if (found == groups_.end()) return taken;
    Queue& queue = found->second.queue;
    int64_t weight = 0;
    while (!queue.empty() && (taken.items.empty() || weight + queue.front().second <= max_weight)) {
      weight += queue.front().second;
      taken.items.push_back(std::move(queue.front().first));
      queue.pop_front();
    }
    found->second.stays = stay;
    if (stay) return taken;
    taken.more = !queue.empty();
    if (!taken.more) groups_.erase(found);
    return taken;
  }

  // Of one who stayed. True: something waits, and Take is to be called again.
  [[nodiscard]] bool Leave(const Kind& kind) {
    MutexLock lock(&mutex_);
    const auto found = groups_.find(kind);
    if (found == groups_.end()) return false;
    found->second.stays = false;
    if (!found->second.queue.empty()) return true;
    groups_.erase(found);
    return false;
  }

 private:
  using Queue = std::deque<std::pair<Item, int64_t>>;
  struct Group {
    Queue queue;
    bool stays = false;  // Its caller.
  };

  Mutex mutex_;
  std::map<Kind, Group> groups_ ABSL_GUARDED_BY(mutex_);  // Of each kind of which something waits or whose caller stays.
};

}  // namespace loci

#endif  // LOCI_RETRIEVER_WAITING_GROUPS_H_
