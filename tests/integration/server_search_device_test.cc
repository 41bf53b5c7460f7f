// A server that searches exactly on a CUDA device, simulated: what it takes and tells, hot swaps, and what happens when the device fails.
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <fstream>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "encoder/cuda/testing/test_devices.h"
#include "gmock/gmock.h"
#include "index/cuda/cuda_exact_placer.h"
#include "index/cuda/testing/search_devices.h"
#include "index/cuda/testing/small_search.h"
#include "proto/loci/v1/training.grpc.pb.h"
#include "tests/integration/server_fixture.h"

namespace loci {
namespace {

using Retrieval = loci::v1::RetrievalService::Stub;
using Admin = loci::v1::AdminService::Stub;
using Training = loci::v1::TrainingService::Stub;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

// A placer whose uploads, once it is told to, take until they are ended. Thread-safe.
class SlowPlacer : public ExactPlacer {
 public:
  explicit SlowPlacer(std::shared_ptr<ExactPlacer> placer) : placer_(std::move(placer)) {}
  const std::string& device() const override { return placer_->device(); }
  CudaHealth& health() const override { return placer_->health(); }
  bool IsFor(int64_t rows, int dim) const override { return placer_->IsFor(rows, dim); }
  int64_t host_bytes(int64_t rows, int dim) const override { return placer_->host_bytes(rows, dim); }
  absl::StatusOr<std::shared_ptr<const DeviceExactIndex>> Place(std::shared_ptr<const VectorFile> vectors,
                                                                std::shared_ptr<const QuantizedVectors> codes,
                                                                std::shared_ptr<const PassageIndex> cpu,
                                                                const std::function<absl::Status(int64_t)>& progress) override {
    const auto until = std::chrono::steady_clock::now() + std::chrono::minutes(1);
    while (slow && std::chrono::steady_clock::now() < until) {
      uploading = true;
      if (const absl::Status status = progress(0); !status.ok()) {
        ended = true;
        return status;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return placer_->Place(std::move(vectors), std::move(codes), std::move(cpu), progress);
  }

  std::atomic<bool> slow{false}, uploading{false}, ended{false};

 private:
  const std::shared_ptr<ExactPlacer> placer_;
};

class ServerSearchDevice : public ServerFixture {
 protected:
  void SetUp() override {
    ServerFixture::SetUp();
    options.device = "cpu";
    options.search_device = "cuda:0";
    options.probe_cuda = [] {
      return CudaProbe{.built_in = true,
                       .devices = {{.ordinal = 0, .name = "Simulated", .compute_major = 9, .total_memory_bytes = 1 << 30, .free_memory_bytes = 1 << 30}},
                       .detail = ""};
    };
    options.open_cuda = [](int) -> absl::StatusOr<std::shared_ptr<CudaBackend>> { return cuda::SimulatedBackend({}, 260 << 20); };
    options.open_search_device = [this](int, const std::shared_ptr<CudaBackend>& encoders,
                                        int64_t memory_limit_bytes) -> absl::StatusOr<std::shared_ptr<ExactPlacer>> {
      if (encoders == nullptr) {
        device_ = Simulated({}, memory_bytes_);
        device_.fake->SetFault(fault_);
      } else {
        device_.fake = static_cast<FakeCudaRuntime*>(&encoders->runtime());
        device_.device = {.name = encoders->name(),
                          .runtime = std::shared_ptr<CudaRuntime>(encoders, &encoders->runtime()),
                          .health = std::shared_ptr<CudaHealth>(encoders, &encoders->health()),
                          .kernels = cuda::MakeSimulatedSearchKernels(*device_.fake, {})};
        device_.fake->SetFault(fault_);
      }
      return std::make_shared<CudaExactPlacer>(device_.device, search_options_, memory_limit_bytes);
    };
  }
  void TearDown() override {
    if (device_.fake != nullptr) device_.fake->SetFault(nullptr);
    ServerFixture::TearDown();
  }

  // What an index of a few passages takes there.
  static int64_t IndexBytes() {
    const CudaSearchOptions options = SmallSearch();
    return PlanResident(3, kTinyDim, ElementType::kFloat32, int64_t{1} << 40, options.limits)->device_bytes() +
           PlanCudaSearch(3, kTinyDim, options).working_bytes;
  }
  std::string ReasonOf(const std::string& device) {
    loci::v1::GetServerInfoResponse info;
    EXPECT_TRUE(Call(*admin, &Admin::GetServerInfo, loci::v1::GetServerInfoRequest(), &info).ok());
    int chosen = 0;
    std::string reason;
    for (const loci::v1::Device& each : info.devices()) {
      chosen += each.chosen();
      if (each.device() == device) reason = each.reason();
    }
    EXPECT_EQ(chosen, 1) << "the encoders'";
    return reason;
  }
  grpc::Status Search(const std::string& text, std::string* best = nullptr, int64_t* count = nullptr) {
    loci::v1::SearchResponse response;
    const grpc::Status status = Call(*retrieval, &Retrieval::Search, TextSearch("s", text, 10), &response);
    if (!status.ok()) return status;
    EXPECT_TRUE(response.exact());
    EXPECT_EQ(response.results_size(), 1);
    if (best != nullptr) *best = response.results(0).hits(0).id();
    if (count != nullptr) *count = response.results(0).hits_size();
    return status;
  }
  std::string DetailOfActive() {
    loci::v1::ListGenerationsRequest request;
    request.set_store("s");
    loci::v1::ListGenerationsResponse response;
    EXPECT_TRUE(Call(*admin, &Admin::ListGenerations, request, &response).ok());
    for (const loci::v1::Generation& generation : response.generations()) {
      if (generation.state() == loci::v1::GENERATION_STATE_SERVING) return generation.state_detail();
    }
    return "none serves";
  }
  absl::Status StartError() { return Server::Start(options).status(); }

  CudaSearchOptions search_options_ = SmallSearch();
  int64_t memory_bytes_ = int64_t{1} << 30;
  std::function<absl::Status(const std::string& call)> fault_;  // Of each device from its opening on.
  SimulatedSearchDevice device_;
};

TEST_F(ServerSearchDevice, SearchesWhatServesOnTheDeviceThatIsNamed) {
  StartServer();
  Ingest("s", {{"a", "a red fox"}, {"b", "a blue whale"}, {"c", "green tea"}});
  EXPECT_EQ(device_.fake->device_bytes(), IndexBytes());
  EXPECT_THAT(ReasonOf("cuda:0"), AllOf(HasSubstr("not for encoders"), HasSubstr("exact search runs here: cuda:0 was asked for: Simulated")));
  Upsert("s", "d", "a yellow submarine");
  std::string best;
  int64_t count = 0;
  ASSERT_TRUE(Search("a blue whale", &best, &count).ok());
  EXPECT_EQ(best, "b");
  EXPECT_EQ(count, 4);
  ASSERT_TRUE(Search("a yellow submarine", &best).ok());
  EXPECT_EQ(best, "d");
  EXPECT_EQ(Metric("loci_store_device_search_queries{result=\"answered\",store=\"s\"}"), 2);
  EXPECT_EQ(Metric("loci_store_device_search_queries{result=\"left\",store=\"s\"}"), 0);
  EXPECT_EQ(Metric("loci_memory_bytes{kind=\"device\",owner=\"search\",store=\"s\"}"), static_cast<double>(IndexBytes()));
  // What deploy/grafana/check_dashboard.py takes for there.
  std::ifstream file("deploy/grafana/search_device_metrics.txt");
  int series_count = 0;
  for (std::string line; std::getline(file, line);) {
    if (line.empty() || line[0] == '#') continue;
    const std::string series = line.substr(0, line.rfind(' '));
    EXPECT_NE(Metric(series), -1) << series;
    ++series_count;
  }
  EXPECT_EQ(series_count, 7);
  StartServer();  // A restart.
  EXPECT_EQ(device_.fake->device_bytes(), IndexBytes());
  ASSERT_TRUE(Search("a yellow submarine", &best).ok());
  EXPECT_EQ(best, "d");
  EXPECT_EQ(Metric("loci_store_device_search{store=\"s\"}"), 1);
  FakeCudaRuntime* const fake = device_.fake;
  const std::shared_ptr<CudaRuntime> kept = device_.device.runtime;
  server.reset();
  EXPECT_EQ(fake->device_bytes(), 0);
  EXPECT_EQ(fake->pinned_bytes(), 0);
  EXPECT_EQ(fake->live_handles(), 0);
}

TEST_F(ServerSearchDevice, TrainingHasLogZFromTheDevice) {
  search_options_.softmax = SmallSoftmax();
  StartServer();
  Ingest("s", {{"a", "a red fox"}, {"b", "a blue whale"}, {"c", "green tea"}, {"d", "black tea"}});
  Upsert("s", "e", "a yellow submarine");
  Upsert("s", "c", "rooibos");
  EXPECT_GT(device_.fake->device_bytes(), IndexBytes());
  EXPECT_EQ(Metric("loci_memory_bytes{kind=\"device\",owner=\"search\",store=\"s\"}"), static_cast<double>(device_.fake->device_bytes()));
  const auto training = loci::v1::TrainingService::NewStub(channel);
  loci::v1::OpenSessionRequest open;
  open.set_store("s");
  loci::v1::OpenSessionResponse session;
  ASSERT_TRUE(Call(*training, &Training::OpenSession, open, &session).ok());
  const auto retrieve = [&](loci::v1::Estimator estimator, loci::v1::RetrieveResponse* response) {
    loci::v1::RetrieveRequest request;
    request.set_session_id(session.session_id());
    request.add_query_texts("a blue whale");
    request.add_query_texts("black coffee");
    request.set_top_k(1);
    request.set_estimator(estimator);
    request.set_temperature(0.2);
    request.add_exclusions()->add_ids("b");
    request.add_exclusions();
    if (estimator == loci::v1::ESTIMATOR_EXACT_Z_TAIL) request.set_tail_samples(1);
    const int64_t before = device_.fake->waits();
    const grpc::Status status = Call(*training, &Training::Retrieve, request, response);
    return std::make_pair(status, device_.fake->waits() - before);
  };
  loci::v1::RetrieveResponse by_device, by_cpu;
  const auto [status, waits] = retrieve(loci::v1::ESTIMATOR_EXACT_Z_NULL, &by_device);
  ASSERT_TRUE(status.ok()) << status.error_message();
  const auto [cpu_status, cpu_waits] = retrieve(loci::v1::ESTIMATOR_EXACT_Z_TAIL, &by_cpu);
  ASSERT_TRUE(cpu_status.ok()) << cpu_status.error_message();
  EXPECT_EQ(waits, cpu_waits + 1) << "the masses of blocks are the CPU's";
  for (int q = 0; q < 2; ++q) {
    EXPECT_NEAR(by_device.results(q).log_z(), by_cpu.results(q).log_z(), 1e-5);
    EXPECT_NEAR(by_device.results(q).head_mass(), by_cpu.results(q).head_mass(), 1e-5);
    EXPECT_EQ(by_device.results(q).hits(0).id(), by_cpu.results(q).hits(0).id());
  }
  EXPECT_NE(by_device.results(0).hits(0).id(), "b");
  // It fails in the scan, after the search.
  int64_t waited = 0;
  device_.fake->SetFault([&, last = waits](const std::string& call) {
    return call == "Wait" && ++waited == last ? absl::UnavailableError("an illegal memory access was encountered") : absl::OkStatus();
  });
  loci::v1::RetrieveResponse failed;
  EXPECT_EQ(retrieve(loci::v1::ESTIMATOR_EXACT_Z_NULL, &failed).first.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(Health(), 2);
  device_.fake->SetFault(nullptr);
  EXPECT_EQ(retrieve(loci::v1::ESTIMATOR_EXACT_Z_NULL, &failed).first.error_code(), grpc::StatusCode::UNAVAILABLE);
}

TEST_F(ServerSearchDevice, ASwapWithRoomForOneIsServedByTheCpuUntilTheOtherIsFreed) {
  memory_bytes_ = 2 * IndexBytes() - 1;
  StartServer();
  Ingest("s", {{"a", "a red fox"}, {"b", "a blue whale"}, {"c", "green tea"}});
  // The search that is under way keeps the older one's memory.
  std::mutex mutex;
  std::condition_variable changed;
  bool waits = false, go_on = false;
  device_.fake->SetFault([&](const std::string& call) {
    if (call != "Wait") return absl::OkStatus();
    std::unique_lock lock(mutex);
    waits = true;
    changed.notify_all();
    changed.wait_for(lock, std::chrono::seconds(60), [&] { return go_on; });
    return absl::OkStatus();
  });
  std::string old_best;
  std::thread reader([&] { EXPECT_TRUE(Search("a blue whale", &old_best).ok()); });
  {
    std::unique_lock lock(mutex);
    ASSERT_TRUE(changed.wait_for(lock, std::chrono::seconds(60), [&] { return waits; }));
  }
  Ingest("s", {{"x", "a blue whale"}, {"y", "a red fox"}, {"z", "black tea"}});
  EXPECT_THAT(DetailOfActive(), AllOf(HasSubstr("exact search runs on the CPU, not on cuda:0"), HasSubstr("are free")));
  EXPECT_EQ(Metric("loci_store_device_search{store=\"s\"}"), 0);
  EXPECT_EQ(Metric("loci_store_device_search_refused{store=\"s\"}"), 1);
  EXPECT_EQ(device_.fake->device_bytes(), IndexBytes());
  std::string best;
  ASSERT_TRUE(Search("a blue whale", &best).ok());
  EXPECT_EQ(best, "x");
  {
    std::unique_lock lock(mutex);
    go_on = true;
  }
  changed.notify_all();
  reader.join();
  EXPECT_EQ(old_best, "b");
  WaitForMetric("loci_store_device_search{store=\"s\"}", 1);
  EXPECT_EQ(DetailOfActive(), "");
  EXPECT_EQ(device_.fake->device_bytes(), IndexBytes());
  ASSERT_TRUE(Search("a red fox", &best).ok());
  EXPECT_EQ(best, "y");
  EXPECT_EQ(Metric("loci_store_device_search_queries{result=\"answered\",store=\"s\"}"), 1);
  device_.fake->SetFault(nullptr);
}

TEST_F(ServerSearchDevice, AFailureIsToldByHealthAndByEverySearch) {
  StartServer();
  Ingest("s", {{"a", "a red fox"}, {"b", "a blue whale"}});
  EXPECT_EQ(Health(), 1);
  device_.fake->SetFault([](const std::string& call) {
    return call == "Wait" ? absl::UnavailableError("an illegal memory access was encountered") : absl::OkStatus();
  });
  const grpc::Status failed = Search("a red fox");
  EXPECT_EQ(failed.error_code(), grpc::StatusCode::UNAVAILABLE) << failed.error_message();
  EXPECT_THAT(failed.error_message(), HasSubstr("illegal memory access"));
  EXPECT_EQ(Health(), 2);
  device_.fake->SetFault(nullptr);
  EXPECT_EQ(Search("a red fox").error_code(), grpc::StatusCode::UNAVAILABLE) << "the CPU does not step in";
  EXPECT_TRUE(Encode().ok()) << "encoders run on the CPU";
}

TEST_F(ServerSearchDevice, ThatFailsItsTrialIsLeftByAuto) {
  fault_ = [](const std::string& call) { return call == "Record" ? absl::InternalError("no kernel image is available for execution") : absl::OkStatus(); };
  EXPECT_EQ(StartError().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(StartError().message()), AllOf(HasSubstr("exact search: device cuda:0 can't be used"), HasSubstr("no kernel image")));
  EXPECT_FALSE(PosixFileSystem().Exists(options.data_directory)) << "nothing was opened";
  options.search_device = "auto";
  ASSERT_NO_FATAL_FAILURE(StartServer());
  EXPECT_THAT(ReasonOf("cpu"), AllOf(HasSubstr("exact search runs here: auto takes the CPU: cuda:0 can't be used"), HasSubstr("no kernel image")));
  EXPECT_EQ(device_.fake->device_bytes(), 0);
  EXPECT_EQ(Metric("loci_store_device_search{store=\"s\"}"), -1);
  Ingest("s", {{"a", "a red fox"}, {"b", "a blue whale"}});
  EXPECT_EQ(DetailOfActive(), "");
}

TEST_F(ServerSearchDevice, WhatBreaksInItsTrialEncodersDoNotRunOn) {
  options.device = options.search_device = "auto";
  fault_ = [](const std::string& call) {
    return call == "Wait" ? absl::UnavailableError("an illegal memory access was encountered") : absl::OkStatus();
  };
  ASSERT_NO_FATAL_FAILURE(StartServer());
  EXPECT_EQ(Health(), 1);
  EXPECT_THAT(ReasonOf("cpu"), AllOf(HasSubstr("encoders: auto takes the CPU: cuda:0 can't be used"), HasSubstr("exact search runs here: auto takes the CPU"),
                                     HasSubstr("illegal memory access")));
  EXPECT_TRUE(Encode().ok());
  server.reset();
  options.device = "cuda:0";
  EXPECT_EQ(StartError().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(StartError().message()), HasSubstr("device cuda:0 can't be used"));
}

TEST_F(ServerSearchDevice, ThatFailsWithWhatServesIsLeftByAutoAtTheStart) {
  options.search_device = "auto";
  StartServer();
  Ingest("s", {{"a", "a red fox"}, {"b", "a blue whale"}});
  server.reset();
  // After the trial.
  options.metrics_listen = "127.0.0.1:0";
  options.on_metrics_listening = [this](const std::string&) {
    device_.fake->SetFault([](const std::string& call) {
      return call == "Wait" ? absl::UnavailableError("an illegal memory access was encountered") : absl::OkStatus();
    });
  };
  StartServer();
  EXPECT_EQ(Health(), 1);
  EXPECT_THAT(ReasonOf("cpu"), AllOf(HasSubstr("exact search runs here: auto takes the CPU: cuda:0 can't be used"), HasSubstr("illegal memory access")));
  std::string best;
  ASSERT_TRUE(Search("a blue whale", &best).ok());
  EXPECT_EQ(best, "b");
  EXPECT_EQ(device_.fake->device_bytes(), 0);
  server.reset();
  options.search_device = "cuda:0";
  EXPECT_FALSE(StartError().ok()) << "who names the device is told";
}

TEST_F(ServerSearchDevice, AStopEndsTheUploadThatAnIngestWaitsFor) {
  std::shared_ptr<SlowPlacer> placer;
  options.open_search_device = [&, open = options.open_search_device](int ordinal, const auto& encoders,
                                                                      int64_t limit) -> absl::StatusOr<std::shared_ptr<ExactPlacer>> {
    auto opened = open(ordinal, encoders, limit);
    if (!opened.ok()) return opened.status();
    return placer = std::make_shared<SlowPlacer>(*std::move(opened));
  };
  StartServer();
  placer->slow = true;
  std::thread ingest([&] { EXPECT_FALSE(Ingest("s", {{"a", "a red fox"}, {"b", "a blue whale"}}).generation().empty()); });
  while (!placer->uploading) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  server.reset();
  ingest.join();
  EXPECT_TRUE(placer->ended);
  placer.reset();
  StartServer();
  std::string best;
  ASSERT_TRUE(Search("a blue whale", &best).ok());
  EXPECT_EQ(best, "b");
  EXPECT_EQ(Metric("loci_store_device_search{store=\"s\"}"), 1);
}

TEST_F(ServerSearchDevice, SharesTheEncodersDeviceAndItsHealth) {
  options.device = "cuda:0";
  StartServer();
  Ingest("s", {{"a", "a red fox"}, {"b", "a blue whale"}});
  EXPECT_THAT(ReasonOf("cuda:0"), AllOf(HasSubstr("encoders: "), HasSubstr("; exact search runs here: ")));
  std::string best;
  ASSERT_TRUE(Search("a blue whale", &best).ok());
  EXPECT_EQ(best, "b");
  EXPECT_TRUE(Encode().ok());
  (void)device_.device.health->Fail(absl::UnavailableError("broken by a search"));
  EXPECT_EQ(Health(), 2);
  EXPECT_EQ(Encode().error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(Search("a red fox").error_code(), grpc::StatusCode::UNAVAILABLE);
}

TEST_F(ServerSearchDevice, ADeviceThatIsNamedAndCantBeHadEndsTheStart) {
  const auto probe = options.probe_cuda;
  options.probe_cuda = [] { return CudaProbe{.built_in = true, .devices = {}, .detail = "no CUDA driver is installed"}; };
  EXPECT_EQ(StartError().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(StartError().message()), AllOf(HasSubstr("exact search"), HasSubstr("no CUDA driver is installed")));
  options.probe_cuda = probe;
  options.search_device = "cuda:3";
  EXPECT_EQ(StartError().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(StartError().message()), HasSubstr("cuda:3 can't be used: this machine has 1"));
  options.search_device = "tpu";
  EXPECT_EQ(StartError().code(), absl::StatusCode::kInvalidArgument);

  options.search_device = "cuda:0";
  const auto open = std::exchange(options.open_search_device, [](int, const auto&, int64_t) -> absl::StatusOr<std::shared_ptr<ExactPlacer>> {
    return absl::FailedPreconditionError("the driver is older than the runtime");
  });
  EXPECT_EQ(StartError().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(StartError().message()), HasSubstr("older than the runtime"));
  options.search_device = "auto";
  StartServer();
  EXPECT_THAT(ReasonOf("cpu"), AllOf(HasSubstr("exact search runs here: auto takes the CPU"), HasSubstr("older than the runtime")));
  Ingest("s", {{"a", "a red fox"}, {"b", "a blue whale"}, {"c", "green tea"}});
  server.reset();

  // Too little memory for what is active.
  options.open_search_device = open;
  options.search_device = "cuda:0";
  memory_bytes_ = IndexBytes() - 1;
  const absl::Status too_little = StartError();
  EXPECT_EQ(too_little.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(too_little.message()),
              AllOf(testing::StartsWith("exact search: generation "), HasSubstr(" of store s can't be searched on cuda:0: 3 rows of 32 float"),
                    HasSubstr(absl::StrCat("take ", IndexBytes(), " bytes on the device")), HasSubstr(absl::StrCat("; ", memory_bytes_, " are free")),
                    testing::EndsWith(". What can be done: with --search-device auto the server starts, and the CPU searches it until there is room; "
                                      "else free memory of the device")));
  EXPECT_THAT(std::string(too_little.message()), Not(HasSubstr("runs on the CPU"))) << "no server does";
  options.search_device = "auto";
  StartServer();
  EXPECT_THAT(DetailOfActive(), HasSubstr("exact search runs on the CPU"));
  EXPECT_TRUE(Search("a red fox").ok());
  memory_bytes_ = int64_t{1} << 30;
  options.search_device = "cuda:0";
  options.search_device_memory_bytes = IndexBytes() - 1;
  server.reset();
  const absl::Status over_limit = StartError();
  EXPECT_EQ(over_limit.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(over_limit.message()), AllOf(HasSubstr(absl::StrCat("the limit of ", IndexBytes() - 1, " bytes leaves ", IndexBytes() - 1)),
                                                       testing::EndsWith(absl::StrCat("raise search_device_memory_bytes, now ", IndexBytes() - 1))));
  options.search_device_memory_bytes = IndexBytes();
  StartServer();
  EXPECT_EQ(DetailOfActive(), "");
}

}  // namespace
}  // namespace loci
