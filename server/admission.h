// How much the server takes on at once, and whether it takes anything.
//
//   LOCI_ASSIGN_OR_RETURN(Admission::Permit permit, admission.Acquire(request.ByteSizeLong()));
//   ... hand over, answer, drop the permit ...
#ifndef LOCI_SERVER_ADMISSION_H_
#define LOCI_SERVER_ADMISSION_H_

#include <cstdint>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/metrics.h"
#include "base/mutex.h"

namespace loci {

// Thread-safe.
class Admission {
 public:
  struct Options {
    std::string kind = "request";         // For messages and the label of loci_in_flight.
    std::string method;                   // Not empty: a limit of this method alone, which messages name; the gauge has it, too.
    int64_t max_requests = 1'024;         // >= 1
    int64_t max_bytes = int64_t{1} << 28;  // Of requests held together; a lone request is taken whatever its size.
    MetricsSink* metrics = &NullMetrics();
  };

  // Held by a request from its admission to its answer. Movable. Used by one thread at a time.
  class Permit {
   public:
    Permit() = default;
    Permit(Permit&& other) noexcept { *this = std::move(other); }
    Permit& operator=(Permit&& other) noexcept {
      Release();
      admission_ = std::exchange(other.admission_, nullptr);
      bytes_ = other.bytes_;
      return *this;
    }
    ~Permit() { Release(); }
    void Release();  // Nothing where it was released.

   private:
    friend class Admission;
    Permit(Admission* admission, int64_t bytes) : admission_(admission), bytes_(bytes) {}
    Admission* admission_ = nullptr;
    int64_t bytes_ = 0;
  };

  explicit Admission(Options options);

  // RESOURCE_EXHAUSTED, reason OVERLOADED, with the method where it is one's, count and limit; UNAVAILABLE, reason DRAINING, after Drain. Does not
  // wait. The permit may not outlive this object. What is refused is counted: loci_refused_total{kind, reason}, kind "request", "ingest", ... as
  // configured, reason "count", "method_count", "bytes" or "draining".
  absl::StatusOr<Permit> Acquire(int64_t size_bytes);

  // From now on nothing is admitted.
  void Drain();
  // Whether all permits were released within `timeout_ms`. Call after Drain.
  bool WaitUntilIdle(int64_t timeout_ms);

  // Returns once nothing has come, to be refused, for `quiet_ms`, after `timeout_ms` at the latest. Call after Drain.
  void WaitUntilQuiet(int64_t quiet_ms, int64_t timeout_ms);

  int64_t in_flight() const;

 private:
  const Options options_;
  Gauge& gauge_;
  Counter& refused_count_;
  Counter& refused_bytes_;
  Counter& refused_draining_;
  mutable Mutex mutex_;
  CondVar idle_;
  int64_t in_flight_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;
  int64_t last_refusal_us_ ABSL_GUARDED_BY(mutex_) = 0;  // Because of draining; when that began, where there was none yet.
};

}  // namespace loci

#endif  // LOCI_SERVER_ADMISSION_H_
