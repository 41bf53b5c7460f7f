// Tuning, indexes that are chosen, and recall targets as a client sees them.
#include <chrono>
#include <cmath>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "tests/integration/server_fixture.h"

namespace loci {
namespace {

using grpc::StatusCode;
using ::testing::HasSubstr;
using Admin = loci::v1::AdminService::Stub;
using Retrieval = loci::v1::RetrievalService::Stub;

class ServerTuning : public ServerFixture {
 protected:
  grpc::Status IngestWith(const std::string& store, const std::string& index, int count, loci::v1::IngestResponse* response) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::minutes(1));
    const auto stream = admin->Ingest(&context, response);
    loci::v1::IngestRequest request;
    request.mutable_header()->set_store(store);
    request.mutable_header()->mutable_index()->set_factory(index);
    stream->Write(request);
    for (int i = 0; i < count; ++i) {
      loci::v1::Passage& passage = *request.mutable_batch()->add_passages();
      passage.set_id(absl::StrCat("p", i));
      passage.set_text(absl::StrCat("passage ", i * 7919, " of ", i % 31));
    }
    stream->Write(request);
    stream->WritesDone();
    return stream->Finish();
  }
  grpc::Status Tune(const std::string& store, double recall, loci::v1::TuneStoreResponse* response, bool no_wait = false) {
    loci::v1::TuneStoreRequest request;
    request.set_store(store);
    request.set_recall_target(recall);
    request.set_no_wait(no_wait);
    return Call(*admin, &Admin::TuneStore, request, response);
  }
  void ExpectRefused(const grpc::Status& status, StatusCode code, const std::string& text, const std::string& reason) {
    EXPECT_EQ(status.error_code(), code) << status.error_message();
    EXPECT_THAT(status.error_message(), HasSubstr(text));
    EXPECT_EQ(InfoOf(status).reason(), reason);
  }
};

