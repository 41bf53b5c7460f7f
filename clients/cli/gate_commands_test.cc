// Conditions of activations and plans, and what compare tells.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <string>

#include "clients/cli/cli_fixture.h"
#include "nlohmann/json.hpp"

namespace loci {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

class GateCommandsTest : public CliTest {
 protected:
  void SetUp() override {
    queries_ = Write("queries.jsonl", "{\"_id\": \"1\", \"text\": \"one\"}\n{\"_id\": \"2\", \"text\": \"two\"}\n");
    qrels_ = Write("qrels.tsv", "query-id\tcorpus-id\tscore\n1\tp1\t2\n");
    server_.on_activate = [this](const v1::ActivateGenerationRequest& request, v1::ActivateGenerationResponse* response) {
      activation_ = request;
      response->set_generation("g4");
      response->set_done(true);
      v1::GateFigure& met = *response->add_gate_figures();
      met.set_condition("min_ndcg_at_10");
      met.set_value(0.5123);
      met.set_limit(0.4);
      met.set_met(true);
      met.set_query_count(1);
      v1::GateFigure& measured = *response->add_gate_figures();
      measured.set_condition("min_overlap_at_10");
      measured.set_limit(std::numeric_limits<double>::quiet_NaN());
      response->set_watch_summary("watched after 1000 ms: 3 requests");
      response->set_job("j1");
      response->set_watching(activation_.has_watch());
      return grpc::Status::OK;
    };
  }

