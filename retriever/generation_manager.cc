#include "retriever/generation_manager.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <thread>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "base/logging.h"
#include "base/mutex.h"
#include "base/status_macros.h"
#include "base/strings.h"
#include "retriever/drainer.h"
#include "retriever/passage_validation.h"

namespace loci {
namespace {

constexpr char kDeletedPrefix[] = ".deleted-";
// Inactive generations that requests named stay open, so that the next such request need not load one again.
constexpr size_t kMaxPinned = 2;
// How often an upsert is encoded again because an activation changed the encoder under it.
constexpr int kMaxEncoderChanges = 3;

absl::Status NoActiveGeneration(std::string_view store) {
  return ErrorWithReason(absl::FailedPreconditionError(absl::StrCat("store \"", AbslView(store), "\" has no active generation")),
                         "NO_ACTIVE_GENERATION", {{"store", std::string(store)}});
}

absl::Status StoreNotFound(std::string_view store) {
  return ErrorWithReason(absl::NotFoundError(absl::StrCat("there is no store \"", AbslView(store.substr(0, 80)), "\"")),
                         "STORE_NOT_FOUND", {{"store", std::string(store.substr(0, 80))}});
}

struct GenerationStatus {
  GenerationState state = GenerationState::kReady;
  std::string detail;
};

// A store of the manager. `store` is null after DeleteStore, and where the store could not be opened.
struct StoreEntry {
  explicit StoreEntry(std::string store_name) : name(std::move(store_name)) {}

  const std::string name;
  ServingSetHolder holder;

  // Order of locking: first_generation, writer, mutex. Whoever waits for `writer` holds no reference to `store`, since DeleteStore waits,
  // with `writer`, for all of them.
  Mutex first_generation;  // Held while the empty generation for a first upsert is made.
  Mutex writer;            // Held by whoever changes the store: writes and activations, one after the other.

  mutable Mutex mutex;
  int builder_count ABSL_GUARDED_BY(mutex) = 0;  // Builds that are under way.
  std::shared_ptr<Store> store ABSL_GUARDED_BY(mutex);
  absl::Status open_error ABSL_GUARDED_BY(mutex);
  std::map<std::string, GenerationStatus> states ABSL_GUARDED_BY(mutex);
  // Newest last.
  std::vector<std::pair<std::string, std::shared_ptr<const ServingSet>>> pinned ABSL_GUARDED_BY(mutex);

  absl::StatusOr<std::shared_ptr<Store>> GetStore() const {
    MutexLock lock(&mutex);
    return GetStoreLocked();
  }

  absl::StatusOr<std::shared_ptr<Store>> GetStoreLocked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    if (store != nullptr) return store;
    if (!open_error.ok()) return open_error;
    return StoreNotFound(name);
  }

  void SetState(const std::string& generation, GenerationState state, std::string detail = "") {
    MutexLock lock(&mutex);
    states[generation] = {state, std::move(detail)};
  }
};

// Keeps the store's folder from being deleted under a build.
class HeldBuilder : public GenerationBuilder {
 public:
  static absl::StatusOr<std::unique_ptr<GenerationBuilder>> Create(std::shared_ptr<StoreEntry> entry, BuildOptions options) {
    std::shared_ptr<Store> store;
    {
      MutexLock lock(&entry->mutex);
      LOCI_ASSIGN_OR_RETURN(store, entry->GetStoreLocked());
      ++entry->builder_count;
    }
    auto held = std::make_unique<HeldBuilder>(std::move(entry));
    LOCI_ASSIGN_OR_RETURN(held->builder_, store->NewGeneration(std::move(options)));
    return std::unique_ptr<GenerationBuilder>(std::move(held));
  }
  // The caller has counted it.
  explicit HeldBuilder(std::shared_ptr<StoreEntry> entry) : entry_(std::move(entry)) {}
  ~HeldBuilder() override {
    builder_.reset();
    MutexLock lock(&entry_->mutex);
    --entry_->builder_count;
  }
  absl::Status Add(std::span<const loci::v1::Passage> passages, const float* vectors) override {
    return builder_->Add(passages, vectors);
  }
  int64_t added_count() const override { return builder_->added_count(); }
  int64_t duplicate_count() const override { return builder_->duplicate_count(); }
  absl::StatusOr<storage::Manifest> Finish(
      const RequestLimits& limits,
      const std::function<void(std::string_view phase, int64_t done, int64_t total)>& progress) override {
    return builder_->Finish(limits, progress);
  }

