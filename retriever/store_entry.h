// A store as the generation manager keeps it: what serves, and the locks that order its changes.
#ifndef LOCI_RETRIEVER_STORE_ENTRY_H_
#define LOCI_RETRIEVER_STORE_ENTRY_H_

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/mutex.h"
#include "index/store.h"
#include "retriever/generation_state.h"
#include "retriever/serving_set.h"

namespace loci {

struct GenerationStatus {
  GenerationState state = GenerationState::kReady;
  std::string detail;
  std::string damage;  // What a verification found; stays through changes of state until one finds nothing.
};

// NOT_FOUND, reason STORE_NOT_FOUND.
absl::Status StoreNotFound(std::string_view store);

// An activation in place that has taken away what served, or is about to.
struct Switching {
  std::string from, to;
  int64_t until_us = 0;  // About, by the manager's clock.
};

// UNAVAILABLE, reason SWITCHING, with `retry_after_ms`.
absl::Status SwitchingError(std::string_view store, const Switching& switching, int64_t now_us);

// Order of locking: first_generation, pinning, writer, then the entry's own. Whoever waits for one of the first three holds no reference
// to the store, since a deletion waits, with them, for all of those. Thread-safe.
struct StoreEntry {
  explicit StoreEntry(std::string store_name) : name(std::move(store_name)) {}

  const std::string name;
  ServingSetHolder holder;

  Mutex first_generation;  // Held while the empty generation for a first upsert is made.
  Mutex pinning;           // Held while a generation is opened (for a request that named it, or to activate it), or deleted.
  Mutex writer;            // Held by whoever changes the store: writes and activations, one after the other.

  // The store; the error it could not be opened with; NOT_FOUND after its deletion.
  absl::StatusOr<std::shared_ptr<Store>> GetStore() const;
  void SetStore(std::shared_ptr<Store> store, absl::Status open_error);
  // It could not be opened for want of something that there may be again: room on disk, memory.
  bool IsShutForNow() const;
  // The same, at most once in kReopenPauseUs, so that who asks in vain has it tried no more often.
  bool IsDueToReopen(int64_t now_us);
  static constexpr int64_t kReopenPauseUs = 3'000'000;
  // Takes the store away, for whoever holds `writer` and `pinning`. ABORTED, reason INGEST_RUNNING, while a build is under way.
  absl::StatusOr<std::weak_ptr<Store>> TakeForDeletion();

  GenerationStatus GetState(const std::string& generation) const;
  void SetState(const std::string& generation, GenerationState state, std::string detail = "");
  void SetDamage(const std::string& generation, std::string damage);
  // Known ones are those that are complete on disk, whatever became of their state.
  void AddKnown(const std::string& generation);
  // One state for each that is known; that of `serving` is kServing, that of a damaged one kFailed.
  std::vector<GenerationState> States(std::string_view serving) const;
  // What was opened and somebody still holds.
  void AddLive(const std::shared_ptr<const Generation>& generation);
  std::vector<std::shared_ptr<const Generation>> Live() const;
  // Its state, and what was opened of it, which is returned.
  std::shared_ptr<const ServingSet> ForgetGeneration(const std::string& generation);

