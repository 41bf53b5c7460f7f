#include "server/conclude_call.h"

#include <optional>
#include <string>

#include "server/error_table.h"
#include "server/request_log.h"

namespace loci {

CallConclusion ConcludeCall(const ServiceContext& services, grpc::CallbackServerContext* context, Method method, const RequestTrace& trace,
                            int64_t start_us, const PhaseTimes& phases, const absl::Status& status) {
  const std::optional<int64_t> pushback_ms = PushbackMs(status, services.pushback_ms, services.pipeline->BacklogMicros() / 1000);
  if (pushback_ms.has_value()) context->AddTrailingMetadata(kPushbackTrailer, std::to_string(*pushback_ms));
  const int64_t duration_us = services.clock->NowMicros() - start_us;
  services.metrics->Finished(method, status.code(), duration_us);
  if (IsLogged(status, services.log_requests)) LogRequest({trace, method, status, duration_us, phases, context->peer()});
  return {ToGrpcStatus(status, trace.request_id), pushback_ms.has_value()};
}

}  // namespace loci
