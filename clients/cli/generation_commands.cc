// loci activate, rollback, fold, verify, pin, set store, compare.
#include <algorithm>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/strings.h"
#include "clients/cli/activation_flags.h"
#include "clients/cli/build_flags.h"
#include "clients/cli/command.h"
#include "clients/cli/display.h"
#include "clients/cli/eval_input.h"
#include "clients/cli/fidelity_table.h"
#include "clients/cli/gate_flags.h"
#include "clients/cli/job_progress.h"
#include "clients/cli/text_table.h"

namespace loci {
namespace {

class ActivateCommand final : public Command {
 public:
  std::string name() const override { return "activate"; }
  std::string summary() const override { return "Make a generation the one that answers"; }
  std::string details() const override {
    return "The generation is loaded, verified and warmed, then swapped in; requests in flight finish on the old one. Where "
           "writes were\n"
           "made since its base, --writes-since says whether they are laid over it or dropped. --dry-run checks on the server "
           "and\n"
           "changes nothing. Where a condition is not met nothing is swapped in, and the figures are told. With --watch the generation is\n"
           "looked after for that time once it answers, and the store goes back to the one before where too many requests fail or searches\n"
           "take too long. That is left to a job, which goes on by itself: loci watch JOB follows it, and fails where it went back; loci cancel JOB\n"
           "ends the watch. What serves already is not watched.\n"
           "Where both do not fit into memory (loci plan tells), --strategy in-place verifies the generation, lets what serves finish its requests,\n"
           "frees it, and loads the other one. The store's requests get UNAVAILABLE meanwhile, reason SWITCHING, with retry_after_ms. Where the\n"
           "load fails, what served is loaded again.\n";
  }
  std::string examples() const override {
    return "  loci activate movies g4\n  loci activate movies g4 --writes-since replay\n  loci activate movies g4 --dry-run\n"
           "  loci activate movies g4 --no-wait\n  loci activate movies g4 --strategy in-place\n"
           "  loci activate movies g4 --queries queries.jsonl --qrels qrels.tsv --min-ndcg 0.4 --min-overlap 0.6 --max-p99 10ms\n"
           "  loci activate movies g4 --watch 10m --max-error-rate 0.01 --watch-max-p99 50ms\n";
  }
  void DeclareFlags(FlagSet* flags) override {
    flags->Positional("STORE", &store_, "Name of the store; \"\" is default.");
    flags->Positional("GENERATION", &generation_, "Name of the generation.");
    flags->Choice("writes-since", &writes_since_, {"replay", "discard"}, "What becomes of writes made since.");
    flags->Bool("dry-run", &dry_run_, "Let the server check everything, change nothing.");
    flags->Bool("no-wait", &no_wait_, "Return at once, with the job that does it.");
    flags->Choice("strategy", &strategy_, {kBlueGreen, kInPlace}, kStrategyHelp);
    gates_.Declare(flags);
    flags->Section("Watch");
    flags->Duration("watch", &watch_ms_, "How long it is looked after once it answers: 30s, 10m, at most 24h.");
    flags->Double("max-error-rate", &max_error_rate_, 0, 1, "Of the store's requests that fail by the server's fault, at most.");
    flags->String("watch-max-p99", &watch_max_p99_, "TIME", "Of the time that searches take meanwhile, at most: 500us, 50ms.");
    flags->Int("watch-min-requests", &watch_min_requests_, 1, 1'000'000'000, "Judged from so many requests on.");
  }
  int Run(CliContext& cli, const FlagSet& flags) override {
    v1::ActivateGenerationRequest request;
    const bool has_conditions = flags.WasGiven("max-error-rate") || flags.WasGiven("watch-max-p99") || flags.WasGiven("watch-min-requests");
    if (has_conditions && watch_ms_ == 0) return cli.UsageError("conditions of a watch need --watch TIME");
    if (watch_ms_ > 0) {
      request.mutable_watch()->set_watch_ms(watch_ms_);
      request.mutable_watch()->set_min_requests(watch_min_requests_);
      if (flags.WasGiven("max-error-rate")) request.mutable_watch()->set_max_error_rate(max_error_rate_);
      if (flags.WasGiven("watch-max-p99")) {
        int64_t max_p99_us = 0;
        if (absl::Status parsed = ParseDurationUs(watch_max_p99_, &max_p99_us); !parsed.ok()) return cli.UsageError(StdView(parsed.message()));
        request.mutable_watch()->set_max_p99_us(max_p99_us);
      }
    }
    if (absl::Status checked = gates_.Check(flags); !checked.ok()) return cli.UsageError(StdView(checked.message()));
    v1::ActivationGates gates;
    if (absl::Status filled = gates_.Fill(flags, &gates); !filled.ok()) return cli.Fail(filled);
    if (gates.queries_size() > 0) *request.mutable_gates() = std::move(gates);
    request.set_store(store_);
    request.set_generation(generation_);
    request.set_writes_since(WritesSinceOf(writes_since_));
    request.set_dry_run(dry_run_);
    request.set_no_wait(no_wait_);
    request.set_strategy(StrategyOf(strategy_));
    v1::ActivateGenerationResponse response;
    int exit_code = kExitOk;
    if (!cli.Call(cli.admin(), &v1::AdminService::Stub::ActivateGeneration, request, &response, &exit_code,
                  CliContext::kNoTimeout))
      return exit_code;
    if (cli.json()) return cli.PrintJson(response);
    if (!dry_run_ && !response.done() && !response.job().empty()) return TellJob(cli, response.job());
    cli.out() << (dry_run_ ? "dry run, nothing was changed: would activate " : "activated ")
              << SanitizeLine(response.generation()) << " of store " << SanitizeLine(StoreName(store_)) << ", revision "
              << response.revision()
              << ", before: " << (response.previous_generation().empty() ? "none" : SanitizeLine(response.previous_generation()));
    if (response.writes_since_count() > 0)
      cli.out() << ", writes since: " << FormatCount(response.writes_since_count()) << " " << writes_since_;
    cli.out() << '\n';
    PrintGateFigures(cli, response.gate_figures());
    if (!response.watch_summary().empty()) cli.out() << SanitizeLine(response.watch_summary()) << '\n';
    if (watch_ms_ > 0 && !dry_run_ && !response.watching() && response.watch_summary().empty()) {
      const bool again = response.previous_generation() == response.generation();
      cli.out() << (again ? absl::StrCat("generation ", SanitizeLine(response.generation()), " serves already")
                          : std::string("no generation served before that the store could go back to"))
                << "; nothing is watched\n";
    }
    if (response.watching()) {
      cli.out() << "job " << SanitizeLine(response.job()) << " watches it; follow it with loci watch " << SanitizeLine(response.job()) << '\n';
    }
    return kExitOk;
  }

 private:
  std::string store_, generation_, writes_since_, strategy_ = kBlueGreen, watch_max_p99_;
  bool dry_run_ = false, no_wait_ = false;
  GateFlags gates_;
  int64_t watch_ms_ = 0, watch_min_requests_ = 20;
  double max_error_rate_ = 0;
};

class RollbackCommand final : public Command {
 public:
  std::string name() const override { return "rollback"; }
  std::string summary() const override { return "Go back to the generation that answered before"; }
  std::string details() const override {
    return "Run again, it goes one generation further back. --dry-run checks on the server and changes nothing.\n";
  }
  std::string examples() const override {
    return "  loci rollback movies --dry-run\n  loci rollback movies --writes-since discard\n";
  }
  void DeclareFlags(FlagSet* flags) override {
    flags->Positional("STORE", &store_, "Name of the store; \"\" is default.");
    flags->Choice("writes-since", &writes_since_, {"replay", "discard"}, "What becomes of writes made since.");
    flags->Bool("dry-run", &dry_run_, "Let the server check everything, change nothing.");
    flags->Choice("strategy", &strategy_, {kBlueGreen, kInPlace}, kStrategyHelp);
    flags->Bool("no-wait", &no_wait_, "Return at once, with the job that does it.");
  }
  int Run(CliContext& cli, const FlagSet&) override {
    v1::RollbackStoreRequest request;
    request.set_store(store_);
    request.set_writes_since(WritesSinceOf(writes_since_));
    request.set_dry_run(dry_run_);
    request.set_no_wait(no_wait_);
    request.set_strategy(StrategyOf(strategy_));
    v1::RollbackStoreResponse response;
    int exit_code = kExitOk;
    if (!cli.Call(cli.admin(), &v1::AdminService::Stub::RollbackStore, request, &response, &exit_code, CliContext::kNoTimeout))
      return exit_code;
    if (cli.json()) return cli.PrintJson(response);
    if (!dry_run_ && !response.done() && !response.job().empty()) return TellJob(cli, response.job());
    cli.out() << (dry_run_ ? "dry run, nothing was changed: would go back, " : "") << "store " << SanitizeLine(StoreName(store_))
              << (dry_run_ ? ", to generation " : " is back at generation ") << SanitizeLine(response.generation()) << ", revision "
              << response.revision() << ", before: " << SanitizeLine(response.previous_generation());
    if (response.writes_since_count() > 0)
      cli.out() << ", writes since: " << FormatCount(response.writes_since_count()) << " " << writes_since_;
    cli.out() << '\n';
    return kExitOk;
  }

