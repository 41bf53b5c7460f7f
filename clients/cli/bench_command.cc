// loci bench.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "clients/cli/command.h"
#include "clients/cli/display.h"
#include "clients/cli/eval_input.h"
#include "clients/cli/latency_histogram.h"
#include "clients/cli/progress.h"
#include "clients/cli/search_flags.h"
#include "nlohmann/json.hpp"

namespace loci {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kThreadsPerConnection = 16;
constexpr auto kPauseAfterError = std::chrono::milliseconds(10);

int64_t MicrosBetween(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration_cast<std::chrono::microseconds>(to - from).count();
}

class BenchCommand final : public Command {
 public:
  std::string name() const override { return "bench"; }
  std::string summary() const override { return "Measure throughput and latency"; }
  std::string details() const override {
    return "Each of --concurrency threads sends one query after another, cycling through the file. With --rate queries are due "
           "at fixed\n"
           "times instead, whether or not earlier ones were answered, and latency counts from the time that a query was due: "
           "what\n"
           "waits because all threads are busy counts. Latencies are of requests that succeeded; the error is below 1 %.\n";
  }
  std::string examples() const override {
    return "  loci bench movies --queries queries.jsonl\n"
           "  loci bench movies --queries queries.jsonl.gz --concurrency 64 --duration 30s -o json\n"
           "  loci bench movies --queries queries.jsonl --rate 200 --concurrency 64\n"
           "  loci bench movies --queries questions.jsonl --method ask\n";
  }
  void DeclareFlags(FlagSet* flags) override {
    flags->Positional("STORE", &store_, "Name of the store; \"\" is default.");
    flags->String("queries", &queries_path_, "FILE", "Queries: JSONL with _id or id, and text.");
    flags->Int("concurrency", &concurrency_, 1, 1024, "Threads, each with one request at a time.");
    flags->Duration("duration", &duration_ms_, "How long to send.");
    flags->Double("rate", &rate_, 0.001, 1e6, "Requests a second; without it as fast as answers come.");
    flags->Choice("method", &method_, {"search", "ask"}, "What to call.");
    flags->Int("top-k", &top_k_, 1, 10000, "Passages a query.");
    flags->Bool("include-text", &include_text_, "Let searches fetch the passages' texts.");
    search_.Declare(flags);
  }

  int Run(CliContext& cli, const FlagSet&) override {
    if (queries_path_.empty()) return cli.UsageError("flag --queries FILE is missing");
    if (duration_ms_ <= 0) return cli.UsageError("flag --duration: 0 is too short");
    if (method_ == "ask" && top_k_ > 100) return cli.UsageError("flag --top-k: at most 100 with --method ask");
    absl::StatusOr<std::vector<EvalQuery>> queries = ReadQueries(queries_path_);
    if (!queries.ok()) return cli.Fail(queries.status());
    queries_ = *std::move(queries);

    // One request ahead tells a wrong store or address before many are sent.
    const int thread_count = static_cast<int>(concurrency_);
    std::vector<std::unique_ptr<v1::RetrievalService::Stub>> stubs;
    for (int i = 0; i * kThreadsPerConnection < thread_count; ++i) {
      stubs.push_back(v1::RetrievalService::NewStub(cli.NewChannel()));
    }
    for (const auto& stub : stubs) {
      grpc::ClientContext context;
      cli.SetDeadline(&context, CliContext::kDefaultTimeoutMs);
      const grpc::Status status = CallOnce(*stub, &context, 0);
      if (!status.ok()) return cli.Fail(status);
    }

    start_ = Clock::now();
    end_ = start_ + std::chrono::milliseconds(duration_ms_);
    std::vector<Tally> tallies(concurrency_);
    {
      Progress progress(cli.err(), cli.environment().err_width, "requests", [this] {
        const int64_t elapsed_ms = MicrosBetween(start_, Clock::now()) / 1000;
        return Progress::Numbers{finished_.load(), std::min(elapsed_ms, duration_ms_), duration_ms_};
      });
      std::vector<std::thread> threads;
      for (int i = 0; i < thread_count; ++i) {
        threads.emplace_back([&, i] { Send(cli, *stubs[i / kThreadsPerConnection], &tallies[i]); });
      }
      for (std::thread& thread : threads) thread.join();
    }
    const double elapsed_seconds = static_cast<double>(MicrosBetween(start_, Clock::now())) / 1e6;
    for (size_t i = 1; i < tallies.size(); ++i) {
      tallies[0].latencies.Merge(tallies[i].latencies);
      for (const auto& [code, count] : tallies[i].errors) tallies[0].errors[code] += count;
      if (tallies[0].first_error.ok()) tallies[0].first_error = tallies[i].first_error;
    }
    return Print(cli, tallies[0], elapsed_seconds);
  }

 private:
  struct Tally {
    LatencyHistogram latencies;
    std::map<int, int64_t> errors;  // By gRPC code.
    grpc::Status first_error;
  };

  grpc::Status CallOnce(v1::RetrievalService::Stub& stub, grpc::ClientContext* context, size_t query_index) const {
    const std::string& text = queries_[query_index % queries_.size()].text;
    if (method_ == "ask") {
      v1::AnswerRequest request;
      request.set_store(store_);
      request.set_question(text);
      request.set_top_k(static_cast<int32_t>(top_k_));
      request.set_filter(search_.filter());
      v1::AnswerResponse response;
      return stub.Answer(context, request, &response);
    }
    v1::SearchRequest request;
    request.set_store(store_);
    request.set_top_k(static_cast<int32_t>(top_k_));
    request.set_include_text(include_text_);
    search_.Fill(&request);
    request.add_queries()->set_text(text);
    v1::SearchResponse response;
    return stub.Search(context, request, &response);
  }

