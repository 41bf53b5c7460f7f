// GenerationManager: folds.
#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "base/logging.h"
#include "base/mutex.h"
#include "base/status_macros.h"
#include "index/manifest.h"
#include "index/view_copy.h"
#include "retriever/generation_manager.h"
#include "retriever/generation_manager_state.h"
#include "retriever/recall_queries.h"

namespace loci {
namespace {

// Of the body's passages, about as many bytes as they have: what their tables have packed.
int64_t PassageBytes(const storage::Manifest& manifest) {
  int64_t bytes = 0;
  for (const storage::FileEntry& file : manifest.files()) {
    if (file.path() != kVectorsFile && file.path() != kCodesFile && file.path() != kIndexFile && file.path() != kColumnsFile) bytes += file.size_bytes();
  }
  return bytes;
}

BuildOptions BuildOptionsOf(const View& view, std::shared_ptr<TextEncoder> encoder, const RequestLimits& limits) {
  const storage::Manifest& manifest = view.generation().manifest();
  BuildOptions build{.index = AskedIndex(manifest),
                     .earlier_tuning = manifest.has_tuning() ? std::optional(manifest.tuning()) : std::nullopt,
                     .element_type = view.generation().vectors().element_type(),
                     .dim = view.dim(),
                     .query_fingerprint = manifest.query_fingerprint(),
                     .passage_fingerprint = manifest.passage_fingerprint(),
                     .base_revision = view.revision(),
                     .folded_from = manifest.generation(),
                     .expected_passages = view.passage_count(),
                     .expected_passage_bytes = PassageBytes(manifest)};
  if (encoder == nullptr) return build;
  build.recall_queries = [encoder = std::move(encoder), limits](const std::vector<loci::v1::Passage>& sample) {
    return EncodeRecallQueries(*encoder, sample, limits);
  };
  build.recall_query_source = kRecallQuerySource;
  return build;
}

}  // namespace

void GenerationManager::State::CountFold(const absl::StatusOr<FoldResult>& result) {
  const char* const outcome = result.ok() ? (result->previous_generation.empty() ? "nothing" : "succeeded")
                              : absl::IsCancelled(result.status()) || absl::IsDeadlineExceeded(result.status()) ? "cancelled"
                              : absl::IsAborted(result.status())                                                ? "aborted"
                                                                                                                : "failed";
  for (const char* name : {"succeeded", "nothing", "cancelled", "aborted", "failed"}) {
    Counter& counter = options.metrics->counter("loci_folds_total", "Folds that ended, by result; nothing: there was nothing to fold.",
                                                {{"result", name}});
    if (std::string_view(name) == outcome) counter.Add(1);
  }
}

absl::StatusOr<FoldResult> GenerationManager::Fold(std::string_view store, const OperationControl& control) {
  LOCI_ASSIGN_OR_RETURN(std::shared_ptr<StoreEntry> entry, state_->Find(store));
  absl::StatusOr<FoldResult> result = FoldEntry(entry, control);
  state_->CountFold(result);
  return result;
}

absl::StatusOr<FoldResult> GenerationManager::FoldEntry(const std::shared_ptr<StoreEntry>& entry, const OperationControl& control) {
  FoldSource source;
  {
    MutexLock writer(&entry->writer);
    LOCI_ASSIGN_OR_RETURN(const std::shared_ptr<Store> opened, entry->GetStore());
    if (entry->switching().has_value()) return state_->WhyNothingServes(*entry, *opened);
    LOCI_ASSIGN_OR_RETURN(source, opened->BeginFold());
  }
  const View& view = *source.view;
  const std::string folded_from = view.generation().id();
  FoldResult result{.generation = folded_from,
                    .revision = view.revision(),
                    .base_revision = view.generation().manifest().base_revision(),
                    .passage_count = view.generation().row_count()};
  if (view.overlay_count() == 0 && view.hidden_body_count() == 0) return result;
  result.folded_count = view.overlay_count();
  result.dropped_count = view.hidden_body_count();
  const auto check = [&]() -> absl::Status {
    LOCI_RETURN_IF_ERROR(control.limits.Check(state_->options.clock->NowMicros()));
    const std::shared_ptr<const ServingSet> active = entry->holder.Get();
    if (active != nullptr && active->view->generation().id() == folded_from) return absl::OkStatus();
    // The switch would say so, after work for nothing.
    return ErrorWithReason(absl::AbortedError(absl::StrCat("another generation became active in store \"", entry->name, "\" while ",
                                                           folded_from, " was folded")),
                           "GENERATION_CHANGED", {{"store", entry->name}, {"folded_from", folded_from}});
  };

  const int64_t started_us = state_->options.clock->NowMicros();
  // The builder stays until the generation is active: while there is one, retention leaves what is newer than the active one alone.
  LOCI_ASSIGN_OR_RETURN(const std::unique_ptr<GenerationBuilder> builder,
                        HeldBuilder::Create(entry, BuildOptionsOf(view, state_->EncoderFor(*entry, view), control.limits)));
  LOCI_RETURN_IF_ERROR(CopyView(view, *builder, [&](int64_t done) {
    Report(control, "copy", done, view.passage_count());
    return check();
  }));
  LOCI_ASSIGN_OR_RETURN(const storage::Manifest manifest, builder->Finish(control.limits, control.progress));
  result.generation = manifest.generation();
  result.previous_generation = folded_from;
  result.base_revision = manifest.base_revision();
  result.passage_count = manifest.passage_count();
  if (control.chosen) control.chosen(result.generation);

  Report(control, "loading");  // Which may wait for an activation.
  absl::Status switched = check();
  if (switched.ok()) switched = SwitchToFold(*entry, source, control, &result);
  if (!switched.ok()) {
    const absl::StatusOr<std::shared_ptr<Store>> opened = entry->GetStore();
    if (opened.ok() && !(*opened)->IsUnusedFold(result.generation)) return switched;  // An operator made it serve.
    if (const absl::Status deleted = DeleteGeneration(entry->name, result.generation); !deleted.ok() && !absl::IsNotFound(deleted)) {
      LogWarning("generation_manager", absl::StrCat("store=", entry->name, " the unused fold ", result.generation, " stays: ", deleted.message()));
    }
    return switched;
  }
  LogInfo("generation_manager", absl::StrCat("folded store=", entry->name, " generation=", result.generation, " revision=", result.revision,
                                             " passages=", result.passage_count, " folded=", result.folded_count,
                                             " dropped=", result.dropped_count, " previous=", folded_from, " ms=",
                                             (state_->options.clock->NowMicros() - started_us) / 1000));
  return result;
}

std::vector<OverlayInfo> GenerationManager::Overlays() const {
  std::vector<OverlayInfo> infos;
  MutexLock lock(&state_->mutex);
  for (const auto& [name, entry] : state_->stores) {
    const std::shared_ptr<const ServingSet> active = entry->holder.Get();
    if (active == nullptr) continue;
    const View& view = *active->view;
    infos.push_back({.store = name,
                     .change_count = std::max(view.overlay_count(), view.hidden_body_count()),
                     .body_count = view.generation().row_count(),
                     .memory_bytes = view.overlay_memory_bytes()});
  }
  return infos;
}

absl::Status GenerationManager::SwitchToFold(StoreEntry& entry, const FoldSource& source, const OperationControl& control, FoldResult* result) {
  MutexLock loading(&entry.pinning);
  LOCI_ASSIGN_OR_RETURN(LoadedGeneration loaded, Load(entry, result->generation, WritesPolicy::kReplay, /*floor=*/0, control));
  LOCI_RETURN_IF_ERROR(state_->Place(entry, *loaded.generation, control));
  const ScopedPlacement placed(state_->placement, loaded.generation,
                               [&, generation = loaded.generation.get()] { return State::IsActive(entry, *generation); });
  Report(control, "replay");
  LOCI_ASSIGN_OR_RETURN(const std::shared_ptr<Store> opened, entry.GetStore());
  LOCI_ASSIGN_OR_RETURN(const std::shared_ptr<Store::PreparedFold> fold, opened->PrepareFold(source, std::move(loaded.generation)));
  Report(control, "publishing");
  MutexLock writer(&entry.writer);
  LOCI_RETURN_IF_ERROR(control.limits.Check(state_->options.clock->NowMicros()));  // The last look: from here on it is done whole.
  LOCI_ASSIGN_OR_RETURN(const ActivationResult switched, opened->SwitchToFold(*fold));
  state_->Publish(entry, switched.view, std::move(loaded.encoder));
  result->revision = switched.view->revision();
  state_->ApplyRetention(entry, *opened);
  return absl::OkStatus();
}

}  // namespace loci