 private:
  std::string store_, writes_since_, strategy_ = kBlueGreen;
  bool dry_run_ = false, no_wait_ = false;
};

class FoldCommand final : public Command {
 public:
  std::string name() const override { return "fold"; }
  std::string summary() const override { return "Fold what was written to a store into a new generation"; }
  std::string details() const override {
    return "The passages and their vectors are taken over as they are, the index is built anew, and the new generation takes the\n"
           "place of the active one. Searches and writes go on meanwhile.\n";
  }
  std::string examples() const override { return "  loci fold movies\n  loci fold movies --no-wait\n"; }
  void DeclareFlags(FlagSet* flags) override {
    flags->Positional("STORE", &store_, "Name of the store; \"\" is default.");
    flags->Bool("no-wait", &no_wait_, "Return at once, with the job that does it.");
  }
  int Run(CliContext& cli, const FlagSet&) override {
    v1::FoldStoreRequest request;
    request.set_store(store_);
    request.set_no_wait(no_wait_);
    v1::FoldStoreResponse response;
    int exit_code = kExitOk;
    if (!cli.Call(cli.admin(), &v1::AdminService::Stub::FoldStore, request, &response, &exit_code, CliContext::kNoTimeout)) return exit_code;
    if (cli.json()) return cli.PrintJson(response);
    if (!response.done() && !response.job().empty()) return TellJob(cli, response.job());
    if (response.previous_generation().empty()) {
      cli.out() << "store " << SanitizeLine(StoreName(store_)) << " has nothing to fold: generation " << SanitizeLine(response.generation())
                << " is what it serves\n";
      return kExitOk;
    }
    cli.out() << "folded store " << SanitizeLine(StoreName(store_)) << " into generation " << SanitizeLine(response.generation()) << ": "
              << FormatCount(response.passage_count()) << " passages, " << FormatCount(response.folded_count()) << " of them written since, "
              << FormatCount(response.dropped_count()) << " dropped; revision " << response.revision()
              << ", before: " << SanitizeLine(response.previous_generation()) << '\n';
    return kExitOk;
  }

