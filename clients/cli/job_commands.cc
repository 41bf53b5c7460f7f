// loci get jobs, loci watch, loci cancel.
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "clients/cli/command.h"
#include "clients/cli/display.h"
#include "clients/cli/fidelity_table.h"
#include "clients/cli/job_progress.h"

namespace loci {
namespace {

class GetJobsCommand final : public Command {
 public:
  std::string name() const override { return "get jobs"; }
  std::string summary() const override { return "List long operations, newest first"; }
  std::string details() const override { return "Those that ended are remembered, over restarts of the server, too: the newest 1,000.\n"; }
  std::string examples() const override {
    return "  loci get jobs\n  loci get jobs movies --state failed --limit 5\n  loci get jobs --state running -o json\n";
  }
  void DeclareFlags(FlagSet* flags) override {
    flags->Positional("STORE", &store_, "Only those of this store.", /*required=*/false);
    flags->Choice("state", &state_, {"running", "succeeded", "failed", "cancelled", "interrupted"}, "Only those in this state.");
    flags->Int("limit", &limit_, 1, 1000, "At most so many.");
  }
  int Run(CliContext& cli, const FlagSet&) override {
    v1::ListJobsRequest request;
    request.set_store(store_);
    request.set_limit(static_cast<int32_t>(limit_));
    v1::JobState state = v1::JOB_STATE_UNSPECIFIED;
    v1::JobState_Parse(absl::StrCat("JOB_STATE_", absl::AsciiStrToUpper(state_)), &state);
    request.set_state(state);
    v1::ListJobsResponse response;
    int exit_code = kExitOk;
    if (!cli.Call(cli.admin(), &v1::AdminService::Stub::ListJobs, request, &response, &exit_code)) return exit_code;
    if (cli.json()) return cli.PrintJson(response);
    TextTable table = JobTable();
    for (const v1::Job& job : response.jobs()) AddJobRow(job, &table);
    cli.PrintTable(table);
    return kExitOk;
  }

 private:
  std::string store_, state_;
  int64_t limit_ = 100;
};

class WatchCommand final : public Command {
 public:
  std::string name() const override { return "watch"; }
  std::string summary() const override { return "Follow a job to its end"; }
  std::string details() const override {
    return "Phase, done and total, rate and the time left are shown on standard error: on a terminal as one line that is rewritten,\n"
           "elsewhere as a line every five seconds. At the end the job is printed. The exit code is 0 where it succeeded, and 1 where it\n"
           "failed, was cancelled, or was interrupted by the server's end. To stop watching is nothing to the job: see loci cancel.\n";
  }
  std::string examples() const override {
    return "  loci watch 20261121-094142-3f2a\n  loci watch 20261121-094142-3f2a -o json --timeout 10m\n";
  }
  void DeclareFlags(FlagSet* flags) override { flags->Positional("JOB", &job_, "The job's id, as loci get jobs shows it."); }
  int Run(CliContext& cli, const FlagSet&) override {
    v1::Job job;
    int exit_code = kExitOk;
    if (!FollowJob(cli, job_, &job, &exit_code)) return exit_code;
    return Print(cli, job);
  }

 private:
  static int Print(CliContext& cli, const v1::Job& job) {
    if (cli.json()) {
      if (const int code = cli.PrintJson(job); code != kExitOk) return code;
    } else {
      TextTable table = JobTable();
      AddJobRow(job, &table);
      cli.PrintTable(table);
      if (job.has_ingest()) PrintIngestSummary(cli, job.store(), job.ingest());
      if (job.has_quantize()) PrintFidelity(cli, job.store(), job.quantize().fidelity());
    }
    if (job.state() == v1::JOB_STATE_SUCCEEDED) return kExitOk;
    return FailedJob(cli, job);
  }

  std::string job_;
};

class CancelCommand final : public Command {
 public:
  std::string name() const override { return "cancel"; }
  std::string summary() const override { return "Ask a running job to end"; }
  std::string details() const override {
    return "The reply shows the job as it is at that moment; loci watch tells when it has ended. An ingest that is cancelled leaves no\n"
           "new generation. The exit code is 0 where it was asked, and 1 where it had ended before.\n";
  }
  std::string examples() const override { return "  loci cancel 20261121-094142-3f2a\n  loci cancel 20261121-094142-3f2a -o json\n"; }
  void DeclareFlags(FlagSet* flags) override {
    flags->Positional("JOB", &job_, "The job's id, as loci get jobs shows it.");
    flags->Bool("dry-run", &dry_run_, "Send nothing.");
  }
  int Run(CliContext& cli, const FlagSet&) override {
    v1::CancelJobRequest request;
    request.set_job(job_);
    if (dry_run_) return cli.PrintDryRun(absl::StrCat("cancel job ", job_), request);
    v1::Job job;
    int exit_code = kExitOk;
    if (!cli.Call(cli.admin(), &v1::AdminService::Stub::CancelJob, request, &job, &exit_code)) return exit_code;
    if (cli.json()) return cli.PrintJson(job);
    cli.out() << "job " << SanitizeLine(job.job()) << " was asked to end; it is " << JobStateName(job.state()) << '\n';
    return kExitOk;
  }

 private:
  std::string job_;
  bool dry_run_ = false;
};

}  // namespace

void AddJobCommands(Commands* commands) {
  commands->push_back(std::make_unique<GetJobsCommand>());
  commands->push_back(std::make_unique<WatchCommand>());
  commands->push_back(std::make_unique<CancelCommand>());
}

}  // namespace loci
