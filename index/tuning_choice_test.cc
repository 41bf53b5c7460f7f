#include "index/tuning_choice.h"

#include <cmath>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace loci {
namespace {

using v1::TuningPoint;

TuningPoint Point(const std::string& index, double bound, double latency_us, int64_t memory_bytes = 0, int64_t build_ms = 0) {
  TuningPoint point;
  point.set_index(index);
  point.set_recall_bound(bound);
  point.set_recall_at_10(bound);
  point.set_latency_us(latency_us);
  point.set_memory_bytes(memory_bytes);
  point.set_build_ms(build_ms);
  return point;
}

std::vector<std::string> Names(const std::vector<TuningPoint>& points) {
  std::vector<std::string> names;
  for (const TuningPoint& point : points) names.push_back(point.index());
  return names;
}

const std::vector<TuningPoint>& Indexes() {
  static const auto* const points = new std::vector<TuningPoint>{Point("exact", 1, 1000, 0, 0), Point("graph", 0.99, 20, 500, 90),
                                                                 Point("graph", 0.90, 10, 500, 90), Point("lists", 0.97, 60, 100, 30),
                                                                 Point("codes", 0.93, 50, 10, 40)};
  return *points;
}

std::string Chosen(const std::vector<TuningPoint>& points, double target, int64_t budget, std::string* reason = nullptr) {
  const TuningChoice choice = ChoosePoint(points, target, budget);
  if (reason != nullptr) *reason = choice.reason;
  return points.at(choice.position).index();
}

TEST(ParetoFront, KeepsWhatNoOtherPointBeats) {
  const std::vector<TuningPoint> front = ParetoFront({
      Point("exact", 1, 1000, 0, 0), Point("worse in all", 0.8, 30, 600, 100), Point("graph", 0.99, 20, 500, 90),
      Point("same again", 0.99, 20, 500, 90), Point("slower", 0.99, 21, 500, 90), Point("smaller", 0.99, 21, 499, 90),
      Point("sooner built", 0.99, 21, 500, 89), Point("less found", 0.98, 20, 500, 90)});
  EXPECT_EQ(Names(front), (std::vector<std::string>{"graph", "smaller", "sooner built", "exact"}));
  EXPECT_TRUE(ParetoFront({}).empty());
}

TEST(ChoosePoint, TakesTheFastestThatMeetsTargetAndBudget) {
  EXPECT_EQ(Chosen(Indexes(), 0.5, 0), "graph");
  EXPECT_EQ(ChoosePoint(Indexes(), 0.5, 0).position, 2) << "the faster of its two";
  EXPECT_EQ(ChoosePoint(Indexes(), 0.95, 0).position, 1);
  EXPECT_EQ(Chosen(Indexes(), 0.95, 499), "lists");
  EXPECT_EQ(Chosen(Indexes(), 0.93, 99), "codes");
  EXPECT_EQ(Chosen(Indexes(), 0.97, 100), "lists") << "both ends count as met";
}

TEST(ChoosePoint, IsExactWhereNothingElseWillDoAndSaysWhy) {
  std::string reason;
  EXPECT_EQ(Chosen(Indexes(), 0.995, 0, &reason), "exact");
  EXPECT_NE(reason.find("no approximate index met the recall target"), std::string::npos) << reason;
  EXPECT_EQ(Chosen(Indexes(), 0.5, 9, &reason), "exact");
  EXPECT_NE(reason.find("fits the memory budget"), std::string::npos) << reason;
  EXPECT_EQ(Chosen(Indexes(), 0.98, 100, &reason), "exact") << "one meets the target, others the budget";
  EXPECT_NE(reason.find("within the memory budget is faster"), std::string::npos) << reason;
  EXPECT_EQ(Chosen({Point("exact", 1, 10), Point("graph", 1, 20, 5, 5)}, 0.5, 0), "exact") << "which is faster";
  EXPECT_EQ(Chosen({Point("exact", 1, 10)}, 0.5, 0), "exact");
}

TEST(ChoosePoint, TakesExactSearchByCodesWhereThatIsFaster) {
  std::vector<TuningPoint> points = Indexes();
  points.push_back(Point("exact:int8", 1, 300, 0, 1));
  std::string reason;
  EXPECT_EQ(Chosen(points, 0.95, 0), "graph");
  EXPECT_EQ(Chosen(points, 0.995, 0, &reason), "exact:int8");
  EXPECT_EQ(reason, "no approximate index met the recall target: searched exactly, by a pass over 8-bit codes first");
  EXPECT_EQ(Chosen(points, 0.5, 9), "exact:int8") << "codes are mapped";
  points = {Point("exact", 1, 1000), Point("graph", 0.99, 400, 500, 90), Point("exact:int8", 1, 300, 0, 1)};
  EXPECT_EQ(Chosen(points, 0.9, 0, &reason), "exact:int8");
  EXPECT_NE(reason.find("is faster"), std::string::npos) << reason;
  EXPECT_EQ(Chosen({Point("exact:int8", 1, 960, 0, 1), Point("exact", 1, 1000)}, 0.9, 0), "exact")
      << "about as fast, without a build";
  EXPECT_EQ(Names(ParetoFront(points)), (std::vector<std::string>{"exact:int8", "exact"})) << "which needs no build";
}

TEST(FastestExact, IsPlainUnlessCodesMakeItFaster) {
  EXPECT_EQ(FastestExact({Point("graph", 1, 1), Point("exact", 1, 100)}), 1);
  EXPECT_EQ(FastestExact({Point("exact:int8", 1, 90, 0, 1), Point("graph", 1, 1), Point("exact", 1, 100)}), 0);
  EXPECT_EQ(FastestExact({Point("exact:int8", 1, 96, 0, 1), Point("graph", 1, 1), Point("exact", 1, 100)}), 2);
  EXPECT_EQ(FastestExact({Point("exact", 1, 100), Point("exact:int8", 1, 200, 0, 1)}), 0);
}

TEST(ChoosePoint, OfThoseAboutAsFastTakesTheSmallest) {
  EXPECT_EQ(Chosen({Point("exact", 1, 1000), Point("graph", 1, 100, 500, 90), Point("codes", 1, 104, 10, 90), Point("lists", 1, 106, 5, 90)}, 0.9, 0),
            "codes");
  EXPECT_EQ(Chosen({Point("exact", 1, 1000), Point("graph", 1, 100, 10, 90), Point("codes", 1, 104, 10, 80)}, 0.9, 0), "codes");
}

TEST(ExtrapolatePoint, GrowsByWhatAQueryIsComparedWith) {
  constexpr int kDim = 64;
  constexpr int kCodes = 128 + 4;  // Of a centre, beside its floats.
  TuningPoint sample = Point("exact", 1, 100);
  TuningPoint all = *ExtrapolatePoint(sample, kDim, 10'000, "exact", 1'000'000);
  EXPECT_DOUBLE_EQ(all.latency_us(), 10'000);
  EXPECT_EQ(all.memory_bytes(), 0);
  all = *ExtrapolatePoint(Point("exact:int8", 1, 30, 0, 4), kDim, 10'000, "exact:int8", 1'000'000);
  EXPECT_DOUBLE_EQ(all.latency_us(), 3'000);
  EXPECT_EQ(all.memory_bytes(), 0);
  EXPECT_EQ(all.build_ms(), 400);

  // 400 centres and 4 of 400 lists with 25 rows each; 4000 centres and 4 of 4000 lists with 250 rows each.
  sample = Point("IVF400,Flat", 0.9, 100, 400 * (kDim * 4 + kCodes) + 10'000 * 300, 7);
  sample.set_nprobe(4);
  all = *ExtrapolatePoint(sample, kDim, 10'000, "IVF4000,Flat", 1'000'000);
  EXPECT_EQ(all.index(), "IVF4000,Flat");
  EXPECT_EQ(all.nprobe(), 4);
  EXPECT_DOUBLE_EQ(all.latency_us(), 100 * 5000.0 / 500.0);
  EXPECT_EQ(all.memory_bytes(), 4000 * (kDim * 4 + kCodes) + int64_t{1'000'000} * 300);
  EXPECT_GT(all.build_ms(), 7 * 100) << "more rows, and more lists for each";

  sample = Point("HNSW32", 0.9, 100, 10'000 * 520, 1000);
  all = *ExtrapolatePoint(sample, kDim, 10'000, "HNSW32", 100'000'000);
  EXPECT_DOUBLE_EQ(all.latency_us(), 200);
  EXPECT_EQ(all.memory_bytes(), int64_t{100'000'000} * 520);
  EXPECT_NEAR(static_cast<double>(all.build_ms()), 2e7, 2e4);

  sample = Point("IVF16,PQ8", 0.9, 100, (16 + 256) * kDim * 4 + 16 * kCodes + 1'000 * 16, 1000);
  EXPECT_EQ(ExtrapolatePoint(sample, kDim, 1'000, "IVF64,PQ8", 16'000)->memory_bytes(), (64 + 256) * kDim * 4 + 64 * kCodes + 16'000 * 16);
}

TEST(ExtrapolatePoint, LeavesWhatWasMeasuredOnAll) {
  const TuningPoint point = Point("IVF16,Flat", 0.9, 100, 12345, 67);
  EXPECT_EQ(ExtrapolatePoint(point, 8, 1000, "IVF16,Flat", 1000)->SerializeAsString(), point.SerializeAsString());
  EXPECT_EQ(ExtrapolatePoint(point, 8, 1000, "nonsense", 2000).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(RecallBound, LiesBelowTheMeanByWhatFewQueriesLeaveOpen) {
  EXPECT_EQ(RecallBound({}), 0);
  const std::vector<double> perfect(200, 1.0);
  EXPECT_LT(RecallBound(perfect), 1);
  EXPECT_GT(RecallBound(perfect), 0.998);
  EXPECT_LT(RecallBound({1, 1, 1}), RecallBound(perfect));
  // 100 queries, half of them 0.8 and half 1, and one of 0.9: mean 0.9, deviation sqrt(1 / 100).
  std::vector<double> mixed(50, 0.8);
  mixed.resize(100, 1.0);
  EXPECT_NEAR(RecallBound(mixed), 0.9 - 1.645 * 0.1 / std::sqrt(101), 1e-12);
  EXPECT_EQ(RecallBound({0, 0, 0, 0}), 0);
}

TEST(LadderOf, MakesTheChosenStepTheDefault) {
  google::protobuf::RepeatedPtrField<TuningPoint> points;
  *points.Add() = Point("IVF16,Flat", 0.5, 1);
  *points.Add() = Point("IVF16,Flat", 0.9, 2);
  points[0].set_nprobe(1);
  points[1].set_nprobe(3);
  points[1].set_rescore_factor(2);
  EXPECT_EQ(LadderOf(points).defaults, SearchParameters{});
  points[1].set_chosen(true);
  const SearchLadder ladder = LadderOf(points);
  EXPECT_EQ(ladder.defaults, (SearchParameters{.nprobe = 3, .rescore_factor = 2}));
  ASSERT_EQ(ladder.steps.size(), 2u);
  EXPECT_EQ(CheapestStep(ladder, 0.4)->parameters.nprobe, 1);
  EXPECT_EQ(CheapestStep(ladder, 0.6)->parameters.nprobe, 3);
  EXPECT_EQ(CheapestStep(ladder, 0.91), nullptr);
}

}  // namespace
}  // namespace loci
