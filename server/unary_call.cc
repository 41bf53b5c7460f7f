#include "server/unary_call.h"

#include <algorithm>
#include <chrono>
#include <optional>
#include <string>
#include <utility>

#include "base/error.h"
#include "base/log_context.h"
#include "base/logging.h"
#include "base/status_macros.h"
#include "server/conclude_call.h"

namespace loci {

int64_t DeadlineMicros(const grpc::CallbackServerContext& context, const Clock& clock) {
  const std::chrono::system_clock::time_point deadline = context.deadline();
  if (deadline == std::chrono::system_clock::time_point::max()) return kNoDeadlineMicros;
  const int64_t left_us =
      std::chrono::duration_cast<std::chrono::microseconds>(deadline - std::chrono::system_clock::now()).count();
  // Beyond 30 years it is none; the sum stays far from overflow.
  if (left_us > int64_t{30} * 365 * 86'400 * 1'000'000) return kNoDeadlineMicros;
  return clock.NowMicros() + std::max<int64_t>(left_us, 0);
}

namespace {

// A refusal is held only where its request has more than so many times that time left.
constexpr int64_t kLeastPatience = 4;

// The client's deadline, or the method's where that is earlier.
int64_t EffectiveDeadline(const ServiceContext& services, Method method, int64_t start_us, const grpc::CallbackServerContext& context) {
  const int64_t deadline_us = DeadlineMicros(context, *services.clock);
  const int64_t most_us = services.methods[static_cast<size_t>(method)].max_deadline_us;
  return most_us > 0 ? std::min(deadline_us, start_us + most_us) : deadline_us;
}

}  // namespace

UnaryCall::UnaryCall(const ServiceContext& services, Method method, grpc::CallbackServerContext* context)
    : services_(services),
      method_(method),
      context_(context),
      start_us_(services.clock->NowMicros()),
      trace_(TakeRequestTrace(*context)),
      limits_(EffectiveDeadline(services, method, start_us_, *context)) {}

absl::Status UnaryCall::Acquire(int64_t size_bytes) {
  Admission& all = IsControl(method_) ? *services_.control : *services_.requests;
  LOCI_ASSIGN_OR_RETURN(permit_, all.Acquire(size_bytes));
  if (Admission* const own = services_.methods[static_cast<size_t>(method_)].requests; own != nullptr) {
    LOCI_ASSIGN_OR_RETURN(method_permit_, own->Acquire(size_bytes));
  }
  return absl::OkStatus();
}

bool UnaryCall::Admit(int64_t size_bytes) {
  absl::Status status = limits_.Check(start_us_);
  if (!status.ok()) services_.pipeline->work_metrics().Avoided(WorkPhase::kTokenize);
  if (status.ok()) status = Acquire(size_bytes);
  if (!status.ok()) Answer(status);
  return status.ok();
}

void UnaryCall::SetPhases(const PhaseTimes& phases) {
  phases_ = phases;
  services_.metrics->Phases(method_, phases);
}

void UnaryCall::Answer(const absl::Status& status) {
  LOCI_CHECK(!answered_.exchange(true));
  const int64_t now_us = services_.clock->NowMicros();
  if (status.ok() && HasPhases(method_) && !limits_.Check(now_us).ok()) services_.pipeline->work_metrics().Wasted(WorkPhase::kReply);
  CallConclusion conclusion = ConcludeCall(services_, context_, method_, trace_, start_us_, phases_, status);
  // Before Finish: a client that has its answer may ask again at once and is not to find its own permit in the way.
  method_permit_.Release();
  permit_.Release();
  // A client that is in a hurry does not wait for others' refusals.
  const bool can_wait = limits_.deadline_us() - now_us > kLeastPatience * services_.refusals->hold().count();
  if (conclusion.overloaded && can_wait) return services_.refusals->Add([this, answer = std::move(conclusion.status)] { Finish(answer); });
  Finish(std::move(conclusion.status));
}

grpc::ServerUnaryReactor* RunCall(const ServiceContext& services, Method method, grpc::CallbackServerContext* context, size_t size_bytes,
                                  std::function<absl::Status(const RequestLimits&)> body) {
  return RunCallThen(services, method, context, size_bytes, [body = std::move(body)](const RequestLimits& limits) -> absl::StatusOr<CallRest> {
    LOCI_RETURN_IF_ERROR(body(limits));
    return CallRest();
  });
}

grpc::ServerUnaryReactor* RunCallThen(const ServiceContext& services, Method method, grpc::CallbackServerContext* context, size_t size_bytes,
                                      std::function<absl::StatusOr<CallRest>(const RequestLimits&)> body) {
  UnaryCall* const call = new UnaryCall(services, method, context);
  if (!call->Admit(static_cast<int64_t>(size_bytes))) return call;
  ThreadPool& pool = IsControl(method) ? *services.control_pool : *services.admin_pool;
  const bool queued = pool.TrySubmit([&services, call, body = std::move(body)] {
    const ScopedLogContext context(call->trace().request_id, call->trace().trace_id);
    if (absl::Status live = call->limits().Check(services.clock->NowMicros()); !live.ok()) return call->Answer(live);
    absl::StatusOr<CallRest> rest = body(call->limits());
    if (!rest.ok() || rest->pool == nullptr) return call->Answer(rest.status());
    const bool queued = rest->pool->TrySubmit([call, run = std::move(rest->run)] {
      const ScopedLogContext context(call->trace().request_id, call->trace().trace_id);
      call->Answer(run());
    });
    if (!queued) call->Answer(rest->refused(ErrorWithReason(absl::ResourceExhaustedError("the queue of such jobs is full"), "OVERLOADED")));
  });
  if (!queued) {
    call->Answer(ErrorWithReason(absl::ResourceExhaustedError("the queue of the admin pool is full"), "OVERLOADED"));
  }
  return call;
}

}  // namespace loci
