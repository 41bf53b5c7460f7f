// Exact search in two passes: 8-bit products of every row with a bound of their error (certified_bound.h), then the scores of the rows that the bound
// leaves.
//
// Every row has a lower and an upper bound of its score. A row whose upper bound is below top_k others' lower bounds is not among the
// best; all others are scored, best bounds first, until no bound reaches the top_k-th best score. What is found is, bit for bit, what scoring
// all rows finds.
#ifndef LOCI_INDEX_CERTIFIED_SCAN_H_
#define LOCI_INDEX_CERTIFIED_SCAN_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "base/device.h"
#include "base/matrix.h"
#include "base/thread_pool.h"
#include "index/certified_candidates.h"
#include "index/int8_kernels.h"
#include "index/passage_index.h"
#include "index/quantized_vectors.h"
#include "index/vain_passes.h"
#include "index/vector_file.h"

namespace loci {

// Thread-safe.
class CertifiedScan {
 public:
  // `codes`: those of `vectors`, or null: they are made of each panel's rows as it is scanned, which only many queries at once are worth, and not on
  // every machine. `pool` (borrowed, may be null) takes part.
  CertifiedScan(std::shared_ptr<const VectorFile> vectors, std::shared_ptr<const QuantizedVectors> codes, ThreadPool* pool,
                CpuIsa isa, ScanIsa scan_isa);

  // Whether Search is expected to be faster than to score the rows that are not hidden, of which there are so many.
  bool IsWorthwhile(int64_t query_count, int64_t visible_count, int top_k) const;

  // Whether this search is to be tried. Where 8 bits do not tell the rows apart, every pass is in vain and all rows are scored after it (VainPasses).
  // Ask once a search, and only where it IsWorthwhile: it counts.
  bool TakeTurn() const;

  // As PassageIndex::Search, whose checks were made before. Without codes only where IsWorthwhile. A query of which more rows are left than pay,
  // because they are too much alike for 8 bits, is given up: its position goes to `given_up`, and its hits are not touched.
  absl::Status Search(MatrixView<const float> queries, const IndexSearchOptions& options, const RowMask& hidden, RowHit* hits,
                      std::vector<int64_t>* given_up) const;

  // Since it was made: queries that were answered, rows that were scored for these, queries that were given up, and searches whose turn it was not.
  int64_t answered_count() const { return answered_count_.load(std::memory_order_relaxed); }
  int64_t scored_count() const { return scored_count_.load(std::memory_order_relaxed); }
  int64_t given_up_count() const { return given_up_count_.load(std::memory_order_relaxed); }
  int64_t skipped_count() const { return skipped_count_.load(std::memory_order_relaxed); }

 private:
  // Of the queries by which the rows' codes can be judged.
  struct Outcome {
    int64_t queries = 0;
    int64_t given_up = 0;
  };
  absl::Status SearchChunk(MatrixView<const float> queries, const IndexSearchOptions& options, const RowMask& hidden,
                           int64_t workers, RowHit* hits, int64_t first_position, std::vector<int64_t>* given_up,
                           Outcome* outcome) const;
  absl::Status Rescore(const float* query, const IndexSearchOptions& options, CertifiedCandidates& candidates,
                       RowHit* hits) const;

  std::shared_ptr<const VectorFile> vectors_;
  std::shared_ptr<const QuantizedVectors> codes_;
  ThreadPool* pool_;
  CpuIsa isa_;
  const Int8Kernels& kernels_;
  mutable std::atomic<int64_t> answered_count_{0}, scored_count_{0}, given_up_count_{0}, skipped_count_{0};
  mutable VainPasses vain_passes_{0};
};

}  // namespace loci

#endif  // LOCI_INDEX_CERTIFIED_SCAN_H_
