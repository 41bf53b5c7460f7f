// Start, overload, cancellation, deadlines and draining.
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#include "base/file.h"
#include "gmock/gmock.h"
#include "tests/integration/server_fixture.h"

namespace loci {
namespace {

using Retrieval = loci::v1::RetrievalService::Stub;
using Admin = loci::v1::AdminService::Stub;
using grpc::StatusCode;
using ::testing::HasSubstr;

constexpr char kInFlight[] = "loci_in_flight{kind=\"request\"}";
constexpr char kIngestsInFlight[] = "loci_in_flight{kind=\"ingest\"}";

// One Encode that waits for its answer on gRPC's threads.
struct PendingEncode {
  grpc::ClientContext context;
  loci::v1::EncodeRequest request;
  loci::v1::EncodeResponse response;
  std::mutex mutex;
  std::condition_variable changed;
  bool done = false;
  grpc::Status status;

  explicit PendingEncode(Retrieval& stub) {
    request.add_texts("slow");
    stub.async()->Encode(&context, &request, &response, [this](grpc::Status result) {
      std::lock_guard<std::mutex> lock(mutex);
      status = std::move(result);
      done = true;
      changed.notify_all();
    });
  }
  grpc::Status Wait() {
    std::unique_lock<std::mutex> lock(mutex);
    changed.wait(lock, [this] { return done; });
    return status;
  }
};

class ServerLifecycle : public ServerFixture {
 protected:
  // A batch waits so long for company that a request is surely seen in flight.
  void StartSlowServer(int64_t wait_us) {
    options.batcher.max_wait_us = wait_us;
    StartServer();
  }

