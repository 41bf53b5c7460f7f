#include "index/cuda/cuda_softmax.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <future>
#include <limits>
#include <memory>
#include <numeric>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "index/cuda/testing/search_devices.h"
#include "index/vector_file_testing.h"

namespace loci {
namespace {

using Skipped = std::vector<std::vector<ViewRow>>;

CudaSoftmaxOptions Small() {
  CudaSoftmaxOptions options;
  options.max_queries = 16;
  options.part_bytes = 1 << 20;
  options.self_check = false;
  return options;
}

std::shared_ptr<const ResidentVectors> Upload(const SearchDevice& device, const VectorFile& vectors) {
  auto resident = ResidentVectors::Create(device, vectors, nullptr, {}, nullptr);
  EXPECT_TRUE(resident.ok()) << resident.status();
  return *std::move(resident);
}

std::unique_ptr<CudaSoftmax> Make(const SearchDevice& device, const std::shared_ptr<const VectorFile>& vectors,
                                  const CudaSoftmaxOptions& options = Small()) {
  auto softmax = CudaSoftmax::Create(device, Upload(device, *vectors), vectors, options);
  EXPECT_TRUE(softmax.ok()) << softmax.status();
  return *std::move(softmax);
}

SoftmaxScan ByCpu(const VectorFile& vectors, MatrixView<const float> queries, const RowMask& hidden, const Skipped& skipped,
                  const SoftmaxScanOptions& options) {
  const ScanSegment segments[] = {
      {.data = vectors.row(0), .type = vectors.element_type(), .rows = vectors.rows(), .hidden = &hidden}};
  auto scan = ScanSoftmax(segments, queries, skipped, options);
  EXPECT_TRUE(scan.ok()) << scan.status();
  return *std::move(scan);
}

void ExpectSame(const CudaSoftmax& softmax, const VectorFile& vectors, const std::vector<float>& queries, const RowMask& hidden,
                const Skipped& skipped, const SoftmaxScanOptions& options, const std::string& what) {
  const int dim = vectors.dim();
  const MatrixView<const float> view{queries.data(), static_cast<int64_t>(queries.size()) / dim, dim};
  const SoftmaxScan expected = ByCpu(vectors, view, hidden, skipped, options);
  const auto found = softmax.Scan(view, hidden, skipped, options);
  ASSERT_TRUE(found.ok()) << what << ": " << found.status();
  ASSERT_EQ(found->sums.size(), expected.sums.size());
  EXPECT_EQ(found->block_count, 0);
  // Both are bounds within a part in 10,000 of the longest.
  EXPECT_NEAR(found->max_length, expected.max_length, 1e-4 * expected.max_length) << what;
  for (size_t q = 0; q < found->sums.size(); ++q) {
    const SoftmaxSums &mine = found->sums[q], &theirs = expected.sums[q];
    ASSERT_EQ(mine.max_score, theirs.max_score) << what << ", query " << q;  // The same bits: the same order of summation.
    if (theirs.sum == 0) {
      EXPECT_EQ(mine.sum, 0) << what;
    } else {
      ASSERT_NEAR(mine.sum / theirs.sum, 1, 1e-5) << what << ", query " << q;
    }
    ASSERT_EQ(mine.weighted.size(), theirs.weighted.size()) << what;
    for (size_t d = 0; d < theirs.weighted.size(); ++d) {
      if (theirs.sum == 0) {
        EXPECT_EQ(mine.weighted[d], 0) << what;
        continue;
      }
      ASSERT_NEAR(mine.weighted[d] / mine.sum, theirs.weighted[d] / theirs.sum, 1e-5)
          << what << ", query " << q << " dimension " << d;
    }
  }
}

// Of query q in turn: nothing, its best rows, every third and some twice, from the last to the first, all; and what is no row of the body.
Skipped SkippedByTurns(const VectorFile& vectors, const std::vector<float>& queries) {
  const int dim = vectors.dim();
  const int64_t rows = vectors.rows();
  Skipped skipped(queries.size() / static_cast<size_t>(dim));
  std::vector<float> row(static_cast<size_t>(dim));
  for (size_t q = 0; q < skipped.size(); ++q) {
    if (q % 4 == 1) {
      std::vector<std::pair<float, int64_t>> best;
      for (int64_t r = 0; r < rows; ++r) {
        vectors.CopyRow(r, row.data());
        best.emplace_back(-std::inner_product(row.begin(), row.end(), queries.begin() + static_cast<int64_t>(q) * dim, 0.0f), r);
      }
      std::sort(best.begin(), best.end());
      for (size_t i = 0; i < std::min<size_t>(best.size() - 1, 9); ++i) skipped[q].push_back({false, best[i].second});
    } else if (q % 4 == 2) {
      for (int64_t r = rows - 1; r >= 0; r -= 3) skipped[q].insert(skipped[q].end(), 1 + static_cast<size_t>(r % 2), {false, r});
    } else if (q % 4 == 3) {
      for (int64_t r = 0; r < rows; ++r) skipped[q].push_back({false, (r * 7 + 3) % rows});
      if (rows % 7 == 0) skipped[q].clear();
    }
    for (const int64_t r : {int64_t{0}, rows / 2}) skipped[q].push_back({true, r});
    for (const int64_t r : {int64_t{-1}, rows, rows + 1, int64_t{1} << 40}) skipped[q].push_back({false, r});
  }
  return skipped;
}

class CudaSoftmaxParityTest : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    device_ = OpenSearchDeviceByName(GetParam());
    if (device_.runtime == nullptr) GTEST_SKIP() << "no CUDA device";
  }
  SearchDevice device_;
};

