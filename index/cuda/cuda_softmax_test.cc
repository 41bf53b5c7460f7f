#include "index/cuda/cuda_softmax.h"

#include <cmath>
#include <limits>
#include <memory>
#include <numeric>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "index/cuda/testing/search_devices.h"
#include "index/vector_file_testing.h"

namespace loci {
namespace {

CudaSoftmaxOptions Small() {
  CudaSoftmaxOptions options;
  options.max_queries = 16;
  options.part_bytes = 1 << 20;
  return options;
}

std::unique_ptr<CudaSoftmax> Make(const SearchDevice& device, const std::shared_ptr<const VectorFile>& vectors,
                                  const CudaSoftmaxOptions& options = Small()) {
  auto resident = ResidentVectors::Create(device, *vectors, nullptr, {}, nullptr);
  EXPECT_TRUE(resident.ok()) << resident.status();
  auto softmax = CudaSoftmax::Create(device, *std::move(resident), vectors, options);
  EXPECT_TRUE(softmax.ok()) << softmax.status();
  return *std::move(softmax);
}

void ExpectSame(const CudaSoftmax& softmax, const VectorFile& vectors, const std::vector<float>& queries, const RowMask& hidden,
                const SoftmaxScanOptions& options, const std::string& what) {
  const int dim = vectors.dim();
  const MatrixView<const float> view{queries.data(), static_cast<int64_t>(queries.size()) / dim, dim};
  const ScanSegment segments[] = {
      {.data = vectors.row(0), .type = vectors.element_type(), .rows = vectors.rows(), .hidden = &hidden}};
  const auto expected = ScanSoftmax(segments, view, {}, options);
  ASSERT_TRUE(expected.ok()) << expected.status();
  const auto sums = softmax.Scan(view, hidden, options);
  ASSERT_TRUE(sums.ok()) << what << ": " << sums.status();
  ASSERT_EQ(sums->size(), expected->sums.size());
  for (size_t q = 0; q < sums->size(); ++q) {
    const SoftmaxSums &mine = (*sums)[q], &theirs = expected->sums[q];
    ASSERT_EQ(mine.max_score, theirs.max_score) << what << ", query " << q;  // The same bits: the same order of summation.
    if (theirs.sum == 0) {
      EXPECT_EQ(mine.sum, 0) << what;
    } else {
      ASSERT_NEAR(mine.sum / theirs.sum, 1, 1e-5) << what << ", query " << q;
    }
    ASSERT_EQ(mine.weighted.size(), theirs.weighted.size()) << what;
    for (size_t d = 0; d < theirs.weighted.size(); ++d) {
      if (theirs.sum == 0) continue;
      ASSERT_NEAR(mine.weighted[d] / mine.sum, theirs.weighted[d] / theirs.sum, 1e-5)
          << what << ", query " << q << " dimension " << d;
    }
  }
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
                           Case{64, 31, 5, ElementType::kBfloat16, 1e-12}, Case{65, 33, 2, ElementType::kFloat16, 1e12}}) {
    const auto vectors = MakeVectorFile(NormalValues(each.rows * each.dim, 1), each.dim, each.type);
    const auto softmax = Make(device_, vectors);
    std::vector<int64_t> fifth, all(static_cast<size_t>(each.rows));
    std::iota(all.begin(), all.end(), 0);
    for (int64_t r = 2; r < each.rows; r += 5) fifth.push_back(r);
    const std::vector<float> queries = NormalValues(each.queries * each.dim, 2);
    const std::string what = testing::PrintToString(each.rows) + " x " + testing::PrintToString(each.dim);
    for (const bool mean : {false, true}) {
      const SoftmaxScanOptions options = {.temperature = each.temperature, .mean = mean};
      ExpectSame(*softmax, *vectors, queries, RowMask(), options, what);
      ExpectSame(*softmax, *vectors, queries, RowMask().WithHidden(fifth), options, what + ", a fifth hidden");
      ExpectSame(*softmax, *vectors, queries, RowMask().WithHidden(all), options, what + ", all hidden");
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
    ExpectSame(*Make(Simulated().device, vectors, options), *vectors, queries, RowMask(), {.temperature = 0.05, .mean = true},
               testing::PrintToString(part_bytes));
  }
}

TEST(CudaSoftmax, TakesNoMorePartsThanRunAtOnce) {
  const SearchDevice device = Simulated({.multiprocessor_count = 10}).device;
  EXPECT_EQ(*device.kernels->SoftmaxParts(ElementType::kBfloat16, 384), 30) << "three by registers, though memory holds five";
  EXPECT_EQ(*device.kernels->SoftmaxParts(ElementType::kFloat32, 1024), 10);
  // 115,232 bytes: twice that is what two blocks may ask for, but the driver's part is not left.
  EXPECT_EQ(*Simulated({.multiprocessor_count = 10, .max_shared_bytes = 2 * 115'232})
                 .device.kernels->SoftmaxParts(ElementType::kFloat32, 712),
            10);
}

TEST(CudaSoftmax, RefusesWhatDoesNotFit) {
  const int dim = 16;
  const auto vectors = MakeVectorFile(NormalValues(100 * dim, 5), dim, ElementType::kFloat32);
  const auto softmax = Make(Simulated().device, vectors);
  const std::vector<float> queries = NormalValues(dim, 6);
  EXPECT_EQ(softmax->Scan({queries.data(), 1, dim - 1}, RowMask(), {}).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(softmax->Scan({queries.data(), 1, dim}, RowMask(), {.temperature = 0}).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(softmax->Scan({queries.data(), 1, dim}, RowMask(), {.temperature = std::nan("")}).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(softmax->Scan({queries.data(), 0, dim}, RowMask(), {})->empty());
  SoftmaxScanOptions cancelled;
  cancelled.limits.Cancel();
  EXPECT_EQ(softmax->Scan({queries.data(), 1, dim}, RowMask(), cancelled).status().code(), absl::StatusCode::kCancelled);
  ExpectSame(*softmax, *vectors, queries, RowMask(), {}, "afterwards");
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
      const absl::Status status = softmax->Scan({queries.data(), 1, dim}, RowMask().WithHidden(hidden), {}).status();
      EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << call;
      device.fake->SetFault(nullptr);
      EXPECT_EQ(softmax->Scan({queries.data(), 1, dim}, RowMask(), {}).status(), status) << call;
    }
    EXPECT_EQ(device.fake->device_bytes(), 0);
    EXPECT_EQ(device.fake->live_handles(), 0);
  }
  for (const std::string call : {"Allocate", "AllocatePinned", "CreateStream", "CreateEvent"}) {
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
    EXPECT_EQ(softmax->Scan({queries.data(), 1, dim}, RowMask().WithHidden(hidden), options).status().code(),
              cancelled ? absl::StatusCode::kCancelled : absl::StatusCode::kResourceExhausted);
    EXPECT_EQ(ran, 1);
    device.fake->SetFault(nullptr);
    EXPECT_TRUE(device.device.health->Check().ok());
    ExpectSame(*softmax, *vectors, queries, RowMask(), {}, "afterwards");
  }
}

TEST(CudaSoftmax, ManyThreadsTakeTurns) {
  const int dim = 16;
  const auto vectors = MakeVectorFile(NormalValues(200 * dim, 10), dim, ElementType::kFloat32);
  const auto softmax = Make(Simulated().device, vectors);
  std::vector<std::thread> threads;
  for (uint64_t t = 0; t < 3; ++t) {
    threads.emplace_back([&, t] {
      const int64_t hidden[] = {static_cast<int64_t>(t)};
      ExpectSame(*softmax, *vectors, NormalValues(dim * static_cast<int64_t>(1 + t), 11 + t), RowMask().WithHidden(hidden),
                 {.temperature = 0.1, .mean = true}, "thread");
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace loci
