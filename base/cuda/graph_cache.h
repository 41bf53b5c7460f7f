// The graphs that were captured, the least recently used going first.
#ifndef LOCI_BASE_CUDA_GRAPH_CACHE_H_
#define LOCI_BASE_CUDA_GRAPH_CACHE_H_

#include <cstdint>
#include <list>
#include <utility>

#include "base/cuda/runtime.h"

namespace loci {

// At most `capacity` graphs by key. A graph that runs must not be dropped: put new ones in only where the stream is idle.
// Thread-compatible.
class GraphCache {
 public:
  explicit GraphCache(int capacity) : capacity_(static_cast<size_t>(capacity)) {}

  // Null where there is none. What is found is the most recently used from now on.
  CudaHandle Find(int64_t key) {
    for (auto it = graphs_.begin(); it != graphs_.end(); ++it) {
      if (it->first != key) continue;
      graphs_.splice(graphs_.begin(), graphs_, it);
      return it->second.get();
    }
    return nullptr;
  }

  // Drops the least recently used graph where there is no room, and the one of the same key.
  void Insert(int64_t key, CudaGraph graph) {
    graphs_.remove_if([key](const auto& entry) { return entry.first == key; });
    while (!graphs_.empty() && graphs_.size() >= capacity_) graphs_.pop_back();
    if (capacity_ > 0) graphs_.emplace_front(key, std::move(graph));
  }

  int64_t size() const { return static_cast<int64_t>(graphs_.size()); }

 private:
  const size_t capacity_;
  std::list<std::pair<int64_t, CudaGraph>> graphs_;  // Most recently used first. Few: a list is searched as fast as a table.
};

}  // namespace loci

#endif  // LOCI_BASE_CUDA_GRAPH_CACHE_H_
