#include "index/row_mask.h"

#include <algorithm>
#include <bit>

namespace loci {

RowMask RowMask::WithHidden(std::span<const int64_t> rows) const {
  RowMask next = *this;
  // Pages made by this call may be changed until it returns; all others are shared.
  std::vector<Page*> own(next.pages_.size(), nullptr);
  for (const int64_t row : rows) {
    const size_t page = static_cast<size_t>(row / kRowsPerPage);
    if (page >= next.pages_.size()) {
      next.pages_.resize(page + 1);
      own.resize(page + 1, nullptr);
    }
    if (own[page] == nullptr) {
      auto copy = next.pages_[page] == nullptr ? std::make_shared<Page>() : std::make_shared<Page>(*next.pages_[page]);
      own[page] = copy.get();
      next.pages_[page] = std::move(copy);
    }
    const int64_t bit = row % kRowsPerPage;
    uint64_t& word = (*own[page])[bit / 64];
    const uint64_t flag = uint64_t{1} << (bit % 64);
    if ((word & flag) == 0) {
      word |= flag;
      ++next.hidden_count_;
    }
  }
  return next;
}

RowMask RowMask::RestrictedTo(int64_t row_count, std::span<const uint64_t> visible) const {
  RowMask next;
  for (int64_t first = 0; first < row_count; first += kRowsPerPage) {
    auto page = std::make_shared<Page>();
    int64_t hidden_count = 0;
    const int64_t rows = std::min(kRowsPerPage, row_count - first);
    for (int64_t offset = 0; offset < rows; offset += 64) {
      const uint64_t valid = rows - offset >= 64 ? ~uint64_t{0} : (uint64_t{1} << (rows - offset)) - 1;
      const uint64_t bits = (word(first + offset) | ~visible[static_cast<size_t>((first + offset) / 64)]) & valid;
      (*page)[static_cast<size_t>(offset / 64)] = bits;
      hidden_count += std::popcount(bits);
    }
    next.pages_.push_back(hidden_count == 0 ? nullptr : std::move(page));
    next.hidden_count_ += hidden_count;
  }
  return next;
}

int64_t RowMask::memory_bytes() const {
  int64_t bytes = static_cast<int64_t>(pages_.capacity() * sizeof(pages_[0]));
  for (const auto& page : pages_) bytes += page == nullptr ? 0 : static_cast<int64_t>(sizeof(Page));
  return bytes;
}

}  // namespace loci
