#include "encoder/work_metrics.h"

namespace loci {
namespace {

constexpr const char* kPhaseNames[kWorkPhaseCount] = {"tokenize", "encode", "search", "read", "reply"};

}  // namespace

WorkMetrics::WorkMetrics(MetricsSink& sink) {
  for (size_t i = 0; i < kWorkPhaseCount; ++i) {
    wasted_[i] = &sink.counter("loci_wasted_work_total", "Requests that were cancelled or late after work on them, by the last phase that was done.",
                               {{"phase", kPhaseNames[i]}});
    avoided_[i] = &sink.counter("loci_avoided_work_total", "Requests that were dropped as cancelled or late, by the first phase that was not done.",
                                {{"phase", kPhaseNames[i]}});
  }
}

bool IsAbandoned(const absl::Status& status) {
  return status.code() == absl::StatusCode::kCancelled || status.code() == absl::StatusCode::kDeadlineExceeded;
}

}  // namespace loci
