#include "server/request_log.h"

#include <string>

#include "base/logging.h"
#include "base/strings.h"
#include "server/error_table.h"

namespace loci {
namespace {

constexpr size_t kMaxErrorBytes = 1'000;

bool ServersFault(const absl::Status& status) {
  return status.code() == absl::StatusCode::kInternal || status.code() == absl::StatusCode::kUnknown ||
         status.code() == absl::StatusCode::kDataLoss;
}

// Empty, and so left out, for a phase that did not run.
std::string Micros(int64_t us) { return us > 0 ? std::to_string(us) : std::string(); }

}  // namespace

bool IsLogged(const absl::Status& status, bool all) { return all || ServersFault(status); }

void LogRequest(const AnsweredRequest& request) {
  const PhaseTimes& phases = request.phases;
  Log(ServersFault(request.status) ? LogLevel::kWarning : LogLevel::kInfo, "request", request.status.ok() ? "answered" : "failed",
      {{"method", MethodName(request.method)},
       {"code", CodeName(request.status.code())},
       {"duration_us", std::to_string(request.duration_us)},
       {"queue_us", Micros(phases.queue_us)},
       {"tokenize_us", Micros(phases.tokenize_us)},
       {"encode_us", Micros(phases.encode_us)},
       {"filter_us", Micros(phases.filter_us)},
       {"search_us", Micros(phases.search_us)},
       {"fetch_us", Micros(phases.fetch_us)},
       {"read_us", Micros(phases.read_us)},
       {"request_id", request.trace.request_id},
       {"trace_id", request.trace.trace_id},
       {"span_id", request.trace.span_id},
       {"parent_id", request.trace.parent_id},
       {"peer", request.peer},
       {"error", StdView(request.status.message()).substr(0, kMaxErrorBytes)}});
}

}  // namespace loci
