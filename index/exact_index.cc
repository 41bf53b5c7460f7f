#include "index/exact_index.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <utility>

#include "base/clock.h"
#include "base/logging.h"
#include "base/mutex.h"
#include "base/status_macros.h"
#include "index/exact_kernels.h"
#include "index/row_order.h"

namespace loci {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Rows scored before their survivors are collected: 64 rows of 384 floats lie in the second-level cache beside the next ones.
constexpr int64_t kBlockRows = 64;
static_assert(kBlockRows % 64 == 0, "blocks must begin at words of the mask");
// What a worker takes at a time, and how often it looks at the limits.
constexpr int64_t kRangeRows = 4096;
// Multiplications below which a second thread costs more than it brings.
constexpr int64_t kSerialWork = int64_t{1} << 21;

// Whether so many of the rows [begin, end) are hidden that the others are scored alone.
bool IsSparse(const RowMask& hidden, int64_t begin, int64_t end) {
  int64_t hidden_count = 0;
  for (int64_t first = begin; first < end; first += 64) hidden_count += std::popcount(hidden.word(first));
  return hidden_count > (end - begin) / 8;
}

// Rows that wait to be scored together.
struct Gathered {
  static constexpr int64_t kCapacity = 3 * kBlockRows;
  const void* data[kCapacity];
  int64_t rows[kCapacity];
  int64_t count = 0;
  void Add(int64_t row, const void* vector) {
    data[count] = vector;
    rows[count++] = row;
  }
  void Drop(int64_t first_count) {
    std::copy(data + first_count, data + count, data);
    std::copy(rows + first_count, rows + count, rows);
    count -= first_count;
  }
};

// Queries padded with zeros to a multiple of 16 elements.
class PaddedQueries {
 public:
  explicit PaddedQueries(MatrixView<const float> queries) : stride_(PaddedDim(queries.cols)), data_(queries.rows * stride_) {
    for (int64_t q = 0; q < queries.rows; ++q) std::copy_n(queries.row(q), queries.cols, data_.data() + q * stride_);
  }
  const float* row(int64_t q) const { return data_.data() + q * stride_; }

 private:
  int64_t stride_;
  std::vector<float> data_;
};

}  // namespace

float ExactScore(const float* query, const void* row, ElementType type, int dim, CpuIsa isa) {
  constexpr int kStackDim = 1024;
  float on_stack[kStackDim];
  std::vector<float> on_heap;
  float* padded = on_stack;
  if (dim > kStackDim) {
    on_heap.resize(PaddedDim(dim));
    padded = on_heap.data();
  }
  std::memcpy(padded, query, dim * sizeof(float));
  std::fill(padded + dim, padded + PaddedDim(dim), 0.0f);
  float score = 0;
  GetExactKernels(isa).tile(type)(padded, 1, row, 1, dim, &score, 1, nullptr, 0);
  return score;
}

void ExactScores(MatrixView<const float> queries, const RowBlock& block, float* scores, CpuIsa isa) {
  const PaddedQueries padded(queries);
  const ExactKernels::Tile tile = GetExactKernels(isa).tile(block.type);
  const int64_t row_bytes = block.dim * static_cast<int64_t>(ElementSize(block.type));
  for (int64_t first = 0; first < block.rows; first += kBlockRows) {
    const int64_t rows = std::min(kBlockRows, block.rows - first);
    const char* data = static_cast<const char*>(block.data) + first * row_bytes;
    for (int64_t q = 0; q < queries.rows; q += kTileQueries) {
      const int count = static_cast<int>(std::min<int64_t>(kTileQueries, queries.rows - q));
      tile(padded.row(q), count, data, rows, block.dim, scores + q * block.rows + first, block.rows, nullptr, 0);
    }
  }
}

