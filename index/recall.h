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

// Recall of `index` with its default parameters: the mean over queries of |found| / min(top_k, rows), where a hit counts as found if
// its score is at least that of the last exact hit. (Equal scores are interchangeable, so duplicates cost nothing.)
// 1 where there is no query or no row. Both indexes are over the same rows; `queries` [n, dim].
absl::StatusOr<double> MeasureRecall(const PassageIndex& index, const PassageIndex& exact, MatrixView<const float> queries, int top_k,
                                     const RequestLimits& limits);

// Queries that are not passages, where nobody can encode any: `count` midpoints of pairs of stored rows, perturbed by noise of a
// quarter of their length. [count, dim]; empty where there are fewer than 2 rows. The same for the same rows.
std::vector<float> MakeMidpointQueries(const VectorFile& vectors, int64_t count);

}  // namespace loci

#endif  // LOCI_INDEX_RECALL_H_
