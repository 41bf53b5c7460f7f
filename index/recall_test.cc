#include "index/recall.h"

#include <cmath>
#include <string>

#include <gtest/gtest.h>

#include "index/exact_index.h"
#include "index/vector_file_testing.h"

namespace loci {
namespace {

constexpr int kDim = 4;

std::shared_ptr<const VectorFile> MakeFile(int64_t row_count) {
  std::vector<float> rows;
  for (int64_t r = 0; r < row_count; ++r) rows.insert(rows.end(), {static_cast<float>(r / 2), 1, -1, 0});  // Pairs of equal rows.
  return MakeVectorFile(rows, kDim);
}

// Finds the exact hits but for those whose row is not shown.
class PartialIndex : public PassageIndex {
 public:
  PartialIndex(const ExactIndex& exact, RowMask missed) : exact_(exact), missed_(std::move(missed)) {}
  int64_t row_count() const override { return exact_.row_count(); }
  int dim() const override { return kDim; }
  std::string name() const override { return "partial"; }
  int64_t memory_bytes() const override { return 0; }
  bool IsExact(const IndexSearchOptions&, const RowMask&) const override { return false; }
  absl::Status Search(MatrixView<const float> queries, const IndexSearchOptions& options, const RowMask&, RowHit* hits) const override {
    return exact_.Search(queries, options, missed_, hits);
  }

 private:
  const ExactIndex& exact_;
  RowMask missed_;
};

TEST(MeasureRecall, IsThePartOfTheExactHitsThatWasFound) {
  const ExactIndex exact(MakeFile(40), nullptr);
  const std::vector<float> queries(70 * kDim, 1.0f);  // Best: rows 38, 39, 36, 37, ...
  const MatrixView<const float> view = {queries.data(), 70, kDim};
  EXPECT_EQ(MeasureRecall(exact, exact, view, 10, RequestLimits()).value(), 1.0);
  const std::vector<int64_t> two = {38, 35};
  EXPECT_DOUBLE_EQ(MeasureRecall(PartialIndex(exact, RowMask().WithHidden(two)), exact, view, 10, RequestLimits()).value(), 0.8);
  std::vector<int64_t> all_but_one;
  for (int64_t r = 0; r < 39; ++r) all_but_one.push_back(r);
  EXPECT_DOUBLE_EQ(MeasureRecall(PartialIndex(exact, RowMask().WithHidden(all_but_one)), exact, view, 10, RequestLimits()).value(), 0.1);
}

TEST(MeasureRecall, TakesEqualScoresForEachOther) {
  const ExactIndex exact(MakeFile(40), nullptr);
  const std::vector<float> query(kDim, 1.0f);
  const std::vector<int64_t> first = {38};  // 39 scores the same.
  const PartialIndex other(exact, RowMask().WithHidden(first));
  EXPECT_EQ(MeasureRecall(other, exact, {query.data(), 1, kDim}, 1, RequestLimits()).value(), 1.0);
}

TEST(MeasureRecall, CountsOnlyRowsThatThereAre) {
  const ExactIndex three(MakeFile(3), nullptr);
  const std::vector<float> query(kDim, 1.0f);
  EXPECT_EQ(MeasureRecall(three, three, {query.data(), 1, kDim}, 10, RequestLimits()).value(), 1.0);
  EXPECT_EQ(MeasureRecall(three, three, {query.data(), 0, kDim}, 10, RequestLimits()).value(), 1.0);
  const ExactIndex none(MakeFile(0), nullptr);
  EXPECT_EQ(MeasureRecall(none, none, {query.data(), 1, kDim}, 10, RequestLimits()).value(), 1.0);
}

TEST(MakeMidpointQueries, AreNotRowsAndTheSameEachTime) {
  const auto file = MakeFile(40);
  const std::vector<float> queries = MakeMidpointQueries(*file, 50);
  ASSERT_EQ(queries.size(), 50u * kDim);
  EXPECT_EQ(queries, MakeMidpointQueries(*file, 50));
  for (int q = 0; q < 50; ++q) {
    for (int d = 0; d < kDim; ++d) EXPECT_TRUE(std::isfinite(queries[q * kDim + d]));
    EXPECT_NE(queries[q * kDim + 1], 1.0f);
  }
  EXPECT_TRUE(MakeMidpointQueries(*MakeFile(1), 50).empty());
}

}  // namespace
}  // namespace loci
