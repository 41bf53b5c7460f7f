// Ingests over gRPC: documents, answers before the build, clients that break off, a disk that is full.
#include <atomic>
#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/mutex.h"
#include "gmock/gmock.h"
#include "index/forwarding_file_system.h"
#include "tests/integration/server_fixture.h"

namespace loci {
namespace {

using grpc::StatusCode;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Admin = loci::v1::AdminService::Stub;

// The vector files of builds can be held back, or find the disk full. Thread-safe.
class BuildFileSystem : public ForwardingFileSystem {
 public:
  absl::StatusOr<std::unique_ptr<WritableFile>> NewWritableFile(const std::string& path) override {
    if (absl::EndsWith(path, "/vectors.bin")) {
      MutexLock lock(&mutex_);
      ++waiting_;
      while (held_) changed_.Wait(&mutex_);
      --waiting_;
      if (full_) return absl::ResourceExhaustedError(absl::StrCat("cannot write ", path, ": No space left on device"));
    }
    return ForwardingFileSystem::NewWritableFile(path);
  }
  void Hold() { Set(true, false); }
  void LetGo() { Set(false, false); }
  void Fill() { Set(false, true); }
  void WaitForBuild() {
    for (int i = 0; i < 30'000; ++i) {
      {
        MutexLock lock(&mutex_);
        if (waiting_ > 0) return;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    FAIL() << "no build came";
  }

 private:
  void Set(bool held, bool full) {
    MutexLock lock(&mutex_);
    held_ = held;
    full_ = full;
    changed_.NotifyAll();
  }
  Mutex mutex_;
  CondVar changed_;
  bool held_ ABSL_GUARDED_BY(mutex_) = false;
  bool full_ ABSL_GUARDED_BY(mutex_) = false;
  int waiting_ ABSL_GUARDED_BY(mutex_) = 0;
};

class ServerIngest : public ServerFixture {
 protected:
  void SetUp() override {
    ServerFixture::SetUp();
    options.fs = &files_;
    StartServer();
  }
  void TearDown() override {
    files_.LetGo();
    ServerFixture::TearDown();
  }

  static loci::v1::IngestRequest Header(const std::string& store, bool no_wait = false) {
    loci::v1::IngestRequest request;
    request.mutable_header()->set_store(store);
    request.mutable_header()->set_no_wait(no_wait);
    return request;
  }
  static loci::v1::IngestRequest Batch(const std::vector<std::pair<std::string, std::string>>& id_texts) {
    loci::v1::IngestRequest request;
    request.mutable_batch();
    for (const auto& [id, text] : id_texts) {
      loci::v1::Passage& passage = *request.mutable_batch()->add_passages();
      passage.set_id(id);
      passage.set_text(text);
    }
    return request;
  }
  grpc::Status Send(const std::vector<loci::v1::IngestRequest>& messages, loci::v1::IngestResponse* response, int64_t deadline_ms = 60'000) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(deadline_ms));
    auto stream = admin->Ingest(&context, response);
    for (const loci::v1::IngestRequest& message : messages) {
      if (!stream->Write(message)) break;
    }
    stream->WritesDone();
    const grpc::Status status = stream->Finish();
    pushback_ = context.GetServerTrailingMetadata().contains("grpc-retry-pushback-ms");
    return status;
  }
  // An ingest with no_wait whose build is held back.
  loci::v1::IngestResponse Leave(const std::string& store) {
    files_.Hold();
    loci::v1::IngestResponse response;
    const grpc::Status status = Send({Header(store, true), Batch({{"a", "one"}, {"b", "two"}, {"c", ""}})}, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    EXPECT_FALSE(response.done());
    EXPECT_FALSE(response.job().empty());
    EXPECT_EQ(response.accepted_count(), 2);
    EXPECT_EQ(response.rejected_count(), 1);
    return response;
  }
  loci::v1::Job GetJob(const std::string& id) {
    loci::v1::GetJobRequest request;
    request.set_job(id);
    loci::v1::Job job;
    const grpc::Status status = Call(*admin, &Admin::GetJob, request, &job);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return job;
  }
  loci::v1::Job WaitForEnd(const std::string& id) {
    for (int i = 0; i < 10'000; ++i) {
      loci::v1::Job job = GetJob(id);
      if (job.state() != loci::v1::JOB_STATE_RUNNING) return job;
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    ADD_FAILURE() << "job " << id << " does not end";
    return {};
  }
  std::string ActiveGeneration(const std::string& store) {
    loci::v1::GetStoreRequest request;
    request.set_store(store);
    loci::v1::GetStoreResponse response;
    EXPECT_TRUE(Call(*admin, &Admin::GetStore, request, &response).ok());
    return response.store().generation();
  }
  // What lies in the store's folder that is, or was to be, a generation.
  std::vector<std::string> GenerationsOnDisk(const std::string& store) {
    std::vector<std::string> generations;
    const auto names = PosixFileSystem().List(absl::StrCat(options.data_directory, "/stores/", store));
    EXPECT_TRUE(names.ok()) << names.status();
    for (const std::string& name : *names) {
      if (name.starts_with("20")) generations.push_back(name);
    }
    return generations;
  }

  BuildFileSystem files_;
  bool pushback_ = false;  // Of the last Send.
};

TEST_F(ServerIngest, CutsDocumentsAndTakesVectorsOver) {
  loci::v1::IngestRequest header = Header("s");
  header.mutable_header()->mutable_chunking()->set_max_tokens(16);
  std::string text;
  for (int i = 0; i < 8; ++i) absl::StrAppend(&text, "The cat is in the red house", i % 2 == 0 ? " today" : "", ". ");
  const loci::v1::IngestRequest batch = Batch({{"doc", text}, {"other", "One sentence."}});
  loci::v1::IngestResponse first, second;
  ASSERT_TRUE(Send({header, batch}, &first).ok());
  EXPECT_EQ(first.accepted_count(), 2);
  EXPECT_GT(first.passage_count(), 4);
  EXPECT_EQ(first.reused_count(), 0);
  ASSERT_TRUE(Send({header, batch}, &second).ok());
  EXPECT_EQ(second.reused_count(), second.passage_count());
  EXPECT_EQ(second.passage_count(), first.passage_count());
  loci::v1::GetPassagesRequest get;
  get.set_store("s");
  get.add_ids("doc#1");
  loci::v1::GetPassagesResponse got;
  ASSERT_TRUE(Call(*admin, &Admin::GetPassages, get, &got).ok());
  EXPECT_EQ(got.passages(0).document_id(), "doc");
  EXPECT_EQ(got.passages(0).chunk_index(), 1);
  const int64_t start = got.passages(0).metadata().at("start_byte").int64_value(), end = got.passages(0).metadata().at("end_byte").int64_value();
  EXPECT_EQ(text.substr(start, end - start), got.passages(0).text());

  header.mutable_header()->mutable_chunking()->set_max_tokens(1'000);
  const grpc::Status refused = Send({header, batch}, &second);
  EXPECT_EQ(refused.error_code(), StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(refused.error_message(), HasSubstr("header.chunking.max_tokens is 1000"));
}

TEST_F(ServerIngest, ABadLineIsNamedByItsPlace) {
  loci::v1::IngestRequest header = Header("s");
  header.mutable_header()->set_bad_lines(loci::v1::LINE_POLICY_FAIL);
  loci::v1::IngestResponse response;
  const grpc::Status bad = Send({header, Batch({{"a", "one"}}), Batch({{"b", "two"}, {"c", ""}})}, &response);
  EXPECT_EQ(bad.error_code(), StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(InfoOf(bad).reason(), "BAD_LINE");
  EXPECT_EQ(InfoOf(bad).metadata().at("line"), "3");
  header.mutable_header()->set_duplicates(loci::v1::LINE_POLICY_FAIL);
  const grpc::Status duplicate = Send({header, Batch({{"a", "one"}}), Batch({{"a", "two"}})}, &response);
  EXPECT_EQ(InfoOf(duplicate).reason(), "DUPLICATE_ID");
  EXPECT_EQ(InfoOf(duplicate).metadata().at("line"), "2");
  EXPECT_TRUE(GenerationsOnDisk("s").empty());
}

TEST_F(ServerIngest, WithoutWaitingTheJobEndsItAlone) {
  const std::string job = Leave("s").job();
  files_.WaitForBuild();
  const loci::v1::Job running = GetJob(job);
  EXPECT_EQ(running.state(), loci::v1::JOB_STATE_RUNNING);
  EXPECT_EQ(ActiveGeneration("s"), "");
  loci::v1::IngestResponse second;
  EXPECT_EQ(InfoOf(Send({Header("s"), Batch({{"a", "one"}})}, &second)).reason(), "JOB_IN_THE_WAY");
  files_.LetGo();
  const loci::v1::Job ended = WaitForEnd(job);
  EXPECT_EQ(ended.state(), loci::v1::JOB_STATE_SUCCEEDED) << ended.error_message();
  EXPECT_TRUE(ended.ingest().done());
  EXPECT_EQ(ended.ingest().job(), job);
  EXPECT_EQ(ended.ingest().accepted_count(), 2);
  EXPECT_EQ(ended.ingest().passage_count(), 2);
  EXPECT_EQ(ended.ingest().errors_size(), 1);
  EXPECT_EQ(ended.generation(), ended.ingest().generation());
  EXPECT_EQ(ActiveGeneration("s"), ended.generation());
}

TEST_F(ServerIngest, WithoutWaitingTheCallsDeadlineIsNothingToTheJob) {
  files_.Hold();
  loci::v1::IngestResponse response;
  const auto start = std::chrono::steady_clock::now();
  ASSERT_TRUE(Send({Header("s", true), Batch({{"a", "one"}})}, &response, /*deadline_ms=*/8'000).ok());
  std::this_thread::sleep_until(start + std::chrono::milliseconds(8'100));
  files_.LetGo();
  EXPECT_EQ(WaitForEnd(response.job()).state(), loci::v1::JOB_STATE_SUCCEEDED);
}

TEST_F(ServerIngest, WithoutWaitingNothingAtAllIsToldAtOnce) {
  loci::v1::IngestResponse response;
  EXPECT_EQ(InfoOf(Send({Header("s", true)}, &response)).reason(), "EMPTY_INGEST");
  // Upserts have been written by then.
  loci::v1::IngestRequest header = Header("s", true);
  header.mutable_header()->set_mode(loci::v1::INGEST_MODE_UPSERT);
  ASSERT_TRUE(Send({header, Batch({{"a", "one"}})}, &response).ok());
  EXPECT_EQ(WaitForEnd(response.job()).ingest().passage_count(), 1);
}

TEST_F(ServerIngest, WithoutWaitingTheJobCanBeCancelled) {
  const std::string id = Leave("s").job();
  files_.WaitForBuild();
  loci::v1::CancelJobRequest cancel;
  cancel.set_job(id);
  loci::v1::Job job;
  ASSERT_TRUE(Call(*admin, &Admin::CancelJob, cancel, &job).ok());
  files_.LetGo();
  EXPECT_EQ(WaitForEnd(id).state(), loci::v1::JOB_STATE_CANCELLED);
  EXPECT_TRUE(GenerationsOnDisk("s").empty());
  EXPECT_EQ(Ingest("s", {{"a", "one"}}).reused_count(), 1) << "what was encoded is kept";
  ExpectServing();
}

TEST_F(ServerIngest, WithoutWaitingTheJobCanBeCancelledWhileItReceives) {
  grpc::ClientContext context;
  loci::v1::IngestResponse response;
  auto stream = admin->Ingest(&context, &response);
  ASSERT_TRUE(stream->Write(Header("s", true)));
  loci::v1::ListJobsRequest list;
  loci::v1::ListJobsResponse jobs;
  for (int i = 0; i < 10'000 && jobs.jobs().empty(); ++i) {
    ASSERT_TRUE(Call(*admin, &Admin::ListJobs, list, &jobs).ok());
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  ASSERT_EQ(jobs.jobs_size(), 1);
  loci::v1::CancelJobRequest cancel;
  cancel.set_job(jobs.jobs(0).job());
  loci::v1::Job job;
  ASSERT_TRUE(Call(*admin, &Admin::CancelJob, cancel, &job).ok());
  const grpc::Status status = stream->Finish();
  EXPECT_EQ(status.error_code(), StatusCode::CANCELLED);
  EXPECT_EQ(InfoOf(status).reason(), "JOB_CANCELLED");
  EXPECT_TRUE(GenerationsOnDisk("s").empty());
}

TEST_F(ServerIngest, ADrainWaitsForABuildAndThenCancelsIt) {
  for (const bool in_time : {true, false}) {
    options.drain_timeout_ms = in_time ? 30'000 : 100;
    StartServer();
    const std::string store = in_time ? "in-time" : "late";
    const std::string id = Leave(store).job();
    files_.WaitForBuild();
    std::thread release([&] {
      std::this_thread::sleep_for(std::chrono::milliseconds(3'000));
      files_.LetGo();
    });
    server->Stop();
    release.join();
    StartServer();
    const loci::v1::Job job = GetJob(id);
    EXPECT_EQ(job.state(), in_time ? loci::v1::JOB_STATE_SUCCEEDED : loci::v1::JOB_STATE_INTERRUPTED) << job.error_message();
    EXPECT_EQ(ActiveGeneration(store).empty(), !in_time);
    EXPECT_EQ(GenerationsOnDisk(store).size(), in_time ? 1u : 0u);
  }
}

TEST_F(ServerIngest, AClientThatDiesHalfwayLeavesNothing) {
  const std::string before = Ingest("s", {{"a", "one"}}).generation();
  for (const bool no_wait : {false, true}) {
    grpc::ClientContext context;
    loci::v1::IngestResponse response;
    auto stream = admin->Ingest(&context, &response);
    ASSERT_TRUE(stream->Write(Header("s", no_wait)));
    ASSERT_TRUE(stream->Write(Batch({{"b", "two"}})));
    WaitForMetric("loci_in_flight{kind=\"ingest\"}", 1);
    context.TryCancel();
    EXPECT_EQ(stream->Finish().error_code(), StatusCode::CANCELLED);
    WaitForMetric("loci_in_flight{kind=\"ingest\"}", 0);
    EXPECT_EQ(ActiveGeneration("s"), before);
    EXPECT_THAT(GenerationsOnDisk("s"), ElementsAre(before));
  }
}

TEST_F(ServerIngest, AFullDiskIsToldAndServingGoesOn) {
  const std::string before = Ingest("s", {{"a", "one"}}).generation();
  files_.Fill();
  loci::v1::IngestResponse response;
  const grpc::Status full = Send({Header("s"), Batch({{"b", "two"}})}, &response);
  EXPECT_EQ(full.error_code(), StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(full.error_message(), HasSubstr("vectors.bin: No space left on device"));
  EXPECT_FALSE(pushback_) << "trying again soon does not help";
  EXPECT_EQ(ActiveGeneration("s"), before);
  EXPECT_THAT(GenerationsOnDisk("s"), ElementsAre(before));
  files_.LetGo();
  ExpectServing();
  ASSERT_TRUE(Send({Header("s"), Batch({{"b", "two"}})}, &response).ok());
  EXPECT_TRUE(response.done());
}

}  // namespace
}  // namespace loci
