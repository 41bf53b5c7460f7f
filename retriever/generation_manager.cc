#include "retriever/generation_manager.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <map>
#include <thread>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "base/logging.h"
#include "base/mutex.h"
#include "base/status_macros.h"
#include "base/strings.h"
#include "retriever/fidelity_file.h"
#include "retriever/generation_manager_state.h"
#include "retriever/passage_validation.h"

namespace loci {
namespace {

constexpr char kDeletedPrefix[] = ".deleted-";
// So many inactive generations that requests named stay open in a store, so that the next such request need not load one again.
constexpr size_t kMaxOpened = 4;
// How often an upsert is encoded again because an activation changed the encoder under it.
constexpr int kMaxEncoderChanges = 3;

// Of the data directory as a whole: which folders it has and what they mean. Files have versions of their own.
constexpr char kFormatFile[] = "FORMAT";
constexpr char kFormatPrefix[] = "loci data format ";
constexpr int kDataFormat = 1;

absl::Status CheckFormat(FileSystem& fs, const std::string& data_directory) {
  const std::string path = JoinPath(data_directory, kFormatFile);
  const absl::StatusOr<std::string> content = fs.ReadFile(path);
  if (absl::IsNotFound(content.status())) {
    const absl::Status written = WriteFileAtomically(fs, path, absl::StrCat(kFormatPrefix, kDataFormat, "\n"));
    // A disk that is full keeps nobody from reading.
    if (!written.ok()) LogWarning("generation_manager", absl::StrCat(kFormatFile, " can't be written: ", written.message()));
    return absl::OkStatus();
  }
  LOCI_RETURN_IF_ERROR(content.status());
  int format = 0;
  if (!absl::StartsWith(*content, kFormatPrefix) || !absl::SimpleAtoi(content->substr(sizeof(kFormatPrefix) - 1), &format) || format < 1) {
    return absl::FailedPreconditionError(absl::StrCat(path, " does not say \"", kFormatPrefix, "<number>\": it is not a Loci data directory"));
  }
  if (format > kDataFormat) {
    return absl::FailedPreconditionError(
        absl::StrCat("it has format ", format, " of a newer server, this one reads up to ", kDataFormat));
  }
  return absl::OkStatus();
}

}  // namespace

GenerationManager::GenerationManager(std::unique_ptr<State> state) : state_(std::move(state)) {}
GenerationManager::~GenerationManager() {
  state_->closing = true;
  state_->placement.Close();
  state_->drainer.Stop();  // From now on it gives the janitor, and the placement, nothing to do.
}

EncoderRegistry& GenerationManager::encoders() { return *state_->options.encoders; }
FileSystem& GenerationManager::fs() { return *state_->options.fs; }
std::string GenerationManager::StoreDirectory(std::string_view store) const { return JoinPath(state_->StoresDirectory(), store); }

absl::StatusOr<std::shared_ptr<FileSystem::Lock>> LockDataDirectory(FileSystem& fs, const std::string& data_directory) {
  LOCI_ASSIGN_OR_RETURN(std::unique_ptr<FileSystem::Lock> lock, fs.LockFile(JoinPath(data_directory, "LOCK")));
  LOCI_RETURN_IF_ERROR(CheckFormat(fs, data_directory));
  return std::shared_ptr<FileSystem::Lock>(std::move(lock));
}

absl::StatusOr<std::unique_ptr<GenerationManager>> GenerationManager::Open(Options options) {
  FileSystem& fs = *options.fs;
  auto state = std::make_unique<State>(options);
  const std::string stores_directory = state->StoresDirectory();
  LOCI_RETURN_IF_ERROR(CreateDirectoriesSynced(fs, stores_directory));
  if (state->options.directory_lock == nullptr) {
    LOCI_ASSIGN_OR_RETURN(state->options.directory_lock, LockDataDirectory(fs, options.data_directory));
  }
  LOCI_ASSIGN_OR_RETURN(std::vector<std::string> names, fs.List(stores_directory));
  for (const std::string& name : names) {
    const std::string directory = JoinPath(stores_directory, name);
    if (absl::StartsWith(name, kDeletedPrefix)) {
      if (absl::Status deleted = fs.DeleteRecursively(directory); !deleted.ok()) {
        LogWarning("generation_manager", absl::StrCat("what a deleted store left stays in ", directory, ": ", deleted.ToString(absl::StatusToStringMode::kWithNoExtraData)));
      }
      continue;
    }
    if (!ValidateStoreName(name).ok() || !fs.IsDirectory(directory)) {
      LogWarning("generation_manager", absl::StrCat("passed over ", directory, ": not a store"));
      continue;
    }
    auto entry = std::make_shared<StoreEntry>(name);
    state->OpenEntry(*entry);
    MutexLock lock(&state->mutex);
    state->stores.emplace(name, std::move(entry));
  }
  const int64_t budget = state->options.memory_budget_bytes, taken = budget > 0 ? state->TakenBytes() : 0;
  if (taken > budget) {
    LogWarning("generation_manager", absl::StrCat("what served before serves again, and takes up to ", taken,
                                                  " bytes of memory besides mapped files; memory_budget_bytes is ", budget,
                                                  ", so that no activation of another generation fits"));
  }
  return std::unique_ptr<GenerationManager>(new GenerationManager(std::move(state)));
}

// --- What requests hold ---

absl::StatusOr<std::shared_ptr<const ServingSet>> GenerationManager::TryCapture(std::string_view store, std::string_view generation) {
  LOCI_ASSIGN_OR_RETURN(std::shared_ptr<StoreEntry> entry, state_->Find(store));
  std::shared_ptr<const ServingSet> active = entry->holder.Get();
  if (generation.empty()) {
    if (active != nullptr) return active;
    LOCI_ASSIGN_OR_RETURN(const std::shared_ptr<Store> opened, entry->GetStore());
    absl::Status why = state_->WhyNothingServes(*entry, *opened);
    active = entry->holder.Get();  // What was switched in place may have come to its end between both looks.
    if (active != nullptr) return active;
    return why;
  }
  if (active != nullptr && active->view->generation().id() == generation) return active;
  return entry->FindOpened(generation);
}

absl::StatusOr<std::shared_ptr<const ServingSet>> GenerationManager::WithEncoder(std::shared_ptr<const ServingSet> set) {
  if (set->encoder != nullptr) return set;
  const absl::StatusOr<std::shared_ptr<StoreEntry>> entry = state_->Find(set->store);
  const bool int8 = entry.ok() && (*entry)->int8();
  LOCI_ASSIGN_OR_RETURN(std::shared_ptr<TextEncoder> encoder, state_->EncoderOf(set->store, set->view->generation().manifest(), int8));
  const auto with_encoder = std::make_shared<const ServingSet>(ServingSet{set->store, set->view, std::move(encoder)});
  // Else nobody but this request would hold the encoder: the next other one would unload it, and the next request would load it again.
  if (entry.ok() && (*entry)->int8() == int8) {
    if (!(*entry)->holder.Replace(set, with_encoder)) (*entry)->ReplaceOpened(set, with_encoder);
  }
  return with_encoder;
}

absl::StatusOr<std::shared_ptr<const ServingSet>> GenerationManager::Capture(std::string_view store, std::string_view generation) {
  LOCI_ASSIGN_OR_RETURN(std::shared_ptr<const ServingSet> at_hand, TryCapture(store, generation));
  if (at_hand != nullptr) return at_hand;
  LOCI_ASSIGN_OR_RETURN(std::shared_ptr<StoreEntry> entry, state_->Find(store));
  // One load at a time, and none of a generation that is being deleted.
  MutexLock loading(&entry->pinning);
  if (std::shared_ptr<const ServingSet> opened = entry->FindOpened(generation); opened != nullptr) return opened;
  LOCI_ASSIGN_OR_RETURN(std::shared_ptr<Store> opened, entry->GetStore());
  // One whose manifest can't be read is refused by OpenGeneration.
  if (const absl::StatusOr<storage::Manifest> manifest = opened->GetManifest(std::string(generation)); manifest.ok()) {
    LOCI_RETURN_IF_ERROR(state_->MakeRoom(*entry, *manifest));
  }
  LOCI_ASSIGN_OR_RETURN(std::shared_ptr<const Generation> loaded, opened->OpenGeneration(std::string(generation), /*verify=*/true));
  opened.reset();
  entry->AddLive(loaded);
  std::shared_ptr<const View> view = View::Bare(std::move(loaded));
  std::shared_ptr<TextEncoder> encoder = state_->EncoderFor(*entry, *view);
  // One that was set while this one was looked for did not see this generation, which is not among those that are open yet.
  MutexLock writer(&entry->writer);
  encoder = state_->ToServe(*entry, *view, std::move(encoder));
  auto serving_set = std::make_shared<const ServingSet>(ServingSet{entry->name, std::move(view), std::move(encoder)});
  if (std::shared_ptr<const ServingSet> dropped = entry->KeepOpened(std::string(generation), serving_set, kMaxOpened); dropped != nullptr) {
    state_->drainer.Add(dropped->view->shared_generation(), nullptr);
  }
  return serving_set;
}

void GenerationManager::StopPlacing() { state_->placement.Close(); }

absl::Status GenerationManager::CheckPlacements() const {
  for (const std::shared_ptr<StoreEntry>& entry : state_->Entries()) {
    const std::shared_ptr<const ServingSet> active = entry->holder.Get();
    if (active == nullptr) continue;
    const Generation& generation = active->view->generation();
    const absl::Status refusal = generation.exact_index().refusal();
    if (refusal.ok()) continue;
    const absl::StatusCode code = absl::IsResourceExhausted(refusal) ? refusal.code() : absl::StatusCode::kFailedPrecondition;
    return absl::Status(code, absl::StrCat("generation ", generation.id(), " of store ", entry->name, " can't be searched on ",
                                           state_->options.exact_placer->device(), ": ", refusal.message()));
  }
  return absl::OkStatus();
}

// --- Stores ---

absl::StatusOr<StoreInfo> GenerationManager::CreateStore(std::string_view store, std::optional<int32_t> keep_generations, std::optional<bool> int8) {
  LOCI_RETURN_IF_ERROR(ValidateStoreName(store));
  if (int8.value_or(false)) LOCI_RETURN_IF_ERROR(state_->options.encoders->CheckInt8());
  const std::string name(store);
  auto entry = std::make_shared<StoreEntry>(name);
  // The name is taken before the folder is made, so that of two who create it one is told.
  MutexLock writer(&entry->writer);
  {
    MutexLock lock(&state_->mutex);
    if (!state_->stores.emplace(name, entry).second) {
      return ErrorWithReason(absl::AlreadyExistsError(absl::StrCat("store \"", name, "\" is there already")), "STORE_EXISTS",
                             {{"store", name}});
    }
  }
  FileSystem& fs = *state_->options.fs;
  const std::string directory = JoinPath(state_->StoresDirectory(), name);
  const bool was_there = fs.Exists(directory);
  absl::StatusOr<std::shared_ptr<Store>> opened = state_->OpenStore(name);
  if (opened.ok() && keep_generations.has_value()) {
    if (absl::Status set = (*opened)->SetKeepGenerations(*keep_generations); !set.ok()) opened = std::move(set);
  }
  if (opened.ok() && int8.has_value()) {
    if (absl::Status set = (*opened)->SetInt8(*int8); !set.ok()) opened = std::move(set);
  }
  if (!opened.ok()) {
    if (!was_there) {
      // A restart would find a store that nobody was told of.
      if (const absl::Status removed = fs.DeleteRecursively(directory); !removed.ok()) {
        LogWarning("generation_manager", absl::StrCat("store=", name, " was not created, but its folder stays: ", removed.message()));
      }
    }
    MutexLock lock(&state_->mutex);
    state_->stores.erase(name);
    return opened.status();
  }
  const int64_t revision = (*opened)->revision();
  const int32_t keep = state_->KeepGenerations(**opened);
  entry->SetInt8(IsInt8(**opened));
  entry->SetStore(*std::move(opened), absl::OkStatus());
  return StoreInfo{.name = name, .revision = revision, .keep_generations = keep, .int8 = int8.value_or(false)};
}

absl::StatusOr<StoreInfo> GenerationManager::UpdateStore(std::string_view store, std::optional<int32_t> keep_generations, std::optional<bool> int8) {
  LOCI_ASSIGN_OR_RETURN(std::shared_ptr<StoreEntry> entry, state_->Find(store));
  if (int8.has_value()) LOCI_RETURN_IF_ERROR(state_->SetInt8(*entry, *int8));
  if (keep_generations.has_value()) {
    MutexLock pinning(&entry->pinning);
    MutexLock writer(&entry->writer);
    LOCI_ASSIGN_OR_RETURN(std::shared_ptr<Store> opened, entry->GetStore());
    LOCI_RETURN_IF_ERROR(opened->SetKeepGenerations(*keep_generations));
    LogInfo("generation_manager", absl::StrCat("set store=", entry->name, " keep_generations=", *keep_generations));
    state_->ApplyRetention(*entry, *opened);
  }
  return GetStore(store);
}

absl::StatusOr<StoreInfo> GenerationManager::GetStore(std::string_view store) {
  LOCI_ASSIGN_OR_RETURN(std::shared_ptr<StoreEntry> entry, state_->Find(store));
  LOCI_ASSIGN_OR_RETURN(std::shared_ptr<Store> opened, entry->GetStore());
  StoreInfo info{.name = entry->name,
                 .revision = opened->revision(),
                 .size_bytes = opened->size_bytes(),
                 .keep_generations = state_->KeepGenerations(*opened),
                 .error = std::string(StdView(opened->active_error().message())),
                 .int8 = IsInt8(*opened)};
  if (absl::StatusOr<std::optional<storage::EncoderFidelity>> fidelity = ReadInt8Fidelity(*state_->options.fs, opened->directory()); fidelity.ok()) {
    info.int8_fidelity = *std::move(fidelity);
    entry->SetFidelityError("");
  } else if (entry->SetFidelityError(std::string(StdView(fidelity.status().message())))) {
    LogWarning("generation_manager", absl::StrCat("store=", entry->name, " ", fidelity.status().message()));
  }
  LOCI_ASSIGN_OR_RETURN(std::vector<storage::Manifest> manifests, opened->ListGenerations());
  info.generation_count = static_cast<int64_t>(manifests.size());
  if (const std::shared_ptr<const ServingSet> active = entry->holder.Get(); active != nullptr) {
    const storage::Manifest& manifest = active->view->generation().manifest();
    info.generation = manifest.generation();
    info.revision = active->view->revision();
    info.passage_count = active->view->passage_count();
    info.overlay_count = active->view->overlay_count();
    info.encoder_fingerprint = active->encoder != nullptr ? active->encoder->spec().fingerprint.ToString()
                                                          : absl::StrCat(manifest.query_fingerprint(), ":", manifest.passage_fingerprint());
  }
  return info;
}

std::vector<StoreInfo> GenerationManager::ListStores() {
  std::vector<std::string> names;
  {
    MutexLock lock(&state_->mutex);
    for (const auto& [name, entry] : state_->stores) names.push_back(name);
  }
  std::vector<StoreInfo> infos;
  for (const std::string& name : names) {
    absl::StatusOr<StoreInfo> info = GetStore(name);
    if (info.ok()) {
      infos.push_back(*std::move(info));
    } else if (!absl::IsNotFound(info.status())) {
      infos.push_back({.name = name, .error = std::string(StdView(info.status().message()))});
    }
  }
  return infos;
}

absl::StatusOr<std::weak_ptr<const StoreEntry>> GenerationManager::Identify(std::string_view store) {
  LOCI_ASSIGN_OR_RETURN(const std::shared_ptr<StoreEntry> entry, state_->Find(store));
  return std::weak_ptr<const StoreEntry>(entry);
}

absl::Status GenerationManager::SetInt8Fidelity(std::string_view store, const std::weak_ptr<const StoreEntry>& identity,
                                                const storage::EncoderFidelity& fidelity) {
  LOCI_ASSIGN_OR_RETURN(const std::shared_ptr<StoreEntry> entry, state_->Find(store));
  if (identity.lock() != entry) return StoreNotFound(store);
  MutexLock writer(&entry->writer);
  LOCI_ASSIGN_OR_RETURN(const std::shared_ptr<Store> opened, entry->GetStore());
  return WriteInt8Fidelity(*state_->options.fs, opened->directory(), fidelity);
}

absl::Status GenerationManager::DeleteStore(std::string_view store) {
  LOCI_ASSIGN_OR_RETURN(std::shared_ptr<StoreEntry> entry, state_->Find(store));
  FileSystem& fs = *state_->options.fs;
  const std::string directory = JoinPath(state_->StoresDirectory(), entry->name);
  const std::string deleted = JoinPath(state_->StoresDirectory(),
                                       absl::StrCat(kDeletedPrefix, entry->name, "-", state_->options.clock->UnixMicros()));
  MutexLock pinning(&entry->pinning);
  MutexLock writer(&entry->writer);
  LOCI_ASSIGN_OR_RETURN(std::weak_ptr<Store> closing, entry->TakeForDeletion());
  // Short calls may still hold the store; its log must be closed before the name is free again.
  while (!closing.expired()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  if (absl::Status renamed = fs.Rename(directory, deleted); !renamed.ok()) {
    state_->OpenEntry(*entry);  // Nothing has changed on disk: serve on.
    return renamed;
  }
  {
    MutexLock lock(&state_->mutex);
    state_->stores.erase(entry->name);
  }
  if (std::shared_ptr<const ServingSet> old = entry->holder.Publish(nullptr); old != nullptr) {
    state_->placement.TakeAway(old->view->generation());
    state_->drainer.Add(old->view->shared_generation(), nullptr);
  }
  LogInfo("generation_manager", absl::StrCat("deleted store=", entry->name));
  LOCI_RETURN_IF_ERROR(fs.SyncDirectory(state_->StoresDirectory()));
  return fs.DeleteRecursively(deleted);
}

// --- Writes ---

namespace {

// `precisions`: one a passage, or none.
std::vector<PassageWrite> MakeUpserts(const std::vector<loci::v1::Passage>& passages, const float* vectors, int dim,
                                      const std::vector<VectorPrecision>& precisions) {
  std::vector<PassageWrite> writes;
  writes.reserve(passages.size());
  for (size_t i = 0; i < passages.size(); ++i) {
    const float* vector = vectors + i * dim;
    writes.push_back({.id = passages[i].id(),
                      .passage = passages[i],
                      .vector = std::vector<float>(vector, vector + dim),
                      .precision = precisions.empty() ? VectorPrecision::kUnknown : precisions[i],
                      .other_vectors = {}});
  }
  return writes;
}

std::vector<std::string> TextsOf(const std::vector<loci::v1::Passage>& passages) {
  std::vector<std::string> texts;
  texts.reserve(passages.size());
  for (const loci::v1::Passage& passage : passages) texts.push_back(PassageText(passage.title(), passage.text()));
  return texts;
}

// Gives the writes, whose vectors are of `half`, those of the encoder that an activation is about to make the store's, where that is another.
// What that encoder can't do now is left to the activation.
void EncodeForNext(const StoreEntry& entry, std::string_view half, const std::vector<std::string>& texts, const RequestLimits& limits,
                   std::vector<PassageWrite>* writes) {
  const std::shared_ptr<TextEncoder> next = entry.next_encoder();
  if (next == nullptr || next->spec().fingerprint.passage == half) return;
  const absl::StatusOr<EncodedTexts> encoded = next->EncodeAndWait(texts, {.role = TextRole::kPassage, .limits = limits});
  const auto is_finite = [](float value) { return std::isfinite(value); };
  if (!encoded.ok() || !std::all_of(encoded->vectors.begin(), encoded->vectors.end(), is_finite)) {
    LogInfo("generation_manager", absl::StrCat("store=", entry.name, " a write is left to the activation under way to encode: ",
                                               encoded.ok() ? "its vector is not finite" : encoded.status().message()));
    return;
  }
  for (size_t i = 0; i < writes->size(); ++i) {
    const float* vector = encoded->vectors.data() + i * static_cast<size_t>(next->spec().dim);
    (*writes)[i].other_vectors.push_back(
        {next->spec().fingerprint.passage, std::vector<float>(vector, vector + next->spec().dim), next->precision()});
  }
}

}  // namespace

absl::StatusOr<UpsertResult> GenerationManager::Upsert(std::string_view store, std::vector<loci::v1::Passage> passages,
                                                       const RequestLimits& limits) {
  for (const loci::v1::Passage& passage : passages) LOCI_RETURN_IF_ERROR(ValidatePassage(passage));
  LOCI_ASSIGN_OR_RETURN(std::shared_ptr<StoreEntry> entry, state_->Find(store));
  LOCI_RETURN_IF_ERROR(EnsureGeneration(store));
  const std::vector<std::string> texts = TextsOf(passages);
  absl::Status last_error;
  for (int attempt = 0; attempt < kMaxEncoderChanges; ++attempt) {
    LOCI_ASSIGN_OR_RETURN(std::shared_ptr<const ServingSet> active, Capture(store, ""));
    const std::string half = active->view->generation().manifest().passage_fingerprint();
    LOCI_ASSIGN_OR_RETURN(active, WithEncoder(std::move(active)));
    LOCI_ASSIGN_OR_RETURN(EncodedTexts encoded,
                          active->encoder->EncodeAndWait(texts, {.role = TextRole::kPassage, .limits = limits}));
    const std::vector<VectorPrecision> precisions(passages.size(), active->encoder->precision());
    std::vector<PassageWrite> writes = MakeUpserts(passages, encoded.vectors.data(), active->view->dim(), precisions);
    EncodeForNext(*entry, half, texts, limits, &writes);
    const absl::StatusOr<WriteResult> written = state_->Write(*entry, std::move(writes), half);
    if (written.ok()) {
      return UpsertResult{.generation = written->view->generation().id(),
                          .revision = written->view->revision(),
                          .usage = std::move(encoded.usage),
                          .tokenize_us = encoded.tokenize_us,
                          .queue_us = encoded.queue_us,
                          .encode_us = encoded.encode_us};
    }
    last_error = written.status();
    if (!absl::IsAborted(last_error)) break;
  }
  return last_error;
}

absl::StatusOr<UpsertResult> GenerationManager::UpsertVectors(std::string_view store, std::vector<loci::v1::Passage> passages,
                                                              const float* vectors, int dim, std::string_view passage_half,
                                                              const RequestLimits& limits, const std::vector<VectorPrecision>& precisions) {
  for (const loci::v1::Passage& passage : passages) LOCI_RETURN_IF_ERROR(ValidatePassage(passage));
  LOCI_ASSIGN_OR_RETURN(std::shared_ptr<StoreEntry> entry, state_->Find(store));
  LOCI_RETURN_IF_ERROR(EnsureGeneration(store));
  LOCI_ASSIGN_OR_RETURN(std::shared_ptr<const ServingSet> active, Capture(store, ""));
  const std::string& half = active->view->generation().manifest().passage_fingerprint();
  if (half != passage_half) {
    return ErrorWithReason(
        absl::FailedPreconditionError(absl::StrCat("the vectors are of the passage half \"", AbslView(passage_half), "\", the store's generation of \"",
                                                   half, "\"")),
        "ENCODER_MISMATCH", {{"passage_fingerprint", std::string(passage_half)}});
  }
  std::vector<PassageWrite> writes = MakeUpserts(passages, vectors, dim, precisions);
  EncodeForNext(*entry, half, TextsOf(passages), limits, &writes);
  LOCI_RETURN_IF_ERROR(limits.Check(state_->options.clock->NowMicros()));
  LOCI_ASSIGN_OR_RETURN(WriteResult written, state_->Write(*entry, std::move(writes), half));
  return UpsertResult{.generation = written.view->generation().id(), .revision = written.view->revision()};
}

absl::StatusOr<DeleteResult> GenerationManager::Delete(std::string_view store, const std::vector<std::string>& ids) {
  LOCI_ASSIGN_OR_RETURN(std::shared_ptr<StoreEntry> entry, state_->Find(store));
  std::vector<PassageWrite> writes;
  writes.reserve(ids.size());
  for (const std::string& id : ids) {
    LOCI_RETURN_IF_ERROR(ValidatePassageId(id));
    writes.push_back({.id = id, .deleted = true, .passage = {}, .vector = {}, .other_vectors = {}});
  }
  LOCI_ASSIGN_OR_RETURN(WriteResult written, state_->Write(*entry, std::move(writes), /*passage_half=*/""));
  return DeleteResult{.generation = written.view->generation().id(),
                      .revision = written.view->revision(),
                      .deleted_count = written.deleted_count};
}

absl::Status GenerationManager::EnsureGeneration(std::string_view store) {
  LOCI_ASSIGN_OR_RETURN(std::shared_ptr<StoreEntry> entry, state_->Find(store));
  if (entry->holder.Get() != nullptr) return absl::OkStatus();
  MutexLock creating(&entry->first_generation);
  if (entry->holder.Get() != nullptr) return absl::OkStatus();  // Another upsert made it.
  {
    LOCI_ASSIGN_OR_RETURN(const std::shared_ptr<Store> opened, entry->GetStore());
    // What is damaged is not replaced by nothing, nor is what will serve soon.
    absl::Status why = state_->WhyNothingServes(*entry, *opened);
    if (entry->holder.Get() != nullptr) return absl::OkStatus();
    const std::optional<ErrorReason> reason = GetErrorReason(why);
    if (!reason.has_value() || reason->reason != "NO_ACTIVE_GENERATION") return why;
  }
  LOCI_ASSIGN_OR_RETURN(GenerationList list, ListGenerations(store));
  std::string empty_generation;
  for (const GenerationInfo& info : list.generations) {
    // A corpus that waits to be activated is not passed over.
    if (info.unreadable || info.manifest.passage_count() > 0) return NoActiveGeneration(store);
    empty_generation = info.manifest.generation();  // Left by a first upsert that ended before its activation.
  }
  if (empty_generation.empty()) {
    LOCI_ASSIGN_OR_RETURN(std::shared_ptr<TextEncoder> encoder, state_->options.encoders->Get(""));
    const EncoderSpec& spec = encoder->spec();
    LOCI_ASSIGN_OR_RETURN(std::unique_ptr<GenerationBuilder> builder,
                          NewGeneration(store, {.dim = spec.dim,
                                                .query_fingerprint = spec.fingerprint.query,
                                                .passage_fingerprint = spec.fingerprint.passage,
                                                .base_revision = -1}));
    LOCI_ASSIGN_OR_RETURN(storage::Manifest manifest, builder->Finish({}, nullptr));
    empty_generation = manifest.generation();
  }
  MutexLock loading(&entry->pinning);
  LOCI_ASSIGN_OR_RETURN(LoadedGeneration loaded, Load(*entry, empty_generation, WritesPolicy::kReplay, /*floor=*/0, {}));
  MutexLock writer(&entry->writer);
  LOCI_ASSIGN_OR_RETURN(std::shared_ptr<Store> opened, entry->GetStore());
  if (const std::shared_ptr<const ServingSet> active = entry->holder.Get(); active != nullptr) {
    // An ingest was quicker.
    return active->view->generation().id() == empty_generation ? absl::OkStatus() : opened->DeleteGeneration(empty_generation);
  }
  LOCI_ASSIGN_OR_RETURN(ActivationResult result, opened->Activate(std::move(loaded.generation), WritesPolicy::kReplay));
  state_->Publish(*entry, result.view, std::move(loaded.encoder));
  return absl::OkStatus();
}

}  // namespace loci
