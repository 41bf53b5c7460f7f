// loci bench.
#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/strings.h"
#include "clients/cli/bench_load.h"
#include "clients/cli/bench_parts.h"
#include "clients/cli/command.h"
#include "clients/cli/display.h"
#include "clients/cli/eval_input.h"
#include "clients/cli/progress.h"
#include "clients/cli/search_flags.h"
#include "nlohmann/json.hpp"

namespace loci {
namespace {

// Of what a server takes at saturation, at which its latency is judged.
constexpr double kJudgedLoad = 0.7;
// Threads that encode alone, each many texts at a time.
constexpr int kEncodingThreads = 4;
// With less CPU time than this, which the system tells in hundredths of a second, a rate by it says nothing.
constexpr double kLeastCpuSeconds = 0.1;
// An open loop has so many times the threads of a closed one: those that wait for an answer are to keep none from being sent.
constexpr int kOpenLoopThreads = 4;

struct Stage {
  std::string name;
  BenchLoad load;
  BenchResult result;
  std::optional<double> server_cpu_seconds;

  // Requests that succeeded a second of the server's CPU time; none where that is not known, or too little to say.
  std::optional<double> PerCpuSecond() const {
    if (server_cpu_seconds.value_or(0) < kLeastCpuSeconds) return std::nullopt;
    return static_cast<double>(result.latencies.count()) / *server_cpu_seconds;
  }
};

// What a search is made of, each alone.
struct PartStages {
  Stage encoding;
  Stage searching;
  int64_t texts_per_request = 0;
};

class BenchCommand final : public Command {
 public:
  std::string name() const override { return "bench"; }
  std::string summary() const override { return "Measure throughput and latency"; }
  std::string details() const override {
    return "Each of --concurrency threads sends one query after another, cycling through the file. With --rate queries are due "
           "at fixed\n"
           "times instead, whether or not earlier ones were answered, and latency counts from the time that a query was due: "
           "what\n"
           "waits because all threads are busy counts. Latencies are of requests that succeeded; the error is below 1 %. What "
           "the\n"
           "server tells of its phases is printed beside: encoding, searching, and the rest of the latency.\n"
           "\n"
           "--saturation runs stages of --duration each: one query at a time; --concurrency at a time; and then 70 % of that rate "
           "at\n"
           "random times. Between the first two, texts alone are encoded and vectors alone searched for: the saturated rate is told as "
           "a\n"
           "share of what a server could do that did nothing else. With --server-pid, of a server on this machine, by the CPU time "
           "that\n"
           "it used (PER CPU-S: requests that succeeded per second of it), else by the clock, by which several cores may hide a part.\n";
  }
  std::string examples() const override {
    return "  loci bench movies --queries queries.jsonl\n"
           "  loci bench movies --queries queries.jsonl.gz --concurrency 64 --duration 30s -o json\n"
           "  loci bench movies --queries queries.jsonl --rate 200 --concurrency 64\n"
           "  loci bench movies --queries queries.jsonl --saturation --concurrency 32 --server-pid $(pidof -s loci_server)\n"
           "  loci bench movies --queries questions.jsonl --method ask\n";
  }
  void DeclareFlags(FlagSet* flags) override {
    flags->Positional("STORE", &store_, "Name of the store; \"\" is default.");
    flags->String("queries", &queries_path_, "FILE", "Queries: JSONL with _id or id, and text.");
    flags->Int("concurrency", &concurrency_, 1, 1024, "Threads, each with one request at a time.");
    flags->Duration("duration", &duration_ms_, "How long to send.");
    flags->Double("rate", &rate_, 0.001, 1e6, "Requests a second; without it as fast as answers come.");
    flags->Bool("saturation", &saturation_, "Measure an idle, a saturated and a loaded server, one after the other.");
    flags->Int("server-pid", &server_pid_, 1, 1 << 30, "The server's process, where it runs on this machine.");
    flags->Choice("method", &method_, {"search", "ask"}, "What to call.");
    flags->Int("top-k", &top_k_, 1, 10000, "Passages a query.");
    flags->Bool("include-text", &include_text_, "Let searches fetch the passages' texts.");
    search_.Declare(flags);
  }

