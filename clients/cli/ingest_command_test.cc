// loci ingest: flags, line policies, and the progress of the server's job.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>

#include "clients/cli/cli_fixture.h"
#include "nlohmann/json.hpp"

namespace loci {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

using IngestCommandTest = CliTest;

TEST_F(IngestCommandTest, FlagsOfChunksAndPoliciesReachTheHeader) {
  const std::string lines = Write("a.jsonl", "{\"id\": 1, \"text\": \"t\"}\n"), text = Write("a.txt", "text");
  const auto header = [&](const std::vector<std::string>& args) {
    server_.ingest_requests.clear();
    EXPECT_EQ(Run(args), 0) << err();
    return server_.ingest_requests.at(0).header();
  };
  v1::IngestHeader plain = header({"ingest", "s", lines});
  EXPECT_FALSE(plain.has_chunking());
  EXPECT_EQ(plain.bad_lines(), v1::LINE_POLICY_UNSPECIFIED);
  EXPECT_EQ(plain.duplicates(), v1::LINE_POLICY_UNSPECIFIED);
  EXPECT_FALSE(plain.reencode());
  EXPECT_EQ(header({"ingest", "s", text}).chunking().ShortDebugString(), "overlap_tokens: 32");
  EXPECT_EQ(header({"ingest", "s", text, "--overlap-tokens", "0"}).chunking().ShortDebugString(), "");
  EXPECT_EQ(header({"ingest", "s", text, "--chunk-tokens", "64"}).chunking().ShortDebugString(), "max_tokens: 64 overlap_tokens: 16");
  EXPECT_EQ(header({"ingest", "s", lines, "--chunk-tokens=64", "--overlap-tokens=32"}).chunking().ShortDebugString(),
            "max_tokens: 64 overlap_tokens: 32");
  const v1::IngestHeader all =
      header({"ingest", "s", lines, "--bad-lines", "fail", "--duplicates", "skip", "--reencode", "--no-wait", "--mode", "upsert"});
  EXPECT_EQ(all.bad_lines(), v1::LINE_POLICY_FAIL);
  EXPECT_EQ(all.duplicates(), v1::LINE_POLICY_SKIP);
  EXPECT_TRUE(all.reencode());
  EXPECT_TRUE(all.no_wait());
  EXPECT_EQ(header({"ingest", "s", lines, "--duplicates", "fail"}).duplicates(), v1::LINE_POLICY_FAIL);
  EXPECT_EQ(header({"ingest", "s", lines, "--duplicates", "keep-last"}).duplicates(), v1::LINE_POLICY_UNSPECIFIED);
  EXPECT_EQ(Run({"ingest", "s", lines, "--chunk-tokens", "15"}), 2);
  EXPECT_EQ(Run({"ingest", "s", lines, "--chunk-tokens", "64", "--overlap-tokens", "33"}), 2);
  EXPECT_THAT(err(), HasSubstr("33 is more than half of --chunk-tokens 64"));
}

TEST_F(IngestCommandTest, ABadLineEndsAllWhereThatIsAskedFor) {
  const std::string path = Write("a.jsonl", "{\"id\": 1, \"text\": \"t\"}\nnonsense\n{\"id\": 3, \"text\": \"t\"}\n");
  EXPECT_EQ(Run({"ingest", "s", path, "--bad-lines", "fail", "--skip-errors"}), 1);
  EXPECT_THAT(err(), AllOf(HasSubstr(path + ":2: "), HasSubstr("nothing was ingested")));
  EXPECT_EQ(Run({"ingest", "s", path, "--bad-lines", "fail", "--dry-run"}), 1);
  EXPECT_TRUE(server_.ingest_requests.empty());
  EXPECT_EQ(Run({"ingest", "s", path, "--bad-lines", "skip", "--skip-errors"}), 0) << err();
}

TEST_F(IngestCommandTest, ARefusalByThePositionInTheStreamNamesTheFileAndLine) {
  const std::string path =
      Write("a.jsonl", "{\"id\": 1, \"text\": \"t\"}\nnonsense\n{\"id\": 1, \"text\": \"t\"}\n");
  server_.ingest_status =
      FakeError(grpc::StatusCode::INVALID_ARGUMENT, "passage 2 of the stream: id \"1\" came before", "DUPLICATE_ID", {{"line", "2"}});
  EXPECT_EQ(Run({"ingest", "s", path, "--duplicates", "fail"}), 1);
  EXPECT_THAT(err(), HasSubstr(path + ":3: passage 2 of the stream: id \"1\" came before"));
}

TEST_F(IngestCommandTest, TheSummaryTellsEveryCount) {
  server_.ingest_response.set_accepted_count(5);
  server_.ingest_response.set_passage_count(17);
  server_.ingest_response.set_reused_count(12);
  server_.ingest_response.set_duplicate_count(3);
  server_.ingest_response.set_job("j1");
  EXPECT_EQ(Run({"ingest", "s", Write("a.md", "# A\ntext"), "--no-wait"}), 0) << err();
  EXPECT_THAT(out(), AllOf(HasSubstr("ACCEPTED   PASSAGES   REUSED   DUPLICATES   REJECTED"), HasSubstr("17"), HasSubstr("12"),
                           HasSubstr("loci watch j1")));
  server_.ingest_response.set_done(true);
  EXPECT_EQ(Run({"ingest", "s", directory_ + "/a.md"}), 0);
  EXPECT_THAT(out(), Not(HasSubstr("loci watch")));
}

TEST_F(IngestCommandTest, ADryRunCountsDocumentsAndSendsNothing) {
  std::filesystem::create_directory(directory_ + "/docs");
  Write("docs/a.md", "# A\none\n# B\ntwo");
  Write("docs/b.txt", "text");
  EXPECT_EQ(Run({"ingest", "s", directory_ + "/docs", "--dry-run"}), 0);
  EXPECT_THAT(out(), HasSubstr("would ingest 3 sections of 2 documents into store s"));
  EXPECT_TRUE(server_.ingest_requests.empty());
}

TEST_F(IngestCommandTest, OnATerminalThePhasesOfTheServersJobAreShown) {
  server_.on_list_jobs = [](const v1::ListJobsRequest& request, v1::ListJobsResponse* response) {
    EXPECT_EQ(request.store(), "s");
    EXPECT_EQ(request.state(), v1::JOB_STATE_RUNNING);
    response->add_jobs()->set_kind("verify");
    v1::Job* const job = response->add_jobs();
    job->set_kind("ingest");
    job->set_job("j1");
    return grpc::Status::OK;
  };
  server_.on_watch_job = [&](const v1::WatchJobRequest& request, grpc::ServerContext* context, grpc::ServerWriter<v1::Job>* writer) {
    EXPECT_EQ(request.job(), "j1");
    v1::Job job;
    job.set_phase("index");
    job.set_done(250);
    job.set_total(1000);
    job.set_unit("passages");
    job.set_rate(50);
    job.set_eta_ms(15'000);
    writer->Write(job);
    while (!context->IsCancelled()) std::this_thread::sleep_for(std::chrono::milliseconds(5));
    return grpc::Status::CANCELLED;
  };
  server_.before_ingest_reply = [&] {
    EXPECT_TRUE(WaitForErr("index 250 / 1,000 passages   50/s   25 %   ETA 0:15"));
  };
  EXPECT_EQ(Run({"ingest", "s", Write("a.jsonl", "{\"id\": 1, \"text\": \"t\"}\n")}, /*err_width=*/100), 0) << err();
}

TEST_F(IngestCommandTest, WhatIsToldIsWhatTheServerHasEncodedNotWhatWasSent) {
  server_.on_list_jobs = [](const v1::ListJobsRequest&, v1::ListJobsResponse* response) {
    v1::Job* const job = response->add_jobs();
    job->set_kind("ingest");
    job->set_job("j1");
    return grpc::Status::OK;
  };
  std::atomic<bool> input_is_over = false;
  server_.on_watch_job = [&](const v1::WatchJobRequest&, grpc::ServerContext* context, grpc::ServerWriter<v1::Job>* writer) {
    v1::Job job;
    job.set_phase("receiving");
    job.set_unit("passages");
    job.set_rate(50);
    int64_t done = 70;
    while (!context->IsCancelled()) {
      if (input_is_over) done = 100;
      job.set_done(done);
      writer->Write(job);
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    return grpc::Status::CANCELLED;
  };
  // All of the job is known before the input is over: 300 passages, 256 of them in the first message.
  const std::string path = directory_ + "/pipe.jsonl";
  ASSERT_EQ(mkfifo(path.c_str(), 0600), 0);
  std::thread writer([&] {
    std::ofstream pipe(path);
    for (int i = 0; i < 300; ++i) pipe << "{\"id\": " << i << ", \"text\": \"t\"}\n";
    pipe.flush();
    EXPECT_TRUE(WaitForErr("70 passages"));
    input_is_over = true;
  });
  server_.before_ingest_reply = [&] { EXPECT_TRUE(WaitForErr("encoding 100 / 300 passages   50/s   33 %   ETA 0:04")); };
  EXPECT_EQ(Run({"ingest", "s", path}, /*err_width=*/100), 0) << err();
  writer.join();
}

TEST_F(IngestCommandTest, TheTimeoutCoversAPipeThatNobodyWritesToAndOneThatStalls) {
  const std::string path = directory_ + "/pipe.jsonl";
  ASSERT_EQ(mkfifo(path.c_str(), 0600), 0);
  for (const char* const format : {"jsonl", "auto", "markdown", "pdf"}) {
    EXPECT_EQ(Run({"ingest", "s", path, "--timeout", "50ms", "--format", format}), 4) << format;
    EXPECT_THAT(err(), HasSubstr("within --timeout")) << format;
  }
  EXPECT_EQ(Run({"upsert", "s", path, "--timeout", "50ms"}), 4);
  EXPECT_TRUE(server_.ingest_requests.empty());
  // Whoever writes keeps it open until the command has ended.
  const int pipe = open(path.c_str(), O_RDWR | O_NONBLOCK);
  ASSERT_GE(pipe, 0);
  std::string lines;
  for (int i = 0; i < 300; ++i) lines += "{\"id\": " + std::to_string(i) + ", \"text\": \"t\"}\n";
  ASSERT_EQ(write(pipe, lines.data(), lines.size()), static_cast<ssize_t>(lines.size()));
  EXPECT_EQ(Run({"ingest", "s", path, "--timeout", "300ms"}), 4);
  EXPECT_THAT(err(), AllOf(HasSubstr("within --timeout"), HasSubstr("nothing was ingested")));
  close(pipe);
  EXPECT_TRUE(server_.IngestWasCancelled());
}

TEST_F(IngestCommandTest, ADocumentOutOfAPipeComesWhole) {
  const std::string path = directory_ + "/pipe.md";
  ASSERT_EQ(mkfifo(path.c_str(), 0600), 0);
  std::thread writer([&] { std::ofstream(path) << "# Title\ntext"; });
  EXPECT_EQ(Run({"ingest", "s", path}), 0) << err();
  writer.join();
  ASSERT_EQ(server_.ingest_requests.size(), 2u);
  EXPECT_EQ(server_.ingest_requests[1].batch().passages(0).text(), "text");
}

class SlowPdf : public IngestCommandTest {
 protected:
  SlowPdf() {
    const std::string program = Write("pdftotext", "#!/bin/sh\nexec sleep 600\n");
    std::filesystem::permissions(program, std::filesystem::perms::owner_all);
    setenv("PATH", (directory_ + ":" + path_).c_str(), 1);
    std::filesystem::create_directory(directory_ + "/docs");
    Write("docs/a.txt", std::string(200'000, 'a'));  // More than a message takes.
    Write("docs/b.pdf", "%PDF");
  }
  ~SlowPdf() override { setenv("PATH", path_.c_str(), 1); }
  const std::string path_ = std::getenv("PATH");
};

TEST_F(SlowPdf, IsOneBadDocumentAfterItsTime) {
  EXPECT_EQ(Run({"ingest", "s", directory_ + "/docs", "--pdf-timeout", "50ms"}), 1);
  EXPECT_THAT(err(), AllOf(HasSubstr("b.pdf"), HasSubstr("took longer than 0.05 s, the limit (--pdf-timeout)"), HasSubstr("1 line or document was not taken")));
  EXPECT_EQ(Run({"ingest", "s", directory_ + "/docs", "--pdf-timeout", "0"}), 2);
}

TEST_F(SlowPdf, EndsAtOnceWithTheTimeoutAndWhereTheJobIsCancelled) {
  EXPECT_EQ(Run({"ingest", "s", directory_ + "/docs", "--pdf-timeout", "10m", "--timeout", "200ms"}), 4);
  EXPECT_THAT(err(), HasSubstr("within --timeout"));
  server_.on_list_jobs = [](const v1::ListJobsRequest&, v1::ListJobsResponse* response) {
    response->add_jobs()->set_kind("ingest");
    return grpc::Status::OK;
  };
  server_.on_watch_job = [](const v1::WatchJobRequest&, grpc::ServerContext*, grpc::ServerWriter<v1::Job>* writer) {
    v1::Job job;
    job.set_phase("receiving");
    job.set_state(v1::JOB_STATE_CANCELLED);
    writer->Write(job);
    return grpc::Status::OK;
  };
  server_.ingest_status = FakeError(grpc::StatusCode::CANCELLED, "job j1 was cancelled", "CANCELLED", {});
  EXPECT_EQ(Run({"ingest", "s", directory_ + "/docs", "--pdf-timeout", "10m"}), 1);
  EXPECT_THAT(err(), HasSubstr("job j1 was cancelled"));
}

TEST_F(IngestCommandTest, NamesOfFilesThatAreNotUtf8AreEscaped) {
  std::filesystem::create_directories(directory_ + "/docs/x\xE9");
  Write("docs/x\xE9/good\xFF.txt", "text");
  Write("docs/x\xE9/latin\xFF.txt", "caf\xE9");
  EXPECT_EQ(Run({"ingest", "s", directory_ + "/docs", "-o", "json", "--skip-errors"}), 0) << err();
  nlohmann::json answer = nlohmann::json::parse(out());
  ASSERT_EQ(answer["errors"].size(), 1u);
  EXPECT_THAT(answer["errors"][0]["message"].get<std::string>(), AllOf(HasSubstr("/x%E9/latin%FF.txt:"), HasSubstr("not valid UTF-8 at byte 4")));
  ASSERT_EQ(server_.ingest_requests.size(), 2u);
  const v1::Passage& passage = server_.ingest_requests[1].batch().passages(0);
  EXPECT_EQ(passage.id(), "x%E9/good%FF.txt#0");
  EXPECT_EQ(passage.metadata().at("source").string_value(), directory_ + "/docs/x%E9/good%FF.txt");
  std::filesystem::create_directory(directory_ + "/lines");
  Write("lines/l\xFF.jsonl", "nonsense\n{\"id\": 1, \"text\": \"t\"}\n");
  EXPECT_EQ(Run({"ingest", "s", directory_ + "/lines", "-o", "json", "--skip-errors"}), 0) << err();
  answer = nlohmann::json::parse(out());
  ASSERT_EQ(answer["errors"].size(), 1u);
  EXPECT_THAT(answer["errors"][0]["message"].get<std::string>(), HasSubstr("/l%FF.jsonl:1: "));
}

TEST_F(IngestCommandTest, AServerWithoutJobsIsNoReasonToFail) {
  std::atomic<bool> was_asked = false;
  server_.on_list_jobs = [&](const v1::ListJobsRequest&, v1::ListJobsResponse*) {
    was_asked = true;
    return grpc::Status(grpc::StatusCode::UNIMPLEMENTED, "no jobs here");
  };
  server_.before_ingest_reply = [&] {
    for (int i = 0; i < 60'000 && !was_asked; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    EXPECT_TRUE(was_asked);
  };
  EXPECT_EQ(Run({"ingest", "s", Write("a.jsonl", "{\"id\": 1, \"text\": \"t\"}\n")}), 0) << err();
  EXPECT_EQ(err(), "");
}

}  // namespace
}  // namespace loci
