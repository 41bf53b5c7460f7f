#include "index/index_chooser.h"

#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/status_macros.h"
#include "index/exact_index.h"
#include "index/faiss_index.h"
#include "index/recall.h"
#include "index/tuning_choice.h"

namespace loci {
namespace {

using v1::TuningPoint;

constexpr int kMaxBuilds = 2;
constexpr char kExact[] = "exact";

// Every second query, from `first` on.
std::vector<float> EverySecond(MatrixView<const float> queries, int64_t first) {
  std::vector<float> result;
  for (int64_t q = first; q < queries.rows; q += 2) result.insert(result.end(), queries.row(q), queries.row(q) + queries.cols);
  return result;
}

bool IsStillGood(const v1::IndexTuning* earlier, const AutoIndex& wanted, int64_t rows) {
  return earlier != nullptr && earlier->front_size() > 0 && earlier->recall_target() == wanted.recall_target &&
         earlier->memory_budget_bytes() == wanted.memory_budget_bytes && rows <= 2 * earlier->row_count() && 2 * rows >= earlier->row_count();
}

// The factories to try, best first, each once: that of the chosen point, then of those that would be chosen without the ones before.
std::vector<std::string> FactoriesInOrder(const v1::IndexTuning& tuning) {
  std::vector<TuningPoint> left(tuning.front().begin(), tuning.front().end());
  std::vector<std::string> factories;
  const auto take = [&](const std::string& factory) {
    factories.push_back(factory);
    std::erase_if(left, [&](const TuningPoint& point) { return point.index() == factory; });
  };
  for (const TuningPoint& point : tuning.front()) {
    if (point.chosen() && point.index() != kExact) take(point.index());
  }
  while (!factories.empty() && !left.empty()) {
    const TuningPoint& next = left[static_cast<size_t>(ChoosePoint(left, tuning.recall_target(), tuning.memory_budget_bytes()).position)];
    if (next.index() == kExact) break;
    take(std::string(next.index()));
  }
  return factories;
}

void MarkChosen(const std::string& factory, const std::string& reason, v1::IndexTuning* tuning) {
  const TuningPoint* chosen = nullptr;
  for (const TuningPoint& point : tuning->front()) {
    if (point.chosen() && point.index() == factory) return;
  }
  for (TuningPoint& point : *tuning->mutable_front()) {
    point.set_chosen(chosen == nullptr && point.index() == factory);
    if (point.chosen()) chosen = &point;
  }
  tuning->set_reason(reason);
}

// The cheapest step that reaches the target on both sets of queries; null where none does.
absl::StatusOr<TuningPoint*> FindStep(const PassageIndex& index, const RecallMeter& held_back, double target, const RequestLimits& limits,
                                      std::vector<TuningPoint>& ladder, double* recall) {
  std::vector<TuningPoint*> steps;
  for (TuningPoint& point : ladder) {
    if (point.recall_bound() >= target) steps.push_back(&point);
  }
  std::stable_sort(steps.begin(), steps.end(), [](const TuningPoint* a, const TuningPoint* b) { return a->latency_us() < b->latency_us(); });
  for (TuningPoint* const step : steps) {
    LOCI_ASSIGN_OR_RETURN(const std::vector<double> recalls, held_back.Measure(index, SearchOptionsOf(*step), limits));
    *recall = MeanRecall(recalls);
    if (*recall >= target) return step;
    step->set_recall_bound(std::min(step->recall_bound(), *recall));  // Nor do requests take it for a target that it misses.
  }
  return nullptr;
}

}  // namespace

absl::StatusOr<ChosenIndex> BuildChosenIndex(std::shared_ptr<const VectorFile> vectors, MatrixView<const float> queries,
                                             const std::string& path, const ChooserOptions& options, const RequestLimits& limits) {
  const AutoIndex& wanted = options.wanted;
  FileSystem& fs = *options.tuner.fs;
  const auto report = [&](std::string_view phase, int64_t done, int64_t total) {
    if (options.progress) options.progress(phase, done, total);
  };
  const std::vector<float> choosing = EverySecond(queries, 0), checking = EverySecond(queries, 1);
  const auto view = [&](const std::vector<float>& of) {
    return MatrixView<const float>{of.data(), static_cast<int64_t>(of.size()) / vectors->dim(), vectors->dim()};
  };
  ChosenIndex chosen;
  if (IsStillGood(options.earlier, wanted, vectors->rows())) {
    chosen.tuning = *options.earlier;
  } else {
    TunerOptions tuner = options.tuner;
    tuner.recall_target = wanted.recall_target;
    tuner.memory_budget_bytes = wanted.memory_budget_bytes;
    tuner.limits = limits;
    tuner.progress = [&](int64_t done, int64_t total) { report("tune", done, total); };
    LOCI_ASSIGN_OR_RETURN(chosen.tuning, TuneIndex(vectors, view(choosing), tuner));
  }
  chosen.factory = kExact;
  std::vector<std::string> factories = FactoriesInOrder(chosen.tuning);
  if (factories.empty() || checking.empty()) {
    MarkChosen(kExact, "there were not enough queries to check an index with: searched exactly", &chosen.tuning);
    return chosen;
  }
  if (factories.size() > kMaxBuilds) factories.resize(kMaxBuilds);

  const ExactIndex exact(vectors, nullptr);
  LOCI_ASSIGN_OR_RETURN(const RecallMeter meter, RecallMeter::Create(exact, view(choosing), kLadderTopK, limits));
  LOCI_ASSIGN_OR_RETURN(const RecallMeter held_back, RecallMeter::Create(exact, view(checking), kLadderTopK, limits));
  LOCI_ASSIGN_OR_RETURN(const double exact_latency_us, options.tuner.latency(exact, meter, {}, limits));
  for (const std::string& factory : factories) {
    report("index", 0, vectors->rows());
    const int64_t start_us = RealClock().NowMicros();
    LOCI_RETURN_IF_ERROR(BuildFaissIndex(fs, factory, *vectors, path, limits));
    const int64_t build_ms = (RealClock().NowMicros() - start_us) / 1000;
    report("index", vectors->rows(), vectors->rows());
    LOCI_ASSIGN_OR_RETURN(const std::unique_ptr<PassageIndex> index, OpenFaissIndex(fs, path, factory, vectors, nullptr));
    const bool fits = wanted.memory_budget_bytes == 0 || index->memory_bytes() <= wanted.memory_budget_bytes;
    if (fits) {
      report("recall", 0, queries.rows);
      LOCI_ASSIGN_OR_RETURN(chosen.ladder, MeasureLadder(*index, factory, meter, exact_latency_us, build_ms, limits, options.tuner.latency));
      LOCI_ASSIGN_OR_RETURN(TuningPoint* const step,
                            FindStep(*index, held_back, wanted.recall_target, limits, chosen.ladder, &chosen.recall_at_10));
      report("recall", queries.rows, queries.rows);
      if (step != nullptr) {
        step->set_chosen(true);
        chosen.factory = factory;
        chosen.recall_query_count = held_back.queries().rows;
        MarkChosen(factory, "the fastest that met the recall target within the memory budget once it was built of all vectors", &chosen.tuning);
        return chosen;
      }
    }
    LOCI_RETURN_IF_ERROR(fs.DeleteFile(path));
    chosen.ladder.clear();
  }
  chosen.recall_at_10 = 1;
  MarkChosen(kExact, "what was built of all vectors met neither target nor budget as the sample had promised: searched exactly", &chosen.tuning);
  return chosen;
}

}  // namespace loci
