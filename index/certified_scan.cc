#include "index/certified_scan.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <utility>

#include "base/clock.h"
#include "base/logging.h"
#include "base/mutex.h"
#include "base/status_macros.h"
#include "base/vector_type.h"
#include "index/certified_bound.h"
#include "index/certified_plan.h"
#include "index/exact_kernels.h"
#include "index/row_order.h"

namespace loci {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// What a worker takes at a time: as many rows as ExactIndex.
constexpr int64_t kRangePanels = 64;
// Queries of one pass. Their codes lie in the second-level cache while a panel lies in the first; where panels are made in the pass, it is to serve many.
constexpr int64_t kChunkQueries = 128;
constexpr int64_t kMakingChunkQueries = 512;
// Fewer queries are not worth the making of panels.
constexpr int64_t kMinMakingQueries = 15;
// Multiplications below which a second thread costs more than it brings: four times ExactIndex's.
constexpr int64_t kSerialWork = int64_t{1} << 23;
// Rows scored at a time.
constexpr int64_t kRescoreRows = 64;
// Fewer rows are scored at once.
constexpr int64_t kMinRows = 4096;

// Of `count` things, where the i-th of so many nearly equal parts begins.
int64_t PartBegin(int64_t count, int64_t parts, int64_t i) { return count / parts * i + std::min(i, count % parts); }

// Threads that so many queries are worth.
int64_t WorkerCount(const ThreadPool* pool, const VectorFile& vectors, int64_t query_count) {
  const int64_t range_rows = kRangePanels * kPanelRows, range_count = (vectors.rows() + range_rows - 1) / range_rows;
  if (pool == nullptr || range_count <= 1 || vectors.rows() * query_count * vectors.dim() <= kSerialWork) return 1;
  return std::min<int64_t>(pool->thread_count() + 1, range_count);
}

CertifiedPlan MakePlan(const ThreadPool* pool, const VectorFile& vectors, int64_t query_count, bool has_codes, int top_k) {
  return MakeCertifiedPlan(WorkerCount(pool, vectors, query_count), has_codes ? kChunkQueries : kMakingChunkQueries, top_k);
}

}  // namespace

// Rows that may be among the best top_k of one query.
// Used by one thread.
class CertifiedScan::Candidates {
 public:
  struct Row {
    double lower;
    double upper;
    int64_t row;
  };

  explicit Candidates(int top_k)
      : top_k_(static_cast<size_t>(top_k)),
        limit_(static_cast<size_t>(CandidateLimit(top_k))),
        max_size_(static_cast<size_t>(MaxCandidates(top_k))),
        shrink_size_(2 * top_k_ + 128) {}

  // What no row may be below, since top_k rows are not.
  double threshold() const { return threshold_; }
  void Raise(double threshold) { threshold_ = std::max(threshold_, threshold); }
  bool given_up() const { return given_up_; }
  std::vector<Row>& rows() { return rows_; }

  // Whether the threshold may have risen.
  bool Add(const Row& row) {
    rows_.push_back(row);
    if (rows_.size() < shrink_size_ || !Shrink()) return false;
    shrink_size_ = std::max(shrink_size_, std::min(2 * rows_.size(), max_size_));
    rows_.reserve(shrink_size_);
    return true;
  }

  bool Shrink() {
    if (given_up_) return false;
    if (rows_.size() >= top_k_) {
      const auto last = rows_.begin() + static_cast<int64_t>(top_k_) - 1;
      std::nth_element(rows_.begin(), last, rows_.end(), [](const Row& a, const Row& b) { return a.lower > b.lower; });
      Raise(last->lower);
    }
    std::erase_if(rows_, [this](const Row& row) { return row.upper < threshold_; });
    if (rows_.size() > limit_) {
      GiveUp();
      return false;
    }
    return true;
  }

  void Merge(Candidates& other) {
    if (other.given_up_) GiveUp();
    if (given_up_) return;
    Raise(other.threshold_);
    rows_.insert(rows_.end(), other.rows_.begin(), other.rows_.end());
    Shrink();
  }

  void GiveUp() {
    given_up_ = true;
    std::vector<Row>().swap(rows_);
  }

 private:
  size_t top_k_;
  size_t limit_;
  size_t max_size_;
  size_t shrink_size_;
  std::vector<Row> rows_;
  double threshold_ = -kInfinity;
  bool given_up_ = false;
};

