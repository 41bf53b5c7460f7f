// Long work of one kind leaves room for that of the others.
#include <future>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "tests/integration/gate_file_system.h"
#include "tests/integration/server_fixture.h"

namespace loci {
namespace {

using grpc::StatusCode;
using Admin = loci::v1::AdminService::Stub;
using Retrieval = loci::v1::RetrievalService::Stub;

// More than any kind has threads.
constexpr int kHeldStores = 5;

class ServerPools : public ServerFixture {
 protected:
  void SetUp() override {
    ServerFixture::SetUp();
    options.fs = &gate_;
    options.metrics_listen = "127.0.0.1:0";
    StartServer();
    for (int i = 0; i < kHeldStores; ++i) held_.push_back(MakeStore("held-" + std::to_string(i)));
    free_ = MakeStore("free");
  }
  void TearDown() override {
    gate_.Release();
    ServerFixture::TearDown();
  }

  struct TwoGenerations {
    std::string store, first, second;  // The second is active.
  };
  TwoGenerations MakeStore(const std::string& store) {
    TwoGenerations made{.store = store};
    made.first = Ingest(store, {{"a", "one"}}).generation();
    made.second = Ingest(store, {{"b", "two"}}).generation();
    return made;
  }

  // Each returns its job.
  std::string Verify(const TwoGenerations& of) {
    loci::v1::VerifyGenerationRequest request;
    request.set_store(of.store);
    request.set_generation(of.first);
    request.set_no_wait(true);
    loci::v1::VerifyGenerationResponse response;
    const grpc::Status status = Call(*admin, &Admin::VerifyGeneration, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    EXPECT_EQ(response.generation(), of.first);
    return response.job();
  }
  std::string Activate(const TwoGenerations& of, const std::string& generation) {
    loci::v1::ActivateGenerationRequest request;
    request.set_store(of.store);
    request.set_generation(generation);
    request.set_no_wait(true);
    loci::v1::ActivateGenerationResponse response;
    const grpc::Status status = Call(*admin, &Admin::ActivateGeneration, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response.job();
  }
  std::string Build(const std::string& store) {
    grpc::ClientContext context;
    loci::v1::IngestResponse response;
    const auto stream = admin->Ingest(&context, &response);
    loci::v1::IngestRequest request;
    request.mutable_header()->set_store(store);
    request.mutable_header()->set_no_wait(true);
    EXPECT_TRUE(stream->Write(request));
    loci::v1::Passage& passage = *request.mutable_batch()->add_passages();
    passage.set_id("c");
    passage.set_text("three");
    EXPECT_TRUE(stream->Write(request));
    EXPECT_TRUE(stream->WritesDone());
    const grpc::Status status = stream->Finish();
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response.job();
  }
  // A search of a generation that is not loaded.
  grpc::Status Load(const TwoGenerations& of, const std::string& generation) {
    loci::v1::SearchRequest request = TextSearch(of.store, "one", 1);
    request.set_generation(generation);
    loci::v1::SearchResponse response;
    return Call(*retrieval, &Retrieval::Search, request, &response);
  }
  loci::v1::JobState Wait(const std::string& job) {
    loci::v1::WatchJobRequest request;
    request.set_job(job);
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::minutes(1));
    const auto watch = admin->WatchJob(&context, request);
    loci::v1::Job last;
    while (watch->Read(&last)) continue;
    EXPECT_TRUE(watch->Finish().ok());
    return last.state();
  }
  // While work in the held stores waits for its files.
  void ExpectVerifications() { EXPECT_EQ(Wait(Verify(free_)), loci::v1::JOB_STATE_SUCCEEDED); }
  void ExpectSwitches() {
    EXPECT_EQ(Wait(Activate(free_, free_.first)), loci::v1::JOB_STATE_SUCCEEDED);
    EXPECT_EQ(Wait(Activate(free_, free_.second)), loci::v1::JOB_STATE_SUCCEEDED);
  }
  void ExpectBuilds() { EXPECT_EQ(Wait(Build("other")), loci::v1::JOB_STATE_SUCCEEDED); }
  void ExpectLoads() {
    const grpc::Status status = Load(free_, free_.first);
    EXPECT_TRUE(status.ok()) << status.error_message();
  }
  void ExpectRequests() {
    EXPECT_TRUE(Load(free_, "").ok()) << "a search of what is active";
    loci::v1::UpsertPassagesRequest upsert;
    upsert.set_store(free_.store);
    upsert.add_passages()->set_id("d");
    upsert.mutable_passages(0)->set_text("four");
    loci::v1::UpsertPassagesResponse upserted;
    EXPECT_TRUE(Call(*admin, &Admin::UpsertPassages, upsert, &upserted).ok());
  }
  void ReleaseAndExpectSuccess(const std::vector<std::string>& jobs) {
    gate_.Release();
    for (const std::string& job : jobs) EXPECT_EQ(Wait(job), loci::v1::JOB_STATE_SUCCEEDED);
  }

  GateFileSystem gate_;
  std::vector<TwoGenerations> held_;
  TwoGenerations free_;
};

TEST_F(ServerPools, VerificationsHoldNoneOfTheOthers) {
  gate_.Hold("/held-");
  std::vector<std::string> jobs;
  for (const TwoGenerations& store : held_) jobs.push_back(Verify(store));
  gate_.AwaitHeld(2);
  ExpectLoads();
  ExpectSwitches();
  ExpectBuilds();
  ExpectRequests();
  ReleaseAndExpectSuccess(jobs);
}

TEST_F(ServerPools, SwitchesHoldNoneOfTheOthers) {
  gate_.Hold("/held-");
  std::vector<std::string> jobs;
  for (const TwoGenerations& store : held_) jobs.push_back(Activate(store, store.first));
  gate_.AwaitHeld(4);
  ExpectLoads();
  ExpectVerifications();
  ExpectBuilds();
  ExpectRequests();
  ReleaseAndExpectSuccess(jobs);
}

TEST_F(ServerPools, BuildsHoldNoneOfTheOthers) {
  gate_.Hold("/held-");
  std::vector<std::string> jobs;
  for (int i = 0; i < options.max_ingests; ++i) jobs.push_back(Build(held_[static_cast<size_t>(i)].store));
  gate_.AwaitHeld(static_cast<int>(options.max_ingests));
  ExpectLoads();
  ExpectVerifications();
  ExpectSwitches();
  ExpectRequests();
  ReleaseAndExpectSuccess(jobs);
}

TEST_F(ServerPools, LoadsHoldNoneOfTheOthers) {
  gate_.Hold("/held-");
  std::vector<std::future<grpc::Status>> loads;
  for (const TwoGenerations& store : held_) {
    loads.push_back(std::async(std::launch::async, [this, &store] { return Load(store, store.first); }));
  }
  gate_.AwaitHeld(2);
  ExpectVerifications();
  ExpectSwitches();
  ExpectBuilds();
  ExpectRequests();
  gate_.Release();
  for (std::future<grpc::Status>& load : loads) EXPECT_TRUE(load.get().ok());
}

TEST_F(ServerPools, WatchesHavePermitsOfTheirOwnAndAreRefusedBeyondThem) {
  constexpr int kMaxWatches = 1'024;
  gate_.Hold("/held-0/");
  const std::string job = Verify(held_[0]);
  gate_.AwaitHeld();
  loci::v1::WatchJobRequest request;
  request.set_job(job);
  struct Watch {
    grpc::ClientContext context;
    std::unique_ptr<grpc::ClientReader<loci::v1::Job>> reader;
  };
  std::vector<std::unique_ptr<Watch>> watches;
  for (int i = 0; i < kMaxWatches; ++i) {
    watches.push_back(std::make_unique<Watch>());
    watches.back()->reader = admin->WatchJob(&watches.back()->context, request);
  }
  WaitForMetric("loci_in_flight{kind=\"watcher\"}", kMaxWatches);
  {
    grpc::ClientContext context;
    const grpc::Status refused = admin->WatchJob(&context, request)->Finish();
    EXPECT_EQ(refused.error_code(), StatusCode::RESOURCE_EXHAUSTED) << refused.error_message();
    EXPECT_EQ(InfoOf(refused).reason(), "OVERLOADED");
    EXPECT_EQ(context.GetServerTrailingMetadata().count("grpc-retry-pushback-ms"), 1u);
    EXPECT_EQ(Metric("loci_refused_total{kind=\"watcher\",reason=\"count\"}"), 1);
  }
  // They take no permit of a request, nor of what looks after the server.
  EXPECT_EQ(Metric("loci_in_flight{kind=\"request\"}"), 0);
  EXPECT_EQ(Metric("loci_in_flight{kind=\"control\"}"), 0);
  ExpectRequests();
  loci::v1::GetJobRequest get;
  get.set_job(job);
  loci::v1::Job state;
  EXPECT_TRUE(Call(*admin, &Admin::GetJob, get, &state).ok());
  EXPECT_EQ(state.state(), loci::v1::JOB_STATE_RUNNING);
  for (const std::unique_ptr<Watch>& watch : watches) watch->context.TryCancel();
  for (const std::unique_ptr<Watch>& watch : watches) watch->reader->Finish();
  WaitForMetric("loci_in_flight{kind=\"watcher\"}", 0);
  ReleaseAndExpectSuccess({job});
}

}  // namespace
}  // namespace loci
