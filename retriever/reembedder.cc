#include "retriever/reembedder.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "base/logging.h"
#include "base/status_macros.h"
#include "index/build_forecast.h"
#include "index/generation_memory.h"
#include "index/index_specification.h"
#include "index/manifest.h"
#include "index/passage_file.h"
#include "index/view_copy.h"
#include "retriever/encoder_pace.h"
#include "retriever/passage_sink.h"
#include "retriever/recall_queries.h"

namespace loci {
namespace {

constexpr size_t kReadPassages = 64;

constexpr int64_t kSamplePassages = 512;
constexpr int64_t kSampleTokens = 8'192;     // That are encoded to measure the rate.
constexpr int64_t kSpecialTokens = 2;
constexpr int64_t kJournalBytesPerText = 24;  // Beside the vector.

std::string FingerprintOf(const storage::Manifest& manifest) {
  return absl::StrCat(manifest.query_fingerprint(), ":", manifest.passage_fingerprint());
}

absl::Status CheckOtherEncoder(const ReembedOptions& options, const View& view) {
  const std::string& half = view.generation().manifest().passage_fingerprint();
  if (options.encoder->spec().fingerprint.passage != half || !view.Precisions().AllInterchangeWith(options.encoder->precision())) {
    return absl::OkStatus();
  }
  return ErrorWithReason(
      absl::FailedPreconditionError(absl::StrCat("the vectors of store \"", options.store, "\" are of the passage half ", half,
                                                 " already, which is that of encoder ", options.encoder->spec().fingerprint.ToString(),
                                                 options.encoder->precision() == VectorPrecision::kInt8 ? ", and all are in int8" : ", and none is in int8")),
      "SAME_ENCODER", {{"store", options.store}, {"passage_fingerprint", half}});
}

BuildOptions BuildOptionsOf(const ReembedOptions& options, const View& view, const RequestLimits& limits) {
  const EncoderSpec& spec = options.encoder->spec();
  BuildOptions build{.index = options.index.empty() ? AskedIndex(view.generation().manifest()) : options.index,
                     .element_type = view.generation().vectors().element_type(),
                     .dim = spec.dim,
                     .query_fingerprint = spec.fingerprint.query,
                     .passage_fingerprint = spec.fingerprint.passage,
                     .base_revision = view.revision(),
                     .expected_passages = view.passage_count()};
  build.recall_queries = [encoder = options.encoder, limits](const std::vector<loci::v1::Passage>& sample) {
    return EncodeRecallQueries(*encoder, sample, limits);
  };
  build.recall_query_source = kRecallQuerySource;
  return build;
}

// Gives passages to the sink no faster than it may encode.
class PacedSink {
 public:
  PacedSink(const EncoderPace& pace, PassageSink& sink) : pace_(pace), sink_(sink) {}

  absl::Status Take(std::vector<loci::v1::Passage> passages) {
    std::vector<loci::v1::Passage> piece;
    size_t bytes = 0;
    for (loci::v1::Passage& passage : passages) {
      bytes += passage.title().size() + passage.text().size();
      piece.push_back(std::move(passage));
      if (bytes < EncoderPace::kTurnBytes) continue;
      LOCI_RETURN_IF_ERROR(TakePiece(std::exchange(piece, {})));
      bytes = 0;
    }
    return piece.empty() ? absl::OkStatus() : TakePiece(std::move(piece));
  }

 private:
  absl::Status TakePiece(std::vector<loci::v1::Passage> piece) {
    LOCI_ASSIGN_OR_RETURN(const bool others, pace_.Yield());
    const int64_t start_us = RealClock().NowMicros();
    LOCI_RETURN_IF_ERROR(sink_.Take(std::move(piece), nullptr));
    if (!others && !pace_.is_limited()) return absl::OkStatus();
    LOCI_RETURN_IF_ERROR(sink_.Flush());  // So that no more of them are on their way.
    const int64_t encoded = sink_.written_count() - sink_.reused_count();
    if (std::exchange(encoded_, encoded) == encoded) return absl::OkStatus();  // What was taken over kept nobody waiting.
    return pace_.Pause(RealClock().NowMicros() - start_us);
  }

