// The encoders of a server: encoders/<QUERY-PASSAGE>/ of the data directory, each with weights, tokenizer, configuration and LINEAGE.
#ifndef LOCI_RETRIEVER_ENCODER_REGISTRY_H_
#define LOCI_RETRIEVER_ENCODER_REGISTRY_H_

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/metrics.h"
#include "base/mutex.h"
#include "base/thread_pool.h"
#include "encoder/text_encoder.h"

namespace loci {

// Whether it is a path, in a checkpoint's folder, that an encoder may be read from.
bool IsCheckpointFile(std::string_view path);

// Where an encoder comes from, for its LINEAGE.
struct EncoderOrigin {
  std::string parent_fingerprint;  // "QUERY:PASSAGE"; empty: it was imported as it is.
  std::string job;                 // The training job's own name.
  std::map<std::string, double> metrics;
  // With a parent: its passage tower, where the folder's model.safetensors and configuration are the parent's; it is not loaded again.
  std::shared_ptr<const Encoder> passage_tower;
};

struct ImportedEncoder {
  std::shared_ptr<TextEncoder> encoder;
  bool was_there = false;  // In the registry.
};

// Those that Import loaded stay in memory. Of the others, sent by clients or lying in the folder, those that nobody holds leave it when a
// further one is loaded, and are loaded again when somebody asks for them by fingerprint. Those that compute in int8 leave it once nobody holds
// them. Thread-safe.
class EncoderRegistry {
 public:
  struct Options {
    std::string directory;  // <data-dir>/encoders
    FileSystem* fs = &PosixFileSystem();
    Clock* clock = &RealClock();
    MetricsSink* metrics = &NullMetrics();
    EncoderOptions encoder;
    BatcherOptions batcher;
  };

  // Makes the folder if absent, and removes what an interrupted import left.
  static absl::StatusOr<std::unique_ptr<EncoderRegistry>> Open(Options options);

  // Loads the checkpoint in `model_directory`, copies it into the registry where it is not there yet, or is damaged there (files first, LINEAGE
  // last; all of the registry's copy is read) and, unless told otherwise, makes it the default. Errors as LoadEncoder.
  absl::StatusOr<std::shared_ptr<TextEncoder>> Import(const std::string& model_directory, bool make_default = true);

  // A new, empty folder beside the encoders, to write a checkpoint into for Adopt; whoever makes it deletes it, or the next Open does.
  absl::StatusOr<std::string> MakeStagingDirectory();
  // As Import of that folder, not as the default, under this model name (where another has it, with a part of the fingerprint behind it);
  // but that the files are not copied: the folder becomes the encoder's, where it is not there yet, or is damaged there.
  // With a parent, in `origin`, the part is of the query half.
  absl::StatusOr<ImportedEncoder> Adopt(const std::string& staging_directory, const std::string& model_name, const EncoderOrigin& origin = {});
  std::string Directory(const Fingerprint& encoder) const;  // Whether it is there or not.
  // Copies the files of an encoder of the registry into a folder of MakeStagingDirectory: tokenizer and configuration, and its query or passage weights under
  // the name `weights_file` (empty: none). Synced, but for the folder. Returns the SHA-256 of those weights. DATA_LOSS, reason ENCODER_DAMAGED, where its files
  // are not what they were. Blocks.
  absl::StatusOr<std::string> CopyFiles(const Fingerprint& encoder, const std::string& staging_directory, TextRole weights_role,
                                        const std::string& weights_file);

  // Deletes the oldest of the encoders that were published (Adopt with a parent; again counts as new), so that `keep` of them are left, but for those of
  // `used` ("QUERY:PASSAGE", or a passage half alone: all that have it) and those that somebody holds. Returns how many it deleted. Blocks.
  absl::StatusOr<int64_t> DeletePublished(size_t keep, const std::set<std::string>& used);

  // `name` is a fingerprint ("QUERY:PASSAGE"), either half of it (the default's; else of one that was imported as it is; else of the only one that has it), a
  // model name (of one that is loaded, or else of one that lies in the registry), or empty for the default. Loads it where it is not loaded yet. NOT_FOUND
  // names it; INVALID_ARGUMENT, reason ENCODER_AMBIGUOUS, for the name or half of two; DATA_LOSS, reason ENCODER_DAMAGED, where its files are not what they were.
  absl::StatusOr<std::shared_ptr<TextEncoder>> Get(std::string_view name);

  // An encoder whose queries may ask vectors made by `passage_half`: the default; else one that was imported as it is; else any. FAILED_PRECONDITION,
  // reason ENCODER_MISMATCH, where there is none; DATA_LOSS as Get.
  absl::StatusOr<std::shared_ptr<TextEncoder>> ForPassageHalf(std::string_view passage_half);
  // The same for vectors that `made_by` has made: that very encoder where it was published; else the default, if it is of the half, since whoever set it
  // meant it; else that very encoder; else ForPassageHalf.
  absl::StatusOr<std::shared_ptr<TextEncoder>> ForVectors(const Fingerprint& made_by);

