#include "index/softmax_scan.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>

#include "base/clock.h"
#include "base/status_macros.h"
#include "index/exact_kernels.h"
#include "index/softmax_kernels.h"
#include "index/softmax_merge.h"
#include "index/softmax_tiles.h"

namespace loci {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// Queries times dimensions that are scanned together: their float64 sums, the queries and a group of rows lie in the second-level cache.
constexpr int64_t kSliceElements = 36'864;
// Multiplications below which a second thread costs more than it brings.
constexpr int64_t kSerialWork = int64_t{1} << 21;

// Scans ranges for a slice of queries. One thread's.
template <typename Tile>
class RangeScanner {
 public:
  // `tile` is of the slice's queries alone; `skips` empty or one a query of the slice. `masses` null or [query_count, block_count].
  RangeScanner(const Tile& tile, int64_t query_count, int dim, std::span<const SkipList> skips, const SoftmaxScanOptions& options,
               bool measure_length, double* masses, int64_t block_count)
      : tile_(tile),
        query_count_(query_count),
        dim_(dim),
        skips_(skips),
        options_(options),
        measure_length_(measure_length),
        masses_(masses),
        block_count_(block_count),
        scores_(static_cast<size_t>(kTileQueries * kSoftmaxGroupRows)),
        block_sums_(static_cast<size_t>(query_count)) {}

  absl::Status Scan(const ScanRange& range, SoftmaxPartial* out) {
    visible_.List(*range.segment, dim_, range.first, range.rows);
    FindSkipped(range);
    int64_t begin = 0;
    for (int64_t block = 0; block * kMassBlockRows < range.rows; ++block) {
      const int64_t end_row = range.first + (block + 1) * kMassBlockRows;
      const int64_t end = std::lower_bound(visible_.rows.begin() + begin, visible_.rows.end(), end_row) - visible_.rows.begin();
      std::fill(block_sums_.begin(), block_sums_.end(), 0);
      for (int64_t group = begin; group < end; group += kSoftmaxGroupRows) {
        ScanGroup(range.segment->type, group, std::min(kSoftmaxGroupRows, end - group), out);
        if (group == begin || query_count_ * dim_ > 4096) LOCI_RETURN_IF_ERROR(options_.limits.Check(RealClock().NowMicros()));
      }
      for (int64_t q = 0; q < query_count_; ++q) {
        if (masses_ != nullptr && block_sums_[q] > 0) {
          masses_[q * block_count_ + range.first_block + block] = std::log(block_sums_[q]) + out->max[q] / options_.temperature;
        }
        out->sum[q] += block_sums_[q];
      }
      begin = end;
    }
    return absl::OkStatus();
  }

  float max_squared_length() const { return max_squared_length_; }

 private:
  // Where, in visible_, the skipped rows of each query are.
  void FindSkipped(const ScanRange& range) {
    skipped_.clear();
    skipped_end_.clear();
    for (const SkipList& list : skips_) {
      const std::vector<int64_t>& rows = list.of(range.segment->in_overlay);
      for (auto it = std::lower_bound(rows.begin(), rows.end(), range.first); it != rows.end() && *it < range.first + range.rows; ++it) {
        const auto found = std::lower_bound(visible_.rows.begin(), visible_.rows.end(), *it);
        if (found != visible_.rows.end() && *found == *it) skipped_.push_back(found - visible_.rows.begin());
      }
      skipped_end_.push_back(skipped_.size());
    }
  }

