// Activations that free what serves first.
#include <algorithm>
#include <atomic>
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
using ::testing::IsEmpty;

constexpr auto kInPlace = ActivationStrategy::kInPlace;

class TestFiles : public ForwardingFileSystem {
 public:
  std::atomic<bool> fail_maps{false};  // Of vectors, with what is no damage.
  absl::StatusOr<std::unique_ptr<MappedFile>> Map(const std::string& path) override {
    if (fail_maps && absl::EndsWith(path, "/vectors.bin")) return absl::ResourceExhaustedError("too many open files");
    return ForwardingFileSystem::Map(path);
  }
};

class ActivationInPlaceTest : public RetrieverFixture {
 protected:
  ~ActivationInPlaceTest() override { manager_.reset(); }  // Before the files.

  // Two generations of store "s", of which the first serves with a write over it.
  void SetUp() override {
    Start();
    first_ = Ingest("s", {MakePassage("a", "one"), MakePassage("b", "two")})->generation;
    second_ = Ingest("s", {MakePassage("c", "three")}, {.activate = false})->generation;
    ASSERT_TRUE(manager_->Upsert("s", {MakePassage("w", "written")}, {}).ok());
    Open();
  }
  void Open(int64_t budget_bytes = 0, int64_t wait_us = 60'000'000) {
    manager_.reset();
    auto manager = GenerationManager::Open({.data_directory = DataDirectory(),
                                            .fs = &files_,
                                            .encoders = registry_.get(),
                                            .search_pool = &pool_,
                                            .memory_budget_bytes = budget_bytes,
                                            .memory_wait_us = wait_us});
    ASSERT_TRUE(manager.ok()) << manager.status();
    manager_ = *std::move(manager);
  }
  // With which either fits and both don't.
  int64_t BudgetForOne() {
    const std::shared_ptr<const View> view = (*manager_->Capture("s", ""))->view;
    const int64_t serving = view->generation().most_memory_bytes() + view->overlay_memory_bytes();
    return std::max(serving, manager_->PlanActivation("s", second_)->need.most_bytes());
  }
  static std::string ReasonOf(const absl::Status& status) {
    const auto reason = GetErrorReason(status);
    return reason.has_value() ? reason->reason : "";
  }
  std::vector<std::string> Ids() { return Sorted(SearchIds("s", "one", 10)); }
  static std::vector<std::string> Sorted(std::vector<std::string> ids) {
    std::sort(ids.begin(), ids.end());
    return ids;
  }
  GenerationState StateOf(const std::string& generation) {
    const GenerationList list = *manager_->ListGenerations("s");
    for (const GenerationInfo& info : list.generations) {
      if (info.manifest.generation() == generation) return info.state;
    }
    return GenerationState::kFailed;
  }
  // What served is as it was, and takes writes.
  void ExpectFirstServes() {
    EXPECT_EQ(manager_->GetStore("s")->generation, first_);
    EXPECT_THAT(Ids(), ElementsAre("a", "b", "w"));
    EXPECT_EQ(StateOf(first_), GenerationState::kServing);
    const int64_t revision = manager_->GetStore("s")->revision;
    const auto written = manager_->Upsert("s", {MakePassage("x", "later")}, {});
    ASSERT_TRUE(written.ok()) << written.status();
    EXPECT_GT(written->revision, revision);
    EXPECT_THAT(Ids(), ElementsAre("a", "b", "w", "x"));
  }

  TestFiles files_;
  std::string first_, second_;
};

TEST_F(ActivationInPlaceTest, SucceedsWhereBothDoNotFitAndSoDoesTheRollBack) {
  Open(BudgetForOne(), /*wait_us=*/0);
  const auto both = manager_->Activate("s", second_, WritesPolicy::kReplay, false);
  EXPECT_EQ(ReasonOf(both.status()), "MEMORY") << both.status();
  EXPECT_THAT(manager_->PlanActivation("s", second_, WritesPolicy::kReplay)->blockers, testing::Contains(testing::StartsWith("MEMORY: ")));
  EXPECT_THAT(manager_->PlanActivation("s", second_, WritesPolicy::kReplay, kInPlace)->blockers, IsEmpty());

  std::vector<std::string> phases;
  const OperationControl control{.progress = [&](std::string_view phase, int64_t, int64_t) {
    if (phases.empty() || phases.back() != phase) phases.emplace_back(phase);
  }};
  const int64_t revision = manager_->GetStore("s")->revision;
  {
    const auto activated = manager_->Activate("s", second_, WritesPolicy::kReplay, false, control, kInPlace);
    ASSERT_TRUE(activated.ok()) << activated.status();
    EXPECT_EQ(activated->previous_generation, first_);
    EXPECT_EQ(activated->writes_since_count, 1);
    EXPECT_GT(activated->view->revision(), revision);
  }
  EXPECT_THAT(phases, ElementsAre("verifying", "draining", "loading", "warming", "publishing"));
  EXPECT_THAT(Ids(), ElementsAre("c", "w"));
  EXPECT_EQ(StateOf(first_), GenerationState::kRetired);

  EXPECT_EQ(ReasonOf(manager_->Rollback("s", WritesPolicy::kReplay, false).status()), "MEMORY");
  const auto back = manager_->Rollback("s", WritesPolicy::kReplay, false, {}, /*expected_active=*/second_, kInPlace);
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(back->generation, first_);
  EXPECT_THAT(Ids(), ElementsAre("a", "b", "w"));
  Open();  // A restart.
  ExpectFirstServes();
}

