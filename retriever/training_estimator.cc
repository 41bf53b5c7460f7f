#include "retriever/training_estimator.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <map>
#include <memory>
#include <type_traits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/field_error.h"
#include "base/status_macros.h"
#include "base/strings.h"
#include "index/device_softmax.h"

namespace loci {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
// Hits that one search of several queries may have room for, those that exclusions will take off with them: about 100 MB.
constexpr int64_t kMaxSearchSlots = 1'000'000;

double LogAddExp(double a, double b) {
  const double max = std::max(a, b);
  return max == -kInfinity ? max : max + std::log1p(std::exp(std::min(a, b) - max));
}

absl::Status CheckOptions(const TrainingOptions& options) {
  const int top_k = options.search.top_k;
  if (top_k < 1 || top_k > kMaxTopK) return FieldError("top_k", absl::StrCat("top_k is ", top_k, ", it must be in [1, ", kMaxTopK, "]"));
  switch (options.estimator) {
    case Estimator::kTopK:
    case Estimator::kExactZ:
    case Estimator::kExactZNull:
    case Estimator::kFull:
      if (options.tail_samples != 0) {
        return FieldError("tail_samples",
                       absl::StrCat("tail_samples is ", options.tail_samples, ", but only the estimator EXACT_Z_TAIL draws from the tail"));
      }
      break;
    case Estimator::kExactZTail:
      if (options.tail_samples < 1 || options.tail_samples > kMaxTailSamples) {
        return FieldError("tail_samples",
                       absl::StrCat("tail_samples is ", options.tail_samples, ", it must be in [1, ", kMaxTailSamples, "]"));
      }
      break;
    default: return FieldError("estimator", absl::StrCat("estimator ", static_cast<int>(options.estimator), " is unknown"));
  }
  if (!(options.temperature >= kMinTemperature && options.temperature <= kMaxTemperature)) {
    return FieldError("temperature",
                   absl::StrCat("temperature is ", options.temperature, ", it must be in [", kMinTemperature, ", ", kMaxTemperature, "]"));
  }
  return absl::OkStatus();
}

bool IsVisible(const View& view, const FilteredRows* filtered, ViewRow row) {
  if (filtered == nullptr) return view.IsAlive(row);
  return !(row.in_overlay ? filtered->hidden_overlay : filtered->hidden_body).hidden(row.row);
}

// Of each query, the rows that it may not see and could, ascending.
absl::StatusOr<std::vector<std::vector<ViewRow>>> FindExcluded(const View& view, const FilteredRows* filtered,
                                                               std::span<const std::vector<std::string>> excluded,
                                                               const RequestLimits& limits) {
  std::vector<std::vector<ViewRow>> rows(excluded.size());
  int64_t seen = 0;
  for (size_t q = 0; q < excluded.size(); ++q) {
    for (const std::string& id : excluded[q]) {
      if (seen++ % 256 == 0) LOCI_RETURN_IF_ERROR(limits.Check(RealClock().NowMicros()));
      LOCI_ASSIGN_OR_RETURN(const std::optional<ViewRow> row, view.Find(id));
      if (row.has_value() && IsVisible(view, filtered, *row)) rows[q].push_back(*row);
    }
    std::sort(rows[q].begin(), rows[q].end());
    rows[q].erase(std::unique(rows[q].begin(), rows[q].end()), rows[q].end());
  }
  return rows;
}

// T of each query: a function of its own vector and exclusions alone, whatever it is retrieved with.
absl::StatusOr<std::vector<std::vector<ViewHit>>> FindHead(const View& view, MatrixView<const float> queries,
                                                           const TrainingOptions& options, const FilteredRows* filtered,
                                                           const std::vector<std::vector<ViewRow>>& excluded) {
  const int top_k = options.search.top_k;
  const int64_t total = filtered != nullptr ? filtered->match_count : view.passage_count();
  std::map<int, std::vector<int64_t>> by_asked;  // Queries by how many hits they need.
  for (int64_t q = 0; q < queries.rows; ++q) {
    const int64_t own = excluded.empty() ? 0 : static_cast<int64_t>(excluded[q].size());
    if (options.estimator == Estimator::kFull && top_k < total - own) {
      return FieldError("top_k", absl::StrCat("top_k is ", top_k, ", the estimator FULL needs all ", total - own, " passages that query ",
                                              options.first_query + q, " can draw"));
    }
    if (top_k + own > kMaxTopK && total > kMaxTopK) {
      return FieldError("exclusions",
                     absl::StrCat("top_k ", top_k, " and ", own, " exclusions of query ", options.first_query + q, " are more than ", kMaxTopK));
    }
    // Rounded up, so that there are few sizes to search for.
    const int64_t room = own == 0 ? 0 : static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(own)));
    by_asked[static_cast<int>(std::min<int64_t>(top_k + room, kMaxTopK))].push_back(q);
  }
  std::vector<std::vector<ViewHit>> heads(static_cast<size_t>(queries.rows));
  std::vector<float> gathered;
  for (const auto& [asked, members] : by_asked) {
    IndexSearchOptions search = options.search;
    search.top_k = asked;
    // As many candidates as the caller's options say, beside those that are excluded. Options that don't fit are left to be refused.
    const int64_t candidates = int64_t{search.rescore_factor} * top_k;
    if (search.rescore_factor > kMaxRescoreFactor || candidates > kMaxCandidates) {
      search.top_k = top_k;
    } else if (search.rescore_factor > 0) {
      const int64_t wanted = (candidates + asked - top_k + asked - 1) / asked;
      search.rescore_factor = static_cast<int>(std::min(wanted, kMaxCandidates / asked));
    }
    const size_t group = static_cast<size_t>(std::max<int64_t>(kMaxSearchSlots / asked, 1));
    for (size_t first = 0; first < members.size(); first += group) {
      const std::span<const int64_t> own = std::span(members).subspan(first, std::min(group, members.size() - first));
      gathered.clear();
      for (const int64_t q : own) gathered.insert(gathered.end(), queries.row(q), queries.row(q) + queries.cols);
      LOCI_ASSIGN_OR_RETURN(ViewSearchResult found,
                            view.Search({gathered.data(), static_cast<int64_t>(own.size()), queries.cols}, search, filtered));
      for (size_t i = 0; i < own.size(); ++i) {
        std::vector<ViewHit>& hits = heads[own[i]] = std::move(found.hits[i]);
        if (!excluded.empty()) {
          const std::vector<ViewRow>& hidden = excluded[own[i]];
          std::erase_if(hits, [&](const ViewHit& hit) { return std::binary_search(hidden.begin(), hidden.end(), hit.row); });
        }
        if (hits.size() > static_cast<size_t>(top_k)) hits.resize(static_cast<size_t>(top_k));
        hits.shrink_to_fit();  // They are kept for as long as the result is.
      }
    }
  }
  return heads;
}