  // `encoder`, of this registry, or the same that computes in int8 (on the CPU, in batches of its own), or, where `encoder` does, does not: loaded
  // where it is not yet. As CheckInt8, and the same where the checkpoint gives no vectors in int8; DATA_LOSS as Get. Blocks.
  absl::StatusOr<std::shared_ptr<TextEncoder>> ComputedAs(std::shared_ptr<TextEncoder> encoder, bool int8);
  // FAILED_PRECONDITION, reason INT8_UNAVAILABLE, where encoders run on a device that has none in int8.
  absl::Status CheckInt8() const;
  // What encoders compute in that are not asked for in int8.
  Precision precision() const { return options_.encoder.precision; }
  // The passage tower, and of its weights nothing else, of an encoder that lies in this registry, in this precision, on the CPU and for the caller
  // alone: it is none of Loaded(), and works on the thread that calls it. Errors as ComputedAs. Blocks.
  absl::StatusOr<std::shared_ptr<const Encoder>> LoadPassageTower(const Fingerprint& encoder, Precision precision) ABSL_LOCKS_EXCLUDED(loading_);

  // Those loaded, the default first; those that compute in int8 last.
  std::vector<std::shared_ptr<TextEncoder>> Loaded() const;

 private:
  explicit EncoderRegistry(Options options) : options_(std::move(options)) {}
  // As `encoder`, but that it is destroyed on a thread of this registry's: whoever drops it last may be answering requests, or be a thread of its own.
  std::shared_ptr<TextEncoder> FreedApart(std::unique_ptr<TextEncoder> encoder) const;
  // The same; not by model names of what is not loaded, unless `by_model`.
  absl::StatusOr<std::shared_ptr<TextEncoder>> Load(std::string_view name, bool by_model) ABSL_LOCKS_EXCLUDED(loading_);
  // The folders of encoders in the registry that have this passage half, those first that were imported as they are.
  absl::StatusOr<std::vector<std::string>> FoldersOfHalf(std::string_view passage_half) const;
  // The folders of encoders in the registry, whose LINEAGE says this model name, if one is given.
  absl::StatusOr<std::vector<std::string>> Folders(std::string_view model_name = {}) const;
  absl::StatusOr<std::shared_ptr<TextEncoder>> LoadLocked(const std::string& directory) ABSL_EXCLUSIVE_LOCKS_REQUIRED(loading_);
  // What LoadLocked reads, with options that say precision, pool and device; or of two towers the passages' alone. In int8 INT8_UNAVAILABLE where
  // the checkpoint gives no vectors.
  absl::StatusOr<EncoderTowers> ReadTowers(const std::string& directory, EncoderOptions options, bool passage_alone = false)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(loading_);
  // Takes what nobody holds, but for those that stay and `fingerprint`, out of the memory: by FreeApart, without the lock.
  std::vector<std::shared_ptr<TextEncoder>> TakeUnused(const std::string& fingerprint) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // On a thread of this registry's: their threads end with them, for which who loads another does not wait.
  void FreeApart(std::vector<std::shared_ptr<TextEncoder>> unused) const;
  // Of those loaded; null where none matches.
  absl::StatusOr<std::shared_ptr<TextEncoder>> Find(std::string_view name) const;
  std::shared_ptr<TextEncoder> Insert(EncoderTowers towers, bool make_default, bool stays);

  const Options options_;
  Mutex loading_;  // Held while an encoder is loaded, so that none is twice. Taken before `mutex_`, which is never held for long.
  mutable Mutex mutex_;
  int64_t staging_count_ ABSL_GUARDED_BY(mutex_) = 0;
  std::map<std::string, std::shared_ptr<TextEncoder>> loaded_ ABSL_GUARDED_BY(mutex_);  // By "QUERY:PASSAGE".
  // The same, of those that compute in int8; held by whoever uses them alone.
  std::map<std::string, std::weak_ptr<TextEncoder>> int8_ ABSL_GUARDED_BY(mutex_);
  std::string default_ ABSL_GUARDED_BY(mutex_);
  std::set<std::string> staying_ ABSL_GUARDED_BY(mutex_);  // By "QUERY:PASSAGE": those that Import loaded.
  const std::shared_ptr<ThreadPool> unloader_ = std::make_shared<ThreadPool>("loci-unload", 1, 1 << 20);
};

}  // namespace loci

#endif  // LOCI_RETRIEVER_ENCODER_REGISTRY_H_
