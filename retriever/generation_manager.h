// The stores of a server and what each serves: opens them, takes writes, builds, activates, drains.
//
//   LOADING -> VERIFYING -> WARMING -> READY -> SERVING -> DRAINING -> RETIRED, and any -> FAILED
//
// A failed load leaves what is served untouched. Requests in flight finish on the serving set they hold; a generation that was
// replaced is freed on this manager's thread after its last holder let go.
#ifndef LOCI_RETRIEVER_GENERATION_MANAGER_H_
#define LOCI_RETRIEVER_GENERATION_MANAGER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/cancellation.h"
#include "base/clock.h"
#include "base/disk_info.h"
#include "base/file.h"
#include "base/gauge_sample.h"
#include "base/metrics.h"
#include "base/thread_pool.h"
#include "index/store.h"
#include "proto/loci/storage/fidelity.pb.h"
#include "retriever/activation_plan.h"
#include "retriever/encoder_registry.h"
#include "retriever/generation_state.h"
#include "retriever/serving_set.h"

namespace loci {

struct StoreInfo {
  std::string name;
  std::string generation;  // Empty: none is active.
  int64_t revision = 0;
  int64_t passage_count = 0;
  int64_t overlay_count = 0;
  int64_t generation_count = 0;
  std::string encoder_fingerprint;  // "QUERY:PASSAGE": of what encodes its texts; where nothing does, of the active generation.
  int64_t size_bytes = 0;
  int32_t keep_generations = 0;  // 0: all.
  std::string error;  // Why it serves nothing, where something of it is damaged.
  bool int8 = false;  // See UpdateStore.
  std::optional<storage::EncoderFidelity> int8_fidelity;  // What SetInt8Fidelity was given last.
};

struct GenerationInfo {
  storage::Manifest manifest;
  GenerationState state = GenerationState::kReady;
  // Why it failed. Of the active one, which serves on: what a verification found damaged; else why the CPU searches it that was meant for a device.
  std::string detail;
  bool unreadable = false;  // kFailed, and of the manifest nothing but the generation's id and its store is known.
  int64_t size_bytes = 0;
  bool pinned = false;  // Retention keeps it.
};

struct GenerationList {
  std::vector<GenerationInfo> generations;  // Oldest first.
  std::string active;
  int64_t revision = 0;
};

struct UpsertResult {
  std::string generation;
  int64_t revision = 0;
  std::vector<TokenUsage> usage;  // One a passage.
  int64_t tokenize_us = 0, queue_us = 0, encode_us = 0;
};

struct DeleteResult {
  std::string generation;
  int64_t revision = 0;
  int64_t deleted_count = 0;
};

struct VerifyResult {
  std::string generation;
  int64_t file_count = 0;
  int64_t size_bytes = 0;
  int64_t revision = 0;  // Of the store.
};

struct FoldResult {
  std::string generation;           // The new one; the active one as it was, where there was nothing to fold.
  int64_t revision = 0;             // Of the store at the switch.
  std::string previous_generation;  // That it replaced; empty where there was nothing to fold.
  int64_t base_revision = 0;        // The last write that the generation contains.
  int64_t passage_count = 0;        // Of the generation.
  int64_t folded_count = 0;         // Passages that came from the overlay.
  int64_t dropped_count = 0;        // Rows of the old body that were replaced or deleted.
};

// What of a store is laid over its generation.
struct OverlayInfo {
  std::string store;
  int64_t change_count = 0;   // Passages of the overlay, or rows of the body that are hidden, whichever are more.
  int64_t body_count = 0;     // Passages of the generation.
  int64_t memory_bytes = 0;
};

// What becomes of what serves while a generation is loaded: see loci.v1.ActivationStrategy.
enum class ActivationStrategy { kBlueGreen, kInPlace };

// What an activation, a roll-back or a verification looks at and tells. The functions are called one at a time, on the
// calling thread or one that it waits for; each may be absent.
struct OperationControl {
  RequestLimits limits;  // Looked at while files are read and before anything is published: what serves is then as it was.
  // Phases: "loading", "verifying" (bytes), "warming", "encoding" (writes; where some must be), "placing" (rows; where a device
  // is to search them), "publishing", in place "draining" and "restoring"
  // too; of a verification "verifying" alone. `total` 0: not known.
  std::function<void(std::string_view phase, int64_t done, int64_t total)> progress;
  std::function<void(const std::string& generation)> chosen;  // Once it is known which generation it is about.
  // Of an activation, once the generation is loaded and before anything is published, in a dry run too (phase "gates"): what this refuses
  // stays READY and is not published. `serving` is null where nothing serves.
  std::function<absl::Status(const std::shared_ptr<const Generation>& candidate, TextEncoder& encoder, const ServingSet* serving)> approve;
  bool verified = false;  // Of an activation: every byte was found whole just now.
};

// Takes the data directory (which is there) for one server. FAILED_PRECONDITION where another has it, or where its FORMAT, which is
// written where it is absent, is that of a newer server.
absl::StatusOr<std::shared_ptr<FileSystem::Lock>> LockDataDirectory(FileSystem& fs, const std::string& data_directory);

struct StoreEntry;

// `store` is a valid name everywhere ("default" for the empty one is the server's business). Thread-safe. Everything but TryCapture
// blocks (files, encoder): call from a pool thread, never from a gRPC thread.
class GenerationManager {
 public:
  struct Options {
    std::string data_directory;  // stores/<store>/ lie in it; its LOCK file is taken.
    FileSystem* fs = &PosixFileSystem();
    Clock* clock = &RealClock();
    MetricsSink* metrics = &NullMetrics();
    EncoderRegistry* encoders = nullptr;  // Borrowed.
    ThreadPool* search_pool = nullptr;    // Borrowed.
    ExactPlacer* exact_placer = nullptr;  // Borrowed. Null: the CPU searches everything.
    int32_t keep_generations = 0;  // Of stores where nothing is set: see UpdateStore.
    // What all generations, each with its caches full, and overlays may have in memory besides mapped files; 0: what the machine, or the
    // control group, has. It bounds what is activated or opened for a request: what served is served again by Open, which logs where that is more.
    int64_t memory_budget_bytes = 0;
    std::function<int64_t(const std::string& path)> available_disk_bytes = AvailableDiskBytes;  // See base/disk_info.h.
    int64_t memory_wait_us = 10'000'000;  // That an activation waits for what drains, where it does not fit.
    // That of LockDataDirectory, where the caller has taken it already; else Open takes it.
    std::shared_ptr<FileSystem::Lock> directory_lock;
  };

