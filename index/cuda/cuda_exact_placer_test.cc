#include "index/cuda/cuda_exact_placer.h"

#include <memory>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "base/cuda/testing/fake_runtime.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "index/cuda/testing/search_devices.h"
#include "index/cuda/testing/small_search.h"
#include "index/device_softmax.h"
#include "index/exact_index.h"
#include "index/vector_file_testing.h"

namespace loci {
namespace {

using testing::HasSubstr;

constexpr int kDim = 24;
constexpr int64_t kRows = 300;

struct Body {
  VectorsWithCodes files;
  std::unique_ptr<PlacedExactIndex> exact;
};

Body MakeBody(uint64_t seed) {
  Body body;
  body.files = MakeVectorsWithCodes(NormalValues(kRows * kDim, seed), kDim);
  body.exact = std::make_unique<PlacedExactIndex>(std::make_shared<ExactIndex>(body.files.vectors, nullptr));
  return body;
}

absl::StatusOr<std::shared_ptr<const DeviceExactIndex>> Place(ExactPlacer& placer, const Body& body) {
  return placer.Place(body.files.vectors, body.files.codes, body.exact->cpu(), nullptr);
}

std::vector<RowHit> Search(const PassageIndex& index) {
  const std::vector<float> queries = NormalValues(2 * kDim, 9);
  IndexSearchOptions options;
  options.top_k = 5;
  std::vector<RowHit> hits(10);
  EXPECT_TRUE(index.Search({queries.data(), 2, kDim}, options, RowMask(), hits.data()).ok());
  return hits;
}

void ExpectSame(const std::vector<RowHit>& a, const std::vector<RowHit>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) EXPECT_TRUE(a[i].row == b[i].row && a[i].score == b[i].score) << i;
}

TEST(CudaExactPlacer, SearchMovesToTheDeviceAndBack) {
  const SimulatedSearchDevice device = Simulated();
  CudaExactPlacer placer(device.device, SmallSearch());
  EXPECT_EQ(placer.device(), "cuda:0");
  const Body body = MakeBody(1);
  const std::vector<RowHit> by_cpu = Search(*body.exact);
  EXPECT_EQ(body.exact->memory_bytes(), 0);
  body.exact->SetRefusal(absl::ResourceExhaustedError("full"));

  auto placed = Place(placer, body);
  ASSERT_TRUE(placed.ok()) << placed.status();
  EXPECT_EQ((*placed)->device_bytes(), device.fake->device_bytes());
  EXPECT_EQ((*placed)->memory_bytes(), device.fake->pinned_bytes());
  EXPECT_GE(placer.host_bytes(kRows, kDim), device.fake->pinned_bytes());
  EXPECT_EQ(body.exact->SetDevice(*std::move(placed)), nullptr);
  EXPECT_TRUE(body.exact->refusal().ok());
  EXPECT_EQ(body.exact->memory_bytes(), device.fake->pinned_bytes());
  ExpectSame(Search(*body.exact), by_cpu);
  EXPECT_EQ(body.exact->device()->counts().answered, 2);

  std::shared_ptr<const DeviceExactIndex> replaced = body.exact->SetDevice(nullptr);
  ASSERT_NE(replaced, nullptr);
  ExpectSame(Search(*body.exact), by_cpu);
  EXPECT_EQ(replaced->counts().answered, 2);
  EXPECT_GT(device.fake->device_bytes(), 0) << "until the last that searches there lets go";
  replaced.reset();
  EXPECT_EQ(device.fake->device_bytes(), 0);
  EXPECT_EQ(device.fake->pinned_bytes(), 0);
}

TEST(CudaExactPlacer, KeepsWithinItsLimit) {
  const SimulatedSearchDevice device = Simulated();
  const Body one = MakeBody(1), two = MakeBody(2);
  int64_t bytes = 0;
  {
    CudaExactPlacer unlimited(device.device, SmallSearch());
    bytes = (*Place(unlimited, one))->device_bytes();
  }
  CudaExactPlacer placer(device.device, SmallSearch(), 2 * bytes - 1);
  auto first = Place(placer, one);
  ASSERT_TRUE(first.ok()) << first.status();
  const auto refused = Place(placer, two);
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr(std::to_string(2 * bytes - 1)));
  EXPECT_EQ(device.fake->device_bytes(), bytes);
  first->reset();
  // What fails gives back what it took.
  device.fake->SetFault([](const std::string& call) { return call == "Allocate" ? absl::ResourceExhaustedError("none left") : absl::OkStatus(); });
  EXPECT_THAT(std::string(Place(placer, two).status().message()), HasSubstr("none left"));
  device.fake->SetFault(nullptr);
  EXPECT_TRUE(Place(placer, two).ok());
}

CudaSearchOptions WithLogZ() {
  CudaSearchOptions options = SmallSearch();
  options.softmax = SmallSoftmax();
  return options;
}

int64_t SearchBytes() {
  const CudaSearchOptions options = SmallSearch();
  return PlanResident(kRows, kDim, ElementType::kFloat32, int64_t{1} << 40, options.limits)->device_bytes() +
         PlanCudaSearch(kRows, kDim, options).working_bytes;
}
int64_t LogZBytes() { return PlanCudaSoftmax(kRows, kDim, SmallSoftmax()).device_bytes; }

