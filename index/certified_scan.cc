#include "index/certified_scan.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "base/clock.h"
#include "base/logging.h"
#include "base/mutex.h"
#include "base/status_macros.h"
#include "index/certified_plan.h"
#include "index/certified_queries.h"
#include "index/exact_kernels.h"
#include "index/panel_scanner.h"
#include "index/row_order.h"

namespace loci {
namespace {

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
    LOCI_RETURN_IF_ERROR(
        SearchChunk(part, options, hidden, plan.workers, hits + first * options.top_k, first, given_up, &outcome));
  }
  if (outcome.queries > 0) vain_passes_.EndTurn(outcome.queries, outcome.given_up);
  if (codes_ != nullptr) LOCI_RETURN_IF_ERROR(codes_->Check());
  return vectors_->Check();
}

absl::Status CertifiedScan::SearchChunk(MatrixView<const float> queries, const IndexSearchOptions& options, const RowMask& hidden,
                                        int64_t workers, RowHit* hits, int64_t first_position, std::vector<int64_t>* given_up,
                                        Outcome* outcome) const {
  const int64_t query_count = queries.rows;
  const CertifiedQueries prepared(queries, kernels_);
  PanelPass pass(*vectors_, codes_.get(), kernels_, prepared, hidden, options.limits);
  const std::vector<CertifiedCandidates> none(static_cast<size_t>(query_count), CertifiedCandidates(options.top_k));
  std::vector<CertifiedCandidates> best = none;
  if (workers == 1) {
    LOCI_RETURN_IF_ERROR(PanelScanner(pass, best).Run());
  } else {
    Mutex mutex;
    absl::Status failure;
    pool_->ParallelFor(workers, [&](int64_t) {
      std::vector<CertifiedCandidates> own = none;
      const absl::Status status = PanelScanner(pass, own).Run();
      MutexLock lock(&mutex);
      failure.Update(status);
      for (size_t q = 0; failure.ok() && q < own.size(); ++q) best[q].Merge(own[q]);
    });
    LOCI_RETURN_IF_ERROR(failure);
  }

  std::vector<absl::Status> statuses(static_cast<size_t>(query_count));
  const auto rescore = [&](int64_t q) {
    CertifiedCandidates& candidates = best[static_cast<size_t>(q)];
    candidates.Shrink();
    if (candidates.given_up()) return;
    statuses[static_cast<size_t>(q)] = Rescore(prepared.padded(q), options, candidates, hits + q * options.top_k);
  };
  if (workers == 1) {
    for (int64_t q = 0; q < query_count; ++q) rescore(q);
  } else {
    pool_->ParallelFor(query_count, rescore);
  }
  int64_t gone_count = 0;
  for (int64_t q = 0; q < query_count; ++q) {
    LOCI_RETURN_IF_ERROR(statuses[static_cast<size_t>(q)]);
    const bool gone = best[static_cast<size_t>(q)].given_up();
    if (gone) given_up->push_back(first_position + q);
    gone_count += gone;
    if (prepared.rounded_away(q)) continue;
    ++outcome->queries;
    outcome->given_up += gone;
  }
  given_up_count_.fetch_add(gone_count, std::memory_order_relaxed);
  answered_count_.fetch_add(query_count - gone_count, std::memory_order_relaxed);
  return absl::OkStatus();
}

absl::Status CertifiedScan::Rescore(const float* query, const IndexSearchOptions& options, CertifiedCandidates& candidates,
                                    RowHit* hits) const {
  std::vector<CertifiedCandidates::Row>& rows = candidates.rows();
  const size_t top_k = static_cast<size_t>(options.top_k);
  std::sort(rows.begin(), rows.end(),
            [](const CertifiedCandidates::Row& a, const CertifiedCandidates::Row& b) { return a.upper > b.upper; });
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
