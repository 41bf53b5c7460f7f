// Several encoders in one server: each store is asked with its own.
#include <string>
#include <thread>
#include <vector>

#include "encoder/testing/tiny_checkpoint.h"
#include "gmock/gmock.h"
#include "tests/integration/server_fixture.h"

namespace loci {
namespace {

using grpc::StatusCode;
using Admin = loci::v1::AdminService::Stub;
using Retrieval = loci::v1::RetrievalService::Stub;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr int kSmallDim = 16;

class ServerEncoders : public ServerFixture {
 protected:
  void SetUp() override {
    ServerFixture::SetUp();
    const std::string small = directory_ + "/small";
    ASSERT_TRUE(WriteTinyCheckpoint(PosixFileSystem(), small, {.hidden_size = kSmallDim, .intermediate_size = 32, .seed = 7}).ok());
    options.encoder_directories = {small};
    StartServer();
    loci::v1::GetServerInfoResponse info;
    ASSERT_TRUE(Call(*admin, &Admin::GetServerInfo, loci::v1::GetServerInfoRequest(), &info).ok());
    ASSERT_EQ(info.encoders_size(), 2);
    default_ = info.encoders(0);
    small_ = info.encoders(1);
  }
  grpc::Status Encode(const std::string& encoder, const std::string& text, loci::v1::EncodeResponse* response) {
    loci::v1::EncodeRequest request;
    request.set_encoder(encoder);
    request.add_texts(text);
    request.set_role(loci::v1::TEXT_ROLE_QUERY);
    return Call(*retrieval, &Retrieval::Encode, request, response);
  }
  loci::v1::IngestResponse IngestWith(const std::string& store, const std::string& encoder) {
    grpc::ClientContext context;
    loci::v1::IngestResponse response;
    auto stream = admin->Ingest(&context, &response);
    loci::v1::IngestRequest header;
    header.mutable_header()->set_store(store);
    header.mutable_header()->set_encoder_fingerprint(encoder);
    EXPECT_TRUE(stream->Write(header));
    loci::v1::IngestRequest batch;
    for (const char* text : {"the red fox", "a blue whale", "green tea"}) {
      loci::v1::Passage& passage = *batch.mutable_batch()->add_passages();
      passage.set_id(text);
      passage.set_text(text);
    }
    EXPECT_TRUE(stream->Write(batch));
    stream->WritesDone();
    const grpc::Status status = stream->Finish();
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response;
  }
  loci::v1::SearchResponse Search(const std::string& store, const std::string& text) {
    loci::v1::SearchRequest request = TextSearch(store, text, 3);
    request.set_include_vectors(true);
    loci::v1::SearchResponse response;
    const grpc::Status status = Call(*retrieval, &Retrieval::Search, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response;
  }

  loci::v1::EncoderInfo default_, small_;
};

TEST_F(ServerEncoders, AreListedAndNamedByFingerprintOrFolder) {
  EXPECT_EQ(default_.model(), "model");
  EXPECT_EQ(default_.dim(), kTinyDim);
  EXPECT_EQ(small_.model(), "small");
  EXPECT_EQ(small_.dim(), kSmallDim);
  loci::v1::EncodeResponse response;
  ASSERT_TRUE(Encode("", "the red fox", &response).ok());
  EXPECT_EQ(response.encoder_fingerprint(), default_.fingerprint());
  EXPECT_EQ(response.vectors().cols(), kTinyDim);
  for (const std::string& name : {small_.fingerprint(), small_.fingerprint().substr(17), std::string("small")}) {
    ASSERT_TRUE(Encode(name, "the red fox", &response).ok()) << name;
    EXPECT_EQ(response.encoder_fingerprint(), small_.fingerprint());
    EXPECT_EQ(response.vectors().cols(), kSmallDim);
  }
  for (const std::string& name : {std::string("tiny"), std::string("../small"), std::string("0123456789abcdef"), std::string(10'000, 'x')}) {
    const grpc::Status status = Encode(name, "x", &response);
    EXPECT_EQ(status.error_code(), StatusCode::NOT_FOUND) << status.error_message();
    EXPECT_EQ(InfoOf(status).reason(), "ENCODER_NOT_FOUND");
    EXPECT_LT(status.error_message().size(), 400u);
  }
}

TEST_F(ServerEncoders, ServeTwoStoresAtOnceAlsoAfterARestart) {
  IngestWith("wide", "");
  IngestWith("narrow", small_.fingerprint());
  const auto check = [&] {
    loci::v1::EncodeResponse query;
    ASSERT_TRUE(Encode("small", "a blue whale", &query).ok());
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; ++i) {
      threads.emplace_back([&, wide = i % 2 == 0] {
        for (int n = 0; n < 20; ++n) {
          const loci::v1::SearchResponse found = Search(wide ? "wide" : "narrow", "a blue whale");
          EXPECT_EQ(found.encoder_fingerprint(), wide ? default_.fingerprint() : small_.fingerprint());
          ASSERT_EQ(found.results_size(), 1);
          ASSERT_EQ(found.results(0).hits_size(), 3);
          EXPECT_EQ(found.results(0).hits(0).vector().cols(), wide ? kTinyDim : kSmallDim);
          EXPECT_EQ(found.results(0).hits(0).id(), "a blue whale");
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    // The store's own encoder made the query: the same as its vector sent along.
    loci::v1::SearchRequest by_vector;
    by_vector.set_store("narrow");
    by_vector.set_top_k(3);
    *by_vector.add_queries()->mutable_vector() = query.vectors();
    loci::v1::SearchResponse found;
    ASSERT_TRUE(Call(*retrieval, &Retrieval::Search, by_vector, &found).ok());
    const loci::v1::SearchResponse by_text = Search("narrow", "a blue whale");
    for (int i = 0; i < 3; ++i) EXPECT_EQ(found.results(0).hits(i).score(), by_text.results(0).hits(i).score());
  };
  check();
  // An upsert is encoded by the store's encoder.
  loci::v1::UpsertPassagesRequest upsert;
  upsert.set_store("narrow");
  upsert.add_passages()->set_id("w");
  upsert.mutable_passages(0)->set_text("written");
  loci::v1::UpsertPassagesResponse upserted;
  ASSERT_TRUE(Call(*admin, &Admin::UpsertPassages, upsert, &upserted).ok());
  EXPECT_EQ(Search("narrow", "written").results(0).hits(0).id(), "w");
  EXPECT_EQ(Metric("loci_memory_bytes{encoder=\"" + small_.fingerprint() + "\",kind=\"resident\",owner=\"encoder\"}"), small_.memory_bytes());
  EXPECT_EQ(Metric("loci_batcher_queued_requests{encoder=\"small\",fingerprint=\"" + small_.fingerprint() + "\"}"), 0) << "a batcher each";
  StartServer();
  check();
  // What a store needs is loaded, though it is no longer named.
  options.encoder_directories.clear();
  StartServer();
  check();
}

TEST_F(ServerEncoders, AMissingOneIsSaidAtTheStart) {
  options.encoder_directories.push_back(directory_ + "/none");
  server.reset();
  const absl::StatusOr<std::unique_ptr<Server>> started = Server::Start(options);
  EXPECT_FALSE(started.ok());
  EXPECT_THAT(std::string(started.status().message()), HasSubstr("no model in " + directory_ + "/none"));
}

TEST_F(ServerEncoders, RetentionIsTheServersWhereAStoreSetsNone) {
  options.keep_generations = 1;
  StartServer();
  loci::v1::CreateStoreRequest create;
  create.set_store("own");
  create.set_keep_generations(0);
  loci::v1::CreateStoreResponse created;
  ASSERT_TRUE(Call(*admin, &Admin::CreateStore, create, &created).ok());
  EXPECT_EQ(created.store().keep_generations(), 0);
  for (int i = 0; i < 4; ++i) {
    Ingest("s", {{"a", "one"}});
    Ingest("own", {{"a", "one"}});
  }
  const auto count = [&](const std::string& store) {
    loci::v1::ListGenerationsRequest list;
    list.set_store(store);
    loci::v1::ListGenerationsResponse listed;
    EXPECT_TRUE(Call(*admin, &Admin::ListGenerations, list, &listed).ok());
    return listed.generations_size();
  };
  for (int i = 0; i < 2'500 && count("s") != 2; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(2));
  EXPECT_EQ(count("s"), 2);
  EXPECT_EQ(count("own"), 4);
  loci::v1::GetStoreRequest get;
  get.set_store("s");
  loci::v1::GetStoreResponse store;
  ASSERT_TRUE(Call(*admin, &Admin::GetStore, get, &store).ok());
  EXPECT_EQ(store.store().keep_generations(), 1);
}

}  // namespace
}  // namespace loci
