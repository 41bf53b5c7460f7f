// FAISS indexes behind PassageIndex: the one place that calls FAISS, and where its exceptions end.
#ifndef LOCI_INDEX_FAISS_INDEX_H_
#define LOCI_INDEX_FAISS_INDEX_H_

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/file.h"
#include "base/thread_pool.h"
#include "index/exact_index.h"
#include "index/passage_index.h"
#include "index/search_ladder.h"

namespace loci {

// Checks a factory string before any vector is read: INVALID_ARGUMENT naming what is wrong with it. Forms served: Flat, IVF<n>,
// HNSW<m>, PQ<m>, SQ and their combinations that FAISS 1.7.3 searches with per-request parameters; fast-scan, refine and
// pre-transformed indexes are refused. `row_count` bounds the number of lists and of training points.
absl::Status ValidateFaissFactory(const std::string& factory, int dim, int64_t row_count);

// Trains and fills an index over the rows of `vectors` with inner products and writes it to `path` (synced).
// Deterministic for the same input. A graph's codec (HNSW<m>,SQ8) decides how rows are linked, and no more: it is searched by codes made from `vectors`
// when it is opened, whatever its file holds. Blocks for long; `limits` cancels between steps.
absl::Status BuildFaissIndex(FileSystem& fs, const std::string& factory, const VectorFile& vectors, const std::string& path,
                             const RequestLimits& limits);

// Opens an index that BuildFaissIndex wrote and whose checksum was verified. Candidates are rescored from `vectors` in ExactIndex's
// order of summation; where masked rows leave fewer than top_k, the search widens and in the end goes exact. A request that says nothing is
// searched with the ladder's defaults, one with a recall target with its cheapest step that meets it; DATA_LOSS where the ladder does not fit
// the index. All on the calling thread: `pool` (borrowed, may be null) is for searches. `check` (may be null) is asked now and then while codes of a
// graph's rows are made: what it returns other than OK ends the opening. Queries that are answered
// exactly are searched in `exact` (borrowed for as long as the index lives; null: an own one), over the same vectors, so that it counts them.
absl::StatusOr<std::unique_ptr<PassageIndex>> OpenFaissIndex(FileSystem& fs, const std::string& path, const std::string& factory,
                                                             std::shared_ptr<const VectorFile> vectors, ThreadPool* pool,
                                                             SearchLadder ladder = {},
                                                             const std::function<absl::Status()>& check = nullptr,
                                                             const ExactIndex* exact = nullptr);

}  // namespace loci

#endif  // LOCI_INDEX_FAISS_INDEX_H_
