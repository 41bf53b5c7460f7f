// Activations, roll-backs and verifications as jobs: what they show, what is in whose way, how they are cancelled.
#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "tests/integration/gate_file_system.h"
#include "tests/integration/server_fixture.h"

namespace loci {
namespace {

using grpc::StatusCode;
using Admin = loci::v1::AdminService::Stub;
using ::testing::HasSubstr;

class ServerOperations : public ServerFixture {
 protected:
  void SetUp() override {
    ServerFixture::SetUp();
    options.fs = &gate_;
    StartServer();
    first_ = Ingest("s", {{"a", "one"}}).generation();
    second_ = Ingest("s", {{"b", "two"}}).generation();
  }
  void TearDown() override {
    gate_.Release();
    ServerFixture::TearDown();
  }

  grpc::Status Activate(const std::string& generation, loci::v1::ActivateGenerationResponse* response, bool no_wait = false) {
    loci::v1::ActivateGenerationRequest request;
    request.set_store("s");
    request.set_generation(generation);
    request.set_no_wait(no_wait);
    return Call(*admin, &Admin::ActivateGeneration, request, response);
  }
  grpc::Status Rollback(loci::v1::RollbackStoreResponse* response, bool no_wait = false) {
    loci::v1::RollbackStoreRequest request;
    request.set_store("s");
    request.set_no_wait(no_wait);
    return Call(*admin, &Admin::RollbackStore, request, response);
  }
  grpc::Status Verify(const std::string& generation, loci::v1::VerifyGenerationResponse* response, bool no_wait = false) {
    loci::v1::VerifyGenerationRequest request;
    request.set_store("s");
    request.set_generation(generation);
    request.set_no_wait(no_wait);
    return Call(*admin, &Admin::VerifyGeneration, request, response);
  }
  // The job once it has ended.
  loci::v1::Job Wait(const std::string& job) {
    loci::v1::WatchJobRequest request;
    request.set_job(job);
    grpc::ClientContext context;
    std::unique_ptr<grpc::ClientReader<loci::v1::Job>> watch = admin->WatchJob(&context, request);
    loci::v1::Job last;
    while (watch->Read(&last)) {
    }
    EXPECT_TRUE(watch->Finish().ok());
    return last;
  }
  std::string Active() {
    loci::v1::GetStoreRequest request;
    request.set_store("s");
    loci::v1::GetStoreResponse response;
    EXPECT_TRUE(Call(*admin, &Admin::GetStore, request, &response).ok());
    return response.store().generation();
  }
  loci::v1::GenerationState StateOf(const std::string& id) {
    loci::v1::ListGenerationsRequest request;
    request.set_store("s");
    loci::v1::ListGenerationsResponse response;
    EXPECT_TRUE(Call(*admin, &Admin::ListGenerations, request, &response).ok());
    for (const auto& generation : response.generations()) {
      if (generation.generation() == id) return generation.state();
    }
    return loci::v1::GENERATION_STATE_UNSPECIFIED;
  }
  static void ExpectInTheWay(const grpc::Status& status, const std::string& job) {
    EXPECT_EQ(status.error_code(), StatusCode::ABORTED) << status.error_message();
    EXPECT_EQ(InfoOf(status).reason(), "JOB_IN_THE_WAY");
    EXPECT_EQ(InfoOf(status).metadata().at("job"), job);
    EXPECT_THAT(status.error_message(), HasSubstr(job));
  }

