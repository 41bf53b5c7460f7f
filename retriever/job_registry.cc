#include "retriever/job_registry.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <deque>
#include <map>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/checksum.h"
#include "base/error.h"
#include "base/logging.h"
#include "base/mutex.h"
#include "base/status_macros.h"
#include "base/strings.h"
#include "base/timestamp_id.h"

namespace loci {
namespace {

using storage::JobRecord;

constexpr int kFormatVersion = 1;
constexpr char kInterruptedMessage[] = "the server ended while the job ran";
constexpr int kStateCount = JobRecord::State_MAX + 1;
constexpr int64_t kRateWindowUs = 10'000'000;
constexpr int64_t kSampleUs = 100'000;  // Between two samples of a rate.
constexpr size_t kMaxShownBytes = 64;
constexpr std::chrono::milliseconds kWaitPeriod(50);  // Between two looks at the limits of a job that waits.
constexpr std::string_view kTemporarySuffix = ".tmp";
constexpr std::string_view kStateNames[kStateCount] = {"unspecified", "running", "succeeded", "failed", "cancelled", "interrupted"};

absl::StatusOr<JobRecord> ParseRecord(std::string_view content) {
  LOCI_ASSIGN_OR_RETURN(const std::string_view body, Unsealed(content));
  JobRecord record;
  if (!record.ParseFromArray(body.data(), static_cast<int>(body.size()))) return absl::DataLossError("it can't be parsed");
  if (record.format_version() != kFormatVersion) {
    return absl::FailedPreconditionError(absl::StrCat("it has format ", record.format_version(), ", this server reads ", kFormatVersion));
  }
  if (record.state() <= JobRecord::STATE_UNSPECIFIED || record.state() > JobRecord::State_MAX) return absl::DataLossError("its state is unknown");
  return record;
}

absl::Status InTheWay(const JobRecord& record) {
  // An import of an encoder has no store.
  const std::string where = record.store().empty() ? "" : absl::StrCat(" in store \"", record.store(), "\"");
  return ErrorWithReason(absl::AbortedError(absl::StrCat("job ", record.job(), " (", record.kind(), ") runs", where, "; wait until it ends, or cancel it")),
                         "JOB_IN_THE_WAY", {{"job", record.job()}, {"kind", record.kind()}, {"store", record.store()}});
}

// Whether it makes a generation, or writes, of what a client sends.
bool IsUpload(std::string_view kind) { return kind == JobKindName(JobKind::kIngest) || kind == JobKindName(JobKind::kImport); }

// Of no store.
bool IsEncoderUpload(std::string_view kind) { return kind == JobKindName(JobKind::kImportEncoder) || kind == JobKindName(JobKind::kPublish); }

// Of how fast the machine does something.
bool IsMeasurement(std::string_view kind) { return kind == JobKindName(JobKind::kTune) || kind == JobKindName(JobKind::kQuantize); }

// Whether it makes a generation of what the store serves.
bool IsRebuild(std::string_view kind) { return kind == JobKindName(JobKind::kFold) || kind == JobKindName(JobKind::kReembed); }

absl::Status Draining() { return ErrorWithReason(absl::UnavailableError("the server is draining; ask again when it is back"), "DRAINING"); }

absl::Status JobNotFound(std::string_view job) {
  const std::string shown = absl::CHexEscape(AbslView(job.substr(0, kMaxShownBytes)));  // It comes from a client.
  return ErrorWithReason(absl::NotFoundError(absl::StrCat("no job \"", shown, "\"")), "JOB_NOT_FOUND", {{"job", shown}});
}

}  // namespace

std::string_view JobKindName(JobKind kind) {
  static constexpr std::string_view kNames[kJobKindCount] = {"ingest", "activate", "rollback", "verify", "import", "fold", "reembed", "import-encoder", "tune", "publish", "quantize"};
  return kNames[static_cast<int>(kind)];
}

// Guarded by the registry's mutex, but for what is constant.
struct JobHandle::Entry {
  std::string id;  // Constant, as the limits.
  RequestLimits limits, own_limits;
  JobRecord record;
  std::function<void()> on_cancel;
  bool cancel_asked = false;
  bool server_ends = false;  // It was not asked to end before the server was.
  bool activating = false;  // An activation, a roll-back, or an ingest or a fold that wants to activate.
  bool watching = false;    // What it activated, and does nothing else.
  bool yields = false, refreshes = false;  // Constant.
  std::string superseded_by;  // The job that it was asked to end for.
  int64_t version = 1;
  std::deque<std::pair<int64_t, int64_t>> samples;  // (clock, done) of the phase, oldest first.
};

struct JobRegistry::State {
  using Entry = JobHandle::Entry;

