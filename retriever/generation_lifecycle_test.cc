// Roll-back, retention, pins and what a verification finds.
#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "retriever/testing/retriever_fixture.h"

namespace loci {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class GenerationLifecycleTest : public RetrieverFixture {
 protected:
  std::string Add(const std::string& id, const std::string& text, bool activate = true) {
    return Ingest("s", {MakePassage(id, text)}, {.activate = activate, .writes_since = WritesPolicy::kReplay})->generation;
  }
  std::vector<std::string> Ids() {
    std::vector<std::string> ids;
    const GenerationList list = *manager_->ListGenerations("s");
    for (const GenerationInfo& info : list.generations) ids.push_back(info.manifest.generation());
    return ids;
  }
  GenerationInfo InfoOf(const std::string& generation) {
    const GenerationList list = *manager_->ListGenerations("s");
    for (const GenerationInfo& info : list.generations) {
      if (info.manifest.generation() == generation) return info;
    }
    return {};
  }
  // Retention deletes what drains on a thread of its own.
  void WaitForIds(const std::vector<std::string>& ids) {
    for (int i = 0; i < 2'500 && Ids() != ids; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(2));
    EXPECT_EQ(Ids(), ids);
  }
  // -1: there is no such series.
  double Sample(const std::string& name, const MetricLabels& labels) {
    for (const GaugeSample& sample : manager_->Metrics()) {
      if (sample.name == name && sample.labels == labels) return sample.value;
    }
    return -1;
  }
  static std::string ReasonOf(const absl::Status& status) {
    const auto reason = GetErrorReason(status);
    return reason.has_value() ? reason->reason : "";
  }
  void Damage(const std::string& generation) {
    const std::string vectors = JoinPath(DataDirectory(), absl::StrCat("stores/s/", generation, "/vectors.bin"));
    std::string content = *fs_.ReadFile(vectors);
    content.back() ^= 1;
    auto file = fs_.NewWritableFile(vectors);
    ASSERT_TRUE(file.ok() && (*file)->Append(content).ok() && (*file)->Close().ok());
  }
  absl::StatusOr<ActivationResult> Rollback(WritesPolicy policy = WritesPolicy::kRefuse) { return manager_->Rollback("s", policy, false); }
};

TEST_F(GenerationLifecycleTest, EachRollbackGoesOneFurtherBackAlsoAfterARestart) {
  Start();
  EXPECT_EQ(Rollback().status().code(), absl::StatusCode::kNotFound);
  const std::string a = Add("a", "one"), b = Add("b", "two"), never = Add("x", "ex", /*activate=*/false), c = Add("c", "three");
  const auto dry = manager_->Rollback("s", WritesPolicy::kRefuse, /*dry_run=*/true);
  ASSERT_TRUE(dry.ok()) << dry.status();
  EXPECT_EQ(dry->generation, b);
  EXPECT_EQ(manager_->GetStore("s")->generation, c);
  const auto back = Rollback();
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(back->generation, b);
  EXPECT_EQ(back->previous_generation, c);
  EXPECT_EQ(SearchIds("s", "two", 5), std::vector<std::string>{"b"});
  Stop();
  Start();
  EXPECT_EQ(SearchIds("s", "two", 5), std::vector<std::string>{"b"});
  EXPECT_EQ(Rollback()->generation, a);
  const auto none = Rollback();
  EXPECT_EQ(none.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(ReasonOf(none.status()), "NO_PREVIOUS_GENERATION");
  EXPECT_EQ(manager_->GetStore("s")->generation, a);
  // What was rolled back from can be activated again, and gone back from.
  ASSERT_TRUE(manager_->Activate("s", c, WritesPolicy::kRefuse, false).ok());
  EXPECT_EQ(Rollback()->generation, a);
}

TEST_F(GenerationLifecycleTest, ARollbackFromAnExpectedGenerationDoesNothingWhereAnotherServes) {
  Start();
  const std::string a = Add("a", "one"), b = Add("b", "two"), c = Add("c", "three");
  const auto other = manager_->Rollback("s", WritesPolicy::kRefuse, /*dry_run=*/false, {}, /*expected_active=*/b);
  EXPECT_EQ(ReasonOf(other.status()), "NOT_ACTIVE");
  EXPECT_EQ(manager_->GetStore("s")->generation, c);
  EXPECT_EQ(manager_->Rollback("s", WritesPolicy::kRefuse, /*dry_run=*/false, {}, /*expected_active=*/c)->generation, b);
}

TEST_F(GenerationLifecycleTest, ADeletedGenerationLeavesTheHistory) {
  Start();
  const std::string a = Add("a", "one"), b = Add("b", "two"), c = Add("c", "three");
  ASSERT_TRUE(manager_->DeleteGeneration("s", b).ok());
  EXPECT_EQ(Rollback()->generation, a);
}

TEST_F(GenerationLifecycleTest, ARollbackAsksWhatBecomesOfWrites) {
  Start();
  const std::string a = Add("a", "one"), b = Add("b", "two");
  ASSERT_TRUE(manager_->Upsert("s", {MakePassage("w", "written")}, {}).ok());
  EXPECT_EQ(ReasonOf(Rollback().status()), "WRITES_SINCE");
  EXPECT_EQ(manager_->GetStore("s")->generation, b);
  const auto replayed = Rollback(WritesPolicy::kReplay);
  ASSERT_TRUE(replayed.ok()) << replayed.status();
  EXPECT_EQ(replayed->writes_since_count, 1);
  EXPECT_EQ(SearchIds("s", "written", 1), std::vector<std::string>{"w"});
}

TEST_F(GenerationLifecycleTest, RetentionDeletesWhatIsBeyondItOnceNobodyReadsIt) {
  Start();
  const std::string a = Add("a", "one"), b = Add("b", "two"), c = Add("c", "three");
  EXPECT_EQ(manager_->GetStore("s")->keep_generations, 0);
  auto held = *manager_->Capture("s", b);
  EXPECT_EQ(manager_->UpdateStore("s", 1)->keep_generations, 1);
  WaitForIds({b, c});
  auto active = *manager_->Capture("s", "");
  const std::string d = Add("d", "four"), e = Add("e", "five");
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  EXPECT_EQ(Ids(), (std::vector<std::string>{b, c, d, e})) << "b and c are read still";
  active.reset();
  WaitForIds({b, d, e});
  held.reset();
  WaitForIds({d, e});
  Stop();
  Start();
  EXPECT_EQ(manager_->GetStore("s")->keep_generations, 1);
}

TEST_F(GenerationLifecycleTest, RetentionKeepsWhatARollbackGoesTo) {
  Start();
  ASSERT_TRUE(manager_->CreateStore("s", 1).ok());
  const std::string a = Add("a", "one"), never = Add("x", "ex", /*activate=*/false), c = Add("c", "three");
  WaitForIds({a, c});
  EXPECT_EQ(Rollback()->generation, a);
}

TEST_F(GenerationLifecycleTest, RetentionPrefersAWholeGenerationToADamagedOne) {
  Start();
  const std::string a = Add("a", "one"), b = Add("b", "two", /*activate=*/false), c = Add("c", "three", /*activate=*/false);
  const std::string d = Add("d", "four", /*activate=*/false);
  Damage(d);
  EXPECT_EQ(manager_->Verify("s", d).status().code(), absl::StatusCode::kDataLoss);
  ASSERT_TRUE(manager_->UpdateStore("s", 1).ok());
  WaitForIds({a, c, d});
}

TEST_F(GenerationLifecycleTest, PinnedGenerationsStay) {
  Start();
  ASSERT_TRUE(manager_->CreateStore("s", 1).ok());
  const std::string a = Add("a", "one");
  const auto pinned = manager_->PinGeneration("s", a, true);
  ASSERT_TRUE(pinned.ok()) << pinned.status();
  EXPECT_TRUE(pinned->pinned);
  const std::string b = Add("b", "two"), c = Add("c", "three"), d = Add("d", "four");
  WaitForIds({a, c, d});
  EXPECT_EQ(ReasonOf(manager_->DeleteGeneration("s", a)), "GENERATION_PINNED");
  Stop();
  Start();
  EXPECT_TRUE(InfoOf(a).pinned);
  EXPECT_FALSE(InfoOf(c).pinned);
  EXPECT_FALSE(manager_->PinGeneration("s", a, false)->pinned);
  EXPECT_TRUE(manager_->DeleteGeneration("s", a).ok());
  EXPECT_EQ(ReasonOf(manager_->PinGeneration("s", a, true).status()), "GENERATION_NOT_FOUND");
}

TEST_F(GenerationLifecycleTest, MetricsSayWhatIsThereAndWhoseMemoryItIs) {
  Start();
  EXPECT_GT(Sample("loci_memory_bytes", {{"owner", "encoder"}, {"kind", "resident"}, {"encoder", (*registry_->Get(""))->spec().fingerprint.ToString()}}), 0);
  ASSERT_TRUE(manager_->CreateStore("s").ok());
  EXPECT_EQ(Sample("loci_store_passages", {{"store", "s"}}), 0);
  EXPECT_EQ(Sample("loci_generations", {{"store", "s"}, {"state", "serving"}}), 0);
  EXPECT_EQ(Sample("loci_store_recall_at_10", {{"store", "s"}}), -1) << "there is nothing to be found";
  const std::string a = Add("a", "one"), b = Add("b", "two"), c = Add("c", "three", /*activate=*/false);
  ASSERT_TRUE(manager_->Upsert("s", {MakePassage("w", "written")}, {}).ok());
  const auto count = [&](const std::string& state) { return Sample("loci_generations", {{"store", "s"}, {"state", state}}); };
  for (int i = 0; i < 2'500 && count("retired") != 1; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(2));
  EXPECT_EQ(count("retired"), 1);
  EXPECT_EQ(count("serving"), 1);
  EXPECT_EQ(count("ready"), 1);
  EXPECT_EQ(Sample("loci_store_passages", {{"store", "s"}}), 2);
  EXPECT_EQ(Sample("loci_store_overlay_passages", {{"store", "s"}}), 1);
  EXPECT_GT(Sample("loci_store_overlay_bytes", {{"store", "s"}}), kDim * 4);
  EXPECT_EQ(Sample("loci_store_revision", {{"store", "s"}}), manager_->GetStore("s")->revision);
  EXPECT_EQ(Sample("loci_store_recall_at_10", {{"store", "s"}}), 1);
  for (const char* const name : {"answered_queries", "scored_rows", "given_up_queries", "skipped_searches"}) {
    EXPECT_EQ(Sample(absl::StrCat("loci_store_scan_", name), {{"store", "s"}}), 0) << name << ": so few rows are scored at once";
  }
  const MetricLabels vectors = {{"store", "s"}, {"owner", "vectors"}, {"kind", "mapped"}};
  const double one = Sample("loci_memory_bytes", vectors);
  EXPECT_EQ(one, 64 + kDim * 4);
  ASSERT_TRUE(manager_->Capture("s", c).ok());
  EXPECT_EQ(Sample("loci_memory_bytes", vectors), 2 * one) << "c stays open for the next who names it";
  Damage(a);
  EXPECT_FALSE(manager_->Verify("s", a).ok());
  EXPECT_EQ(count("failed"), 1);
  ASSERT_TRUE(manager_->DeleteGeneration("s", c).ok());
  EXPECT_EQ(count("ready"), 0);
  Stop();
  Start();
  EXPECT_EQ(count("serving"), 1);
  EXPECT_EQ(count("ready"), 1);
  ASSERT_TRUE(manager_->DeleteStore("s").ok());
  EXPECT_EQ(Sample("loci_store_passages", {{"store", "s"}}), -1);
}

TEST_F(GenerationLifecycleTest, AVerificationThatFindsDamageMarksTheGeneration) {
  Start();
  const std::string a = Add("a", "one"), b = Add("b", "two");
  Damage(a);
  Damage(b);
  for (const std::string& generation : {a, b}) {
    const auto verified = manager_->Verify("s", generation);
    EXPECT_EQ(verified.status().code(), absl::StatusCode::kDataLoss);
    EXPECT_THAT(InfoOf(generation).detail, HasSubstr("vectors.bin"));
  }
  EXPECT_EQ(InfoOf(a).state, GenerationState::kFailed);
  EXPECT_EQ(InfoOf(b).state, GenerationState::kServing) << "what serves serves on";
  EXPECT_EQ(SearchIds("s", "two", 1), std::vector<std::string>{"b"});
  Damage(a);  // The same bit again: whole.
  const auto verified = manager_->Verify("s", a);
  ASSERT_TRUE(verified.ok()) << verified.status();
  EXPECT_EQ(verified->revision, manager_->GetStore("s")->revision);
  EXPECT_NE(InfoOf(a).state, GenerationState::kFailed);
  EXPECT_EQ(InfoOf(a).detail, "");
  EXPECT_EQ(ReasonOf(manager_->Verify("s", "20200101-000000-0000").status()), "GENERATION_NOT_FOUND");
}

TEST_F(GenerationLifecycleTest, AStoreWhoseActiveGenerationIsDamagedAtTheStartCanBeRolledBack) {
  Start();
  const std::string a = Add("a", "one"), b = Add("b", "two");
  ASSERT_TRUE(manager_->Upsert("s", {MakePassage("w", "written")}, {}).ok());
  Stop();
  Damage(b);
  Start();
  EXPECT_EQ(manager_->Capture("s", "").status().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(manager_->Upsert("s", {MakePassage("x", "x")}, {}).status().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(manager_->Delete("s", {"w"}).status().code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(manager_->GetStore("s")->error, HasSubstr("vectors.bin"));
  EXPECT_EQ(InfoOf(b).state, GenerationState::kFailed);
  EXPECT_THAT(InfoOf(b).detail, HasSubstr("vectors.bin"));
  EXPECT_EQ(Rollback(WritesPolicy::kReplay)->generation, a);
  EXPECT_EQ(SearchIds("s", "written", 1), std::vector<std::string>{"w"});
  EXPECT_EQ(manager_->GetStore("s")->error, "");
  // So can be ingested into.
  Stop();
  Damage(a);
  Start();
  const std::string c = Add("c", "three");
  EXPECT_EQ(SearchIds("s", "three", 1), std::vector<std::string>{"c"});
}

}  // namespace
}  // namespace loci