  // Opens every store and loads what its CURRENT needs. A store that can't be opened is reported, logged and left alone (requests
  // to it get its error); it does not keep the others from serving. Where that was for want of room, on disk or in memory, requests to it
  // have it tried again, at most every few seconds. FAILED_PRECONDITION where another server holds the directory.
  static absl::StatusOr<std::unique_ptr<GenerationManager>> Open(Options options);
  ~GenerationManager();

  // What a request holds. `generation` empty: the active one (FAILED_PRECONDITION, reason NO_ACTIVE_GENERATION, where none is; SwitchingError);
  // naming another opens its bare body, which blocks while every byte of it is verified, and keeps it open for the next such request.
  // RESOURCE_EXHAUSTED, reason MEMORY as Activate, where it does not fit even with what other requests have named closed.
  // NOT_FOUND names store or generation.
  absl::StatusOr<std::shared_ptr<const ServingSet>> Capture(std::string_view store, std::string_view generation);
  // The same without blocking, so also on a gRPC thread: null where the generation would have to be opened.
  absl::StatusOr<std::shared_ptr<const ServingSet>> TryCapture(std::string_view store, std::string_view generation);

  // `set`; or where there was no encoder for it when it was published, the same with the one that there is now, which later requests find at once
  // then. Errors as EncoderRegistry::ForPassageHalf.
  absl::StatusOr<std::shared_ptr<const ServingSet>> WithEncoder(std::shared_ptr<const ServingSet> set);

  // From now on the store's texts are encoded by `encoder`, which lies in the registry, whenever a generation of its passage half serves them: now,
  // where the active one is (requests that come later have it, those in flight keep what they hold), or once one is. Until another encoder of that
  // half is set; over restarts (retriever/query_halves.h). Where that one is damaged or gone, DATA_LOSS, reason ENCODER_DAMAGED; where none was set,
  // it is EncoderRegistry::ForVectors of what the generation was built with. Returns what serves then. Errors as TryCapture. Writes a file.
  absl::StatusOr<std::shared_ptr<const ServingSet>> SetEncoder(std::string_view store, std::shared_ptr<TextEncoder> encoder);
  // "QUERY:PASSAGE" of the encoders that generations of the stores were built with, and of those that were set; where what was set can't be read, the
  // passage halves of the store's generations. DATA_LOSS where a generation can't be read. Reads files.
  absl::StatusOr<std::set<std::string>> UsedEncoders();

  // `encoder`, which lies in the registry, as the store's texts are encoded by it: see UpdateStore. `encoder` where the store is not there. Errors as
  // EncoderRegistry::ComputedAs, but for INT8_UNAVAILABLE: then it is `encoder` in what it computes in.
  absl::StatusOr<std::shared_ptr<TextEncoder>> ForStore(std::string_view store, std::shared_ptr<TextEncoder> encoder);