// The queries of a chunk: codes in tiles as the kernels want them, bounds, and padded as they are scored.
// Immutable after construction.
class CertifiedScan::PreparedQueries {
 public:
  PreparedQueries(MatrixView<const float> queries, const Int8Kernels& kernels)
      : count_(queries.rows),
        dim_(static_cast<int>(queries.cols)),
        code_bytes_(kernels.code_bytes),
        stride_(PaddedDim(queries.cols)) {
    const int64_t padded_codes = int64_t{PanelSteps(dim_)} * kPanelElements;
    padded_.resize(static_cast<size_t>(count_ * stride_));
    codes_.resize(static_cast<size_t>(count_ * padded_codes * code_bytes_));
    bounds_.resize(static_cast<size_t>(count_));
    inverse_scales_.resize(static_cast<size_t>(count_));
    rounded_away_.resize(static_cast<size_t>(count_));
    std::vector<int8_t> codes(static_cast<size_t>(padded_codes));
    for (int64_t tile = 0; tile < tile_count(); ++tile) {
      for (int64_t q = tile_begin(tile); q < tile_begin(tile + 1); ++q) {
        std::copy_n(queries.row(q), dim_, padded_.data() + q * stride_);
        const QuantizedVector figures = Quantize(queries.row(q), dim_, codes.data());
        inverse_scales_[static_cast<size_t>(q)] = figures.inverse_scale;
        rounded_away_[static_cast<size_t>(q)] = figures.length == 0;
        bounds_[static_cast<size_t>(q)] = BoundOf(queries.row(q), figures, codes);
        SetCodes(codes, tile, q);
      }
    }
  }

  int64_t tile_count() const { return (count_ + kMaxInt8Queries - 1) / kMaxInt8Queries; }
  int64_t tile_begin(int64_t tile) const { return PartBegin(count_, tile_count(), tile); }
  const void* tile_codes(int64_t tile) const {
    return codes_.data() + tile_begin(tile) * PanelSteps(dim_) * kPanelElements * code_bytes_;
  }
  const float* padded(int64_t query) const { return padded_.data() + query * stride_; }
  float inverse_scale(int64_t query) const { return inverse_scales_[static_cast<size_t>(query)]; }
  // All codes are zero, as those of a zero query: no rows' codes could tell it anything.
  bool rounded_away(int64_t query) const { return rounded_away_[static_cast<size_t>(query)]; }
  // With no threshold.
  const std::vector<Int8Bound>& bounds() const { return bounds_; }

 private:
  Int8Bound BoundOf(const float* query, const QuantizedVector& figures, const std::vector<int8_t>& codes) const {
    const CertifiedBound bound = CertifiedBoundOf(query, dim_, figures);
    int32_t sum = 0;
    for (const int8_t code : codes) sum += code;
    return {.threshold = -std::numeric_limits<float>::infinity(),
            .length_factor = bound.length_factor,
            .error_factor = bound.error_factor,
            .slack = bound.slack,
            .offset = -128 * sum};
  }

  void SetCodes(const std::vector<int8_t>& codes, int64_t tile, int64_t query) {
    const int64_t first = tile_begin(tile), tile_queries = tile_begin(tile + 1) - first;
    const int64_t tile_offset = first * static_cast<int64_t>(codes.size());
    for (int64_t i = 0; i < static_cast<int64_t>(codes.size()); ++i) {
      const int64_t place =
          tile_offset + (i / kPanelElements * tile_queries + query - first) * kPanelElements + i % kPanelElements;
      if (code_bytes_ == 1) {
        codes_[static_cast<size_t>(place)] = static_cast<uint8_t>(codes[static_cast<size_t>(i)]);
      } else {
        const uint16_t wide = static_cast<uint16_t>(int16_t{codes[static_cast<size_t>(i)]});
        codes_[static_cast<size_t>(2 * place)] = static_cast<uint8_t>(wide);
        codes_[static_cast<size_t>(2 * place + 1)] = static_cast<uint8_t>(wide >> 8);
      }
    }
  }

  int64_t count_;
  int dim_;
  int code_bytes_;
  int64_t stride_;
  std::vector<float> padded_;
  std::vector<uint8_t> codes_;
  std::vector<Int8Bound> bounds_;
  std::vector<float> inverse_scales_;
  std::vector<bool> rounded_away_;
};

CertifiedScan::CertifiedScan(std::shared_ptr<const VectorFile> vectors, std::shared_ptr<const QuantizedVectors> codes,
                             ThreadPool* pool, CpuIsa isa, ScanIsa scan_isa)
    : vectors_(std::move(vectors)), codes_(std::move(codes)), pool_(pool), isa_(isa), kernels_(GetInt8Kernels(scan_isa)) {
  LOCI_CHECK(codes_ == nullptr || (vectors_->rows() == codes_->rows() && vectors_->dim() == codes_->dim()));
}

