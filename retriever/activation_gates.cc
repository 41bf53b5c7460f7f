#include "retriever/activation_gates.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "base/error.h"
#include "base/status_macros.h"
#include "base/strings.h"
#include "retriever/query_vectors.h"

namespace loci {
namespace {

constexpr int kTopK = 10;
constexpr size_t kAtOnce = 64;  // Queries that are searched at once.
constexpr size_t kWarmUp = 8;   // Searched before times are taken.

constexpr char kNdcg[] = "min_ndcg_at_10";
constexpr char kRecall[] = "min_recall_at_10";
constexpr char kOverlap[] = "min_overlap_at_10";
constexpr char kP99[] = "max_p99_us";

using Rankings = std::vector<std::vector<std::string>>;

// The rankings of queries [begin, end).
absl::Status Search(const View& view, const std::vector<float>& vectors, size_t begin, size_t end, const RequestLimits& limits, Rankings* rankings) {
  const MatrixView<const float> queries{vectors.data() + begin * static_cast<size_t>(view.dim()), static_cast<int64_t>(end - begin), view.dim()};
  LOCI_ASSIGN_OR_RETURN(ViewSearchResult found, view.Search(queries, {.top_k = kTopK, .limits = limits}));
  for (size_t i = begin; i < end; ++i) {
    for (ViewHit& hit : found.hits[i - begin]) (*rankings)[i].push_back(std::move(hit.id));
  }
  return absl::OkStatus();
}

double Overlap(const std::vector<std::string>& a, const std::vector<std::string>& b) {
  const std::set<std::string_view> in_a(a.begin(), a.end());
  const auto common = std::count_if(b.begin(), b.end(), [&](const std::string& id) { return in_a.contains(id); });
  const size_t larger = std::max(a.size(), b.size());
  return larger == 0 ? 1 : static_cast<double>(common) / static_cast<double>(larger);
}

GateFigure AtLeast(const char* condition, double value, std::optional<double> limit, int64_t query_count) {
  return {.condition = condition, .value = value, .limit = limit, .met = !limit.has_value() || value >= *limit, .query_count = query_count};
}

// "ndcg_at_10" of "min_ndcg_at_10".
std::string NameOf(const GateFigure& figure) { return figure.condition.substr(4); }

const char* Sign(const GateFigure& figure) { return figure.condition == kP99 ? " <= " : " >= "; }

std::string Number(double value) { return absl::StrFormat("%.6g", value); }

}  // namespace

absl::StatusOr<std::vector<GateFigure>> MeasureGates(const ActivationGates& gates, std::shared_ptr<const Generation> candidate,
                                                     TextEncoder& encoder, const ServingSet* serving, const RequestLimits& limits,
                                                     const std::function<void(int64_t done, int64_t total)>& progress, Clock& clock) {
  const int64_t count = static_cast<int64_t>(gates.queries.size());
  const auto report = [&](size_t done) {
    if (progress) progress(static_cast<int64_t>(done), count);
  };
  report(0);
  const std::shared_ptr<const View> view = View::Bare(std::move(candidate));
  std::vector<std::string> texts;
  for (const GateQuery& query : gates.queries) texts.push_back(query.text);
  LOCI_ASSIGN_OR_RETURN(const std::vector<float> vectors, EncodeQueries(encoder, texts, limits));
  Rankings found(gates.queries.size());
  std::vector<int64_t> times_us;
  if (gates.max_p99_us.has_value()) {
    Rankings dropped(gates.queries.size());
    for (size_t i = 0; i < std::min(kWarmUp, gates.queries.size()); ++i) LOCI_RETURN_IF_ERROR(Search(*view, vectors, i, i + 1, limits, &dropped));
  }
  const size_t step = gates.max_p99_us.has_value() ? 1 : kAtOnce;
  for (size_t i = 0; i < gates.queries.size(); i += step) {
    const int64_t start_us = clock.NowMicros();
    LOCI_RETURN_IF_ERROR(limits.Check(start_us));
    LOCI_RETURN_IF_ERROR(Search(*view, vectors, i, std::min(gates.queries.size(), i + step), limits, &found));
    times_us.push_back(clock.NowMicros() - start_us);
    report(std::min(gates.queries.size(), i + step));
  }

  std::vector<GateFigure> figures;
  double ndcg = 0, recall = 0;
  int64_t judged_count = 0;
  for (size_t i = 0; i < gates.queries.size(); ++i) {
    if (!HasRelevant(gates.queries[i].grades)) continue;
    const RankingMetrics metrics = EvaluateRanking(found[i], gates.queries[i].grades);
    ndcg += metrics.ndcg_at_10;
    recall += metrics.recall_at_10;
    ++judged_count;
  }
  if (judged_count > 0) {
    figures.push_back(AtLeast(kNdcg, ndcg / static_cast<double>(judged_count), gates.min_ndcg_at_10, judged_count));
    figures.push_back(AtLeast(kRecall, recall / static_cast<double>(judged_count), gates.min_recall_at_10, judged_count));
  }
  // Without a limit it is told where it can be measured, and ends nothing where not.
  if (serving != nullptr && (serving->encoder != nullptr || gates.min_overlap_at_10.has_value())) {
    const View& active = *serving->view;
    if (serving->encoder == nullptr) {
      return ErrorWithReason(absl::FailedPreconditionError(absl::StrCat("no encoder serves generation ", active.generation().id(),
                                                                        ", which serves; the overlap can't be measured")),
                             "ENCODER_MISMATCH", {{"generation", active.generation().id()}});
    }
    const bool same_half = active.generation().manifest().passage_fingerprint() == view->generation().manifest().passage_fingerprint();
    std::vector<float> others;
    if (!same_half) {
      LOCI_ASSIGN_OR_RETURN(others, EncodeQueries(*serving->encoder, texts, limits));
    }
    Rankings now(gates.queries.size());
    for (size_t i = 0; i < gates.queries.size(); i += kAtOnce) {
      LOCI_RETURN_IF_ERROR(limits.Check(clock.NowMicros()));
      LOCI_RETURN_IF_ERROR(Search(active, same_half ? vectors : others, i, std::min(gates.queries.size(), i + kAtOnce), limits, &now));
    }
    double overlap = 0;
    for (size_t i = 0; i < gates.queries.size(); ++i) overlap += Overlap(found[i], now[i]);
    figures.push_back(AtLeast(kOverlap, overlap / static_cast<double>(count), gates.min_overlap_at_10, count));
  }
  if (gates.max_p99_us.has_value()) {
    std::sort(times_us.begin(), times_us.end());
    const size_t rank = static_cast<size_t>(std::ceil(0.99 * static_cast<double>(times_us.size())));
    const int64_t p99_us = times_us[rank - 1];
    figures.push_back({.condition = kP99,
                       .value = static_cast<double>(p99_us),
                       .limit = static_cast<double>(*gates.max_p99_us),
                       .met = p99_us <= *gates.max_p99_us,
                       .query_count = count});
  }
  return figures;
}

std::string DescribeGateFigure(const GateFigure& figure) {
  std::string text = absl::StrCat(NameOf(figure), " ", Number(figure.value));
  if (figure.limit.has_value()) absl::StrAppend(&text, figure.condition[1] == 'i' ? " (at least " : " (at most ", Number(*figure.limit), ")");
  absl::StrAppend(&text, " over ", figure.query_count, figure.query_count == 1 ? " query" : " queries");
  if (figure.limit.has_value()) absl::StrAppend(&text, figure.met ? ", met" : ", not met");
  return text;
}

absl::Status CheckGates(const std::string& generation, const std::vector<GateFigure>& figures) {
  std::vector<std::string> failed, described;
  std::map<std::string, std::string> metadata = {{"generation", generation}};
  for (const GateFigure& figure : figures) {
    if (!figure.met) failed.push_back(figure.condition);
    described.push_back(DescribeGateFigure(figure));
    metadata[NameOf(figure)] = absl::StrCat(Number(figure.value), figure.limit.has_value() ? absl::StrCat(Sign(figure), Number(*figure.limit)) : "");
  }
  if (failed.empty()) return absl::OkStatus();
  metadata["failed"] = absl::StrJoin(failed, ",");
  return ErrorWithReason(absl::FailedPreconditionError(absl::StrCat("generation ", generation, " does not meet its gates, and what serves stays: ",
                                                                    absl::StrJoin(described, "; "))),
                         "GATE_FAILED", std::move(metadata));
}

}  // namespace loci
