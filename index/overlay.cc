#include "index/overlay.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <span>
#include <utility>

#include "base/clock.h"
#include "base/logging.h"
#include "base/status_macros.h"
#include "index/exact_index.h"

namespace loci {
namespace {

constexpr int64_t kFirstChunkRows = 64;
constexpr int64_t kGrowingChunks = 6;  // 64 ... 2048.
constexpr int64_t kChunkRows = 4096;
constexpr int64_t kGrowingRows = kFirstChunkRows * ((1 << kGrowingChunks) - 1);
constexpr int64_t kNodeBytes = 96;  // Of the map of versions, about.

// A tile of scores stays in the second-level cache.
constexpr int64_t kRowsPerTile = 512;
constexpr int64_t kQueriesPerTile = 64;

// As a vector file of `type` would give it back.
void RoundThrough(ElementType type, const float* in, int dim, float* out) {
  constexpr int kPiece = 256;
  uint16_t half[kPiece];
  switch (type) {
    case ElementType::kFloat16:
      for (int i = 0; i < dim; i += kPiece) {
        const size_t count = std::min(kPiece, dim - i);
        Float32ToFloat16(in + i, half, count);
        Float16ToFloat32(half, out + i, count);
      }
      return;
    case ElementType::kBfloat16:
      for (int i = 0; i < dim; i += kPiece) {
        const size_t count = std::min(kPiece, dim - i);
        Float32ToBfloat16(in + i, half, count);
        Bfloat16ToFloat32(half, out + i, count);
      }
      return;
    default:
      std::memcpy(out, in, sizeof(float) * static_cast<size_t>(dim));
      return;
  }
}

// Keeps the best of the rows that it is shown, in a heap whose top is the worst of them.
class Best {
 public:
  Best(const Overlay& overlay, int64_t capacity) : overlay_(overlay), capacity_(static_cast<size_t>(capacity)) {}

  float threshold() const { return threshold_; }

  void Offer(int64_t row, float score) {
    const RowHit hit{row, score};
    const auto better = [this](const RowHit& a, const RowHit& b) { return Better(a, b); };
    if (hits_.size() < capacity_) {
      hits_.push_back(hit);
    } else {
      if (!Better(hit, hits_.front())) return;
      std::pop_heap(hits_.begin(), hits_.end(), better);
      hits_.back() = hit;
    }
    std::push_heap(hits_.begin(), hits_.end(), better);
    if (hits_.size() == capacity_) threshold_ = hits_.front().score;
  }

  std::vector<RowHit> Finish() {
    std::sort(hits_.begin(), hits_.end(), [this](const RowHit& a, const RowHit& b) { return Better(a, b); });
    return std::move(hits_);
  }

 private:
  bool Better(const RowHit& a, const RowHit& b) const {
    if (a.score != b.score) return a.score > b.score;
    return overlay_.id(a.row) < overlay_.id(b.row);
  }

