// What an operator can do about damage and too little room, and that none of it keeps the others waiting.
#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "index/forwarding_file_system.h"
#include "retriever/testing/retriever_fixture.h"

namespace loci {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::UnorderedElementsAre;

// Stops what `blocks` names, until it is let go, and says how much memory is left. Thread-safe.
class TestFiles : public ForwardingFileSystem {
 public:
  std::atomic<int64_t> available_kib{-1};  // -1: as it is.
  std::atomic<int> memory_reads{0};        // Since it is not.
  std::atomic<bool> fail_settings{false};
  std::atomic<bool> block_deletions{false};
  std::atomic<bool> block_maps{false};
  std::atomic<int> blocked{0};  // So many wait.

  absl::StatusOr<std::string> ReadFile(const std::string& path) override {
    if (path == "/proc/meminfo" && available_kib >= 0) {
      ++memory_reads;
      return absl::StrCat("MemAvailable:  ", available_kib.load(), " kB\n");
    }
    return ForwardingFileSystem::ReadFile(path);
  }
  absl::StatusOr<std::unique_ptr<WritableFile>> NewWritableFile(const std::string& path) override {
    if (fail_settings && absl::StrContains(path, "SETTINGS")) return absl::ResourceExhaustedError("no space is left");
    return ForwardingFileSystem::NewWritableFile(path);
  }
  absl::StatusOr<std::unique_ptr<MappedFile>> Map(const std::string& path) override {
    if (absl::EndsWith(path, "/vectors.bin")) BlockWhile(block_maps);
    return ForwardingFileSystem::Map(path);
  }
  absl::Status DeleteRecursively(const std::string& path) override {
    if (absl::StrContains(path, "/.deleted-")) BlockWhile(block_deletions);
    return ForwardingFileSystem::DeleteRecursively(path);
  }

 private:
  void BlockWhile(const std::atomic<bool>& condition) {
    if (!condition) return;
    ++blocked;
    while (condition) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    --blocked;
  }
};

class GenerationRepairTest : public RetrieverFixture {
 protected:
  ~GenerationRepairTest() override { manager_.reset(); }  // Before the files.

