#include "index/integer_lists.h"

#include <faiss/IndexFlat.h>
#include <faiss/IndexScalarQuantizer.h>
#include <faiss/impl/FaissException.h>
#include <faiss/index_factory.h>
#include <faiss/utils/Heap.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "index/faiss_limits.h"
#include "index/ivf_testing.h"

namespace loci {
namespace {

using idx_t = faiss::Index::idx_t;

struct Case {
  int dim;
  bool by_residual;
};
class IntegerListsTest : public ::testing::TestWithParam<Case> {};

TEST_P(IntegerListsTest, ScoresAreFaissesButForTheRoundingOfTheQuery) {
  const int dim = GetParam().dim;
  const std::vector<float> rows = RandomRows(203, dim, 1), query = RandomRows(1, dim, 2);
  const std::unique_ptr<faiss::Index> theirs = BuildIvf("IVF3,SQ8", rows, dim, GetParam().by_residual);
  const std::unique_ptr<faiss::Index> ours = WithIntegerLists(BuildIvf("IVF3,SQ8", rows, dim, GetParam().by_residual));
  const auto& their_lists = dynamic_cast<faiss::IndexIVFScalarQuantizer&>(*theirs);
  const auto& our_lists = dynamic_cast<faiss::IndexIVFScalarQuantizer&>(*ours);
  const std::unique_ptr<faiss::InvertedListScanner> their_scanner(their_lists.get_InvertedListScanner(false, nullptr));
  const std::unique_ptr<faiss::InvertedListScanner> our_scanner(our_lists.get_InvertedListScanner(false, nullptr));
  their_scanner->set_query(query.data());
  our_scanner->set_query(query.data());
  float largest = 0;
  for (int d = 0; d < dim; ++d) largest = std::max(largest, std::abs(query[d] * their_lists.sq.trained[dim + d]));
  const float step = largest / 63 / 255;
  for (size_t list = 0; list < 3; ++list) {
    const float coarse = 0.25f * static_cast<float>(list);
    their_scanner->set_list(static_cast<idx_t>(list), coarse);
    our_scanner->set_list(static_cast<idx_t>(list), coarse);
    const size_t count = our_lists.get_list_size(list);
    ASSERT_EQ(count, their_lists.get_list_size(list));
    const uint8_t* const codes = our_lists.invlists->get_codes(list);
    std::vector<float> scores(count, -std::numeric_limits<float>::infinity());
    std::vector<idx_t> labels(count, -1);
    our_scanner->scan_codes(count, codes, our_lists.invlists->get_ids(list), scores.data(), labels.data(), count);
    for (size_t i = 0; i < count; ++i) {
      const uint8_t* const code = codes + i * our_lists.code_size;
      double bound = 1e-4;  // Of float32 sums.
      for (int d = 0; d < dim; ++d) bound += 0.5 * step * std::abs(code[d] - 127.5);
      const float score = our_scanner->distance_to_code(code);
      EXPECT_NEAR(score, their_scanner->distance_to_code(code), bound) << "list " << list << " code " << i;
      const auto found = std::find(labels.begin(), labels.end(), our_lists.invlists->get_ids(list)[i]);
      ASSERT_NE(found, labels.end());
      EXPECT_EQ(scores[found - labels.begin()], score);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Dimensions, IntegerListsTest,
                         ::testing::Values(Case{1, true}, Case{7, true}, Case{31, false}, Case{32, true}, Case{33, true},
                                           Case{96, false}, Case{127, true}, Case{384, true}),
                         [](const auto& info) {
                           return "dim" + std::to_string(info.param.dim) + (info.param.by_residual ? "_residuals" : "_vectors");
                         });

TEST(IntegerLists, FindsWhatFaissFinds) {
  constexpr int kDim = 64, kQueries = 50, kTopK = 10;
  const std::vector<float> rows = RandomRows(2000, kDim, 3), queries = RandomRows(kQueries, kDim, 4);
  faiss::IndexFlatIP flat(kDim);
  flat.add(2000, rows.data());
  const auto recall = [&](const faiss::Index& index) {
    std::vector<float> scores(kQueries * kTopK);
    std::vector<idx_t> truth(kQueries * kTopK), found(kQueries * kTopK);
    flat.search(kQueries, queries.data(), kTopK, scores.data(), truth.data());
    faiss::SearchParametersIVF parameters;
    parameters.nprobe = 8;
    index.search(kQueries, queries.data(), kTopK, scores.data(), found.data(), &parameters);
    int hits = 0;
    for (int q = 0; q < kQueries; ++q) {
      for (int k = 0; k < kTopK; ++k) {
        const auto begin = truth.begin() + q * kTopK;
        hits += std::find(begin, begin + kTopK, found[q * kTopK + k]) != begin + kTopK;
      }
    }
    return static_cast<double>(hits) / (kQueries * kTopK);
  };
  const std::unique_ptr<faiss::Index> theirs = BuildIvf("IVF8,SQ8", rows, kDim);
  const std::unique_ptr<faiss::Index> ours = WithIntegerLists(BuildIvf("IVF8,SQ8", rows, kDim));
  EXPECT_GT(recall(*theirs), 0.95);
  EXPECT_GT(recall(*ours), recall(*theirs) - 0.05);
}

TEST(IntegerLists, LooksAtSelectedRowsOnly) {
  ExpectSelectedRowsOnly("IVF4,SQ8", [](std::unique_ptr<faiss::Index> index) { return WithIntegerLists(std::move(index)); });
}

// A search that looks at many codes, in one list or in all, does not go through them.
TEST(IntegerLists, EndsSoonAfterItsLimits) {
  constexpr int kDim = 8, kRows = 40'000;
  const std::vector<float> rows = RandomRows(kRows, kDim, 5);
  const std::unique_ptr<faiss::Index> index = WithIntegerLists(BuildIvf("IVF2,SQ8", rows, kDim));
  const auto& lists = dynamic_cast<faiss::IndexIVFScalarQuantizer&>(*index);
  const RequestLimits limits;
  const ScopedFaissLimits scope(limits);
  // The codes of a list that a scanner puts among the best.
  const auto scan = [&](const faiss::InvertedListScanner& scanner, size_t list) {
    const size_t count = lists.get_list_size(list);
    std::vector<float> scores(count, -std::numeric_limits<float>::infinity());
    std::vector<idx_t> labels(count, -1);
    scanner.scan_codes(count, lists.invlists->get_codes(list), lists.invlists->get_ids(list), scores.data(), labels.data(), count);
    return count - static_cast<size_t>(std::count(labels.begin(), labels.end(), -1));
  };
  const auto scan_both = [&] {
    const std::unique_ptr<faiss::InvertedListScanner> scanner(lists.get_InvertedListScanner(false, nullptr));
    scanner->set_query(rows.data());
    size_t found = 0;
    for (const size_t list : {0, 1}) {
      scanner->set_list(static_cast<idx_t>(list), 0);
      found += scan(*scanner, list);
    }
    return found;
  };
  const auto search = [&] {
    faiss::SearchParametersIVF parameters;
    parameters.nprobe = 2;
    std::vector<float> scores(3);
    std::vector<idx_t> found(3);
    index->search(1, rows.data(), 3, scores.data(), found.data(), &parameters);
  };
  EXPECT_EQ(scan_both(), size_t{kRows});
  EXPECT_NO_THROW(search());
  limits.Cancel();
  EXPECT_LE(scan_both(), size_t{kRows / 4});
  EXPECT_THROW(search(), faiss::FaissException);
}

TEST(IntegerLists, QueriesThatCanNotBeRoundedFindSomethingAllTheSame) {
  constexpr int kDim = 33;
  const std::vector<float> rows = RandomRows(100, kDim, 7);
  const std::unique_ptr<faiss::Index> index = WithIntegerLists(BuildIvf("IVF2,SQ8", rows, kDim));
  std::vector<float> scores(5);
  std::vector<idx_t> found(5);
  for (const float value : {0.0f, 1e-42f, 1e30f, 3e38f}) {
    const std::vector<float> query(kDim, value);
    index->search(1, query.data(), 5, scores.data(), found.data());
    for (const idx_t row : found) EXPECT_TRUE(row >= -1 && row < 100) << value;
  }
}

TEST(IntegerLists, LeavesOthersAsTheyAre) {
  const std::vector<float> rows = RandomRows(300, 32, 8);
  for (const char* factory : {"IVF2,Flat", "IVF2,SQ4", "IVF2,SQfp16"}) {
    std::unique_ptr<faiss::Index> index = BuildIvf(factory, rows, 32);
    const faiss::Index* const before = index.get();
    EXPECT_EQ(WithIntegerLists(std::move(index)).get(), before) << factory;
  }
  std::unique_ptr<faiss::Index> euclidean(faiss::index_factory(32, "IVF2,SQ8", faiss::METRIC_L2));
  const faiss::Index* const before = euclidean.get();
  EXPECT_EQ(WithIntegerLists(std::move(euclidean)).get(), before);
}

}  // namespace
}  // namespace loci
