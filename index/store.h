// A named passage corpus on disk: its generations, its writes and which generation is active. Knows no encoder: vectors come in.
//
//   stores/<store>/CURRENT                active generation, floor_revision, revision, what served before
//   stores/<store>/SETTINGS               what operators have set: retention, pins
//   stores/<store>/writes/                WriteLog
//   stores/<store>/damaged-writes-<id>/   what an activation has given up of it; left to the operator
//   stores/<store>/<generation>/          Generation
//   stores/<store>/.deleted-<generation>/ what was deleted and has files yet
//   stores/<store>/encoded/               EncodingJournal, of ingests and re-embeddings; a store knows nothing of it
#ifndef LOCI_INDEX_STORE_H_
#define LOCI_INDEX_STORE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/thread_pool.h"
#include "base/vector_precision.h"
#include "index/generation.h"
#include "index/replay.h"
#include "index/view.h"
#include "index/write_log.h"
#include "proto/loci/storage/storage.pb.h"

namespace loci {

// OK for 1 to 64 characters of [a-z0-9_-] that start with a letter or digit, else INVALID_ARGUMENT with value (cut) and rule.
absl::Status ValidateStoreName(std::string_view name);

// NOT_FOUND, reason GENERATION_NOT_FOUND, with `store` and `generation`, each cut to 80 bytes.
absl::Status GenerationNotFound(std::string_view store, std::string_view generation);

enum class WritesPolicy { kRefuse, kReplay, kDiscard };

struct StoreOptions {
  FileSystem* fs = &PosixFileSystem();
  Clock* clock = &RealClock();
  ThreadPool* search_pool = nullptr;  // Borrowed by the generations that are opened.
  // Where more passages of the overlay than these, and than its live ones, were replaced or deleted, a write first copies the live
  // ones into a new overlay.
  int64_t max_hidden_overlay_rows = 4096;
  std::function<int64_t(const std::string& path)> available_disk_bytes;  // See BuildOptions.
  std::function<int64_t()> available_memory_bytes;                       // As well.
  // Called with each generation that was opened and verified, on the thread that did; may be null.
  std::function<void(const storage::Manifest&, const OpenTimes&)> opened;
  // RocksDB's, of the write log and of what builds write; null: the operating system's. For tests that fail it or cut its power.
  std::shared_ptr<rocksdb::FileSystem> rocksdb_file_system;
  size_t write_log_table_bytes = 0;  // See WriteLogOptions. For tests.
};

// A vector of a passage half that is not the active generation's.
struct OtherVector {
  std::string passage_half;
  std::vector<float> vector;  // [dim] of that half.
  VectorPrecision precision = VectorPrecision::kUnknown;
};

// One upsert (with its vector) or deletion.
struct PassageWrite {
  std::string id;
  bool deleted = false;
  loci::v1::Passage passage;  // Unless deleted; passage.id() == id.
  std::vector<float> vector;  // [dim], of the active generation's passage half; unless deleted.
  VectorPrecision precision = VectorPrecision::kUnknown;  // That the vector was computed in.
  std::vector<OtherVector> other_vectors;  // That are logged beside it, for a replay onto a generation of another half.
};

// One whose manifest can't be used.
struct DamagedGeneration {
  std::string generation;
  absl::Status damage;
};

struct WriteResult {
  std::shared_ptr<const View> view;  // Contains the writes.
  int64_t deleted_count = 0;         // Deletions of passages that were there.
};

struct ActivationResult {
  std::string generation;  // That was activated.
  std::shared_ptr<const View> view;
  std::string previous_generation;
  int64_t writes_since_count = 0;  // Write requests replayed or dropped.
  int64_t encoded_count = 0;  // Whoever activates fills it in: writes that had no vector of the generation's passage half before.
};

// What a fold or a re-embedding builds its generation from.
struct FoldSource {
  std::shared_ptr<const View> view;
  int64_t floor_revision = 0;  // Of CURRENT: what was discarded up to then.
};

// Every crash leaves the old state or the new one, whole. What Write and Activate acknowledge is synced.
// The const functions (PreviousGeneration left out) and NewGeneration are thread-safe, beside every other call; the others are called by one thread at a time (the
// store's writer). A GenerationBuilder, used by one thread at a time, works beside all of them.
class Store {
 public:
  // Opens or makes the store's folder; removes what unfinished builds left; replays the writes over the active generation.
  // Where CURRENT or the write log is damaged, or CURRENT is missing beside writes, or where the active generation is damaged, the store opens
  // without a view, so that a generation can be activated, and active_error says why; where it is the log, only by kDiscard, which sets the log
  // aside and counts no writes. The same, WRITES_NEED_ENCODING, where writes lack the vectors of the active generation's half.
  static absl::StatusOr<std::unique_ptr<Store>> Open(const std::string& directory, const std::string& name, StoreOptions options);
  ~Store();