  void StartOverFiles(int64_t memory_wait_us = 0) {
    Start();
    manager_.reset();
    auto manager = GenerationManager::Open({.data_directory = DataDirectory(),
                                            .fs = &files_,
                                            .encoders = registry_.get(),
                                            .search_pool = &pool_,
                                            .memory_wait_us = memory_wait_us});
    ASSERT_TRUE(manager.ok()) << manager.status();
    manager_ = *std::move(manager);
  }
  std::string Add(const std::string& id, const std::string& text, bool activate = true) {
    return Ingest("s", {MakePassage(id, text)}, {.activate = activate, .writes_since = WritesPolicy::kReplay})->generation;
  }
  GenerationInfo InfoOf(const std::string& generation) {
    const GenerationList list = *manager_->ListGenerations("s");
    for (const GenerationInfo& info : list.generations) {
      if (info.manifest.generation() == generation) return info;
    }
    return {};
  }
  static std::string ReasonOf(const absl::Status& status) {
    const auto reason = GetErrorReason(status);
    return reason.has_value() ? reason->reason : "";
  }
  std::string StorePath(const std::string& name = "") const { return JoinPath(JoinPath(DataDirectory(), "stores/s"), name); }
  void Overwrite(const std::string& name, const std::string& content) {
    auto file = fs_.NewWritableFile(StorePath(name));
    ASSERT_TRUE(file.ok() && (*file)->Append(content).ok() && (*file)->Close().ok());
  }
  static bool WaitFor(const std::function<bool()>& condition) {
    for (int i = 0; i < 5'000 && !condition(); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(2));
    return condition();
  }

  TestFiles files_;
};

TEST_F(GenerationRepairTest, AStoreWithADamagedCurrentSaysSoAndServesAgainWhatIsActivated) {
  Start();
  const std::string a = Add("a", "one");
  ASSERT_TRUE(manager_->Upsert("s", {MakePassage("b", "two")}, {}).ok());
  Stop();
  Overwrite("CURRENT", "nonsense");
  Start();
  EXPECT_EQ(manager_->Capture("s", "").status().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(manager_->TryCapture("s", "").status().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(manager_->Upsert("s", {MakePassage("c", "three")}, {}).status().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(manager_->Delete("s", {"b"}).status().code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(manager_->GetStore("s")->error, HasSubstr("CURRENT"));
  EXPECT_EQ(manager_->ListGenerations("s")->generations.size(), 1u);
  EXPECT_EQ(ReasonOf(manager_->DeleteGeneration("s", a)), "ACTIVE_GENERATION_UNKNOWN");
  EXPECT_EQ(ReasonOf(manager_->Activate("s", a, WritesPolicy::kRefuse, false).status()), "WRITES_SINCE");
  const auto activated = manager_->Activate("s", a, WritesPolicy::kReplay, false);
  ASSERT_TRUE(activated.ok()) << activated.status();
  EXPECT_EQ(SearchIds("s", "two", 5).size(), 2u);
  EXPECT_EQ(manager_->GetStore("s")->error, "");
  Stop();
  Overwrite("CURRENT", "nonsense");
  Start();
  ASSERT_TRUE(manager_->DeleteStore("s").ok());
  EXPECT_EQ(manager_->GetStore("s").status().code(), absl::StatusCode::kNotFound);
}

TEST_F(GenerationRepairTest, GenerationsWhoseManifestCannotBeReadAreListedAsFailedAndCanBeDeleted) {
  Start();
  const std::string a = Add("a", "one"), b = Add("b", "two"), c = Add("c", "three");
  Overwrite(b + "/MANIFEST", "nonsense");
  for (const bool restarted : {false, true}) {
    if (restarted) {
      Stop();
      Start();
    }
    const GenerationList list = *manager_->ListGenerations("s");
    std::vector<std::string> ids;
    for (const GenerationInfo& info : list.generations) ids.push_back(info.manifest.generation());
    EXPECT_THAT(ids, UnorderedElementsAre(a, b, c));
    EXPECT_EQ(InfoOf(b).state, GenerationState::kFailed);
    EXPECT_THAT(InfoOf(b).detail, HasSubstr("MANIFEST"));
    EXPECT_EQ(manager_->Activate("s", b, WritesPolicy::kReplay, false).status().code(), absl::StatusCode::kDataLoss);
  }
  ASSERT_TRUE(manager_->DeleteGeneration("s", b).ok());
  EXPECT_EQ(InfoOf(b).manifest.generation(), "");
  EXPECT_FALSE(fs_.Exists(StorePath(b)));
  EXPECT_EQ(manager_->DeleteGeneration("s", b).code(), absl::StatusCode::kNotFound);
}

TEST_F(GenerationRepairTest, AnUpsertReplacesNoCorpusWhoseManifestCannotBeRead) {
  Start();
  const std::string a = Add("a", "one", /*activate=*/false);
  Overwrite(a + "/MANIFEST", "nonsense");
  EXPECT_EQ(ReasonOf(manager_->Upsert("s", {MakePassage("b", "two")}, {}).status()), "NO_ACTIVE_GENERATION");
}

TEST_F(GenerationRepairTest, AStoreThatCouldNotBeCreatedLeavesNothing) {
  StartOverFiles();
  files_.fail_settings = true;
  EXPECT_EQ(manager_->CreateStore("s", 3).status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_FALSE(fs_.Exists(StorePath()));
  EXPECT_EQ(manager_->GetStore("s").status().code(), absl::StatusCode::kNotFound);
  files_.fail_settings = false;
  EXPECT_TRUE(manager_->CreateStore("s", 3).ok());
}

TEST_F(GenerationRepairTest, RetentionKeepsNobodyWaitingForFilesToBeDeleted) {
  StartOverFiles();
  const std::string a = Add("a", "one"), b = Add("b", "two");
  ASSERT_TRUE(WaitFor([&] { return InfoOf(a).state == GenerationState::kRetired; }));
  files_.block_deletions = true;
  ASSERT_TRUE(manager_->UpdateStore("s", 1).ok());
  const std::string c = Add("c", "three");  // Deletes a.
  EXPECT_TRUE(WaitFor([&] { return files_.blocked.load() == 1; }));
  EXPECT_EQ(InfoOf(a).manifest.generation(), "") << "it is gone, but for its files";
  EXPECT_TRUE(manager_->Upsert("s", {MakePassage("d", "four")}, {}).ok());
  EXPECT_TRUE(manager_->Activate("s", b, WritesPolicy::kReplay, false).ok());
  EXPECT_TRUE(fs_.Exists(StorePath(absl::StrCat(".deleted-", a))));
  files_.block_deletions = false;
  EXPECT_TRUE(WaitFor([&] { return !fs_.Exists(StorePath(absl::StrCat(".deleted-", a))); }));
}

TEST_F(GenerationRepairTest, WhatDrainsIsFreedBesideALongLoad) {
  StartOverFiles();
  ASSERT_TRUE(manager_->CreateStore("s", 3).ok());
  const std::string a = Add("a", "one");
  std::shared_ptr<const ServingSet> holds_a = *manager_->Capture("s", "");
  const std::string b = Add("b", "two");
  std::shared_ptr<const ServingSet> holds_b = *manager_->Capture("s", "");
  Add("c", "three");
  const std::string d = Add("d", "four", /*activate=*/false);
  files_.block_maps = true;
  std::thread loading([&] { EXPECT_TRUE(manager_->Activate("s", d, WritesPolicy::kReplay, false).ok()); });
  EXPECT_TRUE(WaitFor([&] { return files_.blocked.load() == 1; }));
  holds_a.reset();
  EXPECT_TRUE(WaitFor([&] { return InfoOf(a).state == GenerationState::kRetired; }));
  holds_b.reset();
  EXPECT_TRUE(WaitFor([&] { return InfoOf(b).state == GenerationState::kRetired; })) << "the first one's retention waits for the load";
  files_.block_maps = false;
  loading.join();
}

TEST_F(GenerationRepairTest, AnActivationThatDoesNotFitIsRefusedWithFigures) {
  StartOverFiles();
  const std::string a = Add("a", "one"), b = Add("b", "two", /*activate=*/false);
  files_.available_kib = 0;
  for (const bool dry_run : {true, false}) {
    const auto refused = manager_->Activate("s", b, WritesPolicy::kRefuse, dry_run);
    EXPECT_EQ(refused.status().code(), absl::StatusCode::kResourceExhausted);
    EXPECT_EQ(ReasonOf(refused.status()), "MEMORY");
    EXPECT_EQ(GetErrorReason(refused.status())->metadata["available_bytes"], "0");
    EXPECT_GT(std::stoll(GetErrorReason(refused.status())->metadata["needed_bytes"]), 0);
  }
  EXPECT_THAT(manager_->PlanActivation("s", b)->blockers, ElementsAre(HasSubstr("MEMORY")));
  EXPECT_EQ(manager_->GetStore("s")->generation, a);
  EXPECT_EQ(InfoOf(b).state, GenerationState::kReady);
  EXPECT_TRUE(manager_->Activate("s", a, WritesPolicy::kRefuse, false).ok()) << "what serves needs nothing more";
  files_.available_kib = 1 << 20;
  EXPECT_TRUE(manager_->Activate("s", b, WritesPolicy::kRefuse, false).ok());
}

TEST_F(GenerationRepairTest, ABudgetCountsWhatIsOpen) {
  Start();
  const std::string a = Add("a", "one"), b = Add("b", "two", /*activate=*/false);
  const auto open = [&](int64_t budget_bytes) {
    manager_.reset();
    testing::internal::CaptureStderr();
    auto manager = GenerationManager::Open({.data_directory = DataDirectory(),
                                            .encoders = registry_.get(),
                                            .search_pool = &pool_,
                                            .memory_budget_bytes = budget_bytes});
    const std::string log = testing::internal::GetCapturedStderr();
    EXPECT_TRUE(manager.ok()) << manager.status();
    manager_ = *std::move(manager);
    EXPECT_EQ(manager_->GetStore("s")->generation, a) << "what served is served again";
    return log;
  };
  EXPECT_THAT(open(int64_t{1} << 40), Not(HasSubstr("memory_budget_bytes")));
  EXPECT_THAT(open(1), HasSubstr("memory_budget_bytes is 1,")) << "and the log says what that goes beyond";
  const auto refused = manager_->Activate("s", b, WritesPolicy::kRefuse, false);
  EXPECT_EQ(ReasonOf(refused.status()), "MEMORY");
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr("the budget is 1"));
}

TEST_F(GenerationRepairTest, ARequestOpensAnotherGenerationWithinTheBudgetOnly) {
  Start();
  const std::string a = Add("a", "one"), b = Add("b", "two", /*activate=*/false), c = Add("c", "six", /*activate=*/false);
  const int64_t needed_bytes = std::max(manager_->PlanActivation("s", b)->need.most_bytes(), manager_->PlanActivation("s", c)->need.most_bytes());
  const auto open = [&](int64_t budget_bytes) {
    manager_.reset();
    auto manager = GenerationManager::Open({.data_directory = DataDirectory(),
                                            .encoders = registry_.get(),
                                            .search_pool = &pool_,
                                            .memory_budget_bytes = budget_bytes,
                                            .memory_wait_us = 100'000});
    ASSERT_TRUE(manager.ok()) << manager.status();
    manager_ = *std::move(manager);
  };
  open(1);
  EXPECT_EQ(ReasonOf(manager_->Capture("s", b).status()), "MEMORY");
  EXPECT_EQ((*manager_->Capture("s", ""))->view->generation().id(), a);
  open(int64_t{1} << 40);
  const int64_t serving_bytes = (*manager_->Capture("s", ""))->view->generation().most_memory_bytes();
  const int64_t opened_bytes = (*manager_->Capture("s", b))->view->generation().most_memory_bytes();
  ASSERT_GT(opened_bytes, 100);
  open(serving_bytes + needed_bytes + opened_bytes / 2);
  {
    const auto held = manager_->Capture("s", b);
    ASSERT_TRUE(held.ok()) << held.status();
    EXPECT_EQ(ReasonOf(manager_->Capture("s", c).status()), "MEMORY") << "b is held";
  }
  ASSERT_TRUE(WaitFor([&] { return manager_->Capture("s", c).ok(); }));
  EXPECT_EQ(*manager_->TryCapture("s", b), nullptr) << "closed, so that c fits";
  EXPECT_TRUE(manager_->Capture("s", b).ok()) << "in the place of c";
  EXPECT_EQ(*manager_->TryCapture("s", c), nullptr);
}

TEST_F(GenerationRepairTest, AnActivationWaitsForWhatDrains) {
  StartOverFiles(/*memory_wait_us=*/60'000'000);
  Add("a", "one");
  const std::shared_ptr<const ServingSet> held = *manager_->Capture("s", "");
  Add("b", "two");
  const std::string c = Add("c", "three", /*activate=*/false);
  files_.available_kib = 0;
  std::atomic<bool> done{false};
  std::thread activating([&] {
    EXPECT_TRUE(manager_->Activate("s", c, WritesPolicy::kRefuse, false).ok());
    done = true;
  });
  EXPECT_TRUE(WaitFor([&] { return files_.memory_reads.load() >= 3; }));
  EXPECT_FALSE(done);
  files_.available_kib = 1 << 20;  // As when what is held went.
  activating.join();
  EXPECT_EQ(manager_->GetStore("s")->generation, c);
}

TEST_F(GenerationRepairTest, AnActivationTakesWhatARequestHasOpened) {
  Start();
  const std::string a = Add("a", "one"), b = Add("b", "two");
  ASSERT_TRUE(WaitFor([&] { return InfoOf(a).state == GenerationState::kRetired; }));
  const auto named = manager_->Capture("s", a);
  ASSERT_TRUE(named.ok()) << named.status();
  const std::string content = *fs_.ReadFile(StorePath(a + "/MANIFEST"));
  ASSERT_TRUE(manager_->Activate("s", a, WritesPolicy::kRefuse, false).ok());
  EXPECT_EQ((*manager_->Capture("s", ""))->view->shared_generation(), (*named)->view->shared_generation()) << "it is not loaded again";
  EXPECT_EQ(manager_->TryCapture("s", a).value(), *manager_->Capture("s", ""));
  // And then it drains as any other.
  ASSERT_TRUE(manager_->Activate("s", b, WritesPolicy::kRefuse, false).ok());
  EXPECT_EQ(InfoOf(a).state, GenerationState::kDraining);
}

TEST_F(GenerationRepairTest, WhatARequestHadOpenedDrainsOnceItServedNoMore) {
  Start();
  const std::string a = Add("a", "one"), b = Add("b", "two");
  ASSERT_TRUE(manager_->Capture("s", a).ok());
  ASSERT_TRUE(manager_->Activate("s", a, WritesPolicy::kRefuse, false).ok());
  ASSERT_TRUE(manager_->Activate("s", b, WritesPolicy::kRefuse, false).ok());
  EXPECT_TRUE(WaitFor([&] { return InfoOf(a).state == GenerationState::kRetired; }));
}

TEST_F(GenerationRepairTest, ADryRunSaysHowManyWritesMustBeEncoded) {
  Start();
  Add("a", "one");
  ASSERT_TRUE(WriteTinyCheckpoint(fs_, CheckpointDirectory(2), {.seed = 2}).ok());
  const auto other = registry_->Import(CheckpointDirectory(2));
  ASSERT_TRUE(other.ok()) << other.status();
  const auto built = Ingest("s", {MakePassage("b", "two")},
                            {.activate = false, .encoder_fingerprint = (*other)->spec().fingerprint.passage});
  ASSERT_TRUE(built.ok()) << built.status();
  ASSERT_TRUE(manager_->Upsert("s", {MakePassage("c", "three")}, {}).ok());
  for (const bool dry_run : {true, false}) {
    const auto activated = manager_->Activate("s", built->generation, WritesPolicy::kReplay, dry_run);
    ASSERT_TRUE(activated.ok()) << activated.status();
    EXPECT_EQ(activated->encoded_count, 1);
  }
  EXPECT_EQ(manager_->Activate("s", built->generation, WritesPolicy::kDiscard, /*dry_run=*/true)->encoded_count, 0);
}

}  // namespace
}  // namespace loci
