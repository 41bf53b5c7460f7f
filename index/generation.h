// One build of a store: passages, vectors and index, described by a manifest (manifest.h). Immutable on disk and in memory.
//
//   <store>/<generation>/MANIFEST         storage.Manifest + its XXH3 as 16 hex digits; written last
//   <store>/<generation>/passages/        PassageFile
//   <store>/<generation>/vectors.bin      VectorFile
//   <store>/<generation>/vectors.int8     QuantizedVectors, where they were asked for
//   <store>/<generation>/index.faiss      where the index is not exact
//   <store>/<generation>/columns.bin      MetadataColumns; not where an older version built it, nor for more than kMaxRowSetRows rows
#ifndef LOCI_INDEX_GENERATION_H_
#define LOCI_INDEX_GENERATION_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/cancellation.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/thread_pool.h"
#include "base/vector_precision.h"
#include "base/vector_type.h"
#include "index/index_tuner.h"
#include "index/manifest.h"
#include "index/metadata_columns.h"
#include "index/passage_file.h"
#include "index/passage_index.h"
#include "index/placed_exact_index.h"
#include "index/quantized_vectors.h"
#include "index/vector_file.h"
#include "proto/loci/storage/storage.pb.h"

namespace rocksdb {
class FileSystem;
}  // namespace rocksdb

namespace loci {

inline constexpr char kFoldMarkerFile[] = "FOLD";  // Empty; in no manifest.

// What a reading of every byte looks at and tells.
struct VerifyControl {
  RequestLimits limits;  // Looked at after each MiB.
  Clock* clock = &RealClock();
  bool verified = false;  // Of an opening: Verify was OK just now. Only what FAISS parses is summed again.
  std::function<void(int64_t done_bytes, int64_t total_bytes)> progress;  // Called before the first byte and after each MiB.
};

// Where the time of an opening went.
struct OpenTimes {
  int64_t verify_us = 0;  // Every byte read and summed.
  int64_t parse_us = 0;   // Files mapped, checked and, index.faiss, read into memory.
  int64_t probe_us = 0;   // The probes searched.
};

// Immutable after construction, but for where it is searched exactly (exact_index().SetDevice).
class Generation {
 public:
  struct OpenOptions {
    bool verify_checksums = true;  // Reads every byte once. DATA_LOSS as from Verify.
    VerifyControl control;
    bool run_probes = true;        // Searches the manifest's probes.
    ThreadPool* search_pool = nullptr;  // Borrowed.
    std::string store;                  // That the manifest must name; empty: any.
    OpenTimes* times = nullptr;         // Filled in where it is not null and the opening succeeds.
  };
  // FAILED_PRECONDITION where the manifest is missing (an unfinished build); DATA_LOSS for what is damaged, or is of another
  // generation than the folder's name says.
  static absl::StatusOr<std::shared_ptr<const Generation>> Open(FileSystem& fs, const std::string& directory,
                                                                const OpenOptions& options);
  // Reads every byte of every file that the manifest lists and compares sizes and checksums. DATA_LOSS, reason FILE_DAMAGED, with `file`
  // and `offset`: where the block begins that holds the damage (see file_sums.h).
  static absl::Status Verify(FileSystem& fs, const std::string& directory, const VerifyControl& control = {});

  const storage::Manifest& manifest() const { return manifest_; }
  const std::string& id() const { return manifest_.generation(); }
  int dim() const { return vectors_->dim(); }
  int64_t row_count() const { return vectors_->rows(); }
  const PassageIndex& index() const { return *index_; }        // As the manifest names it.
  const PlacedExactIndex& exact_index() const { return *exact_; }  // Always there.
  const PassageFile& passages() const { return *passages_; }
  const VectorFile& vectors() const { return *vectors_; }
  const std::shared_ptr<const VectorFile>& shared_vectors() const { return vectors_; }
  const std::shared_ptr<const QuantizedVectors>& shared_codes() const { return codes_; }  // Null: it has none.
  const MetadataColumns* columns() const { return columns_.get(); }  // Null: it has none.
  int64_t memory_bytes() const;       // Besides mapped files; grows as passages are read.
  int64_t most_memory_bytes() const;  // That it can come to: what a budget counts.
  void Warm() const;  // Touches the pages.