// Of all segments of the view: of the body by the device that holds it, of what was written since by the CPU.
absl::StatusOr<SoftmaxScan> ScanView(const View& view, std::span<const ScanSegment> segments, MatrixView<const float> queries,
                                     std::span<const std::vector<ViewRow>> skipped, const SoftmaxScanOptions& options) {
  // Held to the end: the scan ends where it began.
  const std::shared_ptr<const DeviceExactIndex> device = view.generation().exact_index().device();
  const bool has_body = !segments.empty() && !segments.front().in_overlay;
  const DeviceSoftmax* const softmax =
      device == nullptr || !has_body || options.block_masses ? nullptr : device->softmax(*segments.front().hidden);
  if (softmax == nullptr) return ScanSoftmax(segments, queries, skipped, options);
  LOCI_ASSIGN_OR_RETURN(SoftmaxScan scan, softmax->Scan(queries, *segments.front().hidden, skipped, options));
  if (segments.size() == 1) return scan;
  LOCI_ASSIGN_OR_RETURN(const SoftmaxScan overlay, ScanSoftmax(segments.subspan(1), queries, skipped, options));
  for (size_t q = 0; q < scan.sums.size(); ++q) scan.sums[q].Merge(overlay.sums[q], options.temperature);
  scan.max_length = std::max(scan.max_length, overlay.max_length);
  return scan;
}

