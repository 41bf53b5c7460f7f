// A store that follows published encoders, whatever happens on the way.
#include "retriever/encoder_refresh.h"

#include <atomic>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/cancellation.h"
#include "base/error.h"
#include "base/mutex.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "index/forwarding_file_system.h"
#include "retriever/testing/retriever_fixture.h"

namespace loci {
namespace {

using storage::JobRecord;
using ::testing::HasSubstr;

// Where a refresh waits before it encodes a few passages, until the test lets it go on. Thread-safe.
class Gate {
 public:
  void Open() { Set(true, false); }
  // From now on. One that is cancelled goes on; not where it is `held_fast`.
  void Hold(bool held_fast = false) { Set(false, held_fast); }
  bool HoldsOne() {
    MutexLock lock(&mutex_);
    return waiting_ > 0 && permits_ == 0;
  }
  void LetOneThrough() {
    MutexLock lock(&mutex_);
    permits_ = 1;
    changed_.NotifyAll();
  }
  void Pass(const RequestLimits& limits) {
    MutexLock lock(&mutex_);
    ++waiting_;
    while (!open_ && permits_ == 0 && (held_fast_ || !limits.cancelled())) changed_.WaitFor(&mutex_, std::chrono::milliseconds(2));
    --waiting_;
    if (permits_ > 0) --permits_;
  }

 private:
  void Set(bool open, bool held_fast) {
    MutexLock lock(&mutex_);
    open_ = open;
    held_fast_ = held_fast;
    permits_ = 0;
    changed_.NotifyAll();
  }
  Mutex mutex_;
  CondVar changed_;
  bool open_ = true, held_fast_ = false;
  int permits_ = 0, waiting_ = 0;
};

// Calls something before weights are read.
class HookedWeights : public ForwardingFileSystem {
 public:
  absl::StatusOr<std::unique_ptr<MappedFile>> Map(const std::string& path) override {
    if (before_weights != nullptr && path.ends_with(".safetensors")) before_weights();
    return base_.Map(path);
  }
  std::function<void()> before_weights;
};

class EncoderRefreshTest : public RetrieverFixture {
 protected:
  ~EncoderRefreshTest() override { StopAll(); }

