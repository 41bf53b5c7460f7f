// A server for tests of the command line: it remembers requests and answers what the test says.
#ifndef LOCI_CLIENTS_CLI_FAKE_SERVER_H_
#define LOCI_CLIENTS_CLI_FAKE_SERVER_H_

#include <grpcpp/grpcpp.h>

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "proto/loci/rpc/status.pb.h"
#include "proto/loci/v1/admin.grpc.pb.h"
#include "proto/loci/v1/retrieval.grpc.pb.h"

namespace loci {

// An error as the server sends it: with google.rpc.Status in the trailer.
inline grpc::Status FakeError(grpc::StatusCode code, const std::string& message, const std::string& reason,
                              const std::map<std::string, std::string>& metadata) {
  rpc::ErrorInfo info;
  info.set_reason(reason);
  info.set_domain("loci");
  info.mutable_metadata()->insert(metadata.begin(), metadata.end());
  rpc::Status status;
  status.set_code(code);
  status.set_message(message);
  google::protobuf::Any* const detail = status.add_details();
  detail->set_type_url("type.googleapis.com/google.rpc.ErrorInfo");
  detail->set_value(info.SerializeAsString());
  return grpc::Status(code, message, status.SerializeAsString());
}

// Listens on a port of loopback from construction on. Set members before the first call; read them when no call is under way.
class FakeServer final : public v1::RetrievalService::Service, public v1::AdminService::Service {
 public:
  FakeServer() {
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(static_cast<v1::RetrievalService::Service*>(this));
    builder.RegisterService(static_cast<v1::AdminService::Service*>(this));
    server_ = builder.BuildAndStart();
    address_ = "127.0.0.1:" + std::to_string(port);
  }
  ~FakeServer() override { server_->Shutdown(std::chrono::system_clock::now()); }
  const std::string& address() const { return address_; }

  std::function<grpc::Status(const v1::SearchRequest&, v1::SearchResponse*)> on_search;
  std::function<grpc::Status(const v1::EncodeRequest&, v1::EncodeResponse*)> on_encode;
  std::function<grpc::Status(const v1::AnswerRequest&, v1::AnswerResponse*)> on_answer;
  std::function<grpc::Status(const v1::UpsertPassagesRequest&, v1::UpsertPassagesResponse*)> on_upsert;
  std::function<grpc::Status(const v1::DeleteStoreRequest&)> on_delete_store;
  std::function<grpc::Status(v1::ListStoresResponse*)> on_list_stores;
  // Where they are not set: UNIMPLEMENTED.
  std::function<grpc::Status(const v1::ListJobsRequest&, v1::ListJobsResponse*)> on_list_jobs;
  std::function<grpc::Status(const v1::WatchJobRequest&, grpc::ServerContext*, grpc::ServerWriter<v1::Job>*)> on_watch_job;
  std::function<grpc::Status(const v1::CancelJobRequest&, v1::Job*)> on_cancel_job;
  std::function<grpc::Status(const v1::PinGenerationRequest&, v1::PinGenerationResponse*)> on_pin;
  std::function<grpc::Status(const v1::UpdateStoreRequest&, v1::UpdateStoreResponse*)> on_update_store;
  std::function<grpc::Status(const v1::CreateStoreRequest&, v1::CreateStoreResponse*)> on_create_store;
  std::function<grpc::Status(const v1::DeletePassagesRequest&, v1::DeletePassagesResponse*)> on_delete_passages;
  std::function<grpc::Status(const v1::DeleteGenerationRequest&)> on_delete_generation;
  std::function<grpc::Status(const v1::ActivateGenerationRequest&, v1::ActivateGenerationResponse*)> on_activate;
  std::function<grpc::Status(const v1::ExportRequest&, grpc::ServerContext*, grpc::ServerWriter<v1::ExportChunk>*)> on_export;
  std::function<grpc::Status(grpc::ServerContext*, grpc::ServerReader<v1::ImportRequest>*, v1::ImportResponse*)> on_import;
  std::function<grpc::Status(const v1::PlanActivationRequest&, v1::PlanActivationResponse*)> on_plan;
  std::function<grpc::Status(const v1::CompareGenerationsRequest&, v1::CompareGenerationsResponse*)> on_compare;
  std::function<grpc::Status(const v1::ReembedStoreRequest&, v1::ReembedStoreResponse*)> on_reembed;
  std::function<grpc::Status(grpc::ServerReader<v1::ImportEncoderRequest>*, v1::ImportEncoderResponse*)> on_import_encoder;
  std::function<grpc::Status(const v1::TuneStoreRequest&, v1::TuneStoreResponse*)> on_tune;
  std::function<grpc::Status(const v1::QuantizeStoreRequest&, v1::QuantizeStoreResponse*)> on_quantize;
  std::function<grpc::Status(const v1::GetStoreRequest&, v1::GetStoreResponse*)> on_get_store;
  std::function<grpc::Status(const v1::ListGenerationsRequest&, v1::ListGenerationsResponse*)> on_list_generations;
  std::function<void()> before_ingest_reply;
  grpc::Status ingest_status;
  v1::IngestResponse ingest_response;

