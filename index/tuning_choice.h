// Which of the measured indexes to take: pure functions of their figures.
#ifndef LOCI_INDEX_TUNING_CHOICE_H_
#define LOCI_INDEX_TUNING_CHOICE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "index/search_ladder.h"
#include "proto/loci/v1/common.pb.h"

namespace loci {

// The points that no other one beats: that is no worse in recall, latency, memory and build time, and better in one of them. Of equal ones the
// first. By latency, then as they came.
std::vector<loci::v1::TuningPoint> ParetoFront(const std::vector<loci::v1::TuningPoint>& points);

// What follows "searched exactly" in a reason where 8-bit codes make that faster.
inline constexpr char kByCodes[] = ", by a pass over 8-bit codes first";

struct TuningChoice {
  int position = 0;  // In the points.
  std::string reason;
};

// The position of the fastest of the points that search exactly; "exact", which `points` has, unless another one is faster by more than a twentieth.
int FastestExact(const std::vector<loci::v1::TuningPoint>& points);

// The point with the least latency among those whose recall_bound is at least `recall_target` and whose memory is within `memory_budget_bytes`
// (0: any); of those within a twentieth of it the one with the least memory, then the least build time. Points that search exactly meet both: they find
// everything, and need no memory beside mapped files. `points` has a point of the index "exact".
TuningChoice ChoosePoint(const std::vector<loci::v1::TuningPoint>& points, double recall_target, int64_t memory_budget_bytes);

// What was measured of an index over `sample_rows` vectors, told of one over `rows`, whose factory string is `factory`: latency by the vectors
// and list centres that a query is compared with, memory by what a row and a list take, build time by the comparisons that it makes. Exact search and
// its 8-bit codes grow with the rows.
// INVALID_ARGUMENT where a factory string is none.
absl::StatusOr<loci::v1::TuningPoint> ExtrapolatePoint(const loci::v1::TuningPoint& point, int dim, int64_t sample_rows,
                                                       const std::string& factory, int64_t rows);

// The lower end of the one-sided 95 % interval of the mean of the recalls of single queries [0, 1], with one more query that missed a hit in
// ten: so it is below 1 also where no query missed any. 0 without queries.
double RecallBound(const std::vector<double>& recalls);

// A ladder for an index of what a manifest has of it; the chosen step is its default.
SearchLadder LadderOf(const google::protobuf::RepeatedPtrField<loci::v1::TuningPoint>& points);

}  // namespace loci

#endif  // LOCI_INDEX_TUNING_CHOICE_H_