  const std::string& name() const;
  const std::string& directory() const;

  // The newest view; null where no generation is active, or the active one could not be opened.
  std::shared_ptr<const View> view() const;
  // DATA_LOSS where CURRENT or the active generation was found damaged when the store was opened, until one is activated.
  absl::Status active_error() const;
  std::string active_generation() const;  // That CURRENT names, open or not; empty: none. The writer's, though const.
  int64_t revision() const;  // Of the last write or activation; 0 for a new store.

  // Manifests of the complete generations, oldest first. Those that can't be read, or name another generation than their folder does
  // or another store, are put into `damaged` instead, or, where that is null, logged.
  absl::StatusOr<std::vector<storage::Manifest>> ListGenerations(std::vector<DamagedGeneration>* damaged = nullptr) const;

  // A new generation's id is never one that was used before: "20261121-094142-3f2a". base_revision in `options` is filled in
  // from revision() where it is negative; until the builder dies no write after it is trimmed. The builder's folder belongs to this
  // store; Finish makes it a generation of it.
  absl::StatusOr<std::unique_ptr<GenerationBuilder>> NewGeneration(BuildOptions options);

  // Opens (verifying) a generation of this store without activating it. GenerationNotFound where it is not there.
  absl::StatusOr<std::shared_ptr<const Generation>> OpenGeneration(const std::string& generation, bool verify,
                                                                   const VerifyControl& control = {}) const;

  // As ReadManifest; GenerationNotFound where the generation is not there.
  absl::StatusOr<storage::Manifest> GetManifest(const std::string& generation) const;

  // What the activation would replay or drop, write requests in (generation's base, revision()], or the error that Activate would refuse
  // them with. Writes up to `floor` (of a roll-back: RollbackFloor) don't count.
  absl::StatusOr<int64_t> CheckWritesSince(const storage::Manifest& manifest, WritesPolicy policy, int64_t floor = 0) const;
  // What an activation that replays would lay over the generation, of writes above its base and `floor`. Reads the log.
  absl::StatusOr<PlannedReplay> PlanReplayOver(const storage::Manifest& manifest, int64_t floor = 0) const;
  // The same for a generation that is open, and every error that laying the writes over it would be refused with; but for
  // WRITES_NEED_ENCODING where `unencoded_count` is given: how many writes those would be.
  absl::StatusOr<int64_t> CheckReplay(const Generation& generation, WritesPolicy policy, int64_t floor = 0,
                                      int64_t* unencoded_count = nullptr) const;

  // Before a replay onto a generation of another passage half than what served, the writes must get a vector of it. As FindUnencoded in
  // index/replay.h, of the writes after `after`.
  //
  //   LOCI_ASSIGN_OR_RETURN(const std::vector<WritePlace> places, store.FindUnencoded(generation, base, store.revision(), /*all=*/false));
  //   LOCI_ASSIGN_OR_RETURN(const std::vector<loci::v1::Passage> passages, store.ReadUpserts(places));   // a piece of them, encode it
  //   LOCI_RETURN_IF_ERROR(store.AddVectors(generation, places, vectors));                                // the writer, for a moment
  absl::StatusOr<std::vector<WritePlace>> FindUnencoded(const Generation& generation, int64_t after, int64_t upto, bool all) const;
  absl::StatusOr<int64_t> CountRequests(int64_t after, int64_t upto) const;
  // The passages that were written there; `places` in the log's order. DATA_LOSS where one is not there.
  absl::StatusOr<std::vector<loci::v1::Passage>> ReadUpserts(std::span<const WritePlace> places) const;
  // `vectors` [places, dim] of the generation's passage half, kept with the writes from now on. Not while writes are made.
  absl::Status AddVectors(const Generation& generation, std::span<const WritePlace> places, const float* vectors,
                          VectorPrecision precision = VectorPrecision::kUnknown);

  // Makes `generation` (opened by OpenGeneration) the active one, in a revision of its own. FAILED_PRECONDITION, reason
  // WRITES_SINCE with `count`, where writes were made since its base and the policy is kRefuse; also, reason
  // WRITES_NEED_ENCODING, where a write to replay has no vector of the generation's passage half.
  // Activating the active generation again changes nothing unless writes are discarded; one that could not be opened (active_error) is
  // served again as it was.
  // With `roll_back`, for the PreviousGeneration, what served since it did leaves the history: the next roll-back goes further back. The
  // history has a generation once, where it served last.
  absl::StatusOr<ActivationResult> Activate(std::shared_ptr<const Generation> generation, WritesPolicy policy, bool roll_back = false);

