// GenerationManager: what an activation would take.
#include <algorithm>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/memory_info.h"
#include "base/status_macros.h"
#include "base/strings.h"
#include "index/manifest.h"
#include "index/passage_file.h"
#include "retriever/generation_manager.h"
#include "retriever/generation_manager_state.h"

namespace loci {
namespace {

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

}  // namespace

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

  int64_t size_bytes = 0, passage_bytes = 0;
  for (const storage::FileEntry& file : manifest.files()) {
    size_bytes += file.size_bytes();
    if (file.path() == kVectorsFile) {
      plan.mapped_bytes += file.size_bytes();
    } else if (file.path() == kIndexFile) {
      plan.resident_bytes += file.size_bytes();
    } else if (file.path() == kColumnsFile) {
      plan.mapped_bytes += file.size_bytes();
      plan.resident_bytes += file.size_bytes() / 2;  // Bitmaps: at most two bytes for a posting of four.
    } else {
      passage_bytes += file.size_bytes();
    }
  }
  plan.resident_bytes += std::min<int64_t>(passage_bytes, kPassageCacheBytes);
  plan.available_bytes = AvailableMemoryBytes(*state_->options.fs);
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
  if (!again && plan.available_bytes >= 0 && plan.resident_bytes > plan.available_bytes) {
    plan.blockers.push_back(
        absl::StrCat("MEMORY: ", plan.resident_bytes, " bytes are needed besides mapped files, ", plan.available_bytes, " are available"));
  }
  if (const std::string damage = entry->GetState(generation).damage; !damage.empty()) {
    plan.blockers.push_back(absl::StrCat("DATA_LOSS: ", damage));
  }
  return plan;
}

}  // namespace loci