  int Run(CliContext& cli, const FlagSet&) override {
    if (queries_path_.empty()) return cli.UsageError("flag --queries FILE is missing");
    if (duration_ms_ <= 0) return cli.UsageError("flag --duration: 0 is too short");
    if (method_ == "ask" && top_k_ > 100) return cli.UsageError("flag --top-k: at most 100 with --method ask");
    if (saturation_ && rate_ > 0) return cli.UsageError("flag --rate: --saturation finds its own");
    absl::StatusOr<std::vector<EvalQuery>> queries = ReadQueries(queries_path_);
    if (!queries.ok()) return cli.Fail(queries.status());
    queries_ = *std::move(queries);
    if (server_pid_ > 0) {
      if (const absl::StatusOr<double> cpu = ProcessCpuSeconds(static_cast<pid_t>(server_pid_)); !cpu.ok())
        return cli.Fail(cpu.status());
    }

    const int threads = static_cast<int>(concurrency_);
    BenchRunner runner(cli, saturation_ ? kOpenLoopThreads * threads : threads,
                       [this](v1::RetrievalService::Stub& stub, grpc::ClientContext* context, int64_t number,
                              v1::Timings* timings) { return CallOnce(stub, context, static_cast<size_t>(number), timings); });
    // Tells a wrong store or address before many are sent.
    if (const grpc::Status status = runner.Try(); !status.ok()) return cli.Fail(status);

    std::vector<Stage> stages;
    std::optional<PartStages> parts;
    if (saturation_) {
      stages.push_back(RunStage(cli, runner, "idle", {.thread_count = 1, .duration_ms = duration_ms_}));
      if (method_ == "search") parts = RunParts(cli, threads);
      stages.push_back(RunStage(cli, runner, "saturated", {.thread_count = threads, .duration_ms = duration_ms_}));
      if (const double rate = kJudgedLoad * stages.back().result.per_second(); rate > 0) {
        stages.push_back(RunStage(cli, runner, "at 70 %",
                                  {.arrivals = BenchLoad::kRandom,
                                   .rate = rate,
                                   .thread_count = kOpenLoopThreads * threads,
                                   .duration_ms = duration_ms_}));
      }
    } else {
      stages.push_back(RunStage(cli, runner, "",
                                {.arrivals = rate_ > 0 ? BenchLoad::kEven : BenchLoad::kClosed,
                                 .rate = rate_,
                                 .thread_count = threads,
                                 .duration_ms = duration_ms_}));
    }
    return Print(cli, stages, parts);
  }

 private:
  grpc::Status CallOnce(v1::RetrievalService::Stub& stub, grpc::ClientContext* context, size_t query_index,
                        v1::Timings* timings) const {
    const std::string& text = queries_[query_index % queries_.size()].text;
    if (method_ == "ask") {
      v1::AnswerRequest request;
      request.set_store(store_);
      request.set_question(text);
      request.set_top_k(static_cast<int32_t>(top_k_));
      request.set_filter(search_.filter());
      v1::AnswerResponse response;
      grpc::Status status = stub.Answer(context, request, &response);
      *timings = response.timings();
      return status;
    }
    v1::SearchRequest request = SearchWithoutQuery();
    request.add_queries()->set_text(text);
    v1::SearchResponse response;
    grpc::Status status = stub.Search(context, request, &response);
    *timings = response.timings();
    return status;
  }

  v1::SearchRequest SearchWithoutQuery() const {
    v1::SearchRequest request;
    request.set_store(store_);
    request.set_top_k(static_cast<int32_t>(top_k_));
    request.set_include_text(include_text_);
    search_.Fill(&request);
    return request;
  }

  // None, which is told, where the server does not answer to the parts.
  std::optional<PartStages> RunParts(CliContext& cli, int threads) const {
    const absl::StatusOr<std::unique_ptr<const BenchParts>> parts = BenchParts::Create(cli, queries_, SearchWithoutQuery());
    if (!parts.ok()) {
      cli.err() << "encoding and searching are not measured alone: " << SanitizeLine(std::string(StdView(parts.status().message()))) << '\n';
      return std::nullopt;
    }
    using Stub = v1::RetrievalService::Stub;
    BenchRunner encoding(cli, kEncodingThreads, [&](Stub& stub, grpc::ClientContext* context, int64_t number, v1::Timings* timings) {
      return (*parts)->Encode(stub, context, number, timings);
    });
    BenchRunner searching(cli, threads, [&](Stub& stub, grpc::ClientContext* context, int64_t number, v1::Timings* timings) {
      return (*parts)->Search(stub, context, number, timings);
    });
    return PartStages{
        .encoding = RunStage(cli, encoding, "encoding alone", {.thread_count = kEncodingThreads, .duration_ms = duration_ms_}),
        .searching = RunStage(cli, searching, "searching alone", {.thread_count = threads, .duration_ms = duration_ms_}),
        .texts_per_request = (*parts)->texts_per_request()};
  }

