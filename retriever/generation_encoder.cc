// GenerationManager: which encoder a store's texts are encoded by.
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/logging.h"
#include "base/mutex.h"
#include "base/status_macros.h"
#include "retriever/encoder_files.h"
#include "retriever/generation_manager.h"
#include "retriever/generation_manager_state.h"
#include "retriever/query_halves.h"

namespace loci {
namespace {

// Of the store's generations; nothing where one can't be read, which may be there again later.
std::optional<std::set<std::string>> PassageHalves(const Store& store, const ServingSet& serving) {
  std::vector<DamagedGeneration> damaged;
  const absl::StatusOr<std::vector<storage::Manifest>> manifests = store.ListGenerations(&damaged);
  if (!manifests.ok() || !damaged.empty()) return std::nullopt;
  std::set<std::string> halves = {serving.view->generation().manifest().passage_fingerprint()};
  for (const storage::Manifest& manifest : *manifests) halves.insert(manifest.passage_fingerprint());
  return halves;
}

}  // namespace

absl::StatusOr<std::shared_ptr<TextEncoder>> GenerationManager::State::EncoderOf(const std::string& store, const storage::Manifest& manifest) const {
  const Fingerprint made_by{.query = manifest.query_fingerprint(), .passage = manifest.passage_fingerprint()};
  LOCI_ASSIGN_OR_RETURN(const Fingerprint published, PublishedFor(*options.fs, JoinPath(StoresDirectory(), store), made_by));
  if (published == made_by) return options.encoders->ForVectors(made_by);
  absl::StatusOr<std::shared_ptr<TextEncoder>> encoder = options.encoders->Get(published.ToString());
  if (!absl::IsNotFound(encoder.status())) return encoder;
  // As one that is damaged: another would answer queries otherwise, without a word.
  return DamagedEncoder(published.ToString(), absl::StrCat("it was published to store \"", store, "\", and its folder is gone"));
}

absl::StatusOr<std::shared_ptr<const ServingSet>> GenerationManager::SetEncoder(std::string_view store, std::shared_ptr<TextEncoder> encoder) {
  LOCI_ASSIGN_OR_RETURN(const std::shared_ptr<StoreEntry> entry, state_->Find(store));
  const Fingerprint& fingerprint = encoder->spec().fingerprint;
  std::shared_ptr<const ServingSet> before;  // Dies after the lock.
  std::shared_ptr<const ServingSet> serving;
  {
    MutexLock writer(&entry->writer);
    LOCI_ASSIGN_OR_RETURN(const std::shared_ptr<Store> opened, entry->GetStore());
    serving = entry->holder.Get();
    if (serving == nullptr) return state_->WhyNothingServes(*entry, *opened);
    const std::optional<std::set<std::string>> built = PassageHalves(*opened, *serving);
    LOCI_RETURN_IF_ERROR(WriteQueryHalf(*state_->options.fs, opened->directory(), fingerprint, built));
    entry->SetPublishedEncoder(encoder);
    if (serving->view->generation().manifest().passage_fingerprint() == fingerprint.passage && serving->encoder != encoder) {
      serving = std::make_shared<const ServingSet>(ServingSet{entry->name, serving->view, encoder});
      before = entry->holder.Publish(serving);
    }
    // Inactive generations that requests named.
    for (const std::shared_ptr<const Generation>& generation : entry->Live()) {
      const std::shared_ptr<const ServingSet> named = entry->FindOpened(generation->id());
      if (named == nullptr || generation->manifest().passage_fingerprint() != fingerprint.passage) continue;
      entry->ReplaceOpened(named, std::make_shared<const ServingSet>(ServingSet{entry->name, named->view, encoder}));
    }
  }
  LogInfo("generation_manager", absl::StrCat("published store=", entry->name, " encoder=", fingerprint.ToString(),
                                             serving->encoder == encoder ? " live" : " for later"));
  return serving;
}

absl::StatusOr<std::set<std::string>> GenerationManager::UsedEncoders() {
  std::vector<std::string> names;
  {
    MutexLock lock(&state_->mutex);
    for (const auto& [name, entry] : state_->stores) names.push_back(name);
  }
  std::set<std::string> used;
  for (const std::string& name : names) {
    const absl::StatusOr<GenerationList> list = ListGenerations(name);
    if (absl::IsNotFound(list.status())) continue;  // It was deleted meanwhile.
    LOCI_RETURN_IF_ERROR(list.status());
    for (const GenerationInfo& info : list->generations) {
      if (info.unreadable) return absl::DataLossError(absl::StrCat("generation ", info.manifest.generation(), " of store \"", name, "\" can't be read; delete it, or restore it"));
      used.insert(absl::StrCat(info.manifest.query_fingerprint(), ":", info.manifest.passage_fingerprint()));
    }
    const absl::StatusOr<std::vector<Fingerprint>> halves = ReadQueryHalves(*state_->options.fs, StoreDirectory(name));
    if (halves.ok()) {
      for (const Fingerprint& half : *halves) used.insert(half.ToString());
      continue;
    }
    // Whichever was published, it is of a half that a generation has.
    LogWarning("generation_manager", absl::StrCat("store=", name, " no published encoder of its generations' halves is deleted: ", halves.status().message()));
    for (const GenerationInfo& info : list->generations) used.insert(info.manifest.passage_fingerprint());
  }
  return used;
}

}  // namespace loci