  Options options;
  std::array<Gauge*, kJobKindCount> running_gauges{};
  std::array<std::array<Counter*, kStateCount>, kJobKindCount> counters{};
  std::atomic<bool> draining{false};

  mutable Mutex mutex;
  mutable CondVar ended;  // A job has, or its activation.
  bool closed ABSL_GUARDED_BY(mutex) = false;
  std::map<std::string, std::shared_ptr<Entry>, std::less<>> entries ABSL_GUARDED_BY(mutex);
  std::deque<std::shared_ptr<Entry>> order ABSL_GUARDED_BY(mutex);  // As they started.
  std::array<int64_t, kJobKindCount> running ABSL_GUARDED_BY(mutex){};

  std::string PathOf(std::string_view job) const { return JoinPath(options.directory, job); }

  absl::Status Write(JobRecord record) const {
    record.set_format_version(kFormatVersion);
    return WriteFileAtomically(*options.fs, PathOf(record.job()), Sealed(record.SerializeAsString()));
  }

  static int KindIndex(const JobRecord& record) {
    for (int i = 0; i < kJobKindCount; ++i) {
      if (JobKindName(static_cast<JobKind>(i)) == record.kind()) return i;
    }
    return 0;
  }

  void AddRunning(int kind, int64_t delta) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    running[kind] += delta;
    running_gauges[kind]->Set(static_cast<double>(running[kind]));
  }

  void Forget(const Entry& entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    order.erase(std::find_if(order.begin(), order.end(), [&](const auto& other) { return other.get() == &entry; }));
    entries.erase(entry.id);
  }

