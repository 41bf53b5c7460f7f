#include "index/cuda/cuda_exact_placer.h"

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/cuda/testing/fake_runtime.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "index/cuda/testing/search_devices.h"
#include "index/cuda/testing/small_search.h"
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
