// loci activate, rollback, verify, pin, set store, plan, compare.
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "clients/cli/command.h"
#include "clients/cli/display.h"
#include "clients/cli/eval_input.h"

namespace loci {
namespace {

v1::WritesSince WritesSinceOf(const std::string& name) {
  if (name == "replay") return v1::WRITES_SINCE_REPLAY;
  if (name == "discard") return v1::WRITES_SINCE_DISCARD;
  return v1::WRITES_SINCE_UNSPECIFIED;
}

// What goes on by itself after --no-wait.
int TellJob(CliContext& cli, const std::string& job) {
  cli.out() << "it goes on as a job; follow it with loci watch " << SanitizeLine(job) << '\n';
  return kExitOk;
}

class ActivateCommand final : public Command {
 public:
  std::string name() const override { return "activate"; }
  std::string summary() const override { return "Make a generation the one that answers"; }
  std::string details() const override {
    return "The generation is loaded, verified and warmed, then swapped in; requests in flight finish on the old one. Where "
           "writes were\n"
           "made since its base, --writes-since says whether they are laid over it or dropped. --dry-run checks on the server "
           "and\n"
           "changes nothing.\n";
  }
  std::string examples() const override {
    return "  loci activate movies g4\n  loci activate movies g4 --writes-since replay\n  loci activate movies g4 --dry-run\n"
           "  loci activate movies g4 --no-wait\n";
  }
  void DeclareFlags(FlagSet* flags) override {
    flags->Positional("STORE", &store_, "Name of the store; \"\" is default.");
    flags->Positional("GENERATION", &generation_, "Name of the generation.");
    flags->Choice("writes-since", &writes_since_, {"replay", "discard"}, "What becomes of writes made since.");
    flags->Bool("dry-run", &dry_run_, "Let the server check everything, change nothing.");
    flags->Bool("no-wait", &no_wait_, "Return at once, with the job that does it.");
  }
  int Run(CliContext& cli, const FlagSet&) override {
    v1::ActivateGenerationRequest request;
    request.set_store(store_);
    request.set_generation(generation_);
    request.set_writes_since(WritesSinceOf(writes_since_));
    request.set_dry_run(dry_run_);
    request.set_no_wait(no_wait_);
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
    return kExitOk;
  }

 private:
  std::string store_, generation_, writes_since_;
  bool dry_run_ = false, no_wait_ = false;
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
    flags->Bool("no-wait", &no_wait_, "Return at once, with the job that does it.");
  }
  int Run(CliContext& cli, const FlagSet&) override {
    v1::RollbackStoreRequest request;
    request.set_store(store_);
    request.set_writes_since(WritesSinceOf(writes_since_));
    request.set_dry_run(dry_run_);
    request.set_no_wait(no_wait_);
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
  std::string store_, writes_since_;
  bool dry_run_ = false, no_wait_ = false;
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
    cli.out() << "generation " << SanitizeLine(response.generation()) << " is whole: " << response.file_count() << " files, "
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
  std::string summary() const override { return "Change what is set of a store: how many generations it keeps"; }
  std::string examples() const override { return "  loci set store movies --keep-generations 3\n"; }
  void DeclareFlags(FlagSet* flags) override {
    flags->Positional("STORE", &store_, "Name of the store; \"\" is default.");
    flags->Int("keep-generations", &keep_generations_, 0, 1000, "Kept besides the active one and the pinned; 0 keeps all.");
  }
  int Run(CliContext& cli, const FlagSet& flags) override {
    if (!flags.WasGiven("keep-generations")) return cli.UsageError("flag --keep-generations N is missing");
    v1::UpdateStoreRequest request;
    request.set_store(store_);
    request.set_keep_generations(static_cast<int32_t>(keep_generations_));
    v1::UpdateStoreResponse response;
    int exit_code = kExitOk;
    if (!cli.Call(cli.admin(), &v1::AdminService::Stub::UpdateStore, request, &response, &exit_code)) return exit_code;
    if (cli.json()) return cli.PrintJson(response);
    cli.out() << "store " << SanitizeLine(StoreName(response.store().store())) << " keeps ";
    if (response.store().keep_generations() == 0) {
      cli.out() << "all generations\n";
    } else {
      cli.out() << "the active generation and " << response.store().keep_generations() << " more\n";
    }
    return kExitOk;
  }

 private:
  std::string store_;
  int64_t keep_generations_ = 0;
};

class PlanCommand final : public Command {
 public:
  std::string name() const override { return "plan"; }
  std::string summary() const override { return "What activating a generation would need in memory and time"; }
  std::string examples() const override { return "  loci plan movies g4\n"; }
  void DeclareFlags(FlagSet* flags) override {
    flags->Positional("STORE", &store_, "Name of the store; \"\" is default.");
    flags->Positional("GENERATION", &generation_, "Name of the generation.");
  }
  int Run(CliContext& cli, const FlagSet&) override {
    v1::PlanActivationRequest request;
    request.set_store(store_);
    request.set_generation(generation_);
    v1::PlanActivationResponse response;
    int exit_code = kExitOk;
    if (!cli.Call(cli.admin(), &v1::AdminService::Stub::PlanActivation, request, &response, &exit_code)) return exit_code;
    return cli.PrintJson(response);
  }

 private:
  std::string store_, generation_;
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
    return cli.PrintJson(response);
  }

 private:
  std::string store_, generation_a_, generation_b_, queries_path_;
  int64_t top_k_ = 10;
};

}  // namespace

void AddGenerationCommands(Commands* commands) {
  commands->push_back(std::make_unique<ActivateCommand>());
  commands->push_back(std::make_unique<RollbackCommand>());
  commands->push_back(std::make_unique<VerifyCommand>());
  commands->push_back(std::make_unique<PinCommand>());
  commands->push_back(std::make_unique<SetStoreCommand>());
  commands->push_back(std::make_unique<PlanCommand>());
  commands->push_back(std::make_unique<CompareCommand>());
}

}  // namespace loci