  // Rows [group, group + rows) of visible_, all of one block.
  void ScanGroup(ElementType type, int64_t group, int64_t rows, SoftmaxPartial* out) {
    using Score = typename Tile::Score;
    const void* const* const data = visible_.data.data() + group;
    if (measure_length_) {
      max_squared_length_ = std::max(max_squared_length_, GetSoftmaxKernels(options_.isa).max_squared_length(type)(data, rows, dim_));
    }
    const int64_t padded = (rows + kSoftmaxLanes - 1) / kSoftmaxLanes * kSoftmaxLanes;
    // Each tile of queries asks for a part of the next group, so that memory is read while there is something to compute.
    const int64_t ahead = std::min(kSoftmaxGroupRows, visible_.size() - group - rows);
    const int64_t tile_count = (query_count_ + kTileQueries - 1) / kTileQueries;
    const int64_t share = (ahead + tile_count - 1) / tile_count;
    for (int64_t q = 0; q < query_count_; q += kTileQueries) {
      const int count = static_cast<int>(std::min<int64_t>(kTileQueries, query_count_ - q));
      const int64_t first = std::min(q / kTileQueries * share, ahead);
      tile_.Scores(q, count, type, data, rows, data + rows + first, std::min(share, ahead - first), scores_.data());
      bool any = false;
      for (int i = 0; i < count; ++i) {
        Score* const scores = scores_.data() + i * kSoftmaxGroupRows;
        std::fill(scores + rows, scores + padded, -std::numeric_limits<Score>::infinity());
        if (!skips_.empty()) {
          for (size_t k = q + i == 0 ? 0 : skipped_end_[q + i - 1]; k < skipped_end_[q + i]; ++k) {
            if (skipped_[k] >= group && skipped_[k] < group + rows) scores[skipped_[k] - group] = -std::numeric_limits<Score>::infinity();
          }
        }
        any |= AddScores(q + i, scores, padded, out);
      }
      if (any && options_.mean) tile_.Accumulate(scores_.data(), count, type, data, rows, out->weighted.data() + q * dim_);
    }
  }

  // Turns the scores of a query into weights. False where all are zero.
  bool AddScores(int64_t q, typename Tile::Score* scores, int64_t count, SoftmaxPartial* out) {
    const double max = tile_.Max(scores, count);
    if (max == -kInfinity) {
      std::fill(scores, scores + count, 0);
      return false;
    }
    if (max > out->max[q]) {
      if (out->max[q] != -kInfinity) {
        const double factor = std::exp((out->max[q] - max) / options_.temperature);
        out->sum[q] *= factor;
        block_sums_[q] *= factor;
        if (options_.mean) {
          for (int64_t d = q * dim_; d < (q + 1) * dim_; ++d) out->weighted[d] *= factor;
        }
      }
      out->max[q] = max;
    }
    const double sum = tile_.Weigh(scores, count, out->max[q]);
    block_sums_[q] += sum;
    return sum > 0;
  }

