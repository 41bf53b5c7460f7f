#include "index/cuda/cuda_exact_index.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <chrono>
#include <cmath>
#include <functional>
#include <future>
#include <limits>
#include <memory>
#include <numeric>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/device.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "index/cuda/testing/search_devices.h"
#include "index/cuda/testing/small_search.h"
#include "index/exact_index.h"
#include "index/passage_index.h"
#include "index/vector_file_testing.h"

namespace loci {
namespace {

using testing::HasSubstr;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct Files : VectorsWithCodes {
  std::shared_ptr<const ExactIndex> cpu;  // Scores every row: it makes no panels with these instructions.
};

Files MakeFiles(const std::vector<float>& rows, int dim, ElementType type = ElementType::kFloat32) {
  Files files{MakeVectorsWithCodes(rows, dim, type), nullptr};
  files.cpu = std::make_shared<ExactIndex>(files.vectors, nullptr, CpuIsa::kAvx2);
  return files;
}

IndexSearchOptions TopK(int top_k) {
  IndexSearchOptions options;
  options.top_k = top_k;
  return options;
}

std::unique_ptr<CudaExactIndex> MakeIndex(const SimulatedSearchDevice& device, const Files& files,
                                          const CudaSearchOptions& options = SmallSearch(), bool with_codes = true) {
  auto index =
      CudaExactIndex::Create(device.device, files.vectors, with_codes ? files.codes : nullptr, files.cpu, options, nullptr);
  EXPECT_TRUE(index.ok()) << index.status();
  return index.ok() ? *std::move(index) : nullptr;
}

void ExpectSameHits(const CudaExactIndex& index, const Files& files, const std::vector<float>& queries, int top_k,
                    const RowMask& mask, const std::string& what) {
  const int dim = files.vectors->dim();
  const MatrixView<const float> view{queries.data(), static_cast<int64_t>(queries.size()) / dim, dim};
  const size_t slots = static_cast<size_t>(view.rows * top_k);
  std::vector<RowHit> expected(slots), hits(slots, RowHit{-7, 7});
  ASSERT_TRUE(files.cpu->Search(view, TopK(top_k), mask, expected.data()).ok());
  const absl::Status status = index.Search(view, TopK(top_k), mask, hits.data());
  ASSERT_TRUE(status.ok()) << what << ": " << status;
  for (size_t i = 0; i < slots; ++i) {
    ASSERT_TRUE(hits[i].row == expected[i].row &&
                std::bit_cast<uint32_t>(hits[i].score) == std::bit_cast<uint32_t>(expected[i].score))
        << what << ", query " << i / static_cast<size_t>(top_k) << " hit " << i % static_cast<size_t>(top_k) << ": row "
        << hits[i].row << " score " << hits[i].score << ", the CPU's " << expected[i].row << " " << expected[i].score;
  }
}

struct Case {
  int64_t rows;
  int dim;
  int64_t queries;
  int top_k;
  ElementType type;
};

// Over the simulated grid in each order of threads, and on the machine's device where it has one.
class CudaSearchParityTest : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    device_.device = OpenSearchDeviceByName(GetParam());
    if (device_.device.runtime == nullptr) GTEST_SKIP() << "no CUDA device";
  }
  SimulatedSearchDevice device_;
};

TEST_P(CudaSearchParityTest, FindsWhatTheCpuFinds) {
  for (const Case& each : {Case{1, 1, 1, 1, ElementType::kFloat32}, Case{2, 5, 3, 4, ElementType::kFloat32},
                           Case{127, 31, 16, 5, ElementType::kBfloat16}, Case{129, 33, 17, 9, ElementType::kFloat16},
                           Case{2000, 64, 2, 10, ElementType::kBfloat16}, Case{1500, 384, 3, 20, ElementType::kFloat32},
                           Case{700, 100, 65, 7, ElementType::kFloat16}, Case{600, 48, 140, 3, ElementType::kBfloat16},
                           Case{140, 384, 257, 5, ElementType::kFloat32}, Case{300, 1024, 18, 5, ElementType::kFloat32}}) {
    const std::string what = testing::PrintToString(each.rows) + " x " + testing::PrintToString(each.dim) + ", " +
                             testing::PrintToString(each.queries) + " queries, top " + testing::PrintToString(each.top_k);
    const Files files = MakeFiles(NormalValues(each.rows * each.dim, 1), each.dim, each.type);
    const auto index = MakeIndex(device_, files);
    ASSERT_NE(index, nullptr);
    ExpectSameHits(*index, files, NormalValues(each.queries * each.dim, 2), each.top_k, RowMask(), what);
    EXPECT_EQ(index->counts().answered, each.queries) << what;
    EXPECT_EQ(index->counts().left, 0) << what;
  }
}