  const Overlay& overlay_;
  const size_t capacity_;
  std::vector<RowHit> hits_;
  float threshold_ = -std::numeric_limits<float>::infinity();
};

}  // namespace

Overlay::Overlay(int dim, ElementType element_type) : dim_(dim), element_type_(element_type) {}

Overlay::~Overlay() {
  for (std::atomic<Block*>& slot : blocks_) {
    Block* const block = slot.load();
    if (block == nullptr) break;
    for (std::atomic<Chunk*>& chunk : block->chunks) delete chunk.load();
    delete block;
  }
}

Overlay::Place Overlay::PlaceOf(int64_t row) {
  if (row >= kGrowingRows) {
    const int64_t beyond = row - kGrowingRows;
    return {kGrowingChunks + beyond / kChunkRows, beyond % kChunkRows, kChunkRows};
  }
  const int64_t number = std::bit_width(static_cast<uint64_t>(row / kFirstChunkRows + 1)) - 1;
  return {number, row - kFirstChunkRows * ((int64_t{1} << number) - 1), kFirstChunkRows << number};
}

int64_t Overlay::ChunkMemoryBytes(int64_t row_count) {
  if (row_count == 0) return 0;
  const Place last = PlaceOf(row_count - 1);
  const int64_t capacity = row_count - 1 - last.offset + last.capacity;
  return static_cast<int64_t>(sizeof(Block)) * (last.chunk / kChunksPerBlock + 1) + static_cast<int64_t>(sizeof(Record)) * capacity;
}

int64_t Overlay::RowMemoryBytes(int dim, std::string_view id, int64_t serialized_bytes, const MetadataRecord& metadata) {
  return RecordMemoryBytes(dim, id, serialized_bytes, metadata) + DeletionMemoryBytes(id);
}

int64_t Overlay::RecordMemoryBytes(int dim, std::string_view id, int64_t serialized_bytes, const MetadataRecord& metadata) {
  return static_cast<int64_t>(sizeof(float)) * dim + static_cast<int64_t>(id.size()) + serialized_bytes + metadata.memory_bytes();
}

int64_t Overlay::DeletionMemoryBytes(std::string_view id) {
  return kNodeBytes + static_cast<int64_t>(id.size()) + static_cast<int64_t>(sizeof(Version));
}

Overlay::Chunk& Overlay::ChunkForAppend(const Place& place) {
  LOCI_CHECK(place.chunk < kMaxBlocks * kChunksPerBlock);
  std::atomic<Block*>& slot = blocks_[place.chunk / kChunksPerBlock];
  if (slot.load(std::memory_order_relaxed) == nullptr) {
    slot.store(new Block, std::memory_order_release);
    memory_bytes_.fetch_add(sizeof(Block), std::memory_order_relaxed);
  }
  std::atomic<Chunk*>& chunk = slot.load(std::memory_order_relaxed)->chunks[place.chunk % kChunksPerBlock];
  if (chunk.load(std::memory_order_relaxed) == nullptr) {
    auto made = std::make_unique<Chunk>();
    made->vectors.reset(new float[static_cast<size_t>(place.capacity) * static_cast<size_t>(dim_)]);
    made->records.reset(new Record[static_cast<size_t>(place.capacity)]);
    memory_bytes_.fetch_add(static_cast<int64_t>(sizeof(Record)) * place.capacity, std::memory_order_relaxed);
    chunk.store(made.release(), std::memory_order_release);
  }
  return *chunk.load(std::memory_order_relaxed);
}

int64_t Overlay::Append(int64_t revision, const loci::v1::Passage& passage, const float* vector, VectorPrecision precision) {
  const int64_t row = AppendRow(passage.id(), passage.SerializeAsString(), MetadataRecord(passage), vector, precision);
  AddVersion(passage.id(), {revision, row});
  return row;
}

int64_t Overlay::AppendRow(std::string_view id, std::string serialized_passage, MetadataRecord metadata, const float* vector,
                           VectorPrecision precision) {
  const int64_t row = row_count_.load(std::memory_order_relaxed);
  const Place place = PlaceOf(row);
  Chunk& chunk = ChunkForAppend(place);
  RoundThrough(element_type_, vector, dim_, chunk.vectors.get() + place.offset * dim_);
  Record& record = chunk.records[place.offset];
  record.id = id;
  record.passage = std::move(serialized_passage);
  record.metadata = std::move(metadata);
  record.precision = precision;
  memory_bytes_.fetch_add(RecordMemoryBytes(dim_, record.id, static_cast<int64_t>(record.passage.size()), record.metadata),
                          std::memory_order_relaxed);
  row_count_.store(row + 1, std::memory_order_release);
  return row;
}

absl::StatusOr<std::shared_ptr<Overlay>> Overlay::Compacted(
    const RowMask& hidden, const std::function<absl::StatusOr<bool>(std::string_view)>& is_in_body) const {
  auto compacted = std::make_shared<Overlay>(dim_, element_type_);
  // Readers' Find waits for the mutex: what takes long is done without it.
  std::vector<std::pair<std::string, int64_t>> deletions;
  const int64_t rows = row_count();
  std::vector<int64_t> revisions(static_cast<size_t>(rows), -1);
  {
    MutexLock lock(&mutex_);
    for (const auto& [id, versions] : versions_) {
      const Version& newest = versions.back();
      if (newest.row >= 0) {
        revisions[static_cast<size_t>(newest.row)] = newest.revision;
      } else {
        deletions.emplace_back(id, newest.revision);
      }
    }
  }
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t revision = revisions[static_cast<size_t>(row)];
    LOCI_CHECK((revision < 0) == hidden.hidden(row));
    if (revision < 0) continue;
    const Record& from = record(row);
    compacted->AddVersion(from.id, {revision, compacted->AppendRow(from.id, from.passage, from.metadata, vector(row), from.precision)});
  }
  for (const auto& [id, revision] : deletions) {
    LOCI_ASSIGN_OR_RETURN(const bool in_body, is_in_body(id));
    if (in_body) compacted->AddVersion(id, {revision, -1});
  }
  return compacted;
}