TEST_F(ServerTuning, ExactSearchByCodesGivesTheSameHits) {
  StartServer();
  loci::v1::IngestResponse ingested;
  // Of fewer than 4,096 passages all are scored at once.
  ASSERT_TRUE(IngestWith("plain", "exact", 5'000, &ingested).ok());
  ASSERT_TRUE(IngestWith("s", "exact:int8", 5'000, &ingested).ok());
  loci::v1::ListGenerationsRequest list;
  list.set_store("s");
  loci::v1::ListGenerationsResponse listed;
  ASSERT_TRUE(Call(*admin, &Admin::ListGenerations, list, &listed).ok());
  ASSERT_EQ(listed.generations_size(), 1);
  EXPECT_EQ(listed.generations(0).index(), "exact:int8");
  loci::v1::PlanActivationRequest plan;
  plan.set_store("s");
  plan.set_generation(ingested.generation());
  loci::v1::PlanActivationResponse planned;
  ASSERT_TRUE(Call(*admin, &Admin::PlanActivation, plan, &planned).ok());
  int64_t codes = 0, vectors = 0;
  for (const loci::v1::MemoryFigure& figure : planned.memory()) {
    if (figure.owner() == "codes") codes = figure.bytes();
    if (figure.owner() == "vectors") vectors = figure.bytes();
    if (figure.owner() == "codes") {
      EXPECT_TRUE(figure.mapped());
    }
  }
  EXPECT_GT(codes, vectors / 8);
  EXPECT_LT(codes, vectors / 2);
  loci::v1::SearchRequest request;
  request.add_queries()->set_text("passage 7919 of 1");
  request.set_top_k(20);
  loci::v1::SearchResponse by_codes, plain;
  request.set_store("s");
  ASSERT_TRUE(Call(*retrieval, &Retrieval::Search, request, &by_codes).ok());
  request.set_store("plain");
  ASSERT_TRUE(Call(*retrieval, &Retrieval::Search, request, &plain).ok());
  EXPECT_TRUE(by_codes.exact());
  ASSERT_EQ(by_codes.results_size(), 1);
  ASSERT_EQ(by_codes.results(0).hits_size(), 20);
  for (int i = 0; i < 20; ++i) {
    EXPECT_EQ(by_codes.results(0).hits(i).id(), plain.results(0).hits(i).id());
    EXPECT_EQ(by_codes.results(0).hits(i).score(), plain.results(0).hits(i).score());
  }
  const grpc::Status status = IngestWith("s", "exact:int4", 3, &ingested);
  ExpectRefused(status, StatusCode::INVALID_ARGUMENT, "exact:int8", "INVALID_ARGUMENT");
  EXPECT_EQ(InfoOf(status).metadata().at("field"), "header.index.factory");
}

TEST_F(ServerTuning, IsAJobThatGivesTheFront) {
  StartServer();
  loci::v1::IngestResponse ingested;
  ASSERT_TRUE(IngestWith("s", "", 100, &ingested).ok());
  loci::v1::TuneStoreResponse tuned;
  const grpc::Status status = Tune("s", 0.9, &tuned);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_TRUE(tuned.done());
  EXPECT_EQ(tuned.generation(), ingested.generation());
  EXPECT_EQ(tuned.revision(), ingested.revision());
  EXPECT_EQ(tuned.tuning().row_count(), 100);
  ASSERT_EQ(tuned.tuning().front_size(), 1);
  EXPECT_EQ(tuned.tuning().front(0).index(), "exact");
  EXPECT_TRUE(tuned.tuning().front(0).chosen());
  EXPECT_THAT(tuned.tuning().reason(), HasSubstr("20000"));
  const loci::v1::Job job = WaitForEnd(tuned.job());
  EXPECT_EQ(job.kind(), "tune");
  EXPECT_EQ(job.state(), loci::v1::JOB_STATE_SUCCEEDED);
  EXPECT_EQ(job.tune().SerializeAsString(), tuned.SerializeAsString());

  loci::v1::TuneStoreResponse later;
  ASSERT_TRUE(Tune("s", 0.9, &later, /*no_wait=*/true).ok());
  EXPECT_FALSE(later.done());
  EXPECT_EQ(WaitForEnd(later.job()).tune().generation(), ingested.generation());
}

TEST_F(ServerTuning, BadRequestsAreTold) {
  StartServer();
  loci::v1::IngestResponse ingested;
  ASSERT_TRUE(IngestWith("s", "", 3, &ingested).ok());
  loci::v1::TuneStoreResponse response;
  for (const double recall : {0.0, 1.5, static_cast<double>(NAN)}) {
    const grpc::Status status = Tune("s", recall, &response);
    ExpectRefused(status, StatusCode::INVALID_ARGUMENT, "recall_target is ", "INVALID_ARGUMENT");
    EXPECT_EQ(InfoOf(status).metadata().at("field"), "recall_target");
  }
  loci::v1::TuneStoreRequest request;
  request.set_store("s");
  request.set_recall_target(0.9);
  request.set_memory_budget_bytes(1000);
  ExpectRefused(Call(*admin, &Admin::TuneStore, request, &response), StatusCode::INVALID_ARGUMENT, "at least 1048576", "INVALID_ARGUMENT");
  ExpectRefused(Tune("absent", 0.9, &response), StatusCode::NOT_FOUND, "absent", "STORE_NOT_FOUND");
  loci::v1::CreateStoreRequest create;
  create.set_store("empty");
  loci::v1::CreateStoreResponse created;
  ASSERT_TRUE(Call(*admin, &Admin::CreateStore, create, &created).ok());
  ExpectRefused(Tune("empty", 0.9, &response), StatusCode::FAILED_PRECONDITION, "empty", "NO_ACTIVE_GENERATION");
  create.set_store("none");
  ASSERT_TRUE(Call(*admin, &Admin::CreateStore, create, &created).ok());
  Upsert("none", "a", "one");  // Over a generation without any passage.
  ExpectRefused(Tune("none", 0.9, &response), StatusCode::FAILED_PRECONDITION, "no passages", "EMPTY_STORE");
  const grpc::Status index = IngestWith("s", "auto:recall=3", 3, &ingested);
  ExpectRefused(index, StatusCode::INVALID_ARGUMENT, "recall is 3", "INVALID_ARGUMENT");
  EXPECT_EQ(InfoOf(index).metadata().at("field"), "header.index.factory");
}

TEST_F(ServerTuning, AGenerationTellsHowItsIndexWasChosen) {
  StartServer();
  loci::v1::IngestResponse ingested;
  const grpc::Status status = IngestWith("s", "auto:recall=0.9,memory=2GiB", 50, &ingested);
  ASSERT_TRUE(status.ok()) << status.error_message();
  loci::v1::ListGenerationsRequest request;
  request.set_store("s");
  loci::v1::ListGenerationsResponse listed;
  ASSERT_TRUE(Call(*admin, &Admin::ListGenerations, request, &listed).ok());
  ASSERT_EQ(listed.generations_size(), 1);
  EXPECT_EQ(listed.generations(0).index(), "exact");
  EXPECT_EQ(listed.generations(0).tuning().recall_target(), 0.9);
  EXPECT_EQ(listed.generations(0).tuning().memory_budget_bytes(), int64_t{2} << 30);
}

TEST_F(ServerTuning, ARecallTargetIsMetOrSearchedExactly) {
  StartServer();
  loci::v1::IngestResponse ingested;
  ASSERT_TRUE(IngestWith("s", "IVF4,Flat", 300, &ingested).ok());
  loci::v1::SearchRequest search = TextSearch("s", "passage 7919", 3);
  loci::v1::SearchResponse response, exact;
  search.mutable_options()->set_recall_target(1);
  ASSERT_TRUE(Call(*retrieval, &Retrieval::Search, search, &response).ok());
  EXPECT_TRUE(response.exact());
  search.mutable_options()->Clear();
  search.mutable_options()->set_exact(true);
  ASSERT_TRUE(Call(*retrieval, &Retrieval::Search, search, &exact).ok());
  EXPECT_EQ(response.results(0).SerializeAsString(), exact.results(0).SerializeAsString());
  search.mutable_options()->Clear();
  search.mutable_options()->set_rescore_factor(50);
  ASSERT_TRUE(Call(*retrieval, &Retrieval::Search, search, &response).ok());
  EXPECT_FALSE(response.exact());
  search.mutable_options()->set_recall_target(0.5);
  const grpc::Status status = Call(*retrieval, &Retrieval::Search, search, &response);
  ExpectRefused(status, StatusCode::INVALID_ARGUMENT, "recall_target", "INVALID_ARGUMENT");
  EXPECT_EQ(InfoOf(status).metadata().at("field"), "options.recall_target");
}

}  // namespace
}  // namespace loci
