// Long operations: what runs, how far it is, what ran before. Each has a small file in jobs/, so that it is remembered over restarts.
//
//   LOCI_ASSIGN_OR_RETURN(std::shared_ptr<JobHandle> job, jobs.Start({.kind = JobKind::kIngest, .store = "movies"}));
//   job->SetPhase("receiving", 0);
//   ... job->SetDone(1'000); LOCI_RETURN_IF_ERROR(job->limits().Check(now_us)); ...
//   status = job->Finish(status, result);
#ifndef LOCI_RETRIEVER_JOB_REGISTRY_H_
#define LOCI_RETRIEVER_JOB_REGISTRY_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/cancellation.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/metrics.h"
#include "proto/loci/storage/storage.pb.h"

namespace loci {

enum class JobKind { kIngest, kActivate, kRollback, kVerify, kImport, kFold, kReembed, kImportEncoder, kTune, kPublish, kQuantize };
inline constexpr int kJobKindCount = 11;
std::string_view JobKindName(JobKind kind);  // "ingest"

class JobHandle;

struct JobSpec {
  JobKind kind = JobKind::kVerify;
  std::string store;
  std::string generation;  // Empty where there is none yet.
  std::string request_id;  // Of the request that starts it.
  RequestLimits limits;    // What the operation looks at; Cancel raises its flag.
  // A fold that nobody asked for: what starts and would find it in the way has it cancelled, and goes on.
  bool yields = false;
  // A re-embedding that follows the newest encoder: one of those that runs in the store is asked to end, and says that this one supersedes it
  // (WaitForThoseThatGaveWay comes before the work). It goes on after a restart, so it is asked to end as soon as the registry drains, and
  // ends at once where it starts after that.
  bool refreshes = false;
  // Of an INTERRUPTED one of the same kind and store: it goes on under its id. Empty, or not there: a new one.
  std::string job;
  // Called once, without a lock held, when the job is asked to end while it runs. For operations that wait for something.
  std::function<void()> on_cancel;
  // Called once, without a lock held, when the job is recorded and nothing was asked to end for it yet. Its error is Start's: the job has never been, and what
  // runs goes on.
  std::function<absl::Status(const std::shared_ptr<JobHandle>& job)> begin;
};

// A job as it is at a moment.
struct JobInfo {
  storage::JobRecord record;
  double rate = 0;      // Units a second, lately; 0 where it does not run.
  int64_t eta_ms = -1;  // To the end of the phase; -1: not known.
  int64_t version = 0;  // Grows with each change.
  bool ending = false;  // It runs, and was asked to end by other than the server's end: it will not go on.
};

class JobRegistry;

// A running job, held by who does the work. Without Finish it ends with the handle as FAILED, or CANCELLED. Dies before its registry.
// Thread-safe.
class JobHandle {
 public:
  ~JobHandle();
  JobHandle(const JobHandle&) = delete;
  JobHandle& operator=(const JobHandle&) = delete;

  const std::string& id() const;
  const RequestLimits& limits() const;  // Cancelled by JobRegistry::Cancel.
  // Cancelled with them, and by nothing else: of what goes on when the request that started the job has gone.
  const RequestLimits& own_limits() const;

  void SetPhase(std::string_view phase, int64_t total, std::string_view unit = "passages");  // Of done = 0; total 0: not known.
  void SetDone(int64_t done);
  void SetGeneration(std::string_view generation);

  // Waits for the end of what Start has asked to end in the store for a fold or a re-embedding. The error of limits() where they say so first. Blocks.
  absl::Status WaitForThoseThatGaveWay();
  // For an ingest, a fold or a re-embedding that comes to its own activation: waits for an activation or roll-back that runs in the store, and keeps others from
  // starting until this job's Finish. The error of limits() where they say so first; after BeginWatch, of own_limits(). Blocks.
  absl::Status BeginActivation();
  // It came to nothing, and the job goes back to other work: others may activate from now on, until BeginActivation.
  void EndActivation();
  // For an activation that is done and is looked after: from now on it is in nobody's way, until BeginActivation, and ends (own_limits() say so)
  // once the registry drains.
  void BeginWatch();

  // Ends the job: durable on return where the disk takes it, and out of the way of others. `result` is kept where `status` is OK. Returns
  // `status`, or, where the job was asked to end and did, a CANCELLED that says so. A second call changes nothing.
  absl::Status Finish(const absl::Status& status, std::string_view result = {});

