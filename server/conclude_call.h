// The end of every request, unary or streamed: it is counted, it has its line in the access log, and its error its trailers.
#ifndef LOCI_SERVER_CONCLUDE_CALL_H_
#define LOCI_SERVER_CONCLUDE_CALL_H_

#include <cstdint>

#include "absl/status/status.h"
#include "grpcpp/grpcpp.h"
#include "retriever/pipeline.h"
#include "server/method.h"
#include "server/request_id.h"
#include "server/service_context.h"

namespace loci {

struct CallConclusion {
  grpc::Status status;      // For the reactor's Finish.
  bool overloaded = false;  // The error passes: it carries a pushback trailer.
};

// Called once a request, before its permits are released and before Finish: `context` gets the trailers. `start_us` is the request's arrival on
// the services' clock.
CallConclusion ConcludeCall(const ServiceContext& services, grpc::CallbackServerContext* context, Method method, const RequestTrace& trace,
                            int64_t start_us, const PhaseTimes& phases, const absl::Status& status);

}  // namespace loci

#endif  // LOCI_SERVER_CONCLUDE_CALL_H_
