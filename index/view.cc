#include "index/view.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/status_macros.h"
#include "index/metadata_columns.h"
#include "index/metadata_record.h"
#include "index/overlay.h"
#include "index/row_set.h"

namespace loci {
namespace {

constexpr int64_t kFilterRows = 1024;  // Of the overlay, between looks at the limits.

// Whether scoring each of the `visible` rows of a body costs less than asking an approximate index, which finds rows of which most are hidden.
// Inverted lists are searched in about a sixteenth of all rows, so that as many or fewer are scored for less; a graph's walk, of some
// thousand rows whatever their number, is made longer by as much as the filter leaves out.
bool IsSelective(int64_t visible, int64_t rows) { return visible <= std::max<int64_t>(rows / 16, 4096); }

}  // namespace

View::View(std::shared_ptr<const Generation> generation, std::shared_ptr<const Overlay> overlay, int64_t overlay_rows,
           RowMask hidden_body, RowMask hidden_overlay, int64_t revision)
    : generation_(std::move(generation)),
      overlay_(std::move(overlay)),
      overlay_rows_(overlay_rows),
      hidden_body_(std::move(hidden_body)),
      hidden_overlay_(std::move(hidden_overlay)),
      revision_(revision) {}

std::shared_ptr<const View> View::Bare(std::shared_ptr<const Generation> generation) {
  const int64_t revision = generation->manifest().base_revision();
  return std::make_shared<const View>(std::move(generation), nullptr, 0, RowMask(), RowMask(), revision);
}

int64_t View::passage_count() const { return generation_->row_count() - hidden_body_.hidden_count() + overlay_count(); }
int64_t View::overlay_count() const { return overlay_rows_ - hidden_overlay_.hidden_count(); }

const std::string& View::overlay_id(int64_t row) const { return overlay_->id(row); }

int64_t View::overlay_memory_bytes() const {
  return (overlay_ ? overlay_->memory_bytes() : 0) + hidden_body_.memory_bytes() + hidden_overlay_.memory_bytes();
}

absl::Status View::CheckFilter() const {
  if (generation_->columns() != nullptr || generation_->row_count() == 0) return absl::OkStatus();
  return ErrorWithReason(
      absl::FailedPreconditionError(absl::StrCat("generation ", generation_->id(), " was built without columns of metadata to filter by; a new build has them")),
      "NO_METADATA_COLUMNS", {{"generation", generation_->id()}});
}

absl::StatusOr<FilteredRows> View::Filter(const FilterExpression& filter, const RequestLimits& limits) const {
  LOCI_RETURN_IF_ERROR(CheckFilter());
  FilteredRows filtered{.hidden_body = hidden_body_, .hidden_overlay = hidden_overlay_};  // Also where no row is looked at.
  const int64_t body_rows = generation_->row_count();
  if (body_rows > 0) {
    const PassageFile& passages = generation_->passages();
    const IdLookup ids{.find_row = [&](std::string_view id) { return passages.FindRow(id); },
                       .read_id = [&](int64_t row) { return passages.ReadId(row); }};
    LOCI_ASSIGN_OR_RETURN(const RowSet rows, EvaluateFilter(filter, *generation_->columns(), ids, limits));
    filtered.hidden_body = hidden_body_.RestrictedTo(body_rows, rows.ToWords(body_rows));
    filtered.match_count = body_rows - filtered.hidden_body.hidden_count();
  }
  if (overlay_count() > 0) {
    std::vector<uint64_t> visible(static_cast<size_t>((overlay_rows_ + 63) / 64));
    for (int64_t row = 0; row < overlay_rows_; ++row) {
      if (row % kFilterRows == 0) LOCI_RETURN_IF_ERROR(limits.Check(RealClock().NowMicros()));
      if (hidden_overlay_.hidden(row) || !Matches(filter, overlay_->metadata(row), overlay_->id(row))) continue;
      visible[static_cast<size_t>(row / 64)] |= uint64_t{1} << (row % 64);
    }
    filtered.hidden_overlay = hidden_overlay_.RestrictedTo(overlay_rows_, visible);
    filtered.match_count += overlay_rows_ - filtered.hidden_overlay.hidden_count();
  }
  return filtered;
}

absl::StatusOr<ViewSearchResult> View::Search(MatrixView<const float> queries, const IndexSearchOptions& given_options,
                                              const FilteredRows* filtered) const {
  const PassageIndex& index = generation_->index();
  const RowMask& hidden_body = filtered != nullptr ? filtered->hidden_body : hidden_body_;
  const RowMask& hidden_overlay = filtered != nullptr ? filtered->hidden_overlay : hidden_overlay_;
  IndexSearchOptions options = given_options;
  if (filtered != nullptr && IsSelective(generation_->row_count() - hidden_body.hidden_count(), generation_->row_count())) options.exact = true;
  const int top_k = options.top_k;
  // The index checks the options, so that there is one place that does; only what sizes the buffer is looked at here.
  const int64_t slots = top_k >= 1 && top_k <= kMaxTopK ? top_k : 0;
  std::vector<RowHit> body(static_cast<size_t>(queries.rows * slots));
  LOCI_RETURN_IF_ERROR(index.Search(queries, options, hidden_body, body.data()));
  std::vector<std::vector<RowHit>> written(static_cast<size_t>(queries.rows));
  if (overlay_rows_ > hidden_overlay.hidden_count()) {
    LOCI_ASSIGN_OR_RETURN(written, overlay_->Search(queries, top_k, overlay_rows_, hidden_overlay, options.limits));
  }

  std::vector<std::string> ids;  // One a slot of `body`.
  LOCI_RETURN_IF_ERROR(ReadIds(body, options.limits, &ids));

  ViewSearchResult result;
  result.exact = index.IsExact(options, hidden_body);
  result.hits.resize(static_cast<size_t>(queries.rows));
  for (int64_t query = 0; query < queries.rows; ++query) {
    int64_t body_hit = query * slots;
    const int64_t body_end = body_hit + slots;
    const std::vector<RowHit>& overlay_hits = written[static_cast<size_t>(query)];
    size_t next = 0;
    std::vector<ViewHit>& hits = result.hits[static_cast<size_t>(query)];
    while (hits.size() < static_cast<size_t>(slots)) {
      const bool have_body = body_hit != body_end && body[body_hit].row >= 0;
      const bool have_overlay = next < overlay_hits.size();
      if (!have_body && !have_overlay) break;
      bool take_body = have_body;
      if (have_body && have_overlay) {
        const float score = body[body_hit].score;
        const RowHit& other = overlay_hits[next];
        take_body = score == other.score ? ids[body_hit] < overlay_->id(other.row) : score > other.score;
      }
      if (take_body) {
        hits.push_back({{false, body[body_hit].row}, body[body_hit].score, std::move(ids[body_hit])});
        ++body_hit;
      } else {
        const RowHit& hit = overlay_hits[next++];
        hits.push_back({{true, hit.row}, hit.score, overlay_->id(hit.row)});
      }
    }
  }
  return result;
}

std::vector<ScanSegment> View::ScanSegments(const FilteredRows* filtered) const {
  std::vector<ScanSegment> segments;
  if (const int64_t rows = generation_->row_count(); rows > 0) {
    const VectorFile& vectors = generation_->vectors();
    segments.push_back({.data = vectors.row(0), .type = vectors.element_type(), .rows = rows,
                        .hidden = filtered != nullptr ? &filtered->hidden_body : &hidden_body_});
  }
  // The overlay's chunks begin at multiples of 64 rows: pieces of so many are never split, and are joined where they follow each other in memory.
  constexpr int64_t kPiece = 64;
  const int64_t body_segments = static_cast<int64_t>(segments.size());
  for (int64_t row = 0; row < overlay_rows_; row += kPiece) {
    const float* const data = overlay_->vector(row);
    const int64_t rows = std::min(kPiece, overlay_rows_ - row);
    if (static_cast<int64_t>(segments.size()) > body_segments) {
      ScanSegment& last = segments.back();
      if (static_cast<const float*>(last.data) + last.rows * dim() == data) {
        last.rows += rows;
        continue;
      }
    }
    segments.push_back({.data = data, .type = ElementType::kFloat32, .in_overlay = true, .first_row = row, .rows = rows,
                        .hidden = filtered != nullptr ? &filtered->hidden_overlay : &hidden_overlay_});
  }
  return segments;
}

PrecisionSet View::Precisions(ViewRow row) const {
  return row.in_overlay ? PrecisionSet(overlay_->precision(row.row)) : PrecisionsOf(generation_->manifest());
}

PrecisionSet View::Precisions() const {
  PrecisionSet precisions;
  if (generation_->row_count() > hidden_body_count()) precisions = PrecisionsOf(generation_->manifest());
  for (int64_t row = 0; row < overlay_rows_; ++row) {
    if (IsAlive({true, row})) precisions.Add(overlay_->precision(row));
  }
  return precisions;
}

absl::Status View::ReadIds(std::span<const RowHit> hits, const RequestLimits& limits, std::vector<std::string>* ids) const {
  constexpr size_t kBatch = 256;
  ids->assign(hits.size(), "");
  std::vector<int64_t> rows;
  std::vector<size_t> places;
  std::vector<std::string> some;
  for (size_t i = 0; i < hits.size();) {
    rows.clear();
    places.clear();
    for (; i < hits.size() && rows.size() < kBatch; ++i) {
      if (hits[i].row < 0) continue;
      rows.push_back(hits[i].row);
      places.push_back(i);
    }
    if (rows.empty()) break;
    LOCI_RETURN_IF_ERROR(limits.Check(RealClock().NowMicros()));
    LOCI_RETURN_IF_ERROR(generation_->passages().ReadIds(rows, &some));
    for (size_t k = 0; k < places.size(); ++k) (*ids)[places[k]] = std::move(some[k]);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::optional<ViewRow>> View::Find(std::string_view id) const {
  if (overlay_) {
    if (const std::optional<Overlay::Found> found = overlay_->Find(id, revision_)) {
      if (found->deleted()) return std::optional<ViewRow>();
      return std::optional<ViewRow>(ViewRow{true, found->row});
    }
  }
  LOCI_ASSIGN_OR_RETURN(const std::optional<int64_t> row, generation_->passages().FindRow(id));
  if (!row.has_value()) return std::optional<ViewRow>();
  return std::optional<ViewRow>(ViewRow{false, *row});
}

absl::Status View::Read(std::span<const ViewRow> rows, std::vector<loci::v1::Passage>* passages) const {
  std::vector<int64_t> body_rows;
  for (const ViewRow& row : rows) {
    if (!row.in_overlay) body_rows.push_back(row.row);
  }
  std::vector<loci::v1::Passage> from_body;
  if (!body_rows.empty()) LOCI_RETURN_IF_ERROR(generation_->passages().Read(body_rows, &from_body));
  passages->clear();
  passages->resize(rows.size());
  size_t next = 0;
  for (size_t i = 0; i < rows.size(); ++i) {
    if (!rows[i].in_overlay) {
      (*passages)[i] = std::move(from_body[next++]);
    } else if (rows[i].row >= overlay_rows_ || !(*passages)[i].ParseFromString(overlay_->serialized_passage(rows[i].row))) {
      return absl::InternalError(absl::StrCat("overlay row ", rows[i].row, " of ", overlay_rows_, " can't be read"));
    }
  }
  return absl::OkStatus();
}

absl::Status View::CopyVector(ViewRow row, float* out) const {
  if (row.in_overlay) {
    std::memcpy(out, overlay_->vector(row.row), sizeof(float) * static_cast<size_t>(dim()));
    return absl::OkStatus();
  }
  generation_->vectors().CopyRow(row.row, out);
  return generation_->vectors().Check();
}

}  // namespace loci
