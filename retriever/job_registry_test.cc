#include "retriever/job_registry.h"

#include <unistd.h>

#include <atomic>
#include <optional>
#include <string>
#include <thread>

#include "base/error.h"
#include "base/fake_metrics.h"
#include "gtest/gtest.h"
#include "index/forwarding_file_system.h"

namespace loci {
namespace {

using storage::JobRecord;

class JobRegistryTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = testing::TempDir() + "/loci_jobs_XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    directory_ = pattern;
    Open();
  }
  void TearDown() override {
    jobs_.reset();
    EXPECT_TRUE(fs_.DeleteRecursively(directory_).ok());
  }
  void Open(int64_t history_limit = 1'000) {
    jobs_.reset();
    JobRegistry::Options options;
    options.directory = JoinPath(directory_, "jobs");
    options.clock = &clock_;
    options.metrics = &metrics_;
    options.history_limit = history_limit;
    absl::StatusOr<std::unique_ptr<JobRegistry>> opened = JobRegistry::Open(std::move(options));
    ASSERT_TRUE(opened.ok()) << opened.status();
    jobs_ = *std::move(opened);
  }
  std::shared_ptr<JobHandle> Start(JobKind kind, const std::string& store) {
    absl::StatusOr<std::shared_ptr<JobHandle>> job = jobs_->Start({.kind = kind, .store = store});
    EXPECT_TRUE(job.ok()) << job.status();
    return job.ok() ? *job : nullptr;
  }
  JobRecord Record(const std::string& job) {
    const absl::StatusOr<JobInfo> info = jobs_->Get(job);
    EXPECT_TRUE(info.ok()) << info.status();
    return info.ok() ? info->record : JobRecord();
  }
  std::string ReasonOf(const absl::Status& status) {
    const std::optional<ErrorReason> reason = GetErrorReason(status);
    return reason.has_value() ? reason->reason : "";
  }

