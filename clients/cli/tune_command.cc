// loci tune.
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/byte_size.h"
#include "clients/cli/command.h"
#include "clients/cli/display.h"
#include "clients/cli/eval_input.h"
#include "clients/cli/job_progress.h"
#include "clients/cli/output_file.h"
#include "clients/cli/tuning_plot.h"

namespace loci {
namespace {

class TuneCommand final : public Command {
 public:
  std::string name() const override { return "tune"; }
  std::string summary() const override { return "Measure which index would serve a store best"; }
  std::string details() const override {
    return "Indexes of several kinds are built over a sample of what the store serves and measured against exact search. Shown are those that no\n"
           "other one beats in recall, latency, memory and build time at once; * marks the one that loci ingest --index auto would take: the\n"
           "fastest whose recall, at the lower end of its 95 % interval (BOUND), meets the target within the memory budget; exact search where\n"
           "none does, by a pass over 8-bit codes first (exact:int8, which finds the same) where that is faster. Nothing is changed. MEMORY is\n"
           "what an index holds beside mapped files, which the codes are; LATENCY is CPU time of one query without its encoding. Without\n"
           "--queries the server makes queries of sampled passages. At most 20,000 passages are searched exactly, and nothing else is\n"
           "measured. It is a job, which goes on where this command is interrupted, until loci cancel ends it; a server runs one of these or\n"
           "of loci quantize at a time, of all its stores.\n";
  }
  std::string examples() const override {
    return "  loci tune movies --recall 0.95 --memory 2GiB\n"
           "  loci tune movies --recall 0.98 --queries queries.jsonl --svg front.svg\n"
           "  loci tune movies -o json\n"
           "  loci ingest movies corpus.jsonl --index auto:recall=0.98,memory=2GiB\n";
  }
  void DeclareFlags(FlagSet* flags) override {
    flags->Positional("STORE", &store_, "Name of the store; \"\" is default.");
    flags->Double("recall", &recall_, 1e-6, 1, "Share of the exact first 10 that must be found.");
    flags->String("memory", &memory_, "SIZE", "That an index may hold beside mapped files: bytes, or as 512MiB, 2GiB; at least 1MiB. Any without it.");
    flags->String("queries", &queries_path_, "FILE", "BEIR queries (JSONL, gzipped or not), at most 1,024, to measure with.");
    flags->Int("sample", &sample_, 1000, 1'000'000, "Vectors to measure on, at most; 1,000 to 1,000,000.");
    flags->String("svg", &svg_path_, "FILE", "Write a plot of recall over latency there.");
    flags->Bool("force", &force_, "Replace the --svg file where it exists.");
    flags->Bool("no-wait", &no_wait_, "Return at once, with the job that measures.");
    flags->Bool("dry-run", &dry_run_, "Say what would be measured, send nothing.");
  }

  int Run(CliContext& cli, const FlagSet& flags) override {
    v1::TuneStoreRequest request;
    request.set_store(store_);
    request.set_recall_target(recall_);
    request.set_sample_row_count(sample_);
    request.set_no_wait(true);
    if (flags.WasGiven("memory")) {
      const std::optional<int64_t> bytes = ParseByteSize(memory_);
      if (!bytes.has_value() || *bytes < (1 << 20)) {
        return cli.UsageError(absl::StrCat("--memory \"", memory_, "\" is not a size of at least 1MiB, as 2147483648 or 2GiB"));
      }
      request.set_memory_budget_bytes(*bytes);
    }
    if (no_wait_ && !svg_path_.empty()) return cli.UsageError("--no-wait and --svg do not go together: there is nothing to plot yet");
    if (flags.WasGiven("queries")) {
      const absl::StatusOr<std::vector<EvalQuery>> queries = ReadQueries(queries_path_);
      if (!queries.ok()) return cli.Fail(queries.status());
      for (const EvalQuery& query : *queries) request.add_queries(query.text);
    }
    if (dry_run_) return cli.PrintDryRun(absl::StrCat("measure indexes for store ", StoreName(store_)), request);
    std::unique_ptr<OutputFile> svg;
    if (!svg_path_.empty()) {
      absl::StatusOr<std::unique_ptr<OutputFile>> created = OutputFile::Create(svg_path_, force_);
      if (!created.ok()) return cli.Fail(created.status());
      svg = *std::move(created);
    }
    v1::TuneStoreResponse response;
    int exit_code = kExitOk;
    if (!cli.Call(cli.admin(), &v1::AdminService::Stub::TuneStore, request, &response, &exit_code)) return exit_code;
    if (no_wait_) {
      if (cli.json()) return cli.PrintJson(response);
      return TellJob(cli, response.job());
    }
    v1::Job job;
    if (!AwaitJob(cli, response.job(), &job, &exit_code)) return exit_code;
    response = job.tune();
    if (svg != nullptr) {
      absl::Status written = svg->Write(TuningPlotSvg(response.tuning(), absl::StrCat("store ", StoreName(store_), ", generation ", response.generation())));
      if (written.ok()) written = svg->Commit();
      if (!written.ok()) return cli.Fail(written);
    }
    if (cli.json()) return cli.PrintJson(response);
    PrintFront(cli, response);
    if (svg != nullptr) cli.out() << "plot written to " << SanitizeLine(svg_path_) << '\n';
    return kExitOk;
  }

 private:
  static std::string Parameter(int32_t value) { return value == 0 ? "" : absl::StrCat(value); }

  void PrintFront(CliContext& cli, const v1::TuneStoreResponse& response) const {
    const v1::IndexTuning& tuning = response.tuning();
    TextTable table({{""}, {"INDEX", TextTable::kLeft, 40}, {"NPROBE", TextTable::kRight}, {"EF", TextTable::kRight}, {"RESCORE", TextTable::kRight},
                     {"RECALL@10", TextTable::kRight}, {"BOUND", TextTable::kRight}, {"LATENCY", TextTable::kRight}, {"MEMORY", TextTable::kRight},
                     {"BUILD", TextTable::kRight}});
    for (const v1::TuningPoint& point : tuning.front()) {
      table.AddRow({point.chosen() ? "*" : "", point.index(), Parameter(point.nprobe()), Parameter(point.ef_search()), Parameter(point.rescore_factor()),
                    FormatFixed(point.recall_at_10(), 4), FormatFixed(point.recall_bound(), 4), FormatMicros(static_cast<int64_t>(point.latency_us() + 0.5)),
                    FormatBytes(point.memory_bytes()), FormatSeconds(static_cast<double>(point.build_ms()) / 1000)});
    }
    cli.PrintTable(table);
    cli.out() << "generation " << SanitizeLine(response.generation()) << ", " << FormatCount(tuning.row_count()) << " vectors, measured on "
              << FormatCount(tuning.sample_row_count()) << " with " << FormatCount(tuning.query_count()) << " queries ("
              << SanitizeLine(tuning.query_source()) << ")\n"
              << "recall target " << absl::StrFormat("%g", tuning.recall_target()) << ", memory "
              << (tuning.memory_budget_bytes() == 0 ? std::string("any") : FormatBytes(tuning.memory_budget_bytes())) << "; "
              << SanitizeLine(tuning.reason()) << '\n';
  }

  std::string store_, memory_, queries_path_, svg_path_;
  double recall_ = 0.95;
  int64_t sample_ = 50'000;
  bool force_ = false, no_wait_ = false, dry_run_ = false;
};

}  // namespace

void AddTuneCommand(Commands* commands) { commands->push_back(std::make_unique<TuneCommand>()); }

}  // namespace loci
