#include "retriever/live_recall.h"

#include <algorithm>
#include <chrono>
#include <deque>
#include <future>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "base/fake_metrics.h"
#include "gtest/gtest.h"
#include "retriever/testing/retriever_fixture.h"

namespace loci {
namespace {

TEST(EstimateRecall, IsTheMeanWithWilsonsInterval) {
  const RecallEstimate none = EstimateRecall(0, 0);
  EXPECT_EQ(none.low, 0);
  EXPECT_EQ(none.high, 1);
  // 8 of 10: the textbooks' (0.490, 0.943), here with more digits by hand from the formula.
  const RecallEstimate eight = EstimateRecall(8, 10);
  EXPECT_DOUBLE_EQ(eight.mean, 0.8);
  EXPECT_NEAR(eight.low, 0.4901625, 1e-6);
  EXPECT_NEAR(eight.high, 0.9433178, 1e-6);
  // Nothing was missed yet, which does not say that nothing ever is.
  const RecallEstimate all = EstimateRecall(100, 100);
  EXPECT_EQ(all.mean, 1);
  EXPECT_EQ(all.high, 1);
  EXPECT_NEAR(all.low, 0.9630065, 1e-6);
}

class LiveRecallTest : public RetrieverFixture {
 protected:
  static constexpr int kPassages = 400;

  void SetUp() override {
    Start();
    std::vector<loci::v1::Passage> passages;
    for (int i = 0; i < kPassages; ++i) passages.push_back(MakePassage("p" + std::to_string(i), "passage " + std::to_string(i * 7919)));
    ASSERT_TRUE(Ingest("s", std::move(passages), {.index = "IVF16,Flat"}).ok());
    const auto captured = manager_->Capture("s", "");
    ASSERT_TRUE(captured.ok()) << captured.status();
    set_ = *captured;
  }
  void TearDown() override { set_.reset(); }

