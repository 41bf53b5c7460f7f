#include "retriever/encoder_refresh.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <optional>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/checksum.h"
#include "base/error.h"
#include "base/file.h"
#include "base/log_context.h"
#include "base/logging.h"
#include "base/mutex.h"
#include "base/status_macros.h"
#include "index/current_file.h"
#include "index/encoding_journal.h"
#include "proto/loci/storage/refresh.pb.h"
#include "proto/loci/storage/storage.pb.h"
#include "retriever/encoder_drift.h"
#include "retriever/job_progress.h"

namespace loci {
namespace {

using storage::JobRecord;
using storage::RefreshRecord;

constexpr char kRefreshFile[] = "REFRESH";
constexpr int kFormatVersion = 1;
constexpr int kMaxAttempts = 8;
constexpr std::chrono::milliseconds kSwitchingPause(50);

bool HasReason(const absl::Status& status, std::string_view reason) {
  const std::optional<ErrorReason> found = GetErrorReason(status);
  return found.has_value() && found->reason == reason;
}

// Of "QUERY:PASSAGE".
std::string PassageHalfOf(const std::string& fingerprint) { return fingerprint.substr(fingerprint.find(':') + 1); }

const std::string& PassageHalfOf(const ServingSet& set) { return set.view->generation().manifest().passage_fingerprint(); }

absl::StatusOr<RefreshRecord> ReadRecord(FileSystem& fs, const std::string& path) {
  LOCI_ASSIGN_OR_RETURN(const std::string content, fs.ReadFile(path));
  LOCI_ASSIGN_OR_RETURN(const std::string_view body, Unsealed(content));
  RefreshRecord record;
  if (!record.ParseFromArray(body.data(), static_cast<int>(body.size()))) return absl::DataLossError("it can't be parsed");
  if (record.format_version() != kFormatVersion) {
    return absl::FailedPreconditionError(absl::StrCat("it has format ", record.format_version(), ", this server reads ", kFormatVersion));
  }
  return record;
}

std::string PathOf(const GenerationManager& manager, const std::string& store) { return JoinPath(manager.StoreDirectory(store), kRefreshFile); }

// Whether it is active, or was, as far as is known.
bool HasServed(GenerationManager& manager, const std::string& store, const std::string& generation) {
  const absl::StatusOr<std::string> content = manager.fs().ReadFile(JoinPath(manager.StoreDirectory(store), kCurrentFile));
  if (!content.ok()) return true;
  const absl::StatusOr<storage::Current> current = ParseCurrent(*content);
  if (!current.ok() || current->generation() == generation) return true;
  const auto has = [&](const auto& ids) { return std::find(ids.begin(), ids.end(), generation) != ids.end(); };
  return has(current->history()) || has(current->folded());
}

// What was built in vain: but that an operator has made it serve, or has pinned it.
void DeleteUnused(GenerationManager& manager, const std::string& store, const std::string& generation) {
  if (HasServed(manager, store, generation)) return;
  const absl::Status deleted = manager.DeleteGeneration(store, generation);
  if (deleted.ok() || absl::IsNotFound(deleted) || HasReason(deleted, "GENERATION_ACTIVE") || HasReason(deleted, "GENERATION_PINNED")) return;
  LogWarning("refresh", absl::StrCat("store=", store, " the unused generation ", generation, " stays: ", deleted.message()));
}

// Of a store that is of the encoder's passage half already.
ReembedResult NothingToDo(const ServingSet& serving, const TextEncoder& encoder) {
  const View& view = *serving.view;
  const storage::Manifest& manifest = view.generation().manifest();
  return {.generation = view.generation().id(),
          .previous_generation = view.generation().id(),
          .encoder_fingerprint = encoder.spec().fingerprint.ToString(),
          .previous_encoder_fingerprint = absl::StrCat(manifest.query_fingerprint(), ":", manifest.passage_fingerprint()),
          .base_revision = manifest.base_revision(),
          .revision = view.revision(),
          .passage_count = view.passage_count()};
}

}  // namespace

// Shared with the jobs: they may end after the refresher.
struct EncoderRefresher::State : std::enable_shared_from_this<EncoderRefresher::State> {
  explicit State(Options given) : options(std::move(given)) {}

  const Options options;
  // Held while files are written and jobs are begun: of two publications one is the newer. Work waits for it for such moments alone.
  Mutex mutex;
  CondVar stopped;
  std::map<std::string, RefreshRecord> records ABSL_GUARDED_BY(mutex);  // By store.
  bool stopping ABSL_GUARDED_BY(mutex) = false;

