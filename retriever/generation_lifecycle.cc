// GenerationManager: the generations of a store.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/background_thread.h"
#include "base/error.h"
#include "base/logging.h"
#include "base/mutex.h"
#include "base/status_macros.h"
#include "base/strings.h"
#include "retriever/generation_manager.h"
#include "retriever/generation_manager_state.h"
#include "retriever/write_encoder.h"

namespace loci {
namespace {

// Writes that lie over a view's body.
int64_t ChangeCount(const View& view) { return std::max(view.overlay_row_count(), view.hidden_body_count()); }

}  // namespace

absl::StatusOr<std::unique_ptr<GenerationBuilder>> GenerationManager::NewGeneration(std::string_view store, BuildOptions options) {
  LOCI_ASSIGN_OR_RETURN(std::shared_ptr<StoreEntry> entry, state_->Find(store));
  return HeldBuilder::Create(std::move(entry), std::move(options));
}

absl::StatusOr<GenerationList> GenerationManager::ListGenerations(std::string_view store) {
  LOCI_ASSIGN_OR_RETURN(std::shared_ptr<StoreEntry> entry, state_->Find(store));
  LOCI_ASSIGN_OR_RETURN(std::shared_ptr<Store> opened, entry->GetStore());
  std::vector<DamagedGeneration> unreadable;
  LOCI_ASSIGN_OR_RETURN(std::vector<storage::Manifest> manifests, opened->ListGenerations(&unreadable));
  const storage::StoreSettings settings = opened->settings();
  GenerationList list{.revision = opened->revision()};
  std::shared_ptr<const Generation> active_generation;
  if (const std::shared_ptr<const ServingSet> active = entry->holder.Get(); active != nullptr) {
    active_generation = active->view->shared_generation();
    list.active = active_generation->id();
    list.revision = active->view->revision();
  }
  for (storage::Manifest& manifest : manifests) {
    GenerationInfo info;
    const GenerationStatus status = entry->GetState(manifest.generation());
    // What serves is told by what serves, whatever another activation of it is about.
    const bool serving = manifest.generation() == list.active;
    info.state = serving ? GenerationState::kServing : status.damage.empty() ? status.state : GenerationState::kFailed;
    if (!status.damage.empty()) {
      info.detail = status.damage;
    } else if (info.state == GenerationState::kFailed) {
      info.detail = status.detail;
    }
    if (serving && info.detail.empty()) {
      info.detail = state_->placement.Tell(active_generation->exact_index().refusal());
    }
    info.size_bytes = FileBytes(manifest);
    info.pinned = std::find(settings.pinned().begin(), settings.pinned().end(), manifest.generation()) != settings.pinned().end();
    info.manifest = std::move(manifest);
    list.generations.push_back(std::move(info));
  }
  for (const DamagedGeneration& generation : unreadable) {
    GenerationInfo info{.state = GenerationState::kFailed, .detail = std::string(StdView(generation.damage.message())), .unreadable = true};
    info.manifest.set_store(entry->name);
    info.manifest.set_generation(generation.generation);
    info.pinned = std::find(settings.pinned().begin(), settings.pinned().end(), generation.generation) != settings.pinned().end();
    // Ids begin with the time.
    const auto later = std::find_if(list.generations.begin(), list.generations.end(), [&](const GenerationInfo& other) {
      return other.manifest.generation() > generation.generation;
    });
    list.generations.insert(later, std::move(info));
  }
  return list;
}

// (A failure marks the generation, also in a dry run: what was found is so.)
absl::StatusOr<GenerationManager::LoadedGeneration> GenerationManager::Load(StoreEntry& entry, const std::string& generation,
                                                                            WritesPolicy policy, int64_t floor,
                                                                            const OperationControl& control) {
  LoadedGeneration loaded;
  Report(control, "loading");
  const std::shared_ptr<const ServingSet> active = entry.holder.Get();
  if (active != nullptr && active->view->generation().id() == generation) {
    loaded.generation = active->view->shared_generation();
  } else if (const std::shared_ptr<const ServingSet> bare = entry.FindOpened(generation);
             bare != nullptr && entry.GetState(generation).damage.empty()) {
    loaded.generation = bare->view->shared_generation();  // Every byte was verified when a request named it.
    entry.SetState(generation, GenerationState::kReady);
  } else {
    LOCI_ASSIGN_OR_RETURN(std::shared_ptr<Store> opened, entry.GetStore());
    // What can't be had is told before anything is read. (In place it was looked at before what served was freed.)
    if (const absl::StatusOr<storage::Manifest> manifest = opened->GetManifest(generation); manifest.ok() && !control.verified) {
      // Where the server has none, the generation is as good as before: it may come.
      LOCI_ASSIGN_OR_RETURN(loaded.encoder, state_->EncoderOf(entry.name, *manifest, entry.int8()));
      PlannedReplay replay;
      if (policy != WritesPolicy::kDiscard) {
        LOCI_ASSIGN_OR_RETURN(replay, opened->PlanReplayOver(*manifest, floor));
      }
      LOCI_RETURN_IF_ERROR(state_->WaitForMemory(generation, state_->NeedOf(entry, *manifest, replay), control.limits));
    }
    const GenerationStatus before = entry.GetState(generation);
    entry.SetState(generation, GenerationState::kVerifying);
    absl::StatusOr<std::shared_ptr<const Generation>> candidate = absl::InternalError("");
    const auto open = [&] {
      candidate = opened->OpenGeneration(generation, /*verify=*/true, state_->VerifyControlOf(control));
      if (!candidate.ok()) return;
      entry.SetState(generation, GenerationState::kWarming);
      Report(control, "warming");
      const int64_t start_us = state_->options.clock->NowMicros();
      (*candidate)->Warm();
      state_->load_rates.ObserveWarm((*candidate)->manifest(), state_->options.clock->NowMicros() - start_us);
    };
    // Searches of what serves go first, where something does.
    if (active != nullptr) {
      RunInBackground("loci-load", open);
    } else {
      open();
    }
    if (IsGivenUp(candidate.status())) {
      // One that drained may have ended meanwhile.
      const bool drained = before.state == GenerationState::kDraining;
      entry.SetState(generation, drained ? GenerationState::kRetired : before.state, before.detail);
      return candidate.status();
    }
    if (!candidate.ok()) {
      if (absl::IsNotFound(candidate.status())) {
        entry.ForgetGeneration(generation);
      } else {
        entry.SetState(generation, GenerationState::kFailed, std::string(StdView(candidate.status().message())));
      }
      return candidate.status();
    }
    loaded.generation = *std::move(candidate);
    entry.SetDamage(generation, "");
    entry.SetState(generation, GenerationState::kReady);
  }
  if (loaded.encoder == nullptr) {
    LOCI_ASSIGN_OR_RETURN(loaded.encoder, state_->EncoderOf(entry.name, loaded.generation->manifest(), entry.int8()));
  }
  return loaded;
}

absl::StatusOr<int64_t> GenerationManager::State::EncodeAhead(StoreEntry& entry, const std::string& generation, bool roll_back,
                                                              const OperationControl& control) const {
  int64_t floor = 0;
  if (roll_back) {
    MutexLock writer(&entry.writer);
    const absl::StatusOr<std::shared_ptr<Store>> store = entry.GetStore();
    if (!store.ok()) return 0;
    floor = (*store)->RollbackFloor(generation);
  }
  absl::StatusOr<std::shared_ptr<const Generation>> opened = absl::InternalError("");
  absl::StatusOr<std::shared_ptr<TextEncoder>> encoder = absl::InternalError("");
  int64_t after = 0;
  {
    const absl::StatusOr<std::shared_ptr<Store>> store = entry.GetStore();
    if (!store.ok()) return 0;
    const absl::StatusOr<storage::Manifest> manifest = (*store)->GetManifest(generation);
    const std::shared_ptr<const ServingSet> active = entry.holder.Get();
    if (!manifest.ok() || (active != nullptr && active->view->generation().manifest().passage_fingerprint() == manifest->passage_fingerprint())) {
      return 0;
    }
    const absl::StatusOr<PlannedReplay> replay = (*store)->PlanReplayOver(*manifest, floor);
    if (!replay.ok() || replay->need_encoding_count == 0) return 0;
    encoder = EncoderOf(entry.name, *manifest, entry.int8());
    if (!encoder.ok()) return 0;
    after = std::max(manifest->base_revision(), floor);
    Report(control, "encoding", 0, replay->need_encoding_count);
    if (const std::shared_ptr<const ServingSet> bare = entry.FindOpened(generation); bare != nullptr) {
      opened = bare->view->shared_generation();
    } else {
      LOCI_RETURN_IF_ERROR(WaitForMemory(generation, NeedOf(entry, *manifest, *replay), control.limits));
      RunInBackground("loci-load", [&] {
        opened = (*store)->OpenGeneration(generation, /*verify=*/false, {.limits = control.limits, .clock = options.clock});
      });
      if (IsGivenUp(opened.status())) return opened.status();
      if (!opened.ok()) return 0;
      entry.AddLive(*opened);
    }
  }
  WriteEncoder writes(
      {.entry = &entry, .generation = *std::move(opened), .encoder = *std::move(encoder), .after = after, .clock = options.clock, .control = &control});
  const absl::Status encoded = writes.EncodeAhead();
  LOCI_RETURN_IF_ERROR(control.limits.Check(options.clock->NowMicros()));
  if (!encoded.ok()) LogWarning("generation_manager", absl::StrCat("store=", entry.name, " writes are not encoded ahead: ", encoded.message()));
  return writes.encoded_count();
}

absl::Status GenerationManager::CheckGeneration(std::string_view store, const std::string& generation) {
  LOCI_ASSIGN_OR_RETURN(std::shared_ptr<StoreEntry> entry, state_->Find(store));
  LOCI_ASSIGN_OR_RETURN(std::shared_ptr<Store> opened, entry->GetStore());
  if (generation.empty()) return TryCapture(store, "").status();
  const absl::Status status = opened->GetManifest(generation).status();
  return absl::IsNotFound(status) ? status : absl::OkStatus();
}

absl::StatusOr<ActivationResult> GenerationManager::Activate(std::string_view store, const std::string& generation, WritesPolicy policy,
                                                             bool dry_run, const OperationControl& control, ActivationStrategy strategy) {
  LOCI_ASSIGN_OR_RETURN(std::shared_ptr<StoreEntry> entry, state_->Find(store));
  if (control.chosen) control.chosen(generation);
  int64_t encoded_ahead = 0;
  if (policy == WritesPolicy::kReplay && !dry_run && strategy != ActivationStrategy::kInPlace) {  // In place the generation is opened once.
    LOCI_ASSIGN_OR_RETURN(encoded_ahead, state_->EncodeAhead(*entry, generation, /*roll_back=*/false, control));
  }
  // Loading takes long and touches nothing that serves; writes go on meanwhile, a deletion of the generation waits.
  MutexLock loading(&entry->pinning);
  LOCI_ASSIGN_OR_RETURN(ActivationResult result,
                        strategy == ActivationStrategy::kInPlace
                            ? ActivateInPlace(*entry, generation, policy, dry_run, /*roll_back=*/false, control)
                            : ActivateLocked(*entry, generation, policy, dry_run, /*roll_back=*/false, control));
  result.encoded_count += encoded_ahead;
  return result;
}

void GenerationManager::ObserveActivation(std::string_view store, int64_t duration_us) {
  const absl::StatusOr<std::shared_ptr<StoreEntry>> entry = state_->Find(store);
  if (!entry.ok()) return;
  const std::shared_ptr<const ServingSet> active = (*entry)->holder.Get();
  if (active == nullptr) return;
  const Generation& generation = active->view->generation();
  state_->load_rates.ObserveWhole(generation.manifest(), ChangeCount(*active->view), generation.exact_index().device() != nullptr, duration_us);
}

absl::StatusOr<ActivationResult> GenerationManager::Rollback(std::string_view store, WritesPolicy policy, bool dry_run,
                                                             const OperationControl& control, std::string_view expected_active,
                                                             ActivationStrategy strategy) {
  LOCI_ASSIGN_OR_RETURN(std::shared_ptr<StoreEntry> entry, state_->Find(store));
  int64_t encoded_ahead = 0;
  if (policy == WritesPolicy::kReplay && !dry_run && strategy != ActivationStrategy::kInPlace) {  // In place the generation is opened once.
    std::string likely;
    {
      MutexLock writer(&entry->writer);
      LOCI_ASSIGN_OR_RETURN(const std::shared_ptr<Store> opened, entry->GetStore());
      if (expected_active.empty() || opened->active_generation() == expected_active) likely = opened->PreviousGeneration();
    }
    if (!likely.empty()) {
      LOCI_ASSIGN_OR_RETURN(encoded_ahead, state_->EncodeAhead(*entry, likely, /*roll_back=*/true, control));
    }
  }
  // Every activation holds this, so that the previous generation stays what it is.
  MutexLock loading(&entry->pinning);
  std::string previous;
  {
    MutexLock writer(&entry->writer);
    LOCI_ASSIGN_OR_RETURN(std::shared_ptr<Store> opened, entry->GetStore());
    if (const std::string active = opened->active_generation(); !expected_active.empty() && active != expected_active) {
      return ErrorWithReason(absl::FailedPreconditionError(
                                 absl::StrCat("generation ", AbslView(expected_active), " serves no longer, ", active, " does")),
                             "NOT_ACTIVE", {{"store", entry->name}, {"generation", active}});
    }
    previous = opened->PreviousGeneration();
  }
  if (previous.empty()) {
    return ErrorWithReason(absl::FailedPreconditionError(absl::StrCat("store \"", entry->name, "\" has no generation that served before")),
                           "NO_PREVIOUS_GENERATION", {{"store", entry->name}});
  }
  if (control.chosen) control.chosen(previous);
  LOCI_ASSIGN_OR_RETURN(ActivationResult result,
                        strategy == ActivationStrategy::kInPlace
                            ? ActivateInPlace(*entry, previous, policy, dry_run, /*roll_back=*/true, control)
                            : ActivateLocked(*entry, previous, policy, dry_run, /*roll_back=*/true, control));
  result.encoded_count += encoded_ahead;
  return result;
}

absl::StatusOr<ActivationResult> GenerationManager::ActivateLocked(StoreEntry& entry, const std::string& generation, WritesPolicy policy,
                                                                   bool dry_run, bool roll_back, const OperationControl& control) {
  int64_t floor = 0;
  if (roll_back) {
    MutexLock writer(&entry.writer);
    LOCI_ASSIGN_OR_RETURN(const std::shared_ptr<Store> opened, entry.GetStore());
    floor = opened->RollbackFloor(generation);
  }
  LOCI_ASSIGN_OR_RETURN(LoadedGeneration loaded, Load(entry, generation, policy, floor, control));
  if (control.approve) {
    Report(control, "gates");
    std::shared_ptr<const ServingSet> serving = entry.holder.Get();
    if (serving != nullptr) {
      absl::StatusOr<std::shared_ptr<const ServingSet>> with_encoder = WithEncoder(serving);
      if (with_encoder.ok()) serving = *std::move(with_encoder);  // Else the gates say what can't be measured.
    }
    LOCI_RETURN_IF_ERROR(control.approve(loaded.generation, *loaded.encoder, serving.get()));
  }
  if (dry_run) {
    LOCI_ASSIGN_OR_RETURN(std::shared_ptr<Store> opened, entry.GetStore());
    const std::shared_ptr<const ServingSet> active = entry.holder.Get();
    ActivationResult result;
    result.generation = generation;
    result.view = active != nullptr ? active->view : nullptr;
    result.previous_generation = active != nullptr ? active->view->generation().id() : "";
    const bool again = generation == result.previous_generation;
    LOCI_ASSIGN_OR_RETURN(result.writes_since_count,
                          again ? opened->CheckWritesSince(loaded.generation->manifest(), WritesPolicy::kReplay)
                                : opened->CheckReplay(*loaded.generation, policy, floor, &result.encoded_count));
    return result;
  }
  LOCI_RETURN_IF_ERROR(state_->Place(entry, *loaded.generation, control));
  const ScopedPlacement placed(state_->placement, loaded.generation,
                               [&, generation = loaded.generation.get()] { return State::IsActive(entry, *generation); });
  const int64_t after = std::max(loaded.generation->manifest().base_revision(), floor);
  // What is active already has all of them.
  const std::shared_ptr<const ServingSet> active = entry.holder.Get();
  const bool replays = policy == WritesPolicy::kReplay && (active == nullptr || active->view->generation().id() != generation);
  WriteEncoder writes({.entry = &entry,
                       .generation = loaded.generation,
                       .encoder = loaded.encoder,
                       .after = after,
                       .clock = state_->options.clock,
                       .control = &control});
  while (true) {
    if (replays) LOCI_RETURN_IF_ERROR(writes.CatchUp());
    Report(control, "publishing");
    MutexLock writer(&entry.writer);
    if (replays) {
      LOCI_ASSIGN_OR_RETURN(const bool caught_up, writes.IsCaughtUp());
      if (!caught_up) continue;
    }
    LOCI_ASSIGN_OR_RETURN(ActivationResult result, PublishLocked(entry, std::move(loaded), policy, roll_back, control));
    result.encoded_count = writes.encoded_count();
    return result;
  }
}

absl::StatusOr<ActivationResult> GenerationManager::PublishLocked(StoreEntry& entry, LoadedGeneration loaded, WritesPolicy policy,
                                                                  bool roll_back, const OperationControl& control) {
  const std::string generation = loaded.generation->id();
  LOCI_RETURN_IF_ERROR(control.limits.Check(state_->options.clock->NowMicros()));  // The last look: from here on it is done whole.
  LOCI_ASSIGN_OR_RETURN(std::shared_ptr<Store> opened, entry.GetStore());  // An error where it was deleted meanwhile.
  const int64_t start_us = state_->options.clock->NowMicros();
  LOCI_ASSIGN_OR_RETURN(ActivationResult result, opened->Activate(std::move(loaded.generation), policy, roll_back));
  state_->Publish(entry, result.view, std::move(loaded.encoder));
  if (result.previous_generation != generation) {
    state_->load_rates.ObservePublish(ChangeCount(*result.view), state_->options.clock->NowMicros() - start_us);
  }
  entry.TakeOpened(generation);  // What serves drains when it is replaced, which a bare one kept open would keep it from.
  LogInfo("generation_manager", absl::StrCat(roll_back ? "rolled back" : "activated", " store=", entry.name, " generation=", generation,
                                             " revision=", result.view->revision(), " passages=", result.view->passage_count(),
                                             " previous=", result.previous_generation));
  state_->ApplyRetention(entry, *opened);
  return result;
}

absl::Status GenerationManager::DeleteGeneration(std::string_view store, const std::string& generation) {
  LOCI_ASSIGN_OR_RETURN(std::shared_ptr<StoreEntry> entry, state_->Find(store));
  std::string aside;
  {
    MutexLock pinning(&entry->pinning);
    MutexLock writer(&entry->writer);
    LOCI_ASSIGN_OR_RETURN(std::shared_ptr<Store> opened, entry->GetStore());
    LOCI_ASSIGN_OR_RETURN(aside, opened->SetGenerationAside(generation));
    if (std::shared_ptr<const ServingSet> closed = entry->ForgetGeneration(generation); closed != nullptr) {
      state_->drainer.Add(closed->view->shared_generation(), nullptr);
    }
  }
  const absl::Status deleted = state_->options.fs->DeleteRecursively(aside);
  return deleted.ok() ? deleted : Annotate(deleted, absl::StrCat("generation ", generation, " is deleted, but files of it stay until the next start"));
}

absl::StatusOr<GenerationInfo> GenerationManager::PinGeneration(std::string_view store, const std::string& generation, bool pinned) {
  LOCI_ASSIGN_OR_RETURN(std::shared_ptr<StoreEntry> entry, state_->Find(store));
  {
    MutexLock writer(&entry->writer);
    LOCI_ASSIGN_OR_RETURN(std::shared_ptr<Store> opened, entry->GetStore());
    LOCI_RETURN_IF_ERROR(opened->SetPinned(generation, pinned));
  }
  LOCI_ASSIGN_OR_RETURN(GenerationList list, ListGenerations(store));
  for (GenerationInfo& info : list.generations) {
    if (info.manifest.generation() == generation) return std::move(info);
  }
  return GenerationNotFound(store, generation);
}

absl::StatusOr<VerifyResult> GenerationManager::Verify(std::string_view store, const std::string& generation,
                                                       const OperationControl& control) {
  LOCI_ASSIGN_OR_RETURN(std::shared_ptr<StoreEntry> entry, state_->Find(store));
  VerifyResult result{.generation = generation};
  if (result.generation.empty()) {
    LOCI_ASSIGN_OR_RETURN(std::shared_ptr<const ServingSet> active, Capture(store, ""));
    result.generation = active->view->generation().id();
  }
  if (control.chosen) control.chosen(result.generation);
  const auto get_manifest = [&]() -> absl::StatusOr<storage::Manifest> {
    LOCI_ASSIGN_OR_RETURN(std::shared_ptr<Store> opened, entry->GetStore());
    result.revision = opened->revision();
    return opened->GetManifest(result.generation);
  };
  absl::StatusOr<storage::Manifest> manifest = get_manifest();
  absl::Status verified = manifest.status();
  if (manifest.ok()) {
    // Reading takes long; a deletion of the store or the generation does not wait for it.
    const int64_t start_us = state_->options.clock->NowMicros();
    RunInBackground("loci-verify", [&] {
      verified = Generation::Verify(*state_->options.fs, JoinPath(JoinPath(state_->StoresDirectory(), entry->name), result.generation),
                                    state_->VerifyControlOf(control));
    });
    result.file_count = manifest->files_size();
    result.size_bytes = FileBytes(*manifest);
    if (verified.ok()) state_->load_rates.ObserveVerify(result.size_bytes, state_->options.clock->NowMicros() - start_us);
    if (!verified.ok()) {
      manifest = get_manifest();
      if (absl::IsNotFound(manifest.status())) return manifest.status();  // It was deleted meanwhile.
    }
  }
  if (absl::IsDataLoss(verified)) {
    entry->SetDamage(result.generation, std::string(StdView(verified.message())));
    LogError("generation_manager", absl::StrCat("store=", entry->name, " generation=", result.generation, " ", verified.ToString(absl::StatusToStringMode::kWithNoExtraData)));
  }
  LOCI_RETURN_IF_ERROR(verified);
  entry->SetDamage(result.generation, "");
  if (entry->GetState(result.generation).state == GenerationState::kFailed) entry->SetState(result.generation, GenerationState::kReady);
  return result;
}

}  // namespace loci
