// Sends Search requests to a server, in an open loop (arrivals at random at a given rate, whatever the server does) or a closed one (a
// number of requests always in flight), and prints what came back as JSON. --help tells the flags.
//
// Latency is counted from when a request was to be sent, not from when it was, so that a generator or a server that falls behind can't
// make itself look better. Requests are serialised once and replies are not parsed: the generator is to be light beside the server.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <sstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "grpcpp/generic/generic_stub.h"
#include "grpcpp/grpcpp.h"
#include "proto/loci/v1/retrieval.pb.h"

namespace loci {
namespace {

using Clock = std::chrono::steady_clock;
using Micros = std::chrono::microseconds;

constexpr char kHelp[] = R"(load_generator: searches at a rate, or as fast as they are answered.

usage: load_generator --server HOST:PORT --queries FILE|--requests FILE --phases LOAD:SECONDS[,...] [flags]

  --phases LIST       one after the other: "500:10" is 500 requests a second for 10 s (open loop, Poisson arrivals), "c32:10" is 32 requests
                      always in flight for 10 s (closed loop)
  --queries FILE      one query text a line
  --requests FILE     in its place: serialised SearchRequests, each behind its length (4 bytes, little-endian), sent as they are
  --store NAME        (default default)
  --top-k N           (default 10)
  --connections N     (default 8)
  --deadline-ms N     of each request, from when it was to be sent (default 1000)
  --bucket-ms N       of the time lines (default 100)
  --max-outstanding N requests beyond are not sent, and counted as such (default 100000)
  --seed N            (default 1)
  --latencies FILE    gets "PHASE MILLISECONDS" of each request with code OK, a line each

prints {"phases": [{"sent", "codes": {"OK": n, ...}, "goodput", "latency_ms": {"p50", "p90", "p99", "p999", "max"} of those with code OK,
"refused_latency_ms", "pushback_ms": {"min", "max", "missing"} of RESOURCE_EXHAUSTED, "late_send_ms": how far the generator fell behind,
"timeline": [[OK, others], ...] by the time when a request was to be sent}]}
)";

struct Phase {
  double rate = 0;      // Requests a second; 0: closed loop.
  int concurrency = 0;  // Of a closed loop.
  double seconds = 0;
};

struct Options {
  std::string server;
  std::string queries;
  std::string requests;
  std::string latencies;
  std::vector<Phase> phases;
  std::string store;
  int top_k = 10;
  int connections = 8;
  int deadline_ms = 1000;
  int bucket_ms = 100;
  int64_t max_outstanding = 100'000;
  uint64_t seed = 1;
};

struct PhaseResult {
  int64_t sent = 0;
  int64_t not_sent = 0;
  std::map<int, int64_t> codes;
  std::vector<float> ok_ms;
  std::vector<float> refused_ms;
  int64_t pushback_min_ms = -1;
  int64_t pushback_max_ms = -1;
  int64_t pushback_missing = 0;
  double late_send_ms = 0;  // The most.
  std::vector<std::pair<int64_t, int64_t>> timeline;
};

const char* CodeName(int code) {
  static const char* const kNames[] = {"OK",        "CANCELLED",      "UNKNOWN",           "INVALID_ARGUMENT",    "DEADLINE_EXCEEDED", "NOT_FOUND",
                                       "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED",
                                       "OUT_OF_RANGE", "UNIMPLEMENTED",  "INTERNAL",          "UNAVAILABLE",         "DATA_LOSS",         "UNAUTHENTICATED"};
  return code >= 0 && code < 17 ? kNames[code] : "OTHER";
}

// Thread-safe.
class Generator {
 public:
  explicit Generator(const Options& options) : options_(options) {
    for (int i = 0; i < options.connections; ++i) {
      grpc::ChannelArguments arguments;
      arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);  // A connection each.
      arguments.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);
      channels_.push_back(grpc::CreateCustomChannel(options.server, grpc::InsecureChannelCredentials(), arguments));
      stubs_.push_back(std::make_unique<grpc::GenericStub>(channels_.back()));
    }
    options.requests.empty() ? ReadQueries() : ReadRequests();
    if (requests_.empty()) Die("no queries in " + options.queries + options.requests);
    const auto until = std::chrono::system_clock::now() + std::chrono::seconds(30);
    for (const auto& channel : channels_) channel->GetState(true);
    for (const auto& channel : channels_) {
      if (!channel->WaitForConnected(until)) Die("no connection to " + options.server);
    }
  }

  void RunOpen(const Phase& phase, PhaseResult* result) {
    std::mt19937_64 random(options_.seed);
    std::exponential_distribution<double> gap_s(phase.rate);
    const Clock::time_point start = Clock::now();
    Start(phase, start, result);
    double due_s = gap_s(random);
    for (size_t i = 0; due_s < phase.seconds; ++i, due_s += gap_s(random)) {
      const Clock::time_point due = start + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(due_s));
      Clock::time_point now = Clock::now();
      // Sleeps are coarse: those that are due within half a millisecond go together.
      if (due > now + Micros(500)) {
        std::this_thread::sleep_until(due);
        now = Clock::now();
      }
      late_send_us_ = std::max<int64_t>(late_send_us_, std::chrono::duration_cast<Micros>(now - due).count());
      if (outstanding_ >= options_.max_outstanding) {
        ++not_sent_;
      } else {
        Send(i, due, result, start, nullptr);
      }
    }
    std::this_thread::sleep_until(start + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(phase.seconds)));
    result->not_sent = not_sent_;
    result->late_send_ms = static_cast<double>(late_send_us_) * 1e-3;
  }

  void RunClosed(const Phase& phase, PhaseResult* result) {
    const Clock::time_point start = Clock::now();
    Start(phase, start, result);
    const Clock::time_point end = start + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(phase.seconds));
    next_query_ = 0;
    again_ = [this, start, end, result] {
      if (Clock::now() < end) Send(next_query_++, Clock::now(), result, start, &again_);
    };
    for (int i = 0; i < phase.concurrency; ++i) again_();
    std::this_thread::sleep_until(end);
    WaitUntilIdle();
  }

  void WaitUntilIdle() {
    std::unique_lock<std::mutex> lock(mutex_);
    idle_.wait(lock, [this] { return outstanding_ == 0; });
  }

  [[noreturn]] static void Die(const std::string& why) {
    std::fprintf(stderr, "load_generator: %s\n", why.c_str());
    std::exit(2);
  }

 private:
  struct Call {
    grpc::ClientContext context;
    grpc::ByteBuffer response;
    Clock::time_point due;
  };

  void ReadQueries() {
    std::ifstream file(options_.queries);
    std::string line;
    while (std::getline(file, line)) {
      if (line.empty()) continue;
      v1::SearchRequest request;
      request.set_store(options_.store);
      request.add_queries()->set_text(line);
      request.set_top_k(options_.top_k);
      AddRequest(request.SerializeAsString());
    }
  }

  void ReadRequests() {
    std::ifstream file(options_.requests, std::ios::binary);
    uint32_t size = 0;
    while (file.read(reinterpret_cast<char*>(&size), sizeof(size))) {
      std::string request(size, '\0');
      if (!file.read(request.data(), size)) Die(options_.requests + " ends in the middle of a request");
      AddRequest(request);
    }
  }

  void AddRequest(const std::string& serialized) {
    const grpc::Slice slice(serialized);
    requests_.emplace_back(&slice, 1);
  }

  void Start(const Phase& phase, Clock::time_point, PhaseResult* result) {
    std::lock_guard<std::mutex> lock(mutex_);
    result->timeline.resize(static_cast<size_t>(phase.seconds * 1000 / options_.bucket_ms) + 1);
    not_sent_ = 0;
    late_send_us_ = 0;
  }

  void Send(size_t number, Clock::time_point due, PhaseResult* result, Clock::time_point phase_start, const std::function<void()>* then) {
    auto* const call = new Call;
    call->due = due;
    call->context.set_deadline(std::chrono::system_clock::now() + std::chrono::duration_cast<Micros>(due - Clock::now()) +
                               std::chrono::milliseconds(options_.deadline_ms));
    ++outstanding_;
    stubs_[number % stubs_.size()]->UnaryCall(&call->context, "/loci.v1.RetrievalService/Search", grpc::StubOptions(),
                                             &requests_[number % requests_.size()], &call->response,
                                             [this, call, result, phase_start, then](grpc::Status status) {
                                               Count(*call, status, phase_start, result);
                                               delete call;
                                               if (then != nullptr) (*then)();
                                               std::lock_guard<std::mutex> lock(mutex_);
                                               if (--outstanding_ == 0) idle_.notify_all();
                                             });
  }

  void Count(const Call& call, const grpc::Status& status, Clock::time_point phase_start, PhaseResult* result) {
    const float latency_ms = std::chrono::duration<float, std::milli>(Clock::now() - call.due).count();
    int64_t pushback_ms = -1;
    if (status.error_code() == grpc::StatusCode::RESOURCE_EXHAUSTED) {
      const auto& trailers = call.context.GetServerTrailingMetadata();
      const auto found = trailers.find("grpc-retry-pushback-ms");
      if (found != trailers.end()) pushback_ms = std::atoll(std::string(found->second.data(), found->second.size()).c_str());
    }
    const auto bucket = static_cast<size_t>(std::chrono::duration_cast<std::chrono::milliseconds>(call.due - phase_start).count() / options_.bucket_ms);
    std::lock_guard<std::mutex> lock(mutex_);
    ++result->sent;
    ++result->codes[status.error_code()];
    if (bucket < result->timeline.size()) ++(status.ok() ? result->timeline[bucket].first : result->timeline[bucket].second);
    if (status.ok()) {
      result->ok_ms.push_back(latency_ms);
    } else if (status.error_code() == grpc::StatusCode::RESOURCE_EXHAUSTED) {
      result->refused_ms.push_back(latency_ms);
      if (pushback_ms < 0) {
        ++result->pushback_missing;
      } else {
        if (result->pushback_min_ms < 0 || pushback_ms < result->pushback_min_ms) result->pushback_min_ms = pushback_ms;
        result->pushback_max_ms = std::max(result->pushback_max_ms, pushback_ms);
      }
    }
  }

  const Options options_;
  std::vector<std::shared_ptr<grpc::Channel>> channels_;
  std::vector<std::unique_ptr<grpc::GenericStub>> stubs_;
  std::vector<grpc::ByteBuffer> requests_;
  std::function<void()> again_;
  std::atomic<size_t> next_query_{0};
  std::atomic<int64_t> outstanding_{0};
  int64_t not_sent_ = 0;      // The sending thread's, as the next.
  int64_t late_send_us_ = 0;
  std::mutex mutex_;  // Guards the results.
  std::condition_variable idle_;
};

