// Which generations a device searches exactly: those that serve, as far as its memory goes. The CPU searches the others, and says why.
//
//   Bring before a generation serves; TakeAway once it does not any more. What found no room waits: once some is freed it is brought there, on this
//   one's thread.
#ifndef LOCI_RETRIEVER_SEARCH_PLACEMENT_H_
#define LOCI_RETRIEVER_SEARCH_PLACEMENT_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "base/thread_pool.h"
#include "index/generation.h"
#include "retriever/drainer.h"

namespace loci {

// Thread-safe. Without a placer (null) everything is the CPU's, and nothing is done.
class SearchPlacement {
 public:
  struct Options {
    ExactPlacer* placer = nullptr;  // Borrowed.
    Drainer* drainer = nullptr;     // Borrowed. Frees what was taken away.
    std::function<std::vector<std::weak_ptr<const Generation>>()> serving;
  };

  explicit SearchPlacement(Options options);
  ~SearchPlacement();  // Ends the thread: nothing may be called any more, by the drainer either.
  // Ends every upload that is under way, and lets none begin: what is not on the device by then stays the CPU's.
  void Close() { closing_.store(true, std::memory_order_relaxed); }

  // Whether the device is meant to search it: its index is exact, and it is large enough.
  bool IsMeant(const Generation& generation) const;
  bool IsMeant(const storage::Manifest& manifest) const;
  // The host memory that takes; 0 where it is not meant to.
  int64_t HostBytes(const storage::Manifest& manifest) const;

  // OK where the device searches it from now on, or the CPU does because it is not meant for the device, after Close, or, exact_index().refusal(), since it
  // can't be there.
  // UNAVAILABLE where the device failed, DATA_LOSS as ExactPlacer::Place, what `progress(done_rows)` (may be null) returns. Blocks. Not at once for one
  // generation.
  absl::Status Bring(const Generation& generation, const std::function<absl::Status(int64_t done_rows)>& progress);

  // The CPU searches it from now on, unless the device failed. Device memory is freed on the drainer's thread, after the searches that have begun.
  void TakeAway(const Generation& generation);

  // What people are told of a generation's exact_index().refusal(), which is the placer's; empty for OK.
  std::string Tell(const absl::Status& refusal) const;

  // There may be room: tries those that serve and wait for some, in the background. An error of one, whatever it is, becomes its refusal(), and it
  // is not tried again unless it is about room.
  void Wake();

 private:
  void PlaceWaiting();
  void Refuse(const Generation& generation, const absl::Status& why);
  bool IsServing(const Generation& generation) const;

  const Options options_;
  std::atomic<bool> closing_{false};
  std::atomic<bool> woken_{false};
  std::unique_ptr<ThreadPool> pool_;  // Null without a placer.
};

// Takes away, at its end, what was brought and does not serve. Used by one thread.
class ScopedPlacement {
 public:
  ScopedPlacement(SearchPlacement& placement, std::shared_ptr<const Generation> generation, std::function<bool()> serves)
      : placement_(placement), generation_(std::move(generation)), serves_(std::move(serves)) {}
  ~ScopedPlacement() {
    if (!serves_()) placement_.TakeAway(*generation_);
  }
  ScopedPlacement(const ScopedPlacement&) = delete;
  ScopedPlacement& operator=(const ScopedPlacement&) = delete;

 private:
  SearchPlacement& placement_;
  const std::shared_ptr<const Generation> generation_;
  const std::function<bool()> serves_;
};

}  // namespace loci

#endif  // LOCI_RETRIEVER_SEARCH_PLACEMENT_H_