  std::string queries_, qrels_;
  v1::ActivateGenerationRequest activation_;
};

TEST_F(GateCommandsTest, ConditionsReachTheRequest) {
  EXPECT_EQ(Run({"activate", "s", "g4", "--queries", queries_, "--qrels", qrels_, "--min-ndcg", "0.4", "--min-recall", "0", "--min-overlap",
                 "0.5", "--max-p99", "500us"}),
            0)
      << err();
  const v1::ActivationGates& gates = activation_.gates();
  ASSERT_EQ(gates.queries_size(), 2);
  EXPECT_EQ(gates.queries(0).ShortDebugString(), "text: \"one\" judgements { id: \"p1\" grade: 2 }");
  EXPECT_EQ(gates.queries(1).ShortDebugString(), "text: \"two\"");
  EXPECT_EQ(gates.min_ndcg_at_10(), 0.4);
  EXPECT_TRUE(gates.has_min_recall_at_10());
  EXPECT_EQ(gates.min_overlap_at_10(), 0.5);
  EXPECT_EQ(gates.max_p99_us(), 500);
  EXPECT_FALSE(activation_.has_watch());
  EXPECT_THAT(out(), AllOf(HasSubstr("0.5123"), HasSubstr("min_ndcg_at_10"), HasSubstr("watched after 1000 ms")));
  EXPECT_EQ(Run({"activate", "s", "g4"}), 0) << err();
  EXPECT_FALSE(activation_.has_gates());
}

TEST_F(GateCommandsTest, TheWatchReachesTheRequest) {
  EXPECT_EQ(Run({"activate", "s", "g4", "--watch", "10m", "--max-error-rate", "0.01", "--watch-max-p99", "50ms", "--watch-min-requests", "7"}), 0)
      << err();
  EXPECT_EQ(activation_.watch().ShortDebugString(), "watch_ms: 600000 max_error_rate: 0.01 max_p99_us: 50000 min_requests: 7");
  EXPECT_THAT(out(), AllOf(HasSubstr("activated"), HasSubstr("job j1 watches it; follow it with loci watch j1")));
  EXPECT_EQ(Run({"activate", "s", "g4", "--max-error-rate", "0.01"}), 2);
}

TEST_F(GateCommandsTest, AWatchThatIsNoneIsSaidToBeNone) {
  std::string before = "g4";
  bool watching = false;
  server_.on_activate = [&](const v1::ActivateGenerationRequest&, v1::ActivateGenerationResponse* response) {
    response->set_generation("g4");
    response->set_previous_generation(before);
    response->set_watching(watching);
    response->set_done(true);
    return grpc::Status::OK;
  };
  EXPECT_EQ(Run({"activate", "s", "g4", "--watch", "10m", "--max-error-rate", "0.01"}), 0) << err();
  EXPECT_THAT(out(), HasSubstr("generation g4 serves already; nothing is watched\n"));
  EXPECT_EQ(Run({"activate", "s", "g4", "--watch", "10m", "--max-error-rate", "0.01", "-o", "json"}), 0) << err();
  EXPECT_EQ(nlohmann::json::parse(out())["previous_generation"], "g4");
  EXPECT_EQ(Run({"activate", "s", "g4"}), 0) << err();
  EXPECT_THAT(out(), Not(HasSubstr("nothing is watched"))) << "nobody asked for it";
  before = "";
  EXPECT_EQ(Run({"activate", "s", "g4", "--watch", "10m", "--max-error-rate", "0.01"}), 0) << err();
  EXPECT_THAT(out(), HasSubstr("go back to; nothing is watched\n"));
  before = "g3";
  watching = true;
  EXPECT_EQ(Run({"activate", "s", "g4", "--watch", "10m", "--max-error-rate", "0.01"}), 0) << err();
  EXPECT_THAT(out(), Not(HasSubstr("nothing is watched")));
}

TEST_F(GateCommandsTest, TheStrategyReachesTheRequests) {
  EXPECT_EQ(Run({"activate", "s", "g4"}), 0) << err();
  EXPECT_EQ(activation_.strategy(), v1::ACTIVATION_STRATEGY_BLUE_GREEN);
  EXPECT_EQ(Run({"activate", "s", "g4", "--strategy", "in-place"}), 0) << err();
  EXPECT_EQ(activation_.strategy(), v1::ACTIVATION_STRATEGY_IN_PLACE);
  EXPECT_EQ(Run({"activate", "s", "g4", "--strategy", "slowly"}), 2);
  v1::ActivationStrategy planned = v1::ACTIVATION_STRATEGY_UNSPECIFIED;
  server_.on_plan = [&](const v1::PlanActivationRequest& request, v1::PlanActivationResponse*) {
    planned = request.strategy();
    return grpc::Status::OK;
  };
  EXPECT_EQ(Run({"plan", "s", "g4", "--strategy", "in-place"}), 0) << err();
  EXPECT_EQ(planned, v1::ACTIVATION_STRATEGY_IN_PLACE);
}

TEST_F(GateCommandsTest, ConditionsMustGoTogether) {
  EXPECT_EQ(Run({"activate", "s", "g4", "--min-overlap", "0.5"}), 2);
  EXPECT_THAT(err(), HasSubstr("--queries"));
  EXPECT_EQ(Run({"activate", "s", "g4", "--queries", queries_, "--min-ndcg", "0.5"}), 2);
  EXPECT_THAT(err(), HasSubstr("--qrels"));
  EXPECT_EQ(Run({"activate", "s", "g4", "--queries", queries_, "--max-p99", "soon"}), 2);
  EXPECT_EQ(Run({"activate", "s", "g4", "--queries", queries_, "--min-overlap", "1.5"}), 2);
  EXPECT_EQ(Run({"activate", "s", "g4", "--queries", directory_ + "/absent"}), 1);
  EXPECT_EQ(Run({"activate", "s", "g4", "--queries", queries_, "--qrels", Write("other.tsv", "9\t0\tp1\t1\n")}), 1);
  EXPECT_THAT(err(), HasSubstr("no query is judged"));
}

TEST_F(GateCommandsTest, APlanMeasuresThemToo) {
  v1::PlanActivationRequest plan;
  server_.on_plan = [&](const v1::PlanActivationRequest& request, v1::PlanActivationResponse*) {
    plan = request;
    return grpc::Status::OK;
  };
  EXPECT_EQ(Run({"plan", "s", "g4", "--queries", queries_, "--min-overlap", "0.5"}), 0) << err();
  EXPECT_EQ(plan.gates().queries_size(), 2);
  EXPECT_EQ(Run({"plan", "s", "g4"}), 0) << err();
  EXPECT_FALSE(plan.has_gates());
}

TEST_F(GateCommandsTest, APlanIsATableThatSaysInWordsWhatIsInTheWay) {
  v1::PlanActivationRequest asked;
  v1::PlanActivationResponse plan;
  server_.on_plan = [&](const v1::PlanActivationRequest& request, v1::PlanActivationResponse* response) {
    asked = request;
    *response = plan;
    return grpc::Status::OK;
  };
  plan.set_generation("g4");
  plan.set_previous_generation("g3");
  plan.set_can_activate(true);
  plan.set_resident_bytes(3 << 20);
  plan.set_resident_most_bytes(34 << 20);
  plan.set_available_bytes(-1);
  plan.set_released_bytes(5 << 20);
  plan.set_disk_bytes(7 << 20);
  plan.set_available_disk_bytes(int64_t{9} << 30);
  plan.set_estimated_load_ms(1234);
  v1::MemoryFigure& figure = *plan.add_memory();
  figure.set_owner("vectors");
  figure.set_mapped(true);
  figure.set_bytes(2 << 20);
  figure.set_most_bytes(2 << 20);
  EXPECT_EQ(Run({"plan", "s", "g4", "--writes-since", "replay"}), 0) << err();
  EXPECT_EQ(asked.writes_since(), v1::WRITES_SINCE_REPLAY);
  for (const char* part : {"vectors (mapped)", "2.0 MiB", "34.0 MiB", "not known", "g3, which gives back 5.0 MiB", "7.0 MiB of files, 9.0 GiB", "1.23 s",
                           "g4 of store s can be activated"}) {
    EXPECT_THAT(out(), HasSubstr(part));
  }
  plan.add_blockers("MEMORY: 7 bytes are needed, 5 are available");
  EXPECT_EQ(Run({"plan", "s", "g4"}), 1);
  EXPECT_THAT(out(), HasSubstr("can't be activated:\n  - 7 bytes are needed, 5 are available (MEMORY)\n"));
  EXPECT_EQ(Run({"-o", "json", "plan", "s", "g4"}), 1);
  EXPECT_THAT(out(), HasSubstr("\"resident_most_bytes\""));
}

TEST_F(GateCommandsTest, CompareSaysWhatChangesAndWhy) {
  server_.on_compare = [](const v1::CompareGenerationsRequest&, v1::CompareGenerationsResponse* response) {
    response->set_changed_count(1);
    response->set_mean_overlap(0.75);
    response->add_queries()->set_same_order(true);
    v1::QueryComparison& query = *response->add_queries();
    query.set_overlap(0.5);
    v1::HitChange& change = *query.add_changes();
    change.set_id("p9");
    change.set_reason(v1::CHANGE_REASON_NEW_PASSAGE);
    change.set_rank_b(2);
    (*response->mutable_change_counts())["NEW_PASSAGE"] = 1;
    return grpc::Status::OK;
  };
  EXPECT_EQ(Run({"compare", "s", "a", "b", "--queries", queries_}), 0) << err();
  EXPECT_THAT(out(), AllOf(HasSubstr("two"), HasSubstr("p9 - to #2 new passage"), HasSubstr("1 of 2 queries change"), HasSubstr("why: new passage 1")));
  EXPECT_EQ(Run({"compare", "s", "a", "b", "--queries", queries_, "-o", "json"}), 0) << err();
  EXPECT_EQ(nlohmann::json::parse(out())["queries"][1]["changes"][0]["reason"], "CHANGE_REASON_NEW_PASSAGE");
}

}  // namespace
}  // namespace loci
