// What a softmax scan and the draws from it share: ranges of rows, which of them are seen, and tiles of scores.
#ifndef LOCI_INDEX_SOFTMAX_TILES_H_
#define LOCI_INDEX_SOFTMAX_TILES_H_

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "base/matrix.h"
#include "index/exact_kernels.h"
#include "index/scan_segment.h"
#include "index/softmax_kernels.h"
#include "index/softmax_scan.h"

namespace loci {

// What a worker takes at a time, and what is merged in order: rows of one segment.
inline constexpr int64_t kScanRangeRows = 8192;
static_assert(kScanRangeRows % kMassBlockRows == 0 && kMassBlockRows % kSoftmaxGroupRows == 0 && kSoftmaxGroupRows % kSoftmaxLanes == 0);

struct ScanRange {
  const ScanSegment* segment;
  int64_t first;  // Row, counted as the segment's first_row is.
  int64_t rows;
  int64_t first_block;  // Of the masses.
};

// All rows of the segments, in order.
struct ScanPlan {
  std::vector<ScanRange> ranges;
  int64_t block_count = 0;
  int64_t rows = 0;
};
ScanPlan MakeScanPlan(std::span<const ScanSegment> segments);

// Skipped rows of one query, ascending.
struct SkipList {
  std::vector<int64_t> body;
  std::vector<int64_t> overlay;
  const std::vector<int64_t>& of(bool in_overlay) const { return in_overlay ? overlay : body; }
};
std::vector<SkipList> SortSkipped(std::span<const std::vector<ViewRow>> skipped);

// The rows of a range that are not hidden, and where they lie.
struct VisibleRows {
  std::vector<const void*> data;
  std::vector<int64_t> rows;

  void List(const ScanSegment& segment, int dim, int64_t first, int64_t count);
  int64_t size() const { return static_cast<int64_t>(rows.size()); }
};

// INVALID_ARGUMENT as ScanSoftmax.
absl::Status CheckScanArguments(std::span<const ScanSegment> segments, int64_t query_count, std::span<const std::vector<ViewRow>> skipped,
                                const SoftmaxScanOptions& options);

// Scores and sums of a tile: at most kTileQueries queries by kSoftmaxGroupRows rows; row r of query i is at scores[i * kSoftmaxGroupRows +
// r]. In float32, by the kernels. Immutable after construction.
class FloatTile {
 public:
  using Query = float;
  using Score = float;
  FloatTile(MatrixView<const float> queries, const SoftmaxScanOptions& options);
  // Of queries [q, q + count); `prefetch` are rows that will be scored soon.
  void Scores(int64_t q, int count, ElementType type, const void* const* rows, int64_t row_count, const void* const* prefetch,
              int64_t prefetch_count, float* scores) const;
  double Max(const float* scores, int64_t count) const { return softmax_.max(scores, count); }
  // Turns the scores of one query into weights e^((score - max) / temperature); their sum.
  double Weigh(float* scores, int64_t count, double max) const {
    return softmax_.weigh(scores, count, static_cast<float>(max), inverse_temperature_);
  }
  // sums[i * dim + d] += weights of query i times rows.
  void Accumulate(const float* weights, int count, ElementType type, const void* const* rows, int64_t row_count, double* sums) const {
    softmax_.accumulate(type)(weights, count, kSoftmaxGroupRows, rows, row_count, dim_, sums, dim_);
  }

 private:
  const int dim_;
  const int64_t stride_;
  const ExactKernels& exact_;
  const SoftmaxKernels& softmax_;
  const float inverse_temperature_;
  std::vector<float> padded_;  // [query_count, stride_]
};

// The same in float64. Borrows the queries. Immutable after construction.
class DoubleTile {
 public:
  using Query = double;
  using Score = double;
  DoubleTile(MatrixView<const double> queries, const SoftmaxScanOptions& options);
  void Scores(int64_t q, int count, ElementType type, const void* const* rows, int64_t row_count, const void* const* prefetch,
              int64_t prefetch_count, double* scores) const;
  double Max(const double* scores, int64_t count) const;
  double Weigh(double* scores, int64_t count, double max) const;
  void Accumulate(const double* weights, int count, ElementType type, const void* const* rows, int64_t row_count, double* sums) const;

 private:
  const MatrixView<const double> queries_;
  const int dim_;
  const double temperature_;
};

}  // namespace loci

#endif  // LOCI_INDEX_SOFTMAX_TILES_H_