  const EncoderPace& pace_;
  PassageSink& sink_;
  int64_t encoded_ = 0;
};

}  // namespace

absl::StatusOr<ReembedResult> Reembed(GenerationManager& manager, const ReembedOptions& options, const OperationControl& control) {
  LOCI_ASSIGN_OR_RETURN(const FoldSource source, manager.BeginReembedding(options.store));
  const View& view = *source.view;
  LOCI_RETURN_IF_ERROR(CheckOtherEncoder(options, view));
  const std::string built_from = view.generation().id();
  ReembedResult result{.generation = "",
                       .previous_generation = built_from,
                       .encoder_fingerprint = options.encoder->spec().fingerprint.ToString(),
                       .previous_encoder_fingerprint = FingerprintOf(view.generation().manifest())};
  const auto check = [&]() -> absl::Status {
    LOCI_RETURN_IF_ERROR(control.limits.Check(RealClock().NowMicros()));
    return options.activate ? CheckStillServes(manager, options.store, built_from) : absl::OkStatus();
  };

  // The builder stays until the generation is active: while there is one, retention leaves what is newer than the active one alone.
  LOCI_ASSIGN_OR_RETURN(const std::unique_ptr<GenerationBuilder> builder,
                        manager.NewGeneration(options.store, BuildOptionsOf(options, view, control.limits)));
  const int64_t passage_count = view.passage_count();
  const auto report = [&](int64_t done) {
    if (control.progress) control.progress("encoding", done, passage_count);
  };
  report(0);
  PassageSink sink({.manager = &manager,
                    .store = options.store,
                    .encoder = options.encoder,
                    .builder = builder.get(),
                    .element_type = view.generation().vectors().element_type(),
                    .limits = control.limits,
                    .on_written = report});
  const EncoderPace pace(manager.encoders(), options.encoder, options.max_encoder_share, control.limits);
  PacedSink paced(pace, sink);
  LOCI_RETURN_IF_ERROR(VisitPassages(view, kReadPassages, [&](const std::vector<ViewRow>&, std::vector<loci::v1::Passage>& passages) -> absl::Status {
    if (absl::Status status = check(); !status.ok()) {
      (void)sink.Flush();  // Else its end would cancel the limits, with which the caller may go on.
      return status;
    }
    return paced.Take(std::move(passages));
  }));
  LOCI_RETURN_IF_ERROR(sink.Flush());
  LOCI_RETURN_IF_ERROR(check());
  LOCI_ASSIGN_OR_RETURN(const storage::Manifest manifest, builder->Finish(control.limits, control.progress));
  result.generation = manifest.generation();
  result.base_revision = result.revision = manifest.base_revision();
  result.passage_count = manifest.passage_count();
  result.reused_count = sink.reused_count();
  result.encoded_count = sink.written_count() - sink.reused_count();
  result.size_bytes = FileBytes(manifest);
  if (control.chosen) control.chosen(result.generation);
  const auto give_up = [&](const absl::Status& status) {
    if (const absl::Status deleted = manager.DeleteGeneration(options.store, result.generation); !deleted.ok() && !absl::IsNotFound(deleted)) {
      LogWarning("reembed", absl::StrCat("store=", options.store, " the unused generation ", result.generation, " stays: ", deleted.message()));
    }
    return status;
  };
  if (const absl::Status live = control.limits.Check(RealClock().NowMicros()); !live.ok()) return give_up(live);
  if (options.activate) {
    const absl::StatusOr<ActivationResult> switched = manager.SwitchToReembedded(options.store, source, result.generation, control);
    if (absl::IsCancelled(switched.status()) || absl::IsDeadlineExceeded(switched.status())) return give_up(switched.status());
    if (!switched.ok()) {
      return Annotate(switched.status(), absl::StrCat("generation ", result.generation, " was built but not activated"));
    }
    result.revision = switched->view->revision();
    result.written_count = switched->encoded_count;
  }
  sink.ForgetEncoded();
  return result;
}

absl::Status CheckStillServes(GenerationManager& manager, const std::string& store, const std::string& generation) {
  LOCI_ASSIGN_OR_RETURN(const std::shared_ptr<const ServingSet> active, manager.TryCapture(store, ""));
  const std::string now = active->view->generation().id();
  if (now == generation) return absl::OkStatus();
  // The switch would say so, after work for nothing.
  return ErrorWithReason(
      absl::AbortedError(absl::StrCat("generation ", now, " became active in store \"", store, "\" while ", generation, " was re-embedded")),
      "GENERATION_CHANGED", {{"store", store}, {"reembedded_from", generation}, {"generation", now}});
}

absl::Status CheckReembedding(GenerationManager& manager, const ReembedOptions& options) {
  LOCI_ASSIGN_OR_RETURN(const std::shared_ptr<const ServingSet> active, manager.TryCapture(options.store, ""));
  return CheckOtherEncoder(options, *active->view);
}

absl::StatusOr<ReembedEstimate> EstimateReembedding(GenerationManager& manager, const ReembedOptions& options, const RequestLimits& limits) {
  LOCI_ASSIGN_OR_RETURN(const FoldSource source, manager.BeginReembedding(options.store));
  const View& view = *source.view;
  LOCI_RETURN_IF_ERROR(CheckOtherEncoder(options, view));
  const storage::Manifest& manifest = view.generation().manifest();
  const EncoderSpec& spec = options.encoder->spec();
  ReembedEstimate estimate{.generation = manifest.generation(),
                           .encoder_fingerprint = spec.fingerprint.ToString(),
                           .previous_encoder_fingerprint = FingerprintOf(manifest),
                           .revision = view.revision(),
                           .passage_count = view.passage_count()};
  // Where they lie evenly over body and overlay.
  const int64_t body = view.generation().row_count(), rows_in_all = body + view.overlay_row_count();
  std::vector<ViewRow> rows;
  const int64_t wanted = std::min(rows_in_all, kSamplePassages);
  for (int64_t i = 0; i < wanted; ++i) {
    const int64_t row = static_cast<int64_t>(static_cast<double>(i) * static_cast<double>(rows_in_all) / static_cast<double>(wanted));
    const ViewRow place = row < body ? ViewRow{false, row} : ViewRow{true, row - body};
    if (view.IsAlive(place)) rows.push_back(place);
  }
  std::vector<loci::v1::Passage> sample;
  LOCI_RETURN_IF_ERROR(view.Read(rows, &sample));
  std::vector<std::string> texts;
  int64_t sample_tokens = 0, encoded_tokens = 0, overlay_bytes = 0;
  for (size_t i = 0; i < sample.size(); ++i) {
    std::string text = PassageText(sample[i].title(), sample[i].text());
    std::vector<int32_t> ids;
    options.encoder->encoder().tokenizer().Tokenize(absl::StrCat(spec.passage_prefix, text), &ids);
    const int64_t tokens = std::min<int64_t>(static_cast<int64_t>(ids.size()) + kSpecialTokens, spec.max_length);
    sample_tokens += tokens;
    if (rows[i].in_overlay) overlay_bytes += static_cast<int64_t>(sample[i].ByteSizeLong());
    if (encoded_tokens >= kSampleTokens) continue;
    encoded_tokens += tokens;
    texts.push_back(std::move(text));
  }
  if (sample.empty()) return estimate;
  const double scale = static_cast<double>(estimate.passage_count) / static_cast<double>(sample.size());
  estimate.token_count = static_cast<int64_t>(scale * static_cast<double>(sample_tokens));
  const int64_t start_us = RealClock().NowMicros();
  LOCI_RETURN_IF_ERROR(options.encoder->EncodeAndWait(texts, {.role = TextRole::kPassage, .limits = limits}).status());
  const double seconds = static_cast<double>(std::max<int64_t>(RealClock().NowMicros() - start_us, 1)) / 1e6;
  estimate.tokens_per_second = static_cast<double>(encoded_tokens) / seconds;
  estimate.duration_ms =
      static_cast<int64_t>(std::ceil(1e3 * static_cast<double>(estimate.token_count) / estimate.tokens_per_second / options.max_encoder_share));

  const int64_t vector_bytes = estimate.passage_count * spec.dim * static_cast<int64_t>(ElementSize(view.generation().vectors().element_type()));
  int64_t passage_bytes = static_cast<int64_t>(scale * static_cast<double>(overlay_bytes)), index_bytes = 0, column_bytes = 0;
  for (const storage::FileEntry& file : manifest.files()) {
    if (file.path() == kVectorsFile || file.path() == kCodesFile) continue;
    (file.path() == kIndexFile ? index_bytes : file.path() == kColumnsFile ? column_bytes : passage_bytes) += file.size_bytes();
  }
  index_bytes = index_bytes * spec.dim / std::max(view.dim(), 1);
  int64_t opened_bytes = PlannedMemory(manifest).index * spec.dim / std::max(view.dim(), 1);
  const std::string& index = options.index.empty() ? AskedIndex(manifest) : options.index;
  const bool is_exact = IsExactIndex(index);
  // What the generation has says nothing of another index, nor of one whose codes are as many as its passages.
  if (is_exact || index != AskedIndex(manifest)) {
    const BuildForecast forecast = ForecastBuild({.passage_count = estimate.passage_count, .dim = spec.dim, .index = index});
    index_bytes = forecast.index_bytes;
    opened_bytes = forecast.opened_bytes;
  } else if (HasCodes(manifest)) {  // That were chosen.
    index_bytes = ForecastBuild({.passage_count = estimate.passage_count, .dim = spec.dim, .index = kExactInt8Index}).index_bytes;
  }
  const int64_t journal_bytes = estimate.passage_count * (kJournalBytesPerText + static_cast<int64_t>(sizeof(float)) * spec.dim);
  estimate.size_bytes = vector_bytes + passage_bytes + index_bytes + column_bytes;
  estimate.peak_disk_bytes = estimate.size_bytes + passage_bytes + vector_bytes + journal_bytes;  // What is staged has the passages and vectors too.
  estimate.memory_bytes =
      spec.memory_bytes + opened_bytes + std::min<int64_t>(passage_bytes, kPassageCacheBytes) + column_bytes / 2;
  return estimate;
}

}  // namespace loci
