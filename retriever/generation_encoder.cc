// GenerationManager: which encoder a store's texts are encoded by.
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "base/logging.h"
#include "base/mutex.h"
#include "base/status_macros.h"
#include "base/strings.h"
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

absl::StatusOr<std::shared_ptr<TextEncoder>> GenerationManager::State::EncoderOf(const std::string& store, const storage::Manifest& manifest,
                                                                                 bool int8) const {
  const Fingerprint made_by{.query = manifest.query_fingerprint(), .passage = manifest.passage_fingerprint()};
  LOCI_ASSIGN_OR_RETURN(const Fingerprint published, PublishedFor(*options.fs, JoinPath(StoresDirectory(), store), made_by));
  absl::StatusOr<std::shared_ptr<TextEncoder>> encoder =
      published == made_by ? options.encoders->ForVectors(made_by) : options.encoders->Get(published.ToString());
  if (encoder.ok()) return ComputedAs(*std::move(encoder), int8);
  if (published == made_by || !absl::IsNotFound(encoder.status())) return encoder;
  // As one that is damaged: another would answer queries otherwise, without a word.
  return DamagedEncoder(published.ToString(), absl::StrCat("it was published to store \"", store, "\", and its folder is gone"));
}

absl::StatusOr<std::shared_ptr<TextEncoder>> GenerationManager::State::ComputedAs(std::shared_ptr<TextEncoder> encoder, bool int8) const {
  absl::StatusOr<std::shared_ptr<TextEncoder>> computed = options.encoders->ComputedAs(encoder, int8);
  const std::optional<ErrorReason> reason = GetErrorReason(computed.status());
  if (!reason.has_value() || reason->reason != "INT8_UNAVAILABLE") return computed;
  LogWarning("generation_manager", StdView(computed.status().message()));
  return encoder;
}

std::shared_ptr<TextEncoder> GenerationManager::State::ToServe(const StoreEntry& entry, const View& view, std::shared_ptr<TextEncoder> encoder) const {
  const std::shared_ptr<TextEncoder> published = entry.published_encoder();
  if (published != nullptr && published->spec().fingerprint.passage == view.generation().manifest().passage_fingerprint()) encoder = published;
  if (encoder == nullptr) return encoder;
  // Cheap where it is so already, as nearly always.
  absl::StatusOr<std::shared_ptr<TextEncoder>> computed = options.encoders->ComputedAs(encoder, entry.int8());
  return computed.ok() ? *std::move(computed) : encoder;
}

absl::Status GenerationManager::State::SetInt8(StoreEntry& entry, bool int8) const {
  if (int8) LOCI_RETURN_IF_ERROR(options.encoders->CheckInt8());
  // Each is loaded before the lock that writers wait for, under which it is found here.
  std::map<std::shared_ptr<TextEncoder>, absl::StatusOr<std::shared_ptr<TextEncoder>>> ready;
  const auto computed = [&](const std::shared_ptr<TextEncoder>& encoder) -> const absl::StatusOr<std::shared_ptr<TextEncoder>>& {
    const auto found = ready.find(encoder);
    return found != ready.end() ? found->second : ready.emplace(encoder, options.encoders->ComputedAs(encoder, int8)).first->second;
  };
  // Inactive generations that requests named.
  const auto opened = [&] {
    std::vector<std::shared_ptr<const ServingSet>> sets;
    for (const std::shared_ptr<const Generation>& generation : entry.Live()) {
      std::shared_ptr<const ServingSet> named = entry.FindOpened(generation->id());
      if (named != nullptr && named->encoder != nullptr) sets.push_back(std::move(named));
    }
    return sets;
  };
  std::shared_ptr<TextEncoder> serves;
  if (const std::shared_ptr<const ServingSet> serving = entry.holder.Get(); serving != nullptr) serves = serving->encoder;
  // Known to be possible where nothing serves yet.
  if (serves == nullptr) serves = options.encoders->Get("").value_or(nullptr);
  if (serves != nullptr) LOCI_RETURN_IF_ERROR(computed(serves).status());
  if (const std::shared_ptr<TextEncoder> published = entry.published_encoder(); published != nullptr) (void)computed(published);
  for (const std::shared_ptr<const ServingSet>& named : opened()) (void)computed(named->encoder);
  std::shared_ptr<const ServingSet> before;  // Dies after the lock.
  MutexLock writer(&entry.writer);
  LOCI_ASSIGN_OR_RETURN(const std::shared_ptr<Store> store, entry.GetStore());
  const std::shared_ptr<const ServingSet> serving = entry.holder.Get();
  std::shared_ptr<TextEncoder> encoder = serving == nullptr ? nullptr : serving->encoder;
  if (encoder != nullptr) {
    LOCI_ASSIGN_OR_RETURN(encoder, computed(encoder));
  }
  LOCI_RETURN_IF_ERROR(store->SetInt8(int8));
  entry.SetInt8(int8);
  // Else it would keep the other form in memory.
  if (const std::shared_ptr<TextEncoder> published = entry.published_encoder(); published != nullptr) {
    entry.SetPublishedEncoder(computed(published).value_or(published));
  }
  if (encoder != nullptr && encoder != serving->encoder) {
    before = entry.holder.Publish(std::make_shared<const ServingSet>(ServingSet{entry.name, serving->view, encoder}));
  }
  for (const std::shared_ptr<const ServingSet>& named : opened()) {
    // Null where it can't be: WithEncoder looks again, and says why.
    entry.ReplaceOpened(named, std::make_shared<const ServingSet>(ServingSet{entry.name, named->view, computed(named->encoder).value_or(nullptr)}));
  }
  LogInfo("generation_manager", absl::StrCat("set store=", entry.name, " encoder_precision=", int8 ? "int8" : "auto"));
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<TextEncoder>> GenerationManager::ForStore(std::string_view store, std::shared_ptr<TextEncoder> encoder) {
  const absl::StatusOr<std::shared_ptr<StoreEntry>> entry = state_->Find(store);
  return state_->ComputedAs(std::move(encoder), entry.ok() && (*entry)->int8());
}

absl::StatusOr<std::shared_ptr<const ServingSet>> GenerationManager::SetEncoder(std::string_view store, std::shared_ptr<TextEncoder> encoder) {
  LOCI_ASSIGN_OR_RETURN(const std::shared_ptr<StoreEntry> entry, state_->Find(store));
  const Fingerprint fingerprint = encoder->spec().fingerprint;
  std::shared_ptr<const ServingSet> before;  // Dies after the lock.
  std::shared_ptr<const ServingSet> serving;
  std::optional<bool> int8;  // What `encoder` was computed for.
  if (entry->holder.Get() != nullptr) {
    int8 = entry->int8();
    LOCI_ASSIGN_OR_RETURN(encoder, state_->ComputedAs(std::move(encoder), *int8));  // Loaded before the lock that writers wait for.
  }
  {
    MutexLock writer(&entry->writer);
    LOCI_ASSIGN_OR_RETURN(const std::shared_ptr<Store> opened, entry->GetStore());
    serving = entry->holder.Get();
    if (serving == nullptr) return state_->WhyNothingServes(*entry, *opened);
    if (int8 != entry->int8()) {  // Set meanwhile, or what serves came meanwhile.
      LOCI_ASSIGN_OR_RETURN(encoder, state_->ComputedAs(std::move(encoder), entry->int8()));
    }
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