TEST_F(ActivationInPlaceTest, WhatCanNotFitEvenAloneIsRefusedBeforeAnythingIsFreed) {
  Open(1);
  const auto held = *manager_->Capture("s", "");
  const auto refused = manager_->Activate("s", second_, WritesPolicy::kReplay, false, {}, kInPlace);
  EXPECT_EQ(ReasonOf(refused.status()), "MEMORY");
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr("the budget is 1"));
  EXPECT_EQ(*manager_->Capture("s", ""), held);
  EXPECT_EQ(ReasonOf(manager_->Activate("s", second_, WritesPolicy::kRefuse, false, {}, kInPlace).status()), "WRITES_SINCE");
  EXPECT_EQ(*manager_->Capture("s", ""), held);
}

TEST_F(ActivationInPlaceTest, DamageIsFoundBeforeAnythingIsFreed) {
  const std::string path = JoinPath(DataDirectory(), absl::StrCat("stores/s/", second_, "/vectors.bin"));
  std::string content = *fs_.ReadFile(path);
  content.back() ^= 1;
  auto file = fs_.NewWritableFile(path);
  ASSERT_TRUE(file.ok() && (*file)->Append(content).ok() && (*file)->Close().ok());
  const auto held = *manager_->Capture("s", "");
  for (const bool dry_run : {true, false}) {
    EXPECT_EQ(manager_->Activate("s", second_, WritesPolicy::kReplay, dry_run, {}, kInPlace).status().code(), absl::StatusCode::kDataLoss);
    EXPECT_EQ(*manager_->Capture("s", ""), held);
    EXPECT_EQ(StateOf(second_), GenerationState::kFailed);
  }
}

TEST_F(ActivationInPlaceTest, ADryRunChecksAndFreesNothing) {
  Open(BudgetForOne(), /*wait_us=*/0);
  const auto held = *manager_->Capture("s", "");
  const auto dry = manager_->Activate("s", second_, WritesPolicy::kReplay, /*dry_run=*/true, {}, kInPlace);
  ASSERT_TRUE(dry.ok()) << dry.status();
  EXPECT_EQ(dry->previous_generation, first_);
  EXPECT_EQ(dry->writes_since_count, 1);
  EXPECT_EQ(*manager_->Capture("s", ""), held);
}

TEST_F(ActivationInPlaceTest, RequestsMeanwhileAreToldToComeAgainAndOthersStoresServe) {
  ASSERT_TRUE(Ingest("other", {MakePassage("o", "other")}).ok());
  int looked = 0;
  const OperationControl control{.progress = [&](std::string_view phase, int64_t, int64_t) {
    if (phase != "warming" && phase != "publishing") return;
    ++looked;
    for (const absl::Status& status : {manager_->TryCapture("s", "").status(), manager_->Capture("s", "").status(),
                                       manager_->Upsert("s", {MakePassage("x", "ex")}, {}).status(), manager_->Delete("s", {"a"}).status()}) {
      EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
      EXPECT_EQ(ReasonOf(status), "SWITCHING");
      EXPECT_GE(std::stoll(GetErrorReason(status)->metadata["retry_after_ms"]), 1);
    }
    EXPECT_EQ(SearchIds("other", "other", 1), std::vector<std::string>{"o"});
    EXPECT_EQ(manager_->GetStore("s")->generation, "");
  }};
  ASSERT_TRUE(manager_->Activate("s", second_, WritesPolicy::kReplay, false, control, kInPlace).ok());
  EXPECT_EQ(looked, 2);
  EXPECT_THAT(Ids(), ElementsAre("c", "w"));
  EXPECT_EQ(manager_->ListGenerations("s")->generations.size(), 2u) << "no empty generation was made for the upsert";
}