// Masses and scores in float64 are the CPU's alone.
absl::StatusOr<SoftmaxScan> ScanView(const View&, std::span<const ScanSegment> segments, MatrixView<const double> queries,
                                     std::span<const std::vector<ViewRow>> skipped, const SoftmaxScanOptions& options) {
  return ScanSoftmax(segments, queries, skipped, options);
}

// Fills all but tail_hits. `scores` [hits.size()] not divided by the temperature; `vectors` [hits.size(), dim]; `tail` null where no scan
// was made.
void Assemble(const TrainingOptions& options, std::span<const double> scores, const float* vectors, int dim, const SoftmaxSums* tail,
              TrainingResult* result) {
  const double temperature = options.temperature;
  const bool truncated = options.estimator == Estimator::kTopK;
  double max = tail != nullptr ? tail->max_score : -kInfinity;
  for (const double score : scores) max = std::max(max, score);
  result->mean_vector.assign(static_cast<size_t>(dim), 0);
  if (!truncated) result->tail_mean.assign(static_cast<size_t>(dim), 0);
  result->log_null_prob = truncated ? kNan : -kInfinity;
  if (max == -kInfinity) {  // Nothing can be drawn.
    result->log_z = -kInfinity;
    result->head_mass = tail != nullptr ? 0 : kNan;
    result->log_tail_mass = tail != nullptr ? -kInfinity : kNan;
    return;
  }
  double head_sum = 0;
  for (const double score : scores) head_sum += std::exp((score - max) / temperature);
  // Logarithms of masses relative to e^(max / temperature).
  const double log_head = std::log(head_sum);
  const double log_tail = tail != nullptr && tail->sum > 0 ? std::log(tail->sum) + (tail->max_score - max) / temperature : -kInfinity;
  const double log_all = LogAddExp(log_head, log_tail);
  const double log_own = truncated ? log_head : log_all;
  result->log_z = max / temperature + log_own;
  result->head_mass = tail != nullptr ? std::exp(log_head - log_all) : kNan;
  result->log_tail_mass = tail != nullptr ? log_tail - log_all : kNan;
  if (!truncated) result->log_null_prob = result->log_tail_mass;
  for (size_t i = 0; i < scores.size(); ++i) {
    const double log_prob = (scores[i] - max) / temperature - log_own;
    result->log_probs.push_back(log_prob);
    const double p = std::exp(log_prob);
    for (int d = 0; d < dim; ++d) result->mean_vector[d] += p * vectors[static_cast<int64_t>(i) * dim + d];
  }
  if (truncated || log_tail == -kInfinity) return;
  const double tail_mass = std::exp(result->log_tail_mass);
  for (int d = 0; d < dim; ++d) {
    result->tail_mean[d] = tail->weighted[d] / tail->sum;
    result->mean_vector[d] += tail_mass * result->tail_mean[d];
  }
}

// The ids of drawn rows.
absl::Status FillTailHits(const View& view, const std::vector<SampledRow>& draws, const RequestLimits& limits, std::vector<ViewHit>* hits) {
  constexpr size_t kBatch = 256;
  for (size_t first = 0; first < draws.size(); first += kBatch) {
    LOCI_RETURN_IF_ERROR(limits.Check(RealClock().NowMicros()));
    const size_t end = std::min(first + kBatch, draws.size());
    std::vector<int64_t> rows;
    for (size_t i = first; i < end; ++i) {
      if (!draws[i].row.in_overlay) rows.push_back(draws[i].row.row);
    }
    std::vector<std::string> ids;
    if (!rows.empty()) LOCI_RETURN_IF_ERROR(view.generation().passages().ReadIds(rows, &ids));
    size_t next = 0;
    for (size_t i = first; i < end; ++i) {
      const ViewRow row = draws[i].row;
      hits->push_back({row, static_cast<float>(draws[i].score), row.in_overlay ? view.overlay_id(row.row) : std::move(ids[next++])});
    }
  }
  return absl::OkStatus();
}