  void Send(const CliContext& cli, v1::RetrievalService::Stub& stub, Tally* tally) {
    while (true) {
      const int64_t number = next_.fetch_add(1);
      Clock::time_point due = Clock::now();
      if (rate_ > 0) {
        due = start_ +
              std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(static_cast<double>(number) / rate_));
        if (due >= end_) return;
        std::this_thread::sleep_until(due);
      }
      if (Clock::now() >= end_) return;
      grpc::ClientContext context;
      cli.SetDeadline(&context, CliContext::kDefaultTimeoutMs);
      const grpc::Status status = CallOnce(stub, &context, static_cast<size_t>(number));
      finished_.fetch_add(1);
      if (status.ok()) {
        tally->latencies.Add(MicrosBetween(due, Clock::now()));
        continue;
      }
      ++tally->errors[status.error_code()];
      if (tally->first_error.ok()) tally->first_error = status;
      // A refusal comes at once: without a pause the bench would only measure refusals.
      if (rate_ == 0) std::this_thread::sleep_for(kPauseAfterError);
    }
  }

  int Print(CliContext& cli, const Tally& tally, double elapsed_seconds) const {
    const LatencyHistogram& latencies = tally.latencies;
    int64_t error_count = 0;
    nlohmann::ordered_json errors = nlohmann::ordered_json::object();
    for (const auto& [code, count] : tally.errors) {
      error_count += count;
      errors[GrpcCodeName(code)] = count;
    }
    const double per_second = static_cast<double>(latencies.count()) / elapsed_seconds;
    const std::pair<const char*, int64_t> kFigures[] = {
        {"p50_us", latencies.PercentileUs(0.5)},
        {"p90_us", latencies.PercentileUs(0.9)},
        {"p99_us", latencies.PercentileUs(0.99)},
        {"max_us", latencies.max_us()},
    };
    if (cli.json()) {
      nlohmann::ordered_json report = {{"method", method_},
                                       {"concurrency", concurrency_},
                                       {"duration_s", elapsed_seconds},
                                       {"requests", latencies.count() + error_count},
                                       {"succeeded", latencies.count()},
                                       {"failed", error_count},
                                       {"errors", errors},
                                       {"requests_per_second", per_second},
                                       {"mean_us", latencies.mean_us()}};
      for (const auto& [name, value] : kFigures) report[name] = value;
      if (rate_ > 0) {
        report["target_rate"] = rate_;
        // Requests that were due and never sent, since all threads were busy.
        report["unsent"] = UnsentCount(latencies.count() + error_count);
      }
      cli.out() << report.dump(1) << '\n';
    } else {
      TextTable table({{"REQUESTS/S", TextTable::kRight},
                       {"SUCCEEDED", TextTable::kRight},
                       {"FAILED", TextTable::kRight},
                       {"P50", TextTable::kRight},
                       {"P90", TextTable::kRight},
                       {"P99", TextTable::kRight},
                       {"MAX", TextTable::kRight},
                       {"MEAN", TextTable::kRight}});
      std::vector<std::string> cells = {FormatFixed(per_second, 1), FormatCount(latencies.count()), FormatCount(error_count)};
      for (const auto& [name, value] : kFigures) cells.push_back(FormatMicros(value));
      cells.push_back(FormatMicros(static_cast<int64_t>(latencies.mean_us())));
      table.AddRow(cells);
      cli.PrintTable(table);
      cli.out() << method_ << ", " << concurrency_ << " at a time, " << FormatFixed(elapsed_seconds, 1) << " s";
      if (rate_ > 0) {
        cli.out() << ", target " << FormatFixed(rate_, 1) << "/s, " << FormatCount(UnsentCount(latencies.count() + error_count))
                  << " due and not sent";
      }
      cli.out() << '\n';
      for (const auto& [code, count] : tally.errors) cli.out() << GrpcCodeName(code) << ": " << FormatCount(count) << '\n';
    }
    if (error_count > 0) {
      cli.err() << FormatCountOf(error_count, "request") << " failed; the first one:\n";
      cli.Fail(tally.first_error);
    }
    return error_count > 0 ? kExitFailed : kExitOk;
  }

  int64_t UnsentCount(int64_t sent_count) const {
    const int64_t due_count = static_cast<int64_t>(rate_ * static_cast<double>(duration_ms_) / 1e3);
    return std::max<int64_t>(0, due_count - sent_count);
  }

  std::string store_, queries_path_, method_ = "search";
  int64_t concurrency_ = 8, duration_ms_ = 10'000, top_k_ = 10;
  double rate_ = 0;
  bool include_text_ = false;
  SearchFlags search_;

  std::vector<EvalQuery> queries_;  // Not changed once threads run, as the next two.
  Clock::time_point start_, end_;
  std::atomic<int64_t> next_{0};
  std::atomic<int64_t> finished_{0};
};

}  // namespace

void AddBenchCommand(Commands* commands) { commands->push_back(std::make_unique<BenchCommand>()); }

}  // namespace loci
