// loci quantize.
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "clients/cli/command.h"
#include "clients/cli/display.h"
#include "clients/cli/fidelity_table.h"
#include "clients/cli/job_progress.h"

namespace loci {
namespace {

class QuantizeCommand final : public Command {
 public:
  std::string name() const override { return "quantize"; }
  std::string summary() const override { return "Measure how near int8 is to float32 over a store, and how fast"; }
  std::string details() const override {
    return "Passages sampled from what the store serves are encoded in float32, in what the server computes in, and in int8, by the store's encoder.\n"
           "COSINE is that of a passage's vector and its float32 vector; TOP-10 OVERLAP is the share of each passage's nearest ten among the others\n"
           "that float32 finds too; TOKENS/S is of one thread's CPU time on the server's machine, and what follows it how many times that is\n"
           "float32's, and that of what serves. The store keeps the record, which loci get stores shows, and is changed in nothing else:\n"
           "loci set store STORE --encoder-precision int8 sets it to int8. Texts that wait for encoders go first. It is a job, which goes on where\n"
           "this command is interrupted, until loci cancel ends it; a server runs one of these or of loci tune at a time, of all its stores.\n";
  }
  std::string examples() const override {
    return "  loci quantize movies\n"
           "  loci quantize movies --sample 5000 -o json\n"
           "  loci quantize movies && loci set store movies --encoder-precision int8\n";
  }
  void DeclareFlags(FlagSet* flags) override {
    flags->Positional("STORE", &store_, "Name of the store; \"\" is default.");
    flags->Int("sample", &sample_, 20, 10'000, "Passages to measure with, 20 to 10,000, or all where there are fewer.");
    flags->Bool("no-wait", &no_wait_, "Return at once, with the job that measures.");
    flags->Bool("dry-run", &dry_run_, "Say what would be measured, send nothing.");
  }

  int Run(CliContext& cli, const FlagSet&) override {
    v1::QuantizeStoreRequest request;
    request.set_store(store_);
    request.set_sample_count(static_cast<int32_t>(sample_));
    request.set_no_wait(true);
    if (dry_run_) return cli.PrintDryRun(absl::StrCat("measure int8 over store ", StoreName(store_)), request);
    v1::QuantizeStoreResponse response;
    int exit_code = kExitOk;
    if (!cli.Call(cli.admin(), &v1::AdminService::Stub::QuantizeStore, request, &response, &exit_code)) return exit_code;
    if (no_wait_) {
      if (cli.json()) return cli.PrintJson(response);
      return TellJob(cli, response.job());
    }
    v1::Job job;
    if (!AwaitJob(cli, response.job(), &job, &exit_code)) return exit_code;
    if (cli.json()) return cli.PrintJson(job.quantize());
    PrintFidelity(cli, StoreName(store_), job.quantize().fidelity());
    cli.out() << "the store keeps it; loci set store " << SanitizeLine(StoreName(store_)) << " --encoder-precision int8 sets the store to int8\n";
    return kExitOk;
  }

 private:
  std::string store_;
  int64_t sample_ = 1'000;
  bool no_wait_ = false, dry_run_ = false;
};

}  // namespace

void AddQuantizeCommand(Commands* commands) { commands->push_back(std::make_unique<QuantizeCommand>()); }

}  // namespace loci
