// The series that every request adds to. All of them exist from the start, so that a rate over them has a beginning.
#ifndef LOCI_SERVER_REQUEST_METRICS_H_
#define LOCI_SERVER_REQUEST_METRICS_H_

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "base/metrics.h"
#include "encoder/types.h"
#include "retriever/pipeline.h"
#include "server/method.h"

namespace loci {

// Thread-safe.
class RequestMetrics {
 public:
  // `sink` is borrowed.
  explicit RequestMetrics(MetricsSink& sink);

  void Finished(Method method, absl::StatusCode code, int64_t duration_us);
  void Phases(Method method, const PhaseTimes& times);  // Phases that did not run (0) are not observed.
  void Tokens(Method method, const TokenUsage& usage);

 private:
  static constexpr int kCodeCount = 17;
  static constexpr int kPhaseCount = 7;
  struct PerMethod {
    std::array<Counter*, kCodeCount> requests{};
    Histogram* latency = nullptr;
    std::array<Histogram*, kPhaseCount> phases{};  // Null for a method without phases.
    Counter* input_tokens = nullptr;
    Counter* used_tokens = nullptr;
  };
  std::array<PerMethod, kMethodCount> methods_;  // Constant after construction.
};

}  // namespace loci

#endif  // LOCI_SERVER_REQUEST_METRICS_H_