 private:
  friend class JobRegistry;
  struct Entry;
  JobHandle(JobRegistry* registry, std::shared_ptr<Entry> entry);
  JobRegistry* const registry_;
  const std::shared_ptr<Entry> entry_;
  std::atomic<bool> finished_{false};
};

// What may run beside what in one store, an import counting as an ingest; jobs of different stores are in nobody's way:
//
//   runs \ starts                      ingest    activation, roll-back    verification    deletion of the store
//   ingest, receiving and building     refused   goes on                  goes on         refused
//   ingest, activating                 refused   refused                  goes on         refused
//   activation, roll-back              goes on   refused                  goes on         refused
//   verification                       goes on   goes on                  goes on         refused
//   fold, building                     refused   goes on                  goes on         refused
//   fold, switching                    refused   refused                  goes on         refused
//   (a re-embedding is as a fold, but that it never yields; one that refreshes gives way to another one that does: JobSpec::refreshes)
//
// An activation that only watches what it activated is in nobody's way. A fold starts beside verifications alone. Imports and
// publications of encoders are of no store: one at a time. One that yields is cancelled where the table says refused, and by an activation or a roll-back,
// under which it would end in vain; the deletion of the store first calls EndYielding. Tunings and quantizations, which measure how fast
// the machine is, are as verifications, but that there is one of both at a time, of whatever store.
//
// An ingest builds beside what serves, so that a roll-back need not wait for hours; it counts as an activation from the moment it wants
// to activate what it built (BeginActivation), and then waits for the one that runs. Short changes (upserts, deletions of passages, pins)
// are no jobs; they take turns. The deletion of a generation is refused while an activation or a roll-back runs.
// Thread-safe. Start, JobHandle::Finish and Open write files; the others do not block, unless they say so.
class JobRegistry {
 public:
  struct Options {
    FileSystem* fs = &PosixFileSystem();
    std::string directory;  // Made where it is absent. One server's.
    Clock* clock = &RealClock();
    MetricsSink* metrics = &NullMetrics();
    int64_t history_limit = 1'000;  // Jobs that ended and are remembered, newest first.
  };

  // Reads what is remembered. Jobs that ran when the server ended are INTERRUPTED; a file that is damaged is logged and left alone.
  static absl::StatusOr<std::unique_ptr<JobRegistry>> Open(Options options);
  ~JobRegistry();

  // ABORTED, reason JOB_IN_THE_WAY with `job`, where another is in the way; UNAVAILABLE after CancelAll; errors of the disk. After an error what runs
  // goes on. Ids are never used again. A verification starts also where the disk takes no record of it.
  absl::StatusOr<std::shared_ptr<JobHandle>> Start(JobSpec spec);
  // Those errors of Start that are known without trying it. Does not block.
  absl::Status CheckStart(const JobSpec& spec) const;

  absl::StatusOr<JobInfo> Get(std::string_view job) const;  // NOT_FOUND, reason JOB_NOT_FOUND.
  // Newest first. Empty `store`: every store's; STATE_UNSPECIFIED: in any state.
  std::vector<JobInfo> List(std::string_view store, storage::JobRecord::State state, int64_t limit) const;
  // Asks a running job to end. FAILED_PRECONDITION, reason JOB_FINISHED, for one that ended.
  absl::StatusOr<JobInfo> Cancel(std::string_view job);
  // Cancels the jobs of the store (empty: of every store) that yield, and waits until they have ended, or `timeout_ms` have passed.
  void EndYielding(std::string_view store, int64_t timeout_ms);
  void CancelAll();  // And lets none start from now on. What ends for it was INTERRUPTED, and nobody cancelled it.
  // Until no job runs; false where `timeout_ms` passed before. Blocks.
  bool WaitUntilIdle(int64_t timeout_ms) const;

  absl::Status CheckNoJob(std::string_view store) const;         // ABORTED as from Start, where any job of the store runs, but for a watch.
  absl::Status CheckNoActivation(std::string_view store) const;  // The same for one that activates.

  // From now on draining() is true: whoever waits for a job lets go. Jobs that only watch, and refreshes, are asked to end.
  void Drain();
  bool draining() const;

 private:
  friend class JobHandle;
  struct State;
  explicit JobRegistry(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace loci

#endif  // LOCI_RETRIEVER_JOB_REGISTRY_H_