  const Tile& tile_;
  const int64_t query_count_;
  const int64_t dim_;
  const std::span<const SkipList> skips_;
  const SoftmaxScanOptions& options_;
  const bool measure_length_;
  double* const masses_;
  const int64_t block_count_;
  VisibleRows visible_;
  std::vector<int64_t> skipped_;
  std::vector<size_t> skipped_end_;  // One a query: where its part of skipped_ ends.
  std::vector<typename Tile::Score> scores_;
  std::vector<double> block_sums_;
  float max_squared_length_ = -1;  // -1: no row.
};

template <typename Tile, typename Query>
absl::StatusOr<SoftmaxScan> Scan(std::span<const ScanSegment> segments, MatrixView<const Query> queries,
                                 std::span<const std::vector<ViewRow>> skipped, const SoftmaxScanOptions& options) {
  LOCI_RETURN_IF_ERROR(CheckScanArguments(segments, queries.rows, skipped, options));
  const int dim = static_cast<int>(queries.cols);
  const ScanPlan plan = MakeScanPlan(segments);
  const std::vector<SkipList> skips = SortSkipped(skipped);
  SoftmaxScan scan;
  scan.sums.resize(static_cast<size_t>(queries.rows));
  scan.block_count = plan.block_count;
  if (options.block_masses) scan.block_log_masses.assign(static_cast<size_t>(queries.rows * plan.block_count), -kInfinity);
  const int64_t weighted_dim = options.mean ? dim : 0;
  const int64_t slice = std::max<int64_t>(kSliceElements / std::max(dim, 1) / kTileQueries, 1) * kTileQueries;
  float max_squared_length = -1;

  for (int64_t first = 0; first < queries.rows; first += slice) {
    const int64_t count = std::min(slice, queries.rows - first);
    const Tile tile(MatrixView<const Query>{queries.row(first), count, queries.cols}, options);
    const bool parallel = options.pool != nullptr && plan.ranges.size() > 1 && plan.rows * count * dim > kSerialWork;
    const int64_t workers =
        parallel ? std::min<int64_t>(options.pool->thread_count() + 1, static_cast<int64_t>(plan.ranges.size())) : 1;
    OrderedMerge merge(count, weighted_dim, options.temperature, 2 * workers);
    std::atomic<int64_t> next_range{0};
    std::atomic<bool> stopped{false};
    const auto work = [&](int64_t) {
      RangeScanner<Tile> scanner(tile, count, dim, skips.empty() ? std::span<const SkipList>() : std::span(skips).subspan(first, count),
                                 options, options.max_length && first == 0,
                                 options.block_masses ? scan.block_log_masses.data() + first * plan.block_count : nullptr,
                                 plan.block_count);
      SoftmaxPartial partial;
      while (!stopped.load(std::memory_order_relaxed)) {
        const int64_t range = next_range.fetch_add(1, std::memory_order_relaxed);
        if (range >= static_cast<int64_t>(plan.ranges.size())) break;
        partial.Reset(count, count * weighted_dim);
        if (absl::Status status = scanner.Scan(plan.ranges[range], &partial); !status.ok()) {
          stopped.store(true, std::memory_order_relaxed);
          merge.Fail(status);
          break;
        }
        merge.Add(range, &partial);
      }
      merge.NoteLength(scanner.max_squared_length());
    };
    if (parallel) {
      options.pool->ParallelFor(workers, work);
    } else {
      work(0);
    }
    SoftmaxPartial total;
    LOCI_RETURN_IF_ERROR(merge.Finish(&total, &max_squared_length));
    for (int64_t q = 0; q < count; ++q) {
      SoftmaxSums& sums = scan.sums[first + q];
      sums.max_score = total.max[q];
      sums.sum = total.sum[q];
      sums.weighted.assign(total.weighted.begin() + q * weighted_dim, total.weighted.begin() + (q + 1) * weighted_dim);
    }
  }
  scan.max_length = LengthNotBelow(max_squared_length, dim);
  return scan;
}

}  // namespace

double LengthNotBelow(float max_squared_length, int dim) {
  if (max_squared_length < 0) return 0;
  // Squares below float32's smallest normal number may have been lost.
  const double lost = static_cast<double>(std::numeric_limits<float>::min()) * dim;
  return std::sqrt(static_cast<double>(max_squared_length) * (1 + 1e-5 + 1e-7 * dim) + lost);
}

double SoftmaxSums::LogMass(double temperature) const { return sum > 0 ? max_score / temperature + std::log(sum) : -kInfinity; }

void SoftmaxSums::Merge(const SoftmaxSums& other, double temperature) {
  if (weighted.empty()) weighted.resize(other.weighted.size());
  MergeSoftmax(&max_score, &sum, weighted.data(), other.max_score, other.sum, other.weighted.data(),
              static_cast<int64_t>(other.weighted.size()), temperature);
}

absl::StatusOr<SoftmaxScan> ScanSoftmax(std::span<const ScanSegment> segments, MatrixView<const float> queries,
                                        std::span<const std::vector<ViewRow>> skipped, const SoftmaxScanOptions& options) {
  return Scan<FloatTile>(segments, queries, skipped, options);
}

absl::StatusOr<SoftmaxScan> ScanSoftmax(std::span<const ScanSegment> segments, MatrixView<const double> queries,
                                        std::span<const std::vector<ViewRow>> skipped, const SoftmaxScanOptions& options) {
  return Scan<DoubleTile>(segments, queries, skipped, options);
}

}  // namespace loci