 private:
  Generation() = default;
  storage::Manifest manifest_;
  std::shared_ptr<const VectorFile> vectors_;
  std::shared_ptr<const QuantizedVectors> codes_;  // Null: it has none.
  std::unique_ptr<PassageFile> passages_;
  std::unique_ptr<MetadataColumns> columns_;
  std::unique_ptr<PlacedExactIndex> exact_;
  std::unique_ptr<PassageIndex> approximate_;  // Null where the index is exact.
  const PassageIndex* index_ = nullptr;
};

// What a build is told.
struct BuildOptions {
  std::string index = "exact";  // Or "exact:int8", a FAISS factory string, or "auto" (index_specification.h).
  // With "auto": how the index of the generation that is rebuilt was chosen, which may be taken over.
  std::optional<loci::v1::IndexTuning> earlier_tuning;
  TunerOptions tuner;  // How indexes are measured. What else is to be said there is set by the build.
  ElementType element_type = ElementType::kFloat32;
  int dim = 0;
  std::string query_fingerprint;
  std::string passage_fingerprint;
  int64_t base_revision = 0;
  // Gives queries that are not passages, to measure recall with: up to `count` vectors [n, dim] made of the given passages (a part of
  // a passage's text encoded as a query, say). Absent: perturbed midpoints of pairs of stored vectors. Not called for exact.
  std::function<absl::StatusOr<std::vector<float>>(const std::vector<loci::v1::Passage>& sample)> recall_queries;
  std::string recall_query_source;  // Words for the manifest, where recall_queries is given.
  // The generation that is folded; empty: it is no fold. The folder then carries kFoldMarkerFile until the store has switched to it: what has
  // one at a start was never served, and goes.
  std::string folded_from;
  // What will be added, as far as it is known; 0: it is not.
  int64_t expected_passages = 0;
  int64_t expected_passage_bytes = 0;  // Serialised.
  // Of the file system of a path; -1: not known. Null: nobody looks.
  std::function<int64_t(const std::string& path)> available_disk_bytes;
  // That this process may still take; -1: not known. Null: nobody looks.
  std::function<int64_t()> available_memory_bytes;
  // RocksDB's files, of the staging and of the passages; null: the operating system's. For tests.
  std::shared_ptr<rocksdb::FileSystem> rocksdb_file_system;
};

// Collects passages with their vectors in any order (a later one with the same id replaces the earlier), then writes a generation.
// Memory is bounded: what is added goes to a staging RocksDB in the generation's folder. Without Finish the folder is removed.
// Used by one thread at a time.
class GenerationBuilder {
 public:
  // Phases are "write", "tune" (with "auto"), "index", "recall" and "checksum".
  using Progress = std::function<void(std::string_view phase, int64_t done, int64_t total)>;

  // RESOURCE_EXHAUSTED, reason DISK or MEMORY with `needed_bytes` and `available_bytes`, where what is expected does not fit (see build_forecast.h);
  // Finish looks again, before it writes, when all is known, and Add where much was added since it was looked at.
  // Makes `directory` (which may not exist). `store` and `generation` go into the manifest.
  static absl::StatusOr<std::unique_ptr<GenerationBuilder>> Create(FileSystem& fs, const std::string& directory,
                                                                   const std::string& store, const std::string& generation,
                                                                   BuildOptions options);
  virtual ~GenerationBuilder() = default;

  // `vectors` [passages.size(), dim], finite also when rounded to the element type. All are added or, on an error, none.
  virtual absl::Status Add(std::span<const loci::v1::Passage> passages, const float* vectors) = 0;
  // Takes back what was added with these ids; others are passed over.
  virtual absl::Status Remove(std::span<const std::string> ids) = 0;
  // Records what vectors that are added were computed in. (Where none is recorded by Finish, that is kUnknown.)
  virtual void AddPrecisions(PrecisionSet precisions) = 0;
  virtual int64_t added_count() const = 0;      // Passages given to Add.
  virtual int64_t duplicate_count() const = 0;  // Known after Finish: added_count less the passages of the generation.

  // Writes vectors, passages, index and at last the manifest, everything synced. `progress(phase, done, total)` is called from this
  // thread. CANCELLED between steps where `limits` says so.
  virtual absl::StatusOr<storage::Manifest> Finish(const RequestLimits& limits, const Progress& progress) = 0;
};

}  // namespace loci

#endif  // LOCI_INDEX_GENERATION_H_