  static std::vector<float> Query(int seed) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    std::vector<float> query(kDim);
    for (float& value : query) value = normal(random);
    return query;
  }
  LiveRecall& Make(LiveRecall::Options options) {
    if (options.pool == nullptr) options.pool = &measuring_;
    return recalls_.emplace_back(options);
  }
  void Offer(LiveRecall& recall, const std::vector<float>& query, int nprobe = 0) {
    recall.Offer(set_, {query.data(), 1, kDim}, {.top_k = 3, .nprobe = nprobe});
  }
  double Count(const std::string& result) { return sink_.value("loci_live_recall_queries_total", {{"result", result}}); }
  void WaitForCount(double count) {
    while (Count("measured") + Count("skipped") < count) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  // Until it was measured: where the one before has not quite ended it is passed over.
  void OfferAndWait(LiveRecall& recall, const std::vector<float>& query, int nprobe = 0) {
    for (const double before = Count("measured"); Count("measured") == before;) {
      const double answered = Count("measured") + Count("skipped");
      Offer(recall, query, nprobe);
      WaitForCount(answered + 1);
    }
  }
  static std::map<std::string, double> Estimate(const LiveRecall& recall) {
    std::map<std::string, double> values;
    for (const GaugeSample& sample : recall.Metrics()) {
      const auto bound = sample.labels.find("bound");
      values[bound == sample.labels.end() ? "queries" : bound->second] = sample.value;
      EXPECT_EQ(sample.labels.at("store"), "s");
    }
    return values;
  }
  std::vector<std::string> Ids(const std::vector<float>& query, bool exact) {
    const auto found = set_->view->Search({query.data(), 1, kDim}, {.top_k = 10, .exact = exact, .nprobe = exact ? 0 : 1});
    std::vector<std::string> ids;
    for (const ViewHit& hit : found->hits[0]) ids.push_back(hit.id);
    return ids;
  }

  FakeMetrics sink_;
  std::shared_ptr<const ServingSet> set_;
  std::deque<LiveRecall> recalls_;
  ThreadPool measuring_{"measuring", 1, 16};  // Ends before what its tasks use.
};

TEST_F(LiveRecallTest, IsTheShareOfTheExactTenThatTheIndexFinds) {
  LiveRecall& recall = Make({.share = 1, .metrics = &sink_});
  EXPECT_TRUE(recall.Metrics().empty());
  double right = 0;
  for (int i = 0; i < 30; ++i) {
    const std::vector<float> query = Query(i);
    OfferAndWait(recall, query, /*nprobe=*/1);
    const std::vector<std::string> exact = Ids(query, true);
    for (const std::string& id : Ids(query, false)) right += std::count(exact.begin(), exact.end(), id);
  }
  std::map<std::string, double> estimate = Estimate(recall);
  EXPECT_EQ(estimate["queries"], 30);
  EXPECT_NEAR(estimate["mean"], right / 300, 1e-6);
  EXPECT_LT(estimate["mean"], 0.95);  // One list of sixteen is visited.
  EXPECT_GT(estimate["mean"], 0.05);
  EXPECT_LT(estimate["low"], estimate["mean"]);
  EXPECT_GT(estimate["high"], estimate["mean"]);
}

TEST_F(LiveRecallTest, MeasuresWithTheOptionsOfTheRequest) {
  LiveRecall& recall = Make({.share = 1, .metrics = &sink_});
  for (int i = 0; i < 10; ++i) OfferAndWait(recall, Query(i), /*nprobe=*/16);
  EXPECT_EQ(Estimate(recall)["mean"], 1);
}

TEST_F(LiveRecallTest, KeepsTheNewestQueries) {
  LiveRecall& recall = Make({.share = 1, .window = 5, .metrics = &sink_});
  for (int i = 0; i < 12; ++i) OfferAndWait(recall, Query(i), i < 7 ? 1 : 16);
  EXPECT_EQ(Estimate(recall)["queries"], 5);
  EXPECT_NEAR(Estimate(recall)["mean"], 1, 1e-6);
}

TEST_F(LiveRecallTest, DrawsTheShare) {
  LiveRecall& recall = Make({.share = 0.01, .metrics = &sink_});
  const std::vector<float> many(static_cast<size_t>(kDim) * 1000, 0.1F);
  for (int i = 0; i < 40; ++i) recall.Offer(set_, {many.data(), 1000, kDim}, {.top_k = 3});
  WaitForCount(300);
  EXPECT_LT(Count("measured") + Count("skipped"), 500);
  LiveRecall& none = Make({.share = 0, .metrics = &sink_});
  none.Offer(set_, {many.data(), 1000, kDim}, {.top_k = 3});
  EXPECT_TRUE(none.Metrics().empty());
}

TEST_F(LiveRecallTest, MeasuresNothingWhileRequestsWait) {
  ThreadPool busy("busy", 1, 16);
  std::promise<void> release;
  ASSERT_TRUE(busy.TrySubmit([future = release.get_future().share()] { future.wait(); }));
  ASSERT_TRUE(busy.TrySubmit([] {}));
  while (busy.queue_size() != 1) std::this_thread::yield();
  LiveRecall& recall = Make({.pool = &busy, .share = 1, .metrics = &sink_});
  Offer(recall, Query(1));
  WaitForCount(1);
  EXPECT_EQ(Count("skipped"), 1);
  EXPECT_TRUE(recall.Metrics().empty());
  release.set_value();
  while (busy.queue_size() != 0) std::this_thread::yield();
  OfferAndWait(recall, Query(1));
  EXPECT_EQ(Count("measured"), 1);
}

TEST_F(LiveRecallTest, ForgetsGenerationsThatAreGone) {
  LiveRecall& recall = Make({.share = 1, .metrics = &sink_});
  OfferAndWait(recall, Query(1));
  EXPECT_FALSE(recall.Metrics().empty());
  set_.reset();
  Stop();
  for (int i = 0; i < 5'000 && !recall.Metrics().empty(); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  EXPECT_TRUE(recall.Metrics().empty());
}

}  // namespace
}  // namespace loci
