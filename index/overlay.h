// The writes that views lay over a generation's body, in memory: rows in append-only chunks, and which row an id had when.
//
//   auto overlay = std::make_shared<Overlay>(dim, ElementType::kFloat16);
//   const int64_t row = overlay->Append(/*revision=*/8, passage, vector);      // the writer
//   overlay->Delete(/*revision=*/9, "p7");
//   overlay->vector(row);                                                      // any thread that was given a view with this row
#ifndef LOCI_INDEX_OVERLAY_H_
#define LOCI_INDEX_OVERLAY_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "absl/status/statusor.h"
#include "base/matrix.h"
#include "base/mutex.h"
#include "base/vector_precision.h"
#include "base/vector_type.h"
#include "index/metadata_record.h"
#include "index/passage_index.h"
#include "index/row_mask.h"
#include "proto/loci/v1/common.pb.h"

namespace loci {

// One writer appends while any number of threads read rows below the count that their view was made with. Rows never move, change
// or go away, so that these reads take no lock; the view's publication is what orders them after the writing. What replaces or
// deletes a row is the views' masks. Find takes a mutex for a moment.
// Append and Delete: used by one thread at a time (the store's writer). All else: thread-safe.
class Overlay {
 public:
  // `element_type` is the body's: a vector is kept as the body's vector file would hold it, so that it has the same score there.
  Overlay(int dim, ElementType element_type);
  ~Overlay();
  Overlay(const Overlay&) = delete;
  Overlay& operator=(const Overlay&) = delete;

  // Adds a passage (its id not empty) that is there from `revision` on, and returns its row. `vector` [dim], computed in `precision`.
  // Revisions of one id never go down from call to call.
  int64_t Append(int64_t revision, const loci::v1::Passage& passage, const float* vector, VectorPrecision precision = VectorPrecision::kUnknown);
  // From `revision` on there is no passage `id`, in the body neither.
  void Delete(int64_t revision, std::string_view id);

  // A new overlay with the newest version of everything and no more: the rows of [0, row_count()) that `hidden` does not hide, in
  // their order, and those deletions for which `is_in_body(id)` is true (the others say what the body says as well). A view of the
  // newest revision is the same over it, with nothing hidden. Called by the writer.
  absl::StatusOr<std::shared_ptr<Overlay>> Compacted(
      const RowMask& hidden, const std::function<absl::StatusOr<bool>(std::string_view id)>& is_in_body) const;

  // What `row_count` rows take beside RowMemoryBytes of each, and what memory_bytes() grows by with a row of an id of its own, or a deletion.
  static int64_t ChunkMemoryBytes(int64_t row_count);
  static int64_t RowMemoryBytes(int dim, std::string_view id, int64_t serialized_bytes, const MetadataRecord& metadata);
  static int64_t DeletionMemoryBytes(std::string_view id);

  int dim() const { return dim_; }
  int64_t row_count() const { return row_count_.load(std::memory_order_acquire); }
  int64_t memory_bytes() const { return memory_bytes_.load(std::memory_order_relaxed); }
  int64_t deleted_id_count() const { return deleted_id_count_.load(std::memory_order_relaxed); }  // Whose newest version is a deletion.

  // `row` below the view's count.
  const float* vector(int64_t row) const;  // [dim], as it is scored.
  VectorPrecision precision(int64_t row) const { return record(row).precision; }
  const std::string& id(int64_t row) const { return record(row).id; }
  const std::string& serialized_passage(int64_t row) const { return record(row).passage; }
  const MetadataRecord& metadata(int64_t row) const { return record(row).metadata; }  // For filters.

  // Where an id went: a row, or deleted (row -1).
  struct Found {
    int64_t row = -1;
    bool deleted() const { return row < 0; }
  };
  // The newest write to `id` at or below `revision`; nullopt where there is none.
  std::optional<Found> Find(std::string_view id, int64_t revision) const;

  // The best top_k of rows [0, rows) that `hidden` does not hide, for each query: ordered by score descending, then id ascending
  // (bytewise), also where the cut falls among equal scores. Every row is scored, by ExactScores. Blocks.
  // CANCELLED or DEADLINE_EXCEEDED by `limits`, looked at between blocks.
  absl::StatusOr<std::vector<std::vector<RowHit>>> Search(MatrixView<const float> queries, int top_k, int64_t rows,
                                                          const RowMask& hidden, const RequestLimits& limits) const;

 private:
  struct Record {
    std::string id;
    std::string passage;  // Serialised loci.v1.Passage.
    MetadataRecord metadata;
    VectorPrecision precision = VectorPrecision::kUnknown;
  };
  struct Chunk {
    std::unique_ptr<float[]> vectors;  // Not touched before it is written: a chunk costs what lies in it.
    std::unique_ptr<Record[]> records;
  };
  struct Version {
    int64_t revision;
    int64_t row;  // -1: deleted.
  };
  struct StringHash {
    using is_transparent = void;
    size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
  };

  // Chunks of 64, 128, ... 2048 rows, then of 4096. All begin at a multiple of 64.
  struct Place {
    int64_t chunk;
    int64_t offset;
    int64_t capacity;  // Of the chunk.
  };
  static Place PlaceOf(int64_t row);
  static constexpr int64_t kChunksPerBlock = 1024;
  static constexpr int64_t kMaxBlocks = 1024;  // 4 billion rows.
  struct Block {
    std::array<std::atomic<Chunk*>, kChunksPerBlock> chunks{};
  };

  const Chunk& chunk(int64_t number) const {
    return *blocks_[number / kChunksPerBlock].load(std::memory_order_acquire)
                ->chunks[number % kChunksPerBlock].load(std::memory_order_acquire);
  }
  const Record& record(int64_t row) const {
    const Place place = PlaceOf(row);
    return chunk(place.chunk).records[place.offset];
  }
  Chunk& ChunkForAppend(const Place& place);
  static int64_t RecordMemoryBytes(int dim, std::string_view id, int64_t serialized_bytes, const MetadataRecord& metadata);
  // Adds a row but for its version; `vector` [dim], rounded already or not.
  int64_t AppendRow(std::string_view id, std::string serialized_passage, MetadataRecord metadata, const float* vector, VectorPrecision precision);
  void AddVersion(std::string_view id, Version version);

  // Constant after construction.
  const int dim_;
  const ElementType element_type_;
  // Own synchronisation.
  std::array<std::atomic<Block*>, kMaxBlocks> blocks_{};
  std::atomic<int64_t> row_count_{0};
  std::atomic<int64_t> memory_bytes_{0};
  std::atomic<int64_t> deleted_id_count_{0};

  mutable Mutex mutex_;
  std::unordered_map<std::string, std::vector<Version>, StringHash, std::equal_to<>> versions_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace loci

#endif  // LOCI_INDEX_OVERLAY_H_
