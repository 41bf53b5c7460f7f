#include "index/row_mask.h"

#include <set>

#include <gtest/gtest.h>

namespace loci {
namespace {

TEST(RowMask, HidesNothingAtFirst) {
  const RowMask mask;
  EXPECT_FALSE(mask.hidden(0));
  EXPECT_FALSE(mask.hidden(1'000'000'000));
  EXPECT_EQ(mask.word(64), 0u);
  EXPECT_EQ(mask.hidden_count(), 0);
  EXPECT_EQ(mask.memory_bytes(), 0);
}

TEST(RowMask, HidesTheRowsGivenAndNoOthers) {
  const std::set<int64_t> hidden = {0, 1, 63, 64, 32767, 32768, 90'000, 200'001};
  const std::vector<int64_t> rows(hidden.rbegin(), hidden.rend());
  const RowMask mask = RowMask().WithHidden(rows);
  EXPECT_EQ(mask.hidden_count(), static_cast<int64_t>(hidden.size()));
  for (int64_t row = 0; row < 250'000; ++row) {
    ASSERT_EQ(mask.hidden(row), hidden.count(row) == 1) << row;
    ASSERT_EQ((mask.word(row / 64 * 64) >> (row % 64)) & 1, hidden.count(row)) << row;
  }
}

TEST(RowMask, IsRestrictedToTheRowsThatAreVisible) {
  for (const int64_t rows : {1, 63, 64, 65, 32768, 32769, 100'001}) {
    std::vector<uint64_t> visible(static_cast<size_t>((rows + 63) / 64));
    const auto is_visible = [&](int64_t row) { return row % 5 == 0 || row > 40'000; };
    for (int64_t row = 0; row < rows; ++row) {
      if (is_visible(row)) visible[row / 64] |= uint64_t{1} << (row % 64);
    }
    const RowMask before = RowMask().WithHidden(std::vector<int64_t>{0, rows - 1});
    const RowMask mask = before.RestrictedTo(rows, visible);
    int64_t hidden_count = 0;
    for (int64_t row = 0; row < rows; ++row) {
      const bool hidden = row == 0 || row == rows - 1 || !is_visible(row);
      hidden_count += hidden;
      ASSERT_EQ(mask.hidden(row), hidden) << row << " of " << rows;
    }
    EXPECT_EQ(mask.hidden_count(), hidden_count);
    EXPECT_FALSE(mask.hidden(rows));
    EXPECT_EQ(before.hidden_count(), rows == 1 ? 1 : 2);
  }
}

TEST(RowMask, CountsARepeatedRowOnce) {
  const std::vector<int64_t> rows = {7, 7, 7};
  const RowMask once = RowMask().WithHidden(rows);
  EXPECT_EQ(once.hidden_count(), 1);
  EXPECT_EQ(once.WithHidden(rows).hidden_count(), 1);
}

TEST(RowMask, LeavesTheOldVersionAsItWas) {
  const std::vector<int64_t> first = {5};
  const std::vector<int64_t> second = {6, 40'000};
  const RowMask old = RowMask().WithHidden(first);
  const RowMask next = old.WithHidden(second);
  EXPECT_TRUE(old.hidden(5));
  EXPECT_FALSE(old.hidden(6));
  EXPECT_FALSE(old.hidden(40'000));
  EXPECT_EQ(old.hidden_count(), 1);
  EXPECT_TRUE(next.hidden(5));
  EXPECT_TRUE(next.hidden(6));
  EXPECT_TRUE(next.hidden(40'000));
  EXPECT_EQ(next.hidden_count(), 3);
}

TEST(RowMask, StoresOnlyPagesWhereSomethingIsHidden) {
  const std::vector<int64_t> far = {100 * RowMask::kRowsPerPage};
  const RowMask mask = RowMask().WithHidden(far);
  EXPECT_LT(mask.memory_bytes(), 3 * static_cast<int64_t>(sizeof(RowMask::Page)));
  EXPECT_FALSE(mask.hidden(50 * RowMask::kRowsPerPage));
}

}  // namespace
}  // namespace loci