 private:
  std::string store_;
  bool no_wait_ = false;
};

class VerifyCommand final : public Command {
 public:
  std::string name() const override { return "verify"; }
  std::string summary() const override { return "Read every byte of a generation and compare checksums"; }
  std::string examples() const override { return "  loci verify movies\n  loci verify movies g4\n"; }
  void DeclareFlags(FlagSet* flags) override {
    flags->Positional("STORE", &store_, "Name of the store; \"\" is default.");
    flags->Positional("GENERATION", &generation_, "Name of the generation; the active one without it.", /*required=*/false);
    flags->Bool("no-wait", &no_wait_, "Return at once, with the job that does it.");
  }
  int Run(CliContext& cli, const FlagSet&) override {
    v1::VerifyGenerationRequest request;
    request.set_store(store_);
    request.set_generation(generation_);
    request.set_no_wait(no_wait_);
    v1::VerifyGenerationResponse response;
    int exit_code = kExitOk;
    if (!cli.Call(cli.admin(), &v1::AdminService::Stub::VerifyGeneration, request, &response, &exit_code, CliContext::kNoTimeout))
      return exit_code;
    if (cli.json()) return cli.PrintJson(response);
    if (no_wait_ && !response.done() && !response.job().empty()) return TellJob(cli, response.job());
    cli.out() << "generation " << SanitizeLine(response.generation()) << " is whole: " << FormatCountOf(response.file_count(), "file") << ", "
              << FormatBytes(response.size_bytes()) << '\n';
    return kExitOk;
  }

