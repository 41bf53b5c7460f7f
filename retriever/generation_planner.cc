// GenerationManager: what an activation would take.
#include <algorithm>
#include <chrono>
#include <memory>
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

// What the files of a generation take.
struct LoadCost {
  int64_t size_bytes = 0;
  int64_t mapped_bytes = 0;
  int64_t resident_bytes = 0;
};

LoadCost LoadCostOf(const storage::Manifest& manifest) {
  LoadCost cost;
  int64_t passage_bytes = 0;
  for (const storage::FileEntry& file : manifest.files()) {
    cost.size_bytes += file.size_bytes();
    if (file.path() == kVectorsFile) {
      cost.mapped_bytes += file.size_bytes();
    } else if (file.path() == kIndexFile) {
      cost.resident_bytes += file.size_bytes();
    } else if (file.path() == kColumnsFile) {
      cost.mapped_bytes += file.size_bytes();
      cost.resident_bytes += file.size_bytes() / 2;  // Bitmaps: at most two bytes for a posting of four.
    } else {
      passage_bytes += file.size_bytes();
    }
  }
  cost.resident_bytes += std::min<int64_t>(passage_bytes, kPassageCacheBytes);
  return cost;
}

}  // namespace

int64_t GenerationManager::State::AvailableBytes() const {
  const int64_t available = AvailableMemoryBytes(*options.fs);
  if (options.memory_budget_bytes <= 0) return available;
  std::vector<std::shared_ptr<StoreEntry>> entries;
  {
    MutexLock lock(&mutex);
    for (const auto& [name, entry] : stores) entries.push_back(entry);
  }
  int64_t left = options.memory_budget_bytes;
  for (const std::shared_ptr<StoreEntry>& entry : entries) {
    for (const std::shared_ptr<const Generation>& generation : entry->Live()) left -= generation->memory_bytes();
    const std::shared_ptr<const ServingSet> active = entry->holder.Get();
    if (active != nullptr) left -= active->view->overlay_memory_bytes();
  }
  left = std::max<int64_t>(left, 0);
  return available < 0 ? left : std::min(available, left);
}

absl::Status GenerationManager::State::WaitForMemory(const storage::Manifest& manifest, const RequestLimits& limits, int64_t max_wait_us) const {
  const int64_t needed = LoadCostOf(manifest).resident_bytes;
  const int64_t until_us = options.clock->NowMicros() + std::min(options.memory_wait_us, max_wait_us);
  while (true) {
    const int64_t available = AvailableBytes();
    if (available < 0 || needed <= available) return absl::OkStatus();
    const int64_t now_us = options.clock->NowMicros();
    LOCI_RETURN_IF_ERROR(limits.Check(now_us));
    if (drainer.draining_count() == 0 || now_us >= until_us) {
      return ErrorWithReason(
          absl::ResourceExhaustedError(absl::StrCat(
              "generation ", manifest.generation(), " needs ", needed, " bytes of memory besides mapped files, ", available, " are available",
              options.memory_budget_bytes > 0 ? absl::StrCat(" (the budget is ", options.memory_budget_bytes, ")") : "",
              "; what serves is as it was")),
          "MEMORY",
          {{"needed_bytes", absl::StrCat(needed)}, {"available_bytes", absl::StrCat(available)}, {"generation", manifest.generation()}});
    }
    std::this_thread::sleep_for(kMemoryPollPeriod);  // Nobody tells when memory comes back.
  }
}

absl::Status GenerationManager::State::MakeRoom(StoreEntry& entry, const storage::Manifest& manifest) {
  absl::Status room = WaitForMemory(manifest, {}, 0);
  if (room.ok()) return room;
  std::vector<std::shared_ptr<StoreEntry>> entries;
  {
    MutexLock lock(&mutex);
    for (const auto& [name, other] : stores) entries.push_back(other);
  }
  std::stable_partition(entries.begin(), entries.end(), [&](const std::shared_ptr<StoreEntry>& other) { return other.get() == &entry; });
  for (const std::shared_ptr<StoreEntry>& other : entries) {
    while (!room.ok()) {
      std::shared_ptr<const ServingSet> closed = other->TakeOldestOpened();
      if (closed == nullptr) break;
      drainer.Add(closed->view->shared_generation(), nullptr);
      closed.reset();  // The drainer frees it, where no request holds it.
      room = WaitForMemory(manifest, {}, kRoomWaitUs);
    }
  }
  return room;
}

absl::StatusOr<ActivationPlan> GenerationManager::PlanActivation(std::string_view store, const std::string& generation) {
  LOCI_ASSIGN_OR_RETURN(std::shared_ptr<StoreEntry> entry, state_->Find(store));
  LOCI_ASSIGN_OR_RETURN(std::shared_ptr<Store> opened, entry->GetStore());
  LOCI_ASSIGN_OR_RETURN(const storage::Manifest manifest, opened->GetManifest(generation));
  const std::shared_ptr<const ServingSet> active = entry->holder.Get();
  ActivationPlan plan;
  plan.generation = generation;
  plan.revision = opened->revision();
  if (active != nullptr) plan.previous_generation = active->view->generation().id();
  const bool again = generation == plan.previous_generation;

  const LoadCost cost = LoadCostOf(manifest);
  const int64_t size_bytes = cost.size_bytes;
  plan.mapped_bytes = cost.mapped_bytes;
  plan.resident_bytes = cost.resident_bytes;
  plan.available_bytes = state_->AvailableBytes();
  if (active != nullptr && !again) plan.released_bytes = active->view->generation().memory_bytes() + active->view->overlay_memory_bytes();
  if (!again) {
    const int64_t rate = state_->verify_bytes_per_second.load();
    plan.estimated_load_ms = static_cast<int64_t>(1e3 * static_cast<double>(size_bytes) / static_cast<double>(rate)) + 1;
    LOCI_ASSIGN_OR_RETURN(plan.writes_since_count, opened->CountWritesSince(manifest));
  }
  if (plan.writes_since_count > 0) {
    plan.blockers.push_back(absl::StrCat("WRITES_SINCE: ", plan.writes_since_count,
                                         " write requests were made since its base (revision ", manifest.base_revision(),
                                         "); an activation must say whether to replay or to discard them"));
  }
  if (!HasEncoder(*state_->options.encoders, *state_->options.fs, JoinPath(state_->options.data_directory, "encoders"),
                  manifest.passage_fingerprint())) {
    plan.blockers.push_back(absl::StrCat("ENCODER_MISMATCH: no encoder of this server serves the passage half ", manifest.passage_fingerprint()));
  }
  if (!again && entry->FindOpened(generation) == nullptr && plan.available_bytes >= 0 && plan.resident_bytes > plan.available_bytes) {
    plan.blockers.push_back(
        absl::StrCat("MEMORY: ", plan.resident_bytes, " bytes are needed besides mapped files, ", plan.available_bytes, " are available"));
  }
  if (const std::string damage = entry->GetState(generation).damage; !damage.empty()) {
    plan.blockers.push_back(absl::StrCat("DATA_LOSS: ", damage));
  }
  return plan;
}

}  // namespace loci
