#include "index/store.h"

#include <algorithm>
#include <optional>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "base/logging.h"
#include "base/mutex.h"
#include "base/status_macros.h"
#include "base/strings.h"
#include "base/timestamp_id.h"
#include "base/utf8.h"
#include "index/manifest.h"
#include "index/settings_file.h"
#include "index/store_state.h"

namespace loci {
namespace {

constexpr char kWritesDirectory[] = "writes";
constexpr char kLockFile[] = "LOCK";
constexpr size_t kMaxStoreNameBytes = 64;
// What a store counts on by where its CURRENT or its writes are lost: more will not have been made that nothing else tells of, so that no
// revision gets a second meaning.
constexpr int64_t kLostRevisions = int64_t{1} << 40;

int64_t SizeOf(FileSystem& fs, const std::string& path) {
  if (!fs.IsDirectory(path)) return fs.FileSize(path).value_or(0);
  int64_t bytes = 0;
  const absl::StatusOr<std::vector<std::string>> names = fs.List(path);
  if (!names.ok()) return 0;  // Removed meanwhile.
  for (const std::string& name : *names) bytes += SizeOf(fs, JoinPath(path, name));
  return bytes;
}

bool NeedsEncoding(const absl::Status& status) {
  const std::optional<ErrorReason> reason = GetErrorReason(status);
  return reason.has_value() && reason->reason == "WRITES_NEED_ENCODING";
}

}  // namespace

absl::Status ValidateStoreName(std::string_view name) {
  const auto allowed = [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' || c == '-'; };
  if (!name.empty() && name.size() <= kMaxStoreNameBytes && std::all_of(name.begin(), name.end(), allowed) && name[0] != '_' &&
      name[0] != '-') {
    return absl::OkStatus();
  }
  const std::string_view shown = name.substr(0, Utf8Prefix(name, kMaxStoreNameBytes));
  return absl::InvalidArgumentError(absl::StrCat("store name \"", AbslView(shown), shown.size() < name.size() ? "..." : "", "\" has ",
                                                 name.size(), " bytes; it must have 1 to ", kMaxStoreNameBytes,
                                                 " of [a-z0-9_-] and start with a letter or digit"));
}

absl::Status GenerationNotFound(std::string_view store, std::string_view generation) {
  constexpr size_t kShownBytes = 80;
  const std::string shown_store(store.substr(0, Utf8Prefix(store, kShownBytes)));
  const std::string shown(generation.substr(0, Utf8Prefix(generation, kShownBytes)));
  return ErrorWithReason(absl::NotFoundError(absl::StrCat("store ", shown_store, " has no generation \"", shown,
                                                          shown.size() < generation.size() ? "..." : "", "\"")),
                         "GENERATION_NOT_FOUND", {{"store", shown_store}, {"generation", shown}});
}

// A generation without its manifest was never finished, or is half deleted; what was set aside is deleted. The active one is never touched.
absl::Status Store::State::RemoveLeftovers(bool active_known) {
  LOCI_ASSIGN_OR_RETURN(const std::vector<std::string> names, fs.List(directory));
  for (const std::string& entry : names) {
    if (entry == current.value().generation()) {
      RemoveFoldMarker(entry);  // It came to its switch.
      continue;
    }
    const std::string path = JoinPath(directory, entry);
    const bool unfinished = active_known && IsTimestampId(entry) && fs.IsDirectory(path) && (!IsComplete(entry) || fs.Exists(JoinPath(path, kFoldMarkerFile)));
    const bool temporary = absl::EndsWith(entry, ".tmp") && !fs.IsDirectory(path);  // Of WriteFileAtomically, whoever called it.
    if (!unfinished && !temporary && !absl::StartsWith(entry, kDeletedPrefix)) continue;
    LogInfo("store", absl::StrCat("store ", name, ": removing the unfinished ", entry));
    // A fold's manifest goes before its marker, so that what a crash leaves is unfinished still.
    if (unfinished && IsComplete(entry) && !fs.DeleteFile(JoinPath(path, kManifestFile)).ok()) continue;
    if (unfinished && !fs.SyncDirectory(path).ok()) continue;
    if (const absl::Status status = fs.DeleteRecursively(path); !status.ok()) {
      LogWarning("store", absl::StrCat("store ", name, ": cannot remove ", path, ": ", status.message()));
    }
  }
  return absl::OkStatus();
}

// A process that was killed may have renamed or deleted without a sync. What is read now, and built on, a power cut must not undo.
absl::Status Store::State::SyncFound() const {
  // The names in the folders of those that CURRENT names were synced before it named them.
  std::set<std::string> served(current.value().history().begin(), current.value().history().end());
  served.insert(current.value().generation());
  LOCI_ASSIGN_OR_RETURN(const std::vector<std::string> names, fs.List(directory));
  for (const std::string& entry : names) {
    if (served.count(entry) == 0 && IsComplete(entry)) LOCI_RETURN_IF_ERROR(fs.SyncDirectory(GenerationDirectory(entry)));
  }
  return fs.SyncDirectory(directory);
}

absl::StatusOr<int64_t> Store::State::HighestBase() const {
  LOCI_ASSIGN_OR_RETURN(const std::vector<std::string> names, fs.List(directory));
  int64_t highest = 0;
  for (const std::string& entry : names) {
    if (!IsComplete(entry)) continue;
    const absl::StatusOr<storage::Manifest> manifest = ReadManifest(fs, GenerationDirectory(entry), name);
    if (manifest.ok()) highest = std::max(highest, manifest->base_revision());
  }
  return highest;
}

absl::StatusOr<std::shared_ptr<const Generation>> Store::State::OpenTimed(const std::string& generation, Generation::OpenOptions open) const {
  OpenTimes times;
  open.times = &times;
  absl::StatusOr<std::shared_ptr<const Generation>> opened = Generation::Open(fs, GenerationDirectory(generation), open);
  if (opened.ok() && open.verify_checksums && options.opened) options.opened((*opened)->manifest(), times);
  return opened;
}

Store::Store(std::unique_ptr<State> state) : state_(std::move(state)) {}
Store::~Store() = default;

absl::StatusOr<std::unique_ptr<Store>> Store::Open(const std::string& directory, const std::string& name, StoreOptions options) {
  LOCI_RETURN_IF_ERROR(ValidateStoreName(name));
  auto state = std::make_unique<State>(directory, name, std::move(options));
  FileSystem& fs = state->fs;
  const bool is_new = !fs.IsDirectory(directory);
  const std::string parent = ParentPath(directory), above = ParentPath(parent);
  LOCI_RETURN_IF_ERROR(CreateDirectoriesSynced(fs, above));
  LOCI_RETURN_IF_ERROR(fs.CreateDirectories(directory));
  LOCI_ASSIGN_OR_RETURN(state->lock, fs.LockFile(JoinPath(directory, kLockFile)));
  LOCI_RETURN_IF_ERROR(state->current.Load());
  const storage::Current& current = state->current.value();
  {
    absl::StatusOr<storage::StoreSettings> settings = ReadSettings(fs, directory);
    if (absl::IsDataLoss(settings.status())) {
      // Nothing that is served is in that file: without it no generation is deleted for its age until it is set anew.
      LogError("store", absl::StrCat("store ", name, ": ", settings.status().message(), "; all generations are kept, pins are lost, texts are encoded as the server is configured"));
      settings = storage::StoreSettings();
      settings->set_keep_generations(0);
    }
    LOCI_RETURN_IF_ERROR(settings.status());
    MutexLock lock(&state->mutex);
    state->settings = *std::move(settings);
  }

  WriteLogOptions log_options;
  log_options.create_if_missing = !state->current.exists();
  log_options.file_system = state->options.rocksdb_file_system;
  log_options.table_bytes = state->options.write_log_table_bytes;
  const std::string log_directory = JoinPath(directory, kWritesDirectory);
  absl::StatusOr<std::unique_ptr<WriteLog>> log = WriteLog::Open(log_directory, log_options);
  const auto lose_log = [&](const absl::Status& why) {
    state->log.reset();  // Closes what of it is open.
    auto damaged = std::make_unique<DamagedWriteLog>(
        fs, log_directory, log_options,
        Annotate(why, absl::StrCat("the writes of store ", name, " can't be read; what is activated with writes_since DISCARD serves without them")));
    state->damaged_log = damaged.get();
    state->log = std::move(damaged);
  };
  if (absl::IsDataLoss(log.status())) {
    lose_log(log.status());
  } else {
    LOCI_RETURN_IF_ERROR(log.status());
    state->log = *std::move(log);
  }
  const int64_t last_write = state->log->last_revision();
  absl::Status damage = state->current.damage();
  damage.Update(state->LogDamage());
  if (!state->current.exists()) {
    if (last_write > 0) {
      damage = absl::DataLossError(absl::StrCat("store ", name, " has writes up to revision ", last_write, " but no ", kCurrentFile));
    }
    // Made now, or by a process that was killed before it synced them.
    LOCI_RETURN_IF_ERROR(fs.SyncDirectory(parent));
    LOCI_RETURN_IF_ERROR(fs.SyncDirectory(above));
  }
  if (!is_new) {
    LOCI_RETURN_IF_ERROR(state->SyncFound());  // First: files may not be gone of a folder that a power cut gives its name back.
    LOCI_RETURN_IF_ERROR(state->RemoveLeftovers(/*active_known=*/damage.ok()));
  }

  int64_t revision = std::max(current.revision(), last_write);
  std::shared_ptr<const View> view;
  bool revisions_lost = !damage.ok();
  if (damage.ok() && !current.generation().empty()) {
    Generation::OpenOptions open;
    open.search_pool = state->options.search_pool;
    open.store = name;
    auto generation = state->OpenTimed(current.generation(), open);
    if (!generation.ok()) {
      const std::string what = absl::StrCat("the active generation ", current.generation(), " of store ", name);
      if (absl::IsFailedPrecondition(generation.status()) && !state->IsComplete(current.generation())) {
        damage = absl::DataLossError(absl::StrCat(what, " is not there: ", generation.status().message()));
      } else {
        damage = Annotate(generation.status(), what);
      }
      if (!absl::IsDataLoss(damage)) return damage;
    } else if (auto replayed = state->ReplayView(*std::move(generation), current.floor_revision(), revision, revision, &state->overlay);
               replayed.ok()) {
      view = *std::move(replayed);
    } else if (absl::IsDataLoss(replayed.status())) {
      lose_log(replayed.status());
      damage = state->LogDamage();
      revisions_lost = true;
    } else if (NeedsEncoding(replayed.status())) {
      damage = replayed.status();  // An activation that replays encodes them.
    } else {
      return replayed.status();
    }
  }
  if (!damage.ok()) {
    LogError("store", absl::StrCat("store ", name, " serves nothing until a generation is activated: ", damage.message()));
  }
  if (revisions_lost) {
    LOCI_ASSIGN_OR_RETURN(const int64_t base, state->HighestBase());
    revision = std::max({current.revision(), last_write, base}) + kLostRevisions;
  }
  state->Publish(std::move(view), revision, std::move(damage));
  state->SetFolded();
  return std::unique_ptr<Store>(new Store(std::move(state)));
}

const std::string& Store::name() const { return state_->name; }
const std::string& Store::directory() const { return state_->directory; }
std::shared_ptr<const View> Store::view() const { return state_->GetView(); }
int64_t Store::revision() const { return state_->GetRevision(); }
absl::Status Store::active_error() const {
  MutexLock lock(&state_->mutex);
  return state_->active_error;
}
std::string Store::active_generation() const { return state_->current.value().generation(); }
int64_t Store::size_bytes() const { return SizeOf(state_->fs, state_->directory); }

absl::StatusOr<std::vector<storage::Manifest>> Store::ListGenerations(std::vector<DamagedGeneration>* damaged) const {
  LOCI_ASSIGN_OR_RETURN(const std::vector<std::string> names, state_->fs.List(state_->directory));
  std::vector<storage::Manifest> manifests;
  for (const std::string& entry : names) {
    if (!state_->IsComplete(entry)) continue;
    absl::StatusOr<storage::Manifest> manifest = ReadManifest(state_->fs, state_->GenerationDirectory(entry), state_->name);
    if (manifest.ok()) {
      manifests.push_back(*std::move(manifest));
    } else if (damaged != nullptr) {
      damaged->push_back({entry, manifest.status()});
    } else {
      LogWarning("store", absl::StrCat("store ", name(), ": generation ", entry, " is left out: ", manifest.status().message()));
    }
  }
  std::sort(manifests.begin(), manifests.end(), [](const storage::Manifest& a, const storage::Manifest& b) {
    return std::pair(a.created_unix_us(), a.generation()) < std::pair(b.created_unix_us(), b.generation());
  });
  return manifests;
}

absl::StatusOr<std::unique_ptr<GenerationBuilder>> Store::NewGeneration(BuildOptions options) {
  auto registration = std::make_unique<const BuildRegistration>(
      state_->builds, [&] { return options.base_revision < 0 ? revision() : options.base_revision; });
  options.base_revision = registration->base_revision();
  options.rocksdb_file_system = state_->options.rocksdb_file_system;
  options.available_disk_bytes = state_->options.available_disk_bytes;
  options.available_memory_bytes = state_->options.available_memory_bytes;
  std::string generation;
  do {
    generation = MakeTimestampId(state_->options.clock->UnixMicros());
  } while (state_->fs.Exists(state_->GenerationDirectory(generation)) || !state_->TakeGenerationId(generation));
  LOCI_ASSIGN_OR_RETURN(auto builder, GenerationBuilder::Create(state_->fs, state_->GenerationDirectory(generation), state_->name,
                                                                generation, std::move(options)));
  return MakeStoreGenerationBuilder(std::move(builder), std::move(registration));
}

absl::StatusOr<std::shared_ptr<const Generation>> Store::OpenGeneration(const std::string& generation, bool verify,
                                                                        const VerifyControl& control) const {
  if (!state_->IsComplete(generation)) return GenerationNotFound(state_->name, generation);
  Generation::OpenOptions options;
  options.verify_checksums = verify && !control.verified;
  options.control = control;
  options.run_probes = verify;
  options.search_pool = state_->options.search_pool;
  options.store = state_->name;
  return state_->OpenTimed(generation, options);
}

absl::StatusOr<storage::Manifest> Store::GetManifest(const std::string& generation) const {
  if (!state_->IsComplete(generation)) return GenerationNotFound(state_->name, generation);
  return ReadManifest(state_->fs, state_->GenerationDirectory(generation), state_->name);
}

storage::StoreSettings Store::settings() const {
  MutexLock lock(&state_->mutex);
  return state_->settings;
}

absl::Status Store::State::ReplaceSettings(storage::StoreSettings next) {
  LOCI_RETURN_IF_ERROR(WriteSettings(fs, directory, next));
  MutexLock lock(&mutex);
  settings = std::move(next);
  return absl::OkStatus();
}

absl::Status Store::SetKeepGenerations(int32_t count) {
  storage::StoreSettings next = settings();
  next.set_keep_generations(count);
  return state_->ReplaceSettings(std::move(next));
}

absl::Status Store::SetInt8(bool int8) {
  storage::StoreSettings next = settings();
  next.set_encoder_precision(int8 ? kInt8Setting : "");
  return state_->ReplaceSettings(std::move(next));
}

absl::Status Store::SetPinned(const std::string& generation, bool pinned) {
  if (!state_->IsComplete(generation)) return GenerationNotFound(state_->name, generation);
  storage::StoreSettings next = settings();
  const storage::StoreSettings before = next;
  next.clear_pinned();
  for (const std::string& id : before.pinned()) {
    if (id != generation && state_->IsComplete(id)) next.add_pinned(id);
  }
  if (pinned) next.add_pinned(generation);
  return state_->ReplaceSettings(std::move(next));
}

}  // namespace loci