 private:
  std::unique_ptr<GenerationBuilder> builder_;
  const std::shared_ptr<StoreEntry> entry_;
};

}  // namespace

struct GenerationManager::State {
  Options options;
  std::unique_ptr<FileSystem::Lock> directory_lock;

  mutable Mutex mutex;
  std::map<std::string, std::shared_ptr<StoreEntry>, std::less<>> stores ABSL_GUARDED_BY(mutex);

  // Ends before what its callbacks look at.
  Drainer drainer;

  std::string StoresDirectory() const { return JoinPath(options.data_directory, "stores"); }

  absl::StatusOr<std::shared_ptr<StoreEntry>> Find(std::string_view store) const {
    MutexLock lock(&mutex);
    const auto found = stores.find(store);
    if (found == stores.end()) return StoreNotFound(store);
    return found->second;
  }

  absl::StatusOr<std::shared_ptr<Store>> OpenStore(const std::string& name) const {
    LOCI_ASSIGN_OR_RETURN(std::unique_ptr<Store> store,
                          Store::Open(JoinPath(StoresDirectory(), name), name,
                                      {.fs = options.fs, .clock = options.clock, .search_pool = options.search_pool}));
    return std::shared_ptr<Store>(std::move(store));
  }

  // The encoder that serves a view, or null (logged) where there is none.
  std::shared_ptr<TextEncoder> EncoderFor(const std::string& store, const View& view) const {
    absl::StatusOr<std::shared_ptr<TextEncoder>> encoder =
        options.encoders->ForPassageHalf(view.generation().manifest().passage_fingerprint());
    if (encoder.ok()) return *std::move(encoder);
    LogWarning("generation_manager", absl::StrCat("store=", store, " ", encoder.status().ToString()));
    return nullptr;
  }

  // Makes `view` what the store serves. The generation that it replaces, if another, drains.
  void Publish(StoreEntry& entry, std::shared_ptr<const View> view, std::shared_ptr<TextEncoder> encoder) {
    ExportView(entry.name, *view);
    const std::string generation = view->generation().id();
    std::shared_ptr<const ServingSet> old = entry.holder.Publish(
        std::make_shared<const ServingSet>(ServingSet{entry.name, std::move(view), std::move(encoder)}));
    if (old != nullptr && old->view->generation().id() == generation) return;
    entry.SetState(generation, GenerationState::kServing);
    if (old != nullptr) Retire(entry.name, old->view->shared_generation());
  }

  void Retire(const std::string& store, std::shared_ptr<const Generation> generation) {
    const std::string id = generation->id();
    {
      absl::StatusOr<std::shared_ptr<StoreEntry>> entry = Find(store);
      if (entry.ok()) (*entry)->SetState(id, GenerationState::kDraining);
    }
    drainer.Add(std::move(generation), [this, store, id] {
      absl::StatusOr<std::shared_ptr<StoreEntry>> entry = Find(store);
      if (!entry.ok()) return;
      MutexLock lock(&(*entry)->mutex);
      GenerationStatus& status = (*entry)->states[id];
      if (status.state == GenerationState::kDraining) status = {GenerationState::kRetired, ""};
    });
  }

