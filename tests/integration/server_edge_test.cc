// What comes with a request and goes back with its answer: ids, places in traces, limits of single methods.
#include <chrono>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "tests/integration/server_fixture.h"

namespace loci {
namespace {

using ::testing::HasSubstr;
using ::testing::MatchesRegex;

class ServerEdge : public ServerFixture {
 protected:
  // One Encode that waits for its answer.
  struct PendingEncode {
    grpc::ClientContext context;
    loci::v1::EncodeRequest request;
    loci::v1::EncodeResponse response;
    grpc::CompletionQueue queue;
    grpc::Status status;
    std::unique_ptr<grpc::ClientAsyncResponseReader<loci::v1::EncodeResponse>> reader;

    explicit PendingEncode(loci::v1::RetrievalService::Stub& stub) {
      request.add_texts("slow");
      reader = stub.AsyncEncode(&context, request, &queue);
      reader->Finish(&response, &status, nullptr);
    }
    grpc::Status Wait() {
      void* tag = nullptr;
      bool ok = false;
      EXPECT_TRUE(queue.Next(&tag, &ok));
      return status;
    }
  };

  // The initial metadata of a GetStore of a store that is not there, with this metadata.
  std::multimap<std::string, std::string> AskWith(const std::vector<std::pair<std::string, std::string>>& metadata) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::minutes(1));
    for (const auto& [key, value] : metadata) context.AddMetadata(key, value);
    loci::v1::GetStoreRequest request;
    request.set_store("absent");
    loci::v1::GetStoreResponse response;
    failure = admin->GetStore(&context, request, &response);
    EXPECT_EQ(failure.error_code(), grpc::StatusCode::NOT_FOUND);
    std::multimap<std::string, std::string> initial;
    for (const auto& [key, value] : context.GetServerInitialMetadata()) {
      initial.emplace(std::string(key.data(), key.size()), std::string(value.data(), value.size()));
    }
    return initial;
  }
  grpc::Status failure;  // Of the last AskWith.
};

TEST_F(ServerEdge, RequestIdsComeBackAndAreMadeWhereAbsent) {
  StartServer();
  const auto one = [](const std::multimap<std::string, std::string>& metadata) {
    return metadata.count("x-request-id") == 1 ? metadata.find("x-request-id")->second : "none or several";
  };
  EXPECT_EQ(one(AskWith({{"x-request-id", "order-17"}})), "order-17");
  EXPECT_EQ(InfoOf(failure).metadata().at("request_id"), "order-17");
  EXPECT_EQ(InfoOf(failure).metadata().at("store"), "absent") << "beside what the error says itself";
  EXPECT_THAT(one(AskWith({})), MatchesRegex("[0-9a-f]{16}"));
  EXPECT_THAT(one(AskWith({{"x-request-id", std::string(129, 'x')}})), MatchesRegex("[0-9a-f]{16}"));
  EXPECT_THAT(one(AskWith({{"x-request-id", "a"}, {"x-request-id", "b"}})), MatchesRegex("[0-9a-f]{16}"));
}

TEST_F(ServerEdge, RequestIdsComeBackWithRepliesAndAreKeptInJobs) {
  StartServer();
  grpc::ClientContext context;
  context.AddMetadata("x-request-id", "load-1");
  loci::v1::IngestResponse response;
  auto stream = admin->Ingest(&context, &response);
  loci::v1::IngestRequest request;
  request.mutable_header()->set_store("s");
  stream->Write(request);
  request.mutable_batch()->add_passages()->set_id("a");
  stream->Write(request);
  stream->WritesDone();
  ASSERT_TRUE(stream->Finish().ok());
  const auto& initial = context.GetServerInitialMetadata();
  ASSERT_EQ(initial.count("x-request-id"), 1u);
  EXPECT_EQ(initial.find("x-request-id")->second, "load-1");
  loci::v1::GetJobRequest get;
  get.set_job(response.job());
  loci::v1::Job job;
  ASSERT_TRUE(Call(*admin, &loci::v1::AdminService::Stub::GetJob, get, &job).ok());
  EXPECT_EQ(job.request_id(), "load-1");
}