  // Rates of the parts and of searches, and the share of what the parts would allow that these reach; by CPU time where it is known of all three.
  struct Share {
    double texts_per_second = 0;
    double vectors_per_second = 0;
    double share = 0;
    bool by_cpu = false;
  };
  static std::optional<Share> ShareOf(const PartStages& parts, const Stage& saturated) {
    Share share;
    share.by_cpu = parts.encoding.PerCpuSecond().has_value() && parts.searching.PerCpuSecond().has_value() && saturated.PerCpuSecond().has_value();
    const auto rate = [&](const Stage& stage) { return share.by_cpu ? *stage.PerCpuSecond() : stage.result.per_second(); };
    share.texts_per_second = rate(parts.encoding) * static_cast<double>(parts.texts_per_request);
    share.vectors_per_second = rate(parts.searching);
    if (share.texts_per_second <= 0 || share.vectors_per_second <= 0) return std::nullopt;
    share.share = rate(saturated) * (1 / share.texts_per_second + 1 / share.vectors_per_second);
    return share;
  }

  std::optional<double> ServerCpuSeconds() const {
    if (server_pid_ == 0) return std::nullopt;
    const absl::StatusOr<double> seconds = ProcessCpuSeconds(static_cast<pid_t>(server_pid_));
    return seconds.ok() ? std::optional<double>(*seconds) : std::nullopt;
  }

  Stage RunStage(CliContext& cli, BenchRunner& runner, const std::string& name, const BenchLoad& load) const {
    Stage stage{.name = name, .load = load, .result = {}, .server_cpu_seconds = std::nullopt};
    const std::optional<double> before = ServerCpuSeconds();
    {
      Progress progress(
          cli.err(), cli.environment().err_width, name.empty() ? "requests" : absl::StrCat(name, ": requests"), [&] {
            return Progress::Numbers{runner.finished_count(), std::min(runner.elapsed_ms(), load.duration_ms), load.duration_ms};
          });
      stage.result = runner.Run(load);
    }
    if (const std::optional<double> after = ServerCpuSeconds(); before.has_value() && after.has_value())
      stage.server_cpu_seconds = *after - *before;
    return stage;
  }

  nlohmann::ordered_json Report(const Stage& stage) const {
    const BenchResult& result = stage.result;
    nlohmann::ordered_json errors = nlohmann::ordered_json::object();
    for (const auto& [code, count] : result.errors) errors[GrpcCodeName(code)] = count;
    nlohmann::ordered_json report;
    if (!stage.name.empty()) report["stage"] = stage.name;
    report["method"] = method_;
    report["concurrency"] = stage.load.thread_count;
    report["duration_s"] = result.elapsed_seconds;
    report["requests"] = result.latencies.count() + result.error_count();
    report["succeeded"] = result.latencies.count();
    report["failed"] = result.error_count();
    report["errors"] = errors;
    report["requests_per_second"] = result.per_second();
    report["mean_us"] = result.latencies.mean_us();
    report["p50_us"] = result.latencies.PercentileUs(0.5);
    report["p90_us"] = result.latencies.PercentileUs(0.9);
    report["p99_us"] = result.latencies.PercentileUs(0.99);
    report["max_us"] = result.latencies.max_us();
    report["encode_p50_us"] = result.encode.PercentileUs(0.5);
    report["search_p50_us"] = result.search.PercentileUs(0.5);
    report["rest_p50_us"] = result.rest.PercentileUs(0.5);
    if (stage.load.rate > 0) {
      report["target_rate"] = stage.load.rate;
      report["unsent"] = result.unsent;
    }
    if (stage.server_cpu_seconds.has_value()) {
      report["server_cpu_s"] = *stage.server_cpu_seconds;
      if (const std::optional<double> rate = stage.PerCpuSecond(); rate.has_value()) report["succeeded_per_server_cpu_s"] = *rate;
    }
    return report;
  }

  static double TailRatio(const BenchResult& result) {
    return static_cast<double>(result.latencies.PercentileUs(0.99)) /
           std::max<double>(1, static_cast<double>(result.latencies.PercentileUs(0.5)));
  }

  int Print(CliContext& cli, const std::vector<Stage>& stages, const std::optional<PartStages>& parts) const {
    std::optional<Share> share;
    if (parts.has_value() && stages.size() == 3) share = ShareOf(*parts, stages[1]);
    cli.json() ? PrintReport(cli, stages, share) : PrintStages(cli, stages, share);
    int64_t error_count = 0;
    const grpc::Status* first_error = nullptr;
    for (const Stage& stage : stages) {
      error_count += stage.result.error_count();
      if (first_error == nullptr && !stage.result.first_error.ok()) first_error = &stage.result.first_error;
    }
    if (error_count == 0) return kExitOk;
    cli.err() << FormatCountOf(error_count, "request") << " failed; the first one:\n";
    cli.Fail(*first_error);
    return kExitFailed;
  }

