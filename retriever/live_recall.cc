#include "retriever/live_recall.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/split_mix.h"

namespace loci {
namespace {

constexpr int kTopK = 10;
constexpr int64_t kMaxSearchMicros = 10'000'000;  // An exact search that takes longer is given up.
constexpr double kNormalQuantile = 1.959963984540054;  // Of 97.5 %.
constexpr char kCountHelp[] = "Approximately answered queries that were drawn to be searched exactly, too.";

}  // namespace

RecallEstimate EstimateRecall(double sum, int64_t query_count) {
  RecallEstimate estimate{.query_count = query_count};
  if (query_count == 0) return estimate;
  const double n = static_cast<double>(query_count);
  constexpr double kSquare = kNormalQuantile * kNormalQuantile;
  estimate.mean = sum / n;
  const double middle = (estimate.mean + kSquare / (2 * n)) / (1 + kSquare / n);
  const double half = kNormalQuantile / (1 + kSquare / n) * std::sqrt(estimate.mean * (1 - estimate.mean) / n + kSquare / (4 * n * n));
  estimate.low = std::clamp(middle - half, 0.0, estimate.mean);
  estimate.high = std::clamp(middle + half, estimate.mean, 1.0);
  return estimate;
}

LiveRecall::LiveRecall(Options options)
    : options_(options),
      measured_count_(options.metrics->counter("loci_live_recall_queries_total", kCountHelp, {{"result", "measured"}})),
      skipped_count_(options.metrics->counter("loci_live_recall_queries_total", kCountHelp, {{"result", "skipped"}})) {}

bool LiveRecall::Draw() {
  const uint64_t bits = SplitMix64(offered_.fetch_add(1, std::memory_order_relaxed)).Next();
  return static_cast<double>(bits >> 11) * 0x1p-53 < options_.share;
}

void LiveRecall::Offer(const std::shared_ptr<const ServingSet>& set, MatrixView<const float> queries, const IndexSearchOptions& options) {
  if (options_.share <= 0) return;
  for (int64_t i = 0; i < queries.rows; ++i) {
    if (!Draw()) continue;
    const float* const query = queries.data + i * queries.cols;
    if (options_.pool->queue_size() > 0 || measuring_.exchange(true)) {  // Whoever waits comes first.
      skipped_count_.Add(1);
      continue;
    }
    const bool queued = options_.pool->TrySubmit([this, set, query = std::vector<float>(query, query + queries.cols), options] {
      Measure(*set, query, options);
      measuring_ = false;
    });
    if (queued) continue;
    measuring_ = false;
    skipped_count_.Add(1);
  }
}

void LiveRecall::Measure(const ServingSet& set, const std::vector<float>& query, IndexSearchOptions options) {
  options.top_k = kTopK;
  options.limits = RequestLimits(options_.clock->NowMicros() + kMaxSearchMicros);
  const MatrixView<const float> queries{query.data(), 1, static_cast<int64_t>(query.size())};
  const absl::StatusOr<ViewSearchResult> found = set.view->Search(queries, options);
  options = {.top_k = kTopK, .exact = true, .limits = options.limits};
  const absl::StatusOr<ViewSearchResult> exact = found.ok() ? set.view->Search(queries, options) : found;
  if (!exact.ok() || exact->hits[0].empty()) return skipped_count_.Add(1);
  // As MeasureRecall: passages of the same score stand for each other.
  const std::vector<ViewHit>& hits = found->hits[0];
  const float least = exact->hits[0].back().score;
  const int64_t right = std::count_if(hits.begin(), hits.end(), [least](const ViewHit& hit) { return hit.score >= least; });
  Add(set, static_cast<double>(right) / static_cast<double>(exact->hits[0].size()));
}

void LiveRecall::Add(const ServingSet& set, double recall) {
  measured_count_.Add(1);
  const std::string& id = set.view->generation().id();
  MutexLock lock(&mutex_);
  measured_.remove_if([](const Measured& measured) { return measured.generation.expired(); });
  auto found = std::find_if(measured_.begin(), measured_.end(), [&](const Measured& m) { return m.store == set.store && m.id == id; });
  if (found == measured_.end()) {
    found = measured_.insert(measured_.end(), {.store = set.store, .generation = set.view->shared_generation(), .id = id, .recalls = {}});
  }
  found->recalls.push_back(static_cast<float>(recall));
  found->sum += found->recalls.back();
  if (static_cast<int64_t>(found->recalls.size()) > options_.window) {
    found->sum -= found->recalls.front();
    found->recalls.pop_front();
  }
}

std::vector<GaugeSample> LiveRecall::Metrics() const {
  std::vector<GaugeSample> samples;
  MutexLock lock(&mutex_);
  for (const Measured& measured : measured_) {
    if (measured.generation.expired()) continue;
    const RecallEstimate estimate = EstimateRecall(measured.sum, static_cast<int64_t>(measured.recalls.size()));
    const auto add = [&](const char* bound, double value) {
      samples.push_back({"loci_recall_at_10_estimate", "Recall at 10 of live queries' approximate searches, with the bounds of its 95 % interval.",
                         {{"store", measured.store}, {"generation", measured.id}, {"bound", bound}}, value});
    };
    add("mean", estimate.mean);
    add("low", estimate.low);
    add("high", estimate.high);
    samples.push_back({"loci_recall_at_10_estimate_queries", "The live queries that the estimate is made of.",
                       {{"store", measured.store}, {"generation", measured.id}}, static_cast<double>(measured.recalls.size())});
  }
  return samples;
}

}  // namespace loci
