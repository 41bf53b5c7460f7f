// GenerationManager: the switch to a re-embedding.
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/logging.h"
#include "base/mutex.h"
#include "base/status_macros.h"
#include "retriever/generation_manager.h"
#include "retriever/generation_manager_state.h"
#include "retriever/write_encoder.h"

namespace loci {

absl::StatusOr<FoldSource> GenerationManager::BeginReembedding(std::string_view store) {
  LOCI_ASSIGN_OR_RETURN(const std::shared_ptr<StoreEntry> entry, state_->Find(store));
  MutexLock writer(&entry->writer);
  LOCI_ASSIGN_OR_RETURN(const std::shared_ptr<Store> opened, entry->GetStore());
  if (entry->switching().has_value()) return state_->WhyNothingServes(*entry, *opened);
  return opened->BeginFold();
}

absl::StatusOr<ActivationResult> GenerationManager::SwitchToReembedded(std::string_view store, const FoldSource& source,
                                                                       const std::string& generation, const OperationControl& control) {
  LOCI_ASSIGN_OR_RETURN(const std::shared_ptr<StoreEntry> entry, state_->Find(store));
  LOCI_ASSIGN_OR_RETURN(const int64_t encoded_ahead, state_->EncodeAhead(*entry, generation, /*roll_back=*/false, control));
  Report(control, "loading");  // Which may wait for an activation.
  MutexLock loading(&entry->pinning);
  LOCI_ASSIGN_OR_RETURN(LoadedGeneration loaded, Load(*entry, generation, WritesPolicy::kReplay, source.floor_revision, control));
  LOCI_RETURN_IF_ERROR(state_->Place(*entry, *loaded.generation, control));
  const ScopedPlacement placed(state_->placement, loaded.generation,
                               [&, generation = loaded.generation.get()] { return State::IsActive(*entry, *generation); });
  WriteEncoder writes({.entry = entry.get(),
                       .generation = loaded.generation,
                       .encoder = loaded.encoder,
                       .after = source.view->revision(),
                       .clock = state_->options.clock,
                       .control = &control});
  LOCI_RETURN_IF_ERROR(writes.CatchUp());
  LOCI_ASSIGN_OR_RETURN(const std::shared_ptr<Store> opened, entry->GetStore());
  Report(control, "replay");
  LOCI_ASSIGN_OR_RETURN(const std::shared_ptr<Store::PreparedFold> prepared,
                        opened->PrepareReembedded(source, loaded.generation, writes.upto()));
  while (true) {
    LOCI_RETURN_IF_ERROR(writes.CatchUp());
    LOCI_RETURN_IF_ERROR(opened->ExtendFold(*prepared, writes.upto()));
    Report(control, "publishing");
    MutexLock writer(&entry->writer);
    LOCI_RETURN_IF_ERROR(control.limits.Check(state_->options.clock->NowMicros()));  // The last look: from here on it is done whole.
    LOCI_ASSIGN_OR_RETURN(const bool caught_up, writes.IsCaughtUp());
    if (!caught_up) continue;
    LOCI_ASSIGN_OR_RETURN(ActivationResult result, opened->SwitchToReembedded(*prepared));
    result.encoded_count = encoded_ahead + writes.encoded_count();
    state_->Publish(*entry, result.view, std::move(loaded.encoder));
    entry->TakeOpened(generation);
    LogInfo("generation_manager", absl::StrCat("re-embedded store=", entry->name, " generation=", generation, " revision=", result.view->revision(),
                                               " passages=", result.view->passage_count(), " encoded_writes=", result.encoded_count,
                                               " previous=", result.previous_generation));
    state_->ApplyRetention(*entry, *opened);
    return result;
  }
}

}  // namespace loci
