// One request with one reply, from its arrival on a gRPC thread to its answer on whichever thread has it.
//
//   UnaryCall* call = new UnaryCall(services, Method::kSearch, context);
//   if (!call->Admit(request->ByteSizeLong())) return call;          // It has been answered.
//   pipeline.Search(..., [call, reply](auto result) { ...; call->Answer(status); });
//   return call;
#ifndef LOCI_SERVER_UNARY_CALL_H_
#define LOCI_SERVER_UNARY_CALL_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/cancellation.h"
#include "base/thread_pool.h"
#include "grpcpp/grpcpp.h"
#include "retriever/pipeline.h"
#include "server/admission.h"
#include "server/method.h"
#include "server/request_id.h"
#include "server/service_context.h"

namespace loci {

// The deadline of a call on `clock`'s scale, kNoDeadlineMicros where the client gave none.
int64_t DeadlineMicros(const grpc::CallbackServerContext& context, const Clock& clock);

// Owned by gRPC from the handler's return on, and deleted by it after Answer. Admit, SetPhases, limits and Answer are used by one thread at a
// time.
class UnaryCall final : public grpc::ServerUnaryReactor {
 public:
  // All borrowed; `context` lives as long as this.
  UnaryCall(const ServiceContext& services, Method method, grpc::CallbackServerContext* context);

  // Takes a permit for a request of this size, and one of its method where that has a limit. False: the call has been answered with the reason.
  bool Admit(int64_t size_bytes);
  const RequestLimits& limits() const { return limits_; }
  const RequestTrace& trace() const { return trace_; }
  // What the phases took, for the metrics and the access log.
  void SetPhases(const PhaseTimes& phases);
  // Ends the call; the reply message is filled in where `status` is OK. Exactly once; this object may be gone on return.
  void Answer(const absl::Status& status);

 private:
  void OnCancel() override { limits_.Cancel(); }
  void OnDone() override { delete this; }

  absl::Status Acquire(int64_t size_bytes);

  const ServiceContext& services_;
  const Method method_;
  grpc::CallbackServerContext* const context_;
  const int64_t start_us_;
  const RequestTrace trace_;
  const RequestLimits limits_;
  PhaseTimes phases_;
  Admission::Permit permit_;
  Admission::Permit method_permit_;
  std::atomic<bool> answered_{false};
};

// A call of `method` that is validated and answered by `body`, which may block: on the control pool where the method looks after the server, on the
// admin pool else. Returns what the handler must return.
grpc::ServerUnaryReactor* RunCall(const ServiceContext& services, Method method, grpc::CallbackServerContext* context, size_t size_bytes,
                                  std::function<absl::Status(const RequestLimits&)> body);

// What is left of a call once its body has returned, for another pool's threads.
struct CallRest {
  ThreadPool* pool = nullptr;         // Null: nothing is, and the call ends.
  std::function<absl::Status()> run;  // Its status ends the call.
  std::function<absl::Status(absl::Status)> refused;  // The same, where the pool has no place for it, which it is told.
};
// As RunCall.
grpc::ServerUnaryReactor* RunCallThen(const ServiceContext& services, Method method, grpc::CallbackServerContext* context, size_t size_bytes,
                                      std::function<absl::StatusOr<CallRest>(const RequestLimits&)> body);

}  // namespace loci

#endif  // LOCI_SERVER_UNARY_CALL_H_