bool CertifiedScan::IsWorthwhile(int64_t query_count, int64_t visible_count, int top_k) const {
  if (codes_ == nullptr) {
    const CertifiedPlan plan = MakePlan(pool_, *vectors_, query_count, /*has_codes=*/false, top_k);
    if (kernels_.make_panel == nullptr || std::min(query_count, plan.queries) < kMinMakingQueries) return false;
    if (visible_count < vectors_->rows() / 2) return false;
  }
  // A pass reads every panel. Of one row in four, those alone are read faster as they are.
  return visible_count >= kMinRows && visible_count >= 16 * int64_t{top_k} && visible_count >= vectors_->rows() / 4;
}

bool CertifiedScan::TakeTurn() const {
  if (vain_passes_.TakeTurn()) return true;
  skipped_count_.fetch_add(1, std::memory_order_relaxed);
  return false;
}

absl::Status CertifiedScan::Search(MatrixView<const float> queries, const IndexSearchOptions& options, const RowMask& hidden,
                                   RowHit* hits, std::vector<int64_t>* given_up) const {
  Outcome outcome;
  const CertifiedPlan plan = MakePlan(pool_, *vectors_, queries.rows, codes_ != nullptr, options.top_k);
  const int64_t chunk_count = (queries.rows + plan.queries - 1) / plan.queries;
  for (int64_t chunk = 0; chunk < chunk_count; ++chunk) {
    const int64_t first = PartBegin(queries.rows, chunk_count, chunk), end = PartBegin(queries.rows, chunk_count, chunk + 1);
    const MatrixView<const float> part{queries.row(first), end - first, queries.cols};
    LOCI_RETURN_IF_ERROR(SearchChunk(part, options, hidden, plan.workers, hits + first * options.top_k, first, given_up, &outcome));
  }
  if (outcome.queries > 0) vain_passes_.EndTurn(outcome.queries, outcome.given_up);
  if (codes_ != nullptr) LOCI_RETURN_IF_ERROR(codes_->Check());
  return vectors_->Check();
}