void Overlay::Delete(int64_t revision, std::string_view id) { AddVersion(id, {revision, -1}); }

void Overlay::AddVersion(std::string_view id, Version version) {
  MutexLock lock(&mutex_);
  auto it = versions_.find(id);
  if (it == versions_.end()) {
    it = versions_.emplace(std::string(id), std::vector<Version>()).first;
    memory_bytes_.fetch_add(kNodeBytes + static_cast<int64_t>(id.size()), std::memory_order_relaxed);
  }
  const bool was_deleted = !it->second.empty() && it->second.back().row < 0;
  deleted_id_count_.fetch_add((version.row < 0) - was_deleted, std::memory_order_relaxed);
  it->second.push_back(version);
  memory_bytes_.fetch_add(sizeof(Version), std::memory_order_relaxed);
}

const float* Overlay::vector(int64_t row) const {
  const Place place = PlaceOf(row);
  return chunk(place.chunk).vectors.get() + place.offset * dim_;
}

std::optional<Overlay::Found> Overlay::Find(std::string_view id, int64_t revision) const {
  MutexLock lock(&mutex_);
  const auto it = versions_.find(id);
  if (it == versions_.end()) return std::nullopt;
  const std::vector<Version>& versions = it->second;
  const auto above = std::upper_bound(versions.begin(), versions.end(), revision,
                                      [](int64_t value, const Version& version) { return value < version.revision; });
  if (above == versions.begin()) return std::nullopt;
  return Found{std::prev(above)->row};
}

absl::StatusOr<std::vector<std::vector<RowHit>>> Overlay::Search(MatrixView<const float> queries, int top_k, int64_t rows,
                                                                 const RowMask& hidden, const RequestLimits& limits) const {
  std::vector<std::vector<RowHit>> results(static_cast<size_t>(queries.rows));
  if (rows <= 0 || top_k <= 0) return results;
  const CpuIsa isa = DetectCpuIsa();
  std::vector<float> scores(static_cast<size_t>(std::min(kQueriesPerTile, queries.rows) * kRowsPerTile));
  for (int64_t first_query = 0; first_query < queries.rows; first_query += kQueriesPerTile) {
    const int64_t query_count = std::min(kQueriesPerTile, queries.rows - first_query);
    const MatrixView<const float> tile{queries.row(first_query), query_count, queries.cols};
    std::vector<Best> best(static_cast<size_t>(query_count), Best(*this, std::min<int64_t>(top_k, rows)));
    int64_t block_rows = 0;
    for (int64_t first_row = 0; first_row < rows; first_row += block_rows) {
      LOCI_RETURN_IF_ERROR(limits.Check(RealClock().NowMicros()));
      const Place place = PlaceOf(first_row);
      block_rows = std::min({kRowsPerTile, place.capacity - place.offset, rows - first_row});
      bool any = false;
      for (int64_t row = 0; row < block_rows && !any; row += 64) any = hidden.word(first_row + row) != ~uint64_t{0};
      if (!any) continue;
      ExactScores(tile, RowBlock{vector(first_row), ElementType::kFloat32, block_rows, dim_}, scores.data(), isa);
      for (int64_t query = 0; query < query_count; ++query) {
        Best& mine = best[static_cast<size_t>(query)];
        const float* const row_scores = scores.data() + query * block_rows;
        float threshold = mine.threshold();
        for (int64_t row = 0; row < block_rows; ++row) {
          if (!(row_scores[row] >= threshold)) continue;
          if (hidden.hidden(first_row + row)) continue;
          mine.Offer(first_row + row, row_scores[row]);
          threshold = mine.threshold();
        }
      }
    }
    for (int64_t query = 0; query < query_count; ++query) {
      results[static_cast<size_t>(first_query + query)] = best[static_cast<size_t>(query)].Finish();
    }
  }
  return results;
}

}  // namespace loci
