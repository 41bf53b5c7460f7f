#include "index/row_set.h"

#include <roaring/roaring.h>

#include <algorithm>
#include <bit>
#include <new>
#include <utility>

namespace loci {
namespace {

// A list of more than this share of all rows is put into order by their bits, a shorter one by sorting.
constexpr int64_t kSortedShare = 64;

}  // namespace

void RowSet::Free::operator()(roaring_bitmap_s* bitmap) const { roaring_bitmap_free(bitmap); }

// What Roaring could not allocate is null; nothing of ours could go on after that.
RowSet::RowSet(roaring_bitmap_s* bitmap) : bitmap_(bitmap) {
  if (bitmap == nullptr) throw std::bad_alloc();
}

RowSet::RowSet() : RowSet(roaring_bitmap_create()) {}

RowSet RowSet::Range(int64_t begin, int64_t end) {
  if (begin >= end) return RowSet();
  return RowSet(roaring_bitmap_from_range(static_cast<uint64_t>(begin), static_cast<uint64_t>(end), 1));
}

RowSet RowSet::FromSorted(std::span<const uint32_t> rows) { return RowSet(roaring_bitmap_of_ptr(rows.size(), rows.data())); }

RowSet RowSet::FromRows(std::vector<uint32_t> rows, int64_t row_count) {
  if (!std::is_sorted(rows.begin(), rows.end())) {
    if (static_cast<int64_t>(rows.size()) < row_count / kSortedShare) {
      std::sort(rows.begin(), rows.end());
    } else {
      std::vector<uint64_t> words(static_cast<size_t>((row_count + 63) / 64));
      for (const uint32_t row : rows) words[row / 64] |= uint64_t{1} << (row % 64);
      rows.clear();
      for (size_t i = 0; i < words.size(); ++i) {
        for (uint64_t bits = words[i]; bits != 0; bits &= bits - 1) rows.push_back(static_cast<uint32_t>(64 * i + std::countr_zero(bits)));
      }
    }
  }
  return FromSorted(rows);
}

RowSet RowSet::Union(std::span<const RowSet* const> sets) {
  if (sets.empty()) return RowSet();
  if (sets.size() == 1) return sets[0]->Copy();
  std::vector<const roaring_bitmap_t*> bitmaps;
  for (const RowSet* const set : sets) bitmaps.push_back(set->bitmap_.get());
  return RowSet(roaring_bitmap_or_many(bitmaps.size(), bitmaps.data()));
}

RowSet RowSet::Copy() const { return RowSet(roaring_bitmap_copy(bitmap_.get())); }

void RowSet::IntersectWith(const RowSet& other) { roaring_bitmap_and_inplace(bitmap_.get(), other.bitmap_.get()); }

void RowSet::UniteWith(const RowSet& other) { roaring_bitmap_or_inplace(bitmap_.get(), other.bitmap_.get()); }

RowSet RowSet::Complement(int64_t row_count) const {
  return RowSet(roaring_bitmap_flip(bitmap_.get(), 0, static_cast<uint64_t>(row_count)));
}

bool RowSet::empty() const { return roaring_bitmap_is_empty(bitmap_.get()); }

int64_t RowSet::count() const { return static_cast<int64_t>(roaring_bitmap_get_cardinality(bitmap_.get())); }

bool RowSet::contains(int64_t row) const { return roaring_bitmap_contains(bitmap_.get(), static_cast<uint32_t>(row)); }

int64_t RowSet::memory_bytes() const { return static_cast<int64_t>(sizeof(*this) + roaring_bitmap_portable_size_in_bytes(bitmap_.get())); }

std::vector<uint64_t> RowSet::ToWords(int64_t row_count) const {
  std::vector<uint64_t> words(static_cast<size_t>((row_count + 63) / 64));
  std::vector<uint32_t> rows(static_cast<size_t>(count()));
  roaring_bitmap_to_uint32_array(bitmap_.get(), rows.data());
  for (const uint32_t row : rows) words[row / 64] |= uint64_t{1} << (row % 64);
  return words;
}

}  // namespace loci