  // One that runs in `store` (empty: in any) and for which `is_in_the_way`, or null.
  const Entry* FindRunning(std::string_view store, const std::function<bool(const Entry&)>& is_in_the_way) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    for (const auto& entry : order) {
      const bool is_there = entry->record.state() == JobRecord::STATE_RUNNING && (store.empty() || entry->record.store() == store);
      if (is_there && is_in_the_way(*entry)) return entry.get();
    }
    return nullptr;
  }

  // What keeps a job of `spec` from starting; null: nothing.
  const Entry* FindInTheWay(const JobSpec& spec) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    // What measures how fast the machine is would measure another's load: there is one at a time, of whatever store.
    const std::string_view among = IsMeasurement(JobKindName(spec.kind)) ? std::string_view() : std::string_view(spec.store);
    return FindRunning(among, [&](const Entry& running) { return Conflicts(spec, running) && !GivesWay(spec, running); });
  }

  static bool Activates(const JobSpec& spec) { return spec.kind == JobKind::kActivate || spec.kind == JobKind::kRollback; }

  static bool Conflicts(const JobSpec& spec, const Entry& running) {
    const std::string_view kind = JobKindName(spec.kind), other = running.record.kind();
    if (Activates(spec) && running.activating) return true;
    if (IsMeasurement(kind)) return IsMeasurement(other);
    if (IsEncoderUpload(kind)) return IsEncoderUpload(other);
    if (IsRebuild(kind)) return IsRebuild(other) || running.activating || IsUpload(other);
    return IsUpload(kind) && (IsRebuild(other) || IsUpload(other));
  }

  static bool GivesWay(const JobSpec& spec, const Entry& running) { return (running.yields && !spec.yields) || (running.refreshes && spec.refreshes); }

  // Marks those that run in `store`, are `asked` to end and were not before; AskToEnd, without the lock, is the caller's.
  void TakeOut(std::string_view store, const std::function<bool(const Entry&)>& asked, std::vector<std::shared_ptr<Entry>>* taken,
               std::vector<std::function<void()>>* callbacks) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    for (const auto& entry : order) {
      if (entry->record.state() != JobRecord::STATE_RUNNING || (!store.empty() && entry->record.store() != store) || !asked(*entry)) continue;
      if (std::exchange(entry->cancel_asked, true)) continue;
      taken->push_back(entry);
      callbacks->push_back(std::exchange(entry->on_cancel, nullptr));
    }
  }

  // Takes the oldest that ended and are too many out; their files are the caller's to delete, without the lock.
  std::vector<std::string> Trim() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    int64_t excess = -options.history_limit;
    for (const auto& entry : order) excess += entry->record.state() != JobRecord::STATE_RUNNING;
    std::vector<std::string> trimmed;
    for (size_t i = 0; i < order.size() && excess > 0;) {
      if (order[i]->record.state() == JobRecord::STATE_RUNNING) {
        ++i;
        continue;
      }
      trimmed.push_back(order[i]->id);
      entries.erase(order[i]->id);
      order.erase(order.begin() + static_cast<int64_t>(i));
      --excess;
    }
    return trimmed;
  }

  void DeleteFiles(const std::vector<std::string>& jobs) const {
    for (const std::string& job : jobs) {
      if (absl::Status status = options.fs->DeleteFile(PathOf(job)); !status.ok()) {
        LogWarning("jobs", absl::StrCat("job ", job, " stays in the history: ", status.message()));
      }
    }
  }

  JobInfo Snapshot(const Entry& entry) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    JobInfo info{.record = entry.record, .version = entry.version};
    if (entry.record.state() != JobRecord::STATE_RUNNING) return info;
    info.ending = entry.cancel_asked && !entry.server_ends;
    if (entry.samples.empty()) return info;
    const int64_t elapsed_us = options.clock->NowMicros() - entry.samples.front().first;
    const int64_t moved = entry.record.done() - entry.samples.front().second;
    if (elapsed_us > 0 && moved > 0) info.rate = static_cast<double>(moved) * 1e6 / static_cast<double>(elapsed_us);
    const int64_t left = entry.record.total() - entry.record.done();
    if (info.rate > 0 && entry.record.total() > 0 && left >= 0) info.eta_ms = static_cast<int64_t>(static_cast<double>(left) * 1e3 / info.rate);
    return info;
  }

  void Load();
  absl::Status End(Entry& entry, const absl::Status& status, std::string_view result);
  static void AskToEnd(const std::vector<std::shared_ptr<Entry>>& asked, const std::vector<std::function<void()>>& callbacks);
};

void JobRegistry::State::Load() {
  MutexLock lock(&mutex);
  const absl::StatusOr<std::vector<std::string>> names = options.fs->List(options.directory);
  if (!names.ok()) {
    LogWarning("jobs", absl::StrCat("the history can't be read: ", names.status().message()));
    return;
  }
  for (const std::string& name : *names) {
    const std::string path = PathOf(name);
    if (name.ends_with(kTemporarySuffix)) {
      (void)options.fs->DeleteFile(path);  // Of a write that did not come to its end.
      continue;
    }
    const absl::StatusOr<std::string> content = options.fs->ReadFile(path);
    absl::StatusOr<JobRecord> record = content.ok() ? ParseRecord(*content) : absl::StatusOr<JobRecord>(content.status());
    if (record.ok() && record->job() != name) record = absl::DataLossError("it names another job");
    if (!record.ok()) {
      LogWarning("jobs", absl::StrCat(path, " is left out of the history: ", record.status().message()));
      continue;
    }
    auto entry = std::make_shared<Entry>();
    entry->id = name;
    entry->record = *std::move(record);
    if (entry->record.state() == JobRecord::STATE_RUNNING) {
      entry->record.set_state(JobRecord::STATE_INTERRUPTED);
      entry->record.set_finished_unix_us(options.clock->UnixMicros());
      entry->record.set_error_code(static_cast<int>(absl::StatusCode::kUnavailable));
      entry->record.set_error_message(kInterruptedMessage);
      if (absl::Status status = Write(entry->record); !status.ok()) LogWarning("jobs", StdView(status.message()));
      counters[KindIndex(entry->record)][JobRecord::STATE_INTERRUPTED]->Add(1);
      LogWarning("jobs", absl::StrCat("job ", name, " (", entry->record.kind(), ") was interrupted"));
    }
    entries.emplace(name, entry);
    order.push_back(std::move(entry));
  }
  std::stable_sort(order.begin(), order.end(),
                   [](const auto& a, const auto& b) { return a->record.started_unix_us() < b->record.started_unix_us(); });
  DeleteFiles(Trim());
}

