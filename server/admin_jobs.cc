// AdminServiceImpl: jobs.
#include <atomic>
#include <chrono>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "base/status_macros.h"
#include "grpcpp/alarm.h"
#include "retriever/job_registry.h"
#include "server/admin_service.h"
#include "server/admission.h"
#include "server/conclude_call.h"
#include "server/reply.h"
#include "server/request_errors.h"
#include "server/request_id.h"
#include "server/validation.h"

namespace loci {
namespace {

constexpr int kDefaultJobs = 100;
constexpr int kMaxJobs = 1'000;
constexpr std::chrono::milliseconds kWatchPeriod(200);

absl::StatusOr<storage::JobRecord::State> ValidateJobState(loci::v1::JobState state) {
  switch (state) {
    case loci::v1::JOB_STATE_UNSPECIFIED:
      return storage::JobRecord::STATE_UNSPECIFIED;
    case loci::v1::JOB_STATE_RUNNING:
      return storage::JobRecord::STATE_RUNNING;
    case loci::v1::JOB_STATE_SUCCEEDED:
      return storage::JobRecord::STATE_SUCCEEDED;
    case loci::v1::JOB_STATE_FAILED:
      return storage::JobRecord::STATE_FAILED;
    case loci::v1::JOB_STATE_CANCELLED:
      return storage::JobRecord::STATE_CANCELLED;
    case loci::v1::JOB_STATE_INTERRUPTED:
      return storage::JobRecord::STATE_INTERRUPTED;
    default:
      return InvalidField("state", absl::StrCat("is ", static_cast<int>(state), ", which is no state of a job"));
  }
}

// A stream of one job's states. It looks at the job every 200 ms, and no thread waits meanwhile. Either a write or the alarm is under way,
// so that one thread at a time is in here, but for OnCancel; owned by gRPC from the handler's return on.
class WatchJobCall final : public grpc::ServerWriteReactor<loci::v1::Job> {
 public:
  WatchJobCall(const ServiceContext& services, grpc::CallbackServerContext* context, const loci::v1::WatchJobRequest& request)
      : services_(services), context_(context), job_(request.job()), start_us_(services.clock->NowMicros()), trace_(TakeRequestTrace(*context)) {
    absl::StatusOr<Admission::Permit> permit = services_.watches->Acquire(static_cast<int64_t>(request.ByteSizeLong()));
    if (!permit.ok()) {
      End(permit.status());
      return;
    }
    permit_ = *std::move(permit);
    Look();
  }

 private:
  void OnWriteDone(bool ok) override {
    if (!ok) cancelled_ = true;
    if (last_ && ok) return End(absl::OkStatus());
    Wait();
  }
  void OnCancel() override { cancelled_ = true; }
  void OnDone() override { delete this; }

  void Wait() {
    alarm_ = std::make_unique<grpc::Alarm>();
    alarm_->Set(std::chrono::system_clock::now() + kWatchPeriod, [this](bool) { Look(); });
  }

  // Writes the job where it changed, else waits for the next look. This object may be gone on return, as from End.
  void Look() {
    if (cancelled_) return End(absl::CancelledError("the client cancelled the request"));
    const absl::StatusOr<JobInfo> info = services_.jobs->Get(job_);
    if (!info.ok()) return End(info.status());
    last_ = info->record.state() != storage::JobRecord::STATE_RUNNING;
    if (!last_ && services_.jobs->draining()) {
      return End(ErrorWithReason(absl::UnavailableError("the server is draining; watch the job again when it is back"), "DRAINING"));
    }
    if (info->version == version_) return Wait();
    version_ = info->version;
    message_.Clear();
    FillJob(*info, &message_);
    StartWrite(&message_);
  }

  void End(const absl::Status& status) {
    CallConclusion conclusion = ConcludeCall(services_, context_, Method::kWatchJob, trace_, start_us_, PhaseTimes(), status);
    permit_.Release();
    Finish(std::move(conclusion.status));
  }

  const ServiceContext& services_;
  grpc::CallbackServerContext* const context_;
  const std::string job_;
  const int64_t start_us_;
  const RequestTrace trace_;
  Admission::Permit permit_;
  std::unique_ptr<grpc::Alarm> alarm_;
  loci::v1::Job message_;  // That is being written.
  int64_t version_ = 0;    // Of the job as it was written last.
  bool last_ = false;      // The job has ended.
  std::atomic<bool> cancelled_{false};
};

}  // namespace

grpc::ServerUnaryReactor* AdminServiceImpl::GetJob(grpc::CallbackServerContext* context, const loci::v1::GetJobRequest* request,
                                                   loci::v1::Job* response) {
  return Run(Method::kGetJob, context, request->ByteSizeLong(), [this, request, response](const RequestLimits&) -> absl::Status {
    LOCI_ASSIGN_OR_RETURN(const JobInfo info, services_.jobs->Get(request->job()));
    FillJob(info, response);
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* AdminServiceImpl::ListJobs(grpc::CallbackServerContext* context, const loci::v1::ListJobsRequest* request,
                                                     loci::v1::ListJobsResponse* response) {
  return Run(Method::kListJobs, context, request->ByteSizeLong(), [this, request, response](const RequestLimits&) -> absl::Status {
    if (!request->store().empty()) LOCI_RETURN_IF_ERROR(ValidateStore(request->store()).status());
    LOCI_ASSIGN_OR_RETURN(const storage::JobRecord::State state, ValidateJobState(request->state()));
    if (request->limit() < 0 || request->limit() > kMaxJobs) {
      return InvalidField("limit", absl::StrCat("is ", request->limit(), "; it must be from 0 to ", kMaxJobs));
    }
    const int limit = request->limit() == 0 ? kDefaultJobs : request->limit();
    for (const JobInfo& info : services_.jobs->List(request->store(), state, limit)) FillJob(info, response->add_jobs());
    return CheckReplySize(*response);
  });
}

grpc::ServerUnaryReactor* AdminServiceImpl::CancelJob(grpc::CallbackServerContext* context, const loci::v1::CancelJobRequest* request,
                                                      loci::v1::Job* response) {
  return Run(Method::kCancelJob, context, request->ByteSizeLong(), [this, request, response](const RequestLimits&) -> absl::Status {
    LOCI_ASSIGN_OR_RETURN(const JobInfo info, services_.jobs->Cancel(request->job()));
    FillJob(info, response);
    return absl::OkStatus();
  });
}

grpc::ServerWriteReactor<loci::v1::Job>* AdminServiceImpl::WatchJob(grpc::CallbackServerContext* context, const loci::v1::WatchJobRequest* request) {
  return new WatchJobCall(services_, context, *request);
}

}  // namespace loci
