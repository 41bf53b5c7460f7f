#include "index/tuning_choice.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "index/faiss_factory.h"
#include "index/index_specification.h"
#include "index/row_codes.h"

namespace loci {
namespace {

using v1::TuningPoint;

constexpr double kAlike = 1.05;  // Of latencies.

bool Beats(const TuningPoint& a, const TuningPoint& b) {
  const bool no_worse = a.recall_bound() >= b.recall_bound() && a.latency_us() <= b.latency_us() && a.memory_bytes() <= b.memory_bytes() &&
                        a.build_ms() <= b.build_ms();
  const bool better = a.recall_bound() > b.recall_bound() || a.latency_us() < b.latency_us() || a.memory_bytes() < b.memory_bytes() ||
                      a.build_ms() < b.build_ms();
  return no_worse && better;
}

bool IsSame(const TuningPoint& a, const TuningPoint& b) {
  return a.recall_bound() == b.recall_bound() && a.latency_us() == b.latency_us() && a.memory_bytes() == b.memory_bytes() &&
         a.build_ms() == b.build_ms();
}

double Log2(int64_t rows) { return std::log2(static_cast<double>(std::max<int64_t>(rows, 2))); }

// Vectors or centres that a query is compared with; of a graph, what that grows with.
double Comparisons(const FaissFactory& factory, int nprobe, int64_t rows) {
  if (factory.hnsw) return Log2(rows);
  if (factory.list_count == 0) return static_cast<double>(rows);
  const double lists = static_cast<double>(factory.list_count);
  return (factory.hnsw_coarse ? 64 * Log2(factory.list_count) : lists) + std::max(nprobe, 1) * static_cast<double>(rows) / lists;
}

// As many of its build.
double BuildComparisons(const FaissFactory& factory, int64_t rows) {
  constexpr int64_t kIterations = 10, kCodeTrainingRows = 65536;
  const double count = static_cast<double>(rows);
  double comparisons = count;
  if (factory.hnsw) comparisons += 100 * count * Log2(rows);
  if (factory.list_count > 0) {
    const double trained = static_cast<double>(kIterations * std::min(rows, std::max<int64_t>(64 * factory.list_count, 16384)));
    comparisons += (trained + count) * static_cast<double>(factory.list_count);
  }
  if (factory.codec == FaissFactory::Codec::kProduct) {
    comparisons += (25 * static_cast<double>(std::min(rows, kCodeTrainingRows)) + count) * static_cast<double>(int64_t{1} << factory.bits);
  }
  return comparisons;
}

// What does not grow with the rows: centres, which are held as 8-bit codes too (rounded_centroids.h), and the tables of a product quantiser.
double FixedBytes(const FaissFactory& factory, int dim) {
  const int64_t tables = factory.codec == FaissFactory::Codec::kProduct ? int64_t{1} << factory.bits : 0;
  const int64_t coded = factory.hnsw_coarse ? 0 : factory.list_count;
  return static_cast<double>((factory.list_count + tables) * dim) * sizeof(float) +
         static_cast<double>(coded * (RowCodes::StrideOf(dim) + static_cast<int64_t>(sizeof(int32_t))));
}

}  // namespace

std::vector<TuningPoint> ParetoFront(const std::vector<TuningPoint>& points) {
  std::vector<TuningPoint> front;
  for (size_t i = 0; i < points.size(); ++i) {
    bool beaten = false;
    for (size_t k = 0; k < points.size() && !beaten; ++k) beaten = Beats(points[k], points[i]) || (k < i && IsSame(points[k], points[i]));
    if (!beaten) front.push_back(points[i]);
  }
  std::stable_sort(front.begin(), front.end(), [](const TuningPoint& a, const TuningPoint& b) { return a.latency_us() < b.latency_us(); });
  return front;
}

int FastestExact(const std::vector<TuningPoint>& points) {
  int plain = 0, fastest = 0;
  double least_us = INFINITY;
  for (size_t i = 0; i < points.size(); ++i) {
    if (points[i].index() == kExactIndex) plain = static_cast<int>(i);
    if (!IsExactIndex(points[i].index()) || points[i].latency_us() >= least_us) continue;
    fastest = static_cast<int>(i);
    least_us = points[i].latency_us();
  }
  return kAlike * least_us < points[static_cast<size_t>(plain)].latency_us() ? fastest : plain;
}

TuningChoice ChoosePoint(const std::vector<TuningPoint>& points, double recall_target, int64_t memory_budget_bytes) {
  double least_us = INFINITY;
  bool met = false, fits = false;
  const auto is_meeting = [&](const TuningPoint& point) {
    return IsExactIndex(point.index()) || point.recall_bound() >= recall_target;
  };
  const auto is_fitting = [&](const TuningPoint& point) {
    return IsExactIndex(point.index()) || memory_budget_bytes == 0 || point.memory_bytes() <= memory_budget_bytes;
  };
  for (const TuningPoint& point : points) {
    if (!IsExactIndex(point.index())) {
      met = met || is_meeting(point);
      fits = fits || is_fitting(point);
    }
    if (is_meeting(point) && is_fitting(point)) least_us = std::min(least_us, point.latency_us());
  }
  int best = FastestExact(points);
  bool found = false;
  for (size_t i = 0; i < points.size(); ++i) {
    const TuningPoint& point = points[i];
    if (!is_meeting(point) || !is_fitting(point) || point.latency_us() > kAlike * least_us) continue;
    const TuningPoint& other = points[static_cast<size_t>(best)];
    const bool is_less = point.memory_bytes() != other.memory_bytes() ? point.memory_bytes() < other.memory_bytes()
                                                                      : point.build_ms() < other.build_ms();
    if (!found || is_less) best = static_cast<int>(i);
    found = true;
  }
  TuningChoice choice{.position = best};
  const std::string& index = points[static_cast<size_t>(best)].index();
  if (!IsExactIndex(index)) {
    choice.reason = "the fastest that meets the recall target within the memory budget";
    return choice;
  }
  if (!met) {
    choice.reason = "no approximate index met the recall target: searched exactly";
  } else if (!fits) {
    choice.reason = "no approximate index fits the memory budget: searched exactly";
  } else {
    choice.reason = "no approximate index that meets the recall target within the memory budget is faster: searched exactly";
  }
  if (index == kExactInt8Index) choice.reason += kByCodes;
  return choice;
}

absl::StatusOr<TuningPoint> ExtrapolatePoint(const TuningPoint& point, int dim, int64_t sample_rows, const std::string& factory, int64_t rows) {
  TuningPoint result = point;
  result.set_index(factory);
  if (sample_rows == rows || sample_rows <= 0) return result;
  const double growth = static_cast<double>(rows) / static_cast<double>(sample_rows);
  if (IsExactIndex(factory)) {
    result.set_latency_us(point.latency_us() * growth);
    result.set_build_ms(static_cast<int64_t>(static_cast<double>(point.build_ms()) * growth));
    return result;
  }
  LOCI_ASSIGN_OR_RETURN(const FaissFactory small, ParseFaissFactory(point.index(), dim, sample_rows));
  LOCI_ASSIGN_OR_RETURN(const FaissFactory large, ParseFaissFactory(factory, dim, rows));
  result.set_latency_us(point.latency_us() * Comparisons(large, point.nprobe(), rows) / Comparisons(small, point.nprobe(), sample_rows));
  const double row_bytes = std::max(0.0, static_cast<double>(point.memory_bytes()) - FixedBytes(small, dim)) / static_cast<double>(sample_rows);
  result.set_memory_bytes(static_cast<int64_t>(FixedBytes(large, dim) + row_bytes * static_cast<double>(rows)));
  result.set_build_ms(static_cast<int64_t>(static_cast<double>(point.build_ms()) * BuildComparisons(large, rows) /
                                           BuildComparisons(small, sample_rows)));
  return result;
}

double RecallBound(const std::vector<double>& recalls) {
  constexpr double kQuantile = 1.645;
  constexpr double kMissing = 0.9;
  if (recalls.empty()) return 0;
  const double count = static_cast<double>(recalls.size()) + 1;
  double sum = kMissing, squares = kMissing * kMissing;
  for (const double recall : recalls) {
    sum += recall;
    squares += recall * recall;
  }
  const double mean = sum / count;
  const double variance = std::max(0.0, squares / count - mean * mean) * count / (count - 1);
  return std::clamp(mean - kQuantile * std::sqrt(variance / count), 0.0, 1.0);
}

SearchLadder LadderOf(const google::protobuf::RepeatedPtrField<TuningPoint>& points) {
  SearchLadder ladder;
  for (const TuningPoint& point : points) {
    const SearchParameters parameters{.nprobe = point.nprobe(), .ef_search = point.ef_search(), .rescore_factor = point.rescore_factor()};
    if (point.chosen()) ladder.defaults = parameters;
    ladder.steps.push_back({parameters, point.recall_at_10(), point.recall_bound(), point.latency_us()});
  }
  return ladder;
}

}  // namespace loci