  absl::Status WriteLocked(const std::string& store) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  void IsNewestLocked(const std::string& store, const std::string& encoder) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);  // It serves, and nothing is to do.
  // Of a record's job: kEnding runs, but was asked to end.
  enum class Progress { kOver, kEnding, kUnderWay };
  Progress ProgressOf(const RefreshRecord& record) const;
  // Begins `record`, under its job's id where that was interrupted. A null encoder is looked for by its fingerprint, and was set; else `serving` becomes
  // what is served with it.
  absl::StatusOr<std::string> BeginLocked(const std::string& store, RefreshRecord record, std::shared_ptr<TextEncoder> encoder,
                                          const std::string& request_id, std::shared_ptr<const ServingSet>* serving)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  void GoOn(std::map<std::string, std::string> interrupted);  // Jobs by store.

  // --- Of a job's thread ---
  void Run(const std::string& store, const std::shared_ptr<JobHandle>& job, const RefreshRecord& record, std::shared_ptr<TextEncoder> encoder);
  absl::StatusOr<ReembedResult> Refresh(const std::string& store, const std::shared_ptr<JobHandle>& job, const RefreshRecord& record,
                                        std::shared_ptr<TextEncoder> encoder);
  // Of what is captured. `encoded_count` grows by the passages that were encoded.
  absl::StatusOr<ReembedResult> RefreshOnce(const ServingSet& serving, const std::shared_ptr<JobHandle>& job, const ReembedOptions& reembed,
                                            const RefreshRecord& record, int64_t* encoded_count);
  void Built(const std::string& store, const std::string& job, const std::string& generation);
  void Measured(const std::string& store, const std::string& job, const std::string& served_half, const EncoderDrift& drift);
  void Ended(const std::string& store, const std::string& job);  // It does not go on after a restart.
};

absl::Status EncoderRefresher::State::WriteLocked(const std::string& store) {
  return WriteFileAtomically(options.manager->fs(), PathOf(*options.manager, store), Sealed(records[store].SerializeAsString()));
}

EncoderRefresher::State::Progress EncoderRefresher::State::ProgressOf(const RefreshRecord& record) const {
  if (!record.pending()) return Progress::kOver;
  const absl::StatusOr<JobInfo> info = options.jobs->Get(record.job());
  if (!info.ok() || info->record.state() == JobRecord::STATE_INTERRUPTED) return Progress::kUnderWay;  // Nobody remembers that it has ended.
  if (info->record.state() != JobRecord::STATE_RUNNING) return Progress::kOver;
  return info->ending ? Progress::kEnding : Progress::kUnderWay;
}

void EncoderRefresher::State::IsNewestLocked(const std::string& store, const std::string& encoder) {
  const auto record = records.find(store);
  if (record == records.end() || record->second.encoder_fingerprint() == encoder) return;
  record->second.set_encoder_fingerprint(encoder);
  record->second.set_pending(false);
  if (const absl::Status written = WriteLocked(store); !written.ok()) {
    LogWarning("refresh", absl::StrCat("store=", store, " the newest encoder is not on disk: ", written.message()));
  }
  options.drifts->Publish(store, PassageHalfOf(encoder));
}

absl::StatusOr<std::string> EncoderRefresher::State::BeginLocked(const std::string& store, RefreshRecord record, std::shared_ptr<TextEncoder> encoder,
                                                                 const std::string& request_id, std::shared_ptr<const ServingSet>* serving) {
  const auto earlier = records.find(store);
  const std::optional<RefreshRecord> before = earlier == records.end() ? std::nullopt : std::optional(earlier->second);
  record.set_format_version(kFormatVersion);
  record.set_pending(true);
  if (before.has_value()) *record.mutable_figures() = before->figures();
  if (before.has_value() && before->pending() && !before->built().empty()) {
    const absl::StatusOr<JobInfo> info = options.jobs->Get(before->job());
    // One that runs clears up behind itself; what one that ended well has built is somebody's.
    if (!info.ok() || info->record.state() == JobRecord::STATE_INTERRUPTED) record.set_built(before->built());
  }
  // What may fail, while nothing was asked to end for it. The mutex is held, and the job's thread waits for it.
  const auto begin = [&](const std::shared_ptr<JobHandle>& job) ABSL_NO_THREAD_SAFETY_ANALYSIS -> absl::Status {
    job->SetPhase("queued", 0, "");
    record.set_job(job->id());
    // Before the record: after a kill, what goes on must find it.
    if (serving != nullptr) {
      LOCI_ASSIGN_OR_RETURN(*serving, options.manager->SetEncoder(store, encoder));
    }
    records[store] = record;
    absl::Status begun = WriteLocked(store);
    const auto run = [self = shared_from_this(), store, job, record, encoder, request_id, trace_id = CurrentTraceId()]() mutable {
      const ScopedLogContext context(request_id, trace_id);
      { MutexLock has_begun(&self->mutex); }
      self->Run(store, job, record, std::move(encoder));
    };
    if (begun.ok() && !options.pool->TrySubmit(run)) {
      begun = ErrorWithReason(absl::ResourceExhaustedError("the queue of such jobs is full"), "OVERLOADED");
    }
    if (begun.ok()) return begun;
    if (before.has_value()) {
      records[store] = *before;
      (void)WriteLocked(store);
    } else {
      records.erase(store);
      (void)options.manager->fs().DeleteFile(PathOf(*options.manager, store));
    }
    return Annotate(begun, absl::StrCat("the refresh of store \"", store, "\" can't begin"));
  };
  LOCI_ASSIGN_OR_RETURN(
      const std::shared_ptr<JobHandle> job,
      options.jobs->Start(
          {.kind = JobKind::kReembed, .store = store, .request_id = request_id, .refreshes = true, .job = record.job(), .begin = begin}));
  options.drifts->Publish(store, PassageHalfOf(record.encoder_fingerprint()));
  return job->id();
}

