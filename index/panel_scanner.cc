#include "index/panel_scanner.h"

#include <algorithm>
#include <bit>
#include <limits>

#include "base/clock.h"
#include "base/status_macros.h"
#include "base/vector_type.h"
#include "index/certified_bound.h"
#include "index/certified_plan.h"

namespace loci {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// Multiplications, about, between looks at the limits.
constexpr int64_t kCheckWork = int64_t{1} << 20;

}  // namespace

PanelPass::PanelPass(const VectorFile& vectors, const QuantizedVectors* codes, const Int8Kernels& kernels,
                     const CertifiedQueries& queries, const RowMask& hidden, const RequestLimits& limits)
    : vectors(vectors),
      codes(codes),
      kernels(kernels),
      queries(queries),
      hidden(hidden),
      limits(limits),
      thresholds(static_cast<size_t>(queries.size())) {
  for (std::atomic<double>& threshold : thresholds) threshold.store(-kInfinity, std::memory_order_relaxed);
}

PanelScanner::PanelScanner(PanelPass& pass, std::vector<CertifiedCandidates>& found)
    : pass_(pass),
      found_(found),
      row_total_(pass.vectors.rows()),
      panel_total_((row_total_ + kPanelRows - 1) / kPanelRows),
      steps_(PanelSteps(pass.vectors.dim())),
      panel_bytes_(PanelBytes(pass.vectors.dim())),
      underflow_(ScoreUnderflow(pass.vectors.dim())),
      bounds_(pass.queries.bounds()),
      made_(pass.codes == nullptr ? static_cast<size_t>(panel_bytes_ / 64) : 0) {}

absl::Status PanelScanner::Run() {
  const int64_t panel_work = pass_.queries.size() * steps_ * kPanelElements * kPanelRows;
  const int64_t check_panels = std::max<int64_t>(1, kCheckWork / panel_work);
  while (!pass_.stopped.load(std::memory_order_relaxed)) {
    const int64_t begin = pass_.next_panel.fetch_add(kRangePanels, std::memory_order_relaxed);
    if (begin >= panel_total_ || !ShareThresholds()) break;
    const int64_t end = std::min(begin + kRangePanels, panel_total_);
    for (int64_t p = begin; p < end; ++p) {
      if (const uint64_t visible = Visible(p); visible != 0) Scan(Load(p), visible, p * kPanelRows);
      if (p % check_panels != 0) continue;
      if (absl::Status status = pass_.limits.Check(RealClock().NowMicros()); !status.ok()) {
        pass_.stopped.store(true, std::memory_order_relaxed);
        return status;
      }
    }
  }
  return absl::OkStatus();
}

// Of each query with the other workers. False where all queries were given up.
bool PanelScanner::ShareThresholds() {
  bool any_left = false;
  for (int64_t q = 0; q < pass_.queries.size(); ++q) {
    CertifiedCandidates& candidates = found_[static_cast<size_t>(q)];
    std::atomic<double>& shared = pass_.thresholds[static_cast<size_t>(q)];
    if (candidates.given_up()) shared.store(kInfinity, std::memory_order_relaxed);
    const double known = shared.load(std::memory_order_relaxed);
    if (known == kInfinity) {
      candidates.GiveUp();
      continue;
    }
    any_left = true;
    if (known > candidates.threshold()) {
      candidates.Raise(known);
      SetThreshold(q);
    } else if (known < candidates.threshold()) {
      shared.store(candidates.threshold(), std::memory_order_relaxed);  // Two at a time: either is true.
    }
  }
  return any_left;
}

void PanelScanner::SetThreshold(int64_t query) {
  const double threshold = found_[static_cast<size_t>(query)].threshold() - underflow_;
  bounds_[static_cast<size_t>(query)].threshold = static_cast<float>(threshold * pass_.queries.inverse_scale(query));
}