std::string LatencyJson(std::vector<float> values) {
  std::sort(values.begin(), values.end());
  const auto at = [&](double share) {
    if (values.empty()) return 0.0;
    return static_cast<double>(values[std::min(values.size() - 1, static_cast<size_t>(share * static_cast<double>(values.size())))]);
  };
  char text[200];
  std::snprintf(text, sizeof(text), "{\"p50\": %.3f, \"p90\": %.3f, \"p99\": %.3f, \"p999\": %.3f, \"max\": %.3f}", at(0.5), at(0.9), at(0.99), at(0.999),
                at(1));
  return text;
}

std::string ToJson(const Phase& phase, const PhaseResult& result) {
  std::ostringstream out;
  int64_t ok = 0;
  out << "{\"rate\": " << phase.rate << ", \"concurrency\": " << phase.concurrency << ", \"seconds\": " << phase.seconds << ", \"sent\": " << result.sent
      << ", \"not_sent\": " << result.not_sent << ", \"codes\": {";
  for (const auto& [code, count] : result.codes) {
    if (code != result.codes.begin()->first) out << ", ";
    out << '"' << CodeName(code) << "\": " << count;
    if (code == 0) ok = count;
  }
  out << "}, \"goodput\": " << static_cast<double>(ok) / phase.seconds << ", \"latency_ms\": " << LatencyJson(result.ok_ms)
      << ", \"refused_latency_ms\": " << LatencyJson(result.refused_ms) << ", \"pushback_ms\": {\"min\": " << result.pushback_min_ms
      << ", \"max\": " << result.pushback_max_ms << ", \"missing\": " << result.pushback_missing << "}, \"late_send_ms\": " << result.late_send_ms
      << ", \"timeline\": [";
  for (size_t i = 0; i < result.timeline.size(); ++i) {
    out << (i > 0 ? ", " : "") << '[' << result.timeline[i].first << ", " << result.timeline[i].second << ']';
  }
  out << "]}";
  return out.str();
}

