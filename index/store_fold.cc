// Store: folds and re-embeddings.
#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "base/logging.h"
#include "base/status_macros.h"
#include "index/replay.h"
#include "index/store.h"
#include "index/store_state.h"

namespace loci {
namespace {

// So few writes are laid while the writer waits; they are caught up with at most so often before.
constexpr int64_t kFewWrites = 16;
constexpr int kMaxRounds = 8;

absl::Status GenerationChanged(const std::string& store, const std::string& built_from, const std::string& active, bool is_fold) {
  const char* const done = is_fold ? "folded" : "re-embedded";
  return ErrorWithReason(absl::AbortedError(active == built_from
                                                ? absl::StrCat("writes to store ", store, " were discarded while they were ", done)
                                                : absl::StrCat("generation ", active, " became active in store ", store, " while ",
                                                               built_from, " was ", done)),
                         "GENERATION_CHANGED", {{"store", store}, {is_fold ? "folded_from" : "reembedded_from", built_from}, {"generation", active}});
}

}  // namespace

struct Store::PreparedFold {
  FoldSource source;
  std::shared_ptr<const Generation> generation;
  ReplayedWrites writes;
  int64_t upto = 0;  // Revision up to which writes are laid.
};

absl::StatusOr<FoldSource> Store::BeginFold() const {
  FoldSource source{.view = view(), .floor_revision = state_->current.value().floor_revision()};
  if (source.view != nullptr) return source;
  LOCI_RETURN_IF_ERROR(active_error());
  return ErrorWithReason(absl::FailedPreconditionError(absl::StrCat("store ", state_->name, " has no active generation to fold")),
                         "NO_ACTIVE_GENERATION", {{"store", state_->name}});
}

absl::StatusOr<std::shared_ptr<Store::PreparedFold>> Store::PrepareFold(FoldSource source,
                                                                        std::shared_ptr<const Generation> generation) const {
  auto fold = std::make_shared<PreparedFold>();
  fold->source = std::move(source);
  fold->generation = std::move(generation);
  fold->upto = revision();
  LOCI_ASSIGN_OR_RETURN(fold->writes, ReplayWrites(*state_->log, fold->source.view->revision(), fold->upto, *fold->generation));
  for (int round = 0; round < kMaxRounds; ++round) {
    const int64_t now = revision();
    LOCI_ASSIGN_OR_RETURN(const int64_t left, state_->log->CountRequests(fold->upto, now));
    if (left <= kFewWrites) break;
    LOCI_RETURN_IF_ERROR(ReplayFurther(*state_->log, fold->upto, now, *fold->generation, &fold->writes));
    fold->upto = now;
  }
  return fold;
}

absl::StatusOr<std::shared_ptr<Store::PreparedFold>> Store::PrepareReembedded(FoldSource source, std::shared_ptr<const Generation> generation,
                                                                              int64_t upto) const {
  auto fold = std::make_shared<PreparedFold>();
  fold->source = std::move(source);
  fold->generation = std::move(generation);
  fold->upto = std::max(upto, fold->source.view->revision());
  LOCI_ASSIGN_OR_RETURN(fold->writes, ReplayWrites(*state_->log, fold->source.view->revision(), fold->upto, *fold->generation));
  return fold;
}

absl::Status Store::ExtendFold(PreparedFold& fold, int64_t upto) const {
  if (upto <= fold.upto) return absl::OkStatus();
  LOCI_RETURN_IF_ERROR(ReplayFurther(*state_->log, fold.upto, upto, *fold.generation, &fold.writes));
  fold.upto = upto;
  return absl::OkStatus();
}

absl::StatusOr<ActivationResult> Store::SwitchToFold(PreparedFold& fold) { return SwitchTo(fold, /*is_fold=*/true); }
absl::StatusOr<ActivationResult> Store::SwitchToReembedded(PreparedFold& fold) { return SwitchTo(fold, /*is_fold=*/false); }

absl::StatusOr<ActivationResult> Store::SwitchTo(PreparedFold& fold, bool is_fold) {
  const std::string id = fold.generation->id();
  const std::string built_from = fold.source.view->generation().id();
  if (!state_->IsComplete(id)) return GenerationNotFound(state_->name, id);
  // What failed before must be out of the way: a restart would find it over the new generation.
  LOCI_RETURN_IF_ERROR(state_->current.Settle());
  LOCI_RETURN_IF_ERROR(state_->log->Recover());
  const storage::Current before = state_->current.value();
  // With the same floor the contents of a revision are the same, whatever was active in between.
  if (before.generation() != built_from || before.floor_revision() != fold.source.floor_revision || view() == nullptr) {
    return GenerationChanged(state_->name, built_from, before.generation(), is_fold);
  }
  const int64_t at = revision();
  LOCI_RETURN_IF_ERROR(ExtendFold(fold, at));  // Whoever switches again after an error below does not lay them twice.

  storage::Current next;
  next.set_generation(id);
  next.set_floor_revision(fold.source.view->revision());
  next.set_revision(is_fold ? at : state_->TakeRevision());
  if (is_fold) {
    for (const std::string& served : before.history()) next.add_history(served == built_from ? id : served);
    *next.mutable_history_floor() = before.history_floor();
  } else {
    state_->FillHistory(before, /*roll_back=*/false, &next);
  }
  state_->FillFolded(before, &next);
  if (is_fold) next.add_folded(built_from);

  ActivationResult result{.generation = id, .view = nullptr, .previous_generation = built_from};
  if (!is_fold) {
    LOCI_ASSIGN_OR_RETURN(result.writes_since_count, state_->log->CountRequests(fold.source.view->revision(), at));
  }
  const int64_t rows = fold.writes.overlay->row_count();
  result.view = std::make_shared<const View>(fold.generation, fold.writes.overlay, rows, fold.writes.hidden_body,
                                             fold.writes.hidden_overlay, next.revision());
  LOCI_RETURN_IF_ERROR(state_->current.Replace(next));
  state_->overlay = std::move(fold.writes.overlay);
  state_->Publish(result.view, next.revision());
  state_->SetFolded();
  state_->RemoveFoldMarker(id);
  return result;
}

void Store::State::RemoveFoldMarker(const std::string& generation) const {
  const std::string path = JoinPath(GenerationDirectory(generation), kFoldMarkerFile);
  if (!fs.Exists(path)) return;
  absl::Status status = fs.DeleteFile(path);
  if (status.ok()) status = fs.SyncDirectory(GenerationDirectory(generation));
  if (!status.ok()) LogWarning("store", absl::StrCat("store ", name, ": cannot remove ", path, ": ", status.message()));
}

void Store::State::FillFolded(const storage::Current& before, storage::Current* next) const {
  for (const std::string& id : before.folded()) {
    if (id != next->generation() && IsComplete(id)) next->add_folded(id);
  }
}

void Store::State::SetFolded() {
  MutexLock guard(&mutex);
  folded = {current.value().folded().begin(), current.value().folded().end()};
}

bool Store::IsUnusedFold(const std::string& generation) const {
  return state_->IsComplete(generation) && state_->fs.Exists(JoinPath(state_->GenerationDirectory(generation), kFoldMarkerFile));
}

std::vector<std::string> Store::folded_generations() const {
  std::vector<std::string> folded;
  {
    MutexLock lock(&state_->mutex);
    folded = state_->folded;
  }
  folded.erase(std::remove_if(folded.begin(), folded.end(), [&](const std::string& id) { return !state_->IsComplete(id); }), folded.end());
  return folded;
}

}  // namespace loci