absl::Status JobRegistry::State::End(Entry& entry, const absl::Status& status, std::string_view result) {
  JobRecord record;
  absl::Status outcome = status;
  bool interrupted = false;
  {
    MutexLock lock(&mutex);
    record = entry.record;
    interrupted = entry.server_ends && absl::IsCancelled(status);
    if (interrupted) {
      outcome = ErrorWithReason(absl::UnavailableError(kInterruptedMessage), "DRAINING", {{"job", entry.id}});
    } else if (!entry.superseded_by.empty() && absl::IsCancelled(status)) {
      outcome = ErrorWithReason(absl::CancelledError(absl::StrCat("job ", entry.id, " was superseded by job ", entry.superseded_by)), "JOB_SUPERSEDED",
                                {{"job", entry.id}, {"superseded_by", entry.superseded_by}});
    } else if (entry.cancel_asked && absl::IsCancelled(status)) {
      outcome = ErrorWithReason(absl::CancelledError(absl::StrCat("job ", entry.id, " was cancelled")), "JOB_CANCELLED", {{"job", entry.id}});
    }
  }
  record.set_finished_unix_us(options.clock->UnixMicros());
  if (outcome.ok()) {
    record.set_state(JobRecord::STATE_SUCCEEDED);
    record.set_result(std::string(result));
  } else {
    record.set_state(interrupted ? JobRecord::STATE_INTERRUPTED
                     : absl::IsCancelled(outcome) ? JobRecord::STATE_CANCELLED
                                                  : JobRecord::STATE_FAILED);
    record.set_error_code(static_cast<int>(outcome.code()));
    record.set_error_message(std::string(StdView(outcome.message())));
  }
  // What was done is done, also where the disk does not take its record: after a restart the job is one that was interrupted.
  if (absl::Status written = Write(record); !written.ok()) {
    LogWarning("jobs", absl::StrCat("the end of job ", entry.id, " is not on disk: ", written.message()));
  }
  LogInfo("jobs", absl::StrCat("job=", entry.id, " kind=", record.kind(), " store=", record.store(), " ",
                               AbslView(kStateNames[record.state()]), outcome.ok() ? "" : ": ", outcome.message()));
  std::vector<std::string> trimmed;
  {
    MutexLock lock(&mutex);
    const int kind = KindIndex(record);
    counters[kind][record.state()]->Add(1);
    entry.record = std::move(record);
    entry.on_cancel = nullptr;
    entry.samples.clear();
    ++entry.version;
    AddRunning(kind, -1);
    trimmed = Trim();
    ended.NotifyAll();  // Under the lock: whoever waits may destroy the registry.
  }
  DeleteFiles(trimmed);
  return outcome;
}

void JobRegistry::State::AskToEnd(const std::vector<std::shared_ptr<Entry>>& asked, const std::vector<std::function<void()>>& callbacks) {
  for (const auto& entry : asked) {
    entry->limits.Cancel();
    entry->own_limits.Cancel();
  }
  for (const auto& callback : callbacks) {
    if (callback) callback();
  }
}