absl::Status CertifiedScan::SearchChunk(MatrixView<const float> queries, const IndexSearchOptions& options, const RowMask& hidden,
                                        int64_t workers, RowHit* hits, int64_t first_position, std::vector<int64_t>* given_up, Outcome* outcome) const {
  const PreparedQueries prepared(queries, kernels_);
  const int64_t query_count = queries.rows, tile_count = prepared.tile_count();
  const int64_t row_total = vectors_->rows(), panel_total = (row_total + kPanelRows - 1) / kPanelRows;
  const int steps = PanelSteps(vectors_->dim());
  const int64_t panel_bytes = PanelBytes(vectors_->dim());
  const int64_t row_bytes = vectors_->dim() * static_cast<int64_t>(ElementSize(vectors_->element_type()));
  // Of every million multiplications, about, the limits are looked at.
  const int64_t check_panels = std::max<int64_t>(1, (int64_t{1} << 20) / (query_count * steps * kPanelElements * kPanelRows));

  const double underflow = ScoreUnderflow(vectors_->dim());
  std::atomic<int64_t> next_range{0};
  std::atomic<bool> stopped{false};
  // What one worker has found is good for all.
  std::vector<std::atomic<double>> thresholds(static_cast<size_t>(query_count));
  for (std::atomic<double>& threshold : thresholds) threshold.store(-kInfinity, std::memory_order_relaxed);

  const auto scan = [&](std::vector<Candidates>& found) -> absl::Status {
    std::vector<Int8Bound> bounds = prepared.bounds();
    const auto set_threshold = [&](int64_t q) {
      const double threshold = found[static_cast<size_t>(q)].threshold() - underflow;
      bounds[static_cast<size_t>(q)].threshold = static_cast<float>(threshold * prepared.inverse_scale(q));
    };
    struct alignas(64) Line {
      char bytes[64];
    };
    std::vector<Line> made(codes_ == nullptr ? static_cast<size_t>(panel_bytes / 64) : 0);
    alignas(64) int32_t products[kMaxInt8Queries * kPanelRows];
    uint64_t survivors[kMaxInt8Queries];
    const auto add = [&](int64_t q, uint64_t bits, const int32_t* query_products, const PanelHeader& panel, int64_t first_row) {
      Candidates& candidates = found[static_cast<size_t>(q)];
      const Int8Bound& bound = bounds[static_cast<size_t>(q)];
      bool rose = false;
      for (; bits != 0; bits &= bits - 1) {
        const int r = std::countr_zero(bits);
        const double error = static_cast<double>(panel.length[r]) * bound.length_factor +
                             static_cast<double>(panel.error[r]) * bound.error_factor + bound.slack;
        const double step = 1 / (static_cast<double>(panel.inverse_scale[r]) * prepared.inverse_scale(q));
        Candidates::Row row{-kInfinity, kInfinity, first_row + r};
        // Else nothing is known of the row: it was not to be rounded, or the panel is damaged.
        if (error >= 0 && error < kInfinity && step > 0 && step < kInfinity) {
          row.lower = (query_products[r] - error) * step - underflow;
          row.upper = (query_products[r] + error) * step + underflow;
        }
        rose = candidates.Add(row) || rose;
      }
      if (rose) set_threshold(q);
    };
    while (!stopped.load(std::memory_order_relaxed)) {
      const int64_t begin = next_range.fetch_add(kRangePanels, std::memory_order_relaxed);
      if (begin >= panel_total) break;
      const int64_t end = std::min(begin + kRangePanels, panel_total);
      bool all_given_up = true;
      for (int64_t q = 0; q < query_count; ++q) {
        Candidates& candidates = found[static_cast<size_t>(q)];
        std::atomic<double>& shared = thresholds[static_cast<size_t>(q)];
        if (candidates.given_up()) shared.store(kInfinity, std::memory_order_relaxed);
        const double known = shared.load(std::memory_order_relaxed);
        if (known == kInfinity) {
          candidates.GiveUp();
          continue;
        }
        all_given_up = false;
        if (known > candidates.threshold()) {
          candidates.Raise(known);
          set_threshold(q);
        } else if (known < candidates.threshold()) {
          shared.store(candidates.threshold(), std::memory_order_relaxed);  // Two at a time: either is true.
        }
      }
      if (all_given_up) break;
      for (int64_t p = begin; p < end; ++p) {
        const int64_t first_row = p * kPanelRows;
        const uint64_t valid = row_total - first_row >= kPanelRows ? ~uint64_t{0} : (uint64_t{1} << (row_total - first_row)) - 1;
        const uint64_t visible = valid & ~hidden.word(first_row);
        if (visible != 0) {
          const PanelHeader* panel_data;
          const char* next;
          int64_t next_lines;
          if (codes_ != nullptr) {
            panel_data = codes_->panel(p);
            next = reinterpret_cast<const char*>(codes_->panel(p + 1));
            next_lines = p + 1 < panel_total ? panel_bytes / 64 : 0;
          } else {
            PanelHeader* const own = reinterpret_cast<PanelHeader*>(made.data());
            const int64_t rows = std::min<int64_t>(kPanelRows, row_total - first_row);
            kernels_.make_panel(vectors_->row(first_row), vectors_->element_type(), rows, vectors_->dim(), own);
            panel_data = own;
            next = static_cast<const char*>(vectors_->row(first_row + rows));
            next_lines = std::min<int64_t>(kPanelRows, row_total - first_row - rows) * row_bytes / 64;
          }
          const PanelHeader& panel = *panel_data;
          for (int64_t tile = 0; tile < tile_count; ++tile) {
            const int64_t first = prepared.tile_begin(tile), count = prepared.tile_begin(tile + 1) - first;
            // Each tile asks for a part of the next panel, so that memory is read while there is something to compute.
            const int64_t line = PartBegin(next_lines, tile_count, tile), line_end = PartBegin(next_lines, tile_count, tile + 1);
            kernels_.scan(prepared.tile_codes(tile), static_cast<int>(count), bounds.data() + first, &panel, steps, products,
                          survivors, next + line * 64, (line_end - line) * 64);
            for (int64_t q = 0; q < count; ++q) {
              const uint64_t bits = survivors[q] & visible;
              if (bits != 0 && !found[static_cast<size_t>(first + q)].given_up())
                add(first + q, bits, products + q * kPanelRows, panel, first_row);
            }
          }
        }
        if (p % check_panels != 0) continue;
        if (absl::Status status = options.limits.Check(RealClock().NowMicros()); !status.ok()) {
          stopped.store(true, std::memory_order_relaxed);
          return status;
        }
      }
    }
    return absl::OkStatus();
  };

  const std::vector<Candidates> none(static_cast<size_t>(query_count), Candidates(options.top_k));
  std::vector<Candidates> best = none;
  if (workers == 1) {
    LOCI_RETURN_IF_ERROR(scan(best));
  } else {
    Mutex mutex;
    absl::Status failure;
    pool_->ParallelFor(workers, [&](int64_t) {
      std::vector<Candidates> own = none;
      const absl::Status status = scan(own);
      MutexLock lock(&mutex);
      failure.Update(status);
      for (size_t q = 0; failure.ok() && q < own.size(); ++q) best[q].Merge(own[q]);
    });
    LOCI_RETURN_IF_ERROR(failure);
  }

  std::vector<absl::Status> statuses(static_cast<size_t>(query_count));
  const auto rescore = [&](int64_t q) {
    Candidates& candidates = best[static_cast<size_t>(q)];
    candidates.Shrink();
    if (candidates.given_up()) return;
    statuses[static_cast<size_t>(q)] = Rescore(prepared.padded(q), options, candidates, hits + q * options.top_k);
  };
  if (workers == 1) {
    for (int64_t q = 0; q < query_count; ++q) rescore(q);
  } else {
    pool_->ParallelFor(query_count, rescore);
  }
  for (int64_t q = 0; q < query_count; ++q) {
    LOCI_RETURN_IF_ERROR(statuses[static_cast<size_t>(q)]);
    const bool gone = best[static_cast<size_t>(q)].given_up();
    if (gone) given_up->push_back(first_position + q);
    if (prepared.rounded_away(q)) continue;
    ++outcome->queries;
    outcome->given_up += gone;
  }
  const int64_t gone = std::count_if(best.begin(), best.end(), [](const Candidates& each) { return each.given_up(); });
  given_up_count_.fetch_add(gone, std::memory_order_relaxed);
  answered_count_.fetch_add(query_count - gone, std::memory_order_relaxed);
  return absl::OkStatus();
}

