#include "clients/cli/bench_load.h"

#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <sstream>
#include <string>
#include <thread>

#include "absl/strings/str_cat.h"

namespace loci {
namespace {

constexpr int kThreadsPerConnection = 16;
constexpr auto kPauseAfterError = std::chrono::milliseconds(10);

int64_t MicrosBetween(std::chrono::steady_clock::time_point from, std::chrono::steady_clock::time_point to) {
  return std::chrono::duration_cast<std::chrono::microseconds>(to - from).count();
}

}  // namespace

int64_t BenchResult::error_count() const {
  int64_t total = 0;
  for (const auto& [code, count] : errors) total += count;
  return total;
}

BenchRunner::BenchRunner(const CliContext& cli, int max_threads, Send send) : cli_(cli), send_(std::move(send)) {
  for (int i = 0; i * kThreadsPerConnection < max_threads; ++i) stubs_.push_back(v1::RetrievalService::NewStub(cli.NewChannel()));
}

grpc::Status BenchRunner::Try() {
  for (const auto& stub : stubs_) {
    grpc::ClientContext context;
    cli_.SetDeadline(&context, CliContext::kDefaultTimeoutMs);
    v1::Timings timings;
    grpc::Status status = send_(*stub, &context, 0, &timings);
    if (!status.ok()) return status;
  }
  return grpc::Status::OK;
}

int64_t BenchRunner::elapsed_ms() const { return MicrosBetween(start_.load(), Clock::now()) / 1000; }

BenchResult BenchRunner::Run(const BenchLoad& load) {
  load_ = load;
  finished_ = 0;
  next_number_ = 0;
  next_random_s_ = 0;
  random_.seed(1);
  const Clock::time_point start = Clock::now();
  start_ = start;
  end_ = start + std::chrono::milliseconds(load.duration_ms);
  std::vector<BenchResult> results(static_cast<size_t>(load.thread_count));
  std::vector<std::thread> threads;
  for (int i = 0; i < load.thread_count; ++i) {
    threads.emplace_back(
        [&, i] { SendMany(*stubs_[static_cast<size_t>(i / kThreadsPerConnection)], &results[static_cast<size_t>(i)]); });
  }
  for (std::thread& thread : threads) thread.join();
  BenchResult& all = results[0];
  all.elapsed_seconds = static_cast<double>(MicrosBetween(start, Clock::now())) / 1e6;
  for (size_t i = 1; i < results.size(); ++i) {
    all.latencies.Merge(results[i].latencies);
    all.encode.Merge(results[i].encode);
    all.search.Merge(results[i].search);
    all.rest.Merge(results[i].rest);
    all.unsent += results[i].unsent;
    for (const auto& [code, count] : results[i].errors) all.errors[code] += count;
    if (all.first_error.ok()) all.first_error = results[i].first_error;
  }
  return std::move(all);
}

BenchRunner::Clock::time_point BenchRunner::NextDue(int64_t* number) {
  const std::lock_guard<std::mutex> lock(mutex_);
  *number = next_number_++;
  if (load_.arrivals == BenchLoad::kClosed) return Clock::now();
  double due_s = static_cast<double>(*number) / load_.rate;
  if (load_.arrivals == BenchLoad::kRandom) {
    next_random_s_ += std::exponential_distribution<double>(load_.rate)(random_);
    due_s = next_random_s_;
  }
  return start_.load() + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(due_s));
}

void BenchRunner::SendMany(v1::RetrievalService::Stub& stub, BenchResult* result) {
  while (true) {
    int64_t number;
    const Clock::time_point due = NextDue(&number);
    if (due >= end_) return;
    std::this_thread::sleep_until(due);
    if (Clock::now() >= end_) {
      ++result->unsent;  // And so on with all that were due.
      continue;
    }
    grpc::ClientContext context;
    cli_.SetDeadline(&context, CliContext::kDefaultTimeoutMs);
    v1::Timings timings;
    const grpc::Status status = send_(stub, &context, number, &timings);
    finished_.fetch_add(1);
    if (status.ok()) {
      const int64_t latency_us = MicrosBetween(due, Clock::now());
      const int64_t search_us = timings.search_us() + timings.filter_us() + timings.read_us();
      result->latencies.Add(latency_us);
      result->encode.Add(timings.encode_us());
      result->search.Add(search_us);
      result->rest.Add(latency_us - timings.encode_us() - search_us);
      continue;
    }
    ++result->errors[status.error_code()];
    if (result->first_error.ok()) result->first_error = status;
    // A refusal comes at once: without a pause the bench would only measure refusals.
    if (load_.arrivals == BenchLoad::kClosed) std::this_thread::sleep_for(kPauseAfterError);
  }
}

absl::StatusOr<double> ProcessCpuSeconds(pid_t pid) {
  std::ifstream file(absl::StrCat("/proc/", pid, "/stat"));
  std::string line;
  if (!std::getline(file, line)) return absl::NotFoundError(absl::StrCat("there is no process ", pid, " on this machine"));
  // The program's name, in parentheses, may hold blanks; user and system time are the 12th and 13th words behind it.
  std::istringstream words(line.substr(line.rfind(')') + 1));
  std::string word;
  for (int i = 0; i < 11; ++i) words >> word;
  double user_ticks = 0, system_ticks = 0;
  words >> user_ticks >> system_ticks;
  return (user_ticks + system_ticks) / static_cast<double>(sysconf(_SC_CLK_TCK));
}

}  // namespace loci
