#include "retriever/auto_folder.h"

#include <chrono>
#include <functional>
#include <thread>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "index/store_testing.h"
#include "retriever/testing/retriever_fixture.h"

namespace loci {
namespace {

using storage::JobRecord;

TEST(IsPastLimits, EachIsALimitOfItsOwn) {
  OverlayInfo overlay{.change_count = 50'001, .body_count = 250'000, .memory_bytes = 1'000};
  EXPECT_FALSE(IsPastLimits(overlay, {}));
  EXPECT_TRUE(IsPastLimits(overlay, {.max_overlay_passages = 50'000}));
  EXPECT_FALSE(IsPastLimits(overlay, {.max_overlay_passages = 50'001}));
  EXPECT_TRUE(IsPastLimits(overlay, {.max_overlay_share = 0.2}));
  EXPECT_FALSE(IsPastLimits(overlay, {.max_overlay_share = 0.21}));
  EXPECT_TRUE(IsPastLimits(overlay, {.max_overlay_bytes = 999}));
  EXPECT_FALSE(IsPastLimits(overlay, {.max_overlay_passages = 60'000, .max_overlay_share = 0.3, .max_overlay_bytes = 1'000}));
  overlay.body_count = 10;
  EXPECT_TRUE(IsPastLimits(overlay, {.max_overlay_share = 0.5}));
  EXPECT_FALSE(IsPastLimits(overlay, {.max_overlay_share = 0.6})) << "a small body counts as 100,000";
  EXPECT_FALSE(IsPastLimits({.memory_bytes = 1'000}, {.max_overlay_bytes = 1})) << "there is nothing to fold";
}

class AutoFolderTest : public RetrieverFixture {
 protected:
  void StartAll(FileSystem& fs, FoldLimits limits) {
    Start();
    manager_.reset();
    auto manager = GenerationManager::Open(
        {.data_directory = DataDirectory(), .fs = &fs, .encoders = registry_.get(), .search_pool = &pool_});
    ASSERT_TRUE(manager.ok()) << manager.status();
    manager_ = *std::move(manager);
    auto jobs = JobRegistry::Open({.directory = JoinPath(DataDirectory(), "jobs")});
    ASSERT_TRUE(jobs.ok()) << jobs.status();
    jobs_ = *std::move(jobs);
    limits_ = limits;
  }
  ~AutoFolderTest() override {
    folder_.reset();
    jobs_.reset();
    Stop();  // Before the disk.
  }
  void StartFolder() {
    folder_ = std::make_unique<AutoFolder>(
        AutoFolder::Options{.manager = manager_.get(), .jobs = jobs_.get(), .clock = &clock_, .limits = limits_, .poll_ms = 1});
  }
  void Upsert(const std::string& store, int count) {
    for (int i = 0; i < count; ++i) {
      const auto upserted = manager_->Upsert(store, {MakePassage(absl::StrCat("p", i), absl::StrCat("text ", i))}, {});
      ASSERT_TRUE(upserted.ok()) << upserted.status();
    }
  }
  size_t FoldCount(JobRecord::State state) { return jobs_->List("", state, 1'000).size(); }
  static bool WaitFor(const std::function<bool()>& condition) {
    for (int i = 0; i < 15'000 && !condition(); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(2));
    return condition();
  }
  int64_t OverlayCount(const std::string& store) { return manager_->GetStore(store)->overlay_count; }

  FaultyFileSystem disk_;
  FakeClock clock_{1'000'000};
  FoldLimits limits_;
  std::unique_ptr<JobRegistry> jobs_;
  std::unique_ptr<AutoFolder> folder_;
};

TEST_F(AutoFolderTest, FoldsTheStoresThatArePastALimitAndNoOthers) {
  StartAll(fs_, {.max_overlay_passages = 4});
  ASSERT_TRUE(manager_->CreateStore("a").ok());
  ASSERT_TRUE(manager_->CreateStore("b").ok());
  Upsert("a", 5);
  Upsert("b", 4);
  StartFolder();
  ASSERT_TRUE(WaitFor([&] { return OverlayCount("a") == 0; }));
  ASSERT_TRUE(WaitFor([&] { return FoldCount(JobRecord::STATE_SUCCEEDED) == 1; }));
  EXPECT_EQ(OverlayCount("b"), 4);
  EXPECT_EQ(manager_->GetStore("a")->passage_count, 5);
  const JobInfo job = jobs_->List("", JobRecord::STATE_UNSPECIFIED, 1).front();
  EXPECT_EQ(job.record.kind(), "fold");
  EXPECT_EQ(job.record.store(), "a");
  EXPECT_EQ(job.record.generation(), manager_->GetStore("a")->generation);
  // Deletions in the body count as well.
  std::vector<std::string> ids;
  for (int i = 0; i < 5; ++i) ids.push_back(absl::StrCat("p", i));
  ASSERT_TRUE(manager_->Delete("a", ids).ok());
  ASSERT_TRUE(WaitFor([&] { return FoldCount(JobRecord::STATE_SUCCEEDED) == 2; }));
  EXPECT_EQ(manager_->GetStore("a")->passage_count, 0);
}

TEST_F(AutoFolderTest, WaitsWhileAnIngestRuns) {
  StartAll(fs_, {.max_overlay_passages = 1});
  ASSERT_TRUE(manager_->CreateStore("a").ok());
  Upsert("a", 3);
  auto ingest = *jobs_->Start({.kind = JobKind::kIngest, .store = "a"});
  StartFolder();
  std::this_thread::sleep_for(std::chrono::milliseconds(20));  // Some looks. (A slow machine sees fewer of them: nothing fails for it.)
  EXPECT_EQ(OverlayCount("a"), 3);
  ASSERT_TRUE(ingest->Finish(absl::OkStatus()).ok());
  EXPECT_TRUE(WaitFor([&] { return OverlayCount("a") == 0; }));
}

TEST_F(AutoFolderTest, LeavesAStoreAloneAfterAFailureForLongerEachTime) {
  FaultyFileSystem& disk = disk_;
  StartAll(disk, {.max_overlay_passages = 1});
  ASSERT_TRUE(manager_->CreateStore("a").ok());
  Upsert("a", 3);
  disk.fail_from = 0;
  StartFolder();
  ASSERT_TRUE(WaitFor([&] { return FoldCount(JobRecord::STATE_FAILED) == 1; }));
  clock_.Advance(59'000'000);
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_EQ(FoldCount(JobRecord::STATE_FAILED), 1u);
  clock_.Advance(2'000'000);
  ASSERT_TRUE(WaitFor([&] { return FoldCount(JobRecord::STATE_FAILED) == 2; }));
  clock_.Advance(61'000'000);
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_EQ(FoldCount(JobRecord::STATE_FAILED), 2u) << "twice as long";
  disk.Heal();
  clock_.Advance(60'000'000);
  EXPECT_TRUE(WaitFor([&] { return OverlayCount("a") == 0; }));
}

TEST_F(AutoFolderTest, ItsEndEndsWhatItBegan) {
  StartAll(fs_, {.max_overlay_passages = 1});
  for (int round = 0; round < 5; ++round) {
    const std::string store = absl::StrCat("s", round);
    ASSERT_TRUE(manager_->CreateStore(store).ok());
    Upsert(store, 3);
    StartFolder();
    if (round > 0) {
      ASSERT_TRUE(WaitFor([&] { return !jobs_->List("", JobRecord::STATE_UNSPECIFIED, 1).empty(); }));
    }
    folder_.reset();
    EXPECT_EQ(FoldCount(JobRecord::STATE_RUNNING), 0u);
    EXPECT_EQ(manager_->GetStore(store)->passage_count, 3);
  }
}

}  // namespace
}  // namespace loci
