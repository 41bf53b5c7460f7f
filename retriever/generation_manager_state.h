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
#include "retriever/load_rates.h"
#include "retriever/search_placement.h"
#include "retriever/store_entry.h"

namespace loci {

inline void Report(const OperationControl& control, std::string_view phase, int64_t done = 0, int64_t total = 0) {
  if (control.progress) control.progress(phase, done, total);
}

// The operation was told to end; what it looked at is as good as it was.
inline bool IsGivenUp(const absl::Status& status) { return absl::IsCancelled(status) || absl::IsDeadlineExceeded(status); }

// FAILED_PRECONDITION, reason NO_ACTIVE_GENERATION.
absl::Status NoActiveGeneration(std::string_view store);

// Thread-safe, but for what `options` point to.
struct GenerationManager::State {
  Options options;
  mutable Mutex mutex;
  std::map<std::string, std::shared_ptr<StoreEntry>, std::less<>> stores ABSL_GUARDED_BY(mutex);
  mutable LoadRates load_rates;  // Told while stores are opened, by the janitor too: dies after it.

  // Set by the end of the manager: what is queued then is left to the next start.
  std::atomic<bool> closing{false};
  // Ends before what its callbacks look at. They only ask the janitor.
  Drainer drainer;
  SearchPlacement placement;  // Asked by the drainer, which has stopped when this ends, and by whoever loads, the janitor too: dies after it.
  // Deletes files and waits for locks, so that neither who changes a store nor the drainer does. Ends before the drainer dies, but is not
  // asked any more when its thread has ended.
  static constexpr int64_t kMaxJanitorTasks = 4096;
  ThreadPool janitor{"loci-janitor", 1, kMaxJanitorTasks};

  explicit State(Options given)
      : options(std::move(given)),
        placement({.placer = options.exact_placer, .drainer = &drainer, .serving = [this] { return Serving(); }}) {}

  std::string StoresDirectory() const { return JoinPath(options.data_directory, "stores"); }
  absl::StatusOr<std::shared_ptr<StoreEntry>> Find(std::string_view store);  // StoreNotFound. Sees to it that what should be opened again is.
  std::vector<std::shared_ptr<StoreEntry>> Entries() const;
  std::vector<std::weak_ptr<const Generation>> Serving() const;  // The active generation of each store that has one.
  static bool IsActive(const StoreEntry& entry, const Generation& generation);
  // SearchPlacement::Bring of what is about to serve, where it does not already. Phase "placing".
  absl::Status Place(const StoreEntry& entry, const Generation& generation, const OperationControl& control);
  // Opens the store of an entry that has none, and publishes what it serves; or keeps why not. Logs both.
  void OpenEntry(StoreEntry& entry);
  // Publishes what a store that was just opened serves, if anything. Errors as Place.
  absl::Status ServeActive(StoreEntry& entry, const Store& store);
  absl::StatusOr<std::shared_ptr<Store>> OpenStore(const std::string& name) const;

  // The encoder that serves a generation of the store: see SetEncoder. `int8`: as ComputedAs.
  absl::StatusOr<std::shared_ptr<TextEncoder>> EncoderOf(const std::string& store, const storage::Manifest& manifest, bool int8) const;
  // That which serves a view, or null (logged) where there is none.
  std::shared_ptr<TextEncoder> EncoderFor(const StoreEntry& entry, const View& view) const;
  // EncoderRegistry::ComputedAs; where that is INT8_UNAVAILABLE, `encoder`, with a warning.
  absl::StatusOr<std::shared_ptr<TextEncoder>> ComputedAs(std::shared_ptr<TextEncoder> encoder, bool int8) const;
  // What is to serve the view where `encoder` was found for it: that which was published meanwhile, in the precision that the store is set to by now.
  std::shared_ptr<TextEncoder> ToServe(const StoreEntry& entry, const View& view, std::shared_ptr<TextEncoder> encoder) const;
  // See UpdateStore. Takes `entry.writer`.
  absl::Status SetInt8(StoreEntry& entry, bool int8) const;

  // Makes `view` what the store serves; with the encoder that was set of its passage half, if one was while `encoder` was looked for. The generation
  // that it replaces, if another, drains.
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

  // What an activation could take now, where the overlay and the generation that `released` serves (may be null) were gone; -1: not known.
  int64_t AvailableBytes(const ServingSet* released = nullptr) const;
  // What counts against the budget: all generations that are open, each with its caches full, and the overlays of what serves. Without `released`.
  int64_t TakenBytes(const ServingSet* released = nullptr) const;
  absl::Status NoMemory(const std::string& generation, int64_t needed_bytes, int64_t available_bytes) const;
  // Why a store without a serving set has none: SwitchingError, its active_error, or NoActiveGeneration.
  absl::Status WhyNothingServes(const StoreEntry& entry, const Store& store) const;
  // What an activation of the generation, not open yet, would take where it lays `replay` over it.
  ActivationNeed NeedOf(const StoreEntry& entry, const storage::Manifest& manifest, const PlannedReplay& replay) const;
  // See Activate. `max_wait_us` bounds Options::memory_wait_us further.
  absl::Status WaitForMemory(const std::string& generation, const ActivationNeed& need, const RequestLimits& limits,
                             int64_t max_wait_us = INT64_MAX) const;
  // Of an activation in place, the parts: what can refuse it while `serving` serves on, writes and memory; every byte of the generation; that
  // nobody but the caller has what served; and that it is loaded and serves again (else its active_error says why not).
  absl::StatusOr<int64_t> CheckInPlace(const StoreEntry& entry, const Store& store, const storage::Manifest& manifest, const ServingSet& serving,
                                       WritesPolicy policy, int64_t floor) const;  // Returns how many write requests were made since.
  absl::Status VerifyInPlace(StoreEntry& entry, const storage::Manifest& manifest, const OperationControl& control);
  absl::Status WaitUntilFree(const std::shared_ptr<const ServingSet>& serving, const Store::Released& released, const RequestLimits& limits) const;
  absl::Status RestoreServed(StoreEntry& entry, const std::string& generation, std::shared_ptr<TextEncoder> encoder);

  // Before an activation of `generation` with REPLAY takes `entry.pinning`, which others wait for: WriteEncoder::EncodeAhead, where another half
  // serves, there are writes without a vector and the server has an encoder; how many were encoded. The generation is opened for that, and
  // closed again: as WaitForMemory where it does not fit, and the errors of the limits. What else is wrong the activation finds.
  absl::StatusOr<int64_t> EncodeAhead(StoreEntry& entry, const std::string& generation, bool roll_back, const OperationControl& control) const;

  VerifyControl VerifyControlOf(const OperationControl& control) const;  // `control` is borrowed.
  // See Capture. Closes what earlier requests have opened, oldest first and of this store first, until the generation fits.
  absl::Status MakeRoom(StoreEntry& entry, const storage::Manifest& manifest);
};

}  // namespace loci

#endif  // LOCI_RETRIEVER_GENERATION_MANAGER_STATE_H_
