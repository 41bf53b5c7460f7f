// A set of rows as a compressed bitmap (Roaring): what conditions of a filter give, and how they are joined.
//
//   RowSet rows = RowSet::FromRows(english);
//   rows.IntersectWith(RowSet::FromRows(recent));
//   RowMask hidden = deleted.RestrictedTo(row_count, rows.ToWords(row_count));
#ifndef LOCI_INDEX_ROW_SET_H_
#define LOCI_INDEX_ROW_SET_H_

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

struct roaring_bitmap_s;

namespace loci {

// Rows that a set can hold are below this.
inline constexpr int64_t kMaxRowSetRows = int64_t{1} << 32;

// Thread-compatible.
class RowSet {
 public:
  RowSet();  // Empty.
  RowSet(RowSet&&) noexcept = default;
  RowSet& operator=(RowSet&&) noexcept = default;

  static RowSet Range(int64_t begin, int64_t end);  // [begin, end)
  // Ascending; repeats allowed.
  static RowSet FromSorted(std::span<const uint32_t> rows);
  // Any order, repeats allowed, each below `row_count`. May reorder `rows`.
  static RowSet FromRows(std::vector<uint32_t> rows, int64_t row_count);
  // The union of any number of sets.
  static RowSet Union(std::span<const RowSet* const> sets);

  RowSet Copy() const;
  void IntersectWith(const RowSet& other);
  void UniteWith(const RowSet& other);
  RowSet Complement(int64_t row_count) const;  // [0, row_count) without this.

  bool empty() const;
  int64_t count() const;
  bool contains(int64_t row) const;
  int64_t memory_bytes() const;  // About.
  // Bit row % 64 of word row / 64 is set for the rows of the set, which are all below `row_count`.
  std::vector<uint64_t> ToWords(int64_t row_count) const;

 private:
  struct Free {
    void operator()(roaring_bitmap_s* bitmap) const;
  };
  explicit RowSet(roaring_bitmap_s* bitmap);
  std::unique_ptr<roaring_bitmap_s, Free> bitmap_;
};

}  // namespace loci

#endif  // LOCI_INDEX_ROW_SET_H_