std::vector<Phase> ParsePhases(const std::string& text) {
  std::vector<Phase> phases;
  std::istringstream list(text);
  for (std::string part; std::getline(list, part, ',');) {
    Phase phase;
    const size_t colon = part.find(':');
    if (colon == std::string::npos) Generator::Die("a phase is LOAD:SECONDS, not " + part);
    if (part[0] == 'c') {
      phase.concurrency = std::atoi(part.c_str() + 1);
    } else {
      phase.rate = std::atof(part.c_str());
    }
    phase.seconds = std::atof(part.c_str() + colon + 1);
    if ((phase.rate <= 0 && phase.concurrency <= 0) || phase.seconds <= 0) Generator::Die("a phase is LOAD:SECONDS, both above 0, not " + part);
    phases.push_back(phase);
  }
  return phases;
}

Options ParseOptions(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string flag = argv[i];
    if (flag == "--help") {
      std::fputs(kHelp, stdout);
      std::exit(0);
    }
    if (i + 1 == argc) Generator::Die(flag + " needs a value");
    const std::string value = argv[++i];
    if (flag == "--server") {
      options.server = value;
    } else if (flag == "--queries") {
      options.queries = value;
    } else if (flag == "--phases") {
      options.phases = ParsePhases(value);
    } else if (flag == "--requests") {
      options.requests = value;
    } else if (flag == "--latencies") {
      options.latencies = value;
    } else if (flag == "--store") {
      options.store = value;
    } else if (flag == "--top-k") {
      options.top_k = std::atoi(value.c_str());
    } else if (flag == "--connections") {
      options.connections = std::max(1, std::atoi(value.c_str()));
    } else if (flag == "--deadline-ms") {
      options.deadline_ms = std::atoi(value.c_str());
    } else if (flag == "--bucket-ms") {
      options.bucket_ms = std::max(1, std::atoi(value.c_str()));
    } else if (flag == "--max-outstanding") {
      options.max_outstanding = std::atoll(value.c_str());
    } else if (flag == "--seed") {
      options.seed = static_cast<uint64_t>(std::atoll(value.c_str()));
    } else {
      Generator::Die("unknown flag " + flag + "; --help lists them");
    }
  }
  if (options.server.empty() || options.queries.empty() == options.requests.empty() || options.phases.empty()) {
    Generator::Die("--server, --phases and one of --queries and --requests are needed");
  }
  return options;
}