template <typename Query>
absl::StatusOr<std::vector<TrainingResult>> Retrieve(const View& view, MatrixView<const Query> queries, const TrainingOptions& options,
                                                     const FilteredRows* filtered, std::span<const std::vector<std::string>> excluded) {
  constexpr bool kIsDouble = std::is_same_v<Query, double>;
  const RequestLimits& limits = options.search.limits;
  const int dim = view.dim();
  LOCI_RETURN_IF_ERROR(CheckOptions(options));
  if (queries.rows == 0) return std::vector<TrainingResult>();
  if (queries.cols != dim) {
    return FieldError("query_vectors", absl::StrCat("query vectors have dimension ", queries.cols, ", those of the passages have ", dim));
  }
  if (!excluded.empty() && static_cast<int64_t>(excluded.size()) != queries.rows) {
    return FieldError("exclusions", absl::StrCat(excluded.size(), " lists of exclusions for ", queries.rows,
                                              " queries; there must be one a query, or none"));
  }
  std::vector<float> rounded;
  MatrixView<const float> float_queries;
  if constexpr (kIsDouble) {
    const int64_t count = queries.rows * queries.cols;
    for (int64_t i = 0; i < count; ++i) {  // What float32 can't hold has no defined conversion.
      if (std::abs(queries.data[i]) <= std::numeric_limits<float>::max()) continue;
      return FieldError("query_vectors", absl::StrCat("query_vectors has ", queries.data[i], " in row ", options.first_query + i / dim,
                                                      ", column ", i % dim, "; vectors must be finite in float32"));
    }
    rounded.assign(queries.data, queries.data + count);
    float_queries = {rounded.data(), queries.rows, queries.cols};
  } else {
    float_queries = queries;
  }
  for (int64_t q = 0; q < queries.rows; ++q) {
    if (absl::Status valid = CheckVector(float_queries.row(q), dim); !valid.ok()) {
      return FieldError("query_vectors", absl::StrCat("query_vectors, row ", options.first_query + q, ": ", valid.message()));
    }
  }

  LOCI_ASSIGN_OR_RETURN(const std::vector<std::vector<ViewRow>> excluded_rows, FindExcluded(view, filtered, excluded, limits));
  LOCI_ASSIGN_OR_RETURN(std::vector<std::vector<ViewHit>> heads, FindHead(view, float_queries, options, filtered, excluded_rows));

  std::vector<std::vector<ViewRow>> skipped(static_cast<size_t>(queries.rows));
  for (int64_t q = 0; q < queries.rows; ++q) {
    if (!excluded_rows.empty()) skipped[q] = excluded_rows[q];
    for (const ViewHit& hit : heads[q]) skipped[q].push_back(hit.row);
  }
  const SoftmaxScanOptions scan_options{.temperature = options.temperature,
                                        .mean = options.estimator != Estimator::kTopK,
                                        .block_masses = options.estimator == Estimator::kExactZTail,
                                        .max_length = true,
                                        .limits = limits,
                                        .pool = options.pool};
  const bool scans = options.estimator != Estimator::kTopK || options.measure_head_mass;
  const std::vector<ScanSegment> segments = scans ? view.ScanSegments(filtered) : std::vector<ScanSegment>();
  SoftmaxScan scan;
  if (scans) {
    LOCI_ASSIGN_OR_RETURN(scan, ScanView(view, segments, queries, skipped, scan_options));
  }

  std::vector<TrainingResult> results(static_cast<size_t>(queries.rows));
  std::vector<float> vectors;
  std::vector<double> scores;
  for (int64_t q = 0; q < queries.rows; ++q) {
    LOCI_RETURN_IF_ERROR(limits.Check(RealClock().NowMicros()));
    TrainingResult& result = results[q];
    result.hits = std::move(heads[q]);
    if constexpr (kIsDouble) {
      // Ordered by the scores that count.
      std::vector<std::pair<double, ViewHit>> scored;
      vectors.resize(static_cast<size_t>(dim));
      for (ViewHit& hit : result.hits) {
        LOCI_RETURN_IF_ERROR(view.CopyVector(hit.row, vectors.data()));
        const double score = ExactScore64(queries.row(q), vectors.data(), dim);
        hit.score = static_cast<float>(score);
        scored.emplace_back(score, std::move(hit));
      }
      std::sort(scored.begin(), scored.end(),
                [](const auto& a, const auto& b) { return a.first != b.first ? a.first > b.first : a.second.id < b.second.id; });
      scores.clear();
      result.hits.clear();
      for (auto& [score, hit] : scored) {
        scores.push_back(score);
        result.hits.push_back(std::move(hit));
      }
    } else {
      scores.assign(result.hits.size(), 0);
      for (size_t i = 0; i < scores.size(); ++i) scores[i] = static_cast<double>(result.hits[i].score);
    }
    vectors.resize(result.hits.size() * static_cast<size_t>(dim));
    for (size_t i = 0; i < result.hits.size(); ++i) {
      LOCI_RETURN_IF_ERROR(view.CopyVector(result.hits[i].row, vectors.data() + i * static_cast<size_t>(dim)));
    }
    Assemble(options, scores, vectors.data(), dim, scans ? &scan.sums[q] : nullptr, &result);
    result.max_length = scans ? scan.max_length : kNan;
  }

  if (options.estimator == Estimator::kExactZTail) {
    std::vector<uint64_t> seeds(static_cast<size_t>(queries.rows));
    for (int64_t q = 0; q < queries.rows; ++q) seeds[q] = MixSeed(options.seed, static_cast<uint64_t>(options.first_query + q));
    LOCI_ASSIGN_OR_RETURN(const std::vector<std::vector<SampledRow>> draws,
                          SampleSoftmax(segments, queries, skipped, scan_options, scan, seeds, options.tail_samples));
    for (int64_t q = 0; q < queries.rows; ++q) LOCI_RETURN_IF_ERROR(FillTailHits(view, draws[q], limits, &results[q].tail_hits));
  }
  LOCI_RETURN_IF_ERROR(view.generation().vectors().Check());
  return results;
}

