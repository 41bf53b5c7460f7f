#include "retriever/generation_manager_state.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/background_thread.h"
#include "base/error.h"
#include "base/logging.h"
#include "base/memory_info.h"
#include "base/status_macros.h"
#include "base/strings.h"
#include "index/encoding_journal.h"
#include "retriever/retention.h"

namespace loci {
absl::Status NoActiveGeneration(std::string_view store) {
  return ErrorWithReason(absl::FailedPreconditionError(absl::StrCat("store \"", AbslView(store), "\" has no active generation")),
                         "NO_ACTIVE_GENERATION", {{"store", std::string(store)}});
}

VerifyControl GenerationManager::State::VerifyControlOf(const OperationControl& control) const {
  return {.limits = control.limits,
          .clock = options.clock,
          .verified = control.verified,
          .progress = [&control](int64_t done, int64_t total) {
            if (!control.verified) Report(control, "verifying", done, total);
          }};
}

absl::Status GenerationManager::State::WhyNothingServes(const StoreEntry& entry, const Store& store) const {
  if (const std::optional<Switching> switching = entry.switching(); switching.has_value()) {
    return SwitchingError(entry.name, *switching, options.clock->NowMicros());
  }
  LOCI_RETURN_IF_ERROR(store.active_error());
  return NoActiveGeneration(entry.name);
}

std::vector<std::shared_ptr<StoreEntry>> GenerationManager::State::Entries() const {
  std::vector<std::shared_ptr<StoreEntry>> entries;
  MutexLock lock(&mutex);
  for (const auto& [name, entry] : stores) entries.push_back(entry);
  return entries;
}

std::vector<std::weak_ptr<const Generation>> GenerationManager::State::Serving() const {
  std::vector<std::weak_ptr<const Generation>> serving;
  for (const std::shared_ptr<StoreEntry>& entry : Entries()) {
    if (const std::shared_ptr<const ServingSet> active = entry->holder.Get(); active != nullptr) serving.push_back(active->view->shared_generation());
  }
  return serving;
}

bool GenerationManager::State::IsActive(const StoreEntry& entry, const Generation& generation) {
  const std::shared_ptr<const ServingSet> active = entry.holder.Get();
  return active != nullptr && &active->view->generation() == &generation;
}

absl::Status GenerationManager::State::Place(const StoreEntry& entry, const Generation& generation, const OperationControl& control) {
  // What is active is there, or waits for its turn.
  if (!placement.IsMeant(generation) || IsActive(entry, generation)) return absl::OkStatus();
  Report(control, "placing", 0, generation.row_count());
  const int64_t start_us = options.clock->NowMicros();
  absl::Status placed;
  const auto bring = [&] {
    placed = placement.Bring(generation, [&](int64_t done_rows) {
      Report(control, "placing", done_rows, generation.row_count());
      return control.limits.Check(options.clock->NowMicros());
    });
  };
  if (entry.holder.Get() != nullptr) {
    RunInBackground("loci-place", bring);
  } else {
    bring();
  }
  if (generation.exact_index().device() != nullptr) load_rates.ObservePlace(generation.manifest(), options.clock->NowMicros() - start_us);
  return placed;
}

absl::StatusOr<std::shared_ptr<StoreEntry>> GenerationManager::State::Find(std::string_view store) {
  std::shared_ptr<StoreEntry> entry;
  {
    MutexLock lock(&mutex);
    const auto found = stores.find(store);
    if (found == stores.end()) return StoreNotFound(store);
    entry = found->second;
  }
  if (entry->IsDueToReopen(options.clock->NowMicros())) {
    (void)janitor.TrySubmit([this, entry] {
      MutexLock pinning(&entry->pinning);
      MutexLock writer(&entry->writer);
      if (!closing && entry->IsShutForNow()) OpenEntry(*entry);
    });
  }
  return entry;
}

void GenerationManager::State::OpenEntry(StoreEntry& entry) {
  const std::string& name = entry.name;
  absl::StatusOr<std::shared_ptr<Store>> store = OpenStore(name);
  if (!store.ok()) {
    LogError("generation_manager", absl::StrCat("store=", name, " can't be opened: ", store.status().ToString(absl::StatusToStringMode::kWithNoExtraData)));
    entry.SetStore(nullptr, Annotate(store.status(), absl::StrCat("store \"", name, "\" can't be opened")));
    return;
  }
  entry.SetInt8(IsInt8(**store));
  if (const absl::Status available = options.encoders->CheckInt8(); entry.int8() && !available.ok()) {
    LogWarning("generation_manager", absl::StrCat("store=", name, " is set to int8, but is encoded as others: ", available.message()));
    entry.SetInt8(false);
  }
  if (const absl::Status served = ServeActive(entry, **store); !served.ok()) {
    LogError("generation_manager", absl::StrCat("store=", name, " can't be served: ", served.ToString(absl::StatusToStringMode::kWithNoExtraData)));
    // Damage is told as where it was found when the generation was opened: another one can be activated.
    if (!absl::IsDataLoss(served) || !(*store)->ReleaseView().ok()) {
      entry.SetStore(nullptr, Annotate(served, absl::StrCat("store \"", name, "\" can't be served")));
      return;
    }
    (*store)->SetActiveError(served);
  }
  const absl::Status damage = (*store)->active_error();
  std::vector<DamagedGeneration> unreadable;
  const absl::StatusOr<std::vector<storage::Manifest>> manifests = (*store)->ListGenerations(&unreadable);
  if (manifests.ok()) {
    for (const storage::Manifest& manifest : *manifests) entry.AddKnown(manifest.generation());
  }
  for (const DamagedGeneration& generation : unreadable) {
    LogError("generation_manager", absl::StrCat("store=", name, " generation=", generation.generation, " ", generation.damage.message()));
    entry.AddKnown(generation.generation);
    entry.SetDamage(generation.generation, std::string(StdView(generation.damage.message())));
  }
  if (const std::string active = (*store)->active_generation(); !damage.ok() && !active.empty()) {
    entry.SetDamage(active, std::string(StdView(damage.message())));
  }
  EncodingJournal::DeleteExpired(
      {.fs = options.fs, .clock = options.clock, .directory = JoinPath(JoinPath(StoresDirectory(), name), EncodingJournal::kDirectory)});
  entry.SetStore(*std::move(store), absl::OkStatus());
}

absl::Status GenerationManager::State::ServeActive(StoreEntry& entry, const Store& store) {
  std::shared_ptr<const View> view = store.view();
  if (view == nullptr) return absl::OkStatus();
  // Before the vectors: a store whose encoder finds no room on its device can't serve, one whose vectors find none is searched by the CPU.
  std::shared_ptr<TextEncoder> encoder = EncoderFor(entry, *view);
  LOCI_RETURN_IF_ERROR(Place(entry, view->generation(), {}));
  LogInfo("generation_manager", absl::StrCat("opened store=", entry.name, " generation=", view->generation().id(), " revision=", view->revision(),
                                             " passages=", view->passage_count()));
  Publish(entry, std::move(view), std::move(encoder));
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<Store>> GenerationManager::State::OpenStore(const std::string& name) const {
  LOCI_ASSIGN_OR_RETURN(std::unique_ptr<Store> store,
                        Store::Open(JoinPath(StoresDirectory(), name), name,
                                    {.fs = options.fs,
                                     .clock = options.clock,
                                     .search_pool = options.search_pool,
                                     .available_disk_bytes = options.available_disk_bytes,
                                     .available_memory_bytes = [fs = options.fs] { return AvailableMemoryBytes(*fs); },
                                     .opened = [this](const storage::Manifest& manifest,
                                                      const OpenTimes& times) { load_rates.ObserveOpen(manifest, times); }}));
  return std::shared_ptr<Store>(std::move(store));
}

std::shared_ptr<TextEncoder> GenerationManager::State::EncoderFor(const StoreEntry& entry, const View& view) const {
  absl::StatusOr<std::shared_ptr<TextEncoder>> encoder = EncoderOf(entry.name, view.generation().manifest(), entry.int8());
  if (encoder.ok()) return *std::move(encoder);
  LogWarning("generation_manager", absl::StrCat("store=", entry.name, " ", encoder.status().ToString(absl::StatusToStringMode::kWithNoExtraData)));
  return nullptr;
}

void GenerationManager::State::Publish(StoreEntry& entry, std::shared_ptr<const View> view, std::shared_ptr<TextEncoder> encoder) {
  const std::string generation = view->generation().id();
  encoder = ToServe(entry, *view, std::move(encoder));
  entry.AddLive(view->shared_generation());
  const Generation* const body = &view->generation();
  std::shared_ptr<const ServingSet> old = entry.holder.Publish(
      std::make_shared<const ServingSet>(ServingSet{entry.name, std::move(view), std::move(encoder)}));
  if (old != nullptr && &old->view->generation() == body) return;
  if (old != nullptr) placement.TakeAway(old->view->generation());
  placement.Wake();
  if (old != nullptr && old->view->generation().id() == generation) return;
  entry.SetState(generation, GenerationState::kServing);
  if (old != nullptr) Retire(entry.name, old->view->shared_generation());
}

void GenerationManager::State::Retire(const std::string& store, std::shared_ptr<const Generation> generation) {
  const std::string id = generation->id();
  {
    absl::StatusOr<std::shared_ptr<StoreEntry>> entry = Find(store);
    if (entry.ok()) (*entry)->SetState(id, GenerationState::kDraining);
  }
  drainer.Add(std::move(generation), [this, store, id] {
    absl::StatusOr<std::shared_ptr<StoreEntry>> entry = Find(store);
    if (!entry.ok()) return;
    if ((*entry)->GetState(id).state == GenerationState::kDraining) (*entry)->SetState(id, GenerationState::kRetired);
    entry->reset();
    // A load may have the store's locks for long: what drains else would wait for it.
    const bool queued = closing || janitor.TrySubmit([this, store] {
      if (!closing) RetryRetention(store);
    });
    if (!queued) LogWarning("retention", absl::StrCat("store=", store, " too much waits to be deleted; the next activation looks again"));
  });
}

absl::StatusOr<WriteResult> GenerationManager::State::Write(StoreEntry& entry, std::vector<PassageWrite> writes, std::string_view passage_half) {
  MutexLock writer(&entry.writer);
  LOCI_ASSIGN_OR_RETURN(std::shared_ptr<Store> store, entry.GetStore());
  const std::shared_ptr<const ServingSet> active = entry.holder.Get();
  if (active == nullptr) return WhyNothingServes(entry, *store);
  if (!passage_half.empty() && active->view->generation().manifest().passage_fingerprint() != passage_half) {
    return absl::AbortedError("an activation changed the store's encoder meanwhile; try again");
  }
  LOCI_ASSIGN_OR_RETURN(WriteResult result, store->Write(std::move(writes)));
  Publish(entry, result.view, active->encoder);
  return result;
}

int32_t GenerationManager::State::KeepGenerations(const Store& store) const {
  const storage::StoreSettings settings = store.settings();
  return settings.has_keep_generations() ? settings.keep_generations() : options.keep_generations;
}

void GenerationManager::State::ApplyRetention(StoreEntry& entry, Store& store) {
  const std::shared_ptr<const ServingSet> active = entry.holder.Get();
  const int32_t keep = KeepGenerations(store);
  const std::vector<std::string> folded = store.folded_generations();
  if (active == nullptr || (keep == 0 && folded.empty())) return;
  const absl::StatusOr<std::vector<storage::Manifest>> manifests = store.ListGenerations();
  if (!manifests.ok()) {
    LogWarning("retention", absl::StrCat("store=", entry.name, " ", manifests.status().ToString(absl::StatusToStringMode::kWithNoExtraData)));
    return;
  }
  const storage::StoreSettings settings = store.settings();
  RetentionRules rules{.keep = keep,
                       .active = active->view->generation().id(),
                       .previous = store.PreviousGeneration(),
                       .pinned = {settings.pinned().begin(), settings.pinned().end()},
                       .folded = {folded.begin(), folded.end()},
                       .build_under_way = entry.HasBuilds()};
  for (const storage::Manifest& manifest : *manifests) {
    const std::string& id = manifest.generation();
    const GenerationStatus status = entry.GetState(id);
    if (status.state == GenerationState::kFailed || !status.damage.empty()) rules.failed.insert(id);
  }
  for (const std::string& id : ChooseExpired(*manifests, rules)) {
    if (entry.GetState(id).state == GenerationState::kDraining) continue;  // Once it has drained.
    if (std::shared_ptr<const ServingSet> opened = entry.TakeOpened(id); opened != nullptr) {
      Retire(entry.name, opened->view->shared_generation());  // Requests that named it may hold it.
      continue;
    }
    absl::StatusOr<std::string> aside = store.SetGenerationAside(id);
    if (!aside.ok()) {
      LogWarning("retention", absl::StrCat("store=", entry.name, " generation=", id, " ",
                                           aside.status().ToString(absl::StatusToStringMode::kWithNoExtraData)));
      continue;
    }
    entry.ForgetGeneration(id);
    DeleteLater(*std::move(aside));
    LogInfo("retention", absl::StrCat("deleted store=", entry.name, " generation=", id, " keep_generations=", keep));
  }
}

void GenerationManager::State::DeleteLater(std::string path) {
  const bool queued = closing || janitor.TrySubmit([this, path] {
    if (closing) return;
    const absl::Status deleted = options.fs->DeleteRecursively(path);
    if (!deleted.ok()) LogWarning("retention", absl::StrCat(path, " stays until the next start: ", deleted.message()));
  });
  if (!queued) LogWarning("retention", absl::StrCat(path, " stays until the next start: too much waits to be deleted"));
}

void GenerationManager::State::RetryRetention(const std::string& store) {
  absl::StatusOr<std::shared_ptr<StoreEntry>> entry = Find(store);
  if (!entry.ok()) return;
  {
    const absl::StatusOr<std::shared_ptr<Store>> opened = (*entry)->GetStore();
    if (!opened.ok()) return;
    if (KeepGenerations(**opened) == 0 && (*opened)->folded_generations().empty()) return;  // Waits for no lock then.
  }
  MutexLock pinning(&(*entry)->pinning);
  MutexLock writer(&(*entry)->writer);
  const absl::StatusOr<std::shared_ptr<Store>> opened = (*entry)->GetStore();
  if (opened.ok()) ApplyRetention(**entry, **opened);
}

}  // namespace loci
