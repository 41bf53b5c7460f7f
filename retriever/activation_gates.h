// What a generation must meet before it may answer: quality over judged queries, agreement with what serves, and the time of its searches.
//
//   LOCI_ASSIGN_OR_RETURN(auto figures, MeasureGates(gates, candidate, *encoder, active.get(), limits, nullptr));
//   LOCI_RETURN_IF_ERROR(CheckGates(generation, figures));
#ifndef LOCI_RETRIEVER_ACTIVATION_GATES_H_
#define LOCI_RETRIEVER_ACTIVATION_GATES_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/cancellation.h"
#include "base/clock.h"
#include "base/ranking_metrics.h"
#include "index/view.h"
#include "retriever/serving_set.h"

namespace loci {

struct GateQuery {
  std::string text;
  Grades grades;  // None: not judged.
};

// Unset: no condition.
struct ActivationGates {
  std::vector<GateQuery> queries;
  std::optional<double> min_ndcg_at_10;
  std::optional<double> min_recall_at_10;
  std::optional<double> min_overlap_at_10;
  std::optional<int64_t> max_p99_us;

  bool empty() const { return queries.empty(); }
};

struct GateFigure {
  std::string condition;  // "min_ndcg_at_10", "min_recall_at_10", "min_overlap_at_10", "max_p99_us".
  double value = 0;
  std::optional<double> limit;  // Not set: it was measured, and nothing is demanded of it.
  bool met = true;
  int64_t query_count = 0;  // That it was measured on.
};

// Searches `candidate`, as it is and by its index with its default parameters, for the first 10 of every query; and what serves, with the
// writes over it, where there is something (`serving` null: the overlap is left out). Each encoder encodes the queries for its own vectors,
// once where both are of one passage half. nDCG and recall are means over the queries with a relevant judgement, and left out where there
// is none. The time of searches is measured one by one, on `clock`, where it is demanded; otherwise many are searched at once.
// `progress(done, total)` counts queries; may be null. CANCELLED or DEADLINE_EXCEEDED by `limits`, FAILED_PRECONDITION, reason
// ENCODER_MISMATCH, where what serves has no encoder. Blocks.
absl::StatusOr<std::vector<GateFigure>> MeasureGates(const ActivationGates& gates, std::shared_ptr<const Generation> candidate,
                                                     TextEncoder& encoder, const ServingSet* serving, const RequestLimits& limits,
                                                     const std::function<void(int64_t done, int64_t total)>& progress,
                                                     Clock& clock = RealClock());

// OK where all are met. FAILED_PRECONDITION, reason GATE_FAILED, with the figures of each in the message, and in the metadata `failed` (the
// conditions that are not met, by commas), and for each condition under its name without "min_" or "max_" what was measured and demanded:
// "0.412 >= 0.5".
absl::Status CheckGates(const std::string& generation, const std::vector<GateFigure>& figures);

// "ndcg_at_10 0.412 (at least 0.5) over 50 queries, not met".
std::string DescribeGateFigure(const GateFigure& figure);

}  // namespace loci

#endif  // LOCI_RETRIEVER_ACTIVATION_GATES_H_