int Main(int argc, char** argv) {
  const Options options = ParseOptions(argc, argv);
  Generator generator(options);
  std::vector<std::unique_ptr<PhaseResult>> results;
  for (const Phase& phase : options.phases) {
    results.push_back(std::make_unique<PhaseResult>());
    if (phase.rate > 0) {
      generator.RunOpen(phase, results.back().get());
    } else {
      generator.RunClosed(phase, results.back().get());
    }
    // For whoever reads the server's clocks between phases.
    std::fprintf(stderr, "phase %zu of %zu ended\n", results.size(), options.phases.size());
  }
  generator.WaitUntilIdle();
  if (!options.latencies.empty()) {
    std::ofstream file(options.latencies);
    for (size_t i = 0; i < results.size(); ++i) {
      for (const float latency_ms : results[i]->ok_ms) file << i << ' ' << latency_ms << '\n';
    }
  }
  std::printf("{\"phases\": [");
  for (size_t i = 0; i < results.size(); ++i) std::printf("%s%s", i > 0 ? ",\n" : "", ToJson(options.phases[i], *results[i]).c_str());
  std::printf("]}\n");
  return 0;
}

}  // namespace
}  // namespace loci

int main(int argc, char** argv) {
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);  // As in the server's main: it is dear, and the machine is shared.
  return loci::Main(argc, argv);
}
