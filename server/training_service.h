// loci.v1.TrainingService on gRPC's callback API.
#ifndef LOCI_SERVER_TRAINING_SERVICE_H_
#define LOCI_SERVER_TRAINING_SERVICE_H_

#include "grpcpp/grpcpp.h"
#include "proto/loci/v1/training.grpc.pb.h"
#include "server/service_context.h"

namespace loci {

// Validates on the gRPC thread, hands over to the training pipeline and returns. Thread-safe.
class TrainingServiceImpl final
    : public loci::v1::TrainingService::WithRawCallbackMethod_PublishEncoder<loci::v1::TrainingService::CallbackService> {
 public:
  explicit TrainingServiceImpl(const ServiceContext& services) : services_(services) {}

  grpc::ServerUnaryReactor* OpenSession(grpc::CallbackServerContext* context, const loci::v1::OpenSessionRequest* request,
                                        loci::v1::OpenSessionResponse* response) override;
  grpc::ServerUnaryReactor* RenewSession(grpc::CallbackServerContext* context, const loci::v1::RenewSessionRequest* request,
                                         loci::v1::RenewSessionResponse* response) override;
  grpc::ServerUnaryReactor* CloseSession(grpc::CallbackServerContext* context, const loci::v1::CloseSessionRequest* request,
                                         loci::v1::CloseSessionResponse* response) override;
  grpc::ServerUnaryReactor* Retrieve(grpc::CallbackServerContext* context, const loci::v1::RetrieveRequest* request,
                                     loci::v1::RetrieveResponse* response) override;
  grpc::ServerUnaryReactor* Backward(grpc::CallbackServerContext* context, const loci::v1::BackwardRequest* request,
                                     loci::v1::BackwardResponse* response) override;
  grpc::ServerReadReactor<grpc::ByteBuffer>* PublishEncoder(grpc::CallbackServerContext* context, grpc::ByteBuffer* response) override;

 private:
  const ServiceContext& services_;
};

}  // namespace loci

#endif  // LOCI_SERVER_TRAINING_SERVICE_H_