TEST_F(ActivationInPlaceTest, WaitsForRequestsInFlight) {
  std::shared_ptr<const ServingSet> held = *manager_->Capture("s", "");
  std::thread request;
  const OperationControl control{.progress = [&](std::string_view phase, int64_t, int64_t) {
    if (phase != "draining") return;
    request = std::thread([&] {
      while (manager_->TryCapture("s", "").ok()) std::this_thread::yield();
      EXPECT_EQ(StateOf(second_), GenerationState::kReady) << "it is loaded once this one is freed";
      held.reset();
    });
  }};
  EXPECT_TRUE(manager_->Activate("s", second_, WritesPolicy::kReplay, false, control, kInPlace).ok());
  request.join();
  EXPECT_THAT(Ids(), ElementsAre("c", "w"));
}

TEST_F(ActivationInPlaceTest, WhatIsHeldTooLongServesOn) {
  Open(0, /*wait_us=*/0);
  {
    const auto held = *manager_->Capture("s", "");
    const auto refused = manager_->Activate("s", second_, WritesPolicy::kReplay, false, {}, kInPlace);
    EXPECT_EQ(refused.status().code(), absl::StatusCode::kResourceExhausted);
    EXPECT_EQ(ReasonOf(refused.status()), "HELD");
    EXPECT_EQ(*manager_->Capture("s", ""), held) << "it was not loaded anew";
  }
  ExpectFirstServes();
}

TEST_F(ActivationInPlaceTest, AWriteWhileItIsVerifiedRefusesItBeforeAnythingIsFreed) {
  const std::string third = Ingest("s", {MakePassage("d", "four")}, {.activate = false})->generation;
  std::vector<std::string> phases;
  bool wrote = false;
  const OperationControl control{.progress = [&](std::string_view phase, int64_t, int64_t) {
    phases.emplace_back(phase);
    if (phase != "verifying" || wrote) return;
    wrote = true;
    EXPECT_TRUE(manager_->Upsert("s", {MakePassage("late", "late")}, {}).ok());
  }};
  EXPECT_EQ(ReasonOf(manager_->Activate("s", third, WritesPolicy::kRefuse, false, control, kInPlace).status()), "WRITES_SINCE");
  EXPECT_EQ(phases.back(), "draining");
  EXPECT_THAT(Ids(), ElementsAre("a", "b", "late", "w"));
}

TEST_F(ActivationInPlaceTest, ABuildThatHoldsWhatServesRefusesItAtOnce) {
  const auto held = *manager_->Capture("s", "");
  const EncoderSpec& spec = (*registry_->Get(""))->spec();
  const auto builder = manager_->NewGeneration("s", {.dim = spec.dim,
                                                     .query_fingerprint = spec.fingerprint.query,
                                                     .passage_fingerprint = spec.fingerprint.passage,
                                                     .base_revision = -1});
  ASSERT_TRUE(builder.ok()) << builder.status();
  EXPECT_EQ(ReasonOf(manager_->Activate("s", second_, WritesPolicy::kReplay, false, {}, kInPlace).status()), "HELD");
  EXPECT_EQ(*manager_->Capture("s", ""), held);
}

TEST_F(ActivationInPlaceTest, ALoadThatFailsBringsBackWhatServed) {
  std::vector<std::string> phases;
  const OperationControl control{.progress = [&](std::string_view phase, int64_t, int64_t) {
    files_.fail_maps = phase == "loading";
    phases.emplace_back(phase);
  }};
  const auto failed = manager_->Activate("s", second_, WritesPolicy::kReplay, false, control, kInPlace);
  EXPECT_EQ(failed.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(failed.status().message()), testing::AllOf(HasSubstr("too many open files"), HasSubstr(absl::StrCat(first_, " was loaded again"))));
  EXPECT_EQ(phases.back(), "restoring");
  ExpectFirstServes();
  EXPECT_TRUE(manager_->Activate("s", second_, WritesPolicy::kReplay, false, {}, kInPlace).ok());
}

