// What a scan over every passage of a view reads: rows in memory and what hides some of them.
#ifndef LOCI_INDEX_SCAN_SEGMENT_H_
#define LOCI_INDEX_SCAN_SEGMENT_H_

#include <compare>
#include <cstdint>

#include "base/vector_type.h"
#include "index/row_mask.h"

namespace loci {

// A passage of a view: a row of the body or of the overlay.
struct ViewRow {
  bool in_overlay = false;
  int64_t row = -1;
  auto operator<=>(const ViewRow&) const = default;
};

// The rows [first_row, first_row + rows) of the body or of the overlay, [rows, dim] row-major in `type`. `hidden` tells of row r in bit r,
// counted from the beginning of the body or the overlay. Borrowed: valid as long as the view and the filter that it is of.
struct ScanSegment {
  const void* data = nullptr;
  ElementType type = ElementType::kFloat32;
  bool in_overlay = false;
  int64_t first_row = 0;  // A multiple of 64.
  int64_t rows = 0;
  const RowMask* hidden = nullptr;  // Null: nothing is hidden.
};

}  // namespace loci

#endif  // LOCI_INDEX_SCAN_SEGMENT_H_