TEST_P(CudaSoftmaxParityTest, SumsWhatTheCpuSums) {
  struct Case {
    int64_t rows;
    int dim;
    int64_t queries;
    ElementType type;
    double temperature;
  };
  for (const Case& each : {Case{1, 1, 1, ElementType::kFloat32, 1}, Case{31, 5, 3, ElementType::kFloat16, 0.05},
                           Case{33, 127, 8, ElementType::kBfloat16, 0.1}, Case{700, 40, 9, ElementType::kFloat32, 0.01},
                           Case{300, 384, 17, ElementType::kBfloat16, 0.05}, Case{90, 1024, 2, ElementType::kFloat32, 3},
                           Case{64, 31, 5, ElementType::kBfloat16, 1e-12}, Case{65, 33, 2, ElementType::kFloat16, 1e12},
                           Case{32, 32, 1, ElementType::kFloat32, 0.5}, Case{2, 384, 4, ElementType::kFloat16, 0.05},
                           Case{97, 1, 37, ElementType::kBfloat16, 0.2}, Case{1, 384, 4, ElementType::kBfloat16, 0.1}}) {
    const auto vectors = MakeVectorFile(NormalValues(each.rows * each.dim, 1), each.dim, each.type);
    const auto softmax = Make(device_, vectors);
    std::vector<int64_t> fifth, all(static_cast<size_t>(each.rows));
    std::iota(all.begin(), all.end(), 0);
    for (int64_t r = 2; r < each.rows; r += 5) fifth.push_back(r);
    const std::vector<float> queries = NormalValues(each.queries * each.dim, 2);
    const std::string what = testing::PrintToString(each.rows) + " x " + testing::PrintToString(each.dim);
    for (const bool mean : {false, true}) {
      const SoftmaxScanOptions options = {.temperature = each.temperature, .mean = mean, .max_length = !mean};
      const Skipped skipped = SkippedByTurns(*vectors, queries);
      ExpectSame(*softmax, *vectors, queries, RowMask(), {}, options, what);
      ExpectSame(*softmax, *vectors, queries, RowMask(), skipped, options, what + ", some skipped");
      ExpectSame(*softmax, *vectors, queries, RowMask().WithHidden(fifth), {}, options, what + ", a fifth hidden");
      ExpectSame(*softmax, *vectors, queries, RowMask().WithHidden(fifth), skipped, options, what + ", a fifth hidden, some skipped");
      ExpectSame(*softmax, *vectors, queries, RowMask().WithHidden(all), skipped, options, what + ", all hidden");
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Devices, CudaSoftmaxParityTest, testing::ValuesIn(SearchDeviceNames()),
                         [](const auto& info) { return info.param; });

TEST(CudaSoftmax, WhatOneHeldPartFindsManyFind) {
  const int dim = 48;
  const auto vectors = MakeVectorFile(NormalValues(500 * dim, 3), dim, ElementType::kFloat32);
  const std::vector<float> queries = NormalValues(5 * dim, 4);
  for (const int64_t part_bytes : {int64_t{1}, int64_t{1} << 24}) {
    CudaSoftmaxOptions options = Small();
    options.part_bytes = part_bytes;
    ExpectSame(*Make(Simulated().device, vectors, options), *vectors, queries, RowMask(), SkippedByTurns(*vectors, queries),
               {.temperature = 0.05, .mean = true}, testing::PrintToString(part_bytes));
  }
}

TEST(CudaSoftmax, TakesAsManyQueriesAtOnceAsThereIsRoomForWhatTheySkip) {
  const int dim = 24;
  const auto vectors = MakeVectorFile(NormalValues(100 * dim, 20), dim, ElementType::kFloat16);
  const std::vector<float> queries = NormalValues(200 * dim, 21);
  const Skipped skipped = SkippedByTurns(*vectors, queries);
  std::vector<SoftmaxSums> first;
  for (const int skipped_tiles : {1024, 1, 0}) {
    CudaSoftmaxOptions options = Small();
    options.max_queries = 64;
    options.skipped_tiles = skipped_tiles;
    const SimulatedSearchDevice device = Simulated();
    const auto softmax = Make(device.device, vectors, options);
    const int64_t waits = device.fake->waits();
    const SoftmaxScanOptions scan_options = {.temperature = 0.05, .mean = true, .max_length = true};
    const auto scan = softmax->Scan({queries.data(), 200, dim}, RowMask(), skipped, scan_options);
    ASSERT_TRUE(scan.ok()) << scan.status();
    const int64_t passes = device.fake->waits() - waits;
    EXPECT_TRUE(skipped_tiles == 1024 ? passes == 4 : skipped_tiles == 1 ? passes > 4 : passes >= 100) << passes << " of " << skipped_tiles;
    if (first.empty()) {
      first = scan->sums;
      ExpectSame(*softmax, *vectors, queries, RowMask(), skipped, scan_options, "200 queries");
    }
    for (size_t q = 0; q < first.size(); ++q) {  // To the last bit.
      ASSERT_EQ(scan->sums[q].max_score, first[q].max_score) << q;
      ASSERT_EQ(scan->sums[q].sum, first[q].sum) << q;
      ASSERT_EQ(scan->sums[q].weighted, first[q].weighted) << q;
    }
  }
}

TEST(CudaSoftmax, WhatIsSkippedIsNeverAddedHoweverLargeItIs) {
  // Next to the skipped row all others are nothing: subtracting would leave nothing of them.
  const int dim = 8;
  std::vector<float> rows = NormalValues(100 * dim, 22, 0.1f);
  std::fill(rows.begin() + 40 * dim, rows.begin() + 41 * dim, 100.0f);
  const auto vectors = MakeVectorFile(rows, dim, ElementType::kFloat32);
  const auto softmax = Make(Simulated().device, vectors);
  const std::vector<float> queries(2 * dim, 1.0f);
  const SoftmaxScanOptions options = {.temperature = 0.1, .mean = true, .max_length = true};
  ExpectSame(*softmax, *vectors, queries, RowMask(), {{{false, 40}}, {}}, options, "skipped by one");
  const auto scan = softmax->Scan({queries.data(), 2, dim}, RowMask(), Skipped{{{false, 40}}, {}}, options);
  ASSERT_TRUE(scan.ok());
  EXPECT_LT(scan->sums[0].max_score, 10);
  EXPECT_GT(scan->sums[0].sum, 1);
  EXPECT_EQ(scan->sums[1].sum, 1);
  EXPECT_GT(scan->max_length, 282) << "a row that is skipped, not hidden";
  const int64_t longest[] = {40};
  const auto without = softmax->Scan({queries.data(), 2, dim}, RowMask().WithHidden(longest), {}, options);
  ASSERT_TRUE(without.ok());
  EXPECT_LT(without->max_length, 1);
  EXPECT_EQ(without->sums[1].sum, scan->sums[0].sum);
  EXPECT_EQ(without->sums[1].weighted, scan->sums[0].weighted);
}

TEST(CudaSoftmax, TakesNoMorePartsThanRunAtOnce) {
  const SearchDevice device = Simulated({.multiprocessor_count = 10}).device;
  EXPECT_EQ(*device.kernels->SoftmaxParts(ElementType::kBfloat16, 384), 30) << "three by registers, though memory holds five";
  EXPECT_EQ(*device.kernels->SoftmaxParts(ElementType::kFloat32, 1024), 10);
  // 115,360 bytes: twice that is what two blocks may ask for, but the driver's part is not left.
  EXPECT_EQ(*Simulated({.multiprocessor_count = 10, .max_shared_bytes = 2 * 115'360})
                 .device.kernels->SoftmaxParts(ElementType::kFloat32, 712),
            10);
}

TEST(CudaSoftmax, RefusesWhatDoesNotFit) {
  const int dim = 16;
  const auto vectors = MakeVectorFile(NormalValues(100 * dim, 5), dim, ElementType::kFloat32);
  const auto softmax = Make(Simulated().device, vectors);
  const std::vector<float> queries = NormalValues(dim, 6);
  EXPECT_EQ(softmax->Scan({queries.data(), 1, dim - 1}, RowMask(), {}, {}).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(softmax->Scan({queries.data(), 1, dim}, RowMask(), Skipped(2), {}).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(softmax->Scan({queries.data(), 1, dim}, RowMask(), {}, {.temperature = 0}).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(softmax->Scan({queries.data(), 1, dim}, RowMask(), {}, {.temperature = std::nan("")}).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(softmax->Scan({queries.data(), 1, dim}, RowMask(), {}, {.block_masses = true}).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(softmax->Scan({queries.data(), 0, dim}, RowMask(), {}, {})->sums.empty());
  SoftmaxScanOptions cancelled;
  cancelled.limits.Cancel();
  EXPECT_EQ(softmax->Scan({queries.data(), 1, dim}, RowMask(), {}, cancelled).status().code(), absl::StatusCode::kCancelled);
  ExpectSame(*softmax, *vectors, queries, RowMask(), {}, {}, "afterwards");
  EXPECT_EQ(CudaSoftmax::Create(Simulated().device, nullptr, vectors, {.max_queries = 12}).status().code(),
            absl::StatusCode::kInvalidArgument);
  const auto wide = MakeVectorFile(NormalValues(2 * 1100, 7), 1100, ElementType::kBfloat16);
  const SimulatedSearchDevice device = Simulated();
  auto resident = ResidentVectors::Create(device.device, *wide, nullptr, {}, nullptr);
  ASSERT_TRUE(resident.ok());
  EXPECT_EQ(CudaSoftmax::Create(device.device, *std::move(resident), wide, Small()).status().code(),
            absl::StatusCode::kFailedPrecondition);
}

TEST(CudaSoftmax, ADeviceThatFailedAnswersNothingMoreAndLeavesNothingBehind) {
  const int dim = 16;
  const auto vectors = MakeVectorFile(NormalValues(100 * dim, 8), dim, ElementType::kFloat16);
  const std::vector<float> queries = NormalValues(dim, 9);
  const int64_t hidden[] = {3};
  for (const std::string call : {"CopyToDevice", "CopyToHost", "Record", "Wait", "run"}) {
    const SimulatedSearchDevice device = Simulated();
    {
      const auto softmax = Make(device.device, vectors);
      device.fake->SetFault(
          [&](const std::string& name) { return name == call ? absl::UnavailableError("broken") : absl::OkStatus(); });
      const absl::Status status = softmax->Scan({queries.data(), 1, dim}, RowMask().WithHidden(hidden), Skipped{{{false, 5}}}, {}).status();
      EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << call;
      device.fake->SetFault(nullptr);
      EXPECT_EQ(softmax->Scan({queries.data(), 1, dim}, RowMask(), {}, {}).status(), status) << call;
    }
    EXPECT_EQ(device.fake->device_bytes(), 0);
    EXPECT_EQ(device.fake->live_handles(), 0);
  }
  for (const std::string call : {"GetMemory", "Allocate", "AllocatePinned", "CreateStream", "CreateEvent"}) {
    const SimulatedSearchDevice device = Simulated();
    auto resident = ResidentVectors::Create(device.device, *vectors, nullptr, {}, nullptr);
    ASSERT_TRUE(resident.ok());
    device.fake->SetFault(
        [&](const std::string& name) { return name == call ? absl::ResourceExhaustedError("full") : absl::OkStatus(); });
    EXPECT_EQ(CudaSoftmax::Create(device.device, *std::move(resident), vectors, Small()).status().code(),
              absl::StatusCode::kResourceExhausted);
    EXPECT_EQ(device.fake->live_handles(), 0) << call;
    EXPECT_TRUE(device.device.health->Check().ok());
  }
}

TEST(CudaSoftmax, WhatIsNotTheDevicesFaultIsOneScansErrorAndLeavesNothingUnderWay) {
  const int dim = 16;
  const auto vectors = MakeVectorFile(NormalValues(100 * dim, 12), dim, ElementType::kFloat32);
  const std::vector<float> queries = NormalValues(dim, 13);
  const int64_t hidden[] = {3};
  for (const bool cancelled : {false, true}) {
    const SimulatedSearchDevice device = Simulated();
    const auto softmax = Make(device.device, vectors);
    SoftmaxScanOptions options;
    int copies = 0, ran = 0;
    device.fake->SetFault([&](const std::string& name) {
      ran += name == "run";
      if (name != "CopyToDevice") return absl::OkStatus();
      ++copies;
      if (cancelled) options.limits.Cancel();  // While the mask is on its way.
      return !cancelled && copies == 2 ? absl::ResourceExhaustedError("taken by another") : absl::OkStatus();
    });
    EXPECT_EQ(softmax->Scan({queries.data(), 1, dim}, RowMask().WithHidden(hidden), Skipped{{{false, 5}}}, options).status().code(),
              cancelled ? absl::StatusCode::kCancelled : absl::StatusCode::kResourceExhausted);
    EXPECT_EQ(ran, 1);
    device.fake->SetFault(nullptr);
    EXPECT_TRUE(device.device.health->Check().ok());
    ExpectSame(*softmax, *vectors, queries, RowMask(), {{{false, 6}}}, {}, "afterwards");
  }
}

TEST(CudaSoftmax, ADeviceThatFailsWhileACancelledScanEndsHasFailed) {
  const int dim = 16;
  const auto vectors = MakeVectorFile(NormalValues(100 * dim, 18), dim, ElementType::kFloat32);
  const std::vector<float> queries = NormalValues(dim, 19);
  const int64_t hidden[] = {3};
  for (const std::string call : {"Record", "Wait", "run"}) {
    const SimulatedSearchDevice device = Simulated();
    const auto softmax = Make(device.device, vectors);
    SoftmaxScanOptions options;
    device.fake->SetFault([&](const std::string& name) {
      if (name == "CopyToDevice") options.limits.Cancel();
      return name == call ? absl::UnavailableError("broken") : absl::OkStatus();
    });
    EXPECT_EQ(softmax->Scan({queries.data(), 1, dim}, RowMask().WithHidden(hidden), {}, options).status().code(),
              absl::StatusCode::kUnavailable)
        << call;
    EXPECT_FALSE(device.device.health->Check().ok());
  }
}

TEST(CudaSoftmax, WhoWaitsForAnotherScanLooksAtItsLimits) {
  const int dim = 16;
  const auto vectors = MakeVectorFile(NormalValues(100 * dim, 14), dim, ElementType::kFloat32);
  const std::vector<float> queries = NormalValues(dim, 15);
  const SimulatedSearchDevice device = Simulated();
  const auto softmax = Make(device.device, vectors);
  std::promise<void> waits, go_on;
  std::shared_future<void> may_go_on = go_on.get_future().share();
  std::atomic<bool> told{false};
  device.fake->SetFault([&](const std::string& name) {
    if (name == "Wait" && !told.exchange(true)) {
      waits.set_value();
      may_go_on.wait();
    }
    return absl::OkStatus();
  });
  std::thread first([&] { ExpectSame(*softmax, *vectors, queries, RowMask(), {}, {}, "the first"); });
  waits.get_future().wait();
  SoftmaxScanOptions late;
  late.limits = RequestLimits(RealClock().NowMicros() + 20'000);
  EXPECT_EQ(softmax->Scan({queries.data(), 1, dim}, RowMask(), {}, late).status().code(), absl::StatusCode::kDeadlineExceeded);
  SoftmaxScanOptions cancelled;
  std::thread waiting([&] {
    EXPECT_EQ(softmax->Scan({queries.data(), 1, dim}, RowMask(), {}, cancelled).status().code(), absl::StatusCode::kCancelled);
  });
  cancelled.limits.Cancel();
  waiting.join();
  go_on.set_value();
  first.join();
  device.fake->SetFault(nullptr);
  ExpectSame(*softmax, *vectors, queries, RowMask(), {}, {}, "afterwards");
}

// Kernels that are wrong in one thing.
class WrongKernels : public cuda::SearchKernels {
 public:
  enum class Fault { kNone, kScale, kHidden, kSkips, kMean, kLength };
  WrongKernels(std::shared_ptr<cuda::SearchKernels> kernels, Fault fault) : kernels_(std::move(kernels)), fault_(fault) {}

  absl::StatusOr<cuda::TileShape> ShapeOf(int query_count, int depth) const override { return kernels_->ShapeOf(query_count, depth); }
  absl::Status Scan(const cuda::ScanArgs& args, CudaHandle stream) override { return kernels_->Scan(args, stream); }
  absl::Status Select(const cuda::SelectArgs& args, int count, CudaHandle stream) override { return kernels_->Select(args, count, stream); }
  absl::Status SelectExact(const cuda::SelectArgs& args, int count, CudaHandle stream) override {
    return kernels_->SelectExact(args, count, stream);
  }
  absl::Status Rescore(ElementType type, const cuda::RescoreArgs<void>& args, int count, CudaHandle stream) override {
    return kernels_->Rescore(type, args, count, stream);
  }
  absl::StatusOr<int> SoftmaxParts(ElementType type, int dim) const override { return kernels_->SoftmaxParts(type, dim); }
  absl::Status Softmax(ElementType type, const cuda::SoftmaxArgs<void>& args, int parts, int query_tiles, CudaHandle stream) override {
    cuda::SoftmaxArgs<void> wrong = args;
    if (fault_ == Fault::kScale) wrong.scale *= 1.001f;
    if (fault_ == Fault::kHidden) wrong.hidden = nullptr;
    if (fault_ == Fault::kSkips) wrong.skips = nullptr;
    if (fault_ == Fault::kLength) wrong.squared_lengths = nullptr;
    return kernels_->Softmax(type, wrong, parts, query_tiles, stream);
  }
  absl::Status SoftmaxMerge(const cuda::SoftmaxMergeArgs& args, int count, CudaHandle stream) override {
    cuda::SoftmaxMergeArgs wrong = args;
    if (fault_ == Fault::kMean) wrong.weighted += 1;
    return kernels_->SoftmaxMerge(wrong, count, stream);
  }

 private:
  const std::shared_ptr<cuda::SearchKernels> kernels_;
  const Fault fault_;
};

TEST(CudaSoftmax, IsNotMadeOnADeviceThatFindsSomethingElse) {
  using Fault = WrongKernels::Fault;
  const int dim = 8;
  for (const int64_t rows : {int64_t{1}, int64_t{40}, int64_t{5000}}) {  // Of the last only some are looked at, and the others hidden.
    const auto vectors = MakeVectorFile(NormalValues(rows * dim, 16), dim, ElementType::kFloat32);
    for (const Fault fault : {Fault::kNone, Fault::kScale, Fault::kHidden, Fault::kSkips, Fault::kMean, Fault::kLength}) {
      if (rows == 1 && fault == Fault::kScale) continue;  // It does not show in one row.
      if (rows == 5000 && fault != Fault::kNone && fault != Fault::kHidden) continue;
      SCOPED_TRACE(testing::Message() << rows << " rows, fault " << static_cast<int>(fault));
      const SimulatedSearchDevice device = Simulated();
      SearchDevice wrong = device.device;
      wrong.kernels = std::make_shared<WrongKernels>(wrong.kernels, fault);
      CudaSoftmaxOptions options = Small();
      options.self_check = true;
      const auto softmax = CudaSoftmax::Create(wrong, Upload(device.device, *vectors), vectors, options);
      if (fault == Fault::kNone || (fault == Fault::kHidden && rows < 5000)) {
        EXPECT_TRUE(softmax.ok()) << softmax.status();
      } else {
        EXPECT_EQ(softmax.status().code(), absl::StatusCode::kFailedPrecondition) << softmax.status();
        EXPECT_THAT(std::string(softmax.status().message()), testing::HasSubstr("cuda:0 does not find the log Z and mean that the CPU finds"));
        EXPECT_TRUE(device.device.health->Check().ok());
      }
    }
  }
  // Nothing to find is no error; nor are rows without length.
  CudaSoftmaxOptions options = Small();
  options.self_check = true;
  EXPECT_NE(Make(Simulated().device, MakeVectorFile({}, dim, ElementType::kFloat16), options), nullptr);
  EXPECT_NE(Make(Simulated().device, MakeVectorFile(std::vector<float>(50 * dim), dim, ElementType::kFloat16), options), nullptr);
}

TEST(CudaSoftmax, SaysWhatMemoryItTakesBeforeItTakesIt) {
  const int dim = 40;
  const auto vectors = MakeVectorFile(NormalValues(3000 * dim, 17), dim, ElementType::kFloat16);
  const SimulatedSearchDevice device = Simulated({}, 64 << 20);
  const auto resident = Upload(Simulated().device, *vectors);  // Elsewhere.
  const CudaSoftmaxMemory memory = PlanCudaSoftmax(3000, dim, Small());
  CudaSoftmaxOptions options = Small();
  options.reserved_bytes = (64 << 20) - memory.device_bytes + 1;
  const auto refused = CudaSoftmax::Create(device.device, resident, vectors, options);
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(refused.status().message()),
              testing::HasSubstr("log Z of 3000 rows of 40 takes " + std::to_string(memory.device_bytes) + " bytes"));
  EXPECT_EQ(device.fake->allocations(), 0);
  options.reserved_bytes -= 1;
  const auto softmax = CudaSoftmax::Create(device.device, resident, vectors, options);
  ASSERT_TRUE(softmax.ok()) << softmax.status();
  EXPECT_EQ(device.fake->device_bytes(), memory.device_bytes);
  EXPECT_EQ(device.fake->pinned_bytes(), memory.pinned_bytes);
  EXPECT_EQ((*softmax)->memory().device_bytes, memory.device_bytes);
  // 10 million rows: a fraction of what they take themselves.
  EXPECT_LT(PlanCudaSoftmax(10'000'000, 384, {}).device_bytes, 80 << 20);
  EXPECT_LT(PlanCudaSoftmax(10'000'000, 384, {}).pinned_bytes, 8 << 20);
}

TEST(CudaSoftmax, ManyThreadsTakeTurns) {
  const int dim = 16;
  const auto vectors = MakeVectorFile(NormalValues(200 * dim, 10), dim, ElementType::kFloat32);
  const auto softmax = Make(Simulated().device, vectors);
  std::vector<std::thread> threads;
  for (uint64_t t = 0; t < 3; ++t) {
    threads.emplace_back([&, t] {
      const int64_t hidden[] = {static_cast<int64_t>(t)};
      const std::vector<float> queries = NormalValues(dim * static_cast<int64_t>(1 + t), 11 + t);
      ExpectSame(*softmax, *vectors, queries, RowMask().WithHidden(hidden), SkippedByTurns(*vectors, queries),
                 {.temperature = 0.1, .mean = true}, "thread");
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace loci
