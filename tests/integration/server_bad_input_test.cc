// What bad input gets: an error that names the thing, with a reason for programs, and a server that goes on serving.
#include <cmath>
#include <string>

#include "base/file.h"
#include "gmock/gmock.h"
#include "grpcpp/generic/generic_stub.h"
#include "server/matrix_codec.h"
#include "tests/integration/server_fixture.h"

namespace loci {
namespace {

using Retrieval = loci::v1::RetrievalService::Stub;
using Admin = loci::v1::AdminService::Stub;
using grpc::StatusCode;
using ::testing::HasSubstr;

class ServerBadInput : public ServerFixture {
 protected:
  void SetUp() override {
    ServerFixture::SetUp();
    StartServer();
    Ingest("s", {{"a", "the cat sat"}, {"b", "a dog ran"}});
  }
  void TearDown() override {
    ExpectServing();
    ServerFixture::TearDown();
  }

  void ExpectError(const grpc::Status& status, StatusCode code, const std::string& part, const std::string& reason = "") {
    EXPECT_EQ(status.error_code(), code) << status.error_message();
    EXPECT_THAT(status.error_message(), HasSubstr(part));
    EXPECT_EQ(InfoOf(status).domain(), "loci");
    if (!reason.empty()) {
      EXPECT_EQ(InfoOf(status).reason(), reason);
    }
  }
  grpc::Status Search(const loci::v1::SearchRequest& request) {
    loci::v1::SearchResponse response;
    return Call(*retrieval, &Retrieval::Search, request, &response);
  }
  // Sends the messages of an ingest and answers how it ended.
  grpc::Status IngestMessages(const std::vector<loci::v1::IngestRequest>& messages, loci::v1::IngestResponse* response) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::minutes(1));
    auto stream = admin->Ingest(&context, response);
    for (const loci::v1::IngestRequest& message : messages) {
      if (!stream->Write(message)) break;
    }
    stream->WritesDone();
    return stream->Finish();
  }
  static loci::v1::IngestRequest Header(const std::string& store) {
    loci::v1::IngestRequest request;
    request.mutable_header()->set_store(store);
    return request;
  }
  static loci::v1::IngestRequest Batch(const std::string& id, const std::string& text) {
    loci::v1::IngestRequest request;
    loci::v1::Passage& passage = *request.mutable_batch()->add_passages();
    passage.set_id(id);
    passage.set_text(text);
    return request;
  }
};

