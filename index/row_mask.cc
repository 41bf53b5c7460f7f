#include "index/row_mask.h"

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

int64_t RowMask::memory_bytes() const {
  int64_t bytes = static_cast<int64_t>(pages_.capacity() * sizeof(pages_[0]));
  for (const auto& page : pages_) bytes += page == nullptr ? 0 : static_cast<int64_t>(sizeof(Page));
  return bytes;
}

}  // namespace loci
