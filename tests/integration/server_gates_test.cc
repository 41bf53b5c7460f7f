// Activations that must meet conditions before, and after, a generation answers.
#include <chrono>
#include <cmath>
#include <functional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "tests/integration/server_fixture.h"

namespace loci {
namespace {

using grpc::StatusCode;
using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::StartsWith;
using Admin = loci::v1::AdminService::Stub;
using Retrieval = loci::v1::RetrievalService::Stub;

class ServerGates : public ServerFixture {
 protected:
  void SetUp() override {
    ServerFixture::SetUp();
    options.metrics_listen = "127.0.0.1:0";
    StartServer();
    first_ = IngestAs("p");
    second_ = IngestAs("q");
    loci::v1::RollbackStoreRequest back;
    back.set_store("s");
    loci::v1::RollbackStoreResponse response;
    ASSERT_TRUE(Call(*admin, &Admin::RollbackStore, back, &response).ok());
    ASSERT_EQ(Active(), first_);
  }
  // The same texts under other ids.
  std::string IngestAs(const std::string& prefix) {
    std::vector<std::pair<std::string, std::string>> id_texts;
    for (int i = 0; i < 20; ++i) id_texts.emplace_back(absl::StrCat(prefix, i), absl::StrCat("number ", i, " of ", i * 17));
    return Ingest("s", id_texts).generation();
  }
  std::string Active() {
    loci::v1::GetStoreRequest request;
    request.set_store("s");
    loci::v1::GetStoreResponse response;
    EXPECT_TRUE(Call(*admin, &Admin::GetStore, request, &response).ok());
    return response.store().generation();
  }
  loci::v1::ActivateGenerationRequest Activation() const {
    loci::v1::ActivateGenerationRequest request;
    request.set_store("s");
    request.set_generation(second_);
    for (int i = 0; i < 5; ++i) {
      loci::v1::GateQuery& query = *request.mutable_gates()->add_queries();
      query.set_text(absl::StrCat("number ", i, " of ", i * 17));
      query.add_judgements()->set_id(absl::StrCat("q", i));
      query.mutable_judgements(0)->set_grade(1);
    }
    return request;
  }
  grpc::Status Activate(const loci::v1::ActivateGenerationRequest& request, loci::v1::ActivateGenerationResponse* response = nullptr) {
    loci::v1::ActivateGenerationResponse dropped;
    return Call(*admin, &Admin::ActivateGeneration, request, response != nullptr ? response : &dropped);
  }
  // One that is watched until something ends that.
  static loci::v1::ActivateGenerationRequest WatchedActivation(const std::string& generation) {
    loci::v1::ActivateGenerationRequest request;
    request.set_store("s");
    request.set_generation(generation);
    request.mutable_watch()->set_watch_ms(3'600'000);
    return request;
  }
  void SearchTimes(int count) {
    for (int i = 0; i < count; ++i) {
      loci::v1::SearchResponse found;
      const grpc::Status status = Call(*retrieval, &Retrieval::Search, TextSearch("s", "number", 3), &found);
      ASSERT_TRUE(status.ok()) << status.error_message();
    }
  }

