// Filters through gRPC: what is found, what is counted, and what bad ones get.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "tests/integration/server_fixture.h"

namespace loci {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::UnorderedElementsAre;

class ServerFilter : public ServerFixture {
 protected:
  void SetUp() override {
    ServerFixture::SetUp();
    StartServer();
    Ingest("s", {{"no-metadata", "a text without metadata"}});
    Upsert("en-2019", "en", 2019);
    Upsert("en-2020", "en", 2020);
    Upsert("de-2021", "de", 2021);
  }

  void Upsert(const std::string& id, const std::string& lang, int64_t year) {
    v1::UpsertPassagesRequest request;
    request.set_store("s");
    v1::Passage& passage = *request.add_passages();
    passage.set_id(id);
    passage.set_text("a text of " + id);
    (*passage.mutable_metadata())["lang"].set_string_value(lang);
    (*passage.mutable_metadata())["year"].set_int64_value(year);
    (*passage.mutable_metadata())["tags"].mutable_string_list_value()->add_values(lang + "-tag");
    v1::UpsertPassagesResponse response;
    const grpc::Status status = Call(*admin, &v1::AdminService::Stub::UpsertPassages, request, &response);
    ASSERT_TRUE(status.ok()) << status.error_message();
  }

  grpc::Status Search(const std::string& filter, v1::SearchResponse* response, int top_k = 10) {
    v1::SearchRequest request = TextSearch("s", "a text", top_k);
    request.set_filter(filter);
    return Call(*retrieval, &v1::RetrievalService::Stub::Search, request, response);
  }

  std::vector<std::string> Ids(const std::string& filter, int top_k = 10) {
    const grpc::Status status = Search(filter, &response_, top_k);
    EXPECT_TRUE(status.ok()) << status.error_message();
    std::vector<std::string> ids;
    for (const v1::Hit& hit : response_.results(0).hits()) ids.push_back(hit.id());
    return ids;
  }

  v1::SearchResponse response_;
};

TEST_F(ServerFilter, SearchFindsOnlyWhatMatches) {
  EXPECT_EQ(Ids("").size(), 4u);
  EXPECT_EQ(response_.match_count(), 0);
  EXPECT_EQ(response_.timings().filter_us(), 0);
  EXPECT_THAT(Ids("lang = 'en'"), UnorderedElementsAre("en-2019", "en-2020"));
  EXPECT_EQ(response_.match_count(), 2);
  EXPECT_GE(response_.timings().total_us(), response_.timings().filter_us() + response_.timings().search_us());
  EXPECT_TRUE(response_.exact());
  EXPECT_EQ(Ids("lang = 'en'", 1).size(), 1u);
  EXPECT_THAT(Ids("year >= 2020 and not 'de-tag' in tags"), UnorderedElementsAre("en-2020"));
  EXPECT_THAT(Ids("not has(lang)"), UnorderedElementsAre("no-metadata"));
  EXPECT_THAT(Ids("id in ('de-2021', 'no-metadata', 'absent')"), UnorderedElementsAre("de-2021", "no-metadata"));
  EXPECT_THAT(Ids("lang = 'fr'"), IsEmpty());
  // A write that replaces metadata is seen by the next filter.
  Upsert("en-2020", "fr", 2020);
  EXPECT_THAT(Ids("lang = 'fr'"), UnorderedElementsAre("en-2020"));
  EXPECT_THAT(Ids("lang = 'en'"), UnorderedElementsAre("en-2019"));
}

TEST_F(ServerFilter, AnswersAreReadFromWhatMatches) {
  v1::AnswerRequest request;
  request.set_store("s");
  request.set_question("a text of what?");
  request.set_filter("lang = 'de'");
  v1::AnswerResponse response;
  const grpc::Status status = Call(*retrieval, &v1::RetrievalService::Stub::Answer, request, &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  ASSERT_EQ(response.passages_size(), 1);
  EXPECT_EQ(response.passages(0).id(), "de-2021");
  request.set_filter("lang = 'fr'");
  ASSERT_TRUE(Call(*retrieval, &v1::RetrievalService::Stub::Answer, request, &response).ok());
  EXPECT_EQ(response.passages_size(), 0);
  EXPECT_TRUE(response.abstained());
}

TEST_F(ServerFilter, ErrorsHaveThePositionAndWhatWasExpected) {
  const grpc::Status status = Search("lang = 'en' and year >", &response_);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), HasSubstr("filter has its end at byte 22"));
  const rpc::ErrorInfo info = InfoOf(status);
  EXPECT_EQ(info.reason(), "INVALID_ARGUMENT");
  EXPECT_EQ(info.metadata().at("field"), "filter");
  EXPECT_EQ(info.metadata().at("position"), "22");
  EXPECT_THAT(info.metadata().at("expected"), HasSubstr("a value"));
  // Also in a store that is not there: what is wrong with the request itself is said first.
  v1::SearchRequest request = TextSearch("absent", "x", 1);
  request.set_filter("(");
  EXPECT_EQ(Call(*retrieval, &v1::RetrievalService::Stub::Search, request, &response_).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(ServerFilter, HostileFiltersAreRefusedAndTheServerGoesOn) {
  const auto code = [&](const std::string& filter) { return Search(filter, &response_).error_code(); };
  EXPECT_EQ(code(std::string(100'000, '(')), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(code(std::string(100'000, '(') + "a" + std::string(100'000, ')')), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(code(std::string(3 << 20, 'x')), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(code("a = '" + std::string(200'000, '\\')), grpc::StatusCode::INVALID_ARGUMENT);
  std::string nots;
  for (int i = 0; i < 60'000; ++i) nots += "not ";
  EXPECT_EQ(code(nots), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(code(std::string("a = \0", 5)), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(Ids("lang = 'de'").size(), 1u);
}

TEST_F(ServerFilter, TheTimeIsAPhase) {
  const double before = Metric("loci_phase_duration_seconds_count{method=\"Search\",phase=\"filter\"}");
  std::string filter = "year > 0";
  for (int i = 0; i < 900; ++i) filter += " or lang != 'x'";
  Ids(filter);
  EXPECT_GT(response_.timings().filter_us(), 0);
  EXPECT_EQ(Metric("loci_phase_duration_seconds_count{method=\"Search\",phase=\"filter\"}"), before + 1);
}

TEST_F(ServerFilter, WritesBesideFiltersAreSeenWholeOrNotAtAll) {
  Upsert("moving", "even", 0);
  std::atomic<bool> written{false};
  std::thread writer([&] {
    for (int i = 1; i < 60; ++i) Upsert("moving", i % 2 == 0 ? "even" : "odd", i % 2);
    written = true;
  });
  while (!written) {
    v1::SearchResponse response;
    v1::SearchRequest request = TextSearch("s", "a text", 10);
    request.set_include_text(true);
    request.set_filter("lang in ('even', 'odd')");
    const grpc::Status status = Call(*retrieval, &v1::RetrievalService::Stub::Search, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    if (!status.ok()) break;
    EXPECT_EQ(response.results(0).hits_size(), 1);
    for (const v1::Hit& hit : response.results(0).hits()) {
      const auto& metadata = hit.passage().metadata();
      EXPECT_EQ(metadata.at("lang").string_value(), metadata.at("year").int64_value() == 0 ? "even" : "odd");
    }
  }
  writer.join();
}

}  // namespace
}  // namespace loci