  void PrintReport(CliContext& cli, const std::vector<Stage>& stages, const std::optional<Share>& share) const {
    if (!saturation_) {
      cli.out() << Report(stages[0]).dump(1) << '\n';
      return;
    }
    nlohmann::ordered_json report;
    for (const Stage& stage : stages) report["stages"].push_back(Report(stage));
    if (stages.size() == 3) report["p99_by_p50"] = TailRatio(stages[2].result);
    if (share.has_value()) {
      report["parts"] = {{"by_server_cpu_time", share->by_cpu},
                         {"encoded_texts_per_second", share->texts_per_second},
                         {"searched_vectors_per_second", share->vectors_per_second},
                         {"saturated_share", share->share}};
    }
    cli.out() << report.dump(1) << '\n';
  }

  void PrintStages(CliContext& cli, const std::vector<Stage>& stages, const std::optional<Share>& share) const {
    std::vector<TextTable::Column> columns;
    if (saturation_) columns.push_back({"STAGE"});
    for (const char* heading :
         {"REQUESTS/S", "SUCCEEDED", "FAILED", "P50", "P90", "P99", "MAX", "MEAN", "ENCODE P50", "SEARCH P50", "REST P50"}) {
      columns.push_back({heading, TextTable::kRight});
    }
    if (server_pid_ > 0) columns.push_back({"PER CPU-S", TextTable::kRight});
    TextTable table(columns);
    for (const Stage& stage : stages) {
      const BenchResult& result = stage.result;
      std::vector<std::string> cells;
      if (saturation_) cells.push_back(stage.name);
      cells.push_back(FormatFixed(result.per_second(), 1));
      cells.push_back(FormatCount(result.latencies.count()));
      cells.push_back(FormatCount(result.error_count()));
      for (const double fraction : {0.5, 0.9, 0.99}) cells.push_back(FormatMicros(result.latencies.PercentileUs(fraction)));
      cells.push_back(FormatMicros(result.latencies.max_us()));
      cells.push_back(FormatMicros(static_cast<int64_t>(result.latencies.mean_us())));
      for (const LatencyHistogram* part : {&result.encode, &result.search, &result.rest})
        cells.push_back(FormatMicros(part->PercentileUs(0.5)));
      if (server_pid_ > 0) cells.push_back(stage.PerCpuSecond().has_value() ? FormatFixed(*stage.PerCpuSecond(), 1) : "-");
      table.AddRow(cells);
    }
    cli.PrintTable(table);
    for (const Stage& stage : stages) {
      if (!stage.name.empty()) cli.out() << stage.name << ": ";
      cli.out() << method_ << ", " << stage.load.thread_count << " at a time, " << FormatFixed(stage.result.elapsed_seconds, 1)
                << " s";
      if (stage.load.rate > 0) {
        cli.out() << ", target " << FormatFixed(stage.load.rate, 1) << "/s, " << FormatCount(stage.result.unsent)
                  << " due and not sent";
      }
      cli.out() << '\n';
      for (const auto& [code, count] : stage.result.errors) cli.out() << GrpcCodeName(code) << ": " << FormatCount(count) << '\n';
    }
    if (share.has_value()) {
      cli.out() << "saturated: " << FormatFixed(100 * share->share, 0) << " % of what encoding (" << FormatFixed(share->texts_per_second, 0)
                << " texts) and searching (" << FormatFixed(share->vectors_per_second, 0) << " vectors) alone would allow, a second of "
                << (share->by_cpu ? "the server's CPU time" : "the clock") << '\n';
    }
    if (stages.size() == 3)
      cli.out() << "p99 at 70 % is " << FormatFixed(TailRatio(stages[2].result), 1) << " times the median\n";
  }

  std::string store_, queries_path_, method_ = "search";
  int64_t concurrency_ = 8, duration_ms_ = 10'000, top_k_ = 10, server_pid_ = 0;
  double rate_ = 0;
  bool include_text_ = false, saturation_ = false;
  SearchFlags search_;
  std::vector<EvalQuery> queries_;  // Not changed once threads run.
};

}  // namespace

void AddBenchCommand(Commands* commands) { commands->push_back(std::make_unique<BenchCommand>()); }

}  // namespace loci
