#include "index/store.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <unordered_map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "base/logging.h"
#include "base/mutex.h"
#include "base/status_macros.h"
#include "base/strings.h"
#include "base/timestamp_id.h"
#include "base/utf8.h"
#include "base/vector_type.h"
#include "index/current_file.h"
#include "index/manifest.h"
#include "index/overlay.h"
#include "index/replay.h"
#include "index/settings_file.h"
#include "index/store_builds.h"

namespace loci {
namespace {

constexpr char kWritesDirectory[] = "writes";
constexpr char kLockFile[] = "LOCK";
constexpr size_t kMaxStoreNameBytes = 64;
constexpr size_t kMaxIdBytes = 512;
constexpr int kMaxHistory = 32;

int64_t SizeOf(FileSystem& fs, const std::string& path) {
  if (!fs.IsDirectory(path)) return fs.FileSize(path).value_or(0);
  int64_t bytes = 0;
  const absl::StatusOr<std::vector<std::string>> names = fs.List(path);
  if (!names.ok()) return 0;  // Removed meanwhile.
  for (const std::string& name : *names) bytes += SizeOf(fs, JoinPath(path, name));
  return bytes;
}

// The last write to each id, in the order of these.
std::vector<PassageWrite> LastWrites(std::vector<PassageWrite> writes) {
  std::unordered_map<std::string_view, size_t> last;
  for (size_t i = 0; i < writes.size(); ++i) last[writes[i].id] = i;
  if (last.size() == writes.size()) return writes;
  std::vector<bool> keep(writes.size());
  for (const auto& [id, i] : last) keep[i] = true;
  std::vector<PassageWrite> kept;
  for (size_t i = 0; i < writes.size(); ++i) {
    if (keep[i]) kept.push_back(std::move(writes[i]));
  }
  return kept;
}

absl::Status CheckWrite(const PassageWrite& write, int dim, ElementType type) {
  if (write.id.empty() || write.id.size() > kMaxIdBytes || write.id.find('\0') != std::string::npos) {
    return absl::InvalidArgumentError(
        absl::StrCat("the id of a passage has ", write.id.size(), " bytes; it must have 1 to ", kMaxIdBytes, ", none of them NUL"));
  }
  if (write.deleted) return absl::OkStatus();
  if (write.passage.id() != write.id) {
    return absl::InvalidArgumentError(absl::StrCat("the write of passage ", write.id, " brings passage ", write.passage.id()));
  }
  if (write.vector.size() != static_cast<size_t>(dim)) {
    return absl::InvalidArgumentError(absl::StrCat("the vector of passage ", write.id, " has dimension ", write.vector.size(),
                                                   ", those of the active generation have ", dim));
  }
  const float limit = LargestStorable(type);
  for (size_t i = 0; i < write.vector.size(); ++i) {
    if (!(std::abs(write.vector[i]) <= limit)) {
      return absl::InvalidArgumentError(
          absl::StrCat("the vector of passage ", write.id, " has ", write.vector[i], " at position ", i, ", the limit is ", limit));
    }
  }
  return absl::OkStatus();
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

struct Store::State {
  State(std::string directory, std::string name, StoreOptions options)
      : directory(std::move(directory)),
        name(std::move(name)),
        options(std::move(options)),
        fs(*this->options.fs),
        current(fs, this->directory) {}

  std::string GenerationDirectory(const std::string& generation) const { return JoinPath(directory, generation); }
  bool IsComplete(const std::string& generation) const {
    return IsTimestampId(generation) && fs.Exists(JoinPath(GenerationDirectory(generation), kManifestFile));
  }
  absl::Status RemoveLeftovers();
  void FillHistory(const storage::Current& before, bool roll_back, storage::Current* next) const;
  absl::Status ReplaceSettings(storage::StoreSettings next);
  absl::Status SyncFound() const;
  absl::StatusOr<std::shared_ptr<const View>> ReplayView(std::shared_ptr<const Generation> generation, int64_t floor, int64_t upto,
                                                         int64_t revision, std::shared_ptr<Overlay>* view_overlay) const;
  void Publish(std::shared_ptr<const View> next, int64_t next_revision, absl::Status error = absl::OkStatus()) {
    std::shared_ptr<const View> old;  // Dies after the lock.
    MutexLock lock(&mutex);
    old = std::exchange(view, std::move(next));
    revision = next_revision;
    active_error = std::move(error);
  }
  std::shared_ptr<const View> GetView() const {
    MutexLock lock(&mutex);
    return view;
  }
  int64_t GetRevision() const {
    MutexLock lock(&mutex);
    return revision;
  }
  // Each is given once, whether what it was given for succeeds or not.
  int64_t TakeRevision() {
    next_revision = std::max(next_revision, GetRevision() + 1);
    return next_revision++;
  }
  absl::Status TrimLog();
  absl::StatusOr<std::shared_ptr<const View>> CompactOverlay(const View& view);
  // True for one caller and once.
  bool TakeGenerationId(const std::string& generation) {
    MutexLock guard(&mutex);
    return given_ids.insert(generation).second;
  }

  // Constant after construction.
  const std::string directory;
  const std::string name;
  const StoreOptions options;
  FileSystem& fs;
  std::unique_ptr<FileSystem::Lock> lock;
  // Own synchronisation.
  const std::shared_ptr<BuildsUnderWay> builds = std::make_shared<BuildsUnderWay>();
  std::unique_ptr<WriteLog> log;
  // The writer's.
  CurrentFile current;
  std::shared_ptr<Overlay> overlay;  // Of the newest view.
  int64_t next_revision = 1;

  mutable Mutex mutex;
  std::set<std::string> given_ids ABSL_GUARDED_BY(mutex);
  storage::StoreSettings settings ABSL_GUARDED_BY(mutex);
  std::shared_ptr<const View> view ABSL_GUARDED_BY(mutex);
  int64_t revision ABSL_GUARDED_BY(mutex) = 0;
  absl::Status active_error ABSL_GUARDED_BY(mutex);
};

// A generation without its manifest was never finished, or is half deleted. The active one is never touched.
absl::Status Store::State::RemoveLeftovers() {
  LOCI_ASSIGN_OR_RETURN(const std::vector<std::string> names, fs.List(directory));
  for (const std::string& entry : names) {
    if (entry == current.value().generation()) continue;
    const std::string path = JoinPath(directory, entry);
    const bool unfinished = IsTimestampId(entry) && fs.IsDirectory(path) && !IsComplete(entry);
    const bool temporary = entry == absl::StrCat(kCurrentFile, ".tmp") || entry == absl::StrCat(kSettingsFile, ".tmp");
    if (!unfinished && !temporary) continue;
    LogInfo("store", absl::StrCat("store ", name, ": removing the unfinished ", entry));
    if (const absl::Status status = fs.DeleteRecursively(path); !status.ok()) {
      LogWarning("store", absl::StrCat("store ", name, ": cannot remove ", path, ": ", status.message()));
    }
  }
  return absl::OkStatus();
}

// A process that was killed may have renamed or deleted without a sync. What is read now, and built on, a power cut must not undo.
absl::Status Store::State::SyncFound() const {
  LOCI_ASSIGN_OR_RETURN(const std::vector<std::string> names, fs.List(directory));
  for (const std::string& entry : names) {
    if (IsComplete(entry)) LOCI_RETURN_IF_ERROR(fs.SyncDirectory(GenerationDirectory(entry)));
  }
  return fs.SyncDirectory(directory);
}

absl::StatusOr<std::shared_ptr<const View>> Store::State::ReplayView(std::shared_ptr<const Generation> generation, int64_t floor,
                                                                     int64_t upto, int64_t revision,
                                                                     std::shared_ptr<Overlay>* view_overlay) const {
  LOCI_ASSIGN_OR_RETURN(ReplayedWrites writes, ReplayWrites(*log, floor, upto, *generation));
  *view_overlay = writes.overlay;
  const int64_t rows = writes.overlay->row_count();
  return std::make_shared<const View>(std::move(generation), std::move(writes.overlay), rows, std::move(writes.hidden_body), RowMask(),
                                      revision);
}

Store::Store(std::unique_ptr<State> state) : state_(std::move(state)) {}
Store::~Store() = default;

absl::StatusOr<std::unique_ptr<Store>> Store::Open(const std::string& directory, const std::string& name, StoreOptions options) {
  LOCI_RETURN_IF_ERROR(ValidateStoreName(name));
  auto state = std::make_unique<State>(directory, name, std::move(options));
  FileSystem& fs = state->fs;
  LOCI_RETURN_IF_ERROR(CreateDirectoriesSynced(fs, directory));
  LOCI_ASSIGN_OR_RETURN(state->lock, fs.LockFile(JoinPath(directory, kLockFile)));
  LOCI_RETURN_IF_ERROR(state->current.Load());
  const storage::Current& current = state->current.value();
  {
    absl::StatusOr<storage::StoreSettings> settings = ReadSettings(fs, directory);
    if (absl::IsDataLoss(settings.status())) {
      // Nothing that is served is in that file: without it no generation is deleted for its age until it is set anew.
      LogError("store", absl::StrCat("store ", name, ": ", settings.status().message(), "; all generations are kept, pins are lost"));
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
  LOCI_ASSIGN_OR_RETURN(state->log, WriteLog::Open(JoinPath(directory, kWritesDirectory), std::move(log_options)));
  const int64_t last_write = state->log->last_revision();
  if (!state->current.exists()) {
    if (last_write > 0) {
      return absl::DataLossError(absl::StrCat("store ", name, " has writes up to revision ", last_write, " but no ", kCurrentFile));
    }
    LOCI_RETURN_IF_ERROR(fs.SyncDirectory(ParentPath(directory)));
  }
  LOCI_RETURN_IF_ERROR(state->RemoveLeftovers());
  LOCI_RETURN_IF_ERROR(state->SyncFound());

  const int64_t revision = std::max(current.revision(), last_write);
  std::shared_ptr<const View> view;
  absl::Status damage;
  if (!current.generation().empty()) {
    Generation::OpenOptions open;
    open.search_pool = state->options.search_pool;
    open.store = name;
    auto generation = Generation::Open(fs, state->GenerationDirectory(current.generation()), open);
    if (!generation.ok()) {
      const std::string what = absl::StrCat("the active generation ", current.generation(), " of store ", name);
      if (absl::IsFailedPrecondition(generation.status()) && !state->IsComplete(current.generation())) {
        damage = absl::DataLossError(absl::StrCat(what, " is not there: ", generation.status().message()));
      } else {
        damage = Annotate(generation.status(), what);
      }
      if (!absl::IsDataLoss(damage)) return damage;
      LogError("store", absl::StrCat("store ", name, " serves nothing until another generation is activated: ", damage.message()));
    } else {
      LOCI_ASSIGN_OR_RETURN(
          view, state->ReplayView(*std::move(generation), current.floor_revision(), revision, revision, &state->overlay));
    }
  }
  state->Publish(std::move(view), revision, std::move(damage));
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

absl::StatusOr<std::vector<storage::Manifest>> Store::ListGenerations() const {
  LOCI_ASSIGN_OR_RETURN(const std::vector<std::string> names, state_->fs.List(state_->directory));
  std::vector<storage::Manifest> manifests;
  for (const std::string& entry : names) {
    if (!state_->IsComplete(entry)) continue;
    absl::StatusOr<storage::Manifest> manifest = ReadManifest(state_->fs, state_->GenerationDirectory(entry), state_->name);
    if (manifest.ok()) {
      manifests.push_back(*std::move(manifest));
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
  std::string generation;
  do {
    generation = MakeTimestampId(state_->options.clock->UnixMicros());
  } while (state_->fs.Exists(state_->GenerationDirectory(generation)) || !state_->TakeGenerationId(generation));
  LOCI_ASSIGN_OR_RETURN(auto builder, GenerationBuilder::Create(state_->fs, state_->GenerationDirectory(generation), state_->name,
                                                                generation, std::move(options)));
  return MakeStoreGenerationBuilder(std::move(builder), state_->fs, state_->directory, std::move(registration));
}

absl::StatusOr<std::shared_ptr<const Generation>> Store::OpenGeneration(const std::string& generation, bool verify,
                                                                        const VerifyControl& control) const {
  if (!state_->IsComplete(generation)) return GenerationNotFound(state_->name, generation);
  Generation::OpenOptions options;
  options.verify_checksums = verify;
  options.control = control;
  options.run_probes = verify;
  options.search_pool = state_->options.search_pool;
  options.store = state_->name;
  return Generation::Open(state_->fs, state_->GenerationDirectory(generation), options);
}

absl::StatusOr<storage::Manifest> Store::GetManifest(const std::string& generation) const {
  if (!state_->IsComplete(generation)) return GenerationNotFound(state_->name, generation);
  return ReadManifest(state_->fs, state_->GenerationDirectory(generation), state_->name);
}

absl::StatusOr<int64_t> Store::CountWritesSince(const storage::Manifest& manifest) const {
  return state_->log->CountRequests(manifest.base_revision(), revision());
}

absl::StatusOr<int64_t> Store::CheckWritesSince(const storage::Manifest& manifest, WritesPolicy policy) const {
  LOCI_ASSIGN_OR_RETURN(const int64_t count, CountWritesSince(manifest));
  if (count == 0 || policy != WritesPolicy::kRefuse) return count;
  return ErrorWithReason(
      absl::FailedPreconditionError(absl::StrCat(count, " write requests were made to store ", state_->name, " since the base of generation ",
                                                 manifest.generation(), " (revision ", manifest.base_revision(),
                                                 "): say whether to replay or to discard them")),
      "WRITES_SINCE", {{"count", absl::StrCat(count)}, {"generation", manifest.generation()}});
}

absl::StatusOr<ActivationResult> Store::Activate(std::shared_ptr<const Generation> generation, WritesPolicy policy, bool roll_back) {
  const std::string id = generation->id();
  if (!state_->IsComplete(id)) return GenerationNotFound(state_->name, id);
  // What failed before must be out of the way: this activation's revision would cover it.
  LOCI_RETURN_IF_ERROR(state_->current.Settle());
  LOCI_RETURN_IF_ERROR(state_->log->Recover());

  ActivationResult result;
  result.generation = id;
  const storage::Current before = state_->current.value();
  result.previous_generation = before.generation();
  const bool again = id == before.generation();
  const int64_t base = generation->manifest().base_revision();
  const int64_t at = revision();
  if (again && view() == nullptr) {
    // It could not be opened before.
    LOCI_ASSIGN_OR_RETURN(result.view, state_->ReplayView(generation, before.floor_revision(), at, at, &state_->overlay));
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
    LOCI_ASSIGN_OR_RETURN(result.writes_since_count, CheckWritesSince(generation->manifest(), policy));
  }

  storage::Current next;
  next.set_generation(id);
  // A base above what this store has reached can only come from outside; later writes must still lie above it.
  state_->next_revision = std::max(state_->next_revision, base + 1);
  next.set_revision(state_->TakeRevision());
  const bool discard = policy == WritesPolicy::kDiscard && result.writes_since_count > 0;
  next.set_floor_revision(discard ? next.revision() : base);
  state_->FillHistory(before, roll_back, &next);
  if (again) generation = view()->shared_generation();
  std::shared_ptr<Overlay> overlay;
  LOCI_ASSIGN_OR_RETURN(result.view, state_->ReplayView(std::move(generation), next.floor_revision(), at, next.revision(), &overlay));
  LOCI_RETURN_IF_ERROR(state_->current.Replace(next));
  state_->overlay = std::move(overlay);
  state_->Publish(result.view, next.revision());
  return result;
}

// Of what served up to `before`; without what was deleted since.
void Store::State::FillHistory(const storage::Current& before, bool roll_back, storage::Current* next) const {
  std::vector<std::string> history(before.history().begin(), before.history().end());
  if (roll_back) {
    history.erase(std::find(history.begin(), history.end(), next->generation()), history.end());
  } else if (before.generation() != next->generation() && GetView() != nullptr) {
    history.push_back(before.generation());
  }
  const auto gone = [&](const std::string& id) { return id == next->generation() || !IsComplete(id); };
  history.erase(std::remove_if(history.begin(), history.end(), gone), history.end());
  for (size_t i = history.size() > kMaxHistory ? history.size() - kMaxHistory : 0; i < history.size(); ++i) next->add_history(history[i]);
}

std::string Store::PreviousGeneration() const {
  const auto& history = state_->current.value().history();
  const auto found = std::find_if(history.rbegin(), history.rend(), [&](const std::string& id) { return state_->IsComplete(id); });
  return found == history.rend() ? "" : *found;
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

// A view of the same revision and contents over an overlay without what was replaced or deleted; published. Readers keep the old
// overlay through their views.
absl::StatusOr<std::shared_ptr<const View>> Store::State::CompactOverlay(const View& before) {
  const auto is_in_body = [&](std::string_view id) -> absl::StatusOr<bool> {
    LOCI_ASSIGN_OR_RETURN(const std::optional<int64_t> row, before.generation().passages().FindRow(id));
    return row.has_value();
  };
  LOCI_ASSIGN_OR_RETURN(std::shared_ptr<Overlay> compacted, overlay->Compacted(before.hidden_overlay_, is_in_body));
  auto after = std::make_shared<const View>(before.shared_generation(), compacted, compacted->row_count(), before.hidden_body_, RowMask(),
                                            before.revision());
  overlay = std::move(compacted);
  Publish(after, before.revision());
  return after;
}

absl::StatusOr<WriteResult> Store::Write(std::vector<PassageWrite> writes) {
  std::shared_ptr<const View> before = view();
  if (before == nullptr) {
    LOCI_RETURN_IF_ERROR(active_error());
    return ErrorWithReason(absl::FailedPreconditionError(absl::StrCat("store ", state_->name, " has no active generation to write to")),
                           "NO_ACTIVE_GENERATION", {{"store", state_->name}});
  }
  for (const PassageWrite& write : writes) LOCI_RETURN_IF_ERROR(CheckWrite(write, before->dim(), before->generation().vectors().element_type()));
  WriteResult result;
  if (writes.empty()) {
    result.view = before;
    return result;
  }
  writes = LastWrites(std::move(writes));
  LOCI_RETURN_IF_ERROR(state_->current.Settle());

  const int64_t hidden = before->hidden_overlay_.hidden_count();
  // It looks at each row and each deletion that stays: what it frees must be worth that.
  if (hidden > std::max(state_->options.max_hidden_overlay_rows, before->overlay_count() + state_->overlay->deleted_id_count())) {
    LOCI_ASSIGN_OR_RETURN(before, state_->CompactOverlay(*before));
  }

  // All that can fail comes before the log, so that what is logged becomes visible.
  std::vector<bool> was_there(writes.size());
  std::vector<int64_t> hide_body, hide_overlay;
  for (size_t i = 0; i < writes.size(); ++i) {
    LOCI_ASSIGN_OR_RETURN(const std::optional<ViewRow> row, before->Find(writes[i].id));
    if (!row) continue;
    was_there[i] = true;
    (row->in_overlay ? hide_overlay : hide_body).push_back(row->row);
    result.deleted_count += writes[i].deleted;
  }
  const int64_t revision = state_->TakeRevision();
  std::vector<storage::WriteRecord> records(writes.size());
  for (size_t i = 0; i < writes.size(); ++i) {
    records[i].set_revision(revision);
    records[i].set_id(writes[i].id);
    records[i].set_deleted(writes[i].deleted);
    if (writes[i].deleted) continue;
    *records[i].mutable_passage() = std::move(writes[i].passage);
    storage::WriteVector* const vector = records[i].add_vectors();
    vector->set_passage_fingerprint(before->generation().manifest().passage_fingerprint());
    vector->set_float32(writes[i].vector.data(), sizeof(float) * writes[i].vector.size());
  }
  LOCI_RETURN_IF_ERROR(state_->log->Append(revision, records));

  for (size_t i = 0; i < writes.size(); ++i) {
    if (!writes[i].deleted) {
      state_->overlay->Append(revision, records[i].passage(), writes[i].vector.data());
    } else if (was_there[i]) {
      state_->overlay->Delete(revision, writes[i].id);
    }
  }
  result.view = std::make_shared<const View>(before->shared_generation(), state_->overlay, state_->overlay->row_count(),
                                             before->hidden_body_.WithHidden(hide_body),
                                             before->hidden_overlay_.WithHidden(hide_overlay), revision);
  state_->Publish(result.view, revision);
  return result;
}

absl::Status Store::DeleteGeneration(const std::string& generation) {
  if (!state_->IsComplete(generation)) return GenerationNotFound(state_->name, generation);
  if (generation == state_->current.value().generation()) {
    return ErrorWithReason(absl::FailedPreconditionError(absl::StrCat("generation ", generation, " is active")), "GENERATION_ACTIVE",
                           {{"generation", generation}});
  }
  const storage::StoreSettings settings = this->settings();
  if (std::find(settings.pinned().begin(), settings.pinned().end(), generation) != settings.pinned().end()) {
    return ErrorWithReason(absl::FailedPreconditionError(absl::StrCat("generation ", generation, " of store ", state_->name, " is pinned")),
                           "GENERATION_PINNED", {{"store", state_->name}, {"generation", generation}});
  }
  LOCI_RETURN_IF_ERROR(state_->current.Settle());  // A crash might find it active still.
  const std::string path = state_->GenerationDirectory(generation);
  // The manifest goes first: what a crash leaves is then an unfinished build to the next start.
  LOCI_RETURN_IF_ERROR(state_->fs.DeleteFile(JoinPath(path, kManifestFile)));
  LOCI_RETURN_IF_ERROR(state_->fs.SyncDirectory(path));
  LOCI_RETURN_IF_ERROR(state_->fs.DeleteRecursively(path));
  LOCI_RETURN_IF_ERROR(state_->fs.SyncDirectory(state_->directory));
  if (const absl::Status status = state_->TrimLog(); !status.ok()) {
    LogWarning("store", absl::StrCat("store ", state_->name, ": cannot trim the write log: ", status.message()));
  }
  return absl::OkStatus();
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