void EncoderRefresher::State::GoOn(std::map<std::string, std::string> interrupted) {
  while (!interrupted.empty()) {
    for (auto next = interrupted.begin(); next != interrupted.end();) {
      MutexLock lock(&mutex);
      if (stopping) return;
      const auto record = records.find(next->first);
      absl::Status begun;
      const bool is_newest = record != records.end() && record->second.pending() && record->second.job() == next->second;
      if (is_newest) begun = BeginLocked(next->first, record->second, nullptr, "", nullptr).status();
      // Something is in its way, the disk is full, the queue is, or the server ends.
      if (absl::IsAborted(begun) || absl::IsResourceExhausted(begun) || absl::IsUnavailable(begun)) {
        ++next;
        continue;
      }
      if (!begun.ok()) {
        LogWarning("refresh", absl::StrCat("store=", next->first, " is not taken up: ", begun.message()));
        const auto left = records.find(next->first);
        if (left != records.end()) left->second.set_pending(false);  // Until a restart, which tries again.
      }
      next = interrupted.erase(next);
    }
    MutexLock lock(&mutex);
    if (!stopping && !interrupted.empty()) stopped.WaitFor(&mutex, std::chrono::milliseconds(options.poll_ms));
  }
}

void EncoderRefresher::State::Run(const std::string& store, const std::shared_ptr<JobHandle>& job, const RefreshRecord& record,
                                  std::shared_ptr<TextEncoder> encoder) {
  const absl::StatusOr<ReembedResult> result = Refresh(store, job, record, std::move(encoder));
  const std::string id = job->id();
  const std::string kept = result.ok() && options.encode_result ? options.encode_result(*result, id) : "";
  if (!HasReason(job->Finish(result.status(), kept), "DRAINING")) Ended(store, id);
}

absl::StatusOr<ReembedResult> EncoderRefresher::State::Refresh(const std::string& store, const std::shared_ptr<JobHandle>& job,
                                                               const RefreshRecord& record, std::shared_ptr<TextEncoder> encoder) {
  GenerationManager& manager = *options.manager;
  LOCI_RETURN_IF_ERROR(job->WaitForThoseThatGaveWay());
  if (encoder == nullptr) {
    LOCI_ASSIGN_OR_RETURN(encoder, manager.encoders().Get(record.encoder_fingerprint()));
  }
  LOCI_ASSIGN_OR_RETURN(encoder, manager.ForStore(store, std::move(encoder)));
  const ReembedOptions reembed{.store = store,
                               .encoder = encoder,
                               .index = record.index(),
                               .activate = !record.no_activate(),
                               .max_encoder_share = record.max_encoder_share()};
  if (!record.built().empty()) DeleteUnused(manager, store, record.built());  // All its vectors are in the journal.
  int64_t encoded_count = 0;
  const auto once = [&]() -> absl::StatusOr<ReembedResult> {
    LOCI_ASSIGN_OR_RETURN(const std::shared_ptr<const ServingSet> serving, manager.TryCapture(store, ""));
    if (PassageHalfOf(*serving) == encoder->spec().fingerprint.passage) {
      // What a kill after the switch left, or one that this supersedes. No ingest runs beside the job.
      const absl::Status deleted = manager.fs().DeleteRecursively(JoinPath(manager.StoreDirectory(store), EncodingJournal::kDirectory));
      if (!deleted.ok()) LogWarning("refresh", absl::StrCat("store=", store, " what was encoded stays: ", deleted.message()));
      return NothingToDo(*serving, *encoder);
    }
    return RefreshOnce(*serving, job, reembed, record, &encoded_count);
  };
  for (int attempt = 1;;) {
    absl::StatusOr<ReembedResult> result = once();
    if (result.ok()) {
      result->encoded_count = std::min(encoded_count + result->encoded_count, result->passage_count);
      result->reused_count = result->passage_count - result->encoded_count;
    }
    const bool switching = HasReason(result.status(), "SWITCHING");  // In place; then something else serves.
    if (!switching && (!HasReason(result.status(), "GENERATION_CHANGED") || attempt++ == kMaxAttempts)) return result;
    LOCI_RETURN_IF_ERROR(job->limits().Check(options.clock->NowMicros()));
    job->EndActivation();
    if (switching) {
      std::this_thread::sleep_for(kSwitchingPause);
    } else {
      LogInfo("refresh", absl::StrCat("store=", store, " job=", job->id(), " begins again: ", result.status().message()));
    }
  }
}

