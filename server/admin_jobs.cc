// AdminServiceImpl: jobs.
#include "server/admin_service.h"
#include "server/error_table.h"
#include "server/request_errors.h"

namespace loci {
namespace {

// A stream that ends with an error before its first message. Deleted by gRPC's last call.
class RefusedJobStream final : public grpc::ServerWriteReactor<loci::v1::Job> {
 public:
  explicit RefusedJobStream(const grpc::Status& status) { Finish(status); }
  void OnDone() override { delete this; }
};

}  // namespace

grpc::ServerUnaryReactor* AdminServiceImpl::GetJob(grpc::CallbackServerContext* context, const loci::v1::GetJobRequest*, loci::v1::Job*) {
  return Refuse(Method::kGetJob, context);
}
grpc::ServerUnaryReactor* AdminServiceImpl::ListJobs(grpc::CallbackServerContext* context, const loci::v1::ListJobsRequest*,
                                                     loci::v1::ListJobsResponse*) {
  return Refuse(Method::kListJobs, context);
}
grpc::ServerUnaryReactor* AdminServiceImpl::CancelJob(grpc::CallbackServerContext* context, const loci::v1::CancelJobRequest*,
                                                      loci::v1::Job*) {
  return Refuse(Method::kCancelJob, context);
}
grpc::ServerWriteReactor<loci::v1::Job>* AdminServiceImpl::WatchJob(grpc::CallbackServerContext*, const loci::v1::WatchJobRequest*) {
  const absl::Status status = NotAvailableYet(MethodName(Method::kWatchJob));
  services_.metrics->Finished(Method::kWatchJob, status.code(), 0);
  return new RefusedJobStream(ToGrpcStatus(status));
}

}  // namespace loci
