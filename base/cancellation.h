// A flag that a request's owner raises and its workers look at before they start something dear.
#ifndef LOCI_BASE_CANCELLATION_H_
#define LOCI_BASE_CANCELLATION_H_

#include <atomic>
#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "base/clock.h"

namespace loci {

// What a piece of work must respect: a deadline on Clock::NowMicros's scale and a cancellation flag.
// Cheap to copy; copies share the flag. Thread-safe.
class RequestLimits {
 public:
  RequestLimits() : RequestLimits(kNoDeadlineMicros) {}
  explicit RequestLimits(int64_t deadline_us)
      : deadline_us_(deadline_us), cancelled_(std::make_shared<std::atomic<bool>>(false)) {}

  void Cancel() const { cancelled_->store(true, std::memory_order_relaxed); }
  bool cancelled() const { return cancelled_->load(std::memory_order_relaxed); }
  int64_t deadline_us() const { return deadline_us_; }

  // OK, CANCELLED or DEADLINE_EXCEEDED as of `now_us`.
  absl::Status Check(int64_t now_us) const {
    if (cancelled()) return absl::CancelledError("the client cancelled the request");
    if (now_us >= deadline_us_) return absl::DeadlineExceededError("the deadline passed before the work was started");
    return absl::OkStatus();
  }

 private:
  int64_t deadline_us_;
  std::shared_ptr<std::atomic<bool>> cancelled_;
};

}  // namespace loci

#endif  // LOCI_BASE_CANCELLATION_H_