  // With `encoders_fs` those of the registry.
  void StartAll(FileSystem* encoders_fs = nullptr) {
    RetrieverFixture::Start();
    if (encoders_fs != nullptr) {
      Stop();
      registry_ = *EncoderRegistry::Open({.directory = JoinPath(DataDirectory(), "encoders"), .fs = encoders_fs});
      ASSERT_TRUE(registry_->Import(CheckpointDirectory(1)).ok());
      manager_ = *GenerationManager::Open({.data_directory = DataDirectory(), .encoders = registry_.get(), .search_pool = &pool_});
    }
    base_ = *registry_->Get("");
    other_ = Import(2, 32);
    third_ = Import(3, 32);
    absl::StatusOr<std::unique_ptr<JobRegistry>> jobs = JobRegistry::Open({.directory = JoinPath(DataDirectory(), "jobs")});
    ASSERT_TRUE(jobs.ok()) << jobs.status();
    jobs_ = *std::move(jobs);
    drifts_ = std::make_unique<EncoderDriftTable>();
    refresh_pool_ = std::make_unique<ThreadPool>("refresh", 2, 8);
    refresher_ = std::make_unique<EncoderRefresher>(EncoderRefresher::Options{
        .manager = manager_.get(),
        .jobs = jobs_.get(),
        .pool = refresh_pool_.get(),
        .drifts = drifts_.get(),
        .poll_ms = 5,
        .before_passages = [this](const RequestLimits& limits) { gate_.Pass(limits); },
        .encode_result = [](const ReembedResult& result, const std::string& job) {
          return absl::StrCat(job, " encoded=", result.encoded_count, " reused=", result.reused_count, " generation=", result.generation);
        }});
  }
  // As a server's end.
  void StopAll() {
    if (jobs_ == nullptr) return;
    jobs_->CancelAll();
    refresher_.reset();
    refresh_pool_.reset();
    jobs_.reset();
    base_ = other_ = third_ = nullptr;
    Stop();
  }
  std::shared_ptr<TextEncoder> Import(int seed, int hidden_size) {
    EXPECT_TRUE(WriteTinyCheckpoint(fs_, CheckpointDirectory(seed), {.hidden_size = hidden_size, .seed = static_cast<uint64_t>(seed)}).ok());
    const auto imported = registry_->Import(CheckpointDirectory(seed), /*make_default=*/false);
    EXPECT_TRUE(imported.ok()) << imported.status();
    return *imported;
  }
  static std::vector<loci::v1::Passage> Corpus(int count, const std::string& prefix = "p") {
    std::vector<loci::v1::Passage> passages;
    for (int i = 0; i < count; ++i) {
      passages.push_back(MakePassage(absl::StrCat(prefix, i), absl::StrCat("passage number ", i, " of ", prefix, " about thing ", i % 13, ", and more of it")));
    }
    return passages;
  }
  std::string Refresh(const std::shared_ptr<TextEncoder>& encoder, bool activate = true) {
    const auto start = refresher_->Start("s", encoder, {.activate = activate});
    EXPECT_TRUE(start.ok()) << start.status();
    return start.value_or(RefreshStart()).job;
  }
  // One that goes on as AwaitEncoding and Await say.
  std::string RefreshHeld(const std::shared_ptr<TextEncoder>& encoder, bool activate = true) {
    gate_.Hold();
    return Refresh(encoder, activate);
  }
  JobRecord Record(const std::string& job) {
    const auto info = jobs_->Get(job);
    EXPECT_TRUE(info.ok()) << info.status();
    return info.ok() ? info->record : JobRecord();
  }
  // Gives up, with a failure, where it takes as long as only a fault does.
  void Until(const std::function<bool()>& condition) {
    for (int i = 0; !condition(); ++i) {
      ASSERT_LT(i, 60'000);
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
  }
  // Lets it go on to its end.
  JobRecord Await(const std::string& job) {
    gate_.Open();
    Until([&] { return Record(job).state() != JobRecord::STATE_RUNNING; });
    return Record(job);
  }
  // Of one that is held: until so much is encoded, and nothing is on its way.
  void AwaitEncoding(const std::string& job, int64_t done = 1) {
    Until([&] {
      const bool held = gate_.HoldsOne();
      const JobRecord record = Record(job);
      if (record.state() != JobRecord::STATE_RUNNING) return true;
      if (!held) return false;
      if (record.phase() == "encoding" && record.done() >= done) return true;
      gate_.LetOneThrough();
      return false;
    });
    ASSERT_EQ(Record(job).state(), JobRecord::STATE_RUNNING);
  }
  // Until it has built its generation, and waits for an activation before the switch.
  void AwaitBuilt(const std::string& job) {
    gate_.Open();
    Until([&] {
      const JobRecord record = Record(job);
      return record.state() != JobRecord::STATE_RUNNING || record.phase() == "loading";
    });
    ASSERT_EQ(Record(job).state(), JobRecord::STATE_RUNNING);
  }
  // As a kill, and what it leaves, at a moment at which nothing is written. `other` is one of the jobs that run then.
  void Kill(std::shared_ptr<JobHandle>* other = nullptr) {
    const std::string copy = JoinPath(directory_, "copy");
    std::filesystem::copy(DataDirectory(), copy, std::filesystem::copy_options::recursive);
    jobs_->CancelAll();
    if (other != nullptr) other->reset();
    StopAll();
    std::filesystem::remove_all(DataDirectory());
    std::filesystem::rename(copy, DataDirectory());
    StartAll();
  }
  static int64_t Figure(const JobRecord& record, const std::string& name) {
    const size_t at = record.result().find(name + "=");
    return at == std::string::npos ? -1 : std::stoll(record.result().substr(at + name.size() + 1));
  }
  EncoderDrift DriftOf(const TextEncoder& encoder) { return drifts_->Find("s", encoder.spec().fingerprint.passage); }
  // Whether everything that the store has is there with the vector that `encoder` makes.
  void ExpectAllOf(TextEncoder& encoder, int64_t count) {
    const auto set = manager_->Capture("s", "");
    ASSERT_TRUE(set.ok()) << set.status();
    const View& view = *(*set)->view;
    EXPECT_EQ((*set)->encoder->spec().fingerprint.ToString(), encoder.spec().fingerprint.ToString());
    EXPECT_EQ(view.generation().manifest().passage_fingerprint(), encoder.spec().fingerprint.passage);
    const std::vector<float> any(static_cast<size_t>(view.dim()), 1.f);
    const auto found = view.Search({any.data(), 1, view.dim()}, {.top_k = 10'000, .exact = true});
    ASSERT_TRUE(found.ok()) << found.status();
    EXPECT_EQ(static_cast<int64_t>(found->hits[0].size()), count);
    std::vector<ViewRow> rows;
    for (const ViewHit& hit : found->hits[0]) rows.push_back(hit.row);
    std::vector<loci::v1::Passage> passages;
    ASSERT_TRUE(view.Read(rows, &passages).ok());
    std::vector<std::string> texts;
    for (const loci::v1::Passage& passage : passages) texts.push_back(PassageText(passage.title(), passage.text()));
    const auto made = encoder.EncodeAndWait(texts, {.role = TextRole::kPassage});
    ASSERT_TRUE(made.ok()) << made.status();
    std::vector<float> vector(static_cast<size_t>(view.dim()));
    for (size_t i = 0; i < rows.size(); ++i) {
      ASSERT_TRUE(view.CopyVector(rows[i], vector.data()).ok());
      for (size_t d = 0; d < vector.size(); ++d) ASSERT_NEAR(vector[d], made->vectors[i * vector.size() + d], 1e-5) << passages[i].id();
    }
  }
  static std::string ReasonOf(const absl::Status& status) {
    const auto reason = GetErrorReason(status);
    return reason.has_value() ? reason->reason : "";
  }
  std::string RefreshPath() const { return JoinPath(DataDirectory(), "stores/s/REFRESH"); }
  size_t GenerationCount() { return manager_->ListGenerations("s")->generations.size(); }

  Gate gate_;
  HookedWeights weights_;
  std::shared_ptr<TextEncoder> base_, other_, third_;
  std::unique_ptr<EncoderDriftTable> drifts_;
  std::unique_ptr<JobRegistry> jobs_;
  std::unique_ptr<ThreadPool> refresh_pool_;
  std::unique_ptr<EncoderRefresher> refresher_;
};

TEST_F(EncoderRefreshTest, EncoderAndGenerationSwapTogetherAndDriftIsToldUntilThen) {
  StartAll();
  const std::string before = Ingest("s", Corpus(500))->generation;
  EXPECT_EQ(DriftOf(*base_).sample_count, 0);
  const std::string job = RefreshHeld(other_);
  AwaitEncoding(job);
  const EncoderDrift sampled = DriftOf(*base_);
  EXPECT_EQ(sampled.sample_count, 64) << "as soon as the sample is measured";
  EXPECT_GT(sampled.drift, 0.01);
  EXPECT_EQ(DriftOf(*other_).sample_count, 0);
  EXPECT_TRUE(manager_->UsedEncoders()->contains(other_->spec().fingerprint.ToString())) << "before the job begins";
  const auto serving = *manager_->Capture("s", "");
  EXPECT_EQ(serving->view->generation().id(), before);
  EXPECT_EQ(serving->encoder, base_);
  const JobRecord ended = Await(job);
  EXPECT_EQ(ended.state(), JobRecord::STATE_SUCCEEDED) << ended.error_message();
  EXPECT_EQ(ended.kind(), "reembed");
  EXPECT_EQ(Figure(ended, "encoded"), 500);
  EXPECT_EQ(Figure(ended, "reused"), 0);
  EXPECT_THAT(ended.result(), HasSubstr(job));
  EXPECT_EQ(ended.generation(), manager_->GetStore("s")->generation);
  ExpectAllOf(*other_, 500);
  EXPECT_FALSE(fs_.Exists(JoinPath(DataDirectory(), "stores/s/encoded")));
  EXPECT_EQ(DriftOf(*other_).sample_count, 0);
  const EncoderDrift all = DriftOf(*base_);
  EXPECT_EQ(all.sample_count, 500) << "who holds the old view is told of all passages";
  EXPECT_NEAR(all.drift, sampled.drift, 0.1);
  // Over a restart as well.
  StopAll();
  StartAll();
  refresher_->Resume();
  EXPECT_EQ(DriftOf(*base_).drift, all.drift);
  EXPECT_EQ(DriftOf(*other_).sample_count, 0);
  EXPECT_EQ(Record(job).state(), JobRecord::STATE_SUCCEEDED);
}

TEST_F(EncoderRefreshTest, AnEncoderInInt8IsLoadedOnceAndHoldsUpNobody) {
  StartAll(&weights_);
  ASSERT_TRUE(Ingest("s", Corpus(40)).ok());
  ASSERT_TRUE(manager_->UpdateStore("s", std::nullopt, true).ok());
  std::atomic<int> loads = 0;
  std::vector<std::future<absl::Status>> others;
  weights_.before_weights = [&] {
    ++loads;
    others.push_back(std::async(std::launch::async, [&] {
      refresher_->Forget("another store");  // What takes the refresher's own lock.
      return manager_->Upsert("s", {MakePassage("w", "two birds")}, {}).status();
    }));
    EXPECT_EQ(others.back().wait_for(std::chrono::seconds(20)), std::future_status::ready) << "others wait for load " << loads;
  };
  const std::string job = RefreshHeld(other_);
  EXPECT_EQ(loads, 1);
  EXPECT_EQ(Await(job).state(), JobRecord::STATE_SUCCEEDED);
  EXPECT_EQ(loads, 1) << "the job has the same";
  EXPECT_EQ((*manager_->Capture("s", ""))->encoder->precision(), VectorPrecision::kInt8);
  for (std::future<absl::Status>& other : others) EXPECT_TRUE(other.get().ok());
  StopAll();  // Before what is called.
}

TEST_F(EncoderRefreshTest, TheNewestEncoderWins) {
  StartAll();
  ASSERT_TRUE(Ingest("s", Corpus(400)).ok());
  const std::string first = RefreshHeld(other_);
  AwaitEncoding(first);
  EXPECT_EQ(Refresh(other_), first) << "the same is under way";
  const std::string second = Refresh(third_);
  EXPECT_NE(second, first);
  const JobRecord ended = Await(second);
  EXPECT_EQ(ended.state(), JobRecord::STATE_SUCCEEDED) << ended.error_message();
  const JobRecord superseded = Record(first);
  EXPECT_EQ(superseded.state(), JobRecord::STATE_CANCELLED) << "it had ended before the other began";
  EXPECT_THAT(superseded.error_message(), HasSubstr(second));
  ExpectAllOf(*third_, 400);
  EXPECT_EQ(GenerationCount(), 2u);
  EXPECT_EQ(Figure(ended, "encoded"), 400);
}

TEST_F(EncoderRefreshTest, BeginsOnceTheOneThatItSupersedesHasEnded) {
  StartAll();
  ASSERT_TRUE(Ingest("s", Corpus(50)).ok());
  const auto held = *jobs_->Start({.kind = JobKind::kReembed, .store = "s", .refreshes = true});
  const std::string job = Refresh(other_);
  EXPECT_TRUE(held->limits().cancelled());
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  EXPECT_EQ(Record(job).phase(), "queued");
  EXPECT_EQ(ReasonOf(held->Finish(held->limits().Check(0))), "JOB_SUPERSEDED");
  EXPECT_EQ(Await(job).state(), JobRecord::STATE_SUCCEEDED) << Record(job).error_message();
}

TEST_F(EncoderRefreshTest, ManyPublicationsEndWithTheLast) {
  StartAll();
  ASSERT_TRUE(Ingest("s", Corpus(300)).ok());
  std::vector<std::string> jobs;
  for (int i = 0; i < 6; ++i) jobs.push_back(RefreshHeld(i % 2 == 0 ? other_ : third_));
  EXPECT_EQ(Await(jobs.back()).state(), JobRecord::STATE_SUCCEEDED) << Record(jobs.back()).error_message();
  for (int i = 0; i < 5; ++i) {
    EXPECT_EQ(Await(jobs[i]).state(), JobRecord::STATE_CANCELLED);
    EXPECT_THAT(Record(jobs[i]).error_message(), HasSubstr(jobs[i + 1]));
  }
  ExpectAllOf(*third_, 300);
  // Back to what serves, while another one is under way: nothing is left to do.
  const std::string away = RefreshHeld(other_);
  AwaitEncoding(away);
  const std::string back = Refresh(third_);
  EXPECT_EQ(Await(back).state(), JobRecord::STATE_SUCCEEDED);
  EXPECT_EQ(Record(away).state(), JobRecord::STATE_CANCELLED);
  EXPECT_FALSE(fs_.Exists(JoinPath(DataDirectory(), "stores/s/encoded")));
  ExpectAllOf(*third_, 300);
  EXPECT_EQ(DriftOf(*third_).sample_count, 0);
}

TEST_F(EncoderRefreshTest, GoesOnAfterARestartUnderItsIdAndEncodesNothingTwice) {
  StartAll();
  ASSERT_TRUE(Ingest("s", Corpus(600)).ok());
  const std::string job = RefreshHeld(other_);
  AwaitEncoding(job, 150);
  const EncoderDrift told = DriftOf(*base_);
  StopAll();
  StartAll();
  EXPECT_EQ(Record(job).state(), JobRecord::STATE_INTERRUPTED);
  refresher_->Resume();
  EXPECT_EQ(DriftOf(*base_).drift, told.drift) << "what is known is told at once";
  EXPECT_EQ(DriftOf(*base_).sample_count, told.sample_count);
  Until([&] { return Record(job).state() != JobRecord::STATE_INTERRUPTED; });
  const JobRecord ended = Await(job);
  EXPECT_EQ(ended.state(), JobRecord::STATE_SUCCEEDED) << ended.error_message();
  EXPECT_GE(Figure(ended, "reused"), 150);
  EXPECT_GT(Figure(ended, "encoded"), 0);
  EXPECT_EQ(Figure(ended, "reused") + Figure(ended, "encoded"), 600);
  EXPECT_EQ(jobs_->List("s", JobRecord::STATE_UNSPECIFIED, 10).size(), 1u);
  ExpectAllOf(*other_, 600);
}

TEST_F(EncoderRefreshTest, GoesOnFromWhatAKillLeft) {
  StartAll();
  ASSERT_TRUE(Ingest("s", Corpus(700)).ok());
  const std::string job = RefreshHeld(other_);
  constexpr int64_t kWritten = (64 << 10) / (16 + 4 * kDim + 8) - 64;  // What is written of the journal at once, less what comes at once.
  AwaitEncoding(job, 440);
  Kill();
  refresher_->Resume();
  Until([&] { return Record(job).state() != JobRecord::STATE_INTERRUPTED; });
  ASSERT_TRUE(manager_->Upsert("s", {MakePassage("later", "written after the restart")}, {}).ok());
  const JobRecord ended = Await(job);
  EXPECT_EQ(ended.state(), JobRecord::STATE_SUCCEEDED) << ended.error_message();
  EXPECT_GE(Figure(ended, "reused"), kWritten);
  EXPECT_GT(Figure(ended, "encoded"), 0);
  ExpectAllOf(*other_, 701);
}

TEST_F(EncoderRefreshTest, AnInterruptedOneWaitsForItsWayAndGivesWayToANewerOne) {
  StartAll();
  ASSERT_TRUE(Ingest("s", Corpus(300)).ok());
  const std::string job = RefreshHeld(other_);
  AwaitEncoding(job);
  for (const bool newer : {false, true}) {
    StopAll();
    StartAll();
    std::shared_ptr<JobHandle> ingest = *jobs_->Start({.kind = JobKind::kIngest, .store = "s"});
    refresher_->Resume();
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    EXPECT_EQ(Record(job).state(), JobRecord::STATE_INTERRUPTED);
    EXPECT_EQ(ReasonOf(refresher_->Start("s", third_, {}).status()), "JOB_IN_THE_WAY");
    EXPECT_EQ(refresher_->Start("s", other_, {})->job, job) << "it is to go on";
    if (!newer) {
      (void)ingest->Finish(absl::OkStatus());
      Until([&] { return Record(job).state() != JobRecord::STATE_INTERRUPTED; });
      AwaitEncoding(job);
      continue;
    }
    // The way is free for both; the newer one is the one that counts, whichever comes first.
    (void)ingest->Finish(absl::OkStatus());
    const std::string second = Refresh(third_);
    EXPECT_EQ(Await(second).state(), JobRecord::STATE_SUCCEEDED) << Record(second).error_message();
    ExpectAllOf(*third_, 300);
    EXPECT_NE(Record(job).state(), JobRecord::STATE_RUNNING);
    EXPECT_NE(Record(job).state(), JobRecord::STATE_SUCCEEDED);
  }
}

TEST_F(EncoderRefreshTest, WritesMeanwhileAreThere) {
  StartAll();
  ASSERT_TRUE(Ingest("s", Corpus(300)).ok());
  const std::string job = RefreshHeld(other_);
  AwaitEncoding(job);
  std::atomic<bool> stop{false};
  std::atomic<int> rounds{0};
  std::map<std::string, std::string> written;
  std::thread writer([&] {
    for (int i = 0; !stop; ++i) {
      const std::string id = absl::StrCat("p", i % 40), text = absl::StrCat("written ", i);
      EXPECT_TRUE(manager_->Upsert("s", {MakePassage(id, text)}, {}).ok());
      written[id] = text;
      if (i % 7 == 0) {
        const std::string deleted = absl::StrCat("p", (i + 5) % 40);
        EXPECT_TRUE(manager_->Delete("s", {deleted}).ok());
        written[deleted] = "";
      }
      ++rounds;
    }
  });
  Until([&] { return rounds > 20; });
  AwaitEncoding(job, 200);
  const JobRecord ended = Await(job);
  stop = true;
  writer.join();
  EXPECT_EQ(ended.state(), JobRecord::STATE_SUCCEEDED) << ended.error_message();
  const std::shared_ptr<const View> view = (*manager_->Capture("s", ""))->view;
  int64_t count = 300;
  for (const auto& [id, text] : written) {
    const auto row = view->Find(id);
    ASSERT_TRUE(row.ok());
    ASSERT_EQ(row->has_value(), !text.empty()) << id;
    count -= text.empty();
    if (text.empty()) continue;
    std::vector<loci::v1::Passage> passages;
    ASSERT_TRUE(view->Read(std::vector<ViewRow>{**row}, &passages).ok());
    EXPECT_EQ(passages[0].text(), text);
  }
  ExpectAllOf(*other_, count);
}

TEST_F(EncoderRefreshTest, BeginsAgainOnWhatBecameActive) {
  StartAll();
  ASSERT_TRUE(Ingest("s", Corpus(300)).ok());
  const std::string job = RefreshHeld(other_);
  AwaitEncoding(job, 100);
  std::vector<loci::v1::Passage> next = Corpus(200);
  for (loci::v1::Passage& passage : Corpus(50, "q")) next.push_back(std::move(passage));
  const std::string activated = Ingest("s", next, {.writes_since = WritesPolicy::kReplay})->generation;
  const JobRecord ended = Await(job);
  EXPECT_EQ(ended.state(), JobRecord::STATE_SUCCEEDED) << ended.error_message();
  ExpectAllOf(*other_, 250);
  EXPECT_EQ(manager_->Rollback("s", WritesPolicy::kReplay, false)->generation, activated);
  EXPECT_EQ(GenerationCount(), 3u) << "nothing that was built in vain";
}

TEST_F(EncoderRefreshTest, WhatBecameActiveCancelsNothing) {
  StartAll();
  ASSERT_TRUE(Ingest("s", Corpus(2'000)).ok());
  OperationControl control;
  bool done = false;
  control.progress = [&](std::string_view, int64_t count, int64_t) {
    if (count == 0 || std::exchange(done, true)) return;
    ASSERT_TRUE(Ingest("s", Corpus(20), {.writes_since = WritesPolicy::kReplay}).ok());
  };
  const absl::Status status = Reembed(*manager_, {.store = "s", .encoder = other_}, control).status();
  EXPECT_EQ(ReasonOf(status), "GENERATION_CHANGED") << status;
  EXPECT_FALSE(control.limits.cancelled()) << "a refresh begins again with them";
}

TEST_F(EncoderRefreshTest, EndsWellWhereTheEncoderServesMeanwhile) {
  StartAll();
  ASSERT_TRUE(Ingest("s", Corpus(300)).ok());
  const std::string job = RefreshHeld(other_);
  AwaitEncoding(job);
  const auto ingested = Ingest("s", Corpus(20), {.writes_since = WritesPolicy::kReplay, .encoder_fingerprint = other_->spec().fingerprint.passage});
  ASSERT_TRUE(ingested.ok()) << ingested.status();
  const JobRecord ended = Await(job);
  EXPECT_EQ(ended.state(), JobRecord::STATE_SUCCEEDED) << ended.error_message();
  EXPECT_THAT(ended.result(), HasSubstr(ingested->generation));
  ExpectAllOf(*other_, 20);
}

TEST_F(EncoderRefreshTest, ACancelledOneIsNotTakenUpAndTellsItsDriftOn) {
  StartAll();
  const std::string serving = Ingest("s", Corpus(300))->generation;
  const std::string job = RefreshHeld(other_);
  AwaitEncoding(job);
  const std::string running = *fs_.ReadFile(RefreshPath());
  ASSERT_TRUE(jobs_->Cancel(job).ok());
  EXPECT_EQ(Await(job).state(), JobRecord::STATE_CANCELLED);
  EXPECT_EQ(manager_->GetStore("s")->generation, serving);
  EXPECT_EQ(GenerationCount(), 1u);
  const EncoderDrift told = DriftOf(*base_);
  EXPECT_EQ(told.sample_count, 64);
  StopAll();
  const std::string ended = *fs_.ReadFile(RefreshPath());
  EXPECT_NE(ended, running);
  for (const std::string at : {"rest", "a crash between the ends of job and refresh", "a history that forgot the job"}) {
    ASSERT_TRUE(WriteFileAtomically(fs_, RefreshPath(), at.find("crash") != std::string::npos ? running : ended).ok());
    const bool forgotten = at.find("forgot") != std::string::npos;
    ASSERT_TRUE(!forgotten || fs_.DeleteRecursively(JoinPath(DataDirectory(), "jobs")).ok());
    StartAll();
    refresher_->Resume();
    std::this_thread::sleep_for(std::chrono::milliseconds(30));
    EXPECT_EQ(jobs_->List("s", JobRecord::STATE_CANCELLED, 10).size(), forgotten ? 0u : 1u) << at;
    EXPECT_EQ(jobs_->List("s", JobRecord::STATE_UNSPECIFIED, 10).size(), forgotten ? 0u : 1u) << at;
    EXPECT_EQ(DriftOf(*base_).drift, told.drift) << at;
    if (!forgotten) StopAll();
  }
  // Asked for again it takes over what there is.
  const std::string again = Refresh(other_);
  EXPECT_NE(again, job);
  const JobRecord done = Await(again);
  EXPECT_EQ(done.state(), JobRecord::STATE_SUCCEEDED) << done.error_message();
  EXPECT_GE(Figure(done, "reused"), 64);
}

TEST_F(EncoderRefreshTest, RefusesWhatIsInVainAndLeavesAllAsItWas) {
  StartAll();
  EXPECT_TRUE(absl::IsNotFound(refresher_->Start("s", other_, {}).status()));
  ASSERT_TRUE(manager_->CreateStore("s").ok());
  EXPECT_EQ(ReasonOf(refresher_->Start("s", other_, {}).status()), "NO_ACTIVE_GENERATION");
  ASSERT_TRUE(Ingest("s", Corpus(100)).ok());
  EXPECT_EQ(ReasonOf(refresher_->Start("s", base_, {}).status()), "SAME_ENCODER");
  const auto ingest = *jobs_->Start({.kind = JobKind::kIngest, .store = "s"});
  EXPECT_EQ(ReasonOf(refresher_->Start("s", other_, {}).status()), "JOB_IN_THE_WAY");
  (void)ingest->Finish(absl::OkStatus());
  const auto reembed = *jobs_->Start({.kind = JobKind::kReembed, .store = "s"});
  EXPECT_EQ(ReasonOf(refresher_->Start("s", other_, {}).status()), "JOB_IN_THE_WAY") << "that was asked for by hand";
  (void)reembed->Finish(absl::OkStatus());
  EXPECT_FALSE(fs_.Exists(RefreshPath()));
  EXPECT_EQ(jobs_->List("s", JobRecord::STATE_UNSPECIFIED, 10).size(), 2u);
}

TEST_F(EncoderRefreshTest, AStoreThatIsDeletedMeanwhileEndsIt) {
  StartAll();
  ASSERT_TRUE(Ingest("s", Corpus(300)).ok());
  const std::string job = RefreshHeld(other_);
  AwaitEncoding(job);
  ASSERT_TRUE(manager_->DeleteStore("s").ok());
  refresher_->Forget("s");
  const JobRecord ended = Await(job);
  EXPECT_EQ(ended.state(), JobRecord::STATE_FAILED);
  EXPECT_EQ(ended.error_code(), static_cast<int>(absl::StatusCode::kNotFound)) << ended.error_message();
  EXPECT_FALSE(fs_.Exists(RefreshPath()));
  ASSERT_TRUE(Ingest("s", Corpus(30)).ok());
  EXPECT_EQ(DriftOf(*base_).sample_count, 0) << "that is another store";
  EXPECT_EQ(Await(Refresh(other_)).state(), JobRecord::STATE_SUCCEEDED);
}

TEST_F(EncoderRefreshTest, StoresOfNothingAndEncodersOfOtherDimensionsAreRefreshed) {
  StartAll();
  ASSERT_TRUE(Ingest("s", {MakePassage("only", "alone")}).ok());
  ASSERT_TRUE(manager_->Delete("s", {"only"}).ok());
  EXPECT_EQ(Await(Refresh(other_)).state(), JobRecord::STATE_SUCCEEDED);
  ExpectAllOf(*other_, 0);
  ASSERT_TRUE(manager_->Upsert("s", Corpus(50), {}).ok());
  const std::shared_ptr<TextEncoder> wide = Import(5, 64);
  const std::string job = Refresh(wide);
  EXPECT_EQ(Await(job).state(), JobRecord::STATE_SUCCEEDED) << Record(job).error_message();
  ExpectAllOf(*wide, 50);
  EXPECT_EQ(DriftOf(*other_).sample_count, 0) << "there is no angle between them";
}

TEST_F(EncoderRefreshTest, OneThatIsNotActivatedWaits) {
  StartAll();
  const std::string serving = Ingest("s", Corpus(100))->generation;
  const std::string job = Refresh(other_, /*activate=*/false);
  EXPECT_EQ(Await(job).state(), JobRecord::STATE_SUCCEEDED);
  EXPECT_EQ(manager_->GetStore("s")->generation, serving);
  EXPECT_EQ(DriftOf(*base_).sample_count, 100);
  ASSERT_TRUE(manager_->Activate("s", Record(job).generation(), WritesPolicy::kReplay, false).ok());
  ExpectAllOf(*other_, 100);
}

TEST_F(EncoderRefreshTest, OneThatIsToBeActivatedSupersedesOneThatIsNot) {
  StartAll();
  ASSERT_TRUE(Ingest("s", Corpus(300)).ok());
  const std::string waits = RefreshHeld(other_, /*activate=*/false);
  AwaitEncoding(waits);
  EXPECT_EQ(Refresh(other_, /*activate=*/false), waits);
  const std::string switches = Refresh(other_);
  EXPECT_NE(switches, waits);
  EXPECT_EQ(Await(switches).state(), JobRecord::STATE_SUCCEEDED) << Record(switches).error_message();
  EXPECT_EQ(Record(waits).state(), JobRecord::STATE_CANCELLED);
  ExpectAllOf(*other_, 300);
}

TEST_F(EncoderRefreshTest, OneThatWasCancelledIsNotNamedWhileItEnds) {
  StartAll();
  ASSERT_TRUE(Ingest("s", Corpus(300)).ok());
  const std::string cancelled = RefreshHeld(other_);
  AwaitEncoding(cancelled);
  gate_.Hold(/*held_fast=*/true);
  ASSERT_TRUE(jobs_->Cancel(cancelled).ok());
  const std::string again = Refresh(other_);
  EXPECT_NE(again, cancelled);
  EXPECT_EQ(Record(cancelled).state(), JobRecord::STATE_RUNNING);
  EXPECT_EQ(Await(again).state(), JobRecord::STATE_SUCCEEDED) << Record(again).error_message();
  EXPECT_EQ(Record(cancelled).state(), JobRecord::STATE_CANCELLED);
  ExpectAllOf(*other_, 300);
}

TEST_F(EncoderRefreshTest, OneThatCantBeginLeavesTheOneUnderWay) {
  StartAll();
  ASSERT_TRUE(Ingest("s", Corpus(300)).ok());
  const std::string job = RefreshHeld(other_);
  AwaitEncoding(job);
  const std::string record = *fs_.ReadFile(RefreshPath());
  const std::string jobs = JoinPath(DataDirectory(), "jobs"), away = JoinPath(directory_, "away");
  std::filesystem::rename(jobs, away);
  EXPECT_FALSE(refresher_->Start("s", third_, {}).ok()) << "the job can't be recorded";
  std::filesystem::rename(away, jobs);
  ASSERT_TRUE(fs_.CreateDirectories(RefreshPath() + ".tmp/x").ok());
  EXPECT_FALSE(refresher_->Start("s", third_, {}).ok()) << "the refresh can't be recorded";
  ASSERT_TRUE(fs_.DeleteRecursively(RefreshPath() + ".tmp").ok());
  EXPECT_EQ(*fs_.ReadFile(RefreshPath()), record);
  EXPECT_EQ(jobs_->List("s", JobRecord::STATE_UNSPECIFIED, 10).size(), 1u);
  EXPECT_EQ(Refresh(other_), job);
  EXPECT_EQ(Await(job).state(), JobRecord::STATE_SUCCEEDED) << Record(job).error_message();
  ExpectAllOf(*other_, 300);
}

TEST_F(EncoderRefreshTest, OneThatBeginsWhileTheServerEndsGoesOnAfterwards) {
  StartAll();
  ASSERT_TRUE(Ingest("s", Corpus(300)).ok());
  jobs_->Drain();
  const std::string job = Refresh(other_);
  EXPECT_EQ(Await(job).state(), JobRecord::STATE_INTERRUPTED);
  StopAll();
  StartAll();
  refresher_->Resume();
  Until([&] { return Record(job).state() != JobRecord::STATE_INTERRUPTED; });
  EXPECT_EQ(Await(job).state(), JobRecord::STATE_SUCCEEDED) << Record(job).error_message();
  ExpectAllOf(*other_, 300);
}

TEST_F(EncoderRefreshTest, AKillBeforeTheSwitchLeavesNoGeneration) {
  StartAll();
  ASSERT_TRUE(Ingest("s", Corpus(300)).ok());
  const std::string job = RefreshHeld(other_);
  for (int kills = 0; kills < 2; ++kills) {
    AwaitEncoding(job);
    std::shared_ptr<JobHandle> activation = *jobs_->Start({.kind = JobKind::kActivate, .store = "s"});
    AwaitBuilt(job);
    EXPECT_EQ(GenerationCount(), 2u);
    Kill(&activation);
    EXPECT_EQ(GenerationCount(), 2u);
    gate_.Hold();
    refresher_->Resume();
    Until([&] { return Record(job).state() != JobRecord::STATE_INTERRUPTED; });
  }
  EXPECT_EQ(Await(job).state(), JobRecord::STATE_SUCCEEDED) << Record(job).error_message();
  ExpectAllOf(*other_, 300);
  EXPECT_EQ(GenerationCount(), 2u);
}

TEST_F(EncoderRefreshTest, DriftIsToldAgainstWhatServesOnceThatIsPublishedAgain) {
  StartAll();
  ASSERT_TRUE(Ingest("s", Corpus(300)).ok());
  const std::string job = RefreshHeld(other_);
  AwaitEncoding(job);
  ASSERT_TRUE(jobs_->Cancel(job).ok());
  EXPECT_EQ(Await(job).state(), JobRecord::STATE_CANCELLED);
  Until([&] { return ReasonOf(refresher_->Start("s", base_, {}).status()) == "SAME_ENCODER"; });
  EXPECT_EQ(DriftOf(*base_).sample_count, 0);
  StopAll();
  StartAll();
  refresher_->Resume();
  EXPECT_EQ(DriftOf(*base_).sample_count, 0);
}

TEST_F(EncoderRefreshTest, ADamagedRecordIsLeftOutAndWrittenAnew) {
  StartAll();
  ASSERT_TRUE(Ingest("s", Corpus(100)).ok());
  ASSERT_TRUE(WriteFileAtomically(fs_, RefreshPath(), "nonsense").ok());
  refresher_->Resume();
  EXPECT_EQ(DriftOf(*base_).sample_count, 0);
  EXPECT_EQ(Await(Refresh(other_)).state(), JobRecord::STATE_SUCCEEDED);
  StopAll();
  StartAll();
  refresher_->Resume();
  EXPECT_EQ(DriftOf(*base_).sample_count, 100);
}

TEST(EncoderDriftTable, TellsTheLastFigureOfEachHalfButNotOfTheNewest) {
  EncoderDriftTable drifts;
  drifts.Measured("s", "a", {.5, 10});
  EXPECT_EQ(drifts.Find("s", "a").sample_count, 0) << "nothing was published";
  drifts.Publish("s", "b");
  EXPECT_EQ(drifts.Find("s", "a").drift, .5);
  EXPECT_EQ(drifts.Find("t", "a").sample_count, 0);
  drifts.Publish("s", "a");
  EXPECT_EQ(drifts.Find("s", "a").sample_count, 0);
  drifts.Publish("s", "c");
  drifts.Measured("s", "a", {.6, 20});
  EXPECT_EQ(drifts.Find("s", "a").drift, .6);
  for (int i = 0; i < 40; ++i) drifts.Measured("s", absl::StrCat("h", i), {.1, 1});
  EXPECT_EQ(drifts.Figures("s").size(), EncoderDriftTable::kMaxHalves);
  EXPECT_EQ(drifts.Find("s", "a").sample_count, 0);
  EXPECT_EQ(drifts.Find("s", "h39").sample_count, 1);
  drifts.Forget("s");
  EXPECT_EQ(drifts.Find("s", "h39").sample_count, 0);
}

}  // namespace
}  // namespace loci