  // ALREADY_EXISTS. `keep_generations` and `int8` as UpdateStore; not set: Options', and false.
  absl::StatusOr<StoreInfo> CreateStore(std::string_view store, std::optional<int32_t> keep_generations = std::nullopt,
                                        std::optional<bool> int8 = std::nullopt);
  // After each activation, and now, so many complete generations are kept besides the active one, newest first, and those that are
  // pinned; the others are deleted once no request holds them. 0 keeps all.
  // `int8`: whether the store's texts, passages and queries, are encoded in int8: those that are encoded from now on. FAILED_PRECONDITION, reason
  // INT8_UNAVAILABLE, where they can't be; nothing is changed then.
  absl::StatusOr<StoreInfo> UpdateStore(std::string_view store, std::optional<int32_t> keep_generations, std::optional<bool> int8 = std::nullopt);
  absl::StatusOr<StoreInfo> GetStore(std::string_view store);
  std::vector<StoreInfo> ListStores();
  // Which of those that have the name one after another a store is.
  absl::StatusOr<std::weak_ptr<const StoreEntry>> Identify(std::string_view store);
  // Keeps in the store's folder what was measured of it: durable on return. NOT_FOUND where it was deleted since it was identified, also where another
  // has its name by now; nothing is written then. After another error there is what was there before, or this.
  absl::Status SetInt8Fidelity(std::string_view store, const std::weak_ptr<const StoreEntry>& identity, const storage::EncoderFidelity& fidelity);
  absl::Status DeleteStore(std::string_view store);  // Requests in flight finish on what they hold.

  // Encodes and writes, in one revision. A store without any generation first gets an empty one of the default encoder.
  absl::StatusOr<UpsertResult> Upsert(std::string_view store, std::vector<loci::v1::Passage> passages, const RequestLimits& limits);
  // The same with vectors that were made by `passage_half`: [passages, dim]. (Where an activation is about to change the store's encoder the texts
  // are encoded by the next one too: `limits` are for that.) `precisions`: one a passage, or none where they are not known.
  absl::StatusOr<UpsertResult> UpsertVectors(std::string_view store, std::vector<loci::v1::Passage> passages, const float* vectors,
                                             int dim, std::string_view passage_half, const RequestLimits& limits = {},
                                             const std::vector<VectorPrecision>& precisions = {});
  absl::StatusOr<DeleteResult> Delete(std::string_view store, const std::vector<std::string>& ids);

  // A builder for a new generation of the store; see Ingester. The store must exist.
  absl::StatusOr<std::unique_ptr<GenerationBuilder>> NewGeneration(std::string_view store, BuildOptions options);

  absl::StatusOr<GenerationList> ListGenerations(std::string_view store);
  // Loads, verifies, warms, with REPLAY encodes the writes that have no vector of its passage half, then publishes. With `dry_run` stops before publishing and answers what would have happened. RESOURCE_EXHAUSTED,
  // reason MEMORY with `needed_bytes` and `available_bytes`, where it does not fit into memory beside what serves, and nothing that drains
  // makes room in time.
  // kInPlace: see activation_in_place.cc. RESOURCE_EXHAUSTED, reason HELD, where what serves is held for longer than Options::memory_wait_us.
  absl::StatusOr<ActivationResult> Activate(std::string_view store, const std::string& generation, WritesPolicy policy, bool dry_run,
                                            const OperationControl& control = {}, ActivationStrategy strategy = ActivationStrategy::kBlueGreen);
  // Tells plans what an activation of what serves now took, from its request to its reply, and did nothing but load and lay writes over it.
  void ObserveActivation(std::string_view store, int64_t duration_us);
  // Activates the newest generation that served before the active one and is still there; again: one further back.
  // FAILED_PRECONDITION, reason NO_PREVIOUS_GENERATION, where there is none; NOT_ACTIVE where another than `expected_active` (if not empty)
  // is active, with nothing between that look and the roll-back.
  absl::StatusOr<ActivationResult> Rollback(std::string_view store, WritesPolicy policy, bool dry_run, const OperationControl& control = {},
                                            std::string_view expected_active = {},
                                            ActivationStrategy strategy = ActivationStrategy::kBlueGreen);
  // Builds a generation of what the store serves, its overlay folded in, and switches to it: see Store::BeginFold and loci.v1.FoldStore.
  // Phases "copy", those of GenerationBuilder::Finish, "loading", "verifying", "warming", "replay", "publishing"; from "loading" on, which is
  // told before any lock is taken, no activation may run beside it that would not wait for it. Where it fails nothing of it stays.
  // Writes wait for the switch alone.
  absl::StatusOr<FoldResult> Fold(std::string_view store, const OperationControl& control = {});
  // For a re-embedding (see Reembed in retriever/reembedder.h): what its generation, built by NewGeneration, is built from, and the switch to it.
  // ABORTED, GENERATION_CHANGED, from Store::SwitchToReembedded. Phases as Activate, and "replay". Writes wait for the end of the switch alone.
  absl::StatusOr<FoldSource> BeginReembedding(std::string_view store);
  absl::StatusOr<ActivationResult> SwitchToReembedded(std::string_view store, const FoldSource& source, const std::string& generation,
                                                      const OperationControl& control);
  // Loads nothing, changes nothing: from manifests, the write log, the machine's memory and disk, and what loads took here before.
  absl::StatusOr<ActivationPlan> PlanActivation(std::string_view store, const std::string& generation, WritesPolicy policy = WritesPolicy::kRefuse,
                                                ActivationStrategy strategy = ActivationStrategy::kBlueGreen);
  // Also of one that is damaged. Its files are deleted when nobody who writes or activates has to wait for that any more.
  absl::Status DeleteGeneration(std::string_view store, const std::string& generation);
  // Keeps retention from deleting it, or lets it.
  absl::StatusOr<GenerationInfo> PinGeneration(std::string_view store, const std::string& generation, bool pinned);
  // Reads every byte. Where that is DATA_LOSS (see Generation::Verify) the generation is FAILED from then on, unless it serves: then it
  // serves on. `generation` empty: the active one.
  absl::StatusOr<VerifyResult> Verify(std::string_view store, const std::string& generation, const OperationControl& control = {});
  // NOT_FOUND where store or generation (empty: the active one) are not there, FAILED_PRECONDITION where none is active. Reads no file
  // but the manifest.
  absl::Status CheckGeneration(std::string_view store, const std::string& generation);

