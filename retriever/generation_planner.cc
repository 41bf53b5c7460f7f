// GenerationManager: what an activation would take.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "base/memory_info.h"
#include "base/mutex.h"
#include "base/status_macros.h"
#include "base/strings.h"
#include "index/manifest.h"
#include "index/passage_file.h"
#include "index/row_mask.h"
#include "retriever/generation_manager.h"
#include "retriever/generation_manager_state.h"

namespace loci {
namespace {

constexpr std::chrono::milliseconds kMemoryPollPeriod(20);
constexpr int64_t kRoomWaitUs = 1'000'000;  // That a request waits until what was closed for it is freed; it comes to milliseconds.

// Whether a server with these encoders could serve vectors of the passage half; loads none.
bool HasEncoder(const EncoderRegistry& encoders, FileSystem& fs, const std::string& encoders_directory, const std::string& passage_half) {
  for (const std::shared_ptr<TextEncoder>& encoder : encoders.Loaded()) {
    if (encoder->spec().fingerprint.passage == passage_half) return true;
  }
  const absl::StatusOr<std::vector<std::string>> names = fs.List(encoders_directory);
  if (!names.ok()) return false;
  return std::any_of(names->begin(), names->end(),
                     [&](const std::string& name) { return name[0] != '.' && absl::EndsWith(name, absl::StrCat("-", passage_half)); });
}

// What CURRENT and its next version take, with room for the folder.
constexpr int64_t kActivationDiskBytes = 16 << 10;

// How many of `ids` the body has, as a share; what can't be read counts as there.
double ShareInBody(const PassageFile& passages, const std::vector<std::string>& ids) {
  if (ids.empty()) return 0;
  int64_t there = 0;
  for (const std::string& id : ids) {
    const absl::StatusOr<std::optional<int64_t>> row = passages.FindRow(id);
    there += !row.ok() || row->has_value();
  }
  return static_cast<double>(there) / static_cast<double>(ids.size());
}

// The share of `count` things that is drawn at least once in `draws`.
double ShareDrawn(double count, double draws) { return count <= 1 ? (draws > 0 ? 1 : 0) : 1 - std::pow(1 - 1 / count, draws); }

// `replay` laid over the generation: the overlay, the rows of the body that it hides, and what looking those up leaves in the cache.
void AddReplay(const PlannedReplay& replay, double share_in_body, int64_t row_count, ActivationNeed* need) {
  constexpr double kBlockBytes = 8 << 10;  // Of the passage file.
  const double in_body = share_in_body * static_cast<double>(replay.change_count);
  const double pages = std::ceil(static_cast<double>(row_count) / RowMask::kRowsPerPage);
  need->overlay_bytes = replay.memory_bytes + static_cast<int64_t>(pages * ShareDrawn(pages, in_body) * sizeof(RowMask::Page));
  GenerationMemory& memory = need->generation;
  const double unread_bytes = static_cast<double>(memory.passage_ids - memory.passages);
  memory.passages += static_cast<int64_t>(unread_bytes * ShareDrawn(unread_bytes / kBlockBytes, in_body));
}

}  // namespace

ActivationNeed GenerationManager::State::NeedOf(const StoreEntry& entry, const storage::Manifest& manifest, const PlannedReplay& replay) const {
  ActivationNeed need{.generation = PlannedMemory(manifest), .pinned_bytes = placement.HostBytes(manifest)};
  if (replay.change_count == 0) return need;
  // What serves is asked: the other one has about the same passages, as a rule.
  const std::shared_ptr<const ServingSet> active = entry.holder.Get();
  const double share = active == nullptr ? 1 : ShareInBody(active->view->generation().passages(), replay.ids);
  AddReplay(replay, share, manifest.passage_count(), &need);
  return need;
}

int64_t GenerationManager::State::AvailableBytes(const ServingSet* released) const {
  int64_t available = AvailableMemoryBytes(*options.fs);
  if (available >= 0 && released != nullptr) available += released->view->generation().memory_bytes() + released->view->overlay_memory_bytes();
  if (options.memory_budget_bytes <= 0) return available;
  const int64_t left = std::max<int64_t>(options.memory_budget_bytes - TakenBytes(released), 0);
  return available < 0 ? left : std::min(available, left);
}

int64_t GenerationManager::State::TakenBytes(const ServingSet* released) const {
  int64_t taken = 0;
  for (const std::shared_ptr<StoreEntry>& entry : Entries()) {
    for (const std::shared_ptr<const Generation>& generation : entry->Live()) {
      if (released == nullptr || generation != released->view->shared_generation()) taken += generation->most_memory_bytes();
    }
    const std::shared_ptr<const ServingSet> active = entry->holder.Get();
    if (active != nullptr && active.get() != released) taken += active->view->overlay_memory_bytes();
  }
  return taken;
}

absl::Status GenerationManager::State::NoMemory(const std::string& generation, int64_t needed_bytes, int64_t available_bytes) const {
  return ErrorWithReason(
      absl::ResourceExhaustedError(absl::StrCat(
          "generation ", generation, " needs ", needed_bytes, " bytes of memory besides mapped files, ", available_bytes, " are available",
          options.memory_budget_bytes > 0 ? absl::StrCat(" (the budget is ", options.memory_budget_bytes, ")") : "",
          "; what serves is as it was")),
      "MEMORY",
      {{"needed_bytes", absl::StrCat(needed_bytes)}, {"available_bytes", absl::StrCat(available_bytes)}, {"generation", generation}});
}

absl::Status GenerationManager::State::WaitForMemory(const std::string& generation, const ActivationNeed& need, const RequestLimits& limits,
                                                     int64_t max_wait_us) const {
  const int64_t needed = need.most_bytes();
  const int64_t until_us = options.clock->NowMicros() + std::min(options.memory_wait_us, max_wait_us);
  while (true) {
    const int64_t available = AvailableBytes();
    if (available < 0 || needed <= available) return absl::OkStatus();
    const int64_t now_us = options.clock->NowMicros();
    LOCI_RETURN_IF_ERROR(limits.Check(now_us));
    if (drainer.draining_count() == 0 || now_us >= until_us) {
      return NoMemory(generation, needed, available);
    }
    std::this_thread::sleep_for(kMemoryPollPeriod);  // Nobody tells when memory comes back.
  }
}

absl::Status GenerationManager::State::MakeRoom(StoreEntry& entry, const storage::Manifest& manifest) {
  const ActivationNeed need{.generation = PlannedMemory(manifest)};
  absl::Status room = WaitForMemory(manifest.generation(), need, {}, 0);
  if (room.ok()) return room;
  std::vector<std::shared_ptr<StoreEntry>> entries = Entries();
  std::stable_partition(entries.begin(), entries.end(), [&](const std::shared_ptr<StoreEntry>& other) { return other.get() == &entry; });
  for (const std::shared_ptr<StoreEntry>& other : entries) {
    while (!room.ok()) {
      std::shared_ptr<const ServingSet> closed = other->TakeOldestOpened();
      if (closed == nullptr) break;
      drainer.Add(closed->view->shared_generation(), nullptr);
      closed.reset();  // The drainer frees it, where no request holds it.
      room = WaitForMemory(manifest.generation(), need, {}, kRoomWaitUs);
    }
  }
  return room;
}

absl::StatusOr<ActivationPlan> GenerationManager::PlanActivation(std::string_view store, const std::string& generation, WritesPolicy policy,
                                                                 ActivationStrategy strategy) {
  LOCI_ASSIGN_OR_RETURN(std::shared_ptr<StoreEntry> entry, state_->Find(store));
  LOCI_ASSIGN_OR_RETURN(std::shared_ptr<Store> opened, entry->GetStore());
  LOCI_ASSIGN_OR_RETURN(const storage::Manifest manifest, opened->GetManifest(generation));
  const std::shared_ptr<const ServingSet> active = entry->holder.Get();
  ActivationPlan plan;
  plan.generation = generation;
  plan.revision = opened->revision();
  if (active != nullptr) plan.previous_generation = active->view->generation().id();
  const bool again = generation == plan.previous_generation;

  plan.disk_bytes = SizeOnDisk(manifest);
  plan.available_disk_bytes = state_->options.available_disk_bytes(state_->options.data_directory);
  plan.available_bytes = state_->AvailableBytes(strategy == ActivationStrategy::kInPlace ? active.get() : nullptr);
  PlannedReplay replay;
  if (again) {
    plan.need.generation = PlannedMemory(manifest);
    plan.need.overlay_bytes = active->view->overlay_memory_bytes();
  } else {
    if (policy == WritesPolicy::kDiscard) {  // Also where the log can't be read.
      LOCI_ASSIGN_OR_RETURN(plan.writes_since_count, opened->CheckWritesSince(manifest, policy));
    } else {
      LOCI_ASSIGN_OR_RETURN(replay, opened->PlanReplayOver(manifest));
      plan.writes_since_count = replay.write_count;
    }
    plan.need = state_->NeedOf(*entry, manifest, replay);
    plan.estimated_load_ms = (state_->load_rates.PredictUs(manifest, replay.change_count, state_->placement.IsMeant(manifest)) + 999) / 1000;
    if (active != nullptr) plan.released_bytes = active->view->generation().memory_bytes() + active->view->overlay_memory_bytes();
  }
  for (const storage::FileEntry& file : manifest.files()) {
    if (file.path() != kVectorsFile && file.path() != kCodesFile && file.path() != kColumnsFile) continue;
    plan.mapped_bytes += file.size_bytes();
    const std::string owner = file.path() == kVectorsFile ? "vectors" : file.path() == kCodesFile ? "codes" : "columns";
    plan.memory.push_back({owner, /*mapped=*/true, file.size_bytes(), file.size_bytes()});
  }
  const GenerationMemory& memory = plan.need.generation;
  plan.memory.push_back({"index", false, memory.index, memory.index});
  plan.memory.push_back({"columns", false, memory.columns, memory.columns});
  plan.memory.push_back({"passages", false, memory.passages, memory.passages_most});
  plan.memory.push_back({"manifest", false, memory.manifest, memory.manifest});
  if (plan.need.pinned_bytes > 0) plan.memory.push_back({"search", false, plan.need.pinned_bytes, plan.need.pinned_bytes});
  plan.memory.push_back({"overlay", false, plan.need.overlay_bytes, plan.need.overlay_bytes});

  if (plan.writes_since_count > 0 && policy == WritesPolicy::kRefuse) {
    plan.blockers.push_back(absl::StrCat("WRITES_SINCE: ", plan.writes_since_count,
                                         " write requests were made since its base (revision ", manifest.base_revision(),
                                         "); an activation must say whether to replay or to discard them"));
  }
  if (strategy == ActivationStrategy::kInPlace && replay.need_encoding_count > 0) {
    plan.blockers.push_back(absl::StrCat("WRITES_NEED_ENCODING: ", replay.need_encoding_count, " writes have no vector of its passage half ",
                                         manifest.passage_fingerprint(), "; in place they are not encoded"));
  }
  if (!HasEncoder(*state_->options.encoders, *state_->options.fs, JoinPath(state_->options.data_directory, "encoders"),
                  manifest.passage_fingerprint())) {
    plan.blockers.push_back(absl::StrCat("ENCODER_MISMATCH: no encoder of this server serves the passage half ", manifest.passage_fingerprint()));
  }
  // One that a request has opened is counted already.
  const int64_t needed_bytes = entry->FindOpened(generation) == nullptr ? plan.need.most_bytes() : plan.need.overlay_bytes;
  if (!again && plan.available_bytes >= 0 && needed_bytes > plan.available_bytes) {
    plan.blockers.push_back(
        absl::StrCat("MEMORY: ", needed_bytes, " bytes are needed besides mapped files, ", plan.available_bytes, " are available"));
  }
  if (!again && plan.available_disk_bytes >= 0 && plan.available_disk_bytes < kActivationDiskBytes) {
    plan.blockers.push_back(absl::StrCat("DISK: an activation writes up to ", kActivationDiskBytes, " bytes, ", plan.available_disk_bytes,
                                         " are available"));
  }
  if (const std::string damage = entry->GetState(generation).damage; !damage.empty()) {
    plan.blockers.push_back(absl::StrCat("DATA_LOSS: ", damage));
  }
  return plan;
}

}  // namespace loci
