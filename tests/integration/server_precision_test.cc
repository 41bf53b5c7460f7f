// Stores that are set to int8, over gRPC: beside others, at the same time, each with its own vectors.
#include <memory>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include "encoder/encoder.h"
#include "encoder/text_encoder.h"
#include "gmock/gmock.h"
#include "tests/integration/server_fixture.h"

namespace loci {
namespace {

using grpc::StatusCode;
using Admin = loci::v1::AdminService::Stub;
using Retrieval = loci::v1::RetrievalService::Stub;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class ServerPrecision : public ServerFixture {
 protected:
  void SetUp() override {
    ServerFixture::SetUp();
    StartServer();
    for (const auto& [encoder, precision] : {std::pair(&auto_, Precision::kAuto), std::pair(&int8_, Precision::kInt8)}) {
      EncoderOptions encoder_options;
      encoder_options.precision = precision;
      const auto loaded = LoadEncoder(PosixFileSystem(), options.model_directory, encoder_options);
      ASSERT_TRUE(loaded.ok()) << loaded.status();
      *encoder = std::make_unique<TextEncoder>(*loaded, BatcherOptions(), RealClock(), NullMetrics());
    }
    auto_name_ = auto_->spec().element_type;
  }
  // By an encoder of this test's own.
  static std::vector<float> Encoded(TextEncoder& encoder, const std::string& text, TextRole role = TextRole::kPassage) {
    const auto encoded = encoder.EncodeAndWait({text}, {.role = role});
    EXPECT_TRUE(encoded.ok()) << encoded.status();
    return encoded->vectors;
  }
  static std::vector<float> Floats(const loci::v1::Matrix& matrix) {
    const float* const values = reinterpret_cast<const float*>(matrix.data().data());
    return std::vector<float>(values, values + matrix.data().size() / sizeof(float));
  }
  grpc::Status Set(const std::string& store, const std::string& precision, loci::v1::UpdateStoreResponse* response) {
    loci::v1::UpdateStoreRequest request;
    request.set_store(store);
    request.set_encoder_precision(precision);
    return Call(*admin, &Admin::UpdateStore, request, response);
  }
  void Create(const std::string& store, const std::string& precision) {
    loci::v1::CreateStoreRequest request;
    request.set_store(store);
    request.set_encoder_precision(precision);
    loci::v1::CreateStoreResponse response;
    const grpc::Status status = Call(*admin, &Admin::CreateStore, request, &response);
    ASSERT_TRUE(status.ok()) << status.error_message();
    EXPECT_EQ(response.store().encoder_precision(), precision);
  }
  std::vector<std::string> Recorded(const std::string& store) {
    loci::v1::ListGenerationsRequest request;
    request.set_store(store);
    loci::v1::ListGenerationsResponse response;
    EXPECT_TRUE(Call(*admin, &Admin::ListGenerations, request, &response).ok());
    for (const loci::v1::Generation& generation : response.generations()) {
      if (generation.generation() == response.generation())
        return {generation.encoder_precisions().begin(), generation.encoder_precisions().end()};
    }
    return {};
  }
  // That query and passages of the store are the encoder's.
  void ExpectVectorsOf(TextEncoder& encoder, const std::string& store, const std::string& text) {
    loci::v1::SearchRequest request = TextSearch(store, text, static_cast<int>(texts_.size()));
    request.set_include_vectors(true);
    request.set_include_text(true);
    loci::v1::SearchResponse response;
    const grpc::Status status = Call(*retrieval, &Retrieval::Search, request, &response);
    ASSERT_TRUE(status.ok()) << status.error_message();
    ASSERT_EQ(response.results(0).hits_size(), static_cast<int>(texts_.size()));
    const std::vector<float> query = Encoded(encoder, text, TextRole::kQuery);
    for (const loci::v1::Hit& hit : response.results(0).hits()) {
      const std::vector<float> passage = Floats(hit.vector());
      EXPECT_EQ(passage, Encoded(encoder, hit.passage().text())) << store << ": " << hit.id();
      EXPECT_NEAR(hit.score(), std::inner_product(query.begin(), query.end(), passage.begin(), 0.0), 1e-6)
          << store << ": " << hit.id();
    }
  }
  std::vector<std::pair<std::string, std::string>> Passages() const {
    std::vector<std::pair<std::string, std::string>> passages;
    for (const std::string& text : texts_) passages.emplace_back("id of " + text, text);
    return passages;
  }

  const std::vector<std::string> texts_ = {"the red fox", "a blue whale in the sea", "green tea", "the house by the river",
                                           "one"};
  std::unique_ptr<TextEncoder> auto_, int8_;
  std::string auto_name_;
};

TEST_F(ServerPrecision, TwoStoresAtOnceEachHaveTheirOwnVectors) {
  Create("near", "int8");
  Create("plain", "auto");
  Ingest("near", Passages());
  Ingest("plain", Passages());
  EXPECT_THAT(Recorded("near"), ElementsAre("int8"));
  EXPECT_THAT(Recorded("plain"), ElementsAre(auto_name_));
  // Else what follows shows nothing.
  ASSERT_NE(Encoded(*auto_, texts_[0]), Encoded(*int8_, texts_[0]));
  for (int round = 0; round < 2; ++round) {
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; ++i) {
      threads.emplace_back([&, int8 = i % 2 == 0] {
        for (int n = 0; n < 20; ++n)
          ExpectVectorsOf(int8 ? *int8_ : *auto_, int8 ? "near" : "plain", texts_[static_cast<size_t>(n) % texts_.size()]);
      });
    }
    for (std::thread& thread : threads) thread.join();
    StartServer();
  }
  loci::v1::GetServerInfoResponse info;
  ASSERT_TRUE(Call(*admin, &Admin::GetServerInfo, loci::v1::GetServerInfoRequest(), &info).ok());
  ASSERT_EQ(info.encoders_size(), 2);
  EXPECT_EQ(info.encoders(0).element_type(), auto_name_);
  EXPECT_EQ(info.encoders(1).element_type(), "int8");
  EXPECT_EQ(info.encoders(1).fingerprint(), info.encoders(0).fingerprint());
  EXPECT_THAT(info.encoders(1).element_type_reason(), HasSubstr("stores are set to int8; the CPU has"));
  const std::string labels =
      "encoder=\"" + info.encoders(0).model() + "\",fingerprint=\"" + info.encoders(0).fingerprint() + "\"";
  EXPECT_EQ(Metric("loci_batcher_queued_requests{" + labels + "}"), 0) << "batches of its own";
  EXPECT_EQ(Metric("loci_batcher_queued_requests{" + labels + ",precision=\"int8\"}"), 0);
}

TEST_F(ServerPrecision, WhatIsSetShowsAtOnceInQueriesAndInWrites) {
  Ingest("s", Passages());
  loci::v1::UpdateStoreResponse updated;
  ASSERT_TRUE(Set("s", "int8", &updated).ok());
  EXPECT_EQ(updated.store().encoder_precision(), "int8");
  for (const auto& [id, text] : Passages()) Upsert("s", id, text);
  ExpectVectorsOf(*int8_, "s", "a query");
  EXPECT_THAT(Recorded("s"), ElementsAre(auto_name_)) << "writes are not counted";
  loci::v1::FoldStoreRequest fold;
  fold.set_store("s");
  loci::v1::FoldStoreResponse folded;
  ASSERT_TRUE(Call(*admin, &Admin::FoldStore, fold, &folded).ok());
  EXPECT_THAT(Recorded("s"), ElementsAre("int8")) << "of the body nothing is left";

  ASSERT_TRUE(Set("s", "auto", &updated).ok());
  EXPECT_EQ(updated.store().encoder_precision(), "auto");
  loci::v1::ReembedStoreRequest reembed;
  reembed.set_store("s");
  reembed.set_encoder(auto_->spec().fingerprint.ToString());
  loci::v1::ReembedStoreResponse reembedded;
  const grpc::Status status = Call(*admin, &Admin::ReembedStore, reembed, &reembedded);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(reembedded.encoded_count(), static_cast<int64_t>(texts_.size()));
  EXPECT_THAT(Recorded("s"), ElementsAre(auto_name_));
  ExpectVectorsOf(*auto_, "s", "a query");
  EXPECT_EQ(InfoOf(Call(*admin, &Admin::ReembedStore, reembed, &reembedded)).reason(), "SAME_ENCODER");
}

TEST_F(ServerPrecision, OtherWordsAreRefusedAndChangeNothing) {
  Create("s", "int8");
  for (const std::string& word : {std::string("INT8"), std::string(), std::string("float32"), std::string(10'000, 'x')}) {
    loci::v1::UpdateStoreResponse updated;
    const grpc::Status status = Set("s", word, &updated);
    EXPECT_EQ(status.error_code(), StatusCode::INVALID_ARGUMENT) << word;
    EXPECT_THAT(status.error_message(), HasSubstr("it must be auto or int8"));
    EXPECT_LT(status.error_message().size(), 300u);
    EXPECT_EQ(InfoOf(status).metadata().at("field"), "encoder_precision");
    loci::v1::CreateStoreRequest create;
    create.set_store("new");
    create.set_encoder_precision(word);
    loci::v1::CreateStoreResponse created;
    EXPECT_EQ(Call(*admin, &Admin::CreateStore, create, &created).error_code(), StatusCode::INVALID_ARGUMENT);
  }
  loci::v1::UpdateStoreResponse updated;
  EXPECT_EQ(Set("absent", "int8", &updated).error_code(), StatusCode::NOT_FOUND);
  loci::v1::ListStoresResponse stores;
  ASSERT_TRUE(Call(*admin, &Admin::ListStores, loci::v1::ListStoresRequest(), &stores).ok());
  ASSERT_EQ(stores.stores_size(), 1);
  EXPECT_EQ(stores.stores(0).encoder_precision(), "int8");
}

}  // namespace
}  // namespace loci