TEST_P(CudaSearchParityTest, HiddenRowsAreNotFound) {
  const int64_t rows = 900;
  const int dim = 40;
  const Files files = MakeFiles(NormalValues(rows * dim, 3), dim);
  const auto index = MakeIndex(device_, files);
  ASSERT_NE(index, nullptr);
  const std::vector<float> queries = NormalValues(3 * dim, 4);
  std::vector<int64_t> third, all_but_two, all(rows);
  std::iota(all.begin(), all.end(), 0);
  for (int64_t r = 0; r < rows; ++r) {
    if (r % 3 == 1) third.push_back(r);
    if (r != 31 && r != 899) all_but_two.push_back(r);
  }
  ExpectSameHits(*index, files, queries, 12, RowMask().WithHidden(third), "a third");
  ExpectSameHits(*index, files, queries, 12, RowMask().WithHidden(all_but_two), "all but two");
  EXPECT_EQ(index->counts().left, 0);
  ExpectSameHits(*index, files, queries, 12, RowMask().WithHidden(all), "all");
  ExpectSameHits(*index, files, queries, 12, RowMask(), "none");
}

TEST_P(CudaSearchParityTest, TiesGoToTheFirstRows) {
  const int dim = 24;
  std::vector<float> rows = NormalValues(50 * dim, 5);
  for (int i = 0; i < 3; ++i) rows.insert(rows.end(), rows.begin(), rows.end());  // Each row eight times, far apart.
  std::fill(rows.begin() + 7 * dim, rows.begin() + 9 * dim, -0.0f);
  const Files files = MakeFiles(rows, dim, ElementType::kBfloat16);
  const auto index = MakeIndex(device_, files);
  ASSERT_NE(index, nullptr);
  std::vector<float> queries = NormalValues(2 * dim, 6);
  queries.insert(queries.end(), dim, 0.0f);  // All scores alike: no threshold tells them apart.
  ExpectSameHits(*index, files, queries, 21, RowMask(), "copies");
  ExpectSameHits(*index, files, queries, 500, RowMask(), "more hits than rows");
  EXPECT_EQ(index->counts().left, 0);
}