absl::StatusOr<ReembedResult> EncoderRefresher::State::RefreshOnce(const ServingSet& serving, const std::shared_ptr<JobHandle>& job,
                                                                   const ReembedOptions& reembed, const RefreshRecord& record, int64_t* encoded_count) {
  GenerationManager& manager = *options.manager;
  const View& view = *serving.view;
  const OperationControl control = ControlOf(job, kFoldSwitch);
  if (view.dim() == reembed.encoder->spec().dim) {  // Else there is no cosine.
    DriftFirstOptions first{.store = reembed.store,
                            .encoder = reembed.encoder,
                            .max_encoder_share = reembed.max_encoder_share,
                            .sample_count = record.drift_sample_count(),
                            .seed = record.seed()};
    first.measured = [&](const EncoderDrift& drift) { Measured(reembed.store, job->id(), PassageHalfOf(serving), drift); };
    first.check = [&]() -> absl::Status {
      if (options.before_passages) {
        options.before_passages(job->limits());
        LOCI_RETURN_IF_ERROR(job->limits().Check(options.clock->NowMicros()));
      }
      return reembed.activate ? CheckStillServes(manager, reembed.store, view.generation().id()) : absl::OkStatus();
    };
    LOCI_ASSIGN_OR_RETURN(const DriftFirstResult encoded, EncodeDriftFirst(manager, view, first, control));
    *encoded_count += encoded.encoded_count;
  }
  OperationControl rest = control;
  bool copies = true;  // Until its first phase is over.
  rest.progress = [&control, &copies](std::string_view phase, int64_t done, int64_t total) {
    copies = copies && phase == "encoding";
    control.progress(copies ? "copy" : phase, done, total);
  };
  std::string built;
  rest.chosen = [&](const std::string& generation) {
    built = generation;
    Built(reembed.store, job->id(), generation);
    control.chosen(generation);
  };
  absl::StatusOr<ReembedResult> result = Reembed(manager, reembed, rest);
  // Built in vain: what it begins again with has all its vectors in the journal.
  if (HasReason(result.status(), "GENERATION_CHANGED") && !built.empty()) DeleteUnused(manager, reembed.store, built);
  return result;
}

void EncoderRefresher::State::Built(const std::string& store, const std::string& job, const std::string& generation) {
  MutexLock lock(&mutex);
  const auto record = records.find(store);
  if (record == records.end() || record->second.job() != job) return;
  record->second.set_built(generation);
  if (const absl::Status written = WriteLocked(store); !written.ok()) {
    LogWarning("refresh", absl::StrCat("store=", store, " what was built is not on disk: ", written.message()));
  }
}

void EncoderRefresher::State::Measured(const std::string& store, const std::string& job, const std::string& served_half, const EncoderDrift& drift) {
  LogInfo("refresh", absl::StrCat("store=", store, " job=", job, " drift=", drift.drift, " passages=", drift.sample_count));
  MutexLock lock(&mutex);
  const auto record = records.find(store);
  if (record == records.end() || record->second.job() != job) return;  // A newer one, or a newer store.
  record->second.clear_figures();
  for (const auto& [half, figure] : options.drifts->FiguresWith(store, served_half, drift)) {
    RefreshRecord::Figure& added = *record->second.add_figures();
    added.set_passage_half(half);
    added.set_drift(figure.drift);
    added.set_sample_count(figure.sample_count);
  }
  if (const absl::Status written = WriteLocked(store); !written.ok()) {
    LogWarning("refresh", absl::StrCat("store=", store, " the drift is not on disk: ", written.message()));
  }
  options.drifts->Measured(store, served_half, drift);  // After the write: a restart then tells it too.
}