  // What Ingest saw.
  std::vector<v1::IngestRequest> ingest_requests;
  bool ingest_was_cancelled = false;
  int search_count = 0;

  grpc::Status Search(grpc::ServerContext*, const v1::SearchRequest* request, v1::SearchResponse* response) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    ++search_count;
    return on_search(*request, response);
  }
  grpc::Status Encode(grpc::ServerContext*, const v1::EncodeRequest* request, v1::EncodeResponse* response) override {
    return on_encode ? on_encode(*request, response) : Unimplemented();
  }
  grpc::Status Answer(grpc::ServerContext*, const v1::AnswerRequest* request, v1::AnswerResponse* response) override {
    return on_answer(*request, response);
  }
  grpc::Status UpsertPassages(grpc::ServerContext*, const v1::UpsertPassagesRequest* request,
                              v1::UpsertPassagesResponse* response) override {
    return on_upsert(*request, response);
  }
  grpc::Status DeleteStore(grpc::ServerContext*, const v1::DeleteStoreRequest* request, v1::DeleteStoreResponse*) override {
    return on_delete_store(*request);
  }
  grpc::Status ListStores(grpc::ServerContext*, const v1::ListStoresRequest*, v1::ListStoresResponse* response) override {
    return on_list_stores(response);
  }
  grpc::Status ListJobs(grpc::ServerContext*, const v1::ListJobsRequest* request, v1::ListJobsResponse* response) override {
    return on_list_jobs ? on_list_jobs(*request, response) : Unimplemented();
  }
  grpc::Status WatchJob(grpc::ServerContext* context, const v1::WatchJobRequest* request, grpc::ServerWriter<v1::Job>* writer) override {
    return on_watch_job ? on_watch_job(*request, context, writer) : Unimplemented();
  }
  grpc::Status CancelJob(grpc::ServerContext*, const v1::CancelJobRequest* request, v1::Job* response) override {
    return on_cancel_job ? on_cancel_job(*request, response) : Unimplemented();
  }
  grpc::Status PinGeneration(grpc::ServerContext*, const v1::PinGenerationRequest* request, v1::PinGenerationResponse* response) override {
    return on_pin ? on_pin(*request, response) : Unimplemented();
  }
  grpc::Status UpdateStore(grpc::ServerContext*, const v1::UpdateStoreRequest* request, v1::UpdateStoreResponse* response) override {
    return on_update_store ? on_update_store(*request, response) : Unimplemented();
  }
  grpc::Status CreateStore(grpc::ServerContext*, const v1::CreateStoreRequest* request, v1::CreateStoreResponse* response) override {
    return on_create_store ? on_create_store(*request, response) : Unimplemented();
  }
  grpc::Status DeletePassages(grpc::ServerContext*, const v1::DeletePassagesRequest* request,
                              v1::DeletePassagesResponse* response) override {
    return on_delete_passages ? on_delete_passages(*request, response) : Unimplemented();
  }
  grpc::Status DeleteGeneration(grpc::ServerContext*, const v1::DeleteGenerationRequest* request,
                                v1::DeleteGenerationResponse*) override {
    return on_delete_generation ? on_delete_generation(*request) : Unimplemented();
  }
  grpc::Status ActivateGeneration(grpc::ServerContext*, const v1::ActivateGenerationRequest* request,
                                  v1::ActivateGenerationResponse* response) override {
    return on_activate ? on_activate(*request, response) : Unimplemented();
  }
  grpc::Status PlanActivation(grpc::ServerContext*, const v1::PlanActivationRequest* request, v1::PlanActivationResponse* response) override {
    return on_plan ? on_plan(*request, response) : Unimplemented();
  }
  grpc::Status CompareGenerations(grpc::ServerContext*, const v1::CompareGenerationsRequest* request,
                                  v1::CompareGenerationsResponse* response) override {
    return on_compare ? on_compare(*request, response) : Unimplemented();
  }
  grpc::Status TuneStore(grpc::ServerContext*, const v1::TuneStoreRequest* request, v1::TuneStoreResponse* response) override {
    return on_tune ? on_tune(*request, response) : Unimplemented();
  }
  grpc::Status QuantizeStore(grpc::ServerContext*, const v1::QuantizeStoreRequest* request, v1::QuantizeStoreResponse* response) override {
    return on_quantize ? on_quantize(*request, response) : Unimplemented();
  }
  grpc::Status GetStore(grpc::ServerContext*, const v1::GetStoreRequest* request, v1::GetStoreResponse* response) override {
    return on_get_store ? on_get_store(*request, response) : Unimplemented();
  }
  grpc::Status ListGenerations(grpc::ServerContext*, const v1::ListGenerationsRequest* request, v1::ListGenerationsResponse* response) override {
    return on_list_generations ? on_list_generations(*request, response) : Unimplemented();
  }
  grpc::Status ExportStore(grpc::ServerContext* context, const v1::ExportRequest* request,
                           grpc::ServerWriter<v1::ExportChunk>* writer) override {
    return on_export ? on_export(*request, context, writer) : Unimplemented();
  }
  grpc::Status ImportStore(grpc::ServerContext* context, grpc::ServerReader<v1::ImportRequest>* reader,
                           v1::ImportResponse* response) override {
    return on_import ? on_import(context, reader, response) : Unimplemented();
  }
  grpc::Status ReembedStore(grpc::ServerContext*, const v1::ReembedStoreRequest* request, v1::ReembedStoreResponse* response) override {
    return on_reembed ? on_reembed(*request, response) : Unimplemented();
  }
  grpc::Status ImportEncoder(grpc::ServerContext*, grpc::ServerReader<v1::ImportEncoderRequest>* reader,
                             v1::ImportEncoderResponse* response) override {
    return on_import_encoder ? on_import_encoder(reader, response) : Unimplemented();
  }
  grpc::Status Ingest(grpc::ServerContext* context, grpc::ServerReader<v1::IngestRequest>* reader,
                      v1::IngestResponse* response) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    v1::IngestRequest request;
    while (reader->Read(&request)) {
      ingest_requests.push_back(request);
      if (!ingest_status.ok()) return ingest_status;
    }
    if (before_ingest_reply) before_ingest_reply();
    ingest_was_cancelled = context->IsCancelled();
    *response = ingest_response;
    return grpc::Status::OK;
  }
  // Waits for a call of Ingest under way.
  bool IngestWasCancelled() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return ingest_was_cancelled;
  }

 private:
  static grpc::Status Unimplemented() { return {grpc::StatusCode::UNIMPLEMENTED, ""}; }

  std::mutex mutex_;
  std::unique_ptr<grpc::Server> server_;
  std::string address_;
};

}  // namespace loci

#endif  // LOCI_CLIENTS_CLI_FAKE_SERVER_H_