  std::string StartError() {
    const absl::StatusOr<std::unique_ptr<Server>> started = Server::Start(options);
    EXPECT_FALSE(started.ok());
    return std::string(started.status().message());
  }
};

TEST_F(ServerLifecycle, SaysWhyItCannotStart) {
  StartServer();
  const ServerOptions good = options;
  EXPECT_THAT(StartError(), HasSubstr("data directory " + options.data_directory)) << "another server has it";
  options.data_directory = directory_ + "/other";
  options.listen = server->address();
  EXPECT_THAT(StartError(), AllOf(HasSubstr("cannot listen on " + server->address()), HasSubstr("in use")));
  options = good;
  options.data_directory = directory_ + "/other";
  options.device = "cuda:99";
  EXPECT_THAT(StartError(), HasSubstr("cuda:99"));
  options.device = "auto";
  options.encoder_precision = "float8";
  EXPECT_THAT(StartError(), HasSubstr("precision is \"float8\""));
  setenv("LOCI_ISA", "avx2", 1);
  options.encoder_precision = "bfloat16";
  EXPECT_THAT(StartError(), HasSubstr("bfloat16 was asked for, but the CPU, as avx2, has no AVX-512 bf16"));
  unsetenv("LOCI_ISA");
  options.encoder_precision = "auto";
  options.model_directory = directory_ + "/nothing";
  EXPECT_THAT(StartError(), HasSubstr("no model in " + directory_ + "/nothing"));
  ASSERT_TRUE(WriteFileAtomically(PosixFileSystem(), good.model_directory + "/model.safetensors", "short").ok());
  options.model_directory = good.model_directory;
  EXPECT_THAT(StartError(), HasSubstr("model.safetensors"));
  ASSERT_TRUE(WriteFileAtomically(PosixFileSystem(), directory_ + "/file", "x").ok());
  options.data_directory = directory_ + "/file";
  EXPECT_THAT(StartError(), HasSubstr("data directory " + directory_ + "/file"));
  ExpectServing();
}

TEST_F(ServerLifecycle, HealthIsToldPerServiceAndOverall) {
  StartServer();
  for (const char* service : {"", "loci.v1.RetrievalService", "loci.v1.AdminService"}) EXPECT_EQ(Health(service), 1) << service;
  EXPECT_EQ(Health("loci.v1.NoService"), -1);
}

// In the whole server, with every library that it links: each thread's stack is what their thread-local storage leaves of it.
TEST_F(ServerLifecycle, IsScrapedOverHttp) {
  options.metrics_listen = "127.0.0.1:0";
  std::string announced;
  options.on_metrics_listening = [&announced](const std::string& address) { announced = address; };
  StartServer();
  ASSERT_EQ(announced, server->metrics_address());
  const int port = std::stoi(announced.substr(announced.rfind(':') + 1));
  for (int i = 0; i < 3; ++i) {
    const int fd = socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_port = htons(static_cast<uint16_t>(port));
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    ASSERT_EQ(connect(fd, reinterpret_cast<sockaddr*>(&to), sizeof(to)), 0);
    const std::string request = "GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: */*\r\n\r\n";
    ASSERT_EQ(write(fd, request.data(), request.size()), static_cast<ssize_t>(request.size()));
    std::string reply;
    char buffer[4096];
    for (ssize_t n; (n = read(fd, buffer, sizeof(buffer))) > 0;) reply.append(buffer, static_cast<size_t>(n));
    close(fd);
    EXPECT_THAT(reply, AllOf(HasSubstr("200 OK"), HasSubstr("loci_requests_total{code=\"OK\",method=\"Search\"} 0")));
  }
  ExpectServing();
}

TEST_F(ServerLifecycle, AnswersWhatItAdmittedAndNothingElseWhileDraining) {
  StartSlowServer(500'000);
  std::vector<std::unique_ptr<PendingEncode>> pending;
  for (int i = 0; i < 8; ++i) pending.push_back(std::make_unique<PendingEncode>(*retrieval));
  WaitForMetric(kInFlight, 8);
  std::thread stop([this] { server->Stop(); });
  while (Health("") == 1) std::this_thread::yield();
  loci::v1::SearchResponse response;
  const grpc::Status refused = Call(*retrieval, &Retrieval::Search, TextSearch("s", "x", 1), &response);
  EXPECT_EQ(refused.error_code(), StatusCode::UNAVAILABLE);
  for (const auto& encode : pending) {
    const grpc::Status status = encode->Wait();
    EXPECT_TRUE(status.ok()) << status.error_code() << " " << status.error_message();
    EXPECT_EQ(encode->response.vectors().rows(), 1);
  }
  stop.join();
  EXPECT_EQ(Metric("loci_requests_total{code=\"OK\",method=\"Encode\"}"), 8);
  server->Stop();  // Nothing more.
}

TEST_F(ServerLifecycle, DrainingDoesNotWaitForAnIngestThatStalls) {
  options.drain_timeout_ms = 50;
  StartServer();
  grpc::ClientContext context;
  loci::v1::IngestResponse response;
  auto stream = admin->Ingest(&context, &response);
  loci::v1::IngestRequest request;
  request.mutable_header()->set_store("s");
  ASSERT_TRUE(stream->Write(request));
  WaitForMetric(kIngestsInFlight, 1);
  server->Stop();
  EXPECT_FALSE(stream->Finish().ok());
}

TEST_F(ServerLifecycle, CancelledAndExpiredRequestsAreLetGo) {
  StartSlowServer(200'000);
  PendingEncode cancelled(*retrieval);
  WaitForMetric(kInFlight, 1);
  cancelled.context.TryCancel();
  EXPECT_EQ(cancelled.Wait().error_code(), StatusCode::CANCELLED);
  WaitForMetric("loci_requests_total{code=\"CANCELLED\",method=\"Encode\"}", 1);
  WaitForMetric(kInFlight, 0);

  // Far more than can be encoded in that time.
  loci::v1::EncodeRequest request;
  for (int i = 0; i < 2048; ++i) request.add_texts(std::string(4096, 'x') + " " + std::to_string(i));
  request.set_truncation(loci::v1::TRUNCATION_POOL_WINDOWS);
  loci::v1::EncodeResponse response;
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(30));
  EXPECT_EQ(retrieval->Encode(&context, request, &response).error_code(), StatusCode::DEADLINE_EXCEEDED);
  WaitForMetric(kInFlight, 0);
  EXPECT_EQ(Metric("loci_requests_total{code=\"OK\",method=\"Encode\"}"), 0) << "work that nobody waits for is dropped";
  ExpectServing();
}

TEST_F(ServerLifecycle, OverloadIsToldWithAPushbackAndOnlyOverload) {
  options.max_in_flight = 1;
  options.pushback_ms = 77;
  StartSlowServer(300'000);
  PendingEncode first(*retrieval);
  WaitForMetric(kInFlight, 1);
  loci::v1::SearchResponse response;
  grpc::ClientContext busy;
  const grpc::Status refused = retrieval->Search(&busy, TextSearch("s", "x", 1), &response);
  EXPECT_EQ(refused.error_code(), StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(InfoOf(refused).reason(), "OVERLOADED");
  EXPECT_THAT(refused.error_message(), HasSubstr("the limit is 1"));
  const auto& trailers = busy.GetServerTrailingMetadata();
  ASSERT_EQ(trailers.count("grpc-retry-pushback-ms"), 1u);
  EXPECT_EQ(trailers.find("grpc-retry-pushback-ms")->second, "77");
  EXPECT_TRUE(first.Wait().ok()) << "the one that was admitted is answered";

  grpc::ClientContext wrong;
  EXPECT_EQ(retrieval->Search(&wrong, TextSearch("s", "x", 0), &response).error_code(), StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(wrong.GetServerTrailingMetadata().count("grpc-retry-pushback-ms"), 0u);
}

TEST_F(ServerLifecycle, IngestsAreBoundedAndAStalledOneIsEnded) {
  options.max_ingests = 1;
  options.ingest_idle_timeout_ms = 2'000;
  StartServer();
  grpc::ClientContext stalled_context;
  loci::v1::IngestResponse response;
  auto stalled = admin->Ingest(&stalled_context, &response);
  loci::v1::IngestRequest request;
  request.mutable_header()->set_store("s");
  ASSERT_TRUE(stalled->Write(request));
  WaitForMetric(kIngestsInFlight, 1);

  grpc::ClientContext second_context;
  loci::v1::IngestResponse second_response;
  const grpc::Status refused = admin->Ingest(&second_context, &second_response)->Finish();
  EXPECT_EQ(refused.error_code(), StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(second_context.GetServerTrailingMetadata().count("grpc-retry-pushback-ms"), 1u);

  const grpc::Status ended = stalled->Finish();  // The client only waits; the server ends it.
  EXPECT_EQ(ended.error_code(), StatusCode::DEADLINE_EXCEEDED);
  EXPECT_EQ(InfoOf(ended).reason(), "INGEST_STALLED");
  WaitForMetric(kIngestsInFlight, 0);
  ExpectServing();
}

TEST_F(ServerLifecycle, ACancelledIngestLeavesNothing) {
  StartServer();
  for (int round = 0; round < 20; ++round) {
    grpc::ClientContext context;
    loci::v1::IngestResponse response;
    auto stream = admin->Ingest(&context, &response);
    loci::v1::IngestRequest request;
    // Of its own: the server may not have seen yet that the round before was cancelled, and a store takes one ingest at a time.
    request.mutable_header()->set_store("s" + std::to_string(round));
    ASSERT_TRUE(stream->Write(request));
    loci::v1::Passage& passage = *request.mutable_batch()->add_passages();
    passage.set_id("a");
    passage.set_text("half of a corpus");
    ASSERT_TRUE(stream->Write(request));
    if (round % 2 == 1) WaitForMetric(kIngestsInFlight, 1);
    context.TryCancel();
    EXPECT_EQ(stream->Finish().error_code(), StatusCode::CANCELLED);
    WaitForMetric(kIngestsInFlight, 0);
  }
  loci::v1::ListStoresResponse stores;
  ASSERT_TRUE(Call(*admin, &Admin::ListStores, loci::v1::ListStoresRequest(), &stores).ok());
  for (const loci::v1::Store& store : stores.stores()) {
    EXPECT_EQ(store.generation(), "") << "a broken stream is not a finished one";
    EXPECT_EQ(store.generation_count(), 0);
  }
}

TEST_F(ServerLifecycle, ManyClientsAtOnceSeeWholeGenerations) {
  options.max_ingests = 8;
  StartServer();
  Ingest("s", {{"id-0", "generation 0"}});
  std::atomic<bool> done{false};
  std::atomic<int64_t> failures{0};
  std::atomic<int64_t> answered{0};
  std::vector<std::thread> clients;
  for (int i = 0; i < 16; ++i) {
    clients.emplace_back([&] {
      while (!done) {
        loci::v1::SearchRequest request = TextSearch("s", "generation", 10);
        request.set_include_text(true);
        loci::v1::SearchResponse response;
        grpc::ClientContext context;
        const grpc::Status status = retrieval->Search(&context, request, &response);
        // Every generation has one passage, whose text says which.
        if (!status.ok() || response.results(0).hits_size() != 1 ||
            response.results(0).hits(0).id().substr(3) != response.results(0).hits(0).passage().text().substr(11)) {
          ++failures;
        }
        ++answered;
      }
    });
  }
  for (int n = 1; n <= 10; ++n) Ingest("s", {{"id-" + std::to_string(n), "generation " + std::to_string(n)}});
  done = true;
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(failures, 0);
  EXPECT_GT(answered, 16);
  loci::v1::SearchResponse last;
  ASSERT_TRUE(Call(*retrieval, &Retrieval::Search, TextSearch("s", "generation", 1), &last).ok());
  EXPECT_EQ(last.results(0).hits(0).id(), "id-10");
}

}  // namespace
}  // namespace loci
