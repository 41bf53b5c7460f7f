// Jobs as a client sees them.
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "tests/integration/server_fixture.h"

namespace loci {
namespace {

using grpc::StatusCode;
using Admin = loci::v1::AdminService::Stub;

// An ingest whose client has sent its header, and no end.
struct OpenIngest {
  grpc::ClientContext context;
  loci::v1::IngestResponse response;
  std::unique_ptr<grpc::ClientWriter<loci::v1::IngestRequest>> stream;

  void Send(const std::string& id, const std::string& text) {
    loci::v1::IngestRequest request;
    loci::v1::Passage& passage = *request.mutable_batch()->add_passages();
    passage.set_id(id);
    passage.set_text(text);
    EXPECT_TRUE(stream->Write(request));
  }
  grpc::Status End() {
    stream->WritesDone();
    return stream->Finish();
  }
};

class ServerJobs : public ServerFixture {
 protected:
  void SetUp() override {
    ServerFixture::SetUp();
    StartServer();
  }
  std::unique_ptr<OpenIngest> Begin(const std::string& store) {
    auto ingest = std::make_unique<OpenIngest>();
    ingest->stream = admin->Ingest(&ingest->context, &ingest->response);
    loci::v1::IngestRequest request;
    request.mutable_header()->set_store(store);
    EXPECT_TRUE(ingest->stream->Write(request));
    return ingest;
  }
  std::vector<loci::v1::Job> Jobs(loci::v1::JobState state = loci::v1::JOB_STATE_UNSPECIFIED) {
    loci::v1::ListJobsRequest request;
    request.set_state(state);
    loci::v1::ListJobsResponse response;
    EXPECT_TRUE(Call(*admin, &Admin::ListJobs, request, &response).ok());
    return {response.jobs().begin(), response.jobs().end()};
  }
  // The one that runs, once it has taken `done` passages.
  loci::v1::Job WaitForRunning(int64_t done) {
    for (int i = 0; i < 10'000; ++i) {
      const std::vector<loci::v1::Job> jobs = Jobs(loci::v1::JOB_STATE_RUNNING);
      if (jobs.size() == 1 && jobs[0].phase() == "receiving" && jobs[0].done() >= done) return jobs[0];
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    ADD_FAILURE() << "no job runs";
    return {};
  }
};

TEST_F(ServerJobs, AnIngestIsAJobThatEndsWithItsAnswerAndOutlivesARestart) {
  const loci::v1::IngestResponse answer = Ingest("movies", {{"a", "one"}, {"b", "two"}});
  ASSERT_FALSE(answer.job().empty());
  StartServer();
  const loci::v1::Job job = GetJob(answer.job());
  EXPECT_EQ(job.kind(), "ingest");
  EXPECT_EQ(job.store(), "movies");
  EXPECT_EQ(job.generation(), answer.generation());
  EXPECT_EQ(job.state(), loci::v1::JOB_STATE_SUCCEEDED);
  EXPECT_EQ(job.phase(), "activating");
  EXPECT_EQ(job.eta_ms(), -1);
  EXPECT_GE(job.finished_unix_us(), job.started_unix_us());
  EXPECT_EQ(job.ingest().SerializeAsString(), answer.SerializeAsString());
  ASSERT_EQ(Jobs().size(), 1u);
  EXPECT_TRUE(Jobs(loci::v1::JOB_STATE_FAILED).empty());
}

TEST_F(ServerJobs, ASecondIngestIntoAStoreIsToldOfTheFirst) {
  auto first = Begin("movies");
  first->Send("a", "one");
  const loci::v1::Job running = WaitForRunning(1);
  EXPECT_EQ(running.store(), "movies");
  auto second = Begin("movies");
  const grpc::Status refused = second->stream->Finish();
  EXPECT_EQ(refused.error_code(), StatusCode::ABORTED) << refused.error_message();
  EXPECT_EQ(InfoOf(refused).reason(), "JOB_IN_THE_WAY");
  EXPECT_EQ(InfoOf(refused).metadata().at("job"), running.job());
  loci::v1::DeleteStoreRequest deletion;
  deletion.set_store("movies");
  deletion.set_confirm_name("movies");
  loci::v1::DeleteStoreResponse deleted;
  EXPECT_EQ(Call(*admin, &Admin::DeleteStore, deletion, &deleted).error_code(), StatusCode::ABORTED);
  const grpc::Status ended = first->End();
  EXPECT_TRUE(ended.ok()) << ended.error_message();
  EXPECT_EQ(first->response.job(), running.job());
  EXPECT_TRUE(Call(*admin, &Admin::DeleteStore, deletion, &deleted).ok());
}

TEST_F(ServerJobs, ACancelledIngestEndsAndNothingOfItStays) {
  auto ingest = Begin("movies");
  ingest->Send("a", "one");
  const std::string job = WaitForRunning(1).job();
  ASSERT_TRUE(CancelJob(job).ok());
  const grpc::Status ended = ingest->stream->Finish();  // Though its client neither goes on nor ends.
  EXPECT_EQ(ended.error_code(), StatusCode::CANCELLED) << ended.error_message();
  EXPECT_NE(ended.error_message().find(job), std::string::npos) << ended.error_message();
  EXPECT_EQ(GetJob(job).state(), loci::v1::JOB_STATE_CANCELLED);
  loci::v1::ListGenerationsRequest list;
  list.set_store("movies");
  loci::v1::ListGenerationsResponse generations;
  ASSERT_TRUE(Call(*admin, &Admin::ListGenerations, list, &generations).ok());
  EXPECT_EQ(generations.generations_size(), 0);
  const grpc::Status again = CancelJob(job);
  EXPECT_EQ(again.error_code(), StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(InfoOf(again).reason(), "JOB_FINISHED");
  EXPECT_EQ(Ingest("movies", {{"b", "two"}}).accepted_count(), 1);
}

TEST_F(ServerJobs, AWatchShowsTheJobToItsEnd) {
  auto ingest = Begin("movies");
  ingest->Send("a", "one");
  loci::v1::WatchJobRequest request;
  request.set_job(WaitForRunning(1).job());
  grpc::ClientContext context;
  std::unique_ptr<grpc::ClientReader<loci::v1::Job>> watch = admin->WatchJob(&context, request);
  loci::v1::Job job;
  ASSERT_TRUE(watch->Read(&job));
  EXPECT_EQ(job.state(), loci::v1::JOB_STATE_RUNNING);
  EXPECT_EQ(job.done(), 1);
  ingest->Send("b", "two");
  ASSERT_TRUE(watch->Read(&job));
  EXPECT_EQ(job.done(), 2);
  ASSERT_TRUE(ingest->End().ok());
  while (watch->Read(&job)) {
  }
  EXPECT_EQ(job.state(), loci::v1::JOB_STATE_SUCCEEDED);
  EXPECT_EQ(job.ingest().accepted_count(), 2);
  EXPECT_TRUE(watch->Finish().ok());
}

TEST_F(ServerJobs, AWatchDoesNotKeepTheServerFromStopping) {
  auto ingest = Begin("movies");
  ingest->Send("a", "one");
  loci::v1::WatchJobRequest request;
  request.set_job(WaitForRunning(1).job());
  grpc::ClientContext context;
  std::unique_ptr<grpc::ClientReader<loci::v1::Job>> watch = admin->WatchJob(&context, request);
  loci::v1::Job job;
  ASSERT_TRUE(watch->Read(&job));
  std::thread stopping([&] { server->Stop(); });
  while (watch->Read(&job)) {
  }
  EXPECT_EQ(watch->Finish().error_code(), StatusCode::UNAVAILABLE);
  EXPECT_TRUE(ingest->End().ok());  // An ingest under way is finished.
  stopping.join();
}

TEST_F(ServerJobs, AnUnknownJobIsNotFound) {
  loci::v1::GetJobRequest get;
  get.set_job("20261121-094142-3f2a");
  loci::v1::Job job;
  const grpc::Status status = Call(*admin, &Admin::GetJob, get, &job);
  EXPECT_EQ(status.error_code(), StatusCode::NOT_FOUND);
  EXPECT_EQ(InfoOf(status).reason(), "JOB_NOT_FOUND");
  EXPECT_EQ(CancelJob("../CURRENT").error_code(), StatusCode::NOT_FOUND);
  loci::v1::WatchJobRequest request;
  grpc::ClientContext context;
  std::unique_ptr<grpc::ClientReader<loci::v1::Job>> watch = admin->WatchJob(&context, request);
  EXPECT_FALSE(watch->Read(&job));
  EXPECT_EQ(watch->Finish().error_code(), StatusCode::NOT_FOUND);
  loci::v1::ListJobsRequest list;
  list.set_limit(1'001);
  loci::v1::ListJobsResponse jobs;
  EXPECT_EQ(Call(*admin, &Admin::ListJobs, list, &jobs).error_code(), StatusCode::INVALID_ARGUMENT);
}

}  // namespace
}  // namespace loci