TEST(CudaExactPlacer, LogZComesWithTheIndex) {
  const SimulatedSearchDevice device = Simulated();
  CudaSearchOptions options = WithLogZ();
  options.softmax->self_check = true;
  options.min_visible_rows = 10;
  CudaExactPlacer placer(device.device, options);
  const Body body = MakeBody(1);
  const auto placed = Place(placer, body);
  ASSERT_TRUE(placed.ok()) << placed.status();
  EXPECT_EQ((*placed)->device_bytes(), SearchBytes() + LogZBytes());
  EXPECT_EQ((*placed)->device_bytes(), device.fake->device_bytes());
  EXPECT_EQ((*placed)->memory_bytes(), device.fake->pinned_bytes());
  EXPECT_GE(placer.host_bytes(kRows, kDim), device.fake->pinned_bytes() + 2 * options.limits.upload_bytes);
  const DeviceSoftmax* const softmax = (*placed)->softmax(RowMask());
  ASSERT_NE(softmax, nullptr);
  const std::vector<float> queries = NormalValues(2 * kDim, 9);
  const auto scan = softmax->Scan({queries.data(), 2, kDim}, RowMask(), {}, {});
  ASSERT_TRUE(scan.ok()) << scan.status();
  EXPECT_EQ(static_cast<float>(scan->sums[1].max_score), Search(*body.exact)[5].score);
  // The CPU passes over what is hidden, the device does not.
  std::vector<int64_t> hidden(kRows - 10);
  std::iota(hidden.begin(), hidden.end(), 0);
  EXPECT_EQ((*placed)->softmax(RowMask().WithHidden(hidden)), softmax);
  hidden.push_back(kRows - 1);
  EXPECT_EQ((*placed)->softmax(RowMask().WithHidden(hidden)), nullptr);
}

TEST(CudaExactPlacer, AnIndexIsSearchedWithoutRoomForLogZ) {
  const SimulatedSearchDevice device = Simulated();
  const Body one = MakeBody(1), two = MakeBody(2);
  CudaExactPlacer placer(device.device, WithLogZ(), 2 * SearchBytes() + 2 * LogZBytes() - 1);
  auto first = Place(placer, one);
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_NE((*first)->softmax(RowMask()), nullptr);
  {
    const auto second = Place(placer, two);
    ASSERT_TRUE(second.ok()) << second.status();
    EXPECT_EQ((*second)->softmax(RowMask()), nullptr);
    EXPECT_EQ((*second)->device_bytes(), SearchBytes());
    EXPECT_EQ(device.fake->device_bytes(), 2 * SearchBytes() + LogZBytes());
    ExpectSame(Search(**second), Search(*two.exact));
  }
  first->reset();
  for (int i = 0; i < 2; ++i) EXPECT_NE((*Place(placer, two))->softmax(RowMask()), nullptr) << "what was taken is given back";

  // The device has no room, or no such kernel: the same, and the limit is not held for it.
  for (const bool exhausted : {true, false}) {
    const SimulatedSearchDevice full = Simulated();
    CudaExactPlacer other(full.device, WithLogZ(), 2 * SearchBytes() + LogZBytes());
    int asked = 0;
    full.fake->SetFault([&](const std::string& call) {
      if (call != "GetMemory" || ++asked != 2) return absl::OkStatus();
      return exhausted ? absl::ResourceExhaustedError("none left") : absl::FailedPreconditionError("not here");
    });
    const auto without = Place(other, one);
    full.fake->SetFault(nullptr);
    ASSERT_TRUE(without.ok()) << without.status();
    EXPECT_EQ((*without)->softmax(RowMask()), nullptr);
    EXPECT_EQ((*without)->device_bytes(), full.fake->device_bytes());
    const auto with = Place(other, two);
    ASSERT_TRUE(with.ok()) << with.status();
    EXPECT_NE((*with)->softmax(RowMask()), nullptr);
  }
}

TEST(CudaExactPlacer, ADeviceThatFailsWhileLogZIsMadeIsNoDeviceWithoutIt) {
  for (const std::string call : {"GetMemory", "Wait"}) {
    const SimulatedSearchDevice device = Simulated();
    CudaSearchOptions options = WithLogZ();
    options.softmax->self_check = true;
    CudaExactPlacer placer(device.device, options);
    const Body body = MakeBody(1);
    int asked = 0;
    device.fake->SetFault([&](const std::string& name) {
      asked += name == "GetMemory";  // Before the rows, then before log Z.
      return asked >= 2 && name == call ? absl::UnavailableError("broken") : absl::OkStatus();
    });
    EXPECT_EQ(Place(placer, body).status().code(), absl::StatusCode::kUnavailable) << call;
    device.fake->SetFault(nullptr);
    EXPECT_FALSE(placer.health().Check().ok());
    EXPECT_EQ(device.fake->device_bytes(), 0);
    EXPECT_EQ(device.fake->live_handles(), 0);
  }
}

TEST(CudaExactPlacer, SaysWhatTheDeviceIsNotFor) {
  CudaSearchOptions options = SmallSearch();
  CudaExactPlacer small(Simulated().device, options);
  EXPECT_FALSE(small.IsFor(0, kDim));
  EXPECT_TRUE(small.IsFor(1, kDim));
  options.min_visible_rows = 1000;
  CudaExactPlacer large(Simulated().device, options);
  EXPECT_FALSE(large.IsFor(999, kDim));
  EXPECT_TRUE(large.IsFor(1000, kDim));
}

TEST(CudaExactPlacer, PlacesNothingOnADeviceThatFailed) {
  const SimulatedSearchDevice device = Simulated();
  CudaExactPlacer placer(device.device, SmallSearch());
  const Body body = MakeBody(1);
  device.fake->SetFault([](const std::string& call) { return call == "Wait" ? absl::UnavailableError("broken") : absl::OkStatus(); });
  EXPECT_EQ(Place(placer, body).status().code(), absl::StatusCode::kUnavailable);
  device.fake->SetFault(nullptr);
  EXPECT_EQ(Place(placer, body).status(), placer.health().Check());
  EXPECT_FALSE(placer.health().Check().ok());
  EXPECT_EQ(device.fake->device_bytes(), 0);
}

}  // namespace
}  // namespace loci
