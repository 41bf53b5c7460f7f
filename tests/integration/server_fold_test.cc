// Folds as a client sees them.
#include <atomic>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "tests/integration/server_fixture.h"

namespace loci {
namespace {

using grpc::StatusCode;
using Admin = loci::v1::AdminService::Stub;
using Retrieval = loci::v1::RetrievalService::Stub;

class ServerFold : public ServerFixture {
 protected:
  grpc::Status Fold(loci::v1::FoldStoreResponse* response, bool no_wait = false) {
    loci::v1::FoldStoreRequest request;
    request.set_store("s");
    request.set_no_wait(no_wait);
    return Call(*admin, &Admin::FoldStore, request, response);
  }
  loci::v1::SearchResponse Search(int top_k) {
    loci::v1::SearchRequest request = TextSearch("s", "some words", top_k);
    request.set_include_text(true);
    loci::v1::SearchResponse response;
    const grpc::Status status = Call(*retrieval, &Retrieval::Search, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response;
  }
  static std::string Hits(const loci::v1::SearchResponse& response) {
    std::string hits;
    for (const loci::v1::Hit& hit : response.results(0).hits()) hits += hit.SerializeAsString();
    return hits;
  }
};

TEST_F(ServerFold, IsAJobAndRepliesAreWhatTheyWere) {
  StartServer();
  const std::string before = Ingest("s", {{"a", "one"}, {"b", "two"}, {"c", "three"}}).generation();
  Upsert("s", "d", "four");
  Upsert("s", "a", "one again");
  const loci::v1::SearchResponse found = Search(10);
  loci::v1::FoldStoreResponse folded;
  const grpc::Status status = Fold(&folded);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_TRUE(folded.done());
  EXPECT_EQ(folded.previous_generation(), before);
  EXPECT_EQ(folded.revision(), found.revision());
  EXPECT_EQ(folded.passage_count(), 4);
  EXPECT_EQ(folded.folded_count(), 2);
  EXPECT_EQ(folded.dropped_count(), 1);
  const loci::v1::SearchResponse after = Search(10);
  EXPECT_EQ(after.generation(), folded.generation());
  EXPECT_EQ(after.revision(), found.revision());
  EXPECT_EQ(Hits(after), Hits(found));

  const loci::v1::Job job = GetJob(folded.job());
  EXPECT_EQ(job.kind(), "fold");
  EXPECT_EQ(job.state(), loci::v1::JOB_STATE_SUCCEEDED);
  EXPECT_EQ(job.generation(), folded.generation());
  EXPECT_EQ(job.fold().SerializeAsString(), folded.SerializeAsString());
  EXPECT_EQ(Metric("loci_folds_total{result=\"succeeded\"}"), 1);
  EXPECT_EQ(Metric("loci_store_overlay_passages{store=\"s\"}"), 0);

  loci::v1::FoldStoreResponse nothing;
  ASSERT_TRUE(Fold(&nothing, /*no_wait=*/true).ok());
  EXPECT_FALSE(nothing.done());
  const loci::v1::Job second = WaitForEnd(nothing.job());
  EXPECT_EQ(second.state(), loci::v1::JOB_STATE_SUCCEEDED) << second.error_message();
  EXPECT_EQ(second.fold().previous_generation(), "");
  EXPECT_EQ(second.fold().generation(), folded.generation());

  StartServer();
  EXPECT_EQ(Hits(Search(10)), Hits(found));
  EXPECT_EQ(GetJob(folded.job()).fold().generation(), folded.generation());
}

TEST_F(ServerFold, BadRequestsAreTold) {
  StartServer();
  loci::v1::FoldStoreResponse response;
  EXPECT_EQ(Fold(&response).error_code(), StatusCode::NOT_FOUND);
  loci::v1::FoldStoreRequest request;
  request.set_store("No store!");
  EXPECT_EQ(Call(*admin, &Admin::FoldStore, request, &response).error_code(), StatusCode::INVALID_ARGUMENT);
  loci::v1::CreateStoreRequest create;
  create.set_store("s");
  loci::v1::CreateStoreResponse created;
  ASSERT_TRUE(Call(*admin, &Admin::CreateStore, create, &created).ok());
  const grpc::Status status = Fold(&response);
  EXPECT_EQ(status.error_code(), StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(InfoOf(status).reason(), "NO_ACTIVE_GENERATION");
}

TEST_F(ServerFold, AnIngestIsInItsWay) {
  StartServer();
  Ingest("s", {{"a", "one"}});
  Upsert("s", "b", "two");
  grpc::ClientContext context;
  loci::v1::IngestResponse ingested;
  const auto stream = admin->Ingest(&context, &ingested);
  loci::v1::IngestRequest header;
  header.mutable_header()->set_store("s");
  ASSERT_TRUE(stream->Write(header));
  WaitForMetric("loci_jobs_running{kind=\"ingest\"}", 1);
  loci::v1::FoldStoreResponse response;
  const grpc::Status status = Fold(&response);
  EXPECT_EQ(status.error_code(), StatusCode::ABORTED);
  EXPECT_EQ(InfoOf(status).reason(), "JOB_IN_THE_WAY");
  context.TryCancel();
  (void)stream->Finish();
}

// By itself, while clients write and read: nothing is lost, no read goes back.
TEST_F(ServerFold, HappensByItselfUnderWritesAndReads) {
  options.fold = {.max_overlay_passages = 5};
  options.keep_generations = 1;
  StartServer();
  Ingest("s", {{"a", "one"}});
  std::atomic<bool> stop{false};
  std::thread reader([&] {
    int64_t revision = 0;
    while (!stop) {
      const loci::v1::SearchResponse found = Search(100);
      EXPECT_GE(found.revision(), revision);
      revision = found.revision();
    }
  });
  std::map<std::string, std::string> expected = {{"a", "one"}};
  for (int i = 0; i < 2'000 && Metric("loci_folds_total{result=\"succeeded\"}") < 4; ++i) {
    const std::string id = absl::StrCat("p", i % 40), text = absl::StrCat("text ", i);
    Upsert("s", id, text);
    expected[id] = text;
    if (i % 10 != 0) continue;
    const loci::v1::SearchResponse found = Search(100);
    ASSERT_EQ(found.results(0).hits_size(), static_cast<int>(expected.size()));
    for (const loci::v1::Hit& hit : found.results(0).hits()) ASSERT_EQ(hit.passage().text(), expected[hit.id()]);
  }
  stop = true;
  reader.join();
  EXPECT_GE(Metric("loci_folds_total{result=\"succeeded\"}"), 4);
  EXPECT_EQ(Metric("loci_folds_total{result=\"failed\"}"), 0);
  // A deletion of the store does not wait for it.
  loci::v1::DeleteStoreRequest request;
  request.set_store("s");
  request.set_confirm_name("s");
  loci::v1::DeleteStoreResponse deleted;
  const grpc::Status status = Call(*admin, &Admin::DeleteStore, request, &deleted);
  EXPECT_TRUE(status.ok()) << status.error_message();
}

}  // namespace
}  // namespace loci