TEST_F(ActivationInPlaceTest, AGateThatIsNotMetBringsBackWhatServed) {
  OperationControl control;
  control.approve = [&](const std::shared_ptr<const Generation>& candidate, TextEncoder&, const ServingSet* serving) {
    EXPECT_EQ(candidate->id(), second_);
    EXPECT_EQ(serving, nullptr);
    return ErrorWithReason(absl::FailedPreconditionError("too bad"), "GATE_FAILED", {{"figure", "1"}});
  };
  const auto failed = manager_->Activate("s", second_, WritesPolicy::kReplay, false, control, kInPlace);
  EXPECT_EQ(ReasonOf(failed.status()), "GATE_FAILED");
  EXPECT_EQ(GetErrorReason(failed.status())->metadata["figure"], "1");
  ExpectFirstServes();
}

TEST_F(ActivationInPlaceTest, IsCancelledInEveryPhaseAndWhatServedServes) {
  for (const char* last : {"verifying", "draining", "loading", "warming", "publishing"}) {
    SCOPED_TRACE(last);
    const RequestLimits limits;
    bool drained = false;
    const auto held = std::string_view(last) == "draining" ? *manager_->Capture("s", "") : nullptr;
    const OperationControl control{.limits = limits, .progress = [&](std::string_view phase, int64_t, int64_t) {
      drained |= phase == "draining";
      if (phase == last && (drained || phase == "verifying")) limits.Cancel();
    }};
    const auto cancelled = manager_->Activate("s", second_, WritesPolicy::kReplay, false, control, kInPlace);
    EXPECT_EQ(cancelled.status().code(), absl::StatusCode::kCancelled) << cancelled.status();
    EXPECT_EQ(manager_->GetStore("s")->generation, first_);
    EXPECT_THAT(Ids(), ElementsAre("a", "b", "w"));
    EXPECT_NE(StateOf(second_), GenerationState::kFailed);
  }
  ExpectFirstServes();
}

TEST_F(ActivationInPlaceTest, WhereNothingCanBeLoadedTheStoreSaysWhyAndServesAgainWhatIsActivated) {
  const OperationControl control{.progress = [&](std::string_view phase, int64_t, int64_t) { files_.fail_maps = files_.fail_maps || phase == "loading"; }};
  const auto failed = manager_->Activate("s", second_, WritesPolicy::kReplay, false, control, kInPlace);
  EXPECT_THAT(std::string(failed.status().message()), HasSubstr("could not be loaded again"));
  const absl::Status why = manager_->Capture("s", "").status();
  EXPECT_EQ(why.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(why.message()), HasSubstr(first_));
  EXPECT_EQ(manager_->Upsert("s", {MakePassage("x", "ex")}, {}).status().code(), absl::StatusCode::kResourceExhausted);
  files_.fail_maps = false;
  ASSERT_TRUE(manager_->Activate("s", first_, WritesPolicy::kRefuse, false).ok());
  ExpectFirstServes();
}

TEST_F(ActivationInPlaceTest, AServerThatEndsInTheMiddleComesBackWithWhatServed) {
  const std::string copy = JoinPath(directory_, "copy");
  const auto copy_tree = [&](const auto& self, const std::string& from, const std::string& to) -> void {
    if (!fs_.IsDirectory(from)) {
      auto file = fs_.NewWritableFile(to);
      ASSERT_TRUE(file.ok() && (*file)->Append(*fs_.ReadFile(from)).ok() && (*file)->Close().ok());
      return;
    }
    ASSERT_TRUE(fs_.CreateDirectories(to).ok());
    const std::vector<std::string> names = fs_.List(from).value();
    for (const std::string& name : names) self(self, JoinPath(from, name), JoinPath(to, name));
  };
  for (const char* at : {"draining", "loading", "warming", "publishing"}) {
    SCOPED_TRACE(at);
    bool copied = false;
    const RequestLimits limits;
    const OperationControl control{.limits = limits, .progress = [&](std::string_view phase, int64_t, int64_t) {
      if (phase != at || copied) return;
      copy_tree(copy_tree, JoinPath(DataDirectory(), "stores"), JoinPath(copy, "stores"));  // As a kill leaves it.
      copied = true;
      limits.Cancel();
    }};
    EXPECT_FALSE(manager_->Activate("s", second_, WritesPolicy::kReplay, false, control, kInPlace).ok());
    ASSERT_TRUE(copied);
    const auto found = GenerationManager::Open({.data_directory = copy, .encoders = registry_.get(), .search_pool = &pool_});
    ASSERT_TRUE(found.ok()) << found.status();
    EXPECT_EQ((*found)->GetStore("s")->generation, first_);
    EXPECT_EQ((*found)->GetStore("s")->passage_count, 3);
    EXPECT_TRUE(fs_.DeleteRecursively(copy).ok());
  }
}

}  // namespace
}  // namespace loci