TEST_F(ServerEdge, LogsRequestsByChoiceAndNamesThemInEveryLine) {
  options.log_requests = true;
  StartServer();
  testing::internal::CaptureStderr();
  AskWith({{"x-request-id", "order-17"}, {"traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}});
  loci::v1::DeleteStoreRequest request;
  loci::v1::CreateStoreRequest create;
  create.set_store("s");
  loci::v1::CreateStoreResponse created;
  ASSERT_TRUE(Call(*admin, &loci::v1::AdminService::Stub::CreateStore, create, &created).ok());
  request.set_store("s");
  request.set_confirm_name("s");
  grpc::ClientContext context;
  context.AddMetadata("x-request-id", "order-18");
  loci::v1::DeleteStoreResponse response;
  ASSERT_TRUE(admin->DeleteStore(&context, request, &response).ok());
  server->Stop();
  const std::string log = testing::internal::GetCapturedStderr();
  EXPECT_THAT(log, testing::ContainsRegex("request: failed method=GetStore code=NOT_FOUND duration_us=[0-9]+ request_id=order-17 "
                                          "trace_id=4bf92f3577b34da6a3ce929d0e0e4736 span_id=[0-9a-f]+ parent_id=00f067aa0ba902b7 peer=ipv4:127.0.0.1:"));
  EXPECT_THAT(log, testing::ContainsRegex("generation_manager: deleted store=s request_id=order-18\n"));
}

TEST_F(ServerEdge, TraceparentGoesOnWithASpanOfTheServer) {
  StartServer();
  const std::string parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
  const auto initial = AskWith({{"traceparent", parent}, {"tracestate", "a=1"}, {"tracestate", "b=2"}});
  ASSERT_EQ(initial.count("tracestate"), 1u);
  EXPECT_THAT(initial.find("tracestate")->second, testing::AnyOf("a=1,b=2", "b=2,a=1"));
  ASSERT_EQ(initial.count("traceparent"), 1u);
  EXPECT_THAT(initial.find("traceparent")->second, MatchesRegex("00-4bf92f3577b34da6a3ce929d0e0e4736-[0-9a-f]{16}-01"));
  EXPECT_NE(initial.find("traceparent")->second, parent);
  EXPECT_EQ(AskWith({{"traceparent", "00-nonsense"}}).count("traceparent"), 0u);
}

TEST_F(ServerEdge, AMethodHasALimitOfItsOwn) {
  options.batcher.max_wait_us = 3'000'000;  // A request is surely seen in flight.
  options.method_limits = {{.method = "Encode", .max_in_flight = 1}};
  StartServer();
  PendingEncode pending(*retrieval);
  WaitForMetric("loci_method_in_flight{method=\"Encode\"}", 1);
  loci::v1::EncodeResponse second;
  const grpc::Status refused = Call(*retrieval, &loci::v1::RetrievalService::Stub::Encode, pending.request, &second);
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(refused.error_message(), HasSubstr("method Encode has 1 requests in flight, its limit is 1"));
  EXPECT_EQ(InfoOf(refused).metadata().at("method"), "Encode");
  loci::v1::SearchResponse searched;
  EXPECT_EQ(Call(*retrieval, &loci::v1::RetrievalService::Stub::Search, TextSearch("absent", "x", 1), &searched).error_code(),
            grpc::StatusCode::NOT_FOUND)
      << "others are not touched";
  const grpc::Status status = pending.Wait();
  EXPECT_TRUE(status.ok()) << status.error_message();

  loci::v1::GetServerInfoResponse info;
  ASSERT_TRUE(Call(*admin, &loci::v1::AdminService::Stub::GetServerInfo, loci::v1::GetServerInfoRequest(), &info).ok());
  ASSERT_EQ(info.limits().method_limits_size(), 1);
  EXPECT_EQ(info.limits().method_limits(0).method(), "Encode");
  EXPECT_EQ(info.limits().method_limits(0).max_in_flight(), 1);
  EXPECT_EQ(info.limits().max_queued_tokens(), options.batcher.max_queued_tokens);
}

TEST_F(ServerEdge, WhoIsInAHurryIsRefusedAtOnce) {
  options.refusals.hold = std::chrono::seconds(30);
  options.batcher.max_wait_us = 3'000'000;
  options.method_limits = {{.method = "Encode", .max_in_flight = 1}};
  StartServer();
  PendingEncode pending(*retrieval);
  WaitForMetric("loci_method_in_flight{method=\"Encode\"}", 1);
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(5));
  loci::v1::EncodeResponse response;
  EXPECT_EQ(retrieval->Encode(&context, pending.request, &response).error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_TRUE(pending.Wait().ok());
}

TEST_F(ServerEdge, AMethodHasADeadlineOfItsOwn) {
  options.batcher.max_wait_us = 200'000;
  options.method_limits = {{.method = "Encode", .max_deadline_ms = 1}};
  StartServer();
  // Eight megabytes: more than can be tokenized in that time.
  loci::v1::EncodeRequest request;
  for (int i = 0; i < 2048; ++i) request.add_texts(std::string(4096, 'x') + " " + std::to_string(i));
  request.set_truncation(loci::v1::TRUNCATION_POOL_WINDOWS);
  loci::v1::EncodeResponse response;
  EXPECT_EQ(Call(*retrieval, &loci::v1::RetrievalService::Stub::Encode, request, &response).error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
}

TEST_F(ServerEdge, ReadsOfTheServersStateGetThroughWhereNothingElseDoes) {
  options.max_in_flight = 1;
  options.batcher.max_wait_us = 3'000'000;
  StartServer();
  PendingEncode pending(*retrieval);
  WaitForMetric("loci_in_flight{kind=\"request\"}", 1);
  loci::v1::SearchResponse searched;
  EXPECT_EQ(Call(*retrieval, &loci::v1::RetrievalService::Stub::Search, TextSearch("s", "x", 1), &searched).error_code(),
            grpc::StatusCode::RESOURCE_EXHAUSTED);
  loci::v1::ListStoresResponse stores;
  EXPECT_TRUE(Call(*admin, &loci::v1::AdminService::Stub::ListStores, loci::v1::ListStoresRequest(), &stores).ok());
  loci::v1::ListJobsResponse jobs;
  EXPECT_TRUE(Call(*admin, &loci::v1::AdminService::Stub::ListJobs, loci::v1::ListJobsRequest(), &jobs).ok());
  EXPECT_TRUE(pending.Wait().ok());
}

}  // namespace
}  // namespace loci
