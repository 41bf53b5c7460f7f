// loci.v1.RetrievalService on gRPC's callback API.
#ifndef LOCI_SERVER_RETRIEVAL_SERVICE_H_
#define LOCI_SERVER_RETRIEVAL_SERVICE_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "grpcpp/grpcpp.h"
#include "proto/loci/v1/retrieval.grpc.pb.h"
#include "server/service_context.h"

namespace loci {

// Validates on the gRPC thread, hands over to the pipeline and returns. Thread-safe.
class RetrievalServiceImpl final : public loci::v1::RetrievalService::CallbackService {
 public:
  explicit RetrievalServiceImpl(const ServiceContext& services) : services_(services) {}

  grpc::ServerUnaryReactor* Encode(grpc::CallbackServerContext* context, const loci::v1::EncodeRequest* request,
                                   loci::v1::EncodeResponse* response) override;
  grpc::ServerUnaryReactor* Search(grpc::CallbackServerContext* context, const loci::v1::SearchRequest* request,
                                   loci::v1::SearchResponse* response) override;
  grpc::ServerUnaryReactor* Answer(grpc::CallbackServerContext* context, const loci::v1::AnswerRequest* request,
                                   loci::v1::AnswerResponse* response) override;

 private:
  // What a request is asked of, where an activation is watched: nothing (empty) where none is, or where the request names its generation.
  struct Watched {
    std::string store, generation;
  };
  Watched WatchedBy(const std::string& store, const std::string& named_generation) const;
  // Tells the watches what became of it. A reply says itself which generation it is of.
  template <typename Reply>
  void Record(const Watched& watched, const absl::StatusOr<Reply>& reply) const;

  const ServiceContext& services_;
};

}  // namespace loci

#endif  // LOCI_SERVER_RETRIEVAL_SERVICE_H_
