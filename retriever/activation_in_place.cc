// GenerationManager: activations that free what serves before they load another generation, for where both do not fit into memory.
//
//   verifying -> draining -> loading -> warming -> gates -> publishing        CURRENT changes in the last step, as in any activation
//                    \          \_________\_______\_________\-> restoring    what served is loaded again
//                     \-> what served serves on, it was not freed yet
//
// From "draining" to the end requests get SwitchingError.
#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/background_thread.h"
#include "base/error.h"
#include "base/logging.h"
#include "base/memory_info.h"
#include "base/mutex.h"
#include "base/status_macros.h"
#include "base/strings.h"
#include "index/replay.h"
#include "retriever/generation_manager.h"
#include "retriever/generation_manager_state.h"

namespace loci {
namespace {

constexpr std::chrono::milliseconds kHeldPollPeriod(2);

// Says so as long as it lives.
class ScopedSwitching {
 public:
  ScopedSwitching(StoreEntry& entry, Switching switching) : entry_(entry) { entry_.SetSwitching(std::move(switching)); }
  ~ScopedSwitching() { entry_.SetSwitching(std::nullopt); }
  ScopedSwitching(const ScopedSwitching&) = delete;
  ScopedSwitching& operator=(const ScopedSwitching&) = delete;

 private:
  StoreEntry& entry_;
};

absl::Status Held(const std::string& generation, const std::string& by, int64_t waited_ms) {
  return ErrorWithReason(
      absl::ResourceExhaustedError(absl::StrCat("generation ", generation, " is held by ", by, " and could not be freed; it serves on")), "HELD",
      {{"generation", generation}, {"waited_ms", absl::StrCat(waited_ms)}});
}

// Whether nobody but `serving` and `released` has what they have.
bool IsFree(const std::shared_ptr<const ServingSet>& serving, const Store::Released& released) {
  return serving.use_count() == 1 && released.view.use_count() == 2 && serving->view->shared_generation().use_count() == 1;
}

}  // namespace

absl::StatusOr<int64_t> GenerationManager::State::CheckInPlace(const StoreEntry& entry, const Store& store, const storage::Manifest& manifest,
                                                               const ServingSet& serving, WritesPolicy policy, int64_t floor) const {
  LOCI_ASSIGN_OR_RETURN(const int64_t writes_since_count, store.CheckWritesSince(manifest, policy, floor));
  PlannedReplay replay;
  if (policy != WritesPolicy::kDiscard) {
    LOCI_ASSIGN_OR_RETURN(replay, store.PlanReplayOver(manifest, floor));
    // They would be encoded while nothing serves.
    if (replay.need_encoding_count > 0) return WritesNeedEncoding(replay.need_encoding_count, manifest, "; in place they are not encoded");
  }
  const int64_t needed_bytes = NeedOf(entry, manifest, replay).most_bytes();
  const int64_t available_bytes = AvailableBytes(&serving);
  if (available_bytes >= 0 && needed_bytes > available_bytes) return NoMemory(manifest.generation(), needed_bytes, available_bytes);
  return writes_since_count;
}

absl::Status GenerationManager::State::VerifyInPlace(StoreEntry& entry, const storage::Manifest& manifest, const OperationControl& control) {
  const std::string& generation = manifest.generation();
  const GenerationStatus before = entry.GetState(generation);
  entry.SetState(generation, GenerationState::kVerifying);
  const int64_t start_us = options.clock->NowMicros();
  absl::Status verified;
  RunInBackground("loci-verify", [&] {
    verified = Generation::Verify(*options.fs, JoinPath(JoinPath(StoresDirectory(), entry.name), generation), VerifyControlOf(control));
  });
  if (!verified.ok() && !IsGivenUp(verified)) {
    entry.SetState(generation, GenerationState::kFailed, std::string(StdView(verified.message())));
    return verified;
  }
  entry.SetState(generation, before.state == GenerationState::kDraining ? GenerationState::kRetired : before.state, before.detail);
  LOCI_RETURN_IF_ERROR(verified);
  load_rates.ObserveVerify(SizeOnDisk(manifest), options.clock->NowMicros() - start_us);
  return absl::OkStatus();
}

absl::Status GenerationManager::State::WaitUntilFree(const std::shared_ptr<const ServingSet>& serving, const Store::Released& released,
                                                     const RequestLimits& limits) const {
  const int64_t until_us = options.clock->NowMicros() + options.memory_wait_us;
  while (!IsFree(serving, released)) {
    const int64_t now_us = options.clock->NowMicros();
    LOCI_RETURN_IF_ERROR(limits.Check(now_us));
    if (now_us >= until_us) {
      const int64_t waited_ms = options.memory_wait_us / 1000;
      return Held(serving->view->generation().id(), absl::StrCat("requests or an export after ", waited_ms, " ms"), waited_ms);
    }
    std::this_thread::sleep_for(kHeldPollPeriod);  // Nobody tells when the last holder lets go.
  }
  return absl::OkStatus();
}

absl::Status GenerationManager::State::RestoreServed(StoreEntry& entry, const std::string& generation, std::shared_ptr<TextEncoder> encoder) {
  LOCI_ASSIGN_OR_RETURN(const std::shared_ptr<Store> store, entry.GetStore());
  const auto load = [&]() -> absl::Status {
    // Every byte was verified when it was loaded before, and every second counts.
    LOCI_ASSIGN_OR_RETURN(std::shared_ptr<const Generation> loaded,
                          store->OpenGeneration(generation, /*verify=*/true, {.clock = options.clock, .verified = true}));
    LOCI_RETURN_IF_ERROR(Place(entry, *loaded, {}));
    MutexLock writer(&entry.writer);
    LOCI_ASSIGN_OR_RETURN(ActivationResult result, store->Activate(std::move(loaded), WritesPolicy::kRefuse));
    Publish(entry, std::move(result.view), std::move(encoder));
    return absl::OkStatus();
  };
  absl::Status restored = load();
  if (restored.ok()) return restored;
  restored = Annotate(restored, absl::StrCat("generation ", generation, " of store ", entry.name, " was freed and could not be loaded again"));
  LogError("generation_manager", restored.ToString(absl::StatusToStringMode::kWithNoExtraData));
  entry.SetState(generation, GenerationState::kFailed, std::string(StdView(restored.message())));
  MutexLock writer(&entry.writer);
  store->SetActiveError(restored);
  return restored;
}

absl::StatusOr<ActivationResult> GenerationManager::ActivateInPlace(StoreEntry& entry, const std::string& generation, WritesPolicy policy,
                                                                    bool dry_run, bool roll_back, const OperationControl& control) {
  std::shared_ptr<const ServingSet> serving = entry.holder.Get();
  // Nothing would be freed for it, or it is in memory already.
  if (serving == nullptr || serving->view->generation().id() == generation || entry.FindOpened(generation) != nullptr) {
    return ActivateLocked(entry, generation, policy, dry_run, roll_back, control);
  }
  LOCI_ASSIGN_OR_RETURN(const std::shared_ptr<Store> store, entry.GetStore());
  LOCI_ASSIGN_OR_RETURN(const storage::Manifest manifest, store->GetManifest(generation));
  LOCI_RETURN_IF_ERROR(state_->EncoderOf(entry.name, manifest, entry.int8()).status());
  int64_t floor = 0;
  if (roll_back) {
    MutexLock writer(&entry.writer);
    floor = store->RollbackFloor(generation);
  }
  const std::string before = serving->view->generation().id();
  ActivationResult checked{.generation = generation, .previous_generation = before};
  LOCI_ASSIGN_OR_RETURN(checked.writes_since_count, state_->CheckInPlace(entry, *store, manifest, *serving, policy, floor));
  LOCI_RETURN_IF_ERROR(state_->VerifyInPlace(entry, manifest, control));
  if (dry_run) {
    checked.view = serving->view;
    return checked;
  }
  // They hold it for as long as they take.
  if (entry.HasBuilds()) return Held(before, "an ingest, a fold or a re-embedding that runs", 0);

  std::shared_ptr<TextEncoder> encoder = serving->encoder;
  Report(control, "draining");
  const ScopedSwitching switching(entry, {.from = before,
                                          .to = generation,
                                          .until_us = state_->options.clock->NowMicros() +
                                                      state_->load_rates.PredictUs(manifest, 0, state_->placement.IsMeant(manifest), /*verified=*/true)});
  Store::Released released;
  {
    MutexLock writer(&entry.writer);
    // Verifying takes long, and writes went on.
    serving = entry.holder.Get();
    LOCI_RETURN_IF_ERROR(state_->CheckInPlace(entry, *store, manifest, *serving, policy, floor).status());
    LOCI_ASSIGN_OR_RETURN(released, store->ReleaseView());
    entry.holder.Publish(nullptr);
  }
  entry.SetState(before, GenerationState::kDraining);
  if (absl::Status drained = state_->WaitUntilFree(serving, released, control.limits); !drained.ok()) {
    MutexLock writer(&entry.writer);
    store->PutBack(std::move(released));
    entry.holder.Publish(std::move(serving));
    entry.SetState(before, GenerationState::kServing);
    state_->placement.Wake();  // It may have been taken off its device while it did not serve.
    return drained;
  }
  released = {};
  serving.reset();
  ReleaseFreeMemory();
  entry.SetState(before, GenerationState::kRetired);

  OperationControl verified = control;
  verified.verified = true;
  absl::StatusOr<ActivationResult> result = ActivateLocked(entry, generation, policy, /*dry_run=*/false, roll_back, verified);
  if (result.ok()) return result;
  Report(control, "restoring");
  const absl::Status restored = state_->RestoreServed(entry, before, std::move(encoder));
  const std::string outcome = restored.ok() ? absl::StrCat("generation ", before, " was loaded again and serves") : std::string(StdView(restored.message()));
  LogWarning("generation_manager", absl::StrCat("store=", entry.name, " generation=", generation, " not activated in place: ",
                                                result.status().message(), "; ", outcome));
  const absl::Status failed(result.status().code(), absl::StrCat(result.status().message(), "; ", outcome));
  const std::optional<ErrorReason> reason = GetErrorReason(result.status());
  return reason.has_value() ? ErrorWithReason(failed, reason->reason, reason->metadata) : failed;
}

}  // namespace loci
