#include "server/upload_call.h"

#include <chrono>
#include <string>
#include <thread>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "base/log_context.h"
#include "base/logging.h"
#include "base/status_macros.h"
#include "server/conclude_call.h"
#include "server/request_errors.h"
#include "server/unary_call.h"

namespace loci {
namespace {

// gRPC says of a failed read only that it failed. That the client cancelled, or died, is told by another thread, at the same time or a
// moment later; without waiting for that moment a broken stream would look like a finished one. What still slips through is caught
// by the upload, which looks at the limits before it activates.
constexpr std::chrono::milliseconds kCancellationGrace(20);
// Where the client does not wait, nothing looks at it after the call: the moment is long enough for a machine that is short of time.
constexpr std::chrono::milliseconds kHandOverGrace(500);

}  // namespace

void UploadCall::Turn::Offer(int64_t read) {
  MutexLock lock(&mutex_);
  waiting_for_ = read;
  cancellable_ = false;
}

void UploadCall::Turn::AllowCancel(int64_t read) {
  MutexLock lock(&mutex_);
  if (waiting_for_ == read) cancellable_ = true;
}

bool UploadCall::Turn::TakeAny() {
  MutexLock lock(&mutex_);
  if (waiting_for_ == 0 || !cancellable_) return false;
  waiting_for_ = 0;
  return true;
}

bool UploadCall::Turn::Take(int64_t read) {
  MutexLock lock(&mutex_);
  if (waiting_for_ != read) return false;
  waiting_for_ = 0;
  return true;
}

UploadCall::UploadCall(const ServiceContext& services, std::unique_ptr<Upload> upload, grpc::CallbackServerContext* context,
                       grpc::ByteBuffer* response)
    : services_(services),
      context_(context),
      response_(response),
      method_(upload->method()),
      noun_(upload->noun()),
      start_us_(services.clock->NowMicros()),
      trace_(TakeRequestTrace(*context)),
      limits_(DeadlineMicros(*context, *services.clock)),
      upload_(std::move(upload)) {
  absl::StatusOr<Admission::Permit> permit = services_.ingests->Acquire(0);
  if (!permit.ok()) {
    End(permit.status());
    return;
  }
  permit_ = *std::move(permit);
  WaitForMessage();
}

void UploadCall::WaitForMessage() {
  const int64_t read = ++read_count_;
  turn_->Offer(read);
  idle_timer_ = std::make_unique<grpc::Alarm>();
  idle_timer_->Set(std::chrono::system_clock::now() + std::chrono::milliseconds(services_.ingest_idle_timeout_ms),
                   [this, turn = turn_, read](bool fired) {
                     // Having the turn keeps `this` alive: nobody else ends the call.
                     if (fired && turn->Take(read)) Submit(&UploadCall::HandleStall);
                   });
  // Once the read has started and another has the turn, this object may be gone.
  const std::shared_ptr<Turn> turn = turn_;
  const RequestLimits limits = limits_, job_limits = job_limits_;
  StartRead(&message_);
  turn->AllowCancel(read);
  if ((limits.cancelled() || job_limits.cancelled()) && turn->Take(read)) Submit(&UploadCall::HandleCancel);
}

void UploadCall::OnReadDone(bool ok) {
  if (turn_->Take(read_count_)) Submit(ok ? &UploadCall::HandleMessage : &UploadCall::HandleEnd);
}

void UploadCall::Submit(void (UploadCall::*work)()) {
  if (services_.admin_pool->TrySubmit([this, work] {
        const ScopedLogContext context(trace_.request_id, trace_.trace_id);
        (this->*work)();
      })) {
    return;
  }
  // The queue has room for every call that was admitted, so this is for pools that are made smaller.
  End(ErrorWithReason(absl::ResourceExhaustedError("the queue of the admin pool is full"), "OVERLOADED"));
}

void UploadCall::HandleMessage() {
  absl::Status status = CheckLimits();
  if (status.ok()) status = upload_->Take(*this, &message_, read_count_);
  message_.Clear();
  if (!status.ok()) {
    End(status);
  } else {
    WaitForMessage();
  }
}

absl::Status UploadCall::CheckLimits() const {
  const int64_t now_us = services_.clock->NowMicros();
  LOCI_RETURN_IF_ERROR(limits_.Check(now_us));
  return job_limits_.Check(now_us);
}

absl::StatusOr<std::shared_ptr<JobHandle>> UploadCall::StartJob(JobKind kind, const std::string& store, bool no_wait) {
  no_wait_ = no_wait;
  // Where the call waits for a message, having the turn keeps it alive; where it works, it looks at its limits itself.
  const auto on_cancel = [this, turn = turn_] {
    if (turn->TakeAny()) Submit(&UploadCall::HandleCancel);
  };
  LOCI_ASSIGN_OR_RETURN(job_, services_.jobs->Start({.kind = kind,
                                                     .store = store,
                                                     .request_id = trace_.request_id,
                                                     .limits = LimitsOf(no_wait),
                                                     .on_cancel = on_cancel}));
  return job_;
}

void UploadCall::HandleEnd() { End(Conclude()); }

namespace {

// Builds and activates, and ends the job. `upload` is gone then, and with it what it did not come to the end of.
absl::StatusOr<std::string> FinishJob(std::unique_ptr<Upload> upload, JobHandle& job) {
  absl::StatusOr<std::string> reply = upload->Finish(job);
  upload.reset();
  if (!reply.ok()) return job.Finish(reply.status());
  LOCI_RETURN_IF_ERROR(job.Finish(absl::OkStatus(), *reply));
  return reply;
}

grpc::ByteBuffer BufferOf(const std::string& reply) {
  const grpc::Slice slice(reply);
  return grpc::ByteBuffer(&slice, 1);
}

}  // namespace

absl::Status UploadCall::Conclude() {
  std::this_thread::sleep_for(no_wait_ ? kHandOverGrace : kCancellationGrace);
  if (context_->IsCancelled()) limits_.Cancel();
  LOCI_RETURN_IF_ERROR(CheckLimits());
  if (job_ == nullptr) return InvalidField("kind", "of the first message must be the header; the stream ended without one");
  if (no_wait_) return HandOver();
  LOCI_ASSIGN_OR_RETURN(const std::string reply, FinishJob(std::move(upload_), *job_));
  *response_ = BufferOf(reply);
  return absl::OkStatus();
}

absl::Status UploadCall::HandOver() {
  LOCI_ASSIGN_OR_RETURN(const std::string reply, upload_->FinishReceiving(*job_));
  *response_ = BufferOf(reply);
  if (context_->IsCancelled()) limits_.Cancel();
  handed_over_ = true;
  LOCI_RETURN_IF_ERROR(CheckLimits());  // Whoever was gone before that has not handed it over.
  job_->SetPhase("queued", 0, "");
  // The permit goes with the job: what is being built counts as an ingest in flight.
  struct Work {
    std::unique_ptr<Upload> upload;
    std::shared_ptr<JobHandle> job;
    Admission::Permit permit;
    RequestTrace trace;
  };
  auto work = std::make_shared<Work>(Work{std::move(upload_), job_, std::move(permit_), trace_});
  const bool queued = services_.build_pool->TrySubmit([work] {
    const ScopedLogContext context(work->trace.request_id, work->trace.trace_id);
    (void)FinishJob(std::move(work->upload), *work->job);  // Which logs and keeps it.
    work->permit.Release();
  });
  if (!queued) {
    upload_ = std::move(work->upload);
    permit_ = std::move(work->permit);
    return ErrorWithReason(absl::ResourceExhaustedError("the queue of builds is full"), "OVERLOADED");
  }
  job_.reset();
  return absl::OkStatus();
}

void UploadCall::HandleStall() {
  End(ErrorWithReason(absl::DeadlineExceededError(absl::StrCat("the ", noun_, " sent nothing for ", services_.ingest_idle_timeout_ms, " ms")),
                      absl::AsciiStrToUpper(noun_) + "_STALLED"));
}

void UploadCall::HandleCancel() { End(CheckLimits()); }

void UploadCall::End(const absl::Status& ended) {
  absl::Status status = ended;
  idle_timer_.reset();
  upload_.reset();  // Unfinished: throws away what it built.
  if (job_ != nullptr) status = job_->Finish(status);
  CallConclusion conclusion = ConcludeCall(services_, context_, method_, trace_, start_us_, PhaseTimes(), status);
  permit_.Release();
  Finish(std::move(conclusion.status));
}

}  // namespace loci
