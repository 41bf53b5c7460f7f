// How much of the exact result an approximate index finds.
#ifndef LOCI_INDEX_RECALL_H_
#define LOCI_INDEX_RECALL_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "base/cancellation.h"
#include "base/matrix.h"
#include "index/passage_index.h"
#include "index/vector_file.h"

namespace loci {

// What is right for some queries, found once, to measure several indexes by. Immutable after construction.
class RecallMeter {
 public:
  // Searches exactly. `queries` [n, dim] is borrowed.
  static absl::StatusOr<RecallMeter> Create(const PassageIndex& exact, MatrixView<const float> queries, int top_k, const RequestLimits& limits);

  // The recall of each query: |found| / min(top_k, rows), where a hit counts as found if its score is at least that of the last exact hit.
  // (Equal scores are interchangeable, so duplicates cost nothing.) 1 where there is no row. `index` is over the same rows; top_k and limits
  // of `options` are set here.
  absl::StatusOr<std::vector<double>> Measure(const PassageIndex& index, IndexSearchOptions options, const RequestLimits& limits) const;

  MatrixView<const float> queries() const { return queries_; }
  int top_k() const { return top_k_; }

 private:
  RecallMeter(MatrixView<const float> queries, int top_k) : queries_(queries), top_k_(top_k) {}
  MatrixView<const float> queries_;
  int top_k_;
  int64_t possible_ = 0;       // Hits that there can be.
  std::vector<float> least_;   // Score of the last exact hit, one a query.
};

// 1 for none.
double MeanRecall(const std::vector<double>& recalls);

// Recall of `index` with its default parameters: the mean over queries. 1 where there is no query or no row.
// Both indexes are over the same rows; `queries` [n, dim].
absl::StatusOr<double> MeasureRecall(const PassageIndex& index, const PassageIndex& exact, MatrixView<const float> queries, int top_k,
                                     const RequestLimits& limits);

// Queries that are not passages, where nobody can encode any: `count` midpoints of pairs of stored rows, perturbed by noise of a
// quarter of their length. [count, dim]; empty where there are fewer than 2 rows. The same for the same rows.
inline constexpr char kMidpointQuerySource[] = "perturbed midpoints of pairs of stored vectors";  // For manifests.
std::vector<float> MakeMidpointQueries(const VectorFile& vectors, int64_t count);

}  // namespace loci

#endif  // LOCI_INDEX_RECALL_H_
