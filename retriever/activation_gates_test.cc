#include "retriever/activation_gates.h"

#include <atomic>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "gmock/gmock.h"
#include "retriever/testing/retriever_fixture.h"

namespace loci {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

// Time goes on by a fixed step at each look.
class SteppingClock final : public Clock {
 public:
  explicit SteppingClock(int64_t step_us) : step_us_(step_us) {}
  int64_t NowMicros() const override { return now_us_ += step_us_; }
  int64_t UnixMicros() const override { return now_us_; }

 private:
  const int64_t step_us_;
  mutable std::atomic<int64_t> now_us_{0};
};

class ActivationGatesTest : public RetrieverFixture {
 protected:
  void SetUp() override {
    Start();
    std::vector<loci::v1::Passage> passages;
    for (int i = 0; i < 30; ++i) passages.push_back(MakePassage(absl::StrCat("p", 100 + i), absl::StrCat("number ", i, " of ", i * 17)));
    good_ = Ingest("s", passages)->generation;
    for (loci::v1::Passage& passage : passages) passage.set_id("q" + passage.id());
    other_ = Ingest("s", passages, {.activate = false})->generation;
  }
  // Each passage's own text, judged to want it.
  static ActivationGates OwnTexts() {
    ActivationGates gates;
    for (int i = 0; i < 10; ++i) {
      gates.queries.push_back({absl::StrCat("number ", i, " of ", i * 17), {{absl::StrCat("p", 100 + i), 1}, {"unknown", 0}}});
    }
    return gates;
  }
  absl::StatusOr<std::vector<GateFigure>> Measure(const std::string& generation, const ActivationGates& gates, const RequestLimits& limits = {}) {
    const auto candidate = manager_->Capture("s", generation);
    const auto active = manager_->Capture("s", "");
    return MeasureGates(gates, (*candidate)->view->shared_generation(), **manager_->encoders().Get(""), active->get(), limits, nullptr);
  }
  static const GateFigure& Find(const std::vector<GateFigure>& figures, const std::string& condition) {
    for (const GateFigure& figure : figures) {
      if (figure.condition == condition) return figure;
    }
    static const GateFigure none{};
    ADD_FAILURE() << condition << " is not there";
    return none;
  }
  // Activates under the gates; counts what was approved.
  absl::StatusOr<ActivationResult> Activate(const std::string& generation, const ActivationGates& gates, bool dry_run = false) {
    OperationControl control;
    control.approve = [&](const std::shared_ptr<const Generation>& candidate, TextEncoder& encoder, const ServingSet* serving) -> absl::Status {
      absl::StatusOr<std::vector<GateFigure>> figures = MeasureGates(gates, candidate, encoder, serving, {}, nullptr);
      if (!figures.ok()) return figures.status();
      return CheckGates(generation, *figures);
    };
    return manager_->Activate("s", generation, WritesPolicy::kRefuse, dry_run, control);
  }

