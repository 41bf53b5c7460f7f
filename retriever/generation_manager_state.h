// What a generation manager keeps, for the files that make it up.
#ifndef LOCI_RETRIEVER_GENERATION_MANAGER_STATE_H_
#define LOCI_RETRIEVER_GENERATION_MANAGER_STATE_H_

#include <atomic>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/mutex.h"
#include "retriever/drainer.h"
#include "retriever/generation_manager.h"
#include "retriever/store_entry.h"

namespace loci {

// FAILED_PRECONDITION, reason NO_ACTIVE_GENERATION.
absl::Status NoActiveGeneration(std::string_view store);

// Thread-safe, but for what `options` point to.
struct GenerationManager::State {
  Options options;
  mutable Mutex mutex;
  std::map<std::string, std::shared_ptr<StoreEntry>, std::less<>> stores ABSL_GUARDED_BY(mutex);

  // Set by the end of the manager: what is queued then is left to the next start.
  std::atomic<bool> closing{false};
  // Ends before what its callbacks look at. They only ask the janitor.
  Drainer drainer;
  // Deletes files and waits for locks, so that neither who changes a store nor the drainer does. Ends before the drainer dies, but is not
  // asked any more when its thread has ended.
  static constexpr int64_t kMaxJanitorTasks = 4096;
  ThreadPool janitor{"loci-janitor", 1, kMaxJanitorTasks};

  std::string StoresDirectory() const { return JoinPath(options.data_directory, "stores"); }
  absl::StatusOr<std::shared_ptr<StoreEntry>> Find(std::string_view store) const;  // StoreNotFound.
  absl::StatusOr<std::shared_ptr<Store>> OpenStore(const std::string& name) const;

  // The encoder that serves a view, or null (logged) where there is none.
  std::shared_ptr<TextEncoder> EncoderFor(const std::string& store, const View& view) const;

  // Makes `view` what the store serves. The generation that it replaces, if another, drains.
  void Publish(StoreEntry& entry, std::shared_ptr<const View> view, std::shared_ptr<TextEncoder> encoder);
  void Retire(const std::string& store, std::shared_ptr<const Generation> generation);

  // Lays `writes` over what the store serves, if that still is of `passage_half` (empty: any). ABORTED where it is not.
  absl::StatusOr<WriteResult> Write(StoreEntry& entry, std::vector<PassageWrite> writes, std::string_view passage_half);

  void CountFold(const absl::StatusOr<FoldResult>& result);

  // That is set of the store, or the server's default.
  int32_t KeepGenerations(const Store& store) const;
  // Deletes the generations that retention has no room for, or sees to their deletion once no request holds them. Logs what it does
  // and what fails. For whoever holds `entry.pinning` and `entry.writer`.
  void ApplyRetention(StoreEntry& entry, Store& store);
  // The same by the store's name, taking the locks: once what kept a generation from being deleted has ended. The janitor's.
  void RetryRetention(const std::string& store);
  // Deletes what was set aside, on the janitor's thread.
  void DeleteLater(std::string path);

  // What an activation could take now: -1: not known.
  int64_t AvailableBytes() const;
  // See Activate. `max_wait_us` bounds Options::memory_wait_us further.
  absl::Status WaitForMemory(const storage::Manifest& manifest, const RequestLimits& limits, int64_t max_wait_us = INT64_MAX) const;
  // See Capture. Closes what earlier requests have opened, oldest first and of this store first, until the generation fits.
  absl::Status MakeRoom(StoreEntry& entry, const storage::Manifest& manifest);

  // Bytes a second of the last load or verification here; a cautious guess (a SATA disk's) before the first.
  std::atomic<int64_t> verify_bytes_per_second{400'000'000};
  void MeasureVerification(int64_t size_bytes, int64_t duration_us);
};

}  // namespace loci

#endif  // LOCI_RETRIEVER_GENERATION_MANAGER_STATE_H_