  // Lays `writes` over what the store serves, if that still is of `passage_half` (empty: any). ABORTED where it is not.
  absl::StatusOr<WriteResult> Write(StoreEntry& entry, std::vector<PassageWrite> writes, std::string_view passage_half) {
    MutexLock writer(&entry.writer);
    LOCI_ASSIGN_OR_RETURN(std::shared_ptr<Store> store, entry.GetStore());
    const std::shared_ptr<const ServingSet> active = entry.holder.Get();
    if (active == nullptr) return NoActiveGeneration(entry.name);
    if (!passage_half.empty() && active->view->generation().manifest().passage_fingerprint() != passage_half) {
      return absl::AbortedError("an activation changed the store's encoder meanwhile; try again");
    }
    LOCI_ASSIGN_OR_RETURN(WriteResult result, store->Write(std::move(writes)));
    Publish(entry, result.view, active->encoder);
    return result;
  }

  void ExportView(const std::string& store, const View& view) const {
    const MetricLabels labels = {{"store", store}};
    MetricsSink& metrics = *options.metrics;
    metrics.gauge("loci_store_passages", "Passages that the active view can find.", labels).Set(view.passage_count());
    metrics.gauge("loci_store_overlay_passages", "Passages of the active view that were upserted since its generation was built.", labels)
        .Set(view.overlay_count());
    metrics.gauge("loci_store_revision", "Revision of the active view.", labels).Set(view.revision());
  }
};

GenerationManager::GenerationManager(std::unique_ptr<State> state) : state_(std::move(state)) {}
GenerationManager::~GenerationManager() = default;

EncoderRegistry& GenerationManager::encoders() { return *state_->options.encoders; }

absl::StatusOr<std::unique_ptr<GenerationManager>> GenerationManager::Open(Options options) {
  FileSystem& fs = *options.fs;
  auto state = std::make_unique<State>();
  state->options = options;
  const std::string stores_directory = state->StoresDirectory();
  LOCI_RETURN_IF_ERROR(fs.CreateDirectories(stores_directory));
  LOCI_ASSIGN_OR_RETURN(state->directory_lock, fs.LockFile(JoinPath(options.data_directory, "LOCK")));
  LOCI_ASSIGN_OR_RETURN(std::vector<std::string> names, fs.List(stores_directory));
  for (const std::string& name : names) {
    const std::string directory = JoinPath(stores_directory, name);
    if (absl::StartsWith(name, kDeletedPrefix)) {
      LOCI_RETURN_IF_ERROR(fs.DeleteRecursively(directory));
      continue;
    }
    if (!ValidateStoreName(name).ok() || !fs.IsDirectory(directory)) {
      LogWarning("generation_manager", absl::StrCat("passed over ", directory, ": not a store"));
      continue;
    }
    auto entry = std::make_shared<StoreEntry>(name);
    absl::StatusOr<std::shared_ptr<Store>> store = state->OpenStore(name);
    if (store.ok()) {
      if (std::shared_ptr<const View> view = (*store)->view(); view != nullptr) {
        std::shared_ptr<TextEncoder> encoder = state->EncoderFor(name, *view);
        LogInfo("generation_manager", absl::StrCat("opened store=", name, " generation=", view->generation().id(),
                                                   " revision=", view->revision(), " passages=", view->passage_count()));
        state->Publish(*entry, std::move(view), std::move(encoder));
      }
      MutexLock lock(&entry->mutex);
      entry->store = *std::move(store);
    } else {
      LogError("generation_manager", absl::StrCat("store=", name, " can't be opened: ", store.status().ToString()));
      MutexLock lock(&entry->mutex);
      entry->open_error = Annotate(store.status(), absl::StrCat("store \"", name, "\" can't be opened"));
    }
    MutexLock lock(&state->mutex);
    state->stores.emplace(name, std::move(entry));
  }
  return std::unique_ptr<GenerationManager>(new GenerationManager(std::move(state)));
}

// --- What requests hold ---