  // OK where each active generation that is meant for the placer's device is there; FAILED_PRECONDITION with store, generation and reason of the
  // first that is not, RESOURCE_EXHAUSTED where it is room that it lacks.
  absl::Status CheckPlacements() const;
  // Ends uploads to the placer's device, whoever waits for them, and lets none begin. What they are for goes on with the CPU's search. Before the end,
  // so that it need not wait for them.
  void StopPlacing();

  EncoderRegistry& encoders();
  FileSystem& fs();
  std::string StoreDirectory(std::string_view store) const;  // Whether the store is there or not.

  // Of every store that serves. Waits for nothing that reads files.
  std::vector<OverlayInfo> Overlays() const;

  // What metrics say of stores, their generations and whose memory it is. Reads no file, waits for nothing that does.
  std::vector<GaugeSample> Metrics() const;

 private:
  struct State;
  struct LoadedGeneration {
    std::shared_ptr<const Generation> generation;
    std::shared_ptr<TextEncoder> encoder;
  };
  // Opens, verifies and warms a generation (or takes the active one) and finds its encoder. Changes nothing that serves.
  // `policy` and `floor`: as Store::CheckWritesSince, for the memory that is waited for. Then, before it serves: State::Place.
  absl::StatusOr<LoadedGeneration> Load(StoreEntry& entry, const std::string& generation, WritesPolicy policy, int64_t floor,
                                        const OperationControl& control);
  // For whoever holds `entry.pinning`.
  absl::StatusOr<ActivationResult> ActivateLocked(StoreEntry& entry, const std::string& generation, WritesPolicy policy, bool dry_run,
                                                  bool roll_back, const OperationControl& control);
  // The last of it, for whoever holds `entry.writer` too.
  absl::StatusOr<ActivationResult> PublishLocked(StoreEntry& entry, LoadedGeneration loaded, WritesPolicy policy, bool roll_back,
                                                 const OperationControl& control);
  // The same in place.
  absl::StatusOr<ActivationResult> ActivateInPlace(StoreEntry& entry, const std::string& generation, WritesPolicy policy, bool dry_run,
                                                   bool roll_back, const OperationControl& control);
  // The steps of Fold, and its end, which takes the entry's locks.
  absl::StatusOr<FoldResult> FoldEntry(const std::shared_ptr<StoreEntry>& entry, const OperationControl& control);
  absl::Status SwitchToFold(StoreEntry& entry, const FoldSource& source, const OperationControl& control, FoldResult* result);
  explicit GenerationManager(std::unique_ptr<State> state);
  // Gives a store that has no generation at all an empty one, so that the first upsert finds something to lie over.
  absl::Status EnsureGeneration(std::string_view store);
  std::unique_ptr<State> state_;
};

}  // namespace loci

#endif  // LOCI_RETRIEVER_GENERATION_MANAGER_H_
