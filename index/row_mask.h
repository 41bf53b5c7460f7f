// Which rows are hidden: a bitmap in pages that versions share.
//
//   RowMask mask;                       // nothing hidden
//   RowMask next = mask.WithHidden({7, 90'000});   // copies two pages' pointers and two pages; `mask` is as before
#ifndef LOCI_INDEX_ROW_MASK_H_
#define LOCI_INDEX_ROW_MASK_H_

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace loci {

// Rows are hidden by a set bit. A page covers kRowsPerPage rows; a page where nothing is hidden is not stored. Copying a mask
// copies page pointers only. Immutable after construction.
class RowMask {
 public:
  static constexpr int64_t kRowsPerPage = 32768;
  static constexpr int64_t kWordsPerPage = kRowsPerPage / 64;
  using Page = std::array<uint64_t, kWordsPerPage>;

  RowMask() = default;

  // This mask with `rows` (each >= 0, any order, repeats allowed) hidden too.
  RowMask WithHidden(std::span<const int64_t> rows) const;

  // This mask with those of the rows [0, row_count) hidden too whose bit (row % 64 of word row / 64) in `visible` is not set. `visible`
  // has a word for each 64 rows, the last may be begun. This mask hides no row from row_count on.
  RowMask RestrictedTo(int64_t row_count, std::span<const uint64_t> visible) const;

  bool hidden(int64_t row) const {
    const int64_t page = row / kRowsPerPage;
    if (page >= static_cast<int64_t>(pages_.size()) || pages_[page] == nullptr) return false;
    const int64_t bit = row % kRowsPerPage;
    return ((*pages_[page])[bit / 64] >> (bit % 64)) & 1;
  }

  // The 64 rows from `first_row` (a multiple of 64) on: bit i set where first_row + i is hidden.
  uint64_t word(int64_t first_row) const {
    const int64_t page = first_row / kRowsPerPage;
    if (page >= static_cast<int64_t>(pages_.size()) || pages_[page] == nullptr) return 0;
    return (*pages_[page])[(first_row % kRowsPerPage) / 64];
  }

  int64_t hidden_count() const { return hidden_count_; }
  int64_t memory_bytes() const;

 private:
  std::vector<std::shared_ptr<const Page>> pages_;
  int64_t hidden_count_ = 0;
};

}  // namespace loci

#endif  // LOCI_INDEX_ROW_MASK_H_
