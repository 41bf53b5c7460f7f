// Roll-back, retention, pins, plans and comparisons, over a real channel.
#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "tests/integration/server_fixture.h"

namespace loci {
namespace {

using Retrieval = loci::v1::RetrievalService::Stub;
using Admin = loci::v1::AdminService::Stub;
using grpc::StatusCode;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class ServerGenerations : public ServerFixture {
 protected:
  void SetUp() override {
    ServerFixture::SetUp();
    StartServer();
  }
  grpc::Status Rollback(loci::v1::RollbackStoreResponse* response, loci::v1::WritesSince writes = loci::v1::WRITES_SINCE_UNSPECIFIED,
                        bool dry_run = false) {
    loci::v1::RollbackStoreRequest request;
    request.set_store("s");
    request.set_writes_since(writes);
    request.set_dry_run(dry_run);
    return Call(*admin, &Admin::RollbackStore, request, response);
  }
  std::vector<std::string> Find(const std::string& text) {
    loci::v1::SearchResponse found;
    EXPECT_TRUE(Call(*retrieval, &Retrieval::Search, TextSearch("s", text, 5), &found).ok());
    std::vector<std::string> ids;
    if (found.results_size() == 1) {
      for (const auto& hit : found.results(0).hits()) ids.push_back(hit.id());
    }
    return ids;
  }
  std::vector<std::string> Listed() {
    loci::v1::ListGenerationsRequest request;
    request.set_store("s");
    loci::v1::ListGenerationsResponse response;
    EXPECT_TRUE(Call(*admin, &Admin::ListGenerations, request, &response).ok());
    std::vector<std::string> ids;
    for (const auto& generation : response.generations()) ids.push_back(generation.generation());
    return ids;
  }
  void WaitForListed(const std::vector<std::string>& ids) {
    for (int i = 0; i < 1'000 && Listed() != ids; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(5));
    EXPECT_EQ(Listed(), ids);
  }
};

TEST_F(ServerGenerations, ARollbackServesTheSameViewAsBeforeAlsoAfterARestart) {
  const std::string a = Ingest("s", {{"a", "the red fox"}}).generation();
  const std::string b = Ingest("s", {{"b", "a blue whale"}}).generation();
  Upsert("s", "w", "green tea");
  loci::v1::RollbackStoreResponse response;
  const grpc::Status refused = Rollback(&response);
  EXPECT_EQ(refused.error_code(), StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(InfoOf(refused).reason(), "WRITES_SINCE");
  ASSERT_TRUE(Rollback(&response, loci::v1::WRITES_SINCE_REPLAY, /*dry_run=*/true).ok());
  EXPECT_EQ(response.generation(), a);
  EXPECT_FALSE(response.done());
  StartServer();
  ASSERT_TRUE(Rollback(&response, loci::v1::WRITES_SINCE_REPLAY).ok()) << "the history is remembered";
  EXPECT_EQ(response.generation(), a);
  EXPECT_EQ(response.previous_generation(), b);
  EXPECT_EQ(response.writes_since_count(), 1);
  EXPECT_TRUE(response.done());
  const std::vector<std::string> before = Find("green tea");
  EXPECT_THAT(before, ElementsAre("w", "a"));
  StartServer();
  EXPECT_EQ(Find("green tea"), before);
  const grpc::Status none = Rollback(&response);
  EXPECT_EQ(none.error_code(), StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(InfoOf(none).reason(), "NO_PREVIOUS_GENERATION");
}

TEST_F(ServerGenerations, RetentionKeepsWhatIsSetAndWhatIsPinned) {
  const std::string a = Ingest("s", {{"a", "one"}}).generation();
  loci::v1::PinGenerationRequest pin;
  pin.set_store("s");
  pin.set_generation(a);
  pin.set_pinned(true);
  loci::v1::PinGenerationResponse pinned;
  ASSERT_TRUE(Call(*admin, &Admin::PinGeneration, pin, &pinned).ok());
  EXPECT_TRUE(pinned.generation().pinned());
  const std::string b = Ingest("s", {{"b", "two"}}).generation();
  loci::v1::UpdateStoreRequest update;
  update.set_store("s");
  update.set_keep_generations(1);
  loci::v1::UpdateStoreResponse updated;
  ASSERT_TRUE(Call(*admin, &Admin::UpdateStore, update, &updated).ok());
  EXPECT_EQ(updated.store().keep_generations(), 1);
  StartServer();
  const std::string c = Ingest("s", {{"c", "three"}}).generation();
  const std::string d = Ingest("s", {{"d", "four"}}).generation();
  WaitForListed({a, c, d});
  loci::v1::DeleteGenerationRequest remove;
  remove.set_store("s");
  remove.set_generation(a);
  loci::v1::DeleteGenerationResponse removed;
  EXPECT_EQ(InfoOf(Call(*admin, &Admin::DeleteGeneration, remove, &removed)).reason(), "GENERATION_PINNED");
  update.set_keep_generations(1'001);
  const grpc::Status much = Call(*admin, &Admin::UpdateStore, update, &updated);
  EXPECT_EQ(much.error_code(), StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(much.error_message(), HasSubstr("1001"));
}

TEST_F(ServerGenerations, PlansAndComparesWithoutChangingAnything) {
  const std::string a = Ingest("s", {{"a", "the red fox"}, {"b", "a blue whale"}}).generation();
  const std::string b = Ingest("s", {{"a", "the red fox"}, {"c", "green tea"}}).generation();
  loci::v1::PlanActivationRequest request;
  request.set_store("s");
  request.set_generation(a);
  loci::v1::PlanActivationResponse plan;
  ASSERT_TRUE(Call(*admin, &Admin::PlanActivation, request, &plan).ok());
  EXPECT_TRUE(plan.can_activate());
  EXPECT_EQ(plan.previous_generation(), b);
  EXPECT_GT(plan.available_bytes(), 0);
  Upsert("s", "w", "written");
  ASSERT_TRUE(Call(*admin, &Admin::PlanActivation, request, &plan).ok());
  EXPECT_FALSE(plan.can_activate());
  ASSERT_EQ(plan.blockers_size(), 1);
  EXPECT_THAT(plan.blockers(0), HasSubstr("WRITES_SINCE: 1 "));

  loci::v1::CompareGenerationsRequest compare;
  compare.set_store("s");
  compare.set_generation_b(a);
  compare.add_queries("a blue whale");
  loci::v1::CompareGenerationsResponse compared;
  ASSERT_TRUE(Call(*admin, &Admin::CompareGenerations, compare, &compared).ok());
  EXPECT_EQ(compared.generation_a(), b);
  EXPECT_EQ(compared.mean_overlap(), 0.5);
  EXPECT_EQ(compared.changed_count(), 1);
  EXPECT_EQ(compared.queries(0).ids_b(0), "b");
  compare.add_queries("");
  const grpc::Status empty = Call(*admin, &Admin::CompareGenerations, compare, &compared);
  EXPECT_EQ(empty.error_code(), StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(InfoOf(empty).metadata().at("field"), "queries[1]");
  compare.mutable_queries()->RemoveLast();
  compare.set_top_k(1'001);
  EXPECT_EQ(Call(*admin, &Admin::CompareGenerations, compare, &compared).error_code(), StatusCode::INVALID_ARGUMENT);
  compare.set_top_k(0);
  compare.set_generation_b("20200101-000000-0000");
  EXPECT_EQ(Call(*admin, &Admin::CompareGenerations, compare, &compared).error_code(), StatusCode::NOT_FOUND);
  EXPECT_EQ(Listed().size(), 2u);
}

TEST_F(ServerGenerations, WhatAnApproximateIndexFindsIsMeasuredOnLiveQueries) {
  options.live_recall_share = 1;
  StartServer();
  grpc::ClientContext context;
  loci::v1::IngestResponse ingested;
  const auto stream = admin->Ingest(&context, &ingested);
  loci::v1::IngestRequest request;
  request.mutable_header()->set_store("approximate");
  request.mutable_header()->mutable_index()->set_factory("IVF4,Flat");
  ASSERT_TRUE(stream->Write(request));
  for (int i = 0; i < 200; ++i) {
    loci::v1::Passage& passage = *request.mutable_batch()->add_passages();
    passage.set_id("p" + std::to_string(i));
    passage.set_text("passage " + std::to_string(i * 7919));
  }
  ASSERT_TRUE(stream->Write(request) && stream->WritesDone());
  ASSERT_TRUE(stream->Finish().ok());
  loci::v1::SearchRequest search = TextSearch("approximate", "passage", 3);
  search.mutable_options()->set_nprobe(4);  // All lists.
  loci::v1::SearchResponse response;
  ASSERT_TRUE(Call(*retrieval, &loci::v1::RetrievalService::Stub::Search, search, &response).ok());
  EXPECT_FALSE(response.exact());
  WaitForMetric("loci_live_recall_queries_total{result=\"measured\"}", 1);
  const std::string labels = "generation=\"" + response.generation() + "\",store=\"approximate\"";
  EXPECT_EQ(Metric("loci_recall_at_10_estimate{bound=\"mean\"," + labels + "}"), 1);
  EXPECT_EQ(Metric("loci_recall_at_10_estimate_queries{" + labels + "}"), 1);
}

}  // namespace
}  // namespace loci