// Two generations of a store, while one takes the other's place: what one asks of the device must not be taken from the other.
TEST_P(CudaSearchParityTest, IndexesOfTwoDimensionsSearchAtOnce) {
  const int rounds = GetParam() == "cuda" ? 200 : 1;
  std::vector<Files> files;
  std::vector<std::unique_ptr<CudaExactIndex>> indexes;
  for (const int dim : {1024, 160}) {
    files.push_back(MakeFiles(NormalValues(200 * dim, 34), dim));
    indexes.push_back(MakeIndex(device_, files.back()));
    ASSERT_NE(indexes.back(), nullptr);
  }
  std::vector<std::thread> threads;
  for (size_t i = 0; i < indexes.size(); ++i) {
    threads.emplace_back([&, i] {
      for (int round = 0; round < rounds; ++round) {
        ExpectSameHits(*indexes[i], files[i], NormalValues(3 * files[i].vectors->dim(), 35), 4, RowMask(), "at once");
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const auto& index : indexes) EXPECT_EQ(index->counts().answered, 3 * rounds);
}

TEST_P(CudaSearchParityTest, AListThatOverflowsIsMadeAgainWithItsThreshold) {
  const int dim = 64;
  const Files files = MakeFiles(NormalValues(3000 * dim, 7), dim);
  CudaSearchOptions options = SmallSearch();
  options.min_capacity = 200;
  options.growth = 1000;  // The second launch meets the rest of the rows with the threshold of one tile.
  const auto index = MakeIndex(device_, files, options);
  ExpectSameHits(*index, files, NormalValues(4 * dim, 8), 5, RowMask(), "overflow");
  EXPECT_GT(index->counts().repeated, 0);
  EXPECT_EQ(index->counts().left, 0);
}

TEST_P(CudaSearchParityTest, AListHoldsAsManyAsItSays) {
  const int dim = 16;
  for (const int64_t rows : {512, 513}) {
    const Files files = MakeFiles(NormalValues(rows * dim, 31), dim);
    CudaSearchOptions options = SmallSearch();
    options.min_capacity = 512;
    options.capacity_factor = 1;
    const auto index = MakeIndex(device_, files, options);
    ExpectSameHits(*index, files, std::vector<float>(dim, 0.0f), 512, RowMask(), testing::PrintToString(rows));
    EXPECT_EQ(index->counts().left, rows == 512 ? 0 : 1);
  }
}

// Where all that rounding takes away lies in the other's direction, products err by nearly as much as the bound says.
TEST_P(CudaSearchParityTest, WhatRoundingDisfavoursMostIsFound) {
  const int dim = 32, winners = 40;
  std::vector<float> rounded(dim, 10.49f), even(dim, 127.0f), nearly_even(dim, 127.0f), alone(dim, 0.0f), small(dim, 10.0f);
  rounded[0] = small[0] = 127;  // Steps of 1: codes 127, 10, 10, ...
  nearly_even[0] = 0;
  alone[0] = 324;
  std::fill(small.begin() + 1, small.begin() + 9, 11.0f);
  struct Case {
    std::string what;
    std::vector<float> query, winner, other;
  };
  // The winner's score is larger, the product of its codes less: 57428 and 55499 against 56515; 41299 and 39370 against 41148.
  for (const Case& each :
       {Case{"rows are rounded", even, rounded, small}, Case{"the query is rounded", rounded, nearly_even, alone}}) {
    std::vector<float> rows;
    for (int r = 0; r < 2000; ++r) {
      const std::vector<float>& row = r % 50 == 7 ? each.winner : each.other;
      rows.insert(rows.end(), row.begin(), row.end());
    }
    const Files files = MakeFiles(rows, dim);
    CudaSearchOptions options = SmallSearch();
    options.min_capacity = 2048;  // All fit: what is lost is lost by the bound.
    options.growth = 1;
    const auto index = MakeIndex(device_, files, options);
    ExpectSameHits(*index, files, each.query, winners, RowMask(), each.what);
    std::vector<RowHit> hits(winners);
    ASSERT_TRUE(index->Search({each.query.data(), 1, dim}, TopK(winners), RowMask(), hits.data()).ok());
    for (const RowHit& hit : hits) EXPECT_EQ(hit.row % 50, 7) << each.what;
    EXPECT_EQ(index->counts().left, 0);
  }
}

TEST_P(CudaSearchParityTest, WhatEightBitsCantTellApartIsLeftToTheCpu) {
  const int dim = 32;
  std::vector<float> rows;
  const std::vector<float> base = NormalValues(dim, 9), noise = NormalValues(1500 * dim, 10, 1e-6f);
  for (size_t i = 0; i < noise.size(); ++i) rows.push_back(base[i % dim] + noise[i]);
  const Files files = MakeFiles(rows, dim);
  CudaSearchOptions options = SmallSearch();
  options.min_capacity = 256;
  const auto index = MakeIndex(device_, files, options);
  ExpectSameHits(*index, files, NormalValues(2 * dim, 11), 3, RowMask(), "alike");
  EXPECT_EQ(index->counts().left, 2);
  EXPECT_EQ(index->counts().answered, 0);
}

TEST_P(CudaSearchParityTest, RowsThatAreNotNumbersCountAsTheCpuCountsThem) {
  const int dim = 16;
  std::vector<float> rows = NormalValues(400 * dim, 12);
  rows[5 * dim] = std::numeric_limits<float>::quiet_NaN();
  rows[6 * dim + 3] = kInfinity;
  rows[70 * dim + 3] = -kInfinity;
  std::fill(rows.begin() + 90 * dim, rows.begin() + 91 * dim, 0.0f);
  std::fill(rows.begin() + 200 * dim, rows.begin() + 201 * dim, 1e-40f);
  rows[300 * dim] = 3e30f;
  const Files files = MakeFiles(rows, dim);
  const auto index = MakeIndex(device_, files);
  std::vector<float> queries = NormalValues(2 * dim, 13);
  queries.insert(queries.end(), dim, 1e-30f);
  ExpectSameHits(*index, files, queries, 8, RowMask(), "few");
  ExpectSameHits(*index, files, queries, 400, RowMask(), "all");
  EXPECT_EQ(index->counts().left, 0);
  EXPECT_EQ(index->counts().answered, 6);
}

TEST_P(CudaSearchParityTest, NeedsNoFileOfCodes) {
  const int dim = 30;
  const Files files = MakeFiles(NormalValues(500 * dim, 14), dim, ElementType::kFloat16);
  const auto index = MakeIndex(device_, files, SmallSearch(), /*with_codes=*/false);
  ExpectSameHits(*index, files, NormalValues(3 * dim, 15), 6, RowMask(), "own codes");
  EXPECT_EQ(index->counts().left, 0);
}

// So many that each block takes several in turn, while it copies the next.
TEST_P(CudaSearchParityTest, ManyTilesABlock) {
  const bool simulated = GetParam() != "cuda";
  const int64_t rows = simulated ? 1200 : 60'000;
  const int dim = simulated ? 40 : 384;
  const Files files = MakeFiles(NormalValues(rows * dim, 36), dim, ElementType::kBfloat16);
  CudaSearchOptions options = SmallSearch();
  if (!simulated) options = {.min_visible_rows = 0, .self_check = false};
  const auto index = MakeIndex(device_, files, options);
  ASSERT_NE(index, nullptr);
  for (const int64_t queries : {3, 33, 258}) {
    ExpectSameHits(*index, files, NormalValues(queries * dim, 37), 10, RowMask(), testing::PrintToString(queries));
  }
  EXPECT_EQ(index->counts().left, 0);
  EXPECT_EQ(index->counts().answered, 3 + 33 + 258);
}

INSTANTIATE_TEST_SUITE_P(Devices, CudaSearchParityTest, testing::ValuesIn(SearchDeviceNames()),
                         [](const auto& info) { return info.param; });

TEST(CudaExactIndex, AThresholdThatDoesNotRiseIsNotTriedAgain) {
  const int dim = 32;
  const Files files = MakeFiles(NormalValues(1500 * dim, 38), dim);
  CudaSearchOptions options = SmallSearch();
  options.min_capacity = 256;
  const auto index = MakeIndex(Simulated(), files, options);
  ExpectSameHits(*index, files, std::vector<float>(dim, 0.0f), 3, RowMask(), "zeros");
  EXPECT_EQ(index->counts().left, 1);
  EXPECT_LE(index->counts().repeated, 1);
}

TEST(CudaExactIndex, WhereTheDeviceAnswersLittleItIsTriedLessOften) {
  const int dim = 32;
  std::vector<float> rows = NormalValues(1500 * dim, 39);
  for (size_t r = 0; r < 1500; ++r) rows[r * dim] = 0.25f;
  const Files files = MakeFiles(rows, dim);
  CudaSearchOptions options = SmallSearch();
  options.min_capacity = 256;
  const SimulatedSearchDevice device = Simulated();
  const auto index = MakeIndex(device, files, options);
  const auto asks_device = [&](const std::vector<float>& queries) {
    const int64_t waits = device.fake->waits();
    ExpectSameHits(*index, files, queries, 3, RowMask(), "in turn");
    return device.fake->waits() > waits;
  };
  const std::vector<float> zeros(dim, 0.0f), good = NormalValues(dim, 40);
  std::vector<float> alike = zeros;  // Of the element in which all rows are the same.
  alike[0] = 1;
  std::string asked;
  for (int i = 0; i < 8; ++i) asked += asks_device(alike) ? 'd' : '-';
  EXPECT_EQ(asked, "dd-d---d");
  for (int i = 0; i < 7; ++i) EXPECT_FALSE(asks_device(good)) << i;
  EXPECT_TRUE(asks_device(good));
  EXPECT_TRUE(asks_device(alike)) << "it began anew";
  EXPECT_TRUE(asks_device(good));
  for (int i = 0; i < 5; ++i) EXPECT_TRUE(asks_device(zeros)) << "of which no rows could tell anything: " << i;
  EXPECT_EQ(index->counts().left, 8 + 7 + 1 + 5);
  EXPECT_EQ(index->counts().answered, 2);
}

TEST(CudaExactIndex, ChecksItselfWhereSomeRowsAreLeftToTheCpu) {
  const int dim = 32;
  std::vector<float> rows = NormalValues(1501 * dim, 41);
  std::fill(rows.begin(), rows.begin() + dim, 0.0f);                      // Left after three passes.
  std::fill(rows.begin() + 750 * dim, rows.begin() + 751 * dim, 1e-30f);  // After two.
  const Files files = MakeFiles(rows, dim);
  CudaSearchOptions options = SmallSearch();
  options.min_capacity = 256;
  options.self_check = true;
  EXPECT_NE(MakeIndex(Simulated(), files, options), nullptr);
}

TEST(CudaExactIndex, OptionsOutOfRangeAreRefused) {
  const int dim = 16;
  const Files files = MakeFiles(NormalValues(100 * dim, 42), dim);
  for (const auto& change : std::vector<std::function<void(CudaSearchOptions&)>>{
           [](CudaSearchOptions& options) { options.max_queries = 300; },
           [](CudaSearchOptions& options) { options.max_queries = 0; }, [](CudaSearchOptions& options) { options.lanes = 0; },
           [](CudaSearchOptions& options) { options.growth = 0; },
           [](CudaSearchOptions& options) { options.capacity_factor = 0; }}) {
    CudaSearchOptions options = SmallSearch();
    change(options);
    EXPECT_EQ(CudaExactIndex::Create(Simulated().device, files.vectors, files.codes, files.cpu, options, nullptr).status().code(),
              absl::StatusCode::kInvalidArgument);
  }
}

TEST(CudaExactIndex, TakesAsManyPassesAsItsMemoryAsksFor) {
  const int dim = 20;
  const Files files = MakeFiles(NormalValues(400 * dim, 16), dim);
  CudaSearchOptions options = SmallSearch();
  options.pass_candidates = 3 * options.min_capacity;  // Three queries a pass.
  const auto index = MakeIndex(Simulated(), files, options);
  ExpectSameHits(*index, files, NormalValues(10 * dim, 17), 4, RowMask(), "passes");
  EXPECT_EQ(index->counts().answered, 10);
}

TEST(CudaExactIndex, LeavesSmallSearchesToTheCpu) {
  const int dim = 8;
  const Files files = MakeFiles(NormalValues(300 * dim, 18), dim);
  CudaSearchOptions options = SmallSearch();
  options.min_visible_rows = 200;
  const SimulatedSearchDevice device = Simulated();
  const auto index = MakeIndex(device, files, options);
  const int64_t waits = device.fake->waits();
  std::vector<int64_t> hidden(150);
  std::iota(hidden.begin(), hidden.end(), 0);
  ExpectSameHits(*index, files, NormalValues(2 * dim, 19), 4, RowMask().WithHidden(hidden), "few rows");
  ExpectSameHits(*index, files, NormalValues(2 * dim, 19), kMaxCudaTopK + 1, RowMask(), "many hits");
  EXPECT_EQ(device.fake->waits(), waits);
  EXPECT_EQ(index->counts().left, 4);
  ExpectSameHits(*index, files, NormalValues(2 * dim, 19), 4, RowMask(), "on the device");
  EXPECT_EQ(index->counts().answered, 2);
}

TEST(CudaExactIndex, AsksForNoMoreSharedMemoryThanThereIs) {
  const int dim = 384;
  const Files files = MakeFiles(NormalValues(200 * dim, 20), dim);
  const std::vector<float> queries = NormalValues(140 * dim, 21);
  for (const int kib : {227, 164, 99}) {
    const auto index = MakeIndex(Simulated({.max_shared_bytes = kib << 10}), files);
    ASSERT_NE(index, nullptr);
    ExpectSameHits(*index, files, queries, 3, RowMask(), testing::PrintToString(kib));
  }
  const auto refused = CudaExactIndex::Create(Simulated({.max_shared_bytes = 48 << 10}).device, files.vectors, files.codes,
                                              files.cpu, SmallSearch(), nullptr);
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr("shared memory"));
}

TEST(CudaExactIndex, IsNotMadeOnADeviceThatFindsOtherHits) {
  const int dim = 24;
  std::vector<float> rows = NormalValues(300 * dim, 32);
  rows[0] = kInfinity;  // No probe.
  const Files files = MakeFiles(rows, dim, ElementType::kFloat32);
  CudaSearchOptions options = SmallSearch();
  options.self_check = true;
  const SimulatedSearchDevice device = Simulated();
  {
    const auto index = MakeIndex(device, files, options);
    ASSERT_NE(index, nullptr);
    EXPECT_EQ(index->counts().answered, 0);
    ExpectSameHits(*index, files, NormalValues(2 * dim, 33), 4, RowMask(), "checked");
    EXPECT_EQ(index->counts().answered, 2);
  }
  // Codes of other vectors, by which it passes over the best rows.
  const Files others = MakeFiles(NormalValues(300 * dim, 51), dim);
  const auto refused = CudaExactIndex::Create(device.device, files.vectors, others.codes, files.cpu, options, nullptr);
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(refused.status().message()),
              HasSubstr("does not find what the CPU finds: of 3 queries at once, hit 0 of query 0"));
  EXPECT_EQ(device.fake->device_bytes(), 0);
  device.fake->SetFault(
      [](const std::string& call) { return call == "CopyToHost" ? absl::UnavailableError("broken") : absl::OkStatus(); });
  EXPECT_EQ(CudaExactIndex::Create(device.device, files.vectors, files.codes, files.cpu, options, nullptr).status().code(),
            absl::StatusCode::kUnavailable);
  EXPECT_FALSE(device.device.health->Check().ok());
}

// Counts what it is asked.
class AskedIndex : public PassageIndex {
 public:
  explicit AskedIndex(std::shared_ptr<const PassageIndex> index) : index_(std::move(index)) {}
  int64_t row_count() const override { return index_->row_count(); }
  int dim() const override { return index_->dim(); }
  std::string name() const override { return index_->name(); }
  int64_t memory_bytes() const override { return 0; }
  bool IsExact(const IndexSearchOptions&, const RowMask&) const override { return true; }
  absl::Status Search(MatrixView<const float> queries, const IndexSearchOptions& options, const RowMask& hidden,
                      RowHit* hits) const override {
    ++searches;
    return index_->Search(queries, options, hidden, hits);
  }

  mutable std::atomic<int> searches{0};

 private:
  const std::shared_ptr<const PassageIndex> index_;
};

TEST(CudaExactIndex, ItsCheckTakesNoThreadOfTheCpusIndexAndEndsWhenItIsToldTo) {
  const int dim = 16;
  const int64_t rows = 2500;  // Which are scored in pieces.
  const Files files = MakeFiles(NormalValues(rows * dim, 52), dim);
  const auto cpu = std::make_shared<AskedIndex>(files.cpu);
  CudaSearchOptions options = SmallSearch();
  options.limits.upload_bytes = 1 << 20;
  options.self_check = true;
  const SimulatedSearchDevice device = Simulated();
  // Ended at each look after the upload, until one is not.
  int last = 0;
  for (int at = 1;; ++at) {
    int seen = 0;
    const auto index = CudaExactIndex::Create(device.device, files.vectors, files.codes, cpu, options, [&](int64_t done_rows) {
      seen += done_rows == rows;
      return seen > at ? absl::CancelledError("enough") : absl::OkStatus();
    });
    EXPECT_EQ(cpu->searches, 0);
    if (index.ok()) {
      last = at;
      break;
    }
    EXPECT_EQ(index.status(), absl::CancelledError("enough"));
    EXPECT_EQ(device.fake->device_bytes(), 0);
    EXPECT_EQ(device.fake->live_handles(), 0);
    EXPECT_TRUE(device.device.health->Check().ok());
  }
  EXPECT_EQ(last, 1 + 3 + 3 + 1) << "the upload's last piece, three pieces that are scored, three searches, log Z";
}

TEST(CudaExactIndex, SaysWhatMemoryItWouldTakeBeforeItTakesAny) {
  const int dim = 64;
  const Files files = MakeFiles(NormalValues(1000 * dim, 22), dim);
  const SimulatedSearchDevice device = Simulated({}, 1 << 20);
  const int64_t allocations = device.fake->allocations();
  const auto index = CudaExactIndex::Create(device.device, files.vectors, files.codes, files.cpu, SmallSearch(), nullptr);
  EXPECT_EQ(index.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(index.status().message()), HasSubstr("1000 rows of 64 float32 take "));
  EXPECT_THAT(std::string(index.status().message()),
              HasSubstr("(rows 256000, 8-bit codes and their figures 77824, working memory "));
  EXPECT_THAT(std::string(index.status().message()), HasSubstr("1048576 are free"));
  EXPECT_EQ(device.fake->allocations(), allocations);
  EXPECT_TRUE(device.device.health->Check().ok());
  const auto many = PlanResident(int64_t{1} << 31, 8, ElementType::kBfloat16, int64_t{1} << 60, {});
  EXPECT_EQ(many.status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST(CudaExactIndex, AnyFailureWhileItIsMadeLeavesNothingBehind) {
  const int dim = 64;
  const Files files = MakeFiles(NormalValues(1000 * dim, 23), dim);
  for (const std::string call :
       {"GetMemory", "Allocate", "AllocatePinned", "CreateStream", "CreateEvent", "CopyToDevice", "Record", "Wait", "run"}) {
    for (const bool exhausted : {false, true}) {
      for (int at = 0; at < 3; ++at) {
        const SimulatedSearchDevice device = Simulated();
        int seen = 0;
        device.fake->SetFault([&](const std::string& name) {
          if (name != call || seen++ < at) return absl::OkStatus();
          return exhausted ? absl::ResourceExhaustedError("taken by another") : absl::UnavailableError("broken");
        });
        const auto index = CudaExactIndex::Create(device.device, files.vectors, files.codes, files.cpu, SmallSearch(), nullptr);
        device.fake->SetFault(nullptr);
        if (seen <= at) continue;  // It is not called so often.
        EXPECT_EQ(index.status().code(), exhausted ? absl::StatusCode::kResourceExhausted : absl::StatusCode::kUnavailable)
            << call << " " << at << ": " << index.status();
        EXPECT_EQ(device.device.health->Check().ok(), exhausted) << call;
        EXPECT_EQ(device.fake->device_bytes(), 0) << call;
        EXPECT_EQ(device.fake->pinned_bytes(), 0) << call;
        EXPECT_EQ(device.fake->live_handles(), 0) << call;
      }
    }
  }
}

TEST(CudaExactIndex, UploadsInPiecesAndCanBeStopped) {
  const int dim = 64;
  const Files files = MakeFiles(NormalValues(1000 * dim, 24), dim);
  const SimulatedSearchDevice device = Simulated();
  std::vector<int64_t> done;
  {
    const auto index = CudaExactIndex::Create(device.device, files.vectors, files.codes, files.cpu, SmallSearch(), [&](int64_t rows) {
      done.push_back(rows);
      return absl::OkStatus();
    });
    ASSERT_TRUE(index.ok()) << index.status();
    EXPECT_GT(done.size(), 4u);
    EXPECT_TRUE(std::is_sorted(done.begin(), done.end()));
    EXPECT_EQ(done.back(), 1000);
    EXPECT_EQ(device.fake->device_bytes(), (*index)->device_bytes());
    EXPECT_EQ(device.fake->pinned_bytes(), (*index)->memory_bytes());
  }
  EXPECT_EQ(device.fake->device_bytes(), 0);
  const auto stopped = CudaExactIndex::Create(device.device, files.vectors, files.codes, files.cpu, SmallSearch(), [](int64_t rows) {
    return rows < 500 ? absl::OkStatus() : absl::CancelledError("enough");
  });
  EXPECT_EQ(stopped.status(), absl::CancelledError("enough"));
  EXPECT_EQ(device.fake->device_bytes(), 0);
  EXPECT_EQ(device.fake->live_handles(), 0);
  EXPECT_TRUE(device.device.health->Check().ok());
}

TEST(CudaExactIndex, ADeviceThatFailedAnswersNothingMore) {
  const int dim = 16;
  const Files files = MakeFiles(NormalValues(300 * dim, 25), dim);
  const std::vector<float> queries = NormalValues(dim, 26);
  for (const std::string call : {"CopyToDevice", "CopyToHost", "Record", "Wait", "run"}) {
    const SimulatedSearchDevice device = Simulated();
    const auto index = MakeIndex(device, files);
    ASSERT_NE(index, nullptr);
    device.fake->SetFault(
        [&](const std::string& name) { return name == call ? absl::UnavailableError("broken") : absl::OkStatus(); });
    std::vector<RowHit> hits(3);
    const absl::Status status = index->Search({queries.data(), 1, dim}, TopK(3), RowMask(), hits.data());
    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << call;
    EXPECT_THAT(std::string(status.message()), HasSubstr("broken"));
    device.fake->SetFault(nullptr);
    EXPECT_EQ(index->Search({queries.data(), 1, dim}, TopK(3), RowMask(), hits.data()), status);
    EXPECT_EQ(index->counts().left, 0) << "the CPU does not step in";
  }
}

TEST(CudaExactIndex, WhatTheDeviceHasTooLittleOfIsOneSearchsError) {
  const int dim = 16;
  const Files files = MakeFiles(NormalValues(300 * dim, 43), dim);
  const std::vector<float> queries = NormalValues(dim, 44);
  const int64_t hidden[] = {3};
  for (const std::string call : {"CopyToDevice", "CopyToHost", "Record"}) {
    const SimulatedSearchDevice device = Simulated();
    const auto index = MakeIndex(device, files);
    ASSERT_NE(index, nullptr);
    int seen = 0, ran = 0;
    device.fake->SetFault([&](const std::string& name) {
      ran += name == "run";
      return name == call && seen++ == 0 ? absl::ResourceExhaustedError("taken by another") : absl::OkStatus();
    });
    std::vector<RowHit> hits(3);
    EXPECT_EQ(index->Search({queries.data(), 1, dim}, TopK(3), RowMask().WithHidden(hidden), hits.data()).code(),
              absl::StatusCode::kResourceExhausted)
        << call;
    EXPECT_EQ(ran > 0, call != "CopyToDevice") << "nothing is under way when the lane is free again";
    device.fake->SetFault(nullptr);
    EXPECT_TRUE(device.device.health->Check().ok());
    ExpectSameHits(*index, files, queries, 3, RowMask(), "afterwards");
  }
}

TEST(CudaExactIndex, ASearchThatIsCancelledLeavesNoCopyUnderWay) {
  const int dim = 16;
  const Files files = MakeFiles(NormalValues(300 * dim, 45), dim);
  const std::vector<float> queries = NormalValues(dim, 46);
  const int64_t hidden[] = {3};
  const SimulatedSearchDevice device = Simulated();
  const auto index = MakeIndex(device, files);
  IndexSearchOptions options = TopK(3);
  int copies = 0, ran = 0;
  device.fake->SetFault([&](const std::string& name) {
    if (name == "CopyToDevice" && copies++ == 0) options.limits.Cancel();  // While the mask is on its way.
    ran += name == "run";
    return absl::OkStatus();
  });
  std::vector<RowHit> hits(3);
  EXPECT_EQ(index->Search({queries.data(), 1, dim}, options, RowMask().WithHidden(hidden), hits.data()).code(),
            absl::StatusCode::kCancelled);
  EXPECT_EQ(copies, 1);
  EXPECT_EQ(ran, 1);
  device.fake->SetFault(nullptr);
  ExpectSameHits(*index, files, queries, 3, RowMask(), "afterwards");
}

TEST(CudaExactIndex, WhoWaitsForALaneLooksAtItsLimits) {
  const int dim = 16;
  const Files files = MakeFiles(NormalValues(300 * dim, 47), dim);
  const std::vector<float> queries = NormalValues(dim, 48);
  const SimulatedSearchDevice device = Simulated();
  const auto index = MakeIndex(device, files);
  ASSERT_NE(index, nullptr);
  std::promise<void> under_way, go_on;
  std::atomic<bool> first{true};
  device.fake->SetFault([&](const std::string& name) {
    if (name == "Wait" && first.exchange(false)) {
      under_way.set_value();
      go_on.get_future().wait();
    }
    return absl::OkStatus();
  });
  std::thread holder([&] { ExpectSameHits(*index, files, queries, 3, RowMask(), "the holder"); });
  under_way.get_future().wait();
  std::vector<RowHit> hits(3);
  IndexSearchOptions late = TopK(3), cancelled = TopK(3);
  late.limits = RequestLimits(RealClock().NowMicros() + 20'000);
  EXPECT_EQ(index->Search({queries.data(), 1, dim}, late, RowMask(), hits.data()).code(), absl::StatusCode::kDeadlineExceeded);
  std::thread canceller([limits = cancelled.limits] {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    limits.Cancel();
  });
  EXPECT_EQ(index->Search({queries.data(), 1, dim}, cancelled, RowMask(), hits.data()).code(), absl::StatusCode::kCancelled);
  canceller.join();
  go_on.set_value();
  holder.join();
  ExpectSameHits(*index, files, queries, 3, RowMask(), "afterwards");
}

TEST(CudaExactIndex, ChecksArgumentsAndLimits) {
  const int dim = 16;
  const Files files = MakeFiles(NormalValues(300 * dim, 27), dim);
  const auto index = MakeIndex(Simulated(), files);
  std::vector<float> queries = NormalValues(dim, 28);
  std::vector<RowHit> hits(3);
  EXPECT_EQ(index->Search({queries.data(), 1, dim - 1}, TopK(3), RowMask(), hits.data()).code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(index->Search({queries.data(), 1, dim}, TopK(0), RowMask(), hits.data()).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(index->Search({queries.data(), 0, dim}, TopK(3), RowMask(), hits.data()).ok());
  IndexSearchOptions cancelled = TopK(3);
  cancelled.limits.Cancel();
  EXPECT_EQ(index->Search({queries.data(), 1, dim}, cancelled, RowMask(), hits.data()).code(), absl::StatusCode::kCancelled);
  ExpectSameHits(*index, files, queries, 3, RowMask(), "afterwards");
}

TEST(CudaExactIndex, ServesManyThreadsAtOnce) {
  const int dim = 16;
  const Files files = MakeFiles(NormalValues(400 * dim, 29), dim);
  CudaSearchOptions options = SmallSearch();
  options.lanes = 2;
  const auto index = MakeIndex(Simulated(), files, options);
  ASSERT_NE(index, nullptr);
  std::vector<std::thread> threads;
  for (uint64_t t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (uint64_t i = 0; i < 3; ++i) {
        const int64_t hidden[] = {static_cast<int64_t>(t), 300};
        ExpectSameHits(*index, files, NormalValues(dim * static_cast<int64_t>(1 + t), 30 + t + 10 * i), 5,
                       i == 1 ? RowMask().WithHidden(hidden) : RowMask(), "thread");
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(index->counts().answered, 3 * (1 + 2 + 3 + 4));
}

}  // namespace
}  // namespace loci
