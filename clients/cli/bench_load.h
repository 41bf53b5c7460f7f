// The load of `loci bench`: requests sent one after another or at given times, and what came back.
#ifndef LOCI_CLIENTS_CLI_BENCH_LOAD_H_
#define LOCI_CLIENTS_CLI_BENCH_LOAD_H_

#include <grpcpp/grpcpp.h>
#include <sys/types.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <vector>

#include "absl/status/statusor.h"
#include "clients/cli/cli_context.h"
#include "clients/cli/latency_histogram.h"
#include "proto/loci/v1/retrieval.grpc.pb.h"

namespace loci {

struct BenchLoad {
  enum Arrivals {
    kClosed,  // Each thread sends when it has its last answer.
    kEven,    // At fixed times, `rate` a second, whether or not earlier ones were answered.
    kRandom,  // At random times (Poisson), `rate` a second in the mean, the same in every run.
  };
  Arrivals arrivals = kClosed;
  double rate = 0;
  int thread_count = 1;
  int64_t duration_ms = 0;
};

// Latencies count from when a request was due, or sent where arrivals are closed. Of requests that succeeded, as the phases are.
struct BenchResult {
  LatencyHistogram latencies;
  LatencyHistogram
      encode;  // What the server says of its phases. Search with the filter's part, and the reader's where there is one.
  LatencyHistogram search;
  LatencyHistogram rest;          // The latency without these: network, gRPC, queues, tokens, texts.
  std::map<int, int64_t> errors;  // By gRPC code.
  grpc::Status first_error;
  double elapsed_seconds = 0;
  int64_t unsent = 0;  // Were due and never sent, since all threads were busy.

  int64_t error_count() const;
  double per_second() const { return static_cast<double>(latencies.count()) / elapsed_seconds; }
};

// Sends on connections of its own, 16 threads on each. Used by one thread: its owner.
class BenchRunner {
 public:
  // Sends request number `number` and fills `timings`. Called by many threads at once.
  using Send = std::function<grpc::Status(v1::RetrievalService::Stub& stub, grpc::ClientContext* context, int64_t number,
                                          v1::Timings* timings)>;

  // For loads of at most `max_threads`. `cli` is borrowed.
  BenchRunner(const CliContext& cli, int max_threads, Send send);

  // One request on each connection, so that a wrong store or address is told before many are sent. The first error.
  grpc::Status Try();

  // Blocks until all answers are there. At most `max_threads` threads.
  BenchResult Run(const BenchLoad& load);

  int64_t finished_count() const { return finished_.load(); }  // Of this Run; may be called by any thread, as the next.
  int64_t elapsed_ms() const;

 private:
  using Clock = std::chrono::steady_clock;

  void SendMany(v1::RetrievalService::Stub& stub, BenchResult* result);
  Clock::time_point NextDue(int64_t* number);

  const CliContext& cli_;
  const Send send_;
  std::vector<std::unique_ptr<v1::RetrievalService::Stub>> stubs_;
  // Not changed while threads run.
  BenchLoad load_;
  std::atomic<Clock::time_point> start_{Clock::time_point()};
  Clock::time_point end_;
  std::atomic<int64_t> finished_{0};
  std::mutex mutex_;
  // Guarded by mutex_.
  int64_t next_number_ = 0;
  double next_random_s_ = 0;  // After start_.
  std::mt19937_64 random_;
};

// CPU time that a process of this machine has used, in seconds, to 10 ms. NOT_FOUND where there is none of that id.
absl::StatusOr<double> ProcessCpuSeconds(pid_t pid);

}  // namespace loci

#endif  // LOCI_CLIENTS_CLI_BENCH_LOAD_H_
