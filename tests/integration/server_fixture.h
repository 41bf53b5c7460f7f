// A whole server in this process, with a tiny random encoder, behind a real channel.
#ifndef LOCI_TESTS_INTEGRATION_SERVER_FIXTURE_H_
#define LOCI_TESTS_INTEGRATION_SERVER_FIXTURE_H_

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "grpcpp/grpcpp.h"
#include "gtest/gtest.h"
#include "proto/loci/rpc/status.pb.h"
#include "proto/loci/v1/admin.grpc.pb.h"
#include "proto/loci/v1/retrieval.grpc.pb.h"
#include "server/server.h"

namespace loci {

inline constexpr int kTinyDim = 32;

// Used by one thread, but for the stubs, which are thread-safe.
class ServerFixture : public testing::Test {
 protected:
  // Folders of its own, a checkpoint in model_directory, ports picked by the system, no metrics port.
  void SetUp() override;
  void TearDown() override;

  void StartServer();  // With `options`; restarts where one runs.

  // Calls with a deadline of a minute, or `context`.
  template <typename Stub, typename Request, typename Response>
  grpc::Status Call(Stub& stub, grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Response*), const Request& request,
                    Response* response) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::minutes(1));
    return (stub.*method)(&context, request, response);
  }

  // One text, "a web server", in the default encoder.
  grpc::Status Encode();
  // Of a service, or of all: 1 SERVING, 2 NOT_SERVING, -1 for an error.
  int Health(const std::string& service = "");

  // Passages as a new generation of the store, active.
  loci::v1::IngestResponse Ingest(const std::string& store, const std::vector<std::pair<std::string, std::string>>& id_texts);
  void Upsert(const std::string& store, const std::string& id, const std::string& text);
  loci::v1::Job GetJob(const std::string& id);
  // The job once it is as `wanted`.
  loci::v1::Job WaitForJob(const std::string& id, const std::function<bool(const loci::v1::Job&)>& wanted);
  loci::v1::Job WaitForEnd(const std::string& id);
  grpc::Status CancelJob(const std::string& id);
  static loci::v1::SearchRequest TextSearch(const std::string& store, const std::string& text, int top_k);
  static loci::v1::Matrix Vector(const std::vector<float>& values);
  static rpc::ErrorInfo InfoOf(const grpc::Status& status);
  double Metric(const std::string& series);  // The value of a line of /metrics, -1 where there is none.
  void WaitForMetric(const std::string& series, double value);
  void ExpectServing();  // A search in the store "alive" (made where it is absent) answers.

  std::string directory_;
  ServerOptions options;
  std::unique_ptr<Server> server;
  std::shared_ptr<grpc::Channel> channel;
  std::unique_ptr<loci::v1::RetrievalService::Stub> retrieval;
  std::unique_ptr<loci::v1::AdminService::Stub> admin;
};

}  // namespace loci

#endif  // LOCI_TESTS_INTEGRATION_SERVER_FIXTURE_H_