TopKCollector::TopKCollector(int64_t query_count, int top_k, CpuIsa isa)
    : top_k_(top_k),
      shrink_size_(2 * static_cast<size_t>(top_k) + 128),
      not_below_(GetExactKernels(isa).not_below),
      queries_(query_count) {
  LOCI_CHECK(top_k >= 1);
  for (PerQuery& query : queries_) query.threshold = -kInfinity;
}

void TopKCollector::Shrink(PerQuery& query) {
  if (query.survivors.size() <= static_cast<size_t>(top_k_)) return;
  std::nth_element(query.survivors.begin(), query.survivors.begin() + (top_k_ - 1), query.survivors.end(), IsBetter);
  query.survivors.resize(top_k_);
  query.threshold = query.survivors.back().score;
}

void TopKCollector::Add(int64_t query, int64_t row, float score) {
  if (std::isnan(score)) score = -kInfinity;
  PerQuery& kept = queries_[query];
  if (score < kept.threshold) return;
  kept.survivors.push_back({row, score});
  if (kept.survivors.size() >= shrink_size_) Shrink(kept);
}

void TopKCollector::AddScores(int64_t query, const float* scores, int64_t first_row, int64_t rows, const RowMask& hidden) {
  PerQuery& kept = queries_[query];
  const bool masked = hidden.hidden_count() != 0;
  const bool aligned = first_row % 64 == 0;
  for (int64_t offset = 0; offset < rows; offset += 64) {
    uint64_t bits = not_below_(scores + offset, static_cast<int>(std::min<int64_t>(64, rows - offset)), kept.threshold);
    if (bits == 0) continue;
    if (masked && aligned) bits &= ~hidden.word(first_row + offset);
    for (; bits != 0; bits &= bits - 1) {
      const int64_t i = offset + std::countr_zero(bits);
      const int64_t row = first_row + i;
      if (masked && !aligned && hidden.hidden(row)) continue;
      kept.survivors.push_back({row, std::isnan(scores[i]) ? -kInfinity : scores[i]});
    }
    if (kept.survivors.size() >= shrink_size_) Shrink(kept);
  }
}

void TopKCollector::AddRows(int64_t query, const float* scores, const int64_t* rows, int64_t row_count) {
  PerQuery& kept = queries_[query];
  for (int64_t offset = 0; offset < row_count; offset += 64) {
    uint64_t bits = not_below_(scores + offset, static_cast<int>(std::min<int64_t>(64, row_count - offset)), kept.threshold);
    if (bits == 0) continue;
    for (; bits != 0; bits &= bits - 1) {
      const int64_t i = offset + std::countr_zero(bits);
      kept.survivors.push_back({rows[i], std::isnan(scores[i]) ? -kInfinity : scores[i]});
    }
    if (kept.survivors.size() >= shrink_size_) Shrink(kept);
  }
}

void TopKCollector::AddBlock(const float* scores, int64_t first_row, int64_t rows, const RowMask& hidden) {
  for (size_t q = 0; q < queries_.size(); ++q) {
    AddScores(static_cast<int64_t>(q), scores + static_cast<int64_t>(q) * rows, first_row, rows, hidden);
  }
}

void TopKCollector::Merge(const TopKCollector& other) {
  LOCI_CHECK(other.queries_.size() == queries_.size());
  for (size_t q = 0; q < queries_.size(); ++q) {
    for (const RowHit& hit : other.queries_[q].survivors) Add(static_cast<int64_t>(q), hit.row, hit.score);
  }
}

void TopKCollector::Finish(RowHit* hits) {
  for (PerQuery& query : queries_) {
    Shrink(query);
    std::sort(query.survivors.begin(), query.survivors.end(), IsBetter);
    RowHit* end = std::copy(query.survivors.begin(), query.survivors.end(), hits);
    hits += top_k_;
    std::fill(end, hits, RowHit{-1, -kInfinity});
  }
}