JobRegistry::JobRegistry(std::unique_ptr<State> state) : state_(std::move(state)) {}
JobRegistry::~JobRegistry() = default;

absl::StatusOr<std::unique_ptr<JobRegistry>> JobRegistry::Open(Options options) {
  LOCI_RETURN_IF_ERROR(CreateDirectoriesSynced(*options.fs, options.directory));
  auto state = std::make_unique<State>();
  for (int kind = 0; kind < kJobKindCount; ++kind) {
    const std::string name(JobKindName(static_cast<JobKind>(kind)));
    state->running_gauges[kind] = &options.metrics->gauge("loci_jobs_running", "Long operations under way, by kind.", {{"kind", name}});
    state->running_gauges[kind]->Set(0);
    for (int i = JobRecord::STATE_SUCCEEDED; i < kStateCount; ++i) {
      state->counters[kind][i] = &options.metrics->counter("loci_jobs_total", "Long operations that ended, by kind and outcome.",
                                                           {{"kind", name}, {"state", std::string(kStateNames[i])}});
    }
  }
  state->options = std::move(options);
  state->Load();
  return std::unique_ptr<JobRegistry>(new JobRegistry(std::move(state)));
}

absl::StatusOr<std::shared_ptr<JobHandle>> JobRegistry::Start(JobSpec spec) {
  State& state = *state_;
  auto entry = std::make_shared<JobHandle::Entry>();
  entry->limits = spec.limits;
  entry->on_cancel = std::move(spec.on_cancel);
  JobRecord& record = entry->record;
  record.set_kind(std::string(JobKindName(spec.kind)));
  record.set_store(spec.store);
  record.set_generation(std::move(spec.generation));
  record.set_unit("passages");
  record.set_request_id(std::move(spec.request_id));
  record.set_state(JobRecord::STATE_RUNNING);
  record.set_started_unix_us(state.options.clock->UnixMicros());
  entry->activating = State::Activates(spec);
  entry->yields = spec.yields;
  entry->refreshes = spec.refreshes;
  const int kind = static_cast<int>(spec.kind);
  JobRecord first;
  std::vector<std::shared_ptr<JobHandle::Entry>> giving_way;
  std::shared_ptr<JobHandle::Entry> interrupted;  // That goes on.
  {
    MutexLock lock(&state.mutex);
    if (state.closed) return Draining();
    if (const JobHandle::Entry* const other = state.FindInTheWay(spec); other != nullptr) return InTheWay(other->record);
    for (const auto& running : state.order) {
      const bool is_there = running->record.state() == JobRecord::STATE_RUNNING && (spec.store.empty() || running->record.store() == spec.store);
      if (is_there && State::GivesWay(spec, *running) && (State::Conflicts(spec, *running) || entry->activating)) giving_way.push_back(running);
    }
    const auto earlier = spec.job.empty() ? state.entries.end() : state.entries.find(spec.job);
    if (earlier != state.entries.end() && earlier->second->record.state() == JobRecord::STATE_INTERRUPTED &&
        earlier->second->record.kind() == record.kind() && earlier->second->record.store() == record.store()) {
      interrupted = earlier->second;
      state.Forget(*interrupted);
      entry->id = interrupted->id;
      entry->version = interrupted->version + 1;
      record.set_started_unix_us(interrupted->record.started_unix_us());
      record.set_request_id(interrupted->record.request_id());
    }
    while (entry->id.empty() || state.entries.contains(entry->id)) entry->id = MakeTimestampId(record.started_unix_us());
    record.set_job(entry->id);
    state.entries.emplace(entry->id, entry);
    state.order.push_back(entry);
    state.AddRunning(kind, 1);
    if (entry->refreshes && state.draining) {  // Drain, which asks those that run, has been here.
      entry->cancel_asked = entry->server_ends = true;
      entry->limits.Cancel();
      entry->own_limits.Cancel();
    }
    first = record;
  }
  const std::shared_ptr<JobHandle> job(new JobHandle(this, entry));
  absl::Status begun = state.Write(first);
  if (!begun.ok()) {
    begun = Annotate(begun, "the job can't be recorded");
    if (spec.kind == JobKind::kVerify) LogWarning("jobs", absl::StrCat("job=", entry->id, " ", std::exchange(begun, absl::OkStatus()).message()));
  }
  if (begun.ok() && spec.begin) begun = spec.begin(job);
  if (!begun.ok()) {
    job->finished_ = true;
    // The file may be there, and not known to be durable: a restart would find a job that was interrupted. So it should, where one was.
    const absl::Status deleted = interrupted != nullptr ? absl::OkStatus() : state.options.fs->DeleteFile(state.PathOf(entry->id));
    if (!deleted.ok() && !absl::IsNotFound(deleted)) {
      LogWarning("jobs", absl::StrCat("job ", entry->id, ", which did not start, stays in the history: ", deleted.message()));
    }
    MutexLock lock(&state.mutex);
    entry->record.set_state(JobRecord::STATE_FAILED);  // For who has the handle still.
    state.Forget(*entry);
    if (interrupted != nullptr) {
      state.order.push_back(interrupted);
      state.entries.emplace(interrupted->id, std::move(interrupted));
    }
    state.AddRunning(kind, -1);
    state.ended.NotifyAll();
    return begun;
  }
  std::vector<std::shared_ptr<JobHandle::Entry>> yielding;
  std::vector<std::function<void()>> callbacks;
  {
    MutexLock lock(&state.mutex);
    const auto gives_way = [&](const JobHandle::Entry& running) {
      return std::any_of(giving_way.begin(), giving_way.end(), [&](const auto& other) { return other.get() == &running; });
    };
    state.TakeOut(first.store(), gives_way, &yielding, &callbacks);
    for (const auto& other : yielding) {
      if (other->refreshes && entry->refreshes) other->superseded_by = entry->id;
    }
  }
  State::AskToEnd(yielding, callbacks);
  LogInfo("jobs", absl::StrCat("job=", entry->id, " kind=", first.kind(), " store=", first.store(), interrupted != nullptr ? " goes on" : " started"));
  return job;
}

