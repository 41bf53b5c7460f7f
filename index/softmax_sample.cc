// Draws from what softmax_scan.h scanned.
#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "base/split_mix.h"
#include "base/status_macros.h"
#include "index/softmax_scan.h"
#include "index/softmax_tiles.h"

namespace loci {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// The first entry of `cumulative` above u * (the last of it), which is positive.
int64_t Choose(const std::vector<double>& cumulative, double u) {
  const auto found = std::upper_bound(cumulative.begin(), cumulative.end(), u * cumulative.back());
  if (found != cumulative.end()) return found - cumulative.begin();
  return std::lower_bound(cumulative.begin(), cumulative.end(), cumulative.back()) - cumulative.begin();  // Rounded up to the end.
}

// The draws of one query. `masses` [block_count].
template <typename Tile>
absl::Status SampleQuery(const Tile& tile, const ScanPlan& plan, int dim, const SkipList* skips, const SoftmaxScanOptions& options,
                         std::span<const double> masses, uint64_t seed, int count, std::vector<SampledRow>* draws) {
  using Score = typename Tile::Score;
  const double max_mass = masses.empty() ? -kInfinity : *std::max_element(masses.begin(), masses.end());
  if (max_mass == -kInfinity) return absl::OkStatus();
  std::vector<double> cumulative;
  double sum = 0;
  for (const double mass : masses) cumulative.push_back(sum += std::exp(mass - max_mass));
  SplitMix64 random(seed);
  std::map<int64_t, std::vector<std::pair<int, double>>> by_block;  // Which draw, and the number that chooses its row.
  for (int draw = 0; draw < count; ++draw) {
    const int64_t block = Choose(cumulative, random.Uniform());
    by_block[block].emplace_back(draw, random.Uniform());
  }
  draws->resize(static_cast<size_t>(count));
  VisibleRows visible;
  std::vector<Score> group(static_cast<size_t>(kSoftmaxGroupRows));
  std::vector<double> scores;
  for (const auto& [block, chosen] : by_block) {
    LOCI_RETURN_IF_ERROR(options.limits.Check(RealClock().NowMicros()));
    const auto after = std::upper_bound(plan.ranges.begin(), plan.ranges.end(), block,
                                        [](int64_t value, const ScanRange& range) { return value < range.first_block; });
    const ScanRange& range = *std::prev(after);
    const int64_t offset = (block - range.first_block) * kMassBlockRows;
    visible.List(*range.segment, dim, range.first + offset, std::min(kMassBlockRows, range.rows - offset));
    scores.clear();
    for (int64_t first = 0; first < visible.size(); first += kSoftmaxGroupRows) {
      const int64_t rows = std::min(kSoftmaxGroupRows, visible.size() - first);
      tile.Scores(0, 1, range.segment->type, visible.data.data() + first, rows, nullptr, 0, group.data());
      scores.insert(scores.end(), group.begin(), group.begin() + rows);
    }
    double max = -kInfinity;
    for (int64_t i = 0; i < visible.size(); ++i) {
      if (skips != nullptr) {
        const std::vector<int64_t>& list = skips->of(range.segment->in_overlay);
        if (std::binary_search(list.begin(), list.end(), visible.rows[i])) scores[i] = -kInfinity;
      }
      max = std::max(max, scores[i]);
    }
    if (max == -kInfinity) return absl::InternalError("the masses of blocks are those of another scan");
    cumulative.clear();
    sum = 0;
    for (const double score : scores) cumulative.push_back(sum += std::exp((score - max) / options.temperature));
    for (const auto& [draw, u] : chosen) {
      const int64_t i = Choose(cumulative, u);
      (*draws)[draw] = {{range.segment->in_overlay, visible.rows[i]}, scores[i]};
    }
  }
  return absl::OkStatus();
}

template <typename Tile, typename Query>
absl::StatusOr<std::vector<std::vector<SampledRow>>> Sample(std::span<const ScanSegment> segments, MatrixView<const Query> queries,
                                                            std::span<const std::vector<ViewRow>> skipped,
                                                            const SoftmaxScanOptions& options, const SoftmaxScan& scan,
                                                            std::span<const uint64_t> seeds, int count) {
  LOCI_RETURN_IF_ERROR(CheckScanArguments(segments, queries.rows, skipped, options));
  const ScanPlan plan = MakeScanPlan(segments);
  if (scan.block_count != plan.block_count || static_cast<int64_t>(scan.block_log_masses.size()) != queries.rows * plan.block_count ||
      static_cast<int64_t>(seeds.size()) != queries.rows || count < 0) {
    return absl::InvalidArgumentError(absl::StrCat("draws of ", queries.rows, " queries from ", plan.block_count,
                                                   " blocks need as many seeds and masses: there are ", seeds.size(), " and ",
                                                   scan.block_log_masses.size()));
  }
  const std::vector<SkipList> skips = SortSkipped(skipped);
  std::vector<std::vector<SampledRow>> draws(static_cast<size_t>(queries.rows));
  Mutex mutex;
  absl::Status failure;
  const auto sample = [&](int64_t q) {
    const Tile tile(MatrixView<const Query>{queries.row(q), 1, queries.cols}, options);
    const std::span<const double> masses = std::span(scan.block_log_masses).subspan(q * plan.block_count, plan.block_count);
    absl::Status status = SampleQuery(tile, plan, static_cast<int>(queries.cols), skips.empty() ? nullptr : &skips[q], options, masses,
                                      seeds[q], count, &draws[q]);
    if (status.ok()) return;
    MutexLock lock(&mutex);
    failure.Update(status);
  };
  if (options.pool != nullptr && queries.rows > 1) {
    options.pool->ParallelFor(queries.rows, sample);
  } else {
    for (int64_t q = 0; q < queries.rows && failure.ok(); ++q) sample(q);
  }
  LOCI_RETURN_IF_ERROR(failure);
  return draws;
}

}  // namespace

absl::StatusOr<std::vector<std::vector<SampledRow>>> SampleSoftmax(std::span<const ScanSegment> segments, MatrixView<const float> queries,
                                                                   std::span<const std::vector<ViewRow>> skipped,
                                                                   const SoftmaxScanOptions& options, const SoftmaxScan& scan,
                                                                   std::span<const uint64_t> seeds, int count) {
  return Sample<FloatTile>(segments, queries, skipped, options, scan, seeds, count);
}

absl::StatusOr<std::vector<std::vector<SampledRow>>> SampleSoftmax(std::span<const ScanSegment> segments, MatrixView<const double> queries,
                                                                   std::span<const std::vector<ViewRow>> skipped,
                                                                   const SoftmaxScanOptions& options, const SoftmaxScan& scan,
                                                                   std::span<const uint64_t> seeds, int count) {
  return Sample<DoubleTile>(segments, queries, skipped, options, scan, seeds, count);
}

uint64_t MixSeed(uint64_t seed, uint64_t stream) {
  return SplitMix64::Mix(SplitMix64::Mix(seed + SplitMix64::kIncrement) ^ (stream * 0xD1342543DE82EF95u + 1));
}

}  // namespace loci