ExactIndex::ExactIndex(std::shared_ptr<const VectorFile> vectors, ThreadPool* pool, CpuIsa isa,
                       std::shared_ptr<const QuantizedVectors> codes, ScanIsa scan_isa)
    : vectors_(std::move(vectors)), pool_(pool), isa_(isa) {
  // Of a lower instruction set, all of it is.
  if (isa_ == CpuIsa::kAvx2) scan_isa = ScanIsa::kAvx2;
  certified_ = std::make_unique<CertifiedScan>(vectors_, std::move(codes), pool_, isa_, scan_isa);
}

absl::Status ExactIndex::Search(MatrixView<const float> queries, const IndexSearchOptions& options, const RowMask& hidden,
                                RowHit* hits) const {
  LOCI_RETURN_IF_ERROR(CheckSearchArguments(*this, queries, options, {}));
  if (!certified_->IsWorthwhile(queries.rows, row_count() - hidden.hidden_count(), options.top_k) || !certified_->TakeTurn()) {
    return SearchAll(queries, options, hidden, hits);
  }
  std::vector<int64_t> left;
  LOCI_RETURN_IF_ERROR(certified_->Search(queries, options, hidden, hits, &left));
  if (left.empty()) return absl::OkStatus();
  if (static_cast<int64_t>(left.size()) == queries.rows) return SearchAll(queries, options, hidden, hits);
  std::vector<float> left_queries;
  for (const int64_t q : left) left_queries.insert(left_queries.end(), queries.row(q), queries.row(q) + queries.cols);
  std::vector<RowHit> left_hits(left.size() * static_cast<size_t>(options.top_k));
  LOCI_RETURN_IF_ERROR(SearchAll({left_queries.data(), static_cast<int64_t>(left.size()), queries.cols}, options, hidden, left_hits.data()));
  for (size_t i = 0; i < left.size(); ++i) {
    std::copy_n(left_hits.data() + i * static_cast<size_t>(options.top_k), options.top_k, hits + left[i] * options.top_k);
  }
  return absl::OkStatus();
}