uint64_t PanelScanner::Visible(int64_t panel) const {
  const int64_t first_row = panel * kPanelRows, rows = row_total_ - first_row;
  const uint64_t there = rows >= kPanelRows ? ~uint64_t{0} : (uint64_t{1} << rows) - 1;
  return there & ~pass_.hidden.word(first_row);
}

PanelScanner::Panel PanelScanner::Load(int64_t panel) {
  if (pass_.codes != nullptr) {
    return {.header = pass_.codes->panel(panel),
            .next = reinterpret_cast<const char*>(pass_.codes->panel(panel + 1)),
            .next_lines = panel + 1 < panel_total_ ? panel_bytes_ / 64 : 0};
  }
  const VectorFile& vectors = pass_.vectors;
  const int64_t first_row = panel * kPanelRows, rows_left = row_total_ - first_row;
  const int64_t rows = std::min<int64_t>(kPanelRows, rows_left);
  const int64_t row_bytes = vectors.dim() * static_cast<int64_t>(ElementSize(vectors.element_type()));
  PanelHeader* const own = reinterpret_cast<PanelHeader*>(made_.data());
  pass_.kernels.make_panel(vectors.row(first_row), vectors.element_type(), rows, vectors.dim(), own);
  return {.header = own,
          .next = static_cast<const char*>(vectors.row(first_row + rows)),
          .next_lines = std::min<int64_t>(kPanelRows, rows_left - rows) * row_bytes / 64};
}

void PanelScanner::Scan(const Panel& panel, uint64_t visible, int64_t first_row) {
  alignas(64) int32_t products[kMaxInt8Queries * kPanelRows];
  uint64_t survivors[kMaxInt8Queries];
  const int64_t tile_count = pass_.queries.tile_count();
  for (int64_t tile = 0; tile < tile_count; ++tile) {
    const int64_t first = pass_.queries.tile_begin(tile), count = pass_.queries.tile_begin(tile + 1) - first;
    // Each tile asks for a part of the next panel, so that memory is read while there is something to compute.
    const int64_t line = PartBegin(panel.next_lines, tile_count, tile),
                  line_end = PartBegin(panel.next_lines, tile_count, tile + 1);
    pass_.kernels.scan(pass_.queries.tile_codes(tile), static_cast<int>(count), bounds_.data() + first, panel.header, steps_,
                       products, survivors, panel.next + line * 64, (line_end - line) * 64);
    for (int64_t q = 0; q < count; ++q) {
      const uint64_t bits = survivors[q] & visible;
      if (bits != 0 && !found_[static_cast<size_t>(first + q)].given_up()) {
        Add(first + q, bits, products + q * kPanelRows, *panel.header, first_row);
      }
    }
  }
}

// Rows of a panel that the bits say, with the query's products.
void PanelScanner::Add(int64_t query, uint64_t bits, const int32_t* products, const PanelHeader& panel, int64_t first_row) {
  CertifiedCandidates& candidates = found_[static_cast<size_t>(query)];
  const Int8Bound& bound = bounds_[static_cast<size_t>(query)];
  bool rose = false;
  for (; bits != 0; bits &= bits - 1) {
    const int r = std::countr_zero(bits);
    const double error = static_cast<double>(panel.length[r]) * bound.length_factor +
                         static_cast<double>(panel.error[r]) * bound.error_factor + bound.slack;
    const double step = 1 / (static_cast<double>(panel.inverse_scale[r]) * pass_.queries.inverse_scale(query));
    CertifiedCandidates::Row row{-kInfinity, kInfinity, first_row + r};
    // Else nothing is known of the row: it was not to be rounded, or the panel is damaged.
    if (error >= 0 && error < kInfinity && step > 0 && step < kInfinity) {
      row.lower = (products[r] - error) * step - underflow_;
      row.upper = (products[r] + error) * step + underflow_;
    }
    rose = candidates.Add(row) || rose;
  }
  if (rose) SetThreshold(query);
}

}  // namespace loci