  FileSystem& fs_ = PosixFileSystem();
  std::string directory_;
  FakeClock clock_{1'795'254'102'000'000};
  FakeMetrics metrics_;
  std::unique_ptr<JobRegistry> jobs_;
};

TEST_F(JobRegistryTest, ASecondIngestOfAStoreIsToldOfTheFirst) {
  const auto first = Start(JobKind::kIngest, "movies");
  const absl::Status second = jobs_->Start({.kind = JobKind::kIngest, .store = "movies"}).status();
  EXPECT_TRUE(absl::IsAborted(second)) << second;
  EXPECT_EQ(ReasonOf(second), "JOB_IN_THE_WAY");
  EXPECT_EQ(GetErrorReason(second)->metadata.at("job"), first->id());
  EXPECT_NE(second.message().find("(ingest) runs in store \"movies\"; wait"), absl::string_view::npos) << second;
  // What is in nobody's way.
  Start(JobKind::kIngest, "books");
  Start(JobKind::kVerify, "movies");
  Start(JobKind::kActivate, "movies");
  ASSERT_TRUE(first->Finish(absl::OkStatus()).ok());
  EXPECT_NE(Start(JobKind::kIngest, "movies"), nullptr);
}

TEST_F(JobRegistryTest, AFoldStartsBesideVerificationsAloneAndKeepsIngestsOut) {
  const auto refused = [&](JobKind kind) { return ReasonOf(jobs_->Start({.kind = kind, .store = "movies"}).status()) == "JOB_IN_THE_WAY"; };
  const auto verification = Start(JobKind::kVerify, "movies");
  for (const JobKind kind : {JobKind::kIngest, JobKind::kImport, JobKind::kActivate, JobKind::kRollback, JobKind::kFold}) {
    const auto running = Start(kind, "movies");
    EXPECT_TRUE(refused(JobKind::kFold)) << JobKindName(kind);
    EXPECT_NE(Start(JobKind::kFold, "books"), nullptr);
    (void)running->Finish(absl::OkStatus());
  }
  const auto fold = Start(JobKind::kFold, "movies");
  EXPECT_TRUE(refused(JobKind::kIngest));
  EXPECT_TRUE(refused(JobKind::kImport));
  EXPECT_NE(Start(JobKind::kVerify, "movies"), nullptr);
  (void)Start(JobKind::kActivate, "movies")->Finish(absl::OkStatus());
  ASSERT_TRUE(fold->BeginActivation().ok());
  EXPECT_TRUE(refused(JobKind::kActivate));
  EXPECT_TRUE(refused(JobKind::kRollback));
  ASSERT_TRUE(fold->Finish(absl::OkStatus()).ok());
  EXPECT_EQ(Record(fold->id()).kind(), "fold");
}

TEST_F(JobRegistryTest, ATuningIsInNobodysWayButAnothers) {
  const auto tuning = Start(JobKind::kTune, "movies");
  EXPECT_EQ(ReasonOf(jobs_->Start({.kind = JobKind::kTune, .store = "movies"}).status()), "JOB_IN_THE_WAY");
  EXPECT_EQ(ReasonOf(jobs_->Start({.kind = JobKind::kTune, .store = "books"}).status()), "JOB_IN_THE_WAY") << "of any store";
  EXPECT_TRUE(jobs_->CheckNoJob("books").ok());
  EXPECT_FALSE(jobs_->CheckNoJob("movies").ok());
  for (const JobKind kind : {JobKind::kIngest, JobKind::kImport, JobKind::kActivate, JobKind::kRollback, JobKind::kVerify, JobKind::kFold}) {
    const auto other = Start(kind, "movies");
    EXPECT_NE(other, nullptr) << JobKindName(kind);
    (void)other->Finish(absl::OkStatus());
  }
  ASSERT_TRUE(tuning->Finish(absl::OkStatus()).ok());
  EXPECT_EQ(Record(tuning->id()).kind(), "tune");
  EXPECT_NE(Start(JobKind::kTune, "movies"), nullptr);
}

TEST_F(JobRegistryTest, OneMeasurementRunsAtATimeAndIsInNobodyElsesWay) {
  for (const auto& [first, second] : {std::pair(JobKind::kQuantize, JobKind::kQuantize), std::pair(JobKind::kQuantize, JobKind::kTune), std::pair(JobKind::kTune, JobKind::kQuantize)}) {
    const auto running = Start(first, "movies");
    for (const char* store : {"movies", "books"}) EXPECT_EQ(ReasonOf(jobs_->Start({.kind = second, .store = store}).status()), "JOB_IN_THE_WAY") << store;
    for (const JobKind kind : {JobKind::kIngest, JobKind::kActivate, JobKind::kVerify, JobKind::kFold, JobKind::kReembed}) {
      const auto other = Start(kind, "movies");
      EXPECT_NE(other, nullptr) << JobKindName(kind);
      (void)other->Finish(absl::OkStatus());
    }
    EXPECT_FALSE(jobs_->CheckNoJob("movies").ok()) << "the store is not deleted under it";
    ASSERT_TRUE(running->Finish(absl::OkStatus()).ok());
  }
  EXPECT_EQ(JobKindName(JobKind::kQuantize), "quantize");
}

TEST_F(JobRegistryTest, ASecondImportOfAnEncoderIsToldOfTheFirstAndOfNoStore) {
  const auto first = Start(JobKind::kImportEncoder, "");
  const absl::Status second = jobs_->Start({.kind = JobKind::kImportEncoder, .store = ""}).status();
  EXPECT_EQ(ReasonOf(second), "JOB_IN_THE_WAY");
  EXPECT_EQ(std::string(second.message()), "job " + first->id() + " (import-encoder) runs; wait until it ends, or cancel it");
  ASSERT_TRUE(first->Finish(absl::OkStatus()).ok());
  EXPECT_NE(Start(JobKind::kImportEncoder, ""), nullptr);
}

TEST_F(JobRegistryTest, AFoldThatNobodyAskedForGivesWay) {
  for (const JobKind kind : {JobKind::kIngest, JobKind::kImport, JobKind::kActivate, JobKind::kRollback, JobKind::kFold}) {
    const auto fold = *jobs_->Start({.kind = JobKind::kFold, .store = "movies", .yields = true});
    EXPECT_FALSE(jobs_->Start({.kind = JobKind::kFold, .store = "movies", .yields = true}).ok()) << "not to one of its sort";
    Start(JobKind::kVerify, "movies");
    EXPECT_FALSE(fold->limits().cancelled());
    if (kind != JobKind::kIngest) {
      ASSERT_TRUE(fold->BeginActivation().ok());
    }
    const auto other = Start(kind, "movies");
    EXPECT_TRUE(fold->limits().cancelled()) << JobKindName(kind);
    const absl::Status ended = fold->Finish(absl::CancelledError("it looked"));
    EXPECT_EQ(ReasonOf(ended), "JOB_CANCELLED");
    EXPECT_EQ(Record(fold->id()).state(), JobRecord::STATE_CANCELLED);
    (void)other->Finish(absl::OkStatus());
  }
  const auto fold = *jobs_->Start({.kind = JobKind::kFold, .store = "movies", .yields = true});
  jobs_->EndYielding("books", 10'000);
  EXPECT_FALSE(fold->limits().cancelled());
  std::thread ending([&] {
    while (!fold->limits().cancelled()) std::this_thread::yield();
    (void)fold->Finish(absl::CancelledError("it looked"));
  });
  jobs_->EndYielding("movies", 60'000);
  EXPECT_EQ(Record(fold->id()).state(), JobRecord::STATE_CANCELLED);
  ending.join();
}

TEST_F(JobRegistryTest, AnActivationAndARollbackAreOfOneSort) {
  const auto activation = Start(JobKind::kActivate, "movies");
  EXPECT_TRUE(absl::IsAborted(jobs_->Start({.kind = JobKind::kRollback, .store = "movies"}).status()));
}

TEST_F(JobRegistryTest, AnIngestIsAnActivationOnceItWantsToBe) {
  const auto ingest = Start(JobKind::kIngest, "movies");
  EXPECT_TRUE(jobs_->CheckNoActivation("movies").ok());
  const auto activation = Start(JobKind::kActivate, "movies");
  EXPECT_EQ(GetErrorReason(jobs_->CheckNoActivation("movies"))->metadata.at("job"), activation->id());
  std::atomic<bool> begun{false};
  std::thread waiting([&] {
    EXPECT_TRUE(ingest->BeginActivation().ok());
    begun = true;
  });
  // It waits for what runs; others are told of whichever is in the way.
  std::string in_the_way;
  while (in_the_way != ingest->id()) {
    const absl::Status refused = jobs_->Start({.kind = JobKind::kRollback, .store = "movies"}).status();
    ASSERT_EQ(ReasonOf(refused), "JOB_IN_THE_WAY");
    in_the_way = GetErrorReason(refused)->metadata.at("job");
  }
  EXPECT_FALSE(begun);
  (void)activation->Finish(absl::OkStatus());
  waiting.join();
  EXPECT_NE(Start(JobKind::kVerify, "movies"), nullptr);
  (void)ingest->Finish(absl::OkStatus());
  EXPECT_NE(Start(JobKind::kActivate, "movies"), nullptr);
}

TEST_F(JobRegistryTest, AnIngestThatWaitsToActivateCanBeCancelled) {
  const auto activation = Start(JobKind::kActivate, "movies");
  const auto ingest = Start(JobKind::kIngest, "movies");
  std::thread waiting([&] { EXPECT_TRUE(absl::IsCancelled(ingest->BeginActivation())); });
  EXPECT_TRUE(jobs_->Cancel(ingest->id()).ok());
  waiting.join();
}

TEST_F(JobRegistryTest, AnActivationThatOnlyWatchesIsInNobodysWay) {
  const auto activation = Start(JobKind::kActivate, "movies");
  EXPECT_FALSE(jobs_->Start({.kind = JobKind::kFold, .store = "movies"}).ok());
  activation->BeginWatch();
  EXPECT_TRUE(jobs_->CheckNoActivation("movies").ok());
  EXPECT_TRUE(jobs_->CheckNoJob("movies").ok());
  for (const JobKind kind : {JobKind::kRollback, JobKind::kFold, JobKind::kActivate}) (void)Start(kind, "movies")->Finish(absl::OkStatus());
  // Until it goes back, for which it waits like others.
  const auto other = Start(JobKind::kActivate, "movies");
  std::atomic<bool> begun{false};
  std::thread waiting([&] {
    EXPECT_TRUE(activation->BeginActivation().ok());
    begun = true;
  });
  std::string in_the_way;
  while (in_the_way != activation->id()) {
    const absl::Status refused = jobs_->Start({.kind = JobKind::kRollback, .store = "movies"}).status();
    ASSERT_EQ(ReasonOf(refused), "JOB_IN_THE_WAY");
    in_the_way = GetErrorReason(refused)->metadata.at("job");
  }
  EXPECT_FALSE(begun);
  (void)other->Finish(absl::OkStatus());
  waiting.join();
  EXPECT_EQ(ReasonOf(jobs_->CheckNoJob("movies")), "JOB_IN_THE_WAY");
}

TEST_F(JobRegistryTest, AnIngestThatWaitsToActivateGoesOnOnceTheActivationOnlyWatches) {
  const auto activation = Start(JobKind::kActivate, "movies");
  const auto ingest = Start(JobKind::kIngest, "movies");
  std::thread waiting([&] { EXPECT_TRUE(ingest->BeginActivation().ok()); });
  activation->BeginWatch();
  waiting.join();
}

TEST_F(JobRegistryTest, AWatchEndsByItsOwnLimits) {
  RequestLimits request;
  const auto activation = *jobs_->Start({.kind = JobKind::kActivate, .store = "movies", .limits = request});
  activation->BeginWatch();
  request.Cancel();  // Whoever asked for it has gone.
  EXPECT_FALSE(activation->own_limits().cancelled());
  EXPECT_TRUE(activation->BeginActivation().ok()) << "which goes back all the same";
  activation->BeginWatch();
  EXPECT_TRUE(jobs_->Cancel(activation->id()).ok());
  EXPECT_TRUE(activation->own_limits().cancelled());
}

TEST_F(JobRegistryTest, DrainingEndsWatchesAndNothingElse) {
  const auto watching = Start(JobKind::kActivate, "movies");
  watching->BeginWatch();
  const auto activating = Start(JobKind::kActivate, "books");
  jobs_->Drain();
  EXPECT_TRUE(watching->own_limits().cancelled());
  EXPECT_FALSE(activating->limits().cancelled());
  EXPECT_FALSE(activating->own_limits().cancelled());
  activating->BeginWatch();
  EXPECT_TRUE(activating->own_limits().cancelled()) << "it comes to it too late";
}

TEST_F(JobRegistryTest, WaitsUntilNoJobRuns) {
  EXPECT_TRUE(jobs_->WaitUntilIdle(0));
  const auto job = Start(JobKind::kVerify, "movies");
  EXPECT_FALSE(jobs_->WaitUntilIdle(1));
  std::thread finishing([&] { (void)job->Finish(absl::OkStatus()); });
  EXPECT_TRUE(jobs_->WaitUntilIdle(60'000));
  finishing.join();
  jobs_->CancelAll();
  EXPECT_EQ(ReasonOf(jobs_->Start({.kind = JobKind::kVerify, .store = "movies"}).status()), "DRAINING");
}

TEST_F(JobRegistryTest, AnyJobOfAStoreKeepsItFromDeletion) {
  EXPECT_TRUE(jobs_->CheckNoJob("movies").ok());
  const auto verify = Start(JobKind::kVerify, "movies");
  EXPECT_EQ(ReasonOf(jobs_->CheckNoJob("movies")), "JOB_IN_THE_WAY");
  EXPECT_TRUE(jobs_->CheckNoJob("books").ok());
  EXPECT_TRUE(verify->Finish(absl::OkStatus()).ok());
  EXPECT_TRUE(jobs_->CheckNoJob("movies").ok());
}

TEST_F(JobRegistryTest, RateAndTimeLeftAreThoseOfThePhase) {
  const auto job = Start(JobKind::kIngest, "movies");
  job->SetPhase("receiving", 0);
  clock_.Advance(1'000'000);
  job->SetDone(500);
  EXPECT_EQ(jobs_->Get(job->id())->rate, 500);
  EXPECT_EQ(jobs_->Get(job->id())->eta_ms, -1);
  job->SetPhase("write", 1'000);
  EXPECT_EQ(Record(job->id()).done(), 0);
  EXPECT_EQ(jobs_->Get(job->id())->eta_ms, -1);
  const int64_t version = jobs_->Get(job->id())->version;
  clock_.Advance(2'000'000);
  job->SetDone(400);
  EXPECT_GT(jobs_->Get(job->id())->version, version);
  EXPECT_EQ(jobs_->Get(job->id())->rate, 200);
  EXPECT_EQ(jobs_->Get(job->id())->eta_ms, 3'000);
  // What was long ago counts no more.
  for (int i = 1; i <= 30; ++i) {
    clock_.Advance(1'000'000);
    job->SetDone(400 + 10 * i);
  }
  EXPECT_NEAR(jobs_->Get(job->id())->rate, 10, 1);
}

TEST_F(JobRegistryTest, HistoryOutlivesARestart) {
  const auto ingest = Start(JobKind::kIngest, "movies");
  ingest->SetGeneration("g1");
  EXPECT_TRUE(ingest->Finish(absl::OkStatus(), "reply").ok());
  clock_.Advance(5'000'000);
  const auto verify = Start(JobKind::kVerify, "books");
  EXPECT_TRUE(absl::IsDataLoss(verify->Finish(absl::DataLossError("a byte differs"))));
  Open();
  const std::vector<JobInfo> all = jobs_->List("", JobRecord::STATE_UNSPECIFIED, 100);
  ASSERT_EQ(all.size(), 2u);
  EXPECT_EQ(all[0].record.job(), verify->id());  // Newest first.
  EXPECT_EQ(all[0].record.state(), JobRecord::STATE_FAILED);
  EXPECT_EQ(all[0].record.error_code(), 15);
  EXPECT_EQ(all[0].record.error_message(), "a byte differs");
  EXPECT_EQ(all[1].record.state(), JobRecord::STATE_SUCCEEDED);
  EXPECT_EQ(all[1].record.generation(), "g1");
  EXPECT_EQ(all[1].record.result(), "reply");
  EXPECT_GT(all[1].record.finished_unix_us(), 0);
  EXPECT_EQ(jobs_->List("movies", JobRecord::STATE_UNSPECIFIED, 100).size(), 1u);
  EXPECT_EQ(jobs_->List("", JobRecord::STATE_FAILED, 100).size(), 1u);
  EXPECT_EQ(jobs_->List("", JobRecord::STATE_UNSPECIFIED, 1).size(), 1u);
}

TEST_F(JobRegistryTest, AJobThatTheServerDidNotFinishIsInterrupted) {
  const auto job = Start(JobKind::kIngest, "movies");
  const std::string path = JoinPath(directory_, "jobs/" + job->id());
  const std::string running = *fs_.ReadFile(path);
  (void)job->Finish(absl::OkStatus());
  ASSERT_TRUE(WriteFileAtomically(fs_, path, running).ok());  // As a server that died left it.
  Open();
  EXPECT_EQ(Record(job->id()).state(), JobRecord::STATE_INTERRUPTED);
  EXPECT_EQ(metrics_.value("loci_jobs_total", {{"kind", "ingest"}, {"state", "interrupted"}}), 1);
  Open();  // And stays it.
  EXPECT_EQ(Record(job->id()).state(), JobRecord::STATE_INTERRUPTED);
  EXPECT_EQ(metrics_.value("loci_jobs_total", {{"kind", "ingest"}, {"state", "interrupted"}}), 1);
  EXPECT_NE(Start(JobKind::kIngest, "movies"), nullptr);
}

TEST_F(JobRegistryTest, ADamagedFileIsLeftOut) {
  const auto damaged = Start(JobKind::kVerify, "movies");
  const auto whole = Start(JobKind::kVerify, "movies");
  (void)damaged->Finish(absl::OkStatus());
  (void)whole->Finish(absl::OkStatus());
  const std::string path = JoinPath(directory_, "jobs/" + damaged->id());
  std::string content = *fs_.ReadFile(path);
  content[3] ^= 1;
  ASSERT_TRUE(WriteFileAtomically(fs_, path, content).ok());
  ASSERT_TRUE(WriteFileAtomically(fs_, JoinPath(directory_, "jobs/short"), "x").ok());
  Open();
  EXPECT_TRUE(jobs_->Get(whole->id()).ok());
  EXPECT_EQ(ReasonOf(jobs_->Get(damaged->id()).status()), "JOB_NOT_FOUND");
  EXPECT_TRUE(fs_.Exists(path));
}

TEST_F(JobRegistryTest, CancelRaisesTheFlagAndTellsTheOneWhoWaits) {
  int told = 0;
  const auto job = *jobs_->Start({.kind = JobKind::kIngest, .store = "movies", .on_cancel = [&] { ++told; }});
  EXPECT_EQ(jobs_->Cancel(job->id())->record.state(), JobRecord::STATE_RUNNING);
  EXPECT_TRUE(job->limits().cancelled());
  EXPECT_TRUE(jobs_->Cancel(job->id()).ok());
  EXPECT_EQ(told, 1);
  const absl::Status outcome = job->Finish(job->limits().Check(0));
  EXPECT_TRUE(absl::IsCancelled(outcome));
  EXPECT_EQ(ReasonOf(outcome), "JOB_CANCELLED");
  EXPECT_EQ(Record(job->id()).state(), JobRecord::STATE_CANCELLED);
  EXPECT_EQ(ReasonOf(jobs_->Cancel(job->id()).status()), "JOB_FINISHED");
  EXPECT_EQ(ReasonOf(jobs_->Cancel("nope").status()), "JOB_NOT_FOUND");
}

TEST_F(JobRegistryTest, AHandleThatDiesEndsItsJob) {
  auto job = Start(JobKind::kIngest, "movies");
  const std::string id = job->id();
  job.reset();
  EXPECT_EQ(Record(id).state(), JobRecord::STATE_FAILED);
  auto cancelled = Start(JobKind::kIngest, "movies");
  const std::string other = cancelled->id();
  jobs_->CancelAll();
  cancelled.reset();
  EXPECT_EQ(Record(other).state(), JobRecord::STATE_INTERRUPTED);
}

TEST_F(JobRegistryTest, TheOldestEndedJobsAreForgotten) {
  Open(/*history_limit=*/3);
  const auto running = Start(JobKind::kIngest, "movies");
  std::vector<std::string> ended;
  for (int i = 0; i < 5; ++i) {
    clock_.Advance(1'000'000);
    const auto job = Start(JobKind::kVerify, "movies");
    (void)job->Finish(absl::OkStatus());
    ended.push_back(job->id());
  }
  EXPECT_EQ(jobs_->List("", JobRecord::STATE_UNSPECIFIED, 100).size(), 4u);
  EXPECT_TRUE(jobs_->Get(running->id()).ok());
  EXPECT_FALSE(jobs_->Get(ended[1]).ok());
  EXPECT_TRUE(jobs_->Get(ended[2]).ok());
  EXPECT_EQ(fs_.List(JoinPath(directory_, "jobs"))->size(), 4u);
}

TEST_F(JobRegistryTest, WhatCantBeRecordedDoesNotStart) {
  ASSERT_TRUE(fs_.DeleteRecursively(JoinPath(directory_, "jobs")).ok());
  EXPECT_FALSE(jobs_->Start({.kind = JobKind::kIngest, .store = "movies"}).ok());
  EXPECT_TRUE(jobs_->CheckNoJob("movies").ok());
  EXPECT_EQ(metrics_.value("loci_jobs_running", {{"kind", "ingest"}}), 0);
  const auto verification = Start(JobKind::kVerify, "movies");  // It writes nothing, and may be what tells of a broken disk.
  ASSERT_NE(verification, nullptr);
  EXPECT_TRUE(verification->Finish(absl::OkStatus()).ok());
  ASSERT_TRUE(fs_.CreateDirectories(JoinPath(directory_, "jobs")).ok());
  EXPECT_NE(Start(JobKind::kIngest, "movies"), nullptr);
}

// The file has its name then, but nobody knows whether a power cut would leave it.
TEST_F(JobRegistryTest, AJobWhoseRecordIsNotDurableDoesNotStartAndIsForgotten) {
  class Files : public ForwardingFileSystem {
   public:
    bool fail_syncs = false;
    absl::Status SyncDirectory(const std::string& directory) override {
      return fail_syncs ? absl::InternalError("the disk is gone") : ForwardingFileSystem::SyncDirectory(directory);
    }
  } files;
  jobs_.reset();
  JobRegistry::Options options;
  options.fs = &files;
  options.directory = JoinPath(directory_, "jobs");
  jobs_ = *JobRegistry::Open(options);
  files.fail_syncs = true;
  EXPECT_FALSE(jobs_->Start({.kind = JobKind::kIngest, .store = "movies"}).ok());
  EXPECT_TRUE(fs_.List(options.directory)->empty());
  files.fail_syncs = false;
  Open();
  EXPECT_TRUE(jobs_->List("", JobRecord::STATE_UNSPECIFIED, 100).empty());
  EXPECT_NE(Start(JobKind::kIngest, "movies"), nullptr);
}

TEST_F(JobRegistryTest, ARefreshThatCantStartSupersedesNothing) {
  const auto running = *jobs_->Start({.kind = JobKind::kReembed, .store = "movies", .refreshes = true});
  EXPECT_FALSE(jobs_->Get(running->id())->ending);
  EXPECT_TRUE(jobs_->CheckStart({.kind = JobKind::kReembed, .store = "movies", .refreshes = true}).ok());
  EXPECT_EQ(ReasonOf(jobs_->CheckStart({.kind = JobKind::kReembed, .store = "movies"})), "JOB_IN_THE_WAY");
  std::string never;
  const auto begin = [&](const std::shared_ptr<JobHandle>& job) -> absl::Status {
    never = job->id();
    EXPECT_EQ(Record(never).state(), JobRecord::STATE_RUNNING);
    EXPECT_FALSE(running->limits().cancelled());
    return absl::InternalError("not this one");
  };
  EXPECT_TRUE(absl::IsInternal(jobs_->Start({.kind = JobKind::kReembed, .store = "movies", .refreshes = true, .begin = begin}).status()));
  EXPECT_TRUE(absl::IsNotFound(jobs_->Get(never).status()));
  EXPECT_EQ(fs_.List(JoinPath(directory_, "jobs"))->size(), 1u);
  ASSERT_TRUE(fs_.DeleteRecursively(JoinPath(directory_, "jobs")).ok());
  EXPECT_FALSE(jobs_->Start({.kind = JobKind::kReembed, .store = "movies", .refreshes = true}).ok());
  EXPECT_FALSE(running->limits().cancelled());
  ASSERT_TRUE(fs_.CreateDirectories(JoinPath(directory_, "jobs")).ok());
  const auto next = *jobs_->Start({.kind = JobKind::kReembed, .store = "movies", .refreshes = true});
  EXPECT_TRUE(running->limits().cancelled());
  EXPECT_FALSE(next->limits().cancelled());
  EXPECT_TRUE(jobs_->Get(running->id())->ending);
  EXPECT_EQ(GetErrorReason(running->Finish(absl::CancelledError("")))->metadata.at("superseded_by"), next->id());
  EXPECT_FALSE(jobs_->Get(running->id())->ending);
}

TEST_F(JobRegistryTest, ARefreshEndsWithTheServerWheneverItBegan) {
  const auto before = *jobs_->Start({.kind = JobKind::kReembed, .store = "movies", .refreshes = true});
  jobs_->Drain();
  const auto after = *jobs_->Start({.kind = JobKind::kReembed, .store = "books", .refreshes = true});
  const auto reembed = *jobs_->Start({.kind = JobKind::kReembed, .store = "songs"});
  EXPECT_FALSE(reembed->limits().cancelled());
  for (const auto& job : {before, after}) {
    EXPECT_TRUE(job->limits().cancelled());
    EXPECT_FALSE(jobs_->Get(job->id())->ending) << "it goes on after a restart";
  }
  EXPECT_EQ(ReasonOf(before->Finish(absl::CancelledError(""))), "DRAINING");
  jobs_->CancelAll();
  EXPECT_EQ(ReasonOf(after->Finish(absl::CancelledError(""))), "DRAINING") << "also where it takes that long";
  EXPECT_EQ(Record(after->id()).state(), JobRecord::STATE_INTERRUPTED);
}

TEST_F(JobRegistryTest, AFullDiskDoesNotUndoWhatWasDone) {
  const auto job = Start(JobKind::kIngest, "movies");
  ASSERT_TRUE(fs_.DeleteRecursively(JoinPath(directory_, "jobs")).ok());
  EXPECT_TRUE(job->Finish(absl::OkStatus()).ok());
  EXPECT_EQ(Record(job->id()).state(), JobRecord::STATE_SUCCEEDED);
}

TEST_F(JobRegistryTest, CountsWhatRunsAndWhatEnded) {
  const auto job = Start(JobKind::kActivate, "movies");
  EXPECT_EQ(metrics_.value("loci_jobs_running", {{"kind", "activate"}}), 1);
  (void)job->Finish(absl::OkStatus());
  EXPECT_EQ(metrics_.value("loci_jobs_running", {{"kind", "activate"}}), 0);
  EXPECT_EQ(metrics_.value("loci_jobs_total", {{"kind", "activate"}, {"state", "succeeded"}}), 1);
}

TEST_F(JobRegistryTest, ANewerRefreshSupersedesTheOneUnderWayAndWaitsForItsEnd) {
  const auto refresh = [&] { return *jobs_->Start({.kind = JobKind::kReembed, .store = "movies", .refreshes = true}); };
  const auto first = refresh();
  EXPECT_EQ(ReasonOf(jobs_->Start({.kind = JobKind::kReembed, .store = "movies"}).status()), "JOB_IN_THE_WAY") << "one that was asked for by hand";
  EXPECT_EQ(ReasonOf(jobs_->Start({.kind = JobKind::kFold, .store = "movies"}).status()), "JOB_IN_THE_WAY");
  EXPECT_FALSE(first->limits().cancelled());
  const auto second = refresh();
  EXPECT_TRUE(first->limits().cancelled());
  std::atomic<bool> waited{false};
  std::thread waiter([&] {
    EXPECT_TRUE(second->WaitForThoseThatGaveWay().ok());
    waited = true;
  });
  EXPECT_FALSE(waited);
  const absl::Status outcome = first->Finish(first->limits().Check(0));
  waiter.join();
  EXPECT_TRUE(absl::IsCancelled(outcome));
  EXPECT_EQ(ReasonOf(outcome), "JOB_SUPERSEDED");
  EXPECT_EQ(GetErrorReason(outcome)->metadata.at("superseded_by"), second->id());
  EXPECT_EQ(Record(first->id()).state(), JobRecord::STATE_CANCELLED);
  EXPECT_NE(Record(first->id()).error_message().find(second->id()), std::string::npos);
  EXPECT_FALSE(second->limits().cancelled());
  // One that waits is superseded too, and one that had made its switch has succeeded.
  const auto third = refresh();
  const auto fourth = refresh();
  EXPECT_TRUE(absl::IsCancelled(third->WaitForThoseThatGaveWay()));
  EXPECT_EQ(ReasonOf(third->Finish(third->limits().Check(0))), "JOB_SUPERSEDED");
  EXPECT_TRUE(second->Finish(absl::OkStatus()).ok());
  EXPECT_TRUE(fourth->WaitForThoseThatGaveWay().ok());
  EXPECT_TRUE(jobs_->Start({.kind = JobKind::kReembed, .store = "books"}).ok());
}

TEST_F(JobRegistryTest, AnInterruptedJobGoesOnUnderItsId) {
  const auto ran = Start(JobKind::kReembed, "movies");
  const std::string id = ran->id();
  const int64_t started_unix_us = Record(id).started_unix_us();
  jobs_->CancelAll();
  (void)ran->Finish(ran->limits().Check(0));
  clock_.Advance(1'000'000);
  Open();
  ASSERT_EQ(Record(id).state(), JobRecord::STATE_INTERRUPTED);
  const auto again = *jobs_->Start({.kind = JobKind::kReembed, .store = "movies", .job = id});
  EXPECT_EQ(again->id(), id);
  EXPECT_EQ(Record(id).state(), JobRecord::STATE_RUNNING);
  EXPECT_EQ(Record(id).started_unix_us(), started_unix_us);
  EXPECT_EQ(jobs_->List("", JobRecord::STATE_UNSPECIFIED, 10).size(), 1u);
  (void)again->Finish(absl::OkStatus(), "result");
  EXPECT_EQ(Record(id).result(), "result");
  Open();
  EXPECT_EQ(Record(id).state(), JobRecord::STATE_SUCCEEDED);
  // One that ended, or is not there, or is another store's, does not.
  for (const std::string& other : {id, std::string("no-such-job")}) {
    const auto job = *jobs_->Start({.kind = JobKind::kReembed, .store = "movies", .job = other});
    EXPECT_NE(job->id(), other);
    (void)job->Finish(absl::OkStatus());
  }
  EXPECT_EQ(Record(id).result(), "result");
}

TEST_F(JobRegistryTest, DrainingInterruptsRefreshesWhichGoOnAfterARestart) {
  const auto refresh = *jobs_->Start({.kind = JobKind::kReembed, .store = "movies", .refreshes = true});
  const auto reembed = Start(JobKind::kReembed, "books");
  jobs_->Drain();
  EXPECT_TRUE(refresh->limits().cancelled());
  EXPECT_FALSE(reembed->limits().cancelled());
  EXPECT_EQ(ReasonOf(refresh->Finish(refresh->limits().Check(0))), "DRAINING");
  EXPECT_EQ(Record(refresh->id()).state(), JobRecord::STATE_INTERRUPTED);
}

TEST_F(JobRegistryTest, AnActivationThatCameToNothingIsInNobodysWay) {
  const auto refresh = Start(JobKind::kReembed, "movies");
  ASSERT_TRUE(refresh->BeginActivation().ok());
  EXPECT_EQ(ReasonOf(jobs_->Start({.kind = JobKind::kActivate, .store = "movies"}).status()), "JOB_IN_THE_WAY");
  refresh->EndActivation();
  const auto activation = jobs_->Start({.kind = JobKind::kActivate, .store = "movies"});
  ASSERT_TRUE(activation.ok()) << activation.status();
  (void)(*activation)->Finish(absl::OkStatus());
  ASSERT_TRUE(refresh->BeginActivation().ok());
  EXPECT_EQ(ReasonOf(jobs_->CheckNoActivation("movies")), "JOB_IN_THE_WAY");
}

}  // namespace
}  // namespace loci
