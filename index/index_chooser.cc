#include "index/index_chooser.h"

#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/status_macros.h"
#include "index/build_forecast.h"
#include "index/exact_index.h"
#include "index/faiss_index.h"
#include "index/recall.h"
#include "index/tuning_choice.h"

namespace loci {
namespace {

using v1::TuningPoint;

constexpr int kMaxBuilds = 2;
constexpr int64_t kTimingQueries = 32;  // Of a search that finds everything.

// Every second query, from `first` on.
std::vector<float> EverySecond(MatrixView<const float> queries, int64_t first) {
  std::vector<float> result;
  for (int64_t q = first; q < queries.rows; q += 2) result.insert(result.end(), queries.row(q), queries.row(q) + queries.cols);
  return result;
}

// Begins the reason of a choice that another moment would have made otherwise.
constexpr char kNoMemory[] = "there was no memory to build what the sample had promised";

bool IsStillGood(const v1::IndexTuning* earlier, const AutoIndex& wanted, int64_t rows) {
  return earlier != nullptr && earlier->front_size() > 0 && earlier->reason().rfind(kNoMemory, 0) != 0 && earlier->recall_target() == wanted.recall_target &&
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
    if (point.chosen() && !IsExactIndex(point.index())) take(point.index());
  }
  while (!factories.empty() && !left.empty()) {
    const TuningPoint& next = left[static_cast<size_t>(ChoosePoint(left, tuning.recall_target(), tuning.memory_budget_bytes()).position)];
    if (IsExactIndex(next.index())) break;
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

// The cheapest step that reaches the target on both sets of queries and takes `most_us` at most; null where none does.
absl::StatusOr<TuningPoint*> FindStep(const PassageIndex& index, const RecallMeter& held_back, double target, double most_us, const RequestLimits& limits,
                                      std::vector<TuningPoint>& ladder, double* recall) {
  std::vector<TuningPoint*> steps;
  for (TuningPoint& point : ladder) {
    if (point.recall_bound() >= target && point.latency_us() <= most_us) steps.push_back(&point);
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

// Whether exact search was measured to be best done by codes.
bool PromisesCodes(const v1::IndexTuning& tuning) {
  const std::vector<TuningPoint> points(tuning.front().begin(), tuning.front().end());
  return points[static_cast<size_t>(FastestExact(points))].index() == kExactInt8Index;
}

// Exact search over all vectors: CPU time of one query in microseconds, without codes, and as it is done best.
struct ExactFigures {
  double plain_us = 0;
  double best_us = 0;
  bool by_codes = false;
};

// Where the front promises that codes make it faster, they are written and measured; they stay if they do.
absl::StatusOr<ExactFigures> MeasureExact(const std::shared_ptr<const VectorFile>& vectors, MatrixView<const float> queries, bool promises_codes,
                                          const ChooserOptions& options, const RequestLimits& limits) {
  const ExactIndex exact(vectors, nullptr);
  const MatrixView<const float> few{queries.data, std::min(queries.rows, kTimingQueries), queries.cols};
  LOCI_ASSIGN_OR_RETURN(const RecallMeter meter, RecallMeter::Create(exact, few, kLadderTopK, limits));
  TuningPoint plain;
  plain.set_index(kExactIndex);
  LOCI_ASSIGN_OR_RETURN(const double plain_us, options.tuner.latency(exact, meter, {}, limits));
  plain.set_latency_us(plain_us);
  ExactFigures figures{.plain_us = plain_us, .best_us = plain_us};
  if (!promises_codes) return figures;
  const auto report = [&](int64_t done) {
    if (options.progress) options.progress("index", done, vectors->rows());
  };
  report(0);
  LOCI_ASSIGN_OR_RETURN(const TuningPoint by_codes,
                        MeasureCodes(*options.tuner.fs, vectors, options.codes_path, meter, limits, options.tuner.latency, report));
  report(vectors->rows());
  figures.by_codes = FastestExact({plain, by_codes}) == 1;
  if (!figures.by_codes) {
    LOCI_RETURN_IF_ERROR(options.tuner.fs->DeleteFile(options.codes_path));
  } else {
    figures.best_us = by_codes.latency_us();
  }
  return figures;
}

// Exact search, with codes where these make it faster. `why`: nothing approximate was taken, unless the front says so.
absl::Status ChooseExact(const std::shared_ptr<const VectorFile>& vectors, MatrixView<const float> queries, const std::string& why,
                         const ChooserOptions& options, const RequestLimits& limits, ChosenIndex* chosen) {
  chosen->factory = kExactIndex;
  chosen->recall_at_10 = 1;
  if (queries.rows > 0 && PromisesCodes(chosen->tuning)) {
    LOCI_ASSIGN_OR_RETURN(const ExactFigures figures, MeasureExact(vectors, queries, true, options, limits));
    if (figures.by_codes) {
      chosen->factory = kExactInt8Index;
      MarkChosen(kExactInt8Index, absl::StrCat(why, kByCodes), &chosen->tuning);
      return absl::OkStatus();
    }
  }
  MarkChosen(kExactIndex, why, &chosen->tuning);
  return absl::OkStatus();
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
  std::vector<std::string> factories = FactoriesInOrder(chosen.tuning);
  std::string why = "what was measured of a sample was not so of all vectors: searched exactly";
  if (std::erase_if(factories, [&](const std::string& factory) {
        return !FitsMemory({.passage_count = vectors->rows(), .dim = vectors->dim(), .index = factory},
                           options.tuner.available_memory_bytes);
      }) > 0) {
    why = absl::StrCat(kNoMemory, ": searched exactly");
  }
  if (!factories.empty() && checking.empty()) why = "there were not enough queries to check an index with: searched exactly";
  if (factories.empty() || checking.empty()) {
    LOCI_RETURN_IF_ERROR(ChooseExact(vectors, view(choosing), why, options, limits, &chosen));
    return chosen;
  }
  if (factories.size() > kMaxBuilds) factories.resize(kMaxBuilds);

  const ExactIndex exact(vectors, nullptr);
  LOCI_ASSIGN_OR_RETURN(const RecallMeter meter, RecallMeter::Create(exact, view(choosing), kLadderTopK, limits));
  LOCI_ASSIGN_OR_RETURN(const RecallMeter held_back, RecallMeter::Create(exact, view(checking), kLadderTopK, limits));
  LOCI_ASSIGN_OR_RETURN(const ExactFigures figures, MeasureExact(vectors, view(choosing), PromisesCodes(chosen.tuning), options, limits));
  if (figures.by_codes) LOCI_RETURN_IF_ERROR(fs.DeleteFile(options.codes_path));  // Never on disk beside an index that is tried.
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
      LOCI_ASSIGN_OR_RETURN(chosen.ladder, MeasureLadder(*index, factory, meter, figures.plain_us, build_ms, limits, options.tuner.latency));
      // With an approximate index there are no codes: its ladder is cut where plain exact search is as fast.
      LOCI_ASSIGN_OR_RETURN(TuningPoint* const step, FindStep(*index, held_back, wanted.recall_target, figures.best_us, limits, chosen.ladder,
                                                              &chosen.recall_at_10));
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
  LOCI_RETURN_IF_ERROR(
      ChooseExact(vectors, view(choosing),
                  "what was built of all vectors met neither target nor budget as the sample had promised: searched exactly",
                  options, limits, &chosen));
  return chosen;
}

}  // namespace loci