 private:
  std::string store_, generation_;
  bool no_wait_ = false;
};

class PinCommand final : public Command {
 public:
  std::string name() const override { return "pin"; }
  std::string summary() const override { return "Keep a generation from being deleted by retention, or let it go"; }
  std::string examples() const override { return "  loci pin movies g4\n  loci pin movies g4 --off\n"; }
  void DeclareFlags(FlagSet* flags) override {
    flags->Positional("STORE", &store_, "Name of the store; \"\" is default.");
    flags->Positional("GENERATION", &generation_, "Name of the generation.");
    flags->Bool("off", &off_, "Let it go.");
  }
  int Run(CliContext& cli, const FlagSet&) override {
    v1::PinGenerationRequest request;
    request.set_store(store_);
    request.set_generation(generation_);
    request.set_pinned(!off_);
    v1::PinGenerationResponse response;
    int exit_code = kExitOk;
    if (!cli.Call(cli.admin(), &v1::AdminService::Stub::PinGeneration, request, &response, &exit_code)) return exit_code;
    if (cli.json()) return cli.PrintJson(response);
    cli.out() << "generation " << SanitizeLine(response.generation().generation()) << " is "
              << (response.generation().pinned() ? "pinned" : "not pinned") << '\n';
    return kExitOk;
  }

 private:
  std::string store_, generation_;
  bool off_ = false;
};

class SetStoreCommand final : public Command {
 public:
  std::string name() const override { return "set store"; }
  std::string summary() const override { return "Change what is set of a store: how many generations it keeps, what its texts are encoded in"; }
  std::string details() const override {
    return "In int8 texts are encoded about 1.5 times as fast as in float16 and 3 times as in float32, on a CPU with AVX-512 VNNI, and a little\n"
           "otherwise: loci quantize measures both over the store's own passages. A warning on standard error says where that was not done with\n"
           "the encoder and the generation that the store has. What the store has keeps its vectors until loci reembed encodes it anew.\n";
  }
  std::string examples() const override {
    return "  loci set store movies --keep-generations 3\n"
           "  loci set store movies --encoder-precision int8\n";
  }
  void DeclareFlags(FlagSet* flags) override {
    flags->Positional("STORE", &store_, "Name of the store; \"\" is default.");
    flags->Int("keep-generations", &keep_generations_, 0, 1000, "Kept besides the active one and the pinned; 0 keeps all.");
    flags->Choice("encoder-precision", &encoder_precision_, {"auto", "int8"}, "Of texts encoded from now on; auto: as the server is configured.");
  }
  int Run(CliContext& cli, const FlagSet& flags) override {
    const bool keep = flags.WasGiven("keep-generations"), precision = flags.WasGiven("encoder-precision");
    if (!keep && !precision) return cli.UsageError("nothing to set: give --keep-generations N or --encoder-precision auto|int8");
    v1::UpdateStoreRequest request;
    request.set_store(store_);
    if (keep) request.set_keep_generations(static_cast<int32_t>(keep_generations_));
    if (precision) request.set_encoder_precision(encoder_precision_);
    v1::UpdateStoreResponse response;
    int exit_code = kExitOk;
    if (!cli.Call(cli.admin(), &v1::AdminService::Stub::UpdateStore, request, &response, &exit_code)) return exit_code;
    if (precision && response.store().encoder_precision() == "int8") WarnOfFidelity(cli, response.store());
    if (cli.json()) return cli.PrintJson(response);
    const std::string store = SanitizeLine(StoreName(response.store().store()));
    if (keep && response.store().keep_generations() == 0) {
      cli.out() << "store " << store << " keeps all generations\n";
    } else if (keep) {
      cli.out() << "store " << store << " keeps the active generation and " << response.store().keep_generations() << " more\n";
    }
    if (precision) {
      const bool as_configured = response.store().encoder_precision() == "auto";
      cli.out() << "texts of store " << store << " are encoded " << (as_configured ? "as the server is configured" : "in ")
                << (as_configured ? "" : SanitizeLine(response.store().encoder_precision())) << " from now on";
      if (!response.store().encoder_fingerprint().empty()) {
        cli.out() << "; loci reembed " << store << " --encoder " << SanitizeLine(response.store().encoder_fingerprint()) << " encodes the others anew";
      }
      cli.out() << '\n';
    }
    return kExitOk;
  }

