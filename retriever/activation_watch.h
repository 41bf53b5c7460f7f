// Looks after a generation for a while once it serves: do requests fail, do searches take long?
//
//   ActivationWatches watches;
//   watches.Record("movies", "g4", absl::StatusCode::kOk, 1'200);                              // whoever answers requests
//   LOCI_ASSIGN_OR_RETURN(std::shared_ptr<void> place, watches.Reserve());                     // whoever will activate
//   LOCI_ASSIGN_OR_RETURN(std::string summary, watches.Watch("movies", "g4", conditions, limits));   // whoever activated
#ifndef LOCI_RETRIEVER_ACTIVATION_WATCH_H_
#define LOCI_RETRIEVER_ACTIVATION_WATCH_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/cancellation.h"
#include "base/clock.h"
#include "base/metrics.h"
#include "base/mutex.h"

namespace loci {

struct WatchConditions {
  int64_t watch_us = 0;
  std::optional<double> max_error_rate;  // Of requests that end, by the server's fault.
  // Of the time that searches take, filters included; of the last 10,000. One that ran into its deadline is slower than any limit.
  std::optional<int64_t> max_p99_us;
  int64_t min_requests = 20;             // Judged from so many on.
};

// Thread-safe.
class ActivationWatches {
 public:
  // Borrowed. `max_watches`: places for Reserve.
  explicit ActivationWatches(MetricsSink& metrics = NullMetrics(), Clock* clock = &RealClock(), int max_watches = 8)
      : clock_(clock), max_watches_(max_watches), reserved_count_(std::make_shared<std::atomic<int>>(0)),
        rollbacks_(metrics.counter("loci_watch_rollbacks_total", "Activations that were rolled back because a condition of their watch failed.", {})) {}

  // A place for one watch, taken for as long as it is held: who calls Watch on a pool of threads is sure of one. RESOURCE_EXHAUSTED, reason
  // OVERLOADED, where all are taken.
  absl::StatusOr<std::shared_ptr<void>> Reserve();

  bool IsWatching() const { return watched_count_.load(std::memory_order_relaxed) > 0; }  // Anything at all. Dirt cheap.
  // A request to `generation`, which `store` served, has ended; `search_us` is nothing where it failed. Does next to nothing where no store is
  // watched.
  void Record(std::string_view store, std::string_view generation, absl::StatusCode code, int64_t search_us);

  // Returns a line of what was seen once the time has passed, `limits` say so, or it is not `is_serving` any more, which are no errors here.
  // FAILED_PRECONDITION, reason WATCH_FAILED, with the figures, as soon as a condition fails. `progress` is told milliseconds. Both may be
  // null. Blocks.
  absl::StatusOr<std::string> Watch(const std::string& store, const std::string& generation, const WatchConditions& conditions,
                                    const RequestLimits& limits,
                                    const std::function<void(int64_t done_ms, int64_t total_ms)>& progress = nullptr,
                                    const std::function<bool()>& is_serving = nullptr);
  void CountRollback() { rollbacks_.Add(1); }  // For whoever rolled back what a watch failed for.

 private:
  struct Watched {
    std::string store, generation;
    int64_t request_count = 0;
    int64_t failure_count = 0;
    std::vector<int64_t> times_us;  // Of the last ones; a ring.
    size_t next_time = 0;
  };
  absl::Status Check(const Watched& seen, const WatchConditions& conditions) const;

  Clock* const clock_;
  const int max_watches_;
  const std::shared_ptr<std::atomic<int>> reserved_count_;  // Places may outlive this.
  Counter& rollbacks_;
  std::atomic<int> watched_count_{0};
  Mutex mutex_;
  std::list<Watched> watched_ ABSL_GUARDED_BY(mutex_);
};

// Of a request that ends with this code: whether it is the server's fault. That it took too long is.
bool IsServerFault(absl::StatusCode code);

}  // namespace loci

#endif  // LOCI_RETRIEVER_ACTIVATION_WATCH_H_
