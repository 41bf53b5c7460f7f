#include <cstdint>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "base/cuda/error.h"
#include "base/cuda/graph_cache.h"
#include "base/cuda/health.h"
#include "base/cuda/runtime.h"
#include "base/cuda/testing/fake_runtime.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace loci {
namespace {

using testing::HasSubstr;

TEST(CudaStatus, SaysWhoMustAct) {
  EXPECT_TRUE(CudaStatus(0, "cudaSuccess", "no error", "copying").ok());
  for (const int code : {3, 34, 35, 46, 98, 100, 101, 209, 222, 803, 804}) {
    EXPECT_EQ(CudaStatus(code, "name", "text", "action").code(), absl::StatusCode::kFailedPrecondition) << code;
  }
  EXPECT_EQ(CudaStatus(2, "name", "text", "action").code(), absl::StatusCode::kResourceExhausted);
  for (const int code : {1, 9, 214, 700, 702, 709, 710, 715, 716, 717, 718, 719, 999}) {
    EXPECT_EQ(CudaStatus(code, "name", "text", "action").code(), absl::StatusCode::kUnavailable) << code;
  }
  EXPECT_EQ(
      CudaStatus(700, "cudaErrorIllegalAddress", "an illegal memory access was encountered", "waiting for the device").message(),
      "waiting for the device: an illegal memory access was encountered (cudaErrorIllegalAddress, CUDA error 700)");
}

TEST(CudaDriver, MustBeOfTheRuntimesMajorVersionOrLater) {
  EXPECT_EQ(WhyDriverIsTooOld(13000, 13000), "");
  EXPECT_EQ(WhyDriverIsTooOld(13000, 13020), "") << "minor versions are compatible";
  EXPECT_EQ(WhyDriverIsTooOld(14010, 13000), "");
  EXPECT_EQ(WhyDriverIsTooOld(12020, 13000), "the driver serves CUDA 12.2, this build needs 13.0 (it has runtime 13.0)");
  EXPECT_EQ(WhyDriverIsTooOld(0, 13000), "no NVIDIA driver is loaded, this build needs 13.0 (it has runtime 13.0)");
}

TEST(CudaHealth, KeepsTheFirstErrorAndTellsItOnce) {
  CudaHealth health("cuda:1");
  EXPECT_TRUE(health.Check().ok());
  std::vector<std::string> told;
  health.SetListener([&](const absl::Status& status) {
    EXPECT_FALSE(health.Check().ok()) << "holds no lock";
    told.push_back(std::string(status.message()));
  });
  EXPECT_TRUE(told.empty());
  const absl::Status failure = health.Fail(absl::InternalError("first"));
  EXPECT_EQ(failure.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(failure.message()), HasSubstr("cuda:1"));
  EXPECT_THAT(std::string(failure.message()), HasSubstr("first"));
  EXPECT_EQ(health.Fail(absl::InternalError("second")), failure);
  EXPECT_EQ(health.Check(), failure);
  EXPECT_EQ(told, std::vector<std::string>{std::string(failure.message())});
  health.SetListener([&](const absl::Status&) { told.push_back("late"); });
  EXPECT_EQ(told.back(), "late") << "who comes late is told too";
}

TEST(CudaHealth, ManyThreadsMayFailAtOnce) {
  CudaHealth health("cuda:0");
  int told = 0;
  health.SetListener([&](const absl::Status&) { ++told; });
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) threads.emplace_back([&] { (void)health.Fail(absl::InternalError("x")); });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(told, 1);
}

TEST(OpenCudaRuntime, IsAClearRefusalWithoutADevice) {
  const auto runtime = OpenCudaRuntime(1000);
  ASSERT_FALSE(runtime.ok());
  EXPECT_EQ(runtime.status().code(), absl::StatusCode::kFailedPrecondition) << runtime.status();
  EXPECT_FALSE(runtime.status().message().empty());
}

TEST(FakeCudaRuntime, DoesNothingUntilItIsWaitedFor) {
  FakeCudaRuntime runtime;
  auto stream = *Own<CudaStream>(runtime, runtime.CreateStream());
  auto event = *Own<CudaEvent>(runtime, runtime.CreateEvent(EventWait::kSpin));
  auto device = *Own<DeviceMemory>(runtime, runtime.Allocate(4));
  auto pinned = *Own<PinnedMemory>(runtime, runtime.AllocatePinned(4));
  int value = 7;
  ASSERT_TRUE(runtime.CopyToDevice(device.get(), &value, 4, stream.get()).ok());
  ASSERT_TRUE(runtime.CopyToHost(pinned.get(), device.get(), 4, stream.get()).ok());
  ASSERT_TRUE(runtime.Record(event.get(), stream.get()).ok());
  ASSERT_TRUE(runtime.Fill(pinned.get(), 0, 4, stream.get()).ok());
  EXPECT_EQ(*static_cast<int*>(pinned.get()), -1);
  value = 8;  // Too early: the copy has not run.
  ASSERT_TRUE(runtime.Wait(event.get()).ok());
  EXPECT_EQ(*static_cast<int*>(pinned.get()), 8) << "and what was put on the stream behind the event has not run";
}