absl::Status JobRegistry::CheckStart(const JobSpec& spec) const {
  MutexLock lock(&state_->mutex);
  if (state_->closed) return Draining();
  const JobHandle::Entry* const other = state_->FindInTheWay(spec);
  return other == nullptr ? absl::OkStatus() : InTheWay(other->record);
}

absl::StatusOr<JobInfo> JobRegistry::Get(std::string_view job) const {
  MutexLock lock(&state_->mutex);
  const auto found = state_->entries.find(job);
  if (found == state_->entries.end()) return JobNotFound(job);
  return state_->Snapshot(*found->second);
}

std::vector<JobInfo> JobRegistry::List(std::string_view store, JobRecord::State state, int64_t limit) const {
  std::vector<JobInfo> jobs;
  MutexLock lock(&state_->mutex);
  for (auto entry = state_->order.rbegin(); entry != state_->order.rend() && static_cast<int64_t>(jobs.size()) < limit; ++entry) {
    const JobRecord& record = (*entry)->record;
    if (!store.empty() && record.store() != store) continue;
    if (state != JobRecord::STATE_UNSPECIFIED && record.state() != state) continue;
    jobs.push_back(state_->Snapshot(**entry));
  }
  return jobs;
}

absl::StatusOr<JobInfo> JobRegistry::Cancel(std::string_view job) {
  std::shared_ptr<JobHandle::Entry> entry;
  std::function<void()> callback;
  JobInfo info;
  {
    MutexLock lock(&state_->mutex);
    const auto found = state_->entries.find(job);
    if (found == state_->entries.end()) return JobNotFound(job);
    entry = found->second;
    if (entry->record.state() != JobRecord::STATE_RUNNING) {
      return ErrorWithReason(absl::FailedPreconditionError(absl::StrCat("job ", entry->id, " has ended (",
                                                                        AbslView(kStateNames[entry->record.state()]), ")")),
                             "JOB_FINISHED", {{"job", entry->id}});
    }
    entry->cancel_asked = true;
    callback = std::exchange(entry->on_cancel, nullptr);
    info = state_->Snapshot(*entry);
  }
  State::AskToEnd({entry}, {callback});
  return info;
}

