// What each method answers when all is well.
#include <cmath>

#include "gmock/gmock.h"
#include "server/matrix_codec.h"
#include "tests/integration/server_fixture.h"

namespace loci {
namespace {

using Retrieval = loci::v1::RetrievalService::Stub;
using Admin = loci::v1::AdminService::Stub;
using ::testing::HasSubstr;

class ServerMethods : public ServerFixture {
 protected:
  void SetUp() override {
    ServerFixture::SetUp();
    StartServer();
  }
};

TEST_F(ServerMethods, EncodeAnswersInEveryTypeWithUsage) {
  loci::v1::EncodeRequest request;
  request.add_texts("the cat sat on the mat");
  request.add_texts("");
  loci::v1::EncodeResponse floats;
  ASSERT_TRUE(Call(*retrieval, &Retrieval::Encode, request, &floats).ok());
  EXPECT_EQ(floats.vectors().rows(), 2);
  EXPECT_EQ(floats.vectors().cols(), kTinyDim);
  EXPECT_EQ(floats.vectors().type(), loci::v1::VECTOR_TYPE_FLOAT32);
  ASSERT_EQ(floats.usage_size(), 2);
  EXPECT_EQ(floats.usage(1).input_tokens(), 2) << "the empty string has its two special tokens";
  EXPECT_EQ(floats.encoder_fingerprint().size(), 33u);
  EXPECT_GT(floats.timings().total_us(), 0);
  const std::vector<float> expected = DecodeMatrix(floats.vectors(), "vectors", NonFinite::kRefuse)->values;
  double norm = 0;
  for (int i = 0; i < kTinyDim; ++i) norm += double{expected[i]} * expected[i];
  EXPECT_NEAR(norm, 1, 1e-5);

  for (const auto type : {loci::v1::VECTOR_TYPE_FLOAT16, loci::v1::VECTOR_TYPE_BFLOAT16, loci::v1::VECTOR_TYPE_INT8, loci::v1::VECTOR_TYPE_FLOAT64}) {
    request.set_vector_type(type);
    loci::v1::EncodeResponse response;
    ASSERT_TRUE(Call(*retrieval, &Retrieval::Encode, request, &response).ok());
    EXPECT_EQ(response.vectors().type(), type);
    const std::vector<float> values = DecodeMatrix(response.vectors(), "vectors", NonFinite::kRefuse)->values;
    for (size_t i = 0; i < expected.size(); ++i) ASSERT_NEAR(values[i], expected[i], 0.01) << "type " << type << ", element " << i;
  }

  request.set_encoder(floats.encoder_fingerprint());
  EXPECT_TRUE(Call(*retrieval, &Retrieval::Encode, request, &floats).ok()) << "the fingerprint names the encoder";
}

TEST_F(ServerMethods, EncodeTruncatesPoolsOrRefuses) {
  loci::v1::EncodeRequest request;
  std::string text = "long";
  for (int i = 0; i < 200; ++i) text += " and longer";
  request.add_texts(text);
  loci::v1::EncodeResponse response;
  ASSERT_TRUE(Call(*retrieval, &Retrieval::Encode, request, &response).ok());
  EXPECT_TRUE(response.usage(0).truncated());
  EXPECT_LT(response.usage(0).used_tokens(), response.usage(0).input_tokens());
  request.set_truncation(loci::v1::TRUNCATION_POOL_WINDOWS);
  ASSERT_TRUE(Call(*retrieval, &Retrieval::Encode, request, &response).ok());
  EXPECT_FALSE(response.usage(0).truncated());
  request.set_truncation(loci::v1::TRUNCATION_REFUSE);
  EXPECT_EQ(Call(*retrieval, &Retrieval::Encode, request, &response).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(ServerMethods, SearchFindsByTextAndByVector) {
  const loci::v1::IngestResponse ingested = Ingest("s", {{"a", "the cat sat"}, {"b", "a dog ran"}, {"c", "numbers 1 2 3"}});
  EXPECT_TRUE(ingested.done());
  EXPECT_EQ(ingested.accepted_count(), 3);
  loci::v1::SearchRequest request = TextSearch("s", "the cat sat", 10);
  request.set_include_text(true);
  request.set_include_vectors(true);
  loci::v1::SearchResponse by_text;
  ASSERT_TRUE(Call(*retrieval, &Retrieval::Search, request, &by_text).ok());
  ASSERT_EQ(by_text.results_size(), 1);
  ASSERT_EQ(by_text.results(0).hits_size(), 3) << "fewer than top_k only where fewer are there";
  const loci::v1::Hit& best = by_text.results(0).hits(0);
  EXPECT_EQ(best.id(), "a");
  EXPECT_NEAR(best.score(), 1, 1e-5);
  EXPECT_EQ(best.passage().text(), "the cat sat");
  EXPECT_EQ(best.vector().cols(), kTinyDim);
  EXPECT_EQ(by_text.store(), "s");
  EXPECT_EQ(by_text.generation(), ingested.generation());
  EXPECT_EQ(by_text.encoder_fingerprint().size(), 33u);
  EXPECT_TRUE(by_text.exact());
  EXPECT_GT(by_text.results(0).usage().used_tokens(), 2);

  loci::v1::SearchRequest vector_request;
  vector_request.set_store("s");
  vector_request.set_generation(ingested.generation());
  vector_request.set_top_k(1);
  *vector_request.add_queries()->mutable_vector() = best.vector();
  vector_request.add_queries()->set_text("a dog ran");
  loci::v1::SearchResponse by_vector;
  ASSERT_TRUE(Call(*retrieval, &Retrieval::Search, vector_request, &by_vector).ok());
  ASSERT_EQ(by_vector.results_size(), 2);
  EXPECT_EQ(by_vector.results(0).hits(0).id(), "a");
  EXPECT_EQ(by_vector.results(0).hits(0).score(), best.score());
  EXPECT_FALSE(by_vector.results(0).has_usage());
  EXPECT_FALSE(by_vector.results(0).hits(0).has_passage());
  EXPECT_EQ(by_vector.results(1).hits(0).id(), "b");
}

TEST_F(ServerMethods, AnswerQuotesItsEvidence) {
  Ingest("s", {{"a", "The cat sat on the mat. It was warm."}, {"b", "A dog ran. It rained."}});
  loci::v1::AnswerRequest request;
  request.set_store("s");
  request.set_question("The cat sat on the mat.");
  request.set_max_answers(2);
  loci::v1::AnswerResponse response;
  const grpc::Status status = Call(*retrieval, &Retrieval::Answer, request, &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(response.reader(), "sentence");
  ASSERT_EQ(response.passages_size(), 2);
  EXPECT_FALSE(response.passages(0).passage().text().empty());
  EXPECT_EQ(response.abstained(), response.answers_size() == 0);
  for (const loci::v1::Answer& answer : response.answers()) {
    ASSERT_EQ(answer.evidence_size(), 1);
    const loci::v1::Evidence& evidence = answer.evidence(0);
    for (const loci::v1::Hit& hit : response.passages()) {
      if (hit.id() != evidence.passage_id()) continue;
      EXPECT_EQ(hit.passage().text().substr(evidence.start_byte(), evidence.end_byte() - evidence.start_byte()), answer.text());
    }
  }
}

TEST_F(ServerMethods, UpsertsAndDeletionsAreVisibleToTheNextQuery) {
  Ingest("s", {{"a", "the cat sat"}, {"b", "a dog ran"}});
  loci::v1::UpsertPassagesRequest upsert;
  upsert.set_store("s");
  loci::v1::Passage& passage = *upsert.add_passages();
  passage.set_id("new");
  passage.set_title("birds");
  passage.set_text("an owl flew");
  (*passage.mutable_metadata())["year"].set_int64_value(2001);
  loci::v1::UpsertPassagesResponse upserted;
  ASSERT_TRUE(Call(*admin, &Admin::UpsertPassages, upsert, &upserted).ok());
  EXPECT_EQ(upserted.upserted_count(), 1);
  EXPECT_EQ(upserted.usage_size(), 1);
  EXPECT_GT(upserted.revision(), 0);

  loci::v1::SearchResponse found;
  ASSERT_TRUE(Call(*retrieval, &Retrieval::Search, TextSearch("s", "birds an owl flew", 3), &found).ok());
  EXPECT_EQ(found.results(0).hits(0).id(), "new");
  EXPECT_EQ(found.revision(), upserted.revision());

  loci::v1::GetPassagesRequest get;
  get.set_store("s");
  get.add_ids("new");
  get.add_ids("a");
  get.set_include_vectors(true);
  loci::v1::GetPassagesResponse passages;
  ASSERT_TRUE(Call(*admin, &Admin::GetPassages, get, &passages).ok());
  ASSERT_EQ(passages.passages_size(), 2);
  EXPECT_EQ(passages.passages(0).metadata().at("year").int64_value(), 2001);
  EXPECT_EQ(passages.passages(1).text(), "the cat sat");
  EXPECT_EQ(passages.vectors().rows(), 2);
  EXPECT_EQ(passages.vectors().cols(), kTinyDim);

  loci::v1::DeletePassagesRequest remove;
  remove.set_store("s");
  remove.add_ids("new");
  remove.add_ids("unknown");
  loci::v1::DeletePassagesResponse removed;
  ASSERT_TRUE(Call(*admin, &Admin::DeletePassages, remove, &removed).ok());
  EXPECT_EQ(removed.deleted_count(), 1);
  EXPECT_GT(removed.revision(), upserted.revision());
  EXPECT_EQ(Call(*admin, &Admin::GetPassages, get, &passages).error_code(), grpc::StatusCode::NOT_FOUND);
}

TEST_F(ServerMethods, StoresComeAndGo) {
  loci::v1::CreateStoreRequest create;
  loci::v1::CreateStoreResponse created;
  ASSERT_TRUE(Call(*admin, &Admin::CreateStore, create, &created).ok());
  EXPECT_EQ(created.store().store(), "default");
  EXPECT_EQ(Call(*admin, &Admin::CreateStore, create, &created).error_code(), grpc::StatusCode::ALREADY_EXISTS);
  Ingest("b", {{"x", "y"}});
  loci::v1::ListStoresResponse stores;
  ASSERT_TRUE(Call(*admin, &Admin::ListStores, loci::v1::ListStoresRequest(), &stores).ok());
  ASSERT_EQ(stores.stores_size(), 2);
  EXPECT_EQ(stores.stores(0).store(), "b");
  EXPECT_EQ(stores.stores(0).passage_count(), 1);
  EXPECT_EQ(stores.stores(1).generation(), "");
  loci::v1::DeleteStoreRequest remove;
  remove.set_store("b");
  remove.set_confirm_name("b");
  loci::v1::DeleteStoreResponse removed;
  ASSERT_TRUE(Call(*admin, &Admin::DeleteStore, remove, &removed).ok());
  loci::v1::GetStoreRequest get;
  get.set_store("b");
  loci::v1::GetStoreResponse got;
  EXPECT_EQ(Call(*admin, &Admin::GetStore, get, &got).error_code(), grpc::StatusCode::NOT_FOUND);
}

TEST_F(ServerMethods, GenerationsAreListedActivatedVerifiedDeleted) {
  const std::string first = Ingest("s", {{"a", "one"}}).generation();
  const std::string second = Ingest("s", {{"a", "two"}, {"b", "three"}}).generation();
  ASSERT_NE(first, second);
  loci::v1::ListGenerationsRequest list;
  list.set_store("s");
  loci::v1::ListGenerationsResponse listed;
  ASSERT_TRUE(Call(*admin, &Admin::ListGenerations, list, &listed).ok());
  ASSERT_EQ(listed.generations_size(), 2);
  EXPECT_EQ(listed.generation(), second);
  EXPECT_EQ(listed.generations(0).generation(), first);
  EXPECT_NE(listed.generations(0).state(), loci::v1::GENERATION_STATE_SERVING);
  EXPECT_NE(listed.generations(0).state(), loci::v1::GENERATION_STATE_FAILED);
  EXPECT_EQ(listed.generations(1).state(), loci::v1::GENERATION_STATE_SERVING);
  EXPECT_EQ(listed.generations(1).passage_count(), 2);
  EXPECT_EQ(listed.generations(1).index(), "exact");
  EXPECT_EQ(listed.generations(1).dim(), kTinyDim);
  EXPECT_EQ(listed.generations(1).recall_at_10(), 1);

  loci::v1::SearchRequest pinned = TextSearch("s", "one", 5);
  pinned.set_generation(first);
  loci::v1::SearchResponse bare;
  ASSERT_TRUE(Call(*retrieval, &Retrieval::Search, pinned, &bare).ok()) << "an inactive generation is its bare body";
  EXPECT_EQ(bare.generation(), first);
  EXPECT_EQ(bare.results(0).hits_size(), 1);

  loci::v1::ActivateGenerationRequest activate;
  activate.set_store("s");
  activate.set_generation(first);
  activate.set_dry_run(true);
  loci::v1::ActivateGenerationResponse activated;
  ASSERT_TRUE(Call(*admin, &Admin::ActivateGeneration, activate, &activated).ok());
  ASSERT_TRUE(Call(*admin, &Admin::ListGenerations, list, &listed).ok());
  EXPECT_EQ(listed.generation(), second) << "a dry run changes nothing";
  activate.set_dry_run(false);
  ASSERT_TRUE(Call(*admin, &Admin::ActivateGeneration, activate, &activated).ok());
  EXPECT_EQ(activated.generation(), first);
  EXPECT_EQ(activated.previous_generation(), second);

  loci::v1::VerifyGenerationRequest verify;
  verify.set_store("s");
  loci::v1::VerifyGenerationResponse verified;
  ASSERT_TRUE(Call(*admin, &Admin::VerifyGeneration, verify, &verified).ok());
  EXPECT_EQ(verified.generation(), first);
  EXPECT_GT(verified.file_count(), 1);

  loci::v1::DeleteGenerationRequest remove;
  remove.set_store("s");
  remove.set_generation(first);
  loci::v1::DeleteGenerationResponse removed;
  EXPECT_EQ(Call(*admin, &Admin::DeleteGeneration, remove, &removed).error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  remove.set_generation(second);
  EXPECT_TRUE(Call(*admin, &Admin::DeleteGeneration, remove, &removed).ok());
}

TEST_F(ServerMethods, GetServerInfoSaysWhatServes) {
  loci::v1::GetServerInfoResponse info;
  ASSERT_TRUE(Call(*admin, &Admin::GetServerInfo, loci::v1::GetServerInfoRequest(), &info).ok());
  EXPECT_FALSE(info.version().empty());
  ASSERT_GE(info.devices_size(), 1);
  EXPECT_TRUE(info.devices(0).chosen());
  EXPECT_FALSE(info.devices(0).reason().empty());
  ASSERT_EQ(info.encoders_size(), 1);
  EXPECT_THAT(info.encoders(0).element_type_reason(), HasSubstr("auto takes " + info.encoders(0).element_type()));
  EXPECT_EQ(info.encoders(0).dim(), kTinyDim);
  EXPECT_EQ(info.encoders(0).pooling(), "mean");
  EXPECT_EQ(info.limits().max_message_bytes(), 64 << 20);
  EXPECT_THAT(info.readers(), testing::ElementsAre("sentence"));
  EXPECT_THAT(info.cpu_isa(), testing::AnyOf("avx2", "avx512"));
}

TEST_F(ServerMethods, CountsWhatItDid) {
  const std::string ok = "loci_requests_total{code=\"OK\",method=\"Search\"}";
  const std::string invalid = "loci_requests_total{code=\"INVALID_ARGUMENT\",method=\"Search\"}";
  EXPECT_EQ(Metric(ok), 0) << "the series exist from the start";
  EXPECT_EQ(Metric(invalid), 0);
  EXPECT_EQ(Metric("loci_phase_duration_seconds_count{method=\"Search\",phase=\"encode\"}"), 0);
  Ingest("s", {{"a", "one"}});
  loci::v1::SearchResponse response;
  ASSERT_TRUE(Call(*retrieval, &Retrieval::Search, TextSearch("s", "one", 1), &response).ok());
  EXPECT_FALSE(Call(*retrieval, &Retrieval::Search, TextSearch("s", "one", 0), &response).ok());
  EXPECT_EQ(Metric(ok), 1);
  EXPECT_EQ(Metric(invalid), 1);
  EXPECT_EQ(Metric("loci_request_duration_seconds_count{method=\"Search\"}"), 2);
  EXPECT_EQ(Metric("loci_in_flight{kind=\"request\"}"), 0);
  EXPECT_GT(Metric("loci_request_tokens_total{kind=\"used\",method=\"Search\"}"), 0);
}

TEST_F(ServerMethods, KeepsItsStoresOverARestart) {
  const std::string generation = Ingest("s", {{"a", "the cat sat"}}).generation();
  StartServer();
  loci::v1::SearchResponse response;
  ASSERT_TRUE(Call(*retrieval, &Retrieval::Search, TextSearch("s", "the cat sat", 1), &response).ok());
  EXPECT_EQ(response.generation(), generation);
  EXPECT_EQ(response.results(0).hits(0).id(), "a");
}

}  // namespace
}  // namespace loci