  GateFileSystem gate_;
  std::string first_, second_;  // Generations of "s"; the second is active.
};

TEST_F(ServerOperations, EachIsAJobThatKeepsItsAnswer) {
  loci::v1::ActivateGenerationResponse activated;
  ASSERT_TRUE(Activate(first_, &activated).ok());
  EXPECT_TRUE(activated.done());
  loci::v1::RollbackStoreResponse rolled_back;
  ASSERT_TRUE(Rollback(&rolled_back).ok());
  EXPECT_EQ(rolled_back.generation(), second_);
  loci::v1::VerifyGenerationResponse verified;
  loci::v1::VerifyGenerationRequest verify;
  verify.set_store("s");
  grpc::ClientContext context;
  context.AddMetadata("x-request-id", "nightly-check");
  ASSERT_TRUE(admin->VerifyGeneration(&context, verify, &verified).ok());
  EXPECT_EQ(verified.generation(), second_);
  StartServer();
  loci::v1::Job job = GetJob(activated.job());
  EXPECT_EQ(job.kind(), "activate");
  EXPECT_EQ(job.generation(), first_);
  EXPECT_EQ(job.phase(), "publishing");
  EXPECT_EQ(job.state(), loci::v1::JOB_STATE_SUCCEEDED);
  EXPECT_EQ(job.activate().SerializeAsString(), activated.SerializeAsString());
  EXPECT_FALSE(job.has_ingest());
  job = GetJob(rolled_back.job());
  EXPECT_EQ(job.kind(), "rollback");
  EXPECT_EQ(job.generation(), second_);
  EXPECT_EQ(job.rollback().SerializeAsString(), rolled_back.SerializeAsString());
  job = GetJob(verified.job());
  EXPECT_EQ(job.kind(), "verify");
  EXPECT_EQ(job.request_id(), "nightly-check");
  EXPECT_EQ(job.unit(), "bytes");
  EXPECT_EQ(job.done(), verified.size_bytes());
  EXPECT_EQ(job.total(), verified.size_bytes());
  EXPECT_EQ(job.verify().SerializeAsString(), verified.SerializeAsString());
}

TEST_F(ServerOperations, WithNoWaitTheJobGoesOnByItself) {
  gate_.Hold(first_);
  loci::v1::ActivateGenerationResponse activated;
  ASSERT_TRUE(Activate(first_, &activated, /*no_wait=*/true).ok());
  EXPECT_FALSE(activated.done());
  EXPECT_EQ(activated.generation(), first_);
  gate_.AwaitHeld();
  const loci::v1::Job running = GetJob(activated.job());
  EXPECT_EQ(running.state(), loci::v1::JOB_STATE_RUNNING);
  EXPECT_EQ(running.phase(), "verifying");
  EXPECT_GT(running.total(), 0);
  EXPECT_EQ(Active(), second_);
  EXPECT_EQ(StateOf(first_), loci::v1::GENERATION_STATE_VERIFYING);
  gate_.Release();
  const loci::v1::Job ended = Wait(activated.job());
  EXPECT_EQ(ended.state(), loci::v1::JOB_STATE_SUCCEEDED) << ended.error_message();
  EXPECT_TRUE(ended.activate().done());
  EXPECT_EQ(ended.activate().job(), activated.job());
  EXPECT_EQ(Active(), first_);

  loci::v1::RollbackStoreResponse rolled_back;
  ASSERT_TRUE(Rollback(&rolled_back, /*no_wait=*/true).ok());
  EXPECT_EQ(Wait(rolled_back.job()).rollback().generation(), second_);
  EXPECT_EQ(Active(), second_);
  loci::v1::VerifyGenerationResponse verified;
  ASSERT_TRUE(Verify("", &verified, /*no_wait=*/true).ok());
  EXPECT_FALSE(verified.done());
  EXPECT_EQ(verified.generation(), second_);
  EXPECT_GT(Wait(verified.job()).verify().size_bytes(), 0);
}

TEST_F(ServerOperations, WhatIsInTheWayIsNamed) {
  gate_.Hold(first_);
  loci::v1::ActivateGenerationResponse activated;
  ASSERT_TRUE(Activate(first_, &activated, /*no_wait=*/true).ok());
  gate_.AwaitHeld();
  loci::v1::ActivateGenerationResponse second;
  ExpectInTheWay(Activate(first_, &second), activated.job());
  ExpectInTheWay(Activate(second_, &second, /*no_wait=*/true), activated.job());
  loci::v1::RollbackStoreResponse rolled_back;
  ExpectInTheWay(Rollback(&rolled_back), activated.job());
  loci::v1::DeleteGenerationRequest remove;
  remove.set_store("s");
  remove.set_generation(first_);
  loci::v1::DeleteGenerationResponse removed;
  ExpectInTheWay(Call(*admin, &Admin::DeleteGeneration, remove, &removed), activated.job());
  loci::v1::DeleteStoreRequest deletion;
  deletion.set_store("s");
  deletion.set_confirm_name("s");
  loci::v1::DeleteStoreResponse deleted;
  ExpectInTheWay(Call(*admin, &Admin::DeleteStore, deletion, &deleted), activated.job());
  // What is in nobody's way: other stores, verifications, upserts, and an ingest, until its own activation.
  Ingest("other", {{"x", "ex"}});
  loci::v1::VerifyGenerationResponse verified;
  EXPECT_TRUE(Verify(second_, &verified).ok());
  loci::v1::IngestResponse ingested;
  std::thread ingesting([&] { ingested = Ingest("s", {{"c", "three"}}); });
  for (bool waits = false; !waits;) {
    loci::v1::ListJobsRequest list;
    list.set_store("s");
    list.set_state(loci::v1::JOB_STATE_RUNNING);
    loci::v1::ListJobsResponse jobs;
    ASSERT_TRUE(Call(*admin, &Admin::ListJobs, list, &jobs).ok());
    for (const auto& job : jobs.jobs()) waits = waits || (job.kind() == "ingest" && job.phase() == "activating");
  }
  EXPECT_EQ(Active(), second_);
  gate_.Release();
  ingesting.join();
  EXPECT_TRUE(ingested.done());
  EXPECT_EQ(Wait(activated.job()).state(), loci::v1::JOB_STATE_SUCCEEDED);
  EXPECT_EQ(Active(), ingested.generation()) << "the ingest activated last";
}

TEST_F(ServerOperations, ACancelledActivationLeavesWhatServes) {
  gate_.Hold(first_);
  loci::v1::ActivateGenerationResponse activated;
  ASSERT_TRUE(Activate(first_, &activated, /*no_wait=*/true).ok());
  gate_.AwaitHeld();
  EXPECT_TRUE(CancelJob(activated.job()).ok());
  gate_.Release();
  const loci::v1::Job ended = Wait(activated.job());
  EXPECT_EQ(ended.state(), loci::v1::JOB_STATE_CANCELLED);
  EXPECT_EQ(ended.error_code(), StatusCode::CANCELLED);
  EXPECT_EQ(Active(), second_);
  EXPECT_EQ(StateOf(first_), loci::v1::GENERATION_STATE_RETIRED) << "as before";
  EXPECT_EQ(StateOf(second_), loci::v1::GENERATION_STATE_SERVING);
  ASSERT_TRUE(Activate(first_, &activated).ok());
  EXPECT_EQ(Active(), first_);
}

TEST_F(ServerOperations, AVerificationEndsAtItsDeadlineOrWhenItsJobIsCancelled) {
  gate_.Hold(first_);
  loci::v1::VerifyGenerationResponse other;
  ASSERT_TRUE(Verify(first_, &other, /*no_wait=*/true).ok());
  gate_.AwaitHeld();
  EXPECT_TRUE(CancelJob(other.job()).ok());
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(200));
  loci::v1::VerifyGenerationRequest request;
  request.set_store("s");
  request.set_generation(first_);
  loci::v1::VerifyGenerationResponse response;
  EXPECT_EQ(admin->VerifyGeneration(&context, request, &response).error_code(), StatusCode::DEADLINE_EXCEEDED);
  std::this_thread::sleep_for(std::chrono::milliseconds(200));  // The server's clock of it started later.
  gate_.Release();
  EXPECT_EQ(Wait(other.job()).state(), loci::v1::JOB_STATE_CANCELLED);
  WaitForMetric("loci_jobs_running{kind=\"verify\"}", 0);
  // By the deadline, or by the word of the client's library, whichever came first.
  EXPECT_EQ(Metric("loci_jobs_total{kind=\"verify\",state=\"succeeded\"}"), 0);
  EXPECT_NE(StateOf(first_), loci::v1::GENERATION_STATE_FAILED);
  EXPECT_TRUE(Verify(first_, &other).ok());
}

TEST_F(ServerOperations, AStopFinishesTheJobsThatRun) {
  gate_.Hold(first_);
  loci::v1::ActivateGenerationResponse activated;
  ASSERT_TRUE(Activate(first_, &activated, /*no_wait=*/true).ok());
  gate_.AwaitHeld();
  std::thread stopping([&] { server->Stop(); });
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  gate_.Release();
  stopping.join();
  StartServer();
  EXPECT_EQ(GetJob(activated.job()).state(), loci::v1::JOB_STATE_SUCCEEDED);
  EXPECT_EQ(Active(), first_);
}

TEST_F(ServerOperations, AStopWhoseTimeIsOverCancelsThem) {
  options.drain_timeout_ms = 100;
  StartServer();
  gate_.Hold(first_);
  std::vector<std::string> jobs;
  for (int i = 0; i < 6; ++i) {  // More than run at once.
    loci::v1::VerifyGenerationResponse verified;
    ASSERT_TRUE(Verify(first_, &verified, /*no_wait=*/true).ok());
    jobs.push_back(verified.job());
  }
  gate_.AwaitHeld();
  std::thread stopping([&] { server->Stop(); });
  std::this_thread::sleep_for(std::chrono::milliseconds(3'000));  // Long past the drain time, also on a machine that is short of time.
  gate_.Release();
  stopping.join();
  StartServer();
  for (const std::string& job : jobs) EXPECT_EQ(GetJob(job).state(), loci::v1::JOB_STATE_INTERRUPTED);
}

TEST_F(ServerOperations, WhatIsNotThereIsNoJob) {
  loci::v1::ActivateGenerationResponse activated;
  EXPECT_EQ(Activate("20200101-000000-0000", &activated, /*no_wait=*/true).error_code(), StatusCode::NOT_FOUND);
  loci::v1::VerifyGenerationResponse verified;
  EXPECT_EQ(Verify("20200101-000000-0000", &verified, /*no_wait=*/true).error_code(), StatusCode::NOT_FOUND);
  loci::v1::RollbackStoreRequest request;
  request.set_store("none");
  loci::v1::RollbackStoreResponse rolled_back;
  EXPECT_EQ(Call(*admin, &Admin::RollbackStore, request, &rolled_back).error_code(), StatusCode::NOT_FOUND);
  loci::v1::ActivateGenerationRequest dry;
  dry.set_store("s");
  dry.set_generation(first_);
  dry.set_dry_run(true);
  ASSERT_TRUE(Call(*admin, &Admin::ActivateGeneration, dry, &activated).ok());
  EXPECT_EQ(activated.job(), "");
  loci::v1::ListJobsRequest list;
  loci::v1::ListJobsResponse jobs;
  ASSERT_TRUE(Call(*admin, &Admin::ListJobs, list, &jobs).ok());
  EXPECT_EQ(jobs.jobs_size(), 2) << "the two ingests";
  // A roll-back that finds nothing to go back to was tried.
  ASSERT_TRUE(Rollback(&rolled_back).ok());
  const grpc::Status none = Rollback(&rolled_back);
  EXPECT_EQ(none.error_code(), StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(InfoOf(none).reason(), "NO_PREVIOUS_GENERATION");
}

}  // namespace
}  // namespace loci
