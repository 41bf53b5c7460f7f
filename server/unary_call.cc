#include "server/unary_call.h"

#include <algorithm>
#include <chrono>
#include <string>
#include <utility>

#include "base/logging.h"
#include "server/error_table.h"

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

UnaryCall::UnaryCall(const ServiceContext& services, Method method, grpc::CallbackServerContext* context)
    : services_(services),
      method_(method),
      context_(context),
      start_us_(services.clock->NowMicros()),
      limits_(DeadlineMicros(*context, *services.clock)) {}

bool UnaryCall::Admit(int64_t size_bytes) {
  absl::StatusOr<Admission::Permit> permit = services_.requests->Acquire(size_bytes);
  if (!permit.ok()) {
    Answer(permit.status());
    return false;
  }
  permit_ = *std::move(permit);
  return true;
}

void UnaryCall::Answer(const absl::Status& status) {
  LOCI_CHECK(!answered_.exchange(true));
  if (CarriesPushback(status)) context_->AddTrailingMetadata(kPushbackTrailer, std::to_string(services_.pushback_ms));
  services_.metrics->Finished(method_, status.code(), services_.clock->NowMicros() - start_us_);
  // Before Finish: a client that has its answer may ask again at once and is not to find its own permit in the way.
  permit_.Release();
  Finish(ToGrpcStatus(status));
}

}  // namespace loci