 private:
  std::string store_, encoder_precision_;
  int64_t keep_generations_ = 0;
};

class CompareCommand final : public Command {
 public:
  std::string name() const override { return "compare"; }
  std::string summary() const override { return "Which results change between two generations"; }
  std::string examples() const override {
    return "  loci compare movies g3 g4 --queries queries.jsonl\n  loci compare movies \"\" g4 --queries queries.jsonl --top-k 20\n";
  }
  void DeclareFlags(FlagSet* flags) override {
    flags->Positional("STORE", &store_, "Name of the store; \"\" is default.");
    flags->Positional("GEN_A", &generation_a_, "One generation; \"\" is the active one.");
    flags->Positional("GEN_B", &generation_b_, "The other.");
    flags->String("queries", &queries_path_, "FILE", "BEIR queries (JSONL, gzipped or not), at most 1,024.");
    flags->Int("top-k", &top_k_, 1, 1000, "Passages a query.");
  }
  int Run(CliContext& cli, const FlagSet&) override {
    if (queries_path_.empty()) return cli.UsageError("flag --queries FILE is missing");
    const absl::StatusOr<std::vector<EvalQuery>> queries = ReadQueries(queries_path_);
    if (!queries.ok()) return cli.Fail(queries.status());
    v1::CompareGenerationsRequest request;
    request.set_store(store_);
    request.set_generation_a(generation_a_);
    request.set_generation_b(generation_b_);
    request.set_top_k(static_cast<int32_t>(top_k_));
    for (const EvalQuery& query : *queries) request.add_queries(query.text);
    v1::CompareGenerationsResponse response;
    int exit_code = kExitOk;
    if (!cli.Call(cli.admin(), &v1::AdminService::Stub::CompareGenerations, request, &response, &exit_code,
                  CliContext::kNoTimeout))
      return exit_code;
    if (cli.json()) return cli.PrintJson(response);
    PrintComparison(cli, *queries, response);
    return kExitOk;
  }

 private:
  static std::string Describe(const v1::HitChange& change) {
    std::string why = v1::ChangeReason_Name(change.reason()).substr(std::string_view("CHANGE_REASON_").size());
    absl::AsciiStrToLower(&why);
    std::replace(why.begin(), why.end(), '_', ' ');
    const auto rank = [](int32_t place) { return place == 0 ? std::string("-") : absl::StrCat("#", place); };
    return absl::StrCat(SanitizeLine(change.id()), " ", rank(change.rank_a()), " to ", rank(change.rank_b()), " ", why);
  }
  static void PrintComparison(CliContext& cli, const std::vector<EvalQuery>& queries, const v1::CompareGenerationsResponse& response) {
    constexpr size_t kShownBytes = 48;
    TextTable table({{"QUERY"}, {"OVERLAP", TextTable::kRight}, {"CHANGES, from place to place"}});
    for (int i = 0; i < response.queries_size() && static_cast<size_t>(i) < queries.size(); ++i) {
      const v1::QueryComparison& query = response.queries(i);
      if (query.same_order()) continue;
      const std::string& text = queries[static_cast<size_t>(i)].text;
      const std::string shown = text.size() <= kShownBytes ? text : absl::StrCat(text.substr(0, kShownBytes), "...");
      if (query.changes().empty()) table.AddRow({SanitizeLine(shown), absl::StrFormat("%.2f", query.overlap()), "order only"});
      for (int j = 0; j < query.changes_size(); ++j) {
        table.AddRow({j == 0 ? SanitizeLine(shown) : "", j == 0 ? absl::StrFormat("%.2f", query.overlap()) : "", Describe(query.changes(j))});
      }
    }
    if (response.changed_count() > 0) cli.PrintTable(table);
    cli.out() << "generations " << SanitizeLine(response.generation_a()) << " and " << SanitizeLine(response.generation_b()) << ": "
              << FormatCount(response.changed_count()) << " of " << FormatCount(response.queries_size()) << " queries change, "
              << FormatCount(response.changed_first_count()) << " in their first hit; mean overlap "
              << absl::StrFormat("%.4f", response.mean_overlap()) << '\n';
    std::string counts;
    for (const char* reason : {"NEW_PASSAGE", "GONE_PASSAGE", "OTHER_VECTOR", "APPROXIMATION", "DISPLACED"}) {
      const auto count = response.change_counts().find(reason);
      if (count == response.change_counts().end() || count->second == 0) continue;
      std::string why = reason;
      absl::AsciiStrToLower(&why);
      std::replace(why.begin(), why.end(), '_', ' ');
      absl::StrAppend(&counts, counts.empty() ? "" : ", ", why, " ", FormatCount(count->second));
    }
    if (!counts.empty()) cli.out() << "why: " << counts << '\n';
  }

  std::string store_, generation_a_, generation_b_, queries_path_;
  int64_t top_k_ = 10;
};

}  // namespace

void AddGenerationCommands(Commands* commands) {
  commands->push_back(std::make_unique<ActivateCommand>());
  commands->push_back(std::make_unique<RollbackCommand>());
  commands->push_back(std::make_unique<FoldCommand>());
  commands->push_back(std::make_unique<VerifyCommand>());
  commands->push_back(std::make_unique<PinCommand>());
  commands->push_back(std::make_unique<SetStoreCommand>());
  commands->push_back(std::make_unique<CompareCommand>());
}

}  // namespace loci