absl::Status ExactIndex::SearchAll(MatrixView<const float> queries, const IndexSearchOptions& options, const RowMask& hidden,
                                   RowHit* hits) const {
  const PaddedQueries padded(queries);
  const int64_t row_total = row_count();
  const int dim = vectors_->dim();
  const int64_t row_bytes = dim * static_cast<int64_t>(ElementSize(vectors_->element_type()));
  const ExactKernels::Tile tile = GetExactKernels(isa_).tile(vectors_->element_type());
  const int64_t tile_count = (queries.rows + kTileQueries - 1) / kTileQueries;
  // Tiles of nearly equal size: eight queries are four and four.
  const auto tile_begin = [&](int64_t t) { return queries.rows * t / std::max<int64_t>(tile_count, 1); };

  const ExactKernels::GatherTile gather_tile = GetExactKernels(isa_).gather(vectors_->element_type());
  const bool masked = hidden.hidden_count() > 0;

  // Workers take ranges of rows until none is left; what each kept is joined below. The order is total, so that neither the
  // number of workers nor who takes what can be seen in the result.
  std::atomic<int64_t> next_row{0};
  std::atomic<bool> stopped{false};
  const auto scan = [&](TopKCollector& collector) -> absl::Status {
    float scores[kTileQueries * kBlockRows];
    Gathered gathered;
    // Scores the first `count` gathered rows, and asks for those that come after them.
    const auto score_gathered = [&](int64_t count) {
      const int64_t ahead = gathered.count - count;
      const int64_t share = (ahead + tile_count - 1) / tile_count;
      for (int64_t t = 0; t < tile_count; ++t) {
        const int64_t q = tile_begin(t);
        const int query_count = static_cast<int>(tile_begin(t + 1) - q);
        const int64_t first = std::min(t * share, ahead);
        gather_tile(padded.row(q), query_count, gathered.data, count, dim, scores, kBlockRows, gathered.data + count + first,
                    std::min(share, ahead - first));
        for (int i = 0; i < query_count; ++i) collector.AddRows(q + i, scores + i * kBlockRows, gathered.rows, count);
      }
      gathered.Drop(count);
    };
    while (!stopped.load(std::memory_order_relaxed)) {
      const int64_t range = next_row.fetch_add(kRangeRows, std::memory_order_relaxed);
      if (range >= row_total) break;
      const int64_t range_end = std::min(range + kRangeRows, row_total);
      if (masked && IsSparse(hidden, range, range_end)) {
        for (int64_t first = range; first < range_end; first += 64) {
          const uint64_t valid = range_end - first >= 64 ? ~uint64_t{0} : (uint64_t{1} << (range_end - first)) - 1;
          for (uint64_t bits = ~hidden.word(first) & valid; bits != 0; bits &= bits - 1) {
            const int64_t row = first + std::countr_zero(bits);
            gathered.Add(row, vectors_->row(row));
          }
          // Two blocks at least, so that the second can be asked for while the first is scored.
          while (gathered.count >= 2 * kBlockRows) {
            score_gathered(kBlockRows);
            if (queries.rows * dim <= 16384) continue;
            if (absl::Status status = options.limits.Check(RealClock().NowMicros()); !status.ok()) {
              stopped.store(true, std::memory_order_relaxed);
              return status;
            }
          }
        }
        if (absl::Status status = options.limits.Check(RealClock().NowMicros()); !status.ok()) {
          stopped.store(true, std::memory_order_relaxed);
          return status;
        }
        continue;
      }
      for (int64_t first = range; first < range_end; first += kBlockRows) {
        const int64_t rows = std::min(kBlockRows, range_end - first);
        const char* data = static_cast<const char*>(vectors_->row(first));
        // Each tile of queries asks for a part of the next block, so that memory is read while there is something to compute.
        const int64_t next_bytes = std::min(kBlockRows, range_end - first - rows) * row_bytes;
        const int64_t share = (next_bytes / tile_count + 63) / 64 * 64;
        for (int64_t t = 0; t < tile_count; ++t) {
          const int64_t q = tile_begin(t);
          const int count = static_cast<int>(tile_begin(t + 1) - q);
          const int64_t offset = std::min(t * share, next_bytes);
          tile(padded.row(q), count, data, rows, dim, scores, kBlockRows, data + rows * row_bytes + offset,
               std::min(share, next_bytes - offset));
          for (int i = 0; i < count; ++i) collector.AddScores(q + i, scores + i * kBlockRows, first, rows, hidden);
        }
        // A range of many queries takes long: about every million multiplications is often enough.
        if ((first / kBlockRows) % 16 == 0 || queries.rows * dim > 16384) {
          if (absl::Status status = options.limits.Check(RealClock().NowMicros()); !status.ok()) {
            stopped.store(true, std::memory_order_relaxed);
            return status;
          }
        }
      }
    }
    while (gathered.count > 0) score_gathered(std::min(gathered.count, kBlockRows));
    return absl::OkStatus();
  };

  int64_t workers = 1;
  if (pool_ != nullptr && row_total > kRangeRows && (row_total - hidden.hidden_count()) * queries.rows * dim > kSerialWork) {
    workers = std::min<int64_t>(pool_->thread_count() + 1, (row_total + kRangeRows - 1) / kRangeRows);
  }
  TopKCollector best(queries.rows, options.top_k, isa_);
  if (queries.rows == 0) return absl::OkStatus();
  if (workers == 1) {
    LOCI_RETURN_IF_ERROR(scan(best));
  } else {
    Mutex mutex;
    absl::Status failure;
    pool_->ParallelFor(workers, [&](int64_t) {
      TopKCollector own(queries.rows, options.top_k, isa_);
      absl::Status status = scan(own);
      MutexLock lock(&mutex);
      failure.Update(status);
      if (failure.ok()) best.Merge(own);
    });
    LOCI_RETURN_IF_ERROR(failure);
  }
  best.Finish(hits);
  return vectors_->Check();
}

}  // namespace loci