void JobRegistry::EndYielding(std::string_view store, int64_t timeout_ms) {
  const auto yields = [](const JobHandle::Entry& entry) { return entry.yields; };
  std::vector<std::shared_ptr<JobHandle::Entry>> asked;
  std::vector<std::function<void()>> callbacks;
  {
    MutexLock lock(&state_->mutex);
    state_->TakeOut(store, yields, &asked, &callbacks);
  }
  State::AskToEnd(asked, callbacks);
  const int64_t until_us = RealClock().NowMicros() + timeout_ms * 1000;
  MutexLock lock(&state_->mutex);
  while (state_->FindRunning(store, yields) != nullptr) {
    const int64_t left_us = until_us - RealClock().NowMicros();
    if (left_us <= 0) return;
    state_->ended.WaitFor(&state_->mutex, std::chrono::microseconds(left_us));
  }
}

void JobRegistry::CancelAll() {
  std::vector<std::shared_ptr<JobHandle::Entry>> asked;
  std::vector<std::function<void()>> callbacks;
  {
    MutexLock lock(&state_->mutex);
    state_->closed = true;
    for (const auto& entry : state_->order) {
      if (entry->record.state() != JobRecord::STATE_RUNNING) continue;
      if (!std::exchange(entry->cancel_asked, true)) entry->server_ends = true;  // Drain may have asked before.
      asked.push_back(entry);
      callbacks.push_back(std::exchange(entry->on_cancel, nullptr));
    }
  }
  State::AskToEnd(asked, callbacks);
}

absl::Status JobRegistry::CheckNoJob(std::string_view store) const {
  MutexLock lock(&state_->mutex);
  const JobHandle::Entry* const running = state_->FindRunning(store, [](const JobHandle::Entry& entry) { return !entry.watching; });
  return running == nullptr ? absl::OkStatus() : InTheWay(running->record);
}

absl::Status JobRegistry::CheckNoActivation(std::string_view store) const {
  MutexLock lock(&state_->mutex);
  const JobHandle::Entry* const running = state_->FindRunning(store, [](const JobHandle::Entry& entry) { return entry.activating; });
  return running == nullptr ? absl::OkStatus() : InTheWay(running->record);
}

bool JobRegistry::WaitUntilIdle(int64_t timeout_ms) const {
  const int64_t until_us = RealClock().NowMicros() + timeout_ms * 1000;
  MutexLock lock(&state_->mutex);
  const auto is_running = [](const auto& entry) { return entry->record.state() == JobRecord::STATE_RUNNING; };
  while (std::any_of(state_->order.begin(), state_->order.end(), is_running)) {
    const int64_t left_us = until_us - RealClock().NowMicros();
    if (left_us <= 0) return false;
    state_->ended.WaitFor(&state_->mutex, std::chrono::microseconds(left_us));
  }
  return true;
}

void JobRegistry::Drain() {
  state_->draining = true;
  std::vector<std::shared_ptr<JobHandle::Entry>> refreshes;
  std::vector<std::function<void()>> callbacks;
  {
    MutexLock lock(&state_->mutex);
    for (const auto& entry : state_->order) {
      if (entry->watching) entry->own_limits.Cancel();
    }
    state_->TakeOut("", [](const JobHandle::Entry& entry) { return entry.refreshes; }, &refreshes, &callbacks);
    for (const auto& entry : refreshes) entry->server_ends = true;
  }
  State::AskToEnd(refreshes, callbacks);
}
bool JobRegistry::draining() const { return state_->draining; }

JobHandle::JobHandle(JobRegistry* registry, std::shared_ptr<Entry> entry) : registry_(registry), entry_(std::move(entry)) {}

