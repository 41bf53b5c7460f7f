// Exact search: every row is scored. The truth that other indexes are measured by.
//
// A score is the fp32 dot product in one fixed order of summation, so that a row has the same score, bit for bit, in the body and
// in the overlay, in any block, batch and thread, and for every instruction set:
//   lane l (0..15) = fma over c of q[16 c + l] * z[16 c + l], in the order of c, starting from +0 (dimensions are padded with zeros);
//   then lanes are added as (l, l + 8), (l, l + 4), (l, l + 2), (l, l + 1).
#ifndef LOCI_INDEX_EXACT_INDEX_H_
#define LOCI_INDEX_EXACT_INDEX_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/device.h"
#include "base/matrix.h"
#include "base/thread_pool.h"
#include "base/vector_type.h"
#include "index/certified_scan.h"
#include "index/int8_kernels.h"
#include "index/passage_index.h"
#include "index/quantized_vectors.h"
#include "index/vector_file.h"

namespace loci {

// Rows in memory, [rows, dim] row-major in `type`. Borrowed.
struct RowBlock {
  const void* data = nullptr;
  ElementType type = ElementType::kFloat32;
  int64_t rows = 0;
  int dim = 0;
};

// The score of one row: the definition above. `query` [dim], `row` [dim] of `type`.
float ExactScore(const float* query, const void* row, ElementType type, int dim, CpuIsa isa = DetectCpuIsa());

// Scores rows [first, first + rows) of a block against all queries: `scores` [query_count, rows] row-major.
void ExactScores(MatrixView<const float> queries, const RowBlock& block, float* scores, CpuIsa isa = DetectCpuIsa());

// Keeps, for each query, the best top_k of the rows that it is shown. Blocks may come in any order; the result is that of the total
// order (score descending, row ascending). A NaN, which only an overflow can make, counts as -infinity.
// Used by one thread: the one that scores; Merge joins what several threads kept.
class TopKCollector {
 public:
  TopKCollector(int64_t query_count, int top_k, CpuIsa isa = DetectCpuIsa());
  // `scores` [query_count, rows]; row r of the block has number first_row + r; hidden rows are passed over.
  void AddBlock(const float* scores, int64_t first_row, int64_t rows, const RowMask& hidden);
  // The same for one query: `scores` [rows].
  void AddScores(int64_t query, const float* scores, int64_t first_row, int64_t rows, const RowMask& hidden);
  // The same for one query and rows[i] in place of first_row + i, none of them hidden.
  void AddRows(int64_t query, const float* scores, const int64_t* rows, int64_t row_count);
  void Add(int64_t query, int64_t row, float score);
  void Merge(const TopKCollector& other);
  // Fills hits [query_count, top_k], best first, missing ones with row -1.
  void Finish(RowHit* hits);

 private:
  struct PerQuery {
    std::vector<RowHit> survivors;  // At most 2 * top_k + 192; cut back to top_k by nth_element.
    float threshold;                // What scores less is not among the best.
  };
  void Shrink(PerQuery& query);
  int top_k_;
  size_t shrink_size_;
  uint64_t (*not_below_)(const float*, int, float);
  std::vector<PerQuery> queries_;
};

// Blocked scan with the top-k fused in. Where few rows are hidden the mask costs a look at each block's survivors; where many are, by a filter,
// the others alone are read and scored, gathered into blocks. Scores are the same either way. A pass over 8-bit codes of the rows says which few rows
// need be scored (certified_scan.h), wherever that pays: with codes nearly always, without them for many queries at once. Hits are the same, bit for
// bit. Thread-safe.
class ExactIndex : public PassageIndex {
 public:
  // `vectors` is shared; `pool` (borrowed, may be null) takes part in scans of many rows. `codes`: null, or those of `vectors`.
  ExactIndex(std::shared_ptr<const VectorFile> vectors, ThreadPool* pool, CpuIsa isa = DetectCpuIsa(),
             std::shared_ptr<const QuantizedVectors> codes = nullptr, ScanIsa scan_isa = DetectScanIsa());

  int64_t row_count() const override { return vectors_->rows(); }
  int dim() const override { return vectors_->dim(); }
  std::string name() const override { return "exact"; }
  int64_t memory_bytes() const override { return 0; }
  bool IsExact(const IndexSearchOptions&, const RowMask&) const override { return true; }
  absl::Status Search(MatrixView<const float> queries, const IndexSearchOptions& options, const RowMask& hidden,
                      RowHit* hits) const override;

  const CertifiedScan& certified_scan() const { return *certified_; }

 private:
  // Scores every row that is not hidden.
  absl::Status SearchAll(MatrixView<const float> queries, const IndexSearchOptions& options, const RowMask& hidden, RowHit* hits) const;

  std::shared_ptr<const VectorFile> vectors_;
  ThreadPool* pool_;
  CpuIsa isa_;
  std::unique_ptr<CertifiedScan> certified_;
};

}  // namespace loci

#endif  // LOCI_INDEX_EXACT_INDEX_H_
