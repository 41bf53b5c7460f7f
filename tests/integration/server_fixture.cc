#include "tests/integration/server_fixture.h"

#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <sstream>
#include <thread>

#include "encoder/testing/tiny_checkpoint.h"
#include "grpcpp/impl/codegen/client_unary_call.h"
#include "grpcpp/impl/codegen/rpc_method.h"
#include "server/matrix_codec.h"

namespace loci {

void ServerFixture::SetUp() {
  std::string pattern = testing::TempDir() + "/loci_server_XXXXXX";
  ASSERT_NE(mkdtemp(pattern.data()), nullptr);
  directory_ = pattern;
  options.data_directory = directory_ + "/data";
  options.model_directory = directory_ + "/model";
  options.listen = "127.0.0.1:0";
  options.metrics_listen = "";
  options.thread_count = 2;
  ASSERT_TRUE(WriteTinyCheckpoint(PosixFileSystem(), options.model_directory, {}).ok());
}

void ServerFixture::TearDown() {
  server.reset();
  EXPECT_TRUE(PosixFileSystem().DeleteRecursively(directory_).ok());
}

void ServerFixture::StartServer() {
  server.reset();
  absl::StatusOr<std::unique_ptr<Server>> started = Server::Start(options);
  ASSERT_TRUE(started.ok()) << started.status();
  server = *std::move(started);
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(-1);
  arguments.SetMaxSendMessageSize(-1);
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  channel = grpc::CreateCustomChannel(server->address(), grpc::InsecureChannelCredentials(), arguments);
  retrieval = loci::v1::RetrievalService::NewStub(channel);
  admin = loci::v1::AdminService::NewStub(channel);
}

loci::v1::IngestResponse ServerFixture::Ingest(const std::string& store, const std::vector<std::pair<std::string, std::string>>& id_texts) {
  grpc::ClientContext context;
  loci::v1::IngestResponse response;
  std::unique_ptr<grpc::ClientWriter<loci::v1::IngestRequest>> stream = admin->Ingest(&context, &response);
  loci::v1::IngestRequest request;
  request.mutable_header()->set_store(store);
  stream->Write(request);
  loci::v1::PassageBatch& batch = *request.mutable_batch();
  for (const auto& [id, text] : id_texts) {
    loci::v1::Passage& passage = *batch.add_passages();
    passage.set_id(id);
    passage.set_text(text);
  }
  stream->Write(request);
  stream->WritesDone();
  const grpc::Status status = stream->Finish();
  EXPECT_TRUE(status.ok()) << status.error_message();
  return response;
}

void ServerFixture::Upsert(const std::string& store, const std::string& id, const std::string& text) {
  loci::v1::UpsertPassagesRequest request;
  request.set_store(store);
  loci::v1::Passage& passage = *request.add_passages();
  passage.set_id(id);
  passage.set_text(text);
  loci::v1::UpsertPassagesResponse response;
  const grpc::Status status = Call(*admin, &loci::v1::AdminService::Stub::UpsertPassages, request, &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
}

loci::v1::Job ServerFixture::GetJob(const std::string& id) {
  loci::v1::GetJobRequest request;
  request.set_job(id);
  loci::v1::Job job;
  const grpc::Status status = Call(*admin, &loci::v1::AdminService::Stub::GetJob, request, &job);
  EXPECT_TRUE(status.ok()) << status.error_message();
  return job;
}

loci::v1::Job ServerFixture::WaitForJob(const std::string& id, const std::function<bool(const loci::v1::Job&)>& wanted) {
  for (int i = 0; i < 30'000; ++i) {
    const loci::v1::Job job = GetJob(id);
    if (wanted(job)) return job;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  ADD_FAILURE() << "job " << id << " does not come there";
  return {};
}

loci::v1::Job ServerFixture::WaitForEnd(const std::string& id) {
  return WaitForJob(id, [](const loci::v1::Job& job) { return job.state() != loci::v1::JOB_STATE_RUNNING; });
}

grpc::Status ServerFixture::CancelJob(const std::string& id) {
  loci::v1::CancelJobRequest request;
  request.set_job(id);
  loci::v1::Job job;
  return Call(*admin, &loci::v1::AdminService::Stub::CancelJob, request, &job);
}

loci::v1::SearchRequest ServerFixture::TextSearch(const std::string& store, const std::string& text, int top_k) {
  loci::v1::SearchRequest request;
  request.set_store(store);
  request.add_queries()->set_text(text);
  request.set_top_k(top_k);
  return request;
}

loci::v1::Matrix ServerFixture::Vector(const std::vector<float>& values) {
  loci::v1::Matrix matrix;
  EncodeMatrix(values.data(), 1, static_cast<int64_t>(values.size()), ElementType::kFloat32, &matrix);
  return matrix;
}

rpc::ErrorInfo ServerFixture::InfoOf(const grpc::Status& status) {
  rpc::Status detail;
  rpc::ErrorInfo info;
  EXPECT_TRUE(detail.ParseFromString(status.error_details()));
  EXPECT_EQ(detail.code(), status.error_code());
  EXPECT_EQ(detail.details_size(), 1);
  if (detail.details_size() > 0) {
    EXPECT_TRUE(info.ParseFromString(detail.details(0).value()));
  }
  return info;
}

double ServerFixture::Metric(const std::string& series) {
  std::istringstream text(server->MetricsText());
  std::string line;
  while (std::getline(text, line)) {
    if (line.starts_with(series + " ")) return std::stod(line.substr(series.size() + 1));
  }
  return -1;
}

void ServerFixture::WaitForMetric(const std::string& series, double value) {
  double last = Metric(series);
  for (int i = 0; i < 30'000 && last != value; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    last = Metric(series);
  }
  // Not read again: a request that is late in coming may change it once more.
  ASSERT_EQ(last, value) << series;
}

grpc::Status ServerFixture::Encode() {
  loci::v1::EncodeRequest request;
  request.add_texts("a web server");
  loci::v1::EncodeResponse response;
  return Call(*retrieval, &loci::v1::RetrievalService::Stub::Encode, request, &response);
}

int ServerFixture::Health(const std::string& service) {
  // grpc.health.v1's messages are a string and an enum in field 1, as are these.
  loci::v1::GetStoreRequest request;
  request.set_store(service);
  rpc::Status response;
  grpc::ClientContext context;
  const grpc::internal::RpcMethod method("/grpc.health.v1.Health/Check", grpc::internal::RpcMethod::NORMAL_RPC);
  const grpc::Status status =
      grpc::internal::BlockingUnaryCall<loci::v1::GetStoreRequest, rpc::Status, google::protobuf::MessageLite, google::protobuf::MessageLite>(
          channel.get(), method, &context, request, &response);
  return status.ok() ? response.code() : -1;
}

void ServerFixture::ExpectServing() {
  loci::v1::GetStoreRequest get;
  get.set_store("alive");
  loci::v1::GetStoreResponse store;
  if (!Call(*admin, &loci::v1::AdminService::Stub::GetStore, get, &store).ok()) Ingest("alive", {{"a", "still here"}});
  loci::v1::SearchResponse response;
  const grpc::Status status = Call(*retrieval, &loci::v1::RetrievalService::Stub::Search, TextSearch("alive", "still here", 1), &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(response.results(0).hits(0).id(), "a");
}

}  // namespace loci
