// The access log: one line a request, once it has been answered.
#ifndef LOCI_SERVER_REQUEST_LOG_H_
#define LOCI_SERVER_REQUEST_LOG_H_

#include <cstdint>
#include <string_view>

#include "absl/status/status.h"
#include "retriever/pipeline.h"
#include "server/method.h"
#include "server/request_id.h"

namespace loci {

// What is said of a request; all borrowed.
struct AnsweredRequest {
  const RequestTrace& trace;
  Method method;
  const absl::Status& status;
  int64_t duration_us = 0;  // From its arrival to its answer.
  const PhaseTimes& phases;  // Those that ran.
  std::string_view peer;     // "ipv4:127.0.0.1:41234"
};

// Whether LogRequest says something: of each request where `all` is true, else of those that failed by the server's fault (INTERNAL,
// UNKNOWN, DATA_LOSS), which it tells at WARNING, the others at INFO. Thread-safe, as LogRequest.
bool IsLogged(const absl::Status& status, bool all);
void LogRequest(const AnsweredRequest& request);

}  // namespace loci

#endif  // LOCI_SERVER_REQUEST_LOG_H_
