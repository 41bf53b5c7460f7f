#include "server/ingest_call.h"

#include <chrono>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "base/log_context.h"
#include "base/logging.h"
#include "base/status_macros.h"
#include "grpcpp/impl/codegen/proto_utils.h"
#include "server/error_table.h"
#include "server/reply.h"
#include "server/request_errors.h"
#include "server/request_log.h"
#include "server/unary_call.h"
#include "server/validation.h"

namespace loci {
namespace {

// gRPC says of a failed read only that it failed. That the client cancelled, or died, is told by another thread, at the same time or a
// moment later; without waiting for that moment a broken stream would look like a finished one. What still slips through is caught
// by the ingester, which looks at the limits before it activates.
constexpr std::chrono::milliseconds kCancellationGrace(20);
// Where the client does not wait, nothing looks at it after the call: the moment is long enough for a machine that is short of time.
constexpr std::chrono::milliseconds kHandOverGrace(500);

}  // namespace

void IngestCall::Turn::Offer(int64_t read) {
  MutexLock lock(&mutex_);
  waiting_for_ = read;
  cancellable_ = false;
}

void IngestCall::Turn::AllowCancel(int64_t read) {
  MutexLock lock(&mutex_);
  if (waiting_for_ == read) cancellable_ = true;
}

bool IngestCall::Turn::TakeAny() {
  MutexLock lock(&mutex_);
  if (waiting_for_ == 0 || !cancellable_) return false;
  waiting_for_ = 0;
  return true;
}

bool IngestCall::Turn::Take(int64_t read) {
  MutexLock lock(&mutex_);
  if (waiting_for_ != read) return false;
  waiting_for_ = 0;
  return true;
}

IngestCall::IngestCall(const ServiceContext& services, grpc::CallbackServerContext* context, grpc::ByteBuffer* response)
    : services_(services),
      context_(context),
      response_(response),
      start_us_(services.clock->NowMicros()),
      trace_(TakeRequestTrace(*context)),
      limits_(DeadlineMicros(*context, *services.clock)) {
  absl::StatusOr<Admission::Permit> permit = services_.ingests->Acquire(0);
  if (!permit.ok()) {
    End(permit.status());
    return;
  }
  permit_ = *std::move(permit);
  WaitForMessage();
}

void IngestCall::WaitForMessage() {
  const int64_t read = ++read_count_;
  turn_->Offer(read);
  idle_timer_ = std::make_unique<grpc::Alarm>();
  idle_timer_->Set(std::chrono::system_clock::now() + std::chrono::milliseconds(services_.ingest_idle_timeout_ms),
                   [this, turn = turn_, read](bool fired) {
                     // Having the turn keeps `this` alive: nobody else ends the call.
                     if (fired && turn->Take(read)) Submit(&IngestCall::HandleStall);
                   });
  // Once the read has started and another has the turn, this object may be gone.
  const std::shared_ptr<Turn> turn = turn_;
  const RequestLimits limits = limits_, job_limits = job_limits_;
  StartRead(&message_);
  turn->AllowCancel(read);
  if ((limits.cancelled() || job_limits.cancelled()) && turn->Take(read)) Submit(&IngestCall::HandleCancel);
}

void IngestCall::OnReadDone(bool ok) {
  if (turn_->Take(read_count_)) Submit(ok ? &IngestCall::HandleMessage : &IngestCall::HandleEnd);
}

void IngestCall::Submit(void (IngestCall::*work)()) {
  if (services_.admin_pool->TrySubmit([this, work] {
        const ScopedLogContext context(trace_.request_id, trace_.trace_id);
        (this->*work)();
      })) {
    return;
  }
  // The queue has room for every call that was admitted, so this is for pools that are made smaller.
  End(ErrorWithReason(absl::ResourceExhaustedError("the queue of the admin pool is full"), "OVERLOADED"));
}

void IngestCall::HandleMessage() {
  if (const absl::Status status = TakeMessage(); !status.ok()) {
    End(status);
  } else {
    WaitForMessage();
  }
}

absl::Status IngestCall::CheckLimits() const {
  const int64_t now_us = services_.clock->NowMicros();
  LOCI_RETURN_IF_ERROR(limits_.Check(now_us));
  return job_limits_.Check(now_us);
}

absl::Status IngestCall::TakeMessage() {
  LOCI_RETURN_IF_ERROR(CheckLimits());
  if (!grpc::SerializationTraits<loci::v1::IngestRequest>::Deserialize(&message_, &request_).ok()) {
    return ErrorWithReason(absl::InvalidArgumentError(absl::StrCat("message ", read_count_, " of the stream is not an IngestRequest (or has a string "
                                                                   "that is not UTF-8)")),
                           "MALFORMED_MESSAGE", {{"message", absl::StrCat(read_count_)}});
  }
  if (ingester_ == nullptr) {
    if (!request_.has_header()) return InvalidField("kind", "of the first message must be the header");
    return StartJob();
  }
  if (request_.has_header()) return InvalidField("header", "came a second time; it must be the first message only");
  if (!request_.has_batch()) return InvalidField("kind", "is not set; messages after the header must be batches");
  return TakeBatch();
}

absl::Status IngestCall::StartJob() {
  no_wait_ = request_.header().no_wait();
  const RequestLimits limits = no_wait_ ? job_limits_ : limits_;
  LOCI_ASSIGN_OR_RETURN(IngestOptions options, ValidateIngestHeader(request_.header(), limits));
  // Where the call waits for a message, having the turn keeps it alive; where it works, it looks at its limits itself.
  const auto on_cancel = [this, turn = turn_] {
    if (turn->TakeAny()) Submit(&IngestCall::HandleCancel);
  };
  LOCI_ASSIGN_OR_RETURN(
      job_, services_.jobs->Start({.kind = JobKind::kIngest, .store = options.store, .request_id = trace_.request_id, .limits = limits, .on_cancel = on_cancel}));
  options.progress = [job = job_, phase = std::string()](std::string_view name, int64_t done, int64_t total) mutable {
    if (name != phase) {
      phase = name;
      job->SetPhase(phase, total, phase == "recall" ? "queries" : phase == "checksum" ? "files" : "passages");
      if (phase == "activating") (void)job->BeginActivation();  // The ingester looks at the limits itself.
    }
    job->SetDone(done);
  };
  LOCI_ASSIGN_OR_RETURN(ingester_, Ingester::Start(*services_.manager, std::move(options)));
  return absl::OkStatus();
}

absl::Status IngestCall::TakeBatch() {
  loci::v1::PassageBatch& batch = *request_.mutable_batch();
  LOCI_ASSIGN_OR_RETURN(DecodedMatrix vectors, ValidateBatch(batch));
  std::vector<loci::v1::Passage> passages;
  passages.reserve(batch.passages_size());
  for (loci::v1::Passage& passage : *batch.mutable_passages()) passages.push_back(std::move(passage));
  request_.Clear();
  if (passages.empty()) return absl::OkStatus();
  return ingester_->Add(std::move(passages), vectors.values, vectors.cols);
}

void IngestCall::HandleEnd() { End(Conclude()); }

namespace {

// Builds and activates, and ends the job. `ingester` is gone then, and with it what it did not come to the end of.
absl::StatusOr<loci::v1::IngestResponse> FinishJob(std::unique_ptr<Ingester> ingester, JobHandle& job) {
  absl::StatusOr<IngestResult> result = ingester->Finish();
  ingester.reset();
  if (!result.ok()) return job.Finish(result.status());
  loci::v1::IngestResponse response;
  FillIngestResponse(*result, &response);
  response.set_job(job.id());
  job.SetGeneration(result->generation);
  LOCI_RETURN_IF_ERROR(job.Finish(absl::OkStatus(), response.SerializeAsString()));
  return response;
}

void Serialize(const loci::v1::IngestResponse& response, grpc::ByteBuffer* buffer) {
  bool own_buffer = false;
  LOCI_CHECK(grpc::SerializationTraits<loci::v1::IngestResponse>::Serialize(response, buffer, &own_buffer).ok());
}

}  // namespace

absl::Status IngestCall::Conclude() {
  std::this_thread::sleep_for(no_wait_ ? kHandOverGrace : kCancellationGrace);
  if (context_->IsCancelled()) limits_.Cancel();
  LOCI_RETURN_IF_ERROR(CheckLimits());
  if (ingester_ == nullptr) return InvalidField("kind", "of the first message must be the header; the stream ended without one");
  if (no_wait_) return HandOver();
  LOCI_ASSIGN_OR_RETURN(const loci::v1::IngestResponse response, FinishJob(std::move(ingester_), *job_));
  Serialize(response, response_);
  return absl::OkStatus();
}

absl::Status IngestCall::HandOver() {
  LOCI_ASSIGN_OR_RETURN(const IngestResult received, ingester_->FinishReceiving());
  loci::v1::IngestResponse response;
  FillIngestResponse(received, &response);
  response.set_job(job_->id());
  response.set_done(false);
  Serialize(response, response_);
  if (context_->IsCancelled()) limits_.Cancel();
  handed_over_ = true;
  LOCI_RETURN_IF_ERROR(CheckLimits());  // Whoever was gone before that has not handed it over.
  job_->SetPhase("queued", 0, "");
  // The permit goes with the job: what is being built counts as an ingest in flight.
  struct Work {
    std::unique_ptr<Ingester> ingester;
    std::shared_ptr<JobHandle> job;
    Admission::Permit permit;
    RequestTrace trace;
  };
  auto work = std::make_shared<Work>(Work{std::move(ingester_), job_, std::move(permit_), trace_});
  const bool queued = services_.build_pool->TrySubmit([work] {
    const ScopedLogContext context(work->trace.request_id, work->trace.trace_id);
    (void)FinishJob(std::move(work->ingester), *work->job);  // Which logs and keeps it.
    work->permit.Release();
  });
  if (!queued) {
    ingester_ = std::move(work->ingester);
    permit_ = std::move(work->permit);
    return ErrorWithReason(absl::ResourceExhaustedError("the queue of builds is full"), "OVERLOADED");
  }
  job_.reset();
  return absl::OkStatus();
}

void IngestCall::HandleStall() {
  End(ErrorWithReason(absl::DeadlineExceededError(absl::StrCat("the ingest sent nothing for ", services_.ingest_idle_timeout_ms, " ms")),
                      "INGEST_STALLED"));
}

void IngestCall::HandleCancel() { End(CheckLimits()); }

void IngestCall::End(const absl::Status& ended) {
  absl::Status status = ended;
  idle_timer_.reset();
  ingester_.reset();  // Unfinished: throws away what it built.
  if (job_ != nullptr) status = job_->Finish(status);
  if (CarriesPushback(status)) context_->AddTrailingMetadata(kPushbackTrailer, std::to_string(services_.pushback_ms));
  const int64_t duration_us = services_.clock->NowMicros() - start_us_;
  services_.metrics->Finished(Method::kIngest, status.code(), duration_us);
  if (IsLogged(status, services_.log_requests)) LogRequest({trace_, Method::kIngest, status, duration_us, PhaseTimes(), context_->peer()});
  permit_.Release();
  Finish(ToGrpcStatus(status, trace_.request_id));
}

}  // namespace loci
