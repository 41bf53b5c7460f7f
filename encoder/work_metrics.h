// Work done for requests that nobody waits for any more, and work that was spared because it was found out in time.
#ifndef LOCI_ENCODER_WORK_METRICS_H_
#define LOCI_ENCODER_WORK_METRICS_H_

#include <array>

#include "absl/status/status.h"
#include "base/metrics.h"

namespace loci {

// Phases of a request's life, in their order; kReply makes the reply's message.
enum class WorkPhase { kTokenize, kEncode, kSearch, kRead, kReply };
inline constexpr int kWorkPhaseCount = 5;

// loci_wasted_work_total{phase} counts requests that were cancelled or late when `phase` had been done, at least in part, for them, the last
// one that was; loci_avoided_work_total{phase} those that were dropped before it, the first one that was not. A request counts at most once
// in each. In tokens: loci_batcher_wasted_tokens_total and loci_batcher_dropped_tokens_total. Thread-safe.
class WorkMetrics {
 public:
  explicit WorkMetrics(MetricsSink& sink);  // All series are there from the start. `sink` is borrowed.

  void Wasted(WorkPhase last_done) { wasted_[static_cast<size_t>(last_done)]->Add(1); }
  void Avoided(WorkPhase next) { avoided_[static_cast<size_t>(next)]->Add(1); }

 private:
  std::array<Counter*, kWorkPhaseCount> wasted_;  // Constant after construction.
  std::array<Counter*, kWorkPhaseCount> avoided_;
};

// Whether nobody waits any more: CANCELLED or DEADLINE_EXCEEDED.
bool IsAbandoned(const absl::Status& status);

}  // namespace loci

#endif  // LOCI_ENCODER_WORK_METRICS_H_