bool GenerationManager::CaptureNeedsLoad(std::string_view store, std::string_view generation) const {
  if (generation.empty()) return false;
  const absl::StatusOr<std::shared_ptr<StoreEntry>> entry = state_->Find(store);
  if (!entry.ok()) return false;
  const std::shared_ptr<const ServingSet> active = (*entry)->holder.Get();
  if (active != nullptr && active->view->generation().id() == generation) return false;
  MutexLock lock(&(*entry)->mutex);
  return std::none_of((*entry)->pinned.begin(), (*entry)->pinned.end(), [&](const auto& pin) { return pin.first == generation; });
}

absl::StatusOr<std::shared_ptr<const ServingSet>> GenerationManager::Capture(std::string_view store, std::string_view generation) {
  LOCI_ASSIGN_OR_RETURN(std::shared_ptr<StoreEntry> entry, state_->Find(store));
  std::shared_ptr<const ServingSet> active = entry->holder.Get();
  if (generation.empty()) {
    if (active != nullptr) return active;
    LOCI_RETURN_IF_ERROR(entry->GetStore().status());
    return NoActiveGeneration(store);
  }
  if (active != nullptr && active->view->generation().id() == generation) return active;
  {
    MutexLock lock(&entry->mutex);
    for (const auto& [id, serving_set] : entry->pinned) {
      if (id == generation) return serving_set;
    }
  }
  LOCI_ASSIGN_OR_RETURN(std::shared_ptr<Store> opened_store, entry->GetStore());
  LOCI_ASSIGN_OR_RETURN(std::shared_ptr<const Generation> loaded,
                        opened_store->OpenGeneration(std::string(generation), /*verify=*/true));
  std::shared_ptr<const View> view = View::Bare(std::move(loaded));
  std::shared_ptr<TextEncoder> encoder = state_->EncoderFor(entry->name, *view);
  auto serving_set = std::make_shared<const ServingSet>(ServingSet{entry->name, std::move(view), std::move(encoder)});
  MutexLock lock(&entry->mutex);
  if (entry->pinned.size() >= kMaxPinned) entry->pinned.erase(entry->pinned.begin());
  entry->pinned.emplace_back(std::string(generation), serving_set);
  return serving_set;
}

// --- Stores ---

absl::StatusOr<StoreInfo> GenerationManager::CreateStore(std::string_view store) {
  LOCI_RETURN_IF_ERROR(ValidateStoreName(store));
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
  absl::StatusOr<std::shared_ptr<Store>> opened = state_->OpenStore(name);
  if (!opened.ok()) {
    MutexLock lock(&state_->mutex);
    state_->stores.erase(name);
    return opened.status();
  }
  MutexLock lock(&entry->mutex);
  entry->store = *std::move(opened);
  return StoreInfo{.name = name, .revision = entry->store->revision()};
}

absl::StatusOr<StoreInfo> GenerationManager::GetStore(std::string_view store) {
  LOCI_ASSIGN_OR_RETURN(std::shared_ptr<StoreEntry> entry, state_->Find(store));
  LOCI_ASSIGN_OR_RETURN(std::shared_ptr<Store> opened, entry->GetStore());
  StoreInfo info{.name = entry->name, .revision = opened->revision(), .size_bytes = opened->size_bytes()};
  LOCI_ASSIGN_OR_RETURN(std::vector<storage::Manifest> manifests, opened->ListGenerations());
  info.generation_count = static_cast<int64_t>(manifests.size());
  if (const std::shared_ptr<const ServingSet> active = entry->holder.Get(); active != nullptr) {
    const storage::Manifest& manifest = active->view->generation().manifest();
    info.generation = manifest.generation();
    info.revision = active->view->revision();
    info.passage_count = active->view->passage_count();
    info.overlay_count = active->view->overlay_count();
    info.encoder_fingerprint = absl::StrCat(manifest.query_fingerprint(), ":", manifest.passage_fingerprint());
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
      infos.push_back({.name = name});  // Damaged: named, so that an operator can look at it.
    }
  }
  return infos;
}

