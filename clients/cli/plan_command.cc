// loci plan.
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/strings.h"
#include "clients/cli/activation_flags.h"
#include "clients/cli/build_flags.h"
#include "clients/cli/command.h"
#include "clients/cli/display.h"
#include "clients/cli/gate_flags.h"
#include "clients/cli/text_table.h"

namespace loci {
namespace {

class PlanCommand final : public Command {
 public:
  std::string name() const override { return "plan"; }
  std::string summary() const override { return "What activating a generation would need in memory, disk and time"; }
  std::string details() const override {
    return "Nothing is loaded and nothing changes. Memory is what the generation takes beside what serves, at the end of the activation, and at most,\n"
           "once its caches are full: that much must be free (with --strategy in-place, what serves counts as free). With --queries the conditions are measured, for which the generation is opened and\n"
           "verified; those that are not met are blockers. Ends with 1 where something would refuse the activation.\n";
  }
  std::string examples() const override {
    return "  loci plan movies g4\n  loci plan movies g4 --writes-since replay\n"
           "  loci plan movies g4 --queries queries.jsonl --qrels qrels.tsv --min-ndcg 0.4\n";
  }
  void DeclareFlags(FlagSet* flags) override {
    flags->Positional("STORE", &store_, "Name of the store; \"\" is default.");
    flags->Positional("GENERATION", &generation_, "Name of the generation.");
    flags->Choice("writes-since", &writes_since_, {"replay", "discard"}, "What would become of writes made since.");
    flags->Choice("strategy", &strategy_, {kBlueGreen, kInPlace}, kStrategyHelp);
    gates_.Declare(flags);
  }
  int Run(CliContext& cli, const FlagSet& flags) override {
    v1::PlanActivationRequest request;
    request.set_store(store_);
    request.set_generation(generation_);
    request.set_writes_since(WritesSinceOf(writes_since_));
    request.set_strategy(StrategyOf(strategy_));
    if (absl::Status checked = gates_.Check(flags); !checked.ok()) return cli.UsageError(StdView(checked.message()));
    v1::ActivationGates gates;
    if (absl::Status filled = gates_.Fill(flags, &gates); !filled.ok()) return cli.Fail(filled);
    const bool measures = gates.queries_size() > 0;
    if (measures) *request.mutable_gates() = std::move(gates);
    v1::PlanActivationResponse response;
    int exit_code = kExitOk;
    if (!cli.Call(cli.admin(), &v1::AdminService::Stub::PlanActivation, request, &response, &exit_code,
                  measures ? CliContext::kNoTimeout : CliContext::kDefaultTimeoutMs))
      return exit_code;
    const int done = cli.json() ? cli.PrintJson(response) : Print(cli, response);
    return done == kExitOk && !response.blockers().empty() ? kExitFailed : done;
  }

 private:
  int Print(CliContext& cli, const v1::PlanActivationResponse& plan) const {
    const auto known = [](int64_t bytes) { return bytes < 0 ? std::string("not known") : FormatBytes(bytes); };
    TextTable table({{"MEMORY"}, {"AFTER", TextTable::kRight}, {"AT MOST", TextTable::kRight}});
    for (const v1::MemoryFigure& figure : plan.memory()) {
      if (figure.most_bytes() == 0) continue;
      table.AddRow({figure.owner() + (figure.mapped() ? " (mapped)" : ""), FormatBytes(figure.bytes()), FormatBytes(figure.most_bytes())});
    }
    table.AddRow({"all but what is mapped", FormatBytes(plan.resident_bytes()), FormatBytes(plan.resident_most_bytes())});
    table.AddRow({"available", "", known(plan.available_bytes())});
    cli.PrintTable(table);
    const std::string previous = plan.previous_generation().empty() ? "nothing" : SanitizeLine(plan.previous_generation());
    cli.out() << "serving now: " << previous;
    if (plan.released_bytes() > 0) cli.out() << ", which gives back " << FormatBytes(plan.released_bytes()) << " once its last request has ended";
    cli.out() << "\ndisk: " << FormatBytes(plan.disk_bytes()) << " of files, " << known(plan.available_disk_bytes())
              << " available\ntime: about " << FormatMicros(1000 * plan.estimated_load_ms()) << '\n';
    if (plan.writes_since_count() > 0) {
      cli.out() << "writes since its base: " << FormatCount(plan.writes_since_count()) << (writes_since_.empty() ? "" : ", to " + writes_since_) << '\n';
    }
    PrintGateFigures(cli, plan.gate_figures());
    cli.out() << "generation " << SanitizeLine(plan.generation()) << " of store " << SanitizeLine(StoreName(store_))
              << (plan.blockers().empty() ? " can be activated\n" : " can't be activated:\n");
    for (const std::string& blocker : plan.blockers()) cli.out() << "  - " << InWords(blocker) << '\n';
    return kExitOk;
  }

  // "MEMORY: 7 bytes are needed" as "7 bytes are needed (MEMORY)".
  static std::string InWords(const std::string& blocker) {
    const size_t colon = blocker.find(": ");
    if (colon == std::string::npos) return SanitizeLine(blocker);
    return SanitizeLine(absl::StrCat(blocker.substr(colon + 2), " (", blocker.substr(0, colon), ")"));
  }

  std::string store_, generation_, writes_since_, strategy_ = kBlueGreen;
  GateFlags gates_;
};

}  // namespace

void AddPlanCommand(Commands* commands) { commands->push_back(std::make_unique<PlanCommand>()); }

}  // namespace loci