  // Generations that are not active and that requests named stay open, so that the next such request need not load them again. (Whether
  // operators have pinned one, for retention, is the store's to know.) Null where it is not open.
  std::shared_ptr<const ServingSet> FindOpened(std::string_view generation) const;
  // Puts `next`, of the same generation, where `opened` is; nowhere where it is not open any more.
  void ReplaceOpened(const std::shared_ptr<const ServingSet>& opened, std::shared_ptr<const ServingSet> next);
  // Closes it: what was open is returned; its state stays.
  std::shared_ptr<const ServingSet> TakeOpened(const std::string& generation);
  std::shared_ptr<const ServingSet> TakeOldestOpened();  // Null where none is open.
  bool HasBuilds() const;
  // Of the generation that an activation is about to lay under the writes, where it is of another passage half; else null. Who writes may encode
  // with it too: what is not, the activation must.
  std::shared_ptr<TextEncoder> next_encoder() const;
  void SetNextEncoder(std::shared_ptr<TextEncoder> encoder);
  // That GenerationManager::SetEncoder was told last; null: none was since the start.
  std::shared_ptr<TextEncoder> published_encoder() const;
  void SetPublishedEncoder(std::shared_ptr<TextEncoder> encoder);
  // Whether the store's texts are encoded in int8.
  bool int8() const { return int8_.load(std::memory_order_relaxed); }
  void SetInt8(bool int8) { int8_.store(int8, std::memory_order_relaxed); }
  // What is wrong with the store's INT8_FIDELITY, empty for nothing. Whether that is something else than before, and so to be told.
  bool SetFidelityError(std::string error);
  std::optional<Switching> switching() const;
  void SetSwitching(std::optional<Switching> switching);
  // Returns what had to go so that at most `limit` are open.
  std::shared_ptr<const ServingSet> KeepOpened(std::string generation, std::shared_ptr<const ServingSet> serving_set, size_t limit);

 private:
  friend class HeldBuilder;

  bool IsShutForNowLocked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return store_ == nullptr && absl::IsResourceExhausted(open_error_); }

  std::atomic<bool> int8_{false};
  mutable Mutex mutex_;
  std::shared_ptr<TextEncoder> next_encoder_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<TextEncoder> published_encoder_ ABSL_GUARDED_BY(mutex_);
  int builder_count_ ABSL_GUARDED_BY(mutex_) = 0;  // Builds that are under way.
  std::string fidelity_error_ ABSL_GUARDED_BY(mutex_);
  std::optional<Switching> switching_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<Store> store_ ABSL_GUARDED_BY(mutex_);
  absl::Status open_error_ ABSL_GUARDED_BY(mutex_);
  int64_t reopen_after_us_ ABSL_GUARDED_BY(mutex_) = 0;
  std::map<std::string, GenerationStatus> states_ ABSL_GUARDED_BY(mutex_);
  std::set<std::string> known_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::weak_ptr<const Generation>> live_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::pair<std::string, std::shared_ptr<const ServingSet>>> opened_ ABSL_GUARDED_BY(mutex_);  // Newest last.
};

// A builder that keeps the store's folder from being deleted under it. Used by one thread at a time.
class HeldBuilder : public GenerationBuilder {
 public:
  static absl::StatusOr<std::unique_ptr<GenerationBuilder>> Create(std::shared_ptr<StoreEntry> entry, BuildOptions options);
  ~HeldBuilder() override;

  absl::Status Add(std::span<const loci::v1::Passage> passages, const float* vectors) override {
    return builder_->Add(passages, vectors);
  }
  absl::Status Remove(std::span<const std::string> ids) override { return builder_->Remove(ids); }
  void AddPrecisions(PrecisionSet precisions) override { builder_->AddPrecisions(precisions); }
  int64_t added_count() const override { return builder_->added_count(); }
  int64_t duplicate_count() const override { return builder_->duplicate_count(); }
  absl::StatusOr<storage::Manifest> Finish(
      const RequestLimits& limits,
      const std::function<void(std::string_view phase, int64_t done, int64_t total)>& progress) override {
    absl::StatusOr<storage::Manifest> manifest = builder_->Finish(limits, progress);
    if (manifest.ok()) entry_->AddKnown(manifest->generation());
    return manifest;
  }

 private:
  explicit HeldBuilder(std::shared_ptr<StoreEntry> entry) : entry_(std::move(entry)) {}  // The caller has counted it.

  const std::shared_ptr<StoreEntry> entry_;
  std::unique_ptr<GenerationBuilder> builder_;
};

}  // namespace loci

#endif  // LOCI_RETRIEVER_STORE_ENTRY_H_
