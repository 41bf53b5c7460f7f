// Store: activations, and what becomes of a generation after.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "base/logging.h"
#include "base/status_macros.h"
#include "base/timestamp_id.h"
#include "index/replay.h"
#include "index/store.h"
#include "index/store_state.h"

namespace loci {
namespace {

constexpr int kMaxHistory = 32;
constexpr char kDamagedWritesPrefix[] = "damaged-writes-";

}  // namespace

absl::StatusOr<std::shared_ptr<const View>> Store::State::ReplayView(std::shared_ptr<const Generation> generation, int64_t floor,
                                                                     int64_t upto, int64_t revision,
                                                                     std::shared_ptr<Overlay>* view_overlay) const {
  LOCI_ASSIGN_OR_RETURN(ReplayedWrites writes, ReplayWrites(*log, floor, upto, *generation));
  *view_overlay = writes.overlay;
  const int64_t rows = writes.overlay->row_count();
  return std::make_shared<const View>(std::move(generation), std::move(writes.overlay), rows, std::move(writes.hidden_body), RowMask(),
                                      revision);
}

absl::StatusOr<int64_t> Store::CheckWritesSince(const storage::Manifest& manifest, WritesPolicy policy, int64_t floor) const {
  if (policy == WritesPolicy::kDiscard && !state_->LogDamage().ok()) return 0;  // That anyone can count.
  const int64_t since = std::max(manifest.base_revision(), floor);
  LOCI_ASSIGN_OR_RETURN(const int64_t count, state_->log->CountRequests(since, revision()));
  if (count == 0 || policy != WritesPolicy::kRefuse) return count;
  return ErrorWithReason(
      absl::FailedPreconditionError(absl::StrCat(count, " write requests were made to store ", state_->name, " since ",
                                                 since > manifest.base_revision() ? "writes were discarded under generation "
                                                                                  : "the base of generation ",
                                                 manifest.generation(), " (revision ", since, "): say whether to replay or to discard them")),
      "WRITES_SINCE", {{"count", absl::StrCat(count)}, {"generation", manifest.generation()}});
}

absl::StatusOr<Store::Released> Store::ReleaseView() {
  LOCI_RETURN_IF_ERROR(state_->current.Settle());
  LOCI_RETURN_IF_ERROR(state_->log->Recover());
  Released released{view(), std::move(state_->overlay)};
  state_->overlay.reset();
  state_->released = true;
  state_->Publish(nullptr, revision());
  return released;
}

void Store::PutBack(Released released) {
  state_->overlay = std::move(released.overlay);
  state_->released = false;
  state_->Publish(std::move(released.view), revision());
}

void Store::SetActiveError(absl::Status error) { state_->Publish(view(), revision(), std::move(error)); }

absl::StatusOr<PlannedReplay> Store::PlanReplayOver(const storage::Manifest& manifest, int64_t floor) const {
  return PlanReplay(*state_->log, std::max(manifest.base_revision(), floor), revision(), manifest.dim(), manifest.passage_fingerprint());
}

absl::StatusOr<int64_t> Store::CheckReplay(const Generation& generation, WritesPolicy policy, int64_t floor, int64_t* unencoded_count) const {
  if (unencoded_count != nullptr) *unencoded_count = 0;
  LOCI_ASSIGN_OR_RETURN(const int64_t count, CheckWritesSince(generation.manifest(), policy, floor));
  if (count == 0 || policy != WritesPolicy::kReplay) return count;
  const int64_t since = std::max(generation.manifest().base_revision(), floor), upto = revision();
  if (unencoded_count != nullptr) {
    LOCI_ASSIGN_OR_RETURN(const std::vector<WritePlace> unencoded, FindUnencoded(generation, since, upto, /*all=*/false));
    *unencoded_count = static_cast<int64_t>(unencoded.size());
    if (!unencoded.empty()) return count;
  }
  LOCI_RETURN_IF_ERROR(ReplayWrites(*state_->log, since, upto, generation).status());
  return count;
}

absl::StatusOr<ActivationResult> Store::Activate(std::shared_ptr<const Generation> generation, WritesPolicy policy, bool roll_back) {
  const std::string id = generation->id();
  if (!state_->IsComplete(id)) return GenerationNotFound(state_->name, id);
  // What failed before must be out of the way: this activation's revision would cover it.
  LOCI_RETURN_IF_ERROR(state_->current.Settle());
  if (policy == WritesPolicy::kDiscard && !state_->LogDamage().ok()) return state_->ActivateWithoutWrites(std::move(generation));
  LOCI_RETURN_IF_ERROR(state_->log->Recover());

  ActivationResult result;
  result.generation = id;
  const storage::Current before = state_->current.value();
  result.previous_generation = before.generation();
  const bool again = id == before.generation();
  const int64_t base = generation->manifest().base_revision();
  // What was discarded while it served stays so.
  const int64_t floor = roll_back ? std::max(base, RollbackFloor(id)) : base;
  const int64_t at = revision();
  if (again && view() == nullptr) {
    // It could not be opened before, or was released.
    LOCI_ASSIGN_OR_RETURN(result.view, state_->ReplayView(generation, before.floor_revision(), at, at, &state_->overlay));
    state_->released = false;
    state_->Publish(result.view, at);
  }
  if (again && policy != WritesPolicy::kDiscard) {
    result.view = view();
    return result;
  }
  if (again) {
    LOCI_ASSIGN_OR_RETURN(result.writes_since_count, state_->log->CountRequests(before.floor_revision(), at));
    if (result.writes_since_count == 0) {
      result.view = view();
      return result;
    }
  } else {
    LOCI_ASSIGN_OR_RETURN(result.writes_since_count, CheckWritesSince(generation->manifest(), policy, floor));
  }

  storage::Current next;
  next.set_generation(id);
  // A base above what this store has reached can only come from outside; later writes must still lie above it.
  state_->next_revision = std::max(state_->next_revision, base + 1);
  next.set_revision(state_->TakeRevision());
  const bool discard = policy == WritesPolicy::kDiscard && result.writes_since_count > 0;
  next.set_floor_revision(discard ? next.revision() : floor);
  state_->FillHistory(before, roll_back, &next);
  state_->FillFolded(before, &next);
  if (again) generation = view()->shared_generation();
  std::shared_ptr<Overlay> overlay;
  LOCI_ASSIGN_OR_RETURN(result.view, state_->ReplayView(std::move(generation), next.floor_revision(), at, next.revision(), &overlay));
  LOCI_RETURN_IF_ERROR(state_->current.Replace(next));
  state_->overlay = std::move(overlay);
  state_->released = false;
  state_->Publish(result.view, next.revision());
  state_->SetFolded();
  state_->RemoveFoldMarker(id);  // A fold that finds another generation active must leave it.
  return result;
}

// CURRENT first: while it says that all writes so far are discarded, a crash leaves the log as damaged as it was, and this is done again. The
// other way round a new log would pass for the whole one.
absl::StatusOr<ActivationResult> Store::State::ActivateWithoutWrites(std::shared_ptr<const Generation> generation) {
  const storage::Current before = current.value();
  ActivationResult result;
  result.generation = generation->id();
  result.previous_generation = before.generation();
  next_revision = std::max(next_revision, generation->manifest().base_revision() + 1);
  storage::Current next;
  next.set_generation(generation->id());
  next.set_revision(TakeRevision());
  next.set_floor_revision(next.revision());
  FillHistory(before, /*roll_back=*/false, &next);
  FillFolded(before, &next);
  LOCI_RETURN_IF_ERROR(current.Replace(next));
  const std::string aside = absl::StrCat(kDamagedWritesPrefix, MakeTimestampId(options.clock->UnixMicros()));
  LOCI_RETURN_IF_ERROR(damaged_log->StartAnew(aside));
  LogWarning("store", absl::StrCat("store ", name, ": its damaged writes were given up, and lie in ", JoinPath(directory, aside)));
  LOCI_ASSIGN_OR_RETURN(result.view,
                        ReplayView(std::move(generation), next.revision(), next.revision(), next.revision(), &overlay));
  Publish(result.view, next.revision());
  SetFolded();
  RemoveFoldMarker(result.generation);
  return result;
}

// Of what served up to `before`; without what was deleted since.
void Store::State::FillHistory(const storage::Current& before, bool roll_back, storage::Current* next) const {
  struct Served {
    std::string id;
    int64_t floor;
  };
  std::vector<Served> history;
  for (int i = 0; i < before.history_size(); ++i) {
    history.push_back({before.history(i), i < before.history_floor_size() ? before.history_floor(i) : 0});
  }
  if (roll_back) {
    const auto is_next = [&](const Served& served) { return served.id == next->generation(); };
    history.erase(std::find_if(history.begin(), history.end(), is_next), history.end());
  } else if (before.generation() != next->generation() && (GetView() != nullptr || released)) {
    std::erase_if(history, [&](const Served& served) { return served.id == before.generation(); });
    history.push_back({before.generation(), before.floor_revision()});
  }
  std::erase_if(history, [&](const Served& served) { return !IsComplete(served.id); });
  for (size_t i = history.size() > kMaxHistory ? history.size() - kMaxHistory : 0; i < history.size(); ++i) {
    next->add_history(history[i].id);
    next->add_history_floor(history[i].floor);
  }
}

std::string Store::PreviousGeneration() const {
  const storage::Current& current = state_->current.value();
  const auto& history = current.history();
  const auto found = std::find_if(history.rbegin(), history.rend(),
                                  [&](const std::string& id) { return id != current.generation() && state_->IsComplete(id); });
  return found == history.rend() ? "" : *found;
}

int64_t Store::RollbackFloor(const std::string& generation) const {
  const storage::Current& current = state_->current.value();
  const auto found = std::find(current.history().begin(), current.history().end(), generation);
  const auto i = static_cast<int>(found - current.history().begin());
  return i < current.history_floor_size() ? current.history_floor(i) : 0;
}

absl::Status Store::DeleteGeneration(const std::string& generation) {
  LOCI_ASSIGN_OR_RETURN(const std::string aside, SetGenerationAside(generation));
  return state_->fs.DeleteRecursively(aside);
}

absl::StatusOr<std::string> Store::SetGenerationAside(const std::string& generation) {
  if (!state_->IsComplete(generation)) return GenerationNotFound(state_->name, generation);
  if (generation == state_->current.value().generation()) {
    return ErrorWithReason(absl::FailedPreconditionError(absl::StrCat("generation ", generation, " is active")), "GENERATION_ACTIVE",
                           {{"generation", generation}});
  }
  if (const absl::Status damage = active_error(); !damage.ok() && state_->current.value().generation().empty()) {
    return ErrorWithReason(
        absl::FailedPreconditionError(absl::StrCat("generation ", generation, " may be the active one; activate one first: ", damage.message())),
        "ACTIVE_GENERATION_UNKNOWN", {{"store", state_->name}, {"generation", generation}});
  }
  const storage::StoreSettings settings = this->settings();
  if (std::find(settings.pinned().begin(), settings.pinned().end(), generation) != settings.pinned().end()) {
    return ErrorWithReason(absl::FailedPreconditionError(absl::StrCat("generation ", generation, " of store ", state_->name, " is pinned")),
                           "GENERATION_PINNED", {{"store", state_->name}, {"generation", generation}});
  }
  LOCI_RETURN_IF_ERROR(state_->current.Settle());  // A crash might find it active still.
  const std::string path = state_->GenerationDirectory(generation);
  const std::string aside = JoinPath(state_->directory, absl::StrCat(kDeletedPrefix, generation));
  LOCI_RETURN_IF_ERROR(state_->fs.Rename(path, aside));
  if (const absl::Status synced = state_->fs.SyncDirectory(state_->directory); !synced.ok()) {
    (void)state_->fs.Rename(aside, path);
    return synced;
  }
  if (const absl::Status status = state_->TrimLog(); !status.ok()) {
    LogWarning("store", absl::StrCat("store ", state_->name, ": cannot trim the write log: ", status.message()));
  }
  return aside;
}

// Forgets the writes that no kept generation, nor one being built, could be asked to replay.
absl::Status Store::State::TrimLog() {
  if (current.value().generation().empty()) return absl::OkStatus();
  int64_t lowest = builds->LowestBase();
  LOCI_ASSIGN_OR_RETURN(const std::vector<std::string> names, fs.List(directory));
  for (const std::string& entry : names) {
    if (!IsComplete(entry)) continue;
    LOCI_ASSIGN_OR_RETURN(const storage::Manifest manifest, ReadManifest(fs, GenerationDirectory(entry)));
    lowest = std::min(lowest, manifest.base_revision());
  }
  return lowest == INT64_MAX ? absl::OkStatus() : log->Trim(lowest);
}

}  // namespace loci
