#include "retriever/generation_comparison.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "retriever/testing/retriever_fixture.h"

namespace loci {
namespace {

using ::testing::ElementsAre;
using ::testing::UnorderedElementsAre;

TEST(CompareRankings, CountsWhatBothFind) {
  const GenerationComparison comparison = CompareRankings({{"a", "b", "c", "d"}, {"a", "b"}, {"a"}, {}, {}}, {{"a", "x", "b"}, {"b", "a"}, {"a"}, {}, {"a"}});
  ASSERT_EQ(comparison.queries.size(), 5u);
  EXPECT_EQ(comparison.queries[0].overlap, 0.5) << "of the larger number";
  EXPECT_FALSE(comparison.queries[0].same_order);
  EXPECT_EQ(comparison.queries[1].overlap, 1);
  EXPECT_FALSE(comparison.queries[1].same_order);
  EXPECT_TRUE(comparison.queries[2].same_order);
  EXPECT_EQ(comparison.queries[3].overlap, 1) << "neither finds any";
  EXPECT_TRUE(comparison.queries[3].same_order);
  EXPECT_EQ(comparison.queries[4].overlap, 0);
  EXPECT_DOUBLE_EQ(comparison.mean_overlap, 3.5 / 5);
  EXPECT_EQ(comparison.changed_count, 3);
  EXPECT_EQ(comparison.changed_first_count, 2);
  EXPECT_THAT(comparison.queries[0].ids_b, ElementsAre("a", "x", "b"));
}

class GenerationComparisonTest : public RetrieverFixture {};

TEST_F(GenerationComparisonTest, SearchesTheBareBodies) {
  Start();
  const std::string a = Ingest("s", {MakePassage("a", "the red fox"), MakePassage("b", "a blue whale")})->generation;
  const std::string b = Ingest("s", {MakePassage("a", "the red fox"), MakePassage("c", "green tea")})->generation;
  ASSERT_TRUE(manager_->Upsert("s", {MakePassage("w", "a blue whale")}, {}).ok());
  const auto same = CompareGenerations(*manager_, "s", "", b, {"red", "blue"}, 5, {});
  ASSERT_TRUE(same.ok()) << same.status();
  EXPECT_EQ(same->mean_overlap, 1);
  EXPECT_EQ(same->changed_count, 0);
  EXPECT_EQ(same->generation_a, b) << "the active one";
  EXPECT_EQ(same->revision, manager_->GetStore("s")->revision);
  const auto other = CompareGenerations(*manager_, "s", a, "", {"a blue whale"}, 5, {});
  ASSERT_TRUE(other.ok()) << other.status();
  EXPECT_EQ(other->mean_overlap, 0.5);
  EXPECT_EQ(other->changed_first_count, 1);
  EXPECT_EQ(other->queries[0].ids_a[0], "b");
  EXPECT_THAT(other->queries[0].ids_b, UnorderedElementsAre("a", "c")) << "without the write made since";
  EXPECT_EQ(CompareGenerations(*manager_, "s", a, "20200101-000000-0000", {"q"}, 5, {}).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(GenerationComparisonTest, APlanCountsBytesAndWritesAndLoadsNothing) {
  Start();
  const std::string a = Ingest("s", {MakePassage("a", "the red fox")})->generation;
  const std::string b = Ingest("s", {MakePassage("b", "green tea")})->generation;
  const auto plan = manager_->PlanActivation("s", a);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->previous_generation, b);
  EXPECT_TRUE(plan->blockers.empty());
  EXPECT_GE(plan->mapped_bytes, kDim * 4);
  EXPECT_GT(plan->resident_bytes, 0);
  EXPECT_GT(plan->available_bytes, plan->resident_bytes);
  EXPECT_GT(plan->estimated_load_ms, 0);
  EXPECT_EQ(manager_->TryCapture("s", a).value(), nullptr) << "it was not opened";
  ASSERT_TRUE(manager_->Upsert("s", {MakePassage("w", "a blue whale")}, {}).ok());
  const auto written = manager_->PlanActivation("s", a);
  EXPECT_EQ(written->writes_since_count, 1);
  ASSERT_EQ(written->blockers.size(), 1u);
  EXPECT_EQ(written->blockers[0].substr(0, 14), "WRITES_SINCE: ");
  EXPECT_EQ(manager_->PlanActivation("s", "20200101-000000-0000").status().code(), absl::StatusCode::kNotFound);
  Stop();
  ASSERT_TRUE(fs_.DeleteRecursively(JoinPath(DataDirectory(), "encoders")).ok());
  Start(/*import_encoder=*/false);
  const auto alone = manager_->PlanActivation("s", b);
  ASSERT_EQ(alone->blockers.size(), 1u);
  EXPECT_EQ(alone->blockers[0].substr(0, 18), "ENCODER_MISMATCH: ");
}

}  // namespace
}  // namespace loci
