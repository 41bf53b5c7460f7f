// loci get jobs, watch, cancel, and --no-wait of what becomes a job.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "clients/cli/cli_fixture.h"
#include "nlohmann/json.hpp"

namespace loci {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

using JobCommandsTest = CliTest;

v1::Job RunningJob() {
  v1::Job job;
  job.set_job("j1");
  job.set_kind("ingest");
  job.set_store("movies");
  job.set_state(v1::JOB_STATE_RUNNING);
  job.set_phase("index");
  job.set_unit("passages");
  job.set_done(1'000);
  job.set_total(4'000);
  job.set_rate(500);
  job.set_eta_ms(6'000);
  job.set_started_unix_us(1'763'718'000'000'000);
  return job;
}

TEST_F(JobCommandsTest, WatchShowsPhasesAndTheJobAtItsEnd) {
  const std::string shown = "ingest: index 1,000 / 4,000 passages   500/s   25 %   ETA 0:06";
  bool wait = true;
  server_.on_watch_job = [&](const v1::WatchJobRequest& request, grpc::ServerContext*, grpc::ServerWriter<v1::Job>* writer) {
    EXPECT_EQ(request.job(), "j1");
    v1::Job job = RunningJob();
    writer->Write(job);
    if (wait) {
      EXPECT_TRUE(WaitForErr(shown));
    }
    job.set_state(v1::JOB_STATE_SUCCEEDED);
    job.mutable_ingest()->set_passage_count(4'321);
    writer->Write(job);
    return grpc::Status::OK;
  };
  EXPECT_EQ(Run({"watch", "j1"}, /*err_width=*/120), 0) << err();
  EXPECT_THAT(err(), HasSubstr(shown));
  EXPECT_THAT(out(), AllOf(HasSubstr("SUCCEEDED"), HasSubstr("4,321"), HasSubstr("2025-11-21")));
  wait = false;
  EXPECT_EQ(Run({"watch", "j1", "-o", "json"}), 0);
  EXPECT_EQ(nlohmann::json::parse(out())["state"], "JOB_STATE_SUCCEEDED");
}

TEST_F(JobCommandsTest, WatchExitsByTheJobsEnd) {
  v1::Job last = RunningJob();
  grpc::Status status;
  server_.on_watch_job = [&](const v1::WatchJobRequest&, grpc::ServerContext*, grpc::ServerWriter<v1::Job>* writer) {
    writer->Write(last);
    return status;
  };
  for (const v1::JobState state : {v1::JOB_STATE_FAILED, v1::JOB_STATE_CANCELLED, v1::JOB_STATE_INTERRUPTED}) {
    last.set_state(state);
    EXPECT_EQ(Run({"watch", "j1"}), 1) << state;
  }
  last.set_state(v1::JOB_STATE_FAILED);
  last.set_error_code(8);
  last.set_error_message("no space left");
  EXPECT_EQ(Run({"watch", "j1"}), 1);
  EXPECT_THAT(err(), HasSubstr("error: job j1 ended as FAILED: RESOURCE_EXHAUSTED: no space left"));
  last = RunningJob();
  EXPECT_EQ(Run({"watch", "j1"}), 3);
  EXPECT_THAT(err(), HasSubstr("before the job's end"));
  status = FakeError(grpc::StatusCode::NOT_FOUND, "no job \"j1\"", "JOB_NOT_FOUND", {});
  EXPECT_EQ(Run({"watch", "j1"}), 1);
  EXPECT_THAT(err(), HasSubstr("JOB_NOT_FOUND"));
  server_.on_watch_job = [](const v1::WatchJobRequest&, grpc::ServerContext* context, grpc::ServerWriter<v1::Job>*) {
    while (!context->IsCancelled()) std::this_thread::sleep_for(std::chrono::milliseconds(5));
    return grpc::Status::CANCELLED;
  };
  EXPECT_EQ(Run({"watch", "j1", "--timeout", "50ms"}), 4);
}

TEST_F(JobCommandsTest, CancelAsksAndTellsTheState) {
  std::string asked;
  server_.on_cancel_job = [&](const v1::CancelJobRequest& request, v1::Job* job) {
    asked += request.job();
    *job = RunningJob();
    return grpc::Status::OK;
  };
  EXPECT_EQ(Run({"cancel", "j1", "--dry-run"}), 0);
  EXPECT_EQ(asked, "");
  EXPECT_EQ(Run({"cancel", "j1"}), 0) << err();
  EXPECT_EQ(asked, "j1");
  EXPECT_EQ(out(), "job j1 was asked to end; it is RUNNING\n");
  server_.on_cancel_job = [](const v1::CancelJobRequest&, v1::Job*) {
    return FakeError(grpc::StatusCode::FAILED_PRECONDITION, "it has ended", "JOB_FINISHED", {});
  };
  EXPECT_EQ(Run({"cancel", "j1"}), 1);
  EXPECT_EQ(Run({"cancel"}), 2);
}

TEST_F(JobCommandsTest, GetJobsListsThemWithStateRateAndError) {
  v1::ListJobsRequest seen;
  server_.on_list_jobs = [&](const v1::ListJobsRequest& request, v1::ListJobsResponse* response) {
    seen = request;
    *response->add_jobs() = RunningJob();
    v1::Job* const failed = response->add_jobs();
    *failed = RunningJob();
    failed->set_state(v1::JOB_STATE_FAILED);
    failed->set_error_code(3);
    failed->set_error_message("bad\x1b[2J index");
    return grpc::Status::OK;
  };
  EXPECT_EQ(Run({"get", "jobs", "movies", "--state", "failed", "--limit", "7"}), 0) << err();
  EXPECT_EQ(seen.store(), "movies");
  EXPECT_EQ(seen.state(), v1::JOB_STATE_FAILED);
  EXPECT_EQ(seen.limit(), 7);
  EXPECT_THAT(out(), AllOf(HasSubstr("RUNNING"), HasSubstr("500/s"), HasSubstr("INVALID_ARGUMENT: bad"), ::testing::Not(HasSubstr("\x1b"))));
  EXPECT_EQ(Run({"get", "jobs"}), 0);
  EXPECT_EQ(seen.state(), v1::JOB_STATE_UNSPECIFIED);
  EXPECT_EQ(Run({"get", "jobs", "--state", "ended"}), 2);
}

TEST_F(JobCommandsTest, AnActivationCanBeLeftToItsJob) {
  v1::ActivateGenerationRequest seen;
  server_.on_activate = [&](const v1::ActivateGenerationRequest& request, v1::ActivateGenerationResponse* response) {
    seen = request;
    response->set_job("j7");
    response->set_done(!request.no_wait());
    response->set_generation("g4");
    return grpc::Status::OK;
  };
  EXPECT_EQ(Run({"activate", "movies", "g4", "--no-wait"}), 0) << err();
  EXPECT_TRUE(seen.no_wait());
  EXPECT_THAT(out(), HasSubstr("loci watch j7"));
  EXPECT_EQ(Run({"activate", "movies", "g4"}), 0);
  EXPECT_FALSE(seen.no_wait());
  EXPECT_THAT(out(), HasSubstr("activated g4"));
}

}  // namespace
}  // namespace loci
