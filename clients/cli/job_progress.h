// Jobs of a server, told to people.
#ifndef LOCI_CLIENTS_CLI_JOB_PROGRESS_H_
#define LOCI_CLIENTS_CLI_JOB_PROGRESS_H_

#include <grpcpp/grpcpp.h>

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "clients/cli/cli_context.h"
#include "clients/cli/progress.h"
#include "clients/cli/text_table.h"
#include "proto/loci/v1/admin.pb.h"

namespace loci {

// "index 12,800 / 100,000 passages   1,234/s   12 %   ETA 1:10", without what is not known.
std::string DescribeJobPhase(const v1::Job& job);

// "RUNNING", "SUCCEEDED", ...
std::string JobStateName(v1::JobState state);

// One row a job.
TextTable JobTable();
void AddJobRow(const v1::Job& job, TextTable* table);

// Shows a job on standard error until it ends; then `job` is what became of it. False where the server no longer tells, which is printed.
bool FollowJob(CliContext& cli, const std::string& id, v1::Job* job, int* exit_code);
// FollowJob until it succeeds; false, with what became of it printed, where it does not or may go on.
bool AwaitJob(CliContext& cli, const std::string& id, v1::Job* job, int* exit_code);
// Prints how to follow what goes on by itself; returns the exit code.
int TellJob(CliContext& cli, const std::string& job);
// Prints why a job did not succeed; returns the exit code.
int FailedJob(CliContext& cli, const v1::Job& job);

// Prints what an ingest did as a table; returns the exit code.
int PrintIngestSummary(CliContext& cli, const std::string& store, const v1::IngestResponse& response);

// Shows the phases of the ingest or import that runs on a store, from construction on to destruction, where the server tells them; where it
// does not, nothing is shown and nothing fails. It is the one there, as a store has one at a time. With `on_written`, that is told how many
// passages the server has encoded and written, and phases are shown from AllSent on only. `on_ended` is called where the job ends otherwise
// than well, as when it is cancelled.
// Used by one thread, the command's; works on one of its own.
class IngestPhases {
 public:
  // `cli` and `progress` must outlive it. `store` as in requests. The functions are called on a thread of this object's.
  IngestPhases(CliContext& cli, const std::string& store, Progress& progress, std::function<void(int64_t)> on_written = nullptr,
               std::function<void()> on_ended = nullptr);
  ~IngestPhases();
  IngestPhases(const IngestPhases&) = delete;
  IngestPhases& operator=(const IngestPhases&) = delete;

  // `total` passages are to be encoded and written in all; 0: not known.
  void AllSent(int64_t total);

 private:
  void Run(const std::string& store);
  // A context of the next call; null once it is over.
  grpc::ClientContext* NextContext();

  void Show(v1::Job job);

  Progress& progress_;
  v1::AdminService::Stub& stub_;
  const std::function<void(int64_t)> on_written_;
  const std::function<void()> on_ended_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool over_ = false;  // Guarded by mutex_, as the two below.
  bool all_sent_ = false;
  int64_t total_ = 0;
  std::unique_ptr<grpc::ClientContext> context_;  // Of the call under way; guarded by mutex_ where it is replaced or cancelled.
  std::thread thread_;
};

}  // namespace loci

#endif  // LOCI_CLIENTS_CLI_JOB_PROGRESS_H_