  std::string good_, other_;
};

TEST_F(ActivationGatesTest, MeasuresWhatIsMeant) {
  const auto same = Measure(good_, OwnTexts());
  ASSERT_TRUE(same.ok()) << same.status();
  EXPECT_EQ(Find(*same, "min_ndcg_at_10").query_count, 10);
  EXPECT_GT(Find(*same, "min_ndcg_at_10").value, 0.5) << "a text finds its own passage";
  EXPECT_EQ(Find(*same, "min_recall_at_10").value, 1);
  EXPECT_EQ(Find(*same, "min_overlap_at_10").value, 1);
  EXPECT_FALSE(Find(*same, "min_overlap_at_10").limit.has_value());
  EXPECT_EQ(same->size(), 3u) << "times are not taken where nothing is demanded of them";
  const auto renamed = Measure(other_, OwnTexts());
  EXPECT_EQ(Find(*renamed, "min_ndcg_at_10").value, 0);
  EXPECT_EQ(Find(*renamed, "min_overlap_at_10").value, 0);
  ActivationGates unjudged = OwnTexts();
  for (size_t i = 1; i < unjudged.queries.size(); ++i) unjudged.queries[i].grades = {{"p101", 0}};
  EXPECT_EQ(Find(*Measure(good_, unjudged), "min_recall_at_10").query_count, 1) << "queries without a relevant passage are left out";
  unjudged.queries[0].grades.clear();
  EXPECT_EQ(Measure(good_, unjudged)->size(), 1u) << "the overlap alone";
}

TEST_F(ActivationGatesTest, AnOverlapThatCannotBeMeasuredEndsOnlyWhatDemandsIt) {
  const auto candidate = manager_->Capture("s", good_);
  ServingSet unserved = **manager_->Capture("s", "");
  unserved.encoder = nullptr;
  ActivationGates gates = OwnTexts();
  const auto measure = [&] {
    return MeasureGates(gates, (*candidate)->view->shared_generation(), **manager_->encoders().Get(""), &unserved, {}, nullptr);
  };
  const auto figures = measure();
  ASSERT_TRUE(figures.ok()) << figures.status();
  EXPECT_EQ(figures->size(), 2u) << "without the overlap";
  gates.min_overlap_at_10 = 0;
  EXPECT_EQ(GetErrorReason(measure().status())->reason, "ENCODER_MISMATCH");
}

TEST_F(ActivationGatesTest, AnEncoderThatComesLaterMeasuresTheOverlap) {
  Stop();
  ASSERT_TRUE(fs_.DeleteRecursively(JoinPath(DataDirectory(), "encoders")).ok());
  Start(/*import_encoder=*/false);
  ASSERT_TRUE(registry_->Import(CheckpointDirectory(1)).ok());
  ActivationGates gates = OwnTexts();
  gates.min_overlap_at_10 = 0;
  const auto activated = Activate(other_, gates, /*dry_run=*/true);
  EXPECT_TRUE(activated.ok()) << activated.status();
}

TEST_F(ActivationGatesTest, SeesTheWritesOverWhatServes) {
  ASSERT_TRUE(manager_->Delete("s", {"p100", "p101", "p102", "p103", "p104"}).ok());
  EXPECT_LT(Find(*Measure(good_, OwnTexts()), "min_overlap_at_10").value, 1);
}

TEST_F(ActivationGatesTest, TakesTheTimeOfSearchesAlone) {
  const auto candidate = manager_->Capture("s", good_);
  ActivationGates gates = OwnTexts();
  gates.max_p99_us = 1'000'000'000;
  SteppingClock clock(500);
  const auto figures = MeasureGates(gates, (*candidate)->view->shared_generation(), **manager_->encoders().Get(""), nullptr, {}, nullptr, clock);
  ASSERT_TRUE(figures.ok());
  EXPECT_EQ(Find(*figures, "max_p99_us").value, 500);
  EXPECT_TRUE(Find(*figures, "max_p99_us").met);
  gates.max_p99_us = 499;
  SteppingClock same(500);
  EXPECT_FALSE(Find(*MeasureGates(gates, (*candidate)->view->shared_generation(), **manager_->encoders().Get(""), nullptr, {}, nullptr, same),
                    "max_p99_us").met);
}

TEST_F(ActivationGatesTest, RefusesWithTheFiguresAndLeavesWhatServes) {
  ActivationGates gates = OwnTexts();
  gates.min_ndcg_at_10 = 0.5;
  gates.min_recall_at_10 = 0;
  gates.min_overlap_at_10 = 0.9;
  const absl::Status refused = Activate(other_, gates).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(refused));
  const std::optional<ErrorReason> reason = GetErrorReason(refused);
  ASSERT_TRUE(reason.has_value());
  EXPECT_EQ(reason->reason, "GATE_FAILED");
  EXPECT_EQ(reason->metadata.at("failed"), "min_ndcg_at_10,min_overlap_at_10");
  EXPECT_EQ(reason->metadata.at("ndcg_at_10"), "0 >= 0.5");
  EXPECT_EQ(reason->metadata.at("overlap_at_10"), "0 >= 0.9");
  EXPECT_LE(reason->metadata.size(), 6u) << "no more are sent";
  EXPECT_THAT(std::string(refused.message()), AllOf(HasSubstr("ndcg_at_10 0 (at least 0.5) over 10 queries, not met"),
                                                    HasSubstr("recall_at_10 0 (at least 0) over 10 queries, met")));
  EXPECT_EQ(manager_->GetStore("s")->generation, good_);
  const absl::StatusOr<GenerationList> list = manager_->ListGenerations("s");
  ASSERT_TRUE(list.ok());
  for (const GenerationInfo& info : list->generations) {
    EXPECT_NE(info.state, GenerationState::kFailed) << "it is whole, and can be activated under other gates";
  }
  EXPECT_EQ(GetErrorReason(Activate(other_, gates, /*dry_run=*/true).status())->reason, "GATE_FAILED");
  gates.min_ndcg_at_10 = gates.min_overlap_at_10 = std::nullopt;
  ASSERT_TRUE(Activate(other_, gates, /*dry_run=*/true).ok());
  EXPECT_EQ(manager_->GetStore("s")->generation, good_);
  ASSERT_TRUE(Activate(other_, gates).ok());
  EXPECT_EQ(manager_->GetStore("s")->generation, other_);
}

TEST_F(ActivationGatesTest, MeetsALimitThatIsReachedExactly) {
  ActivationGates gates = OwnTexts();
  gates.min_recall_at_10 = 1;
  gates.min_overlap_at_10 = 1;
  EXPECT_TRUE(Activate(good_, gates).ok());
}

TEST_F(ActivationGatesTest, EndsWhenItIsCancelled) {
  RequestLimits limits;
  limits.Cancel();
  EXPECT_TRUE(absl::IsCancelled(Measure(good_, OwnTexts(), limits).status()));
}

}  // namespace
}  // namespace loci