void EncoderRefresher::State::Ended(const std::string& store, const std::string& job) {
  MutexLock lock(&mutex);
  const auto record = records.find(store);
  if (record == records.end() || record->second.job() != job) return;
  record->second.set_pending(false);
  record->second.clear_built();
  // Where that can't be written the job's own record says that it has ended.
  if (const absl::Status written = WriteLocked(store); !written.ok()) LogWarning("refresh", absl::StrCat("store=", store, " ", written.message()));
}

EncoderRefresher::EncoderRefresher(Options options) : state_(std::make_shared<State>(std::move(options))) {}

EncoderRefresher::~EncoderRefresher() {
  {
    MutexLock lock(&state_->mutex);
    state_->stopping = true;
  }
  state_->stopped.NotifyAll();
  if (thread_.joinable()) thread_.join();
}

absl::StatusOr<RefreshStart> EncoderRefresher::Start(const std::string& store, std::shared_ptr<TextEncoder> encoder, const RefreshOptions& options) {
  GenerationManager& manager = *state_->options.manager;
  LOCI_RETURN_IF_ERROR(manager.TryCapture(store, "").status());
  // As the store computes, loaded without the mutex and held until that encoder is the store's: SetEncoder finds it.
  LOCI_ASSIGN_OR_RETURN(const std::shared_ptr<TextEncoder> computed, manager.ForStore(store, encoder));
  MutexLock lock(&state_->mutex);
  const auto found = state_->records.find(store);
  const State::Progress progress = found == state_->records.end() ? State::Progress::kOver : state_->ProgressOf(found->second);
  RefreshStart start;
  const bool is_same = found != state_->records.end() && PassageHalfOf(found->second.encoder_fingerprint()) == encoder->spec().fingerprint.passage &&
                       found->second.no_activate() == !options.activate;
  if (progress == State::Progress::kUnderWay && is_same) {
    LOCI_ASSIGN_OR_RETURN(start.serving, manager.SetEncoder(store, encoder));
    start.job = found->second.job();
    return start;
  }
  // One that was asked to end may still have its last look before it.
  if (progress == State::Progress::kOver) {
    const absl::Status checked = CheckReembedding(manager, {.store = store, .encoder = computed});
    if (HasReason(checked, "SAME_ENCODER")) state_->IsNewestLocked(store, encoder->spec().fingerprint.ToString());
    LOCI_RETURN_IF_ERROR(checked);
  }
  RefreshRecord record;
  record.set_encoder_fingerprint(encoder->spec().fingerprint.ToString());
  record.set_index(options.index);
  record.set_max_encoder_share(options.max_encoder_share);
  record.set_drift_sample_count(options.drift_sample_count);
  record.set_seed(options.seed);
  record.set_no_activate(!options.activate);
  LOCI_ASSIGN_OR_RETURN(start.job, state_->BeginLocked(store, std::move(record), std::move(encoder), options.request_id, &start.serving));
  return start;
}

void EncoderRefresher::Resume() {
  State& state = *state_;
  GenerationManager& manager = *state.options.manager;
  std::map<std::string, std::string> interrupted;
  {
    MutexLock lock(&state.mutex);
    for (const StoreInfo& store : manager.ListStores()) {
      const std::string path = PathOf(manager, store.name);
      if (!manager.fs().Exists(path)) continue;
      absl::StatusOr<RefreshRecord> record = ReadRecord(manager.fs(), path);
      if (!record.ok()) {
        LogWarning("refresh", absl::StrCat(path, " is left out: ", record.status().message()));
        continue;
      }
      state.options.drifts->Publish(store.name, PassageHalfOf(record->encoder_fingerprint()));
      for (const RefreshRecord::Figure& figure : record->figures()) {
        state.options.drifts->Measured(store.name, figure.passage_half(), {figure.drift(), figure.sample_count()});
      }
      if (state.ProgressOf(*record) == State::Progress::kUnderWay) interrupted[store.name] = record->job();
      state.records[store.name] = *std::move(record);
    }
  }
  if (!interrupted.empty()) thread_ = std::thread([this, interrupted = std::move(interrupted)] { state_->GoOn(interrupted); });
}

void EncoderRefresher::Forget(const std::string& store) {
  MutexLock lock(&state_->mutex);
  state_->records.erase(store);
  state_->options.drifts->Forget(store);
}

}  // namespace loci
