// A server whose encoder runs on a CUDA device, simulated: which device it takes, what it tells, and what happens when the device fails.
#include <chrono>
#include <condition_variable>
#include <future>
#include <limits>
#include <memory>
#include <mutex>
#include <string>

#include "absl/strings/str_cat.h"
#include "encoder/cuda/testing/test_devices.h"
#include "gmock/gmock.h"
#include "tests/integration/server_fixture.h"

namespace loci {
namespace {

using Retrieval = loci::v1::RetrievalService::Stub;
using Admin = loci::v1::AdminService::Stub;
using ::testing::HasSubstr;

constexpr int64_t kMemoryBytes = 260 << 20;  // Little, so that chunks are small.

class ServerDevice : public ServerFixture {
 protected:
  void SetUp() override {
    ServerFixture::SetUp();
    options.probe_cuda = [] {
      return CudaProbe{.built_in = true,
                       .devices = {{.ordinal = 0,
                                    .name = "Simulated",
                                    .compute_major = 9,
                                    .total_memory_bytes = kMemoryBytes,
                                    .free_memory_bytes = kMemoryBytes}},
                       .detail = ""};
    };
    options.open_cuda = [this](int) -> absl::StatusOr<std::shared_ptr<CudaBackend>> {
      return backend_ = cuda::SimulatedBackend(kernels_, memory_bytes_);
    };
  }

  // As the server tells it: of the device that was chosen, and of the default encoder.
  struct Told {
    std::string device, reason, encoder_device, element_type;
  };
  Told GetDevice() {
    loci::v1::GetServerInfoResponse info;
    EXPECT_TRUE(Call(*admin, &Admin::GetServerInfo, loci::v1::GetServerInfoRequest(), &info).ok());
    Told told;
    for (const loci::v1::Device& device : info.devices()) {
      if (device.chosen()) told.device = device.device(), told.reason = device.reason();
    }
    if (info.encoders_size() > 0)
      told.encoder_device = info.encoders(0).device(), told.element_type = info.encoders(0).element_type();
    return told;
  }

  int64_t memory_bytes_ = kMemoryBytes;
  cuda::SimulatedKernels::Options kernels_;
  std::shared_ptr<CudaBackend> backend_;
};

TEST_F(ServerDevice, AutoServesFromADeviceThatWorks) {
  StartServer();
  const Told told = GetDevice();
  EXPECT_EQ(told.device, "cuda:0");
  EXPECT_THAT(told.reason, HasSubstr("Simulated"));
  EXPECT_EQ(told.encoder_device, "cuda:0");
  EXPECT_EQ(told.element_type, "bfloat16");
  ExpectServing();
}

TEST_F(ServerDevice, ABatchIsCopiedWhileAnotherIsComputed) {
  StartServer();
  std::mutex mutex;
  std::condition_variable changed;
  int under_way = 0;
  static_cast<FakeCudaRuntime&>(backend_->runtime()).SetFault([&](const std::string& call) {
    if (call != "Wait") return absl::OkStatus();
    std::unique_lock lock(mutex);
    ++under_way;
    changed.notify_all();
    // The first batch ends once there is a second one.
    const bool both = changed.wait_for(lock, std::chrono::seconds(60), [&] { return under_way >= 2; });
    return both ? absl::OkStatus() : absl::UnavailableError("no other batch came");
  });
  std::future<grpc::Status> first = std::async(std::launch::async, [this] { return Encode(); });
  {
    std::unique_lock lock(mutex);
    ASSERT_TRUE(changed.wait_for(lock, std::chrono::seconds(60), [&] { return under_way >= 1; }));
  }
  EXPECT_TRUE(Encode().ok());
  EXPECT_TRUE(first.get().ok());
  static_cast<FakeCudaRuntime&>(backend_->runtime()).SetFault(nullptr);
}

TEST_F(ServerDevice, AutoTakesTheCpuWhereTheEncoderDoesNotFit) {
  memory_bytes_ = 1 << 20;
  StartServer();
  const Told told = GetDevice();
  EXPECT_EQ(told.device, "cpu");
  EXPECT_THAT(told.reason, HasSubstr("1 MiB are free")) << told.reason;
  EXPECT_EQ(told.encoder_device, "cpu");
  ExpectServing();
}

TEST_F(ServerDevice, AutoTakesTheCpuWhereTheDeviceGivesNoNumbers) {
  kernels_.wrong_by = std::numeric_limits<float>::quiet_NaN();
  StartServer();
  const Told told = GetDevice();
  EXPECT_EQ(told.device, "cpu");
  EXPECT_THAT(told.reason, HasSubstr("not finite"));
  ExpectServing();
}

TEST_F(ServerDevice, AnExplicitDeviceThatDoesNotDoEndsTheStart) {
  memory_bytes_ = 1 << 20;
  options.device = "cuda:0";
  const auto started = Server::Start(options);
  ASSERT_FALSE(started.ok());
  EXPECT_EQ(started.status().code(), absl::StatusCode::kFailedPrecondition) << started.status();
  EXPECT_THAT(std::string(started.status().message()), HasSubstr("are free"));
}

TEST_F(ServerDevice, AFailureIsToldByHealthAndByEveryRequest) {
  StartServer();
  EXPECT_EQ(Health(), 1);
  EXPECT_TRUE(Encode().ok());
  static_cast<FakeCudaRuntime&>(backend_->runtime()).SetFault([](const std::string& call) {
    return call == "Wait" ? absl::UnavailableError("an illegal memory access was encountered") : absl::OkStatus();
  });
  const grpc::Status failed = Encode();
  EXPECT_EQ(failed.error_code(), grpc::StatusCode::UNAVAILABLE) << failed.error_message();
  EXPECT_THAT(failed.error_message(), HasSubstr("illegal memory access"));
  EXPECT_EQ(Health(), 2);
  static_cast<FakeCudaRuntime&>(backend_->runtime()).SetFault(nullptr);
  EXPECT_EQ(Encode().error_code(), grpc::StatusCode::UNAVAILABLE) << "nothing answers in its place";
  EXPECT_EQ(GetDevice().device, "cuda:0");
}

}  // namespace
}  // namespace loci