int64_t HitsMemory(const std::vector<ViewHit>& hits) {
  int64_t bytes = static_cast<int64_t>(hits.capacity() * sizeof(ViewHit));
  for (const ViewHit& hit : hits)
    bytes += hit.id.capacity() > 15 ? static_cast<int64_t>(hit.id.capacity()) + 1 : 0;  // Short ones lie in the string itself.
  return bytes;
}

}  // namespace

int64_t TrainingResult::memory_bytes() const {
  return static_cast<int64_t>(sizeof(*this) + sizeof(double) * (log_probs.capacity() + mean_vector.capacity() + tail_mean.capacity())) +
         HitsMemory(hits) + HitsMemory(tail_hits);
}

absl::StatusOr<std::vector<TrainingResult>> RetrieveForTraining(const View& view, MatrixView<const float> queries,
                                                                const TrainingOptions& options, const FilteredRows* filtered,
                                                                std::span<const std::vector<std::string>> excluded) {
  return Retrieve(view, queries, options, filtered, excluded);
}

absl::StatusOr<std::vector<TrainingResult>> RetrieveForTraining(const View& view, MatrixView<const double> queries,
                                                                const TrainingOptions& options, const FilteredRows* filtered,
                                                                std::span<const std::vector<std::string>> excluded) {
  return Retrieve(view, queries, options, filtered, excluded);
}

}  // namespace loci
