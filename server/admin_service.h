// loci.v1.AdminService on gRPC's callback API.
#ifndef LOCI_SERVER_ADMIN_SERVICE_H_
#define LOCI_SERVER_ADMIN_SERVICE_H_

#include <cstdint>
#include <functional>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/cancellation.h"
#include "grpcpp/grpcpp.h"
#include "proto/loci/v1/admin.grpc.pb.h"
#include "retriever/generation_manager.h"
#include "retriever/job_registry.h"
#include "server/service_context.h"
#include "server/unary_call.h"

namespace loci {

// The generation manager's calls block, so each request runs on the admin pool, its validation included. Thread-safe.
class AdminServiceImpl final : public loci::v1::AdminService::WithRawCallbackMethod_Ingest<
                                   loci::v1::AdminService::WithRawCallbackMethod_ImportStore<
                                       loci::v1::AdminService::WithRawCallbackMethod_ImportEncoder<loci::v1::AdminService::CallbackService>>> {
 public:
  explicit AdminServiceImpl(const ServiceContext& services) : services_(services) {}

  grpc::ServerUnaryReactor* CreateStore(grpc::CallbackServerContext*, const loci::v1::CreateStoreRequest*,
                                        loci::v1::CreateStoreResponse*) override;
  grpc::ServerUnaryReactor* GetStore(grpc::CallbackServerContext*, const loci::v1::GetStoreRequest*, loci::v1::GetStoreResponse*) override;
  grpc::ServerUnaryReactor* ListStores(grpc::CallbackServerContext*, const loci::v1::ListStoresRequest*,
                                       loci::v1::ListStoresResponse*) override;
  grpc::ServerUnaryReactor* DeleteStore(grpc::CallbackServerContext*, const loci::v1::DeleteStoreRequest*,
                                        loci::v1::DeleteStoreResponse*) override;

  grpc::ServerUnaryReactor* UpdateStore(grpc::CallbackServerContext*, const loci::v1::UpdateStoreRequest*,
                                        loci::v1::UpdateStoreResponse*) override;

  grpc::ServerReadReactor<grpc::ByteBuffer>* Ingest(grpc::CallbackServerContext*, grpc::ByteBuffer*) override;
  grpc::ServerWriteReactor<loci::v1::ExportChunk>* ExportStore(grpc::CallbackServerContext*, const loci::v1::ExportRequest*) override;
  grpc::ServerReadReactor<grpc::ByteBuffer>* ImportStore(grpc::CallbackServerContext*, grpc::ByteBuffer*) override;
  grpc::ServerReadReactor<grpc::ByteBuffer>* ImportEncoder(grpc::CallbackServerContext*, grpc::ByteBuffer*) override;
  grpc::ServerUnaryReactor* UpsertPassages(grpc::CallbackServerContext*, const loci::v1::UpsertPassagesRequest*,
                                           loci::v1::UpsertPassagesResponse*) override;
  grpc::ServerUnaryReactor* DeletePassages(grpc::CallbackServerContext*, const loci::v1::DeletePassagesRequest*,
                                           loci::v1::DeletePassagesResponse*) override;
  grpc::ServerUnaryReactor* GetPassages(grpc::CallbackServerContext*, const loci::v1::GetPassagesRequest*,
                                        loci::v1::GetPassagesResponse*) override;

  grpc::ServerUnaryReactor* ListGenerations(grpc::CallbackServerContext*, const loci::v1::ListGenerationsRequest*,
                                            loci::v1::ListGenerationsResponse*) override;
  grpc::ServerUnaryReactor* ActivateGeneration(grpc::CallbackServerContext*, const loci::v1::ActivateGenerationRequest*,
                                               loci::v1::ActivateGenerationResponse*) override;
  grpc::ServerUnaryReactor* RollbackStore(grpc::CallbackServerContext*, const loci::v1::RollbackStoreRequest*,
                                          loci::v1::RollbackStoreResponse*) override;
  grpc::ServerUnaryReactor* FoldStore(grpc::CallbackServerContext*, const loci::v1::FoldStoreRequest*,
                                      loci::v1::FoldStoreResponse*) override;
  grpc::ServerUnaryReactor* ReembedStore(grpc::CallbackServerContext*, const loci::v1::ReembedStoreRequest*,
                                         loci::v1::ReembedStoreResponse*) override;
  grpc::ServerUnaryReactor* TuneStore(grpc::CallbackServerContext*, const loci::v1::TuneStoreRequest*,
                                      loci::v1::TuneStoreResponse*) override;
  grpc::ServerUnaryReactor* QuantizeStore(grpc::CallbackServerContext*, const loci::v1::QuantizeStoreRequest*,
                                          loci::v1::QuantizeStoreResponse*) override;
  grpc::ServerUnaryReactor* DeleteGeneration(grpc::CallbackServerContext*, const loci::v1::DeleteGenerationRequest*,
                                             loci::v1::DeleteGenerationResponse*) override;
  grpc::ServerUnaryReactor* PinGeneration(grpc::CallbackServerContext*, const loci::v1::PinGenerationRequest*,
                                          loci::v1::PinGenerationResponse*) override;
  grpc::ServerUnaryReactor* VerifyGeneration(grpc::CallbackServerContext*, const loci::v1::VerifyGenerationRequest*,
                                             loci::v1::VerifyGenerationResponse*) override;
  grpc::ServerUnaryReactor* PlanActivation(grpc::CallbackServerContext*, const loci::v1::PlanActivationRequest*,
                                           loci::v1::PlanActivationResponse*) override;
  grpc::ServerUnaryReactor* CompareGenerations(grpc::CallbackServerContext*, const loci::v1::CompareGenerationsRequest*,
                                               loci::v1::CompareGenerationsResponse*) override;

  grpc::ServerUnaryReactor* GetJob(grpc::CallbackServerContext*, const loci::v1::GetJobRequest*, loci::v1::Job*) override;
  grpc::ServerUnaryReactor* ListJobs(grpc::CallbackServerContext*, const loci::v1::ListJobsRequest*, loci::v1::ListJobsResponse*) override;
  grpc::ServerUnaryReactor* CancelJob(grpc::CallbackServerContext*, const loci::v1::CancelJobRequest*, loci::v1::Job*) override;
  grpc::ServerWriteReactor<loci::v1::Job>* WatchJob(grpc::CallbackServerContext*, const loci::v1::WatchJobRequest*) override;

  grpc::ServerUnaryReactor* GetServerInfo(grpc::CallbackServerContext*, const loci::v1::GetServerInfoRequest*,
                                          loci::v1::GetServerInfoResponse*) override;

 private:
  // Admits a request of `size_bytes` and runs `body` on the admin pool; its status ends the call.
  grpc::ServerUnaryReactor* Run(Method method, grpc::CallbackServerContext* context, size_t size_bytes,
                                std::function<absl::Status(const RequestLimits&)> body);

  // As RunJob, but that a job that is waited for runs on its kind's pool too, and takes no thread from what is short.
  template <typename Response>
  absl::StatusOr<CallRest> QueueJob(JobSpec spec, bool no_wait, std::function<absl::Status(const OperationControl&, Response*)> operation,
                                Response* response);

  absl::Status ReadPassages(const loci::v1::GetPassagesRequest& request, const RequestLimits& limits,
                            loci::v1::GetPassagesResponse* response) const;

  const ServiceContext& services_;
};

}  // namespace loci

#endif  // LOCI_SERVER_ADMIN_SERVICE_H_