TEST(FakeCudaRuntime, ReplaysGraphsAndCountsWhatIsAlive) {
  FakeCudaRuntime runtime(1 << 20);
  {
    auto stream = *Own<CudaStream>(runtime, runtime.CreateStream());
    auto event = *Own<CudaEvent>(runtime, runtime.CreateEvent(EventWait::kSpin));
    int count = 0;
    ASSERT_TRUE(runtime.BeginCapture(stream.get()).ok());
    ASSERT_TRUE(runtime
                    .Enqueue(stream.get(),
                             [&] {
                               ++count;
                               return absl::OkStatus();
                             })
                    .ok());
    auto graph = *Own<CudaGraph>(runtime, runtime.EndCapture(stream.get()));
    for (int i = 0; i < 3; ++i) ASSERT_TRUE(runtime.LaunchGraph(graph.get(), stream.get()).ok());
    ASSERT_TRUE(runtime.Record(event.get(), stream.get()).ok());
    ASSERT_TRUE(runtime.Wait(event.get()).ok());
    EXPECT_EQ(count, 3);
    auto memory = *Own<DeviceMemory>(runtime, runtime.Allocate(1 << 19));
    EXPECT_EQ(runtime.GetMemory()->free_bytes, 1 << 19);
    EXPECT_EQ(runtime.Allocate((1 << 19) + 1).status().code(), absl::StatusCode::kResourceExhausted);
    EXPECT_EQ(runtime.live_graphs(), 1);
  }
  EXPECT_EQ(runtime.device_bytes(), 0);
  EXPECT_EQ(runtime.live_graphs(), 0);
  EXPECT_EQ(runtime.live_handles(), 0);
}

TEST(FakeCudaRuntime, AFailureOfWorkIsToldByEveryLaterCall) {
  FakeCudaRuntime runtime;
  auto stream = *Own<CudaStream>(runtime, runtime.CreateStream());
  auto event = *Own<CudaEvent>(runtime, runtime.CreateEvent(EventWait::kSpin));
  ASSERT_TRUE(runtime.Enqueue(stream.get(), [] { return absl::UnavailableError("illegal address"); }).ok());
  ASSERT_TRUE(runtime.Record(event.get(), stream.get()).ok());
  EXPECT_EQ(runtime.Wait(event.get()).message(), "illegal address");
  EXPECT_EQ(runtime.Allocate(4).status().message(), "illegal address");
}

class GraphCacheTest : public testing::Test {
 protected:
  CudaGraph Graph() {
    EXPECT_TRUE(runtime_.BeginCapture(stream_.get()).ok());
    return *Own<CudaGraph>(runtime_, runtime_.EndCapture(stream_.get()));
  }

  FakeCudaRuntime runtime_;
  CudaStream stream_ = *Own<CudaStream>(runtime_, runtime_.CreateStream());
};

TEST_F(GraphCacheTest, DropsTheLeastRecentlyUsed) {
  GraphCache cache(2);
  EXPECT_EQ(cache.Find(16), nullptr);
  cache.Insert(16, Graph());
  cache.Insert(32, Graph());
  EXPECT_NE(cache.Find(16), nullptr);
  cache.Insert(48, Graph());
  EXPECT_EQ(cache.Find(32), nullptr);
  EXPECT_NE(cache.Find(16), nullptr);
  EXPECT_NE(cache.Find(48), nullptr);
  EXPECT_EQ(cache.size(), 2);
  EXPECT_EQ(runtime_.live_graphs(), 2);
  const CudaHandle before = cache.Find(48);
  cache.Insert(48, Graph());
  EXPECT_NE(cache.Find(48), before);
  EXPECT_EQ(runtime_.live_graphs(), 2);
}

TEST_F(GraphCacheTest, WithoutRoomKeepsNothing) {
  GraphCache cache(0);
  cache.Insert(16, Graph());
  EXPECT_EQ(cache.Find(16), nullptr);
  EXPECT_EQ(runtime_.live_graphs(), 0);
}

}  // namespace
}  // namespace loci
