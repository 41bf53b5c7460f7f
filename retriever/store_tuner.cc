#include "retriever/store_tuner.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/file.h"
#include "base/memory_info.h"
#include "base/status_macros.h"
#include "base/strings.h"
#include "base/timestamp_id.h"
#include "encoder/text_encoder.h"
#include "index/manifest.h"
#include "index/recall.h"
#include "retriever/query_vectors.h"
#include "retriever/recall_queries.h"

namespace loci {
namespace {

constexpr int64_t kMadeQueries = 300;
constexpr char kSweptPrefix[] = ".deleted-tuning-";  // Store::Open deletes what begins with ".deleted-".

struct Queries {
  std::vector<float> vectors;
  std::string source;
};

absl::StatusOr<Queries> MakeQueries(GenerationManager& manager, const std::shared_ptr<const ServingSet>& set, const TuneOptions& options,
                                    const RequestLimits& limits) {
  const Generation& generation = set->view->generation();
  const absl::StatusOr<std::shared_ptr<const ServingSet>> with_encoder = manager.WithEncoder(set);
  Queries queries;
  if (!options.queries.empty()) {
    LOCI_RETURN_IF_ERROR(with_encoder.status());
    LOCI_ASSIGN_OR_RETURN(queries.vectors, EncodeQueries(*(*with_encoder)->encoder, options.queries, limits));
    queries.source = "queries of the request";
    return queries;
  }
  if (!with_encoder.ok()) {
    queries.vectors = MakeMidpointQueries(generation.vectors(), kMadeQueries);
    queries.source = kMidpointQuerySource;
    return queries;
  }
  const int64_t count = std::min(kMadeQueries, generation.row_count());
  std::vector<int64_t> rows;
  for (int64_t i = 0; i < count; ++i) rows.push_back(generation.row_count() * i / count);
  std::vector<loci::v1::Passage> sample;
  LOCI_RETURN_IF_ERROR(generation.passages().Read(rows, &sample));
  LOCI_ASSIGN_OR_RETURN(queries.vectors, EncodeRecallQueries(*(*with_encoder)->encoder, sample, limits));
  queries.source = kRecallQuerySource;
  return queries;
}

}  // namespace

absl::StatusOr<TuneResult> TuneStore(GenerationManager& manager, std::string_view store, const TuneOptions& options, const OperationControl& control) {
  LOCI_ASSIGN_OR_RETURN(const std::shared_ptr<const ServingSet> set, manager.Capture(store, ""));
  const Generation& generation = set->view->generation();
  if (generation.row_count() == 0) {
    return ErrorWithReason(absl::FailedPreconditionError(absl::StrCat("generation ", generation.id(), " of store ", AbslView(store),
                                                                      " has no passages to measure on; ingest some, or fold the writes made since")),
                           "EMPTY_STORE", {{"store", std::string(store)}, {"generation", generation.id()}});
  }
  if (control.chosen) control.chosen(generation.id());
  const auto report = [&](std::string_view phase, int64_t done, int64_t total) {
    if (control.progress) control.progress(phase, done, total);
  };
  report("encode", 0, 0);
  LOCI_RETURN_IF_ERROR(control.limits.Check(RealClock().NowMicros()));
  LOCI_ASSIGN_OR_RETURN(const Queries queries, MakeQueries(manager, set, options, control.limits));
  TunerOptions tuner;
  tuner.recall_target = options.recall_target;
  tuner.memory_budget_bytes = options.memory_budget_bytes;
  tuner.sample_rows = options.sample_rows;
  tuner.exact_rows = options.exact_rows;
  // What serves is among what is measured.
  tuner.exact_codes = HasCodes(generation.manifest());
  tuner.available_memory_bytes = [&] { return AvailableMemoryBytes(manager.fs()); };
  tuner.query_source = queries.source;
  tuner.fs = &manager.fs();
  tuner.scratch_directory =
      JoinPath(manager.StoreDirectory(store), absl::StrCat(kSweptPrefix, MakeTimestampId(RealClock().UnixMicros())));
  tuner.limits = control.limits;
  tuner.progress = [&](int64_t done, int64_t total) { report("tune", done, total); };
  TuneResult result{.generation = generation.id(), .revision = set->view->revision()};
  const MatrixView<const float> vectors{queries.vectors.data(), static_cast<int64_t>(queries.vectors.size()) / generation.dim(), generation.dim()};
  absl::StatusOr<v1::IndexTuning> tuning = TuneIndex(generation.shared_vectors(), vectors, tuner);
  ReleaseFreeMemory();  // Of the indexes that were tried, each about as large as the one that serves.
  if (absl::IsNotFound(tuning.status())) LOCI_RETURN_IF_ERROR(manager.GetStore(store).status());  // It was deleted meanwhile.
  LOCI_ASSIGN_OR_RETURN(result.tuning, std::move(tuning));
  return result;
}

}  // namespace loci