absl::Status GenerationManager::DeleteStore(std::string_view store) {
  LOCI_ASSIGN_OR_RETURN(std::shared_ptr<StoreEntry> entry, state_->Find(store));
  MutexLock writer(&entry->writer);
  std::weak_ptr<Store> closing;
  {
    MutexLock lock(&entry->mutex);
    if (entry->builder_count > 0) {
      return ErrorWithReason(absl::AbortedError(absl::StrCat("an ingest into store \"", entry->name, "\" is running")),
                             "INGEST_RUNNING", {{"store", entry->name}});
    }
    if (entry->store == nullptr && entry->open_error.ok()) return StoreNotFound(store);
    closing = entry->store;
    entry->store.reset();
    entry->open_error = absl::OkStatus();
    entry->pinned.clear();
  }
  // Short calls may still hold the store; its log must be closed before the name is free again.
  while (!closing.expired()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  FileSystem& fs = *state_->options.fs;
  const std::string deleted = JoinPath(state_->StoresDirectory(), absl::StrCat(kDeletedPrefix, entry->name));
  LOCI_RETURN_IF_ERROR(fs.DeleteRecursively(deleted));
  LOCI_RETURN_IF_ERROR(fs.Rename(JoinPath(state_->StoresDirectory(), entry->name), deleted));
  LOCI_RETURN_IF_ERROR(fs.SyncDirectory(state_->StoresDirectory()));
  {
    MutexLock lock(&state_->mutex);
    state_->stores.erase(entry->name);
  }
  if (std::shared_ptr<const ServingSet> old = entry->holder.Publish(nullptr); old != nullptr) {
    state_->drainer.Add(old->view->shared_generation(), nullptr);
  }
  LogInfo("generation_manager", absl::StrCat("deleted store=", entry->name));
  return fs.DeleteRecursively(deleted);
}

// --- Writes ---

namespace {

std::vector<PassageWrite> MakeUpserts(const std::vector<loci::v1::Passage>& passages, const float* vectors, int dim) {
  std::vector<PassageWrite> writes;
  writes.reserve(passages.size());
  for (size_t i = 0; i < passages.size(); ++i) {
    const float* vector = vectors + i * dim;
    writes.push_back({.id = passages[i].id(), .passage = passages[i], .vector = std::vector<float>(vector, vector + dim)});
  }
  return writes;
}

}  // namespace

absl::StatusOr<UpsertResult> GenerationManager::Upsert(std::string_view store, std::vector<loci::v1::Passage> passages,
                                                       const RequestLimits& limits) {
  for (const loci::v1::Passage& passage : passages) LOCI_RETURN_IF_ERROR(ValidatePassage(passage));
  LOCI_ASSIGN_OR_RETURN(std::shared_ptr<StoreEntry> entry, state_->Find(store));
  LOCI_RETURN_IF_ERROR(EnsureGeneration(store));
  std::vector<std::string> texts;
  texts.reserve(passages.size());
  for (const loci::v1::Passage& passage : passages) texts.push_back(PassageText(passage.title(), passage.text()));

  absl::Status last_error;
  for (int attempt = 0; attempt < kMaxEncoderChanges; ++attempt) {
    LOCI_ASSIGN_OR_RETURN(std::shared_ptr<const ServingSet> active, Capture(store, ""));
    const std::string half = active->view->generation().manifest().passage_fingerprint();
    if (active->encoder == nullptr) return state_->options.encoders->ForPassageHalf(half).status();
    LOCI_ASSIGN_OR_RETURN(EncodedTexts encoded,
                          active->encoder->EncodeAndWait(texts, {.role = TextRole::kPassage, .limits = limits}));
    const absl::StatusOr<WriteResult> written =
        state_->Write(*entry, MakeUpserts(passages, encoded.vectors.data(), active->view->dim()), half);
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
                                                              const float* vectors, int dim, std::string_view passage_half) {
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
  LOCI_ASSIGN_OR_RETURN(WriteResult written, state_->Write(*entry, MakeUpserts(passages, vectors, dim), half));
  return UpsertResult{.generation = written.view->generation().id(), .revision = written.view->revision()};
}

absl::StatusOr<DeleteResult> GenerationManager::Delete(std::string_view store, const std::vector<std::string>& ids) {
  LOCI_ASSIGN_OR_RETURN(std::shared_ptr<StoreEntry> entry, state_->Find(store));
  std::vector<PassageWrite> writes;
  writes.reserve(ids.size());
  for (const std::string& id : ids) {
    LOCI_RETURN_IF_ERROR(ValidatePassageId(id));
    writes.push_back({.id = id, .deleted = true});
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
  LOCI_ASSIGN_OR_RETURN(GenerationList list, ListGenerations(store));
  if (!list.generations.empty()) return NoActiveGeneration(store);
  LOCI_ASSIGN_OR_RETURN(std::shared_ptr<TextEncoder> encoder, state_->options.encoders->Get(""));
  const EncoderSpec& spec = encoder->spec();
  LOCI_ASSIGN_OR_RETURN(std::unique_ptr<GenerationBuilder> builder,
                        NewGeneration(store, {.dim = spec.dim,
                                              .query_fingerprint = spec.fingerprint.query,
                                              .passage_fingerprint = spec.fingerprint.passage,
                                              .base_revision = -1}));
  LOCI_ASSIGN_OR_RETURN(storage::Manifest manifest, builder->Finish({}, nullptr));
  builder.reset();
  return Activate(store, manifest.generation(), WritesPolicy::kReplay, /*dry_run=*/false).status();
}

// --- Generations ---

absl::StatusOr<std::unique_ptr<GenerationBuilder>> GenerationManager::NewGeneration(std::string_view store, BuildOptions options) {
  LOCI_ASSIGN_OR_RETURN(std::shared_ptr<StoreEntry> entry, state_->Find(store));
  return HeldBuilder::Create(std::move(entry), std::move(options));
}

absl::StatusOr<GenerationList> GenerationManager::ListGenerations(std::string_view store) {
  LOCI_ASSIGN_OR_RETURN(std::shared_ptr<StoreEntry> entry, state_->Find(store));
  LOCI_ASSIGN_OR_RETURN(std::shared_ptr<Store> opened, entry->GetStore());
  LOCI_ASSIGN_OR_RETURN(std::vector<storage::Manifest> manifests, opened->ListGenerations());
  GenerationList list{.revision = opened->revision()};
  if (const std::shared_ptr<const ServingSet> active = entry->holder.Get(); active != nullptr) {
    list.active = active->view->generation().id();
    list.revision = active->view->revision();
  }
  MutexLock lock(&entry->mutex);
  for (storage::Manifest& manifest : manifests) {
    GenerationInfo info;
    const auto status = entry->states.find(manifest.generation());
    if (status != entry->states.end()) {
      info.state = status->second.state;
      info.detail = status->second.detail;
    }
    for (const storage::FileEntry& file : manifest.files()) info.size_bytes += file.size_bytes();
    info.manifest = std::move(manifest);
    list.generations.push_back(std::move(info));
  }
  return list;
}

absl::StatusOr<ActivationResult> GenerationManager::Activate(std::string_view store, const std::string& generation, WritesPolicy policy,
                                                             bool dry_run) {
  LOCI_ASSIGN_OR_RETURN(std::shared_ptr<StoreEntry> entry, state_->Find(store));
  LOCI_ASSIGN_OR_RETURN(std::shared_ptr<Store> opened, entry->GetStore());

  // Loading takes long and touches nothing that serves, so that it holds no lock.
  std::shared_ptr<const ServingSet> active = entry->holder.Get();
  std::shared_ptr<const Generation> loaded;
  if (active != nullptr && active->view->generation().id() == generation) {
    loaded = active->view->shared_generation();
  } else {
    entry->SetState(generation, GenerationState::kVerifying);
    absl::StatusOr<std::shared_ptr<const Generation>> candidate = opened->OpenGeneration(generation, /*verify=*/true);
    if (!candidate.ok()) {
      if (absl::IsNotFound(candidate.status())) {
        MutexLock lock(&entry->mutex);
        entry->states.erase(generation);
      } else {
        entry->SetState(generation, GenerationState::kFailed, std::string(StdView(candidate.status().message())));
      }
      return candidate.status();
    }
    loaded = *std::move(candidate);
  }
  absl::StatusOr<std::shared_ptr<TextEncoder>> encoder =
      state_->options.encoders->ForPassageHalf(loaded->manifest().passage_fingerprint());
  if (!encoder.ok()) {
    entry->SetState(generation, GenerationState::kFailed, std::string(StdView(encoder.status().message())));
    return encoder.status();
  }
  const bool is_active = active != nullptr && loaded == active->view->shared_generation();
  if (!is_active) {
    entry->SetState(generation, GenerationState::kWarming);
    loaded->Warm();
    entry->SetState(generation, GenerationState::kReady);
  }
  if (dry_run) {
    LOCI_ASSIGN_OR_RETURN(int64_t count, opened->CountWritesSince(loaded->manifest()));
    ActivationResult result;
    result.view = active != nullptr ? active->view : nullptr;
    result.previous_generation = active != nullptr ? active->view->generation().id() : "";
    result.writes_since_count = count;
    return result;
  }

  opened.reset();
  MutexLock writer(&entry->writer);
  LOCI_ASSIGN_OR_RETURN(opened, entry->GetStore());  // An error where it was deleted meanwhile.
  LOCI_ASSIGN_OR_RETURN(ActivationResult result, opened->Activate(std::move(loaded), policy));
  state_->Publish(*entry, result.view, *std::move(encoder));
  LogInfo("generation_manager", absl::StrCat("activated store=", entry->name, " generation=", generation,
                                             " revision=", result.view->revision(), " passages=", result.view->passage_count(),
                                             " previous=", result.previous_generation));
  return result;
}

absl::Status GenerationManager::DeleteGeneration(std::string_view store, const std::string& generation) {
  LOCI_ASSIGN_OR_RETURN(std::shared_ptr<StoreEntry> entry, state_->Find(store));
  MutexLock writer(&entry->writer);
  LOCI_ASSIGN_OR_RETURN(std::shared_ptr<Store> opened, entry->GetStore());
  LOCI_RETURN_IF_ERROR(opened->DeleteGeneration(generation));
  MutexLock lock(&entry->mutex);
  entry->states.erase(generation);
  std::erase_if(entry->pinned, [&](const auto& pin) { return pin.first == generation; });
  return absl::OkStatus();
}

absl::StatusOr<VerifyResult> GenerationManager::Verify(std::string_view store, const std::string& generation) {
  LOCI_ASSIGN_OR_RETURN(std::shared_ptr<StoreEntry> entry, state_->Find(store));
  LOCI_ASSIGN_OR_RETURN(std::shared_ptr<Store> opened, entry->GetStore());
  std::string id = generation;
  if (id.empty()) {
    LOCI_ASSIGN_OR_RETURN(std::shared_ptr<const ServingSet> active, Capture(store, ""));
    id = active->view->generation().id();
  }
  LOCI_ASSIGN_OR_RETURN(std::vector<storage::Manifest> manifests, opened->ListGenerations());
  const auto manifest = std::find_if(manifests.begin(), manifests.end(), [&](const auto& m) { return m.generation() == id; });
  if (manifest == manifests.end()) {
    return ErrorWithReason(absl::NotFoundError(absl::StrCat("store \"", entry->name, "\" has no generation \"", id.substr(0, 80), "\"")),
                           "GENERATION_NOT_FOUND", {{"store", entry->name}, {"generation", id.substr(0, 80)}});
  }
  LOCI_RETURN_IF_ERROR(Generation::Verify(*state_->options.fs, JoinPath(opened->directory(), id)));
  VerifyResult result{.generation = id, .file_count = manifest->files_size()};
  for (const storage::FileEntry& file : manifest->files()) result.size_bytes += file.size_bytes();
  return result;
}

}  // namespace loci