absl::Status CertifiedScan::Rescore(const float* query, const IndexSearchOptions& options, Candidates& candidates,
                                    RowHit* hits) const {
  std::vector<Candidates::Row>& rows = candidates.rows();
  const size_t top_k = static_cast<size_t>(options.top_k);
  std::sort(rows.begin(), rows.end(), [](const Candidates::Row& a, const Candidates::Row& b) { return a.upper > b.upper; });
  const ExactKernels::GatherTile gather = GetExactKernels(isa_).gather(vectors_->element_type());
  std::vector<RowHit> scored;
  scored.reserve(rows.size());
  double threshold = candidates.threshold();
  size_t next_look = top_k;
  const void* data[2 * kRescoreRows];
  float scores[kRescoreRows];
  for (size_t first = 0; first < rows.size() && !(rows[first].upper < threshold); first += kRescoreRows) {
    const int64_t count = std::min<int64_t>(kRescoreRows, static_cast<int64_t>(rows.size() - first));
    const int64_t ahead = std::min<int64_t>(kRescoreRows, static_cast<int64_t>(rows.size() - first) - count);
    for (int64_t i = 0; i < count + ahead; ++i) data[i] = vectors_->row(rows[first + static_cast<size_t>(i)].row);
    gather(query, 1, data, count, vectors_->dim(), scores, kRescoreRows, data + count, ahead);
    for (int64_t i = 0; i < count; ++i) {
      scored.push_back({rows[first + static_cast<size_t>(i)].row,
                        std::isnan(scores[i]) ? -std::numeric_limits<float>::infinity() : scores[i]});
    }
    if (scored.size() < next_look) continue;
    const auto last = scored.begin() + static_cast<int64_t>(top_k) - 1;
    std::nth_element(scored.begin(), last, scored.end(), IsBetter);
    threshold = std::max(threshold, static_cast<double>(last->score));
    next_look = scored.size() + scored.size() / 4;
    LOCI_RETURN_IF_ERROR(options.limits.Check(RealClock().NowMicros()));
  }
  scored_count_.fetch_add(static_cast<int64_t>(scored.size()), std::memory_order_relaxed);
  const size_t found = std::min(top_k, scored.size());
  std::partial_sort(scored.begin(), scored.begin() + static_cast<int64_t>(found), scored.end(), IsBetter);
  std::copy_n(scored.begin(), found, hits);
  std::fill(hits + found, hits + top_k, RowHit{-1, -std::numeric_limits<float>::infinity()});
  return absl::OkStatus();
}

}  // namespace loci