JobHandle::~JobHandle() {
  if (finished_) return;
  const bool cancelled = entry_->limits.cancelled();
  (void)Finish(cancelled ? absl::CancelledError("the client cancelled the request") : absl::InternalError("the job was given up"));
}

const std::string& JobHandle::id() const { return entry_->id; }
const RequestLimits& JobHandle::limits() const { return entry_->limits; }
const RequestLimits& JobHandle::own_limits() const { return entry_->own_limits; }

void JobHandle::SetPhase(std::string_view phase, int64_t total, std::string_view unit) {
  JobRegistry::State& state = *registry_->state_;
  MutexLock lock(&state.mutex);
  if (entry_->record.state() != JobRecord::STATE_RUNNING) return;
  entry_->record.set_phase(std::string(phase));
  entry_->record.set_unit(std::string(unit));
  entry_->record.set_done(0);
  entry_->record.set_total(total);
  entry_->samples.assign(1, {state.options.clock->NowMicros(), 0});
  ++entry_->version;
}

void JobHandle::SetDone(int64_t done) {
  JobRegistry::State& state = *registry_->state_;
  const int64_t now_us = state.options.clock->NowMicros();
  MutexLock lock(&state.mutex);
  if (entry_->record.state() != JobRecord::STATE_RUNNING || entry_->record.done() == done) return;
  entry_->record.set_done(done);
  ++entry_->version;
  auto& samples = entry_->samples;
  if (samples.empty() || now_us - samples.back().first >= kSampleUs) samples.emplace_back(now_us, done);
  while (samples.size() > 2 && samples[1].first <= now_us - kRateWindowUs) samples.pop_front();
}

void JobHandle::SetGeneration(std::string_view generation) {
  MutexLock lock(&registry_->state_->mutex);
  if (entry_->record.state() != JobRecord::STATE_RUNNING) return;
  entry_->record.set_generation(std::string(generation));
  ++entry_->version;
}

absl::Status JobHandle::WaitForThoseThatGaveWay() {
  JobRegistry::State& state = *registry_->state_;
  MutexLock lock(&state.mutex);
  const std::string store = entry_->record.store();
  while (state.FindRunning(store, [this](const Entry& other) { return other.cancel_asked && IsRebuild(other.record.kind()) && &other != entry_.get(); }) !=
         nullptr) {
    LOCI_RETURN_IF_ERROR(entry_->limits.Check(state.options.clock->NowMicros()));
    state.ended.WaitFor(&state.mutex, kWaitPeriod);
  }
  return entry_->limits.Check(state.options.clock->NowMicros());
}

void JobHandle::EndActivation() {
  JobRegistry::State& state = *registry_->state_;
  MutexLock lock(&state.mutex);
  entry_->activating = false;
  state.ended.NotifyAll();
}

absl::Status JobHandle::BeginActivation() {
  JobRegistry::State& state = *registry_->state_;
  MutexLock lock(&state.mutex);
  const RequestLimits& limits = std::exchange(entry_->watching, false) ? entry_->own_limits : entry_->limits;
  entry_->activating = true;  // From now on none starts that would have to be waited for.
  const std::string store = entry_->record.store();
  while (state.FindRunning(store, [this](const Entry& other) { return other.activating && &other != entry_.get(); }) != nullptr) {
    LOCI_RETURN_IF_ERROR(limits.Check(state.options.clock->NowMicros()));
    state.ended.WaitFor(&state.mutex, kWaitPeriod);
  }
  return limits.Check(state.options.clock->NowMicros());
}

void JobHandle::BeginWatch() {
  JobRegistry::State& state = *registry_->state_;
  MutexLock lock(&state.mutex);
  entry_->activating = false;
  entry_->watching = true;
  if (state.draining) entry_->own_limits.Cancel();
  state.ended.NotifyAll();
}

absl::Status JobHandle::Finish(const absl::Status& status, std::string_view result) {
  if (finished_.exchange(true)) return status;
  return registry_->state_->End(*entry_, status, result);
}

}  // namespace loci