TEST_F(ServerBadInput, SearchNamesFieldAndLimit) {
  ExpectError(Search(TextSearch("s", "", 1)), StatusCode::INVALID_ARGUMENT, "queries[0].text is empty", "INVALID_ARGUMENT");
  for (const int top_k : {0, -1, 10'001, INT32_MAX}) {
    const grpc::Status status = Search(TextSearch("s", "x", top_k));
    ExpectError(status, StatusCode::INVALID_ARGUMENT, "top_k is " + std::to_string(top_k) + "; it must be from 1 to 10000");
    EXPECT_EQ(InfoOf(status).metadata().at("field"), "top_k");
  }
  loci::v1::SearchRequest request = TextSearch("s", "x", 1);
  request.mutable_options()->set_rescore_factor(4);
  ExpectError(Search(request), StatusCode::INVALID_ARGUMENT, "rescore_factor is 4, but exact search rescores nothing", "INVALID_ARGUMENT");
  EXPECT_EQ(InfoOf(Search(request)).metadata().at("field"), "options.rescore_factor");
  request = TextSearch("s", "x", 1);
  request.mutable_options()->set_nprobe(4);
  ExpectError(Search(request), StatusCode::INVALID_ARGUMENT, "nprobe");
}

TEST_F(ServerBadInput, SearchRefusesVectorsThatDoNotFit) {
  loci::v1::SearchRequest request;
  request.set_store("s");
  request.set_top_k(1);
  loci::v1::Matrix& vector = *request.add_queries()->mutable_vector();
  std::vector<float> values(kTinyDim, 0.1f);
  values[3] = NAN;
  vector = Vector(values);
  ExpectError(Search(request), StatusCode::INVALID_ARGUMENT, "nan in row 0, column 3");
  values[3] = -INFINITY;
  vector = Vector(values);
  ExpectError(Search(request), StatusCode::INVALID_ARGUMENT, "-inf");
  values[3] = 0;
  vector = Vector(values);
  vector.mutable_data()->pop_back();
  ExpectError(Search(request), StatusCode::INVALID_ARGUMENT, "has 127 bytes");
  values[3] = 4.8e15f;
  vector = Vector(values);
  ExpectError(Search(request), StatusCode::INVALID_ARGUMENT, "queries[0].vector has the length 4.8e+15; the limit is 1e+15");
  EXPECT_EQ(InfoOf(Search(request)).metadata().at("field"), "queries[0].vector");
  values.resize(kTinyDim - 1);
  vector = Vector(values);
  ExpectError(Search(request), StatusCode::INVALID_ARGUMENT, "31");
  vector.set_rows(int64_t{1} << 62);
  ExpectError(Search(request), StatusCode::INVALID_ARGUMENT, "rows");
}

TEST_F(ServerBadInput, UnknownNamesAreNamed) {
  ExpectError(Search(TextSearch("nowhere", "x", 1)), StatusCode::NOT_FOUND, "nowhere");
  loci::v1::SearchRequest request = TextSearch("s", "x", 1);
  for (const char* generation : {"g-none", "../s"}) {
    request.set_generation(generation);
    ExpectError(Search(request), StatusCode::NOT_FOUND, generation);
  }
  ExpectError(Search(TextSearch("../s", "x", 1)), StatusCode::INVALID_ARGUMENT, "../s");

  loci::v1::EncodeRequest encode;
  encode.add_texts("x");
  loci::v1::EncodeResponse encoded;
  for (const char* encoder : {"minilm", "0123456789abcdef:0123456789abcdef"}) {
    encode.set_encoder(encoder);
    ExpectError(Call(*retrieval, &Retrieval::Encode, encode, &encoded), StatusCode::NOT_FOUND, encoder);
  }
  loci::v1::AnswerRequest answer;
  answer.set_store("s");
  answer.set_question("x");
  answer.set_reader("oracle");
  loci::v1::AnswerResponse answered;
  ExpectError(Call(*retrieval, &Retrieval::Answer, answer, &answered), StatusCode::NOT_FOUND, "oracle");
  answer.clear_reader();
  answer.clear_question();
  ExpectError(Call(*retrieval, &Retrieval::Answer, answer, &answered), StatusCode::INVALID_ARGUMENT, "question is empty");
  answer.set_question("x");
  answer.set_store("nowhere");
  ExpectError(Call(*retrieval, &Retrieval::Answer, answer, &answered), StatusCode::NOT_FOUND, "nowhere");

  loci::v1::GetPassagesRequest get;
  get.set_store("s");
  get.add_ids("a");
  get.add_ids("no such passage");
  loci::v1::GetPassagesResponse got;
  const grpc::Status missing = Call(*admin, &Admin::GetPassages, get, &got);
  ExpectError(missing, StatusCode::NOT_FOUND, "no such passage", "PASSAGE_NOT_FOUND");
  EXPECT_EQ(InfoOf(missing).metadata().at("id"), "no such passage");

  loci::v1::ActivateGenerationRequest activate;
  activate.set_store("s");
  loci::v1::ActivateGenerationResponse activated;
  ExpectError(Call(*admin, &Admin::ActivateGeneration, activate, &activated), StatusCode::INVALID_ARGUMENT, "generation is empty");
  activate.set_generation("g-none");
  ExpectError(Call(*admin, &Admin::ActivateGeneration, activate, &activated), StatusCode::NOT_FOUND, "g-none");
}

TEST_F(ServerBadInput, AStoreWithoutAGenerationSaysSo) {
  loci::v1::CreateStoreRequest create;
  create.set_store("empty");
  loci::v1::CreateStoreResponse created;
  ASSERT_TRUE(Call(*admin, &Admin::CreateStore, create, &created).ok());
  ExpectError(Search(TextSearch("empty", "x", 1)), StatusCode::FAILED_PRECONDITION, "empty", "NO_ACTIVE_GENERATION");
}

TEST_F(ServerBadInput, StrangeTextIsEncodedLikeAnyOther) {
  loci::v1::EncodeRequest request;
  std::string control;
  for (int c = 0; c < 32; ++c) control.push_back(static_cast<char>(c));
  request.add_texts(control);
  request.add_texts(std::string(1 << 20, 'w'));
  request.add_texts("\xe2\x80\x8b\xf0\x9f\x92\xa9\xcc\x81");
  loci::v1::EncodeResponse response;
  const grpc::Status status = Call(*retrieval, &Retrieval::Encode, request, &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(response.vectors().rows(), 3);
  request.set_texts(1, std::string((1 << 20) + 1, 'w'));
  ExpectError(Call(*retrieval, &Retrieval::Encode, request, &response), StatusCode::INVALID_ARGUMENT,
              "texts[1] has 1048577 bytes; the limit is 1048576");
}

TEST_F(ServerBadInput, AnUpsertWithOneBadPassageWritesNothing) {
  loci::v1::UpsertPassagesRequest upsert;
  upsert.set_store("s");
  upsert.add_passages()->set_id("good");
  upsert.mutable_passages(0)->set_text("text");
  upsert.add_passages()->set_id(std::string(600, 'x'));
  loci::v1::UpsertPassagesResponse upserted;
  ExpectError(Call(*admin, &Admin::UpsertPassages, upsert, &upserted), StatusCode::INVALID_ARGUMENT, "passages[1]: id has 600 bytes");
  loci::v1::GetPassagesRequest get;
  get.set_store("s");
  get.add_ids("good");
  loci::v1::GetPassagesResponse got;
  ExpectError(Call(*admin, &Admin::GetPassages, get, &got), StatusCode::NOT_FOUND, "good");
}

TEST_F(ServerBadInput, IngestWantsItsHeaderFirstAndOnce) {
  loci::v1::IngestResponse response;
  ExpectError(IngestMessages({Batch("x", "y")}, &response), StatusCode::INVALID_ARGUMENT, "must be the header");
  ExpectError(IngestMessages({}, &response), StatusCode::INVALID_ARGUMENT, "must be the header");
  ExpectError(IngestMessages({loci::v1::IngestRequest()}, &response), StatusCode::INVALID_ARGUMENT, "must be the header");
  ExpectError(IngestMessages({Header("t"), Header("t")}, &response), StatusCode::INVALID_ARGUMENT, "second time");
  ExpectError(IngestMessages({Header("t"), loci::v1::IngestRequest()}, &response), StatusCode::INVALID_ARGUMENT, "kind is not set");
  loci::v1::IngestRequest index = Header("t");
  index.mutable_header()->mutable_index()->set_factory("Nonsense99");
  ExpectError(IngestMessages({index, Batch("x", "y")}, &response), StatusCode::INVALID_ARGUMENT, "Nonsense99");
}

TEST_F(ServerBadInput, IngestReportsBadPassagesAndKeepsTheRest) {
  loci::v1::IngestRequest batch = Batch("good", "text");
  batch.mutable_batch()->add_passages()->set_text("no id");
  batch.mutable_batch()->add_passages()->set_id("no text");
  loci::v1::IngestResponse response;
  const grpc::Status status = IngestMessages({Header("t"), batch}, &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(response.accepted_count(), 1);
  EXPECT_EQ(response.rejected_count(), 2);
  ASSERT_EQ(response.errors_size(), 2);
  EXPECT_EQ(response.errors(0).line(), 2);
  EXPECT_THAT(response.errors(0).message(), HasSubstr("id is empty"));
  EXPECT_EQ(response.errors(1).line(), 3);
  EXPECT_EQ(response.errors(1).id(), "no text");
}

TEST_F(ServerBadInput, IngestTakesVectorsOfTheNamedEncoderOnly) {
  loci::v1::GetServerInfoResponse info;
  ASSERT_TRUE(Call(*admin, &Admin::GetServerInfo, loci::v1::GetServerInfoRequest(), &info).ok());
  loci::v1::IngestRequest header = Header("v");
  header.mutable_header()->set_encoder_fingerprint(info.encoders(0).fingerprint());
  loci::v1::IngestRequest batch = Batch("a", "x");
  std::vector<float> values(kTinyDim, 0);
  values[1] = 1;
  *batch.mutable_batch()->mutable_vectors() = Vector(values);
  loci::v1::IngestResponse response;
  const grpc::Status status = IngestMessages({header, batch}, &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  loci::v1::SearchRequest request;
  request.set_store("v");
  request.set_top_k(1);
  *request.add_queries()->mutable_vector() = Vector(values);
  loci::v1::SearchResponse found;
  ASSERT_TRUE(Call(*retrieval, &Retrieval::Search, request, &found).ok());
  EXPECT_EQ(found.results(0).hits(0).score(), 1);

  values.resize(5);
  *batch.mutable_batch()->mutable_vectors() = Vector(values);
  ExpectError(IngestMessages({header, batch}, &response), StatusCode::INVALID_ARGUMENT, "5");
  batch.mutable_batch()->mutable_vectors()->set_rows(2);
  ExpectError(IngestMessages({header, batch}, &response), StatusCode::INVALID_ARGUMENT, "the batch has 1 passages");
  header.mutable_header()->set_encoder_fingerprint("0123456789abcdef");
  EXPECT_FALSE(IngestMessages({header, batch}, &response).ok());
}

TEST_F(ServerBadInput, SurvivesWhatGrpcItselfRefuses) {
  // A string that is no UTF-8, then bytes that are no message.
  loci::v1::SearchRequest request = TextSearch("s", "xyz", 1);
  std::string bytes = request.SerializeAsString();
  bytes[bytes.find("xyz")] = '\xff';
  for (const std::string& message : {bytes, std::string("\xff\xff\xff\xff")}) {
    grpc::GenericStub stub(channel);
    grpc::Slice slice(message);
    grpc::ByteBuffer buffer(&slice, 1);
    grpc::ByteBuffer reply;
    grpc::ClientContext context;
    grpc::CompletionQueue queue;
    auto call = stub.PrepareUnaryCall(&context, "/loci.v1.RetrievalService/Search", buffer, &queue);
    call->StartCall();
    grpc::Status status;
    call->Finish(&reply, &status, nullptr);
    void* tag;
    bool ok;
    ASSERT_TRUE(queue.Next(&tag, &ok));
    EXPECT_FALSE(status.ok());
  }
  // A message over 64 MiB.
  loci::v1::EncodeRequest large;
  for (int i = 0; i < 65; ++i) large.add_texts(std::string(1 << 20, 'x'));
  loci::v1::EncodeResponse response;
  EXPECT_EQ(Call(*retrieval, &Retrieval::Encode, large, &response).error_code(), StatusCode::RESOURCE_EXHAUSTED);
}

TEST_F(ServerBadInput, ErrorsWithLongValuesStillArrive) {
  loci::v1::EncodeRequest request;
  request.add_texts("x");
  std::string name;
  while (name.size() < 100'000) name += "é";
  request.set_encoder(name);
  loci::v1::EncodeResponse response;
  ExpectError(Call(*retrieval, &Retrieval::Encode, request, &response), StatusCode::NOT_FOUND, "no encoder");
}

}  // namespace
}  // namespace loci
