// The sessions of training jobs: leases on what a store serves.
//
//   LOCI_ASSIGN_OR_RETURN(const TrainingLease lease, sessions.Open(*manager.Capture("movies", ""), 0));
//   LOCI_ASSIGN_OR_RETURN(TrainingSessions::Use use, sessions.Begin(lease.session_id));   // A request holds it to its end.
//   LOCI_ASSIGN_OR_RETURN(const std::string handle, use.Keep(retrieval));
//
//   OPEN -> ENDED (closed, or its lease is over while no request uses it) -> freed (no request uses it)
#ifndef LOCI_RETRIEVER_TRAINING_SESSIONS_H_
#define LOCI_RETRIEVER_TRAINING_SESSIONS_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/gauge_sample.h"
#include "base/memory_info.h"
#include "base/metrics.h"
#include "base/mutex.h"
#include "retriever/encoder_drift_table.h"
#include "retriever/serving_set.h"
#include "retriever/training_estimator.h"
#include "retriever/training_monitor.h"

namespace loci {

inline constexpr int32_t kMinLeaseMs = 1'000;
inline constexpr int32_t kMaxLeaseMs = 3'600'000;
inline constexpr int32_t kDefaultLeaseMs = 60'000;

// What one Retrieve found, kept for Backward. Immutable once it is kept.
struct TrainingRetrieval {
  std::vector<double> queries;  // [results, dim]: what was retrieved with.
  TrainingOptions options;      // Its limits are that request's.
  std::vector<TrainingResult> results;

  int64_t memory_bytes() const;
};

struct TrainingLease {
  std::string session_id;
  std::shared_ptr<const ServingSet> serving_set;
  int32_t lease_ms = 0;
};

// What sessions hold is freed on a thread of this object's own, whoever ends them: an encoder may not end on a thread of its own batcher. Who
// takes a copy of a serving set sees to that itself. Thread-safe.
class TrainingSessions {
 private:
  struct Session;

 public:
  static constexpr int64_t kReleaseBytes = int64_t{1} << 20;

  struct Options {
    Clock* clock = &RealClock();  // Borrowed, as `metrics`.
    MetricsSink* metrics = &NullMetrics();
    const EncoderDriftTable* drifts = nullptr;  // Borrowed; null: none.
    int64_t max_sessions = 256;
    int64_t max_handles = 64;                         // Of a session.
    int64_t max_handle_bytes = int64_t{1} << 30;      // Of all sessions.
    int64_t poll_ms = 250;                            // Between two looks at leases.
    std::function<void()> release_memory = ReleaseFreeMemory;  // Called once what a session with kReleaseBytes of handles or more held is freed.
  };

  // A request of a session. As long as it lives the session's lease is not over, and ends no earlier than a lease after it; what it borrows
  // from the session stays, whether that is closed or not. Movable; may not outlive its TrainingSessions. Used by one thread at a time.
  class Use {
   public:
    Use() = default;
    Use(Use&& other) noexcept { *this = std::move(other); }
    Use& operator=(Use&& other) noexcept;
    ~Use() { Release(); }
    void Release();  // Nothing where it was released.

    const ServingSet& serving_set() const;
    // The same view with the encoder of texts, which may be null: then one may be looked for again, and told by FoundEncoder. What it says then is
    // freed with the session.
    std::shared_ptr<const ServingSet> encoding_set() const;
    void FoundEncoder(std::shared_ptr<const ServingSet> set) const;
    TrainingMonitor& monitor() const;

    // The name of `retrieval` from now on. Where a limit is passed the oldest one of this session goes, or of the session that has the most bytes;
    // never one that is the only one of another session. RESOURCE_EXHAUSTED, reason OVERLOADED, where that would not make room: then none goes.
    // In a session that was closed meanwhile nothing is kept.
    absl::StatusOr<std::string> Keep(std::shared_ptr<const TrainingRetrieval> retrieval) const;
    // NOT_FOUND, reason HANDLE_NOT_FOUND with `handle`; the message says whether there was such a one.
    absl::StatusOr<std::shared_ptr<const TrainingRetrieval>> Find(std::string_view handle) const;

   private:
    friend class TrainingSessions;
    Use(TrainingSessions* sessions, std::shared_ptr<Session> session) : sessions_(sessions), session_(std::move(session)) {}
    TrainingSessions* sessions_ = nullptr;
    std::shared_ptr<Session> session_;
  };

  explicit TrainingSessions(Options options);
  ~TrainingSessions();  // No Use may be alive.

  // A new session on `set`, whose encoder may be null. `lease_ms`: 0, or from kMinLeaseMs to kMaxLeaseMs.
  // RESOURCE_EXHAUSTED, reason OVERLOADED with `retry_after_ms`, where there are too many.
  absl::StatusOr<TrainingLease> Open(std::shared_ptr<const ServingSet> set, int32_t lease_ms);
  // Lets its lease begin anew; 0: as long as it was. NOT_FOUND, reason SESSION_NOT_FOUND with `session`, of this and the next two; the message
  // says whether its lease is over, or it was closed, where that was not long ago.
  absl::StatusOr<TrainingLease> Renew(std::string_view session_id, int32_t lease_ms);
  absl::Status Close(std::string_view session_id);
  absl::StatusOr<Use> Begin(std::string_view session_id);
  // Ends all, before what they hold on to ends. UNAVAILABLE, reason DRAINING, from Open from now on.
  void CloseAll();

  // Sessions that have leased a generation of a store; not those whose lease is over.
  int64_t LeaseCount(std::string_view store, std::string_view generation) const;

  // Of each session and of all.
  std::vector<GaugeSample> Metrics() const;

 private:
  // Whether, and how, a session ended.
  enum class End { kClosed, kExpired };

  absl::StatusOr<std::shared_ptr<Session>> FindLocked(std::string_view session_id) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void ExpireLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  using SessionMap = std::map<std::string, std::shared_ptr<Session>, std::less<>>;
  SessionMap::iterator EndLocked(SessionMap::iterator found, End end) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void DropOldestLocked(Session& session) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Run();

  const Options options_;
  Counter& opened_;
  Counter& expired_;
  Counter& dropped_;
  mutable Mutex mutex_;
  mutable CondVar changed_;
  SessionMap sessions_ ABSL_GUARDED_BY(mutex_);
  std::deque<std::pair<std::string, End>> ended_ ABSL_GUARDED_BY(mutex_);  // The last ones, newest last.
  int64_t handle_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  mutable std::vector<std::shared_ptr<const void>> garbage_ ABSL_GUARDED_BY(mutex_);  // For the thread to free.
  bool release_ ABSL_GUARDED_BY(mutex_) = false;  // Once the garbage is gone.
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;  // The last member: it uses the others.
};

}  // namespace loci

#endif  // LOCI_RETRIEVER_TRAINING_SESSIONS_H_
