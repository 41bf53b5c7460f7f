// What a store keeps, for the files that make it up.
#ifndef LOCI_INDEX_STORE_STATE_H_
#define LOCI_INDEX_STORE_STATE_H_

#include <algorithm>
#include <cstdint>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/file.h"
#include "base/mutex.h"
#include "base/timestamp_id.h"
#include "index/current_file.h"
#include "index/manifest.h"
#include "index/overlay.h"
#include "index/damaged_write_log.h"
#include "index/store.h"
#include "index/store_builds.h"

namespace loci {

// Of the name of a generation that was deleted, and whose files are still there.
inline constexpr char kDeletedPrefix[] = ".deleted-";

// Synchronised as Store is.
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
  // Generation::Open, and what `options.opened` is told.
  absl::StatusOr<std::shared_ptr<const Generation>> OpenTimed(const std::string& generation, Generation::OpenOptions open) const;
  absl::Status RemoveLeftovers(bool active_known);
  absl::StatusOr<int64_t> HighestBase() const;  // Of the generations.
  void FillHistory(const storage::Current& before, bool roll_back, storage::Current* next) const;
  void FillFolded(const storage::Current& before, storage::Current* next) const;
  void SetFolded();  // After each change of CURRENT.
  void RemoveFoldMarker(const std::string& generation) const;
  absl::Status ReplaceSettings(storage::StoreSettings next);
  absl::Status SyncFound() const;
  // Activates a generation over a damaged log, whose writes are given up.
  absl::StatusOr<ActivationResult> ActivateWithoutWrites(std::shared_ptr<const Generation> generation);
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
  // Why there is no telling what was written; OK once that was given up.
  absl::Status LogDamage() const { return damaged_log == nullptr ? absl::OkStatus() : damaged_log->damage(); }
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
  DamagedWriteLog* damaged_log = nullptr;  // `log`, where it could not be opened.
  // The writer's.
  CurrentFile current;
  std::shared_ptr<Overlay> overlay;  // Of the newest view.
  bool released = false;             // The active generation served until ReleaseView.
  int64_t next_revision = 1;

  mutable Mutex mutex;
  std::set<std::string> given_ids ABSL_GUARDED_BY(mutex);
  storage::StoreSettings settings ABSL_GUARDED_BY(mutex);
  std::shared_ptr<const View> view ABSL_GUARDED_BY(mutex);
  int64_t revision ABSL_GUARDED_BY(mutex) = 0;
  absl::Status active_error ABSL_GUARDED_BY(mutex);
  std::vector<std::string> folded ABSL_GUARDED_BY(mutex);  // As CURRENT has it.
};

}  // namespace loci

#endif  // LOCI_INDEX_STORE_STATE_H_