  std::string first_, second_;
};

TEST_F(ServerGates, InPlaceTheOtherOneServesAndTheRollBackGoesBack) {
  loci::v1::ActivateGenerationRequest request = Activation();
  request.set_strategy(loci::v1::ACTIVATION_STRATEGY_IN_PLACE);
  request.mutable_gates()->set_min_overlap_at_10(0.5);
  const grpc::Status no_overlap = Activate(request);
  EXPECT_EQ(no_overlap.error_code(), StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(no_overlap.error_message(), HasSubstr("min_overlap_at_10"));
  request.mutable_gates()->clear_min_overlap_at_10();
  request.mutable_gates()->set_min_recall_at_10(0.5);
  loci::v1::ActivateGenerationResponse response;
  const grpc::Status activated = Activate(request, &response);
  ASSERT_TRUE(activated.ok()) << activated.error_message();
  EXPECT_EQ(response.previous_generation(), first_);
  EXPECT_EQ(Active(), second_);
  SearchTimes(1);
  loci::v1::RollbackStoreRequest back;
  back.set_store("s");
  back.set_strategy(loci::v1::ACTIVATION_STRATEGY_IN_PLACE);
  loci::v1::RollbackStoreResponse went_back;
  ASSERT_TRUE(Call(*admin, &Admin::RollbackStore, back, &went_back).ok());
  EXPECT_EQ(Active(), first_);
  request.set_strategy(static_cast<loci::v1::ActivationStrategy>(3));
  EXPECT_EQ(Activate(request).error_code(), StatusCode::INVALID_ARGUMENT);
}

TEST_F(ServerGates, ConditionsThatAreNotMetChangeNothing) {
  loci::v1::ActivateGenerationRequest request = Activation();
  request.mutable_gates()->set_min_overlap_at_10(0.5);
  request.mutable_gates()->set_min_recall_at_10(0.5);
  for (const bool dry_run : {true, false}) {
    request.set_dry_run(dry_run);
    const grpc::Status status = Activate(request);
    EXPECT_EQ(status.error_code(), StatusCode::FAILED_PRECONDITION);
    EXPECT_EQ(InfoOf(status).reason(), "GATE_FAILED");
    EXPECT_EQ(InfoOf(status).metadata().at("failed"), "min_overlap_at_10");
    EXPECT_EQ(InfoOf(status).metadata().at("recall_at_10"), "1 >= 0.5");
    EXPECT_THAT(status.error_message(), HasSubstr("overlap_at_10 0 (at least 0.5) over 5 queries, not met"));
    EXPECT_EQ(Active(), first_);
  }
  loci::v1::PlanActivationRequest plan;
  plan.set_store("s");
  plan.set_generation(second_);
  *plan.mutable_gates() = request.gates();
  loci::v1::PlanActivationResponse planned;
  ASSERT_TRUE(Call(*admin, &Admin::PlanActivation, plan, &planned).ok());
  EXPECT_FALSE(planned.can_activate());
  EXPECT_EQ(planned.gate_figures_size(), 3) << planned.DebugString();
  EXPECT_THAT(planned.blockers(), Contains(StartsWith("GATE_FAILED: ")));
  request.mutable_gates()->set_min_overlap_at_10(0);
  loci::v1::ActivateGenerationResponse response;
  ASSERT_TRUE(Activate(request, &response).ok());
  EXPECT_EQ(response.gate_figures_size(), 3);
  EXPECT_EQ(Active(), second_);
  EXPECT_EQ(GetJob(response.job()).activate().gate_figures_size(), 3) << "the job keeps them";
}

TEST_F(ServerGates, ConditionsMustMakeSense) {
  const auto field_of = [&](const std::function<void(loci::v1::ActivateGenerationRequest*)>& change) {
    loci::v1::ActivateGenerationRequest request = Activation();
    change(&request);
    const grpc::Status status = Activate(request);
    EXPECT_EQ(status.error_code(), StatusCode::INVALID_ARGUMENT);
    return InfoOf(status).metadata().at("field");
  };
  EXPECT_EQ(field_of([](auto* r) { r->mutable_gates()->set_min_ndcg_at_10(1.5); }), "gates.min_ndcg_at_10");
  EXPECT_EQ(field_of([](auto* r) { r->mutable_gates()->set_min_overlap_at_10(std::nan("")); }), "gates.min_overlap_at_10");
  EXPECT_EQ(field_of([](auto* r) { r->mutable_gates()->set_max_p99_us(0); }), "gates.max_p99_us");
  EXPECT_EQ(field_of([](auto* r) {
              r->mutable_gates()->clear_queries();
              r->mutable_gates()->set_max_p99_us(5);
            }),
            "gates.queries");
  EXPECT_EQ(field_of([](auto* r) {
              for (auto& query : *r->mutable_gates()->mutable_queries()) query.clear_judgements();
              r->mutable_gates()->set_min_recall_at_10(0.1);
            }),
            "gates.queries");
  EXPECT_EQ(field_of([](auto* r) { r->mutable_gates()->mutable_queries(1)->clear_text(); }), "gates.queries[1].text");
  EXPECT_EQ(field_of([](auto* r) { *r->mutable_gates()->mutable_queries(1)->add_judgements() = r->gates().queries(1).judgements(0); }),
            "gates.queries[1].judgements");
  EXPECT_EQ(field_of([](auto* r) {
              for (int i = 0; i < 1'024; ++i) r->mutable_gates()->add_queries()->set_text("x");
            }),
            "gates.queries");
  EXPECT_EQ(field_of([](auto* r) { r->mutable_watch()->set_watch_ms(-1); }), "watch.watch_ms");
  EXPECT_EQ(field_of([](auto* r) { r->mutable_watch()->set_max_error_rate(0.1); }), "watch.watch_ms");
  EXPECT_EQ(Active(), first_);
}

TEST_F(ServerGates, AWatchThatFailsRollsBackByItselfThoughWhoeverAskedHasGone) {
  loci::v1::ActivateGenerationRequest request = WatchedActivation(second_);
  request.mutable_watch()->set_max_p99_us(1);  // No search is as quick.
  request.mutable_watch()->set_min_requests(5);
  loci::v1::ActivateGenerationResponse response;
  const auto deadline = std::chrono::system_clock::now() + std::chrono::seconds(4);
  {
    grpc::ClientContext context;
    context.set_deadline(deadline);
    ASSERT_TRUE(admin->ActivateGeneration(&context, request, &response).ok());
  }
  std::this_thread::sleep_until(deadline);  // Which is the request's, not the watch's.
  EXPECT_TRUE(response.done());
  EXPECT_TRUE(response.watching());
  EXPECT_EQ(response.previous_generation(), first_);
  EXPECT_EQ(Active(), second_) << "it answers meanwhile";
  SearchTimes(10);
  const loci::v1::Job job = WaitForEnd(response.job());
  EXPECT_EQ(job.state(), loci::v1::JOB_STATE_FAILED);
  EXPECT_EQ(job.error_code(), static_cast<int>(StatusCode::FAILED_PRECONDITION));
  EXPECT_THAT(job.error_message(), HasSubstr("rolled back to generation " + first_));
  EXPECT_EQ(Active(), first_);
  WaitForMetric("loci_watch_rollbacks_total", 1);
}

TEST_F(ServerGates, AWatchThatPassesOrIsCancelledLeavesTheGenerationServing) {
  loci::v1::ActivateGenerationRequest request = Activation();
  request.mutable_watch()->set_watch_ms(50);
  request.mutable_watch()->set_max_error_rate(0);
  loci::v1::ActivateGenerationResponse response;
  ASSERT_TRUE(Activate(request, &response).ok());
  EXPECT_EQ(response.watch_summary(), "");
  loci::v1::Job job = WaitForEnd(response.job());
  EXPECT_EQ(job.state(), loci::v1::JOB_STATE_SUCCEEDED) << job.error_message();
  EXPECT_THAT(job.activate().watch_summary(), HasSubstr("0 requests"));
  EXPECT_FALSE(job.activate().watching());
  EXPECT_EQ(job.activate().generation(), second_);
  EXPECT_EQ(Active(), second_);
  request = WatchedActivation(first_);
  request.set_no_wait(true);
  ASSERT_TRUE(Activate(request, &response).ok());
  WaitForJob(response.job(), [](const loci::v1::Job& j) { return j.phase() == "watching"; });
  EXPECT_TRUE(CancelJob(response.job()).ok());
  job = WaitForEnd(response.job());
  EXPECT_EQ(job.state(), loci::v1::JOB_STATE_SUCCEEDED) << job.error_message();
  EXPECT_THAT(job.activate().watch_summary(), HasSubstr("the watch was ended"));
  EXPECT_EQ(Active(), first_);
}

TEST_F(ServerGates, AWatchIsInNobodysWayAndEndsWhereAnotherGenerationServes) {
  loci::v1::ActivateGenerationResponse watched;
  ASSERT_TRUE(Activate(WatchedActivation(second_), &watched).ok());
  ASSERT_EQ(GetJob(watched.job()).phase(), "watching");
  loci::v1::RollbackStoreRequest back;
  back.set_store("s");
  loci::v1::RollbackStoreResponse rolled_back;
  const grpc::Status status = Call(*admin, &Admin::RollbackStore, back, &rolled_back);
  ASSERT_TRUE(status.ok()) << status.error_message();
  const loci::v1::Job job = WaitForEnd(watched.job());
  EXPECT_EQ(job.state(), loci::v1::JOB_STATE_SUCCEEDED) << job.error_message();
  EXPECT_THAT(job.activate().watch_summary(), HasSubstr("serves no longer"));
  EXPECT_EQ(Active(), first_);
  EXPECT_EQ(Metric("loci_watch_rollbacks_total"), 0);
}

TEST_F(ServerGates, MoreWatchesThanThereArePlacesForAreRefusedAndActivationsGoOn) {
  std::vector<std::string> jobs;
  for (int i = 0; i < 8; ++i) {
    const std::string store = "w" + std::to_string(i);
    const std::string before = Ingest(store, {{"a", "one"}}).generation();
    Ingest(store, {{"a", "two"}});
    loci::v1::ActivateGenerationRequest request = WatchedActivation(before);
    request.set_store(store);
    loci::v1::ActivateGenerationResponse response;
    const grpc::Status status = Activate(request, &response);
    ASSERT_TRUE(status.ok()) << status.error_message();
    ASSERT_TRUE(response.watching());
    jobs.push_back(response.job());
  }
  const grpc::Status refused = Activate(WatchedActivation(second_));
  EXPECT_EQ(refused.error_code(), StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(InfoOf(refused).reason(), "OVERLOADED");
  EXPECT_EQ(Active(), first_);
  loci::v1::ActivateGenerationRequest unwatched = Activation();
  unwatched.clear_gates();
  unwatched.set_no_wait(true);
  loci::v1::ActivateGenerationResponse response;
  ASSERT_TRUE(Activate(unwatched, &response).ok());
  EXPECT_EQ(WaitForEnd(response.job()).state(), loci::v1::JOB_STATE_SUCCEEDED);
  EXPECT_TRUE(CancelJob(jobs[0]).ok());
  WaitForEnd(jobs[0]);
  EXPECT_TRUE(Activate(WatchedActivation(first_)).ok());
}

TEST_F(ServerGates, RequestsThatNameAGenerationAreNotWatched) {
  loci::v1::ActivateGenerationRequest request = WatchedActivation(second_);
  request.mutable_watch()->set_max_error_rate(0.5);
  request.mutable_watch()->set_min_requests(1);
  loci::v1::ActivateGenerationResponse response;
  ASSERT_TRUE(Activate(request, &response).ok());
  SearchTimes(3);
  loci::v1::SearchRequest named = TextSearch("s", "number", 3);
  named.set_generation(first_);
  loci::v1::SearchResponse found;
  ASSERT_TRUE(Call(*retrieval, &Retrieval::Search, named, &found).ok());
  EXPECT_TRUE(CancelJob(response.job()).ok());
  EXPECT_THAT(WaitForEnd(response.job()).activate().watch_summary(), HasSubstr(" 3 requests, 0 failed"));
}

TEST_F(ServerGates, AServerThatEndsDoesNotWaitForWatches) {
  options.drain_timeout_ms = 60'000;
  StartServer();
  loci::v1::ActivateGenerationResponse response;
  ASSERT_TRUE(Activate(WatchedActivation(second_), &response).ok());
  const auto begin = std::chrono::steady_clock::now();
  StartServer();
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(30));
  EXPECT_EQ(Active(), second_);
  EXPECT_THAT(GetJob(response.job()).activate().watch_summary(), HasSubstr("the watch was ended"));
}

TEST_F(ServerGates, CompareSaysWhyHitsChange) {
  loci::v1::CompareGenerationsRequest request;
  request.set_store("s");
  request.set_generation_a(first_);
  request.set_generation_b(second_);
  request.add_queries("number 3");
  request.set_top_k(2);
  loci::v1::CompareGenerationsResponse response;
  ASSERT_TRUE(Call(*admin, &Admin::CompareGenerations, request, &response).ok());
  ASSERT_EQ(response.queries(0).changes_size(), 4);
  EXPECT_EQ(response.queries(0).changes(0).reason(), loci::v1::CHANGE_REASON_GONE_PASSAGE);
  EXPECT_EQ(response.queries(0).changes(0).rank_a(), 1);
  EXPECT_EQ(response.queries(0).changes(2).reason(), loci::v1::CHANGE_REASON_NEW_PASSAGE);
  EXPECT_EQ(response.change_counts().at("NEW_PASSAGE"), 2);
  EXPECT_EQ(response.change_counts().at("APPROXIMATION"), 0);
}

}  // namespace
}  // namespace loci
