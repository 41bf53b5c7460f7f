#include "server/request_metrics.h"

#include <string>

#include "server/error_table.h"

namespace loci {
namespace {

constexpr std::string_view kPhaseNames[] = {"queue", "tokenize", "encode", "filter", "search", "fetch", "read"};

const std::vector<double>& Buckets() {
  static const std::vector<double>* const kBuckets = new std::vector<double>{
      0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60, 600};
  return *kBuckets;
}

}  // namespace

RequestMetrics::RequestMetrics(MetricsSink& sink) {
  for (int i = 0; i < kMethodCount; ++i) {
    const std::string name(MethodName(static_cast<Method>(i)));
    PerMethod& method = methods_[i];
    for (int code = 0; code < kCodeCount; ++code) {
      method.requests[code] = &sink.counter("loci_requests_total", "Requests answered, by method and gRPC code.",
                                            {{"method", name}, {"code", std::string(CodeName(static_cast<absl::StatusCode>(code)))}});
    }
    method.latency = &sink.histogram("loci_request_duration_seconds", "From the request's arrival to its answer.", {{"method", name}}, Buckets());
    if (!HasPhases(static_cast<Method>(i))) continue;
    for (int phase = 0; phase < kPhaseCount; ++phase) {
      method.phases[phase] = &sink.histogram("loci_phase_duration_seconds", "Time a request spent in a phase of its life.",
                                             {{"method", name}, {"phase", std::string(kPhaseNames[phase])}}, Buckets());
    }
    const char* const help = "Tokens of texts that came in, and those of them that the encoder saw.";
    method.input_tokens = &sink.counter("loci_request_tokens_total", help, {{"method", name}, {"kind", "input"}});
    method.used_tokens = &sink.counter("loci_request_tokens_total", help, {{"method", name}, {"kind", "used"}});
  }
}

void RequestMetrics::Finished(Method method, absl::StatusCode code, int64_t duration_us) {
  int row = static_cast<int>(code);
  if (row < 0 || row >= kCodeCount) row = static_cast<int>(absl::StatusCode::kUnknown);
  PerMethod& series = methods_[static_cast<int>(method)];
  series.requests[row]->Add(1);
  series.latency->Observe(static_cast<double>(duration_us) * 1e-6);
}

void RequestMetrics::Phases(Method method, const PhaseTimes& times) {
  const int64_t phases[kPhaseCount] = {times.queue_us, times.tokenize_us, times.encode_us, times.filter_us,
                                       times.search_us, times.fetch_us, times.read_us};
  PerMethod& series = methods_[static_cast<int>(method)];
  for (int i = 0; i < kPhaseCount; ++i) {
    if (phases[i] > 0 && series.phases[i] != nullptr) series.phases[i]->Observe(static_cast<double>(phases[i]) * 1e-6);
  }
}

void RequestMetrics::Tokens(Method method, const TokenUsage& usage) {
  PerMethod& series = methods_[static_cast<int>(method)];
  if (series.input_tokens == nullptr) return;
  series.input_tokens->Add(usage.input_tokens);
  series.used_tokens->Add(usage.used_tokens);
}

}  // namespace loci
