// What a request holds: a generation's body and the overlay of later writes, at one revision.
//
//   std::shared_ptr<const View> view = holder.Get()->view;
//   LOCI_ASSIGN_OR_RETURN(auto results, view->Search(queries, options));
//   LOCI_RETURN_IF_ERROR(view->Read(results[0], &passages));     // the passages found are the passages fetched
#ifndef LOCI_INDEX_VIEW_H_
#define LOCI_INDEX_VIEW_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "index/filter_expression.h"
#include "index/generation.h"
#include "index/passage_index.h"
#include "index/row_mask.h"
#include "index/scan_segment.h"

namespace loci {

struct ViewHit {
  ViewRow row;
  float score = 0;
  std::string id;
};

struct ViewSearchResult {
  std::vector<std::vector<ViewHit>> hits;  // One list a query, at most top_k, best first, ties by id (bytewise).
  bool exact = false;
};

// The passages of one view that a filter lets through: the others are hidden, beside those that were hidden before.
struct FilteredRows {
  RowMask hidden_body;
  RowMask hidden_overlay;
  int64_t match_count = 0;
};

class Overlay;  // Append-only chunks that views share; see overlay.h.

// Cheap to make: an upsert or deletion makes a new view that shares the overlay's chunks and the mask's pages with the old one.
// Immutable after construction.
class View {
 public:
  View(std::shared_ptr<const Generation> generation, std::shared_ptr<const Overlay> overlay, int64_t overlay_rows,
       RowMask hidden_body, RowMask hidden_overlay, int64_t revision);

  // The bare body of a generation, as an inactive one that a request names: revision is its base_revision.
  static std::shared_ptr<const View> Bare(std::shared_ptr<const Generation> generation);

  const Generation& generation() const { return *generation_; }
  const std::shared_ptr<const Generation>& shared_generation() const { return generation_; }
  int64_t revision() const { return revision_; }
  int64_t passage_count() const;  // Alive.
  int64_t overlay_count() const;  // Alive passages of the overlay.
  int64_t hidden_body_count() const { return hidden_body_.hidden_count(); }  // Rows of the body that writes replaced or deleted.
  int64_t overlay_row_count() const { return overlay_rows_; }  // All of it that Read and CopyVector may be asked for, replaced and deleted ones too.
  int dim() const { return generation_->dim(); }
  int64_t overlay_memory_bytes() const;

  // Body under the mask plus overlay, merged by (score, id). `queries` [n, dim()], finite. With options.exact, or an exact index, equal
  // bit for bit to the search of a generation rebuilt with these passages. Errors as PassageIndex::Search. Blocks.
  // With `filtered`, of this view's Filter, only among those passages; where they are few an approximate index is not asked, and the result
  // is exact. It never has fewer than top_k hits where so many passages match.
  absl::StatusOr<ViewSearchResult> Search(MatrixView<const float> queries, const IndexSearchOptions& options,
                                          const FilteredRows* filtered = nullptr) const;

  // Reads no passage: the body's columns, and what the overlay keeps of each row. FAILED_PRECONDITION as CheckFilter; CANCELLED or
  // DEADLINE_EXCEEDED by `limits`. Blocks.
  absl::StatusOr<FilteredRows> Filter(const FilterExpression& filter, const RequestLimits& limits) const;
  // FAILED_PRECONDITION, reason NO_METADATA_COLUMNS with `generation`, where the body can't be filtered.
  absl::Status CheckFilter() const;

  // Every row of the view, hidden ones too, for scans of all passages (softmax_scan.h): the body, then the overlay's pieces. With `filtered`, of this
  // view's Filter, what it leaves out is hidden as well. Once rows of the body were read: generation().vectors().Check().
  std::vector<ScanSegment> ScanSegments(const FilteredRows* filtered = nullptr) const;

  absl::StatusOr<std::optional<ViewRow>> Find(std::string_view id) const;  // nullopt: not there, or deleted.
  absl::Status Read(std::span<const ViewRow> rows, std::vector<loci::v1::Passage>* passages) const;
  absl::Status CopyVector(ViewRow row, float* out) const;  // [dim], as it is scored. DATA_LOSS as MappedFile::Check.

  // Whether a row of [0, generation().row_count()) or of [0, overlay_row_count()) is there: neither replaced nor deleted.
  bool IsAlive(ViewRow row) const { return !(row.in_overlay ? hidden_overlay_ : hidden_body_).hidden(row.row); }
  // What the vector of a row, which is there, was computed in: of the body, all that its generation's were.
  PrecisionSet Precisions(ViewRow row) const;
  // Those of all passages that are there; of the body as above, or none where nothing of it is left. Looks at every row of the overlay.
  PrecisionSet Precisions() const;
  const std::string& overlay_id(int64_t row) const;  // `row` below overlay_row_count().

 private:
  friend class Store;
  // The ids of the body's `hits`, "" for a missing one. CANCELLED or DEADLINE_EXCEEDED by `limits`, looked at every few hundred.
  absl::Status ReadIds(std::span<const RowHit> hits, const RequestLimits& limits, std::vector<std::string>* ids) const;

  std::shared_ptr<const Generation> generation_;
  std::shared_ptr<const Overlay> overlay_;  // Null: no writes.
  int64_t overlay_rows_ = 0;  // Rows of the overlay that this view knows.
  RowMask hidden_body_;       // Replaced or deleted rows.
  RowMask hidden_overlay_;
  int64_t revision_ = 0;
};

}  // namespace loci

#endif  // LOCI_INDEX_VIEW_H_
