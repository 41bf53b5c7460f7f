#include "retriever/generation_comparison.h"

#include "absl/strings/str_cat.h"
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
  ASSERT_EQ(other->queries[0].changes.size(), 2u);
  EXPECT_EQ(other->queries[0].changes[0].id, "b");
  EXPECT_EQ(other->queries[0].changes[0].reason, ChangeReason::kGonePassage);
  EXPECT_EQ(other->queries[0].changes[0].rank_a, 1);
  EXPECT_EQ(other->queries[0].changes[0].rank_b, 0);
  EXPECT_EQ(other->queries[0].changes[1].id, "c");
  EXPECT_EQ(other->queries[0].changes[1].reason, ChangeReason::kNewPassage);
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
  EXPECT_GT(plan->need.resident_bytes(), 0);
  EXPECT_GT(plan->available_bytes, plan->need.most_bytes());
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

// The changes of the first query, as "id:reason:rank_a:rank_b".
std::vector<std::string> ChangesOf(const GenerationComparison& comparison) {
  std::vector<std::string> changes;
  for (const HitChange& change : comparison.queries[0].changes) {
    changes.push_back(absl::StrCat(change.id, ":", static_cast<int>(change.reason), ":", change.rank_a, ":", change.rank_b));
  }
  return changes;
}

TEST_F(GenerationComparisonTest, SaysWhyHitsChange) {
  Start();
  std::vector<loci::v1::Passage> passages;
  for (int i = 0; i < 6; ++i) passages.push_back(MakePassage(absl::StrCat("p", i), absl::StrCat("text number ", i)));
  const std::string a = Ingest("s", passages)->generation;
  // p0's text is the query from now on, "new" is as near, and so two others lose their places.
  passages[0].set_text("an apple a day");
  passages.push_back(MakePassage("new", "an apple a day"));
  const std::string b = Ingest("s", passages)->generation;
  const auto comparison = CompareGenerations(*manager_, "s", a, b, {"an apple a day"}, 3, {});
  ASSERT_TRUE(comparison.ok()) << comparison.status();
  const std::vector<std::string>& before = comparison->queries[0].ids_a;
  ASSERT_THAT(comparison->queries[0].ids_b, ElementsAre("new", "p0", before[0] == "p0" ? before[1] : before[0]));
  int64_t other_vector = 0, displaced = 0, fresh = 0;
  for (const HitChange& change : comparison->queries[0].changes) {
    other_vector += change.id == "p0" && change.reason == ChangeReason::kOtherVector;
    fresh += change.id == "new" && change.reason == ChangeReason::kNewPassage && change.rank_a == 0 && change.rank_b == 1;
    displaced += change.reason == ChangeReason::kDisplaced && change.rank_b == 0;
  }
  EXPECT_EQ(fresh, 1);
  EXPECT_EQ(other_vector, 1);
  EXPECT_GE(displaced, 1);
  EXPECT_EQ(fresh + other_vector + displaced, static_cast<int64_t>(ChangesOf(*comparison).size()));
  EXPECT_EQ(comparison->change_counts[static_cast<size_t>(ChangeReason::kDisplaced)], displaced);
  EXPECT_TRUE(CompareGenerations(*manager_, "s", a, a, {"an apple a day"}, 3, {})->queries[0].changes.empty());
}

TEST_F(GenerationComparisonTest, TellsApproximationFromContent) {
  Start();
  std::vector<loci::v1::Passage> passages;
  for (int i = 0; i < 600; ++i) passages.push_back(MakePassage(absl::StrCat("p", 1000 + i), absl::StrCat("number ", i, " of ", i * 31)));
  const std::string exact = Ingest("s", passages)->generation;
  IngestOptions options;
  options.index = "IVF60,Flat";  // Eight of its lists are looked at.
  const std::string approximate = Ingest("s", passages, options)->generation;
  std::vector<std::string> queries;
  for (int i = 0; i < 40; ++i) queries.push_back(absl::StrCat("what of ", i * 13));
  const auto comparison = CompareGenerations(*manager_, "s", exact, approximate, queries, 10, {});
  ASSERT_TRUE(comparison.ok()) << comparison.status();
  ASSERT_GT(comparison->changed_count, 0) << "else nothing is shown here";
  EXPECT_GT(comparison->change_counts[static_cast<size_t>(ChangeReason::kApproximation)], 0);
  EXPECT_EQ(comparison->change_counts[static_cast<size_t>(ChangeReason::kGonePassage)], 0);
  EXPECT_EQ(comparison->change_counts[static_cast<size_t>(ChangeReason::kNewPassage)], 0);
  EXPECT_EQ(comparison->change_counts[static_cast<size_t>(ChangeReason::kOtherVector)], 0);
  for (const QueryDifference& query : comparison->queries) {
    for (const HitChange& change : query.changes) {
      // What the exact index found and the other did not is there to be found.
      if (change.rank_b == 0) {
        EXPECT_EQ(change.reason, ChangeReason::kApproximation);
      }
    }
  }
}

}  // namespace
}  // namespace loci
