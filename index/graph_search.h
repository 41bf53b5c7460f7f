// HNSW search (Malkov, Yashunin, arXiv:1603.09320) over a graph that FAISS built, by 8-bit codes of the rows.
//
// FAISS 1.7.3 scores one neighbour after the other in float32 and finds the next one to look at by going through all that it keeps. Here a row's
// unseen neighbours are scored together, their codes asked for ahead, and what is kept lies in heaps. What is found is to be rescored.
//
//   LOCI_ASSIGN_OR_RETURN(const auto search, GraphSearch::Create(std::move(graph), *vectors, DetectScanIsa()));
//   std::vector<int64_t> rows;
//   LOCI_RETURN_IF_ERROR(search->Search(query, /*ef_search=*/64, RowMask(), RequestLimits(), &rows));
#ifndef LOCI_INDEX_GRAPH_SEARCH_H_
#define LOCI_INDEX_GRAPH_SEARCH_H_

#include <faiss/impl/HNSW.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/cancellation.h"
#include "base/mutex.h"
#include "index/row_codes.h"
#include "index/row_mask.h"
#include "index/vector_file.h"

namespace loci {

// Thread-safe.
class GraphSearch {
 public:
  // Makes the codes of `vectors` (borrowed for this call), on the calling thread. DATA_LOSS where the graph is not one of so many rows, or a link leads
  // nowhere; RESOURCE_EXHAUSTED where there is no memory for the codes; what `check` (may be null; asked now and then) returns other than OK.
  static absl::StatusOr<std::unique_ptr<GraphSearch>> Create(faiss::HNSW graph, const VectorFile& vectors, ScanIsa isa,
                                                             const std::function<absl::Status()>& check = nullptr);
  ~GraphSearch();

  // Puts into `rows` those of at most `ef_search` rows that the codes score best of all that it came by and that `hidden` does not hide, in no order.
  // `query` [dim], finite. ef_search >= 1: so many rows, hidden or not, are gone on from. CANCELLED or DEADLINE_EXCEEDED, and no rows, where the
  // limits end while some hundred of them are gone on from. Throws std::bad_alloc.
  absl::Status Search(const float* query, int64_t ef_search, const RowMask& hidden, const RequestLimits& limits,
                      std::vector<int64_t>* rows) const;

  int64_t memory_bytes() const;

 private:
  struct Scratch;
  GraphSearch(faiss::HNSW graph, int dim, RowCodes codes);
  absl::Status SearchWith(const float* query, int64_t ef_search, const RowMask& hidden, const RequestLimits& limits,
                          Scratch& scratch, std::vector<int64_t>* rows) const;
  void ScoreAll(const RowCodeQuery& query, Scratch& scratch) const;

  // Constant after construction.
  const faiss::HNSW graph_;
  const int dim_;
  const RowCodes codes_;

  mutable Mutex mutex_;
  mutable std::vector<std::unique_ptr<Scratch>> scratch_
      ABSL_GUARDED_BY(mutex_);  // At most one for each search that ever ran beside others.
};

}  // namespace loci

#endif  // LOCI_INDEX_GRAPH_SEARCH_H_