  // For an activation in place: takes the view away, so that view() is null and what it holds can be freed, and gives it to the caller. Then comes
  // PutBack, or another Activate, to which the generation of the view is what served before; of that generation itself it makes the same view
  // again. What would refuse that (CURRENT or the log can't be written) refuses this, and the view stays. There must be one.
  struct Released {
    std::shared_ptr<const View> view;
    std::shared_ptr<Overlay> overlay;
  };
  absl::StatusOr<Released> ReleaseView();
  void PutBack(Released released);
  // Says from now on why there is no view: see active_error.
  void SetActiveError(absl::Status error);

  // A fold: the view that BeginFold gives is built as a generation of its own (BuildOptions: base_revision is the view's revision, folded_from
  // its generation), which takes the place of the view's generation, under the writes made since.
  //
  //   LOCI_ASSIGN_OR_RETURN(const FoldSource source, store.BeginFold());                        // the writer
  //   ... build, and open it as `generation` ...
  //   LOCI_ASSIGN_OR_RETURN(std::shared_ptr<PreparedFold> fold, store.PrepareFold(source, generation));   // long; beside all else
  //   LOCI_ASSIGN_OR_RETURN(ActivationResult result, store.SwitchToFold(*fold));                // the writer, for a moment
  //
  // BeginFold: active_error, or FAILED_PRECONDITION, reason NO_ACTIVE_GENERATION.
  absl::StatusOr<FoldSource> BeginFold() const;
  struct PreparedFold;
  // Lays the writes since over the generation, until few are left that came meanwhile. Thread-safe.
  absl::StatusOr<std::shared_ptr<PreparedFold>> PrepareFold(FoldSource source, std::shared_ptr<const Generation> generation) const;
  // The same for a re-embedding: a generation of the same passages and another passage half. Lays the writes of revisions up to `upto`, which have
  // vectors of it (see FindUnencoded); ExtendFold those up to a later one. Thread-safe, of one `fold` not.
  absl::StatusOr<std::shared_ptr<PreparedFold>> PrepareReembedded(FoldSource source, std::shared_ptr<const Generation> generation,
                                                                  int64_t upto) const;
  absl::Status ExtendFold(PreparedFold& fold, int64_t upto) const;
  // Lays the last writes, and makes it the active generation. The switch takes no revision: what the store contains stays what it is. In the
  // history it stands for the generation that it replaces, which is among folded_generations() from now on. ABORTED, reason GENERATION_CHANGED, where
  // that is not what serves any more, or writes were discarded since. `fold` is used up by it, also where it fails.
  absl::StatusOr<ActivationResult> SwitchToFold(PreparedFold& fold);
  // The same for PrepareReembedded's, but that it is an activation with REPLAY, in a revision of its own: what it replaces stays, for a roll-back.
  absl::StatusOr<ActivationResult> SwitchToReembedded(PreparedFold& fold);
  // Whether the generation is of a fold that has not come to its switch, nor was it activated. Thread-safe.
  bool IsUnusedFold(const std::string& generation) const;
  // What folds have replaced, oldest first, and is still there; but for what was activated again. Thread-safe.
  std::vector<std::string> folded_generations() const;

  // The newest generation that served before the active one and is still there. Empty: none is. The writer's, though const.
  std::string PreviousGeneration() const;
  // Up to where the writes were folded in or discarded when it last served; 0: not known. The writer's, though const.
  int64_t RollbackFloor(const std::string& generation) const;

  storage::StoreSettings settings() const;
  absl::Status SetKeepGenerations(int32_t count);
  // Whether the store's texts are encoded in int8; else as the server's configuration says. See IsInt8.
  absl::Status SetInt8(bool int8);
  // Of a complete generation. GenerationNotFound where it is not there.
  absl::Status SetPinned(const std::string& generation, bool pinned);

  // All in one revision, synced, then visible. FAILED_PRECONDITION, reason NO_ACTIVE_GENERATION, where none is active;
  // INVALID_ARGUMENT for a vector of another dimension. The last of several writes to one id counts.
  absl::StatusOr<WriteResult> Write(std::vector<PassageWrite> writes);

  // GenerationNotFound where it is not there; FAILED_PRECONDITION for the active one, a pinned one (GENERATION_PINNED), and while a damaged
  // CURRENT does not say which one is active (ACTIVE_GENERATION_UNKNOWN). Views that hold it keep what they need (open
  // files and mappings).
  absl::Status DeleteGeneration(const std::string& generation);
  // The quick part of it, after which the generation is gone: returns the folder that its files lie in, which anyone may delete at any time, or
  // the next Open does.
  absl::StatusOr<std::string> SetGenerationAside(const std::string& generation);

  int64_t size_bytes() const;  // On disk.

 private:
  struct State;
  absl::StatusOr<ActivationResult> SwitchTo(PreparedFold& fold, bool is_fold);
  explicit Store(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

inline bool IsInt8(const Store& store) { return !store.settings().encoder_precision().empty(); }

}  // namespace loci

#endif  // LOCI_INDEX_STORE_H_
