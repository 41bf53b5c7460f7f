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
#include "proto/loci/storage/refresh.pb.h"
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
  // Whether a record's job runs, or goes on after a restart.
  bool IsUnderWay(const RefreshRecord& record) const;
  // Begins `record`, under its job's id where that was interrupted. A null encoder is looked for by its fingerprint.
  absl::StatusOr<std::string> BeginLocked(const std::string& store, RefreshRecord record, std::shared_ptr<TextEncoder> encoder,
                                          const std::string& request_id) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  void GoOn(std::map<std::string, std::string> interrupted);  // Jobs by store.

  // --- Of a job's thread ---
  void Run(const std::string& store, const std::shared_ptr<JobHandle>& job, const RefreshRecord& record, std::shared_ptr<TextEncoder> encoder);
  absl::StatusOr<ReembedResult> Refresh(const std::string& store, const std::shared_ptr<JobHandle>& job, const RefreshRecord& record,
                                        std::shared_ptr<TextEncoder> encoder);
  // Of what is captured. `encoded_count` grows by the passages that were encoded.
  absl::StatusOr<ReembedResult> RefreshOnce(const ServingSet& serving, const std::shared_ptr<JobHandle>& job, const ReembedOptions& reembed,
                                            const RefreshRecord& record, int64_t* encoded_count);
  void Measured(const std::string& store, const std::string& job, const std::string& served_half, const EncoderDrift& drift);
  void Ended(const std::string& store, const std::string& job);  // It does not go on after a restart.
};

absl::Status EncoderRefresher::State::WriteLocked(const std::string& store) {
  return WriteFileAtomically(options.manager->fs(), PathOf(*options.manager, store), Sealed(records[store].SerializeAsString()));
}

bool EncoderRefresher::State::IsUnderWay(const RefreshRecord& record) const {
  if (!record.pending()) return false;
  const absl::StatusOr<JobInfo> info = options.jobs->Get(record.job());
  if (!info.ok()) return true;  // Nobody remembers that it has ended.
  return info->record.state() == JobRecord::STATE_RUNNING || info->record.state() == JobRecord::STATE_INTERRUPTED;
}

absl::StatusOr<std::string> EncoderRefresher::State::BeginLocked(const std::string& store, RefreshRecord record, std::shared_ptr<TextEncoder> encoder,
                                                                 const std::string& request_id) {
  LOCI_ASSIGN_OR_RETURN(
      const std::shared_ptr<JobHandle> job,
      options.jobs->Start({.kind = JobKind::kReembed, .store = store, .request_id = request_id, .refreshes = true, .job = record.job()}));
  job->SetPhase("queued", 0, "");
  record.set_format_version(kFormatVersion);
  record.set_job(job->id());
  record.set_pending(true);
  const auto earlier = records.find(store);
  const std::optional<RefreshRecord> before = earlier == records.end() ? std::nullopt : std::optional(earlier->second);
  if (before.has_value()) *record.mutable_figures() = before->figures();
  records[store] = record;
  absl::Status begun = WriteLocked(store);
  const auto run = [self = shared_from_this(), store, job, record, encoder = std::move(encoder), request_id, trace_id = CurrentTraceId()]() mutable {
    const ScopedLogContext context(request_id, trace_id);
    self->Run(store, job, record, std::move(encoder));
  };
  if (begun.ok() && !options.pool->TrySubmit(run)) {
    begun = ErrorWithReason(absl::ResourceExhaustedError("the queue of such jobs is full"), "OVERLOADED");
  }
  if (!begun.ok()) {
    const std::string path = PathOf(*options.manager, store);
    if (before.has_value()) {
      records[store] = *before;
      (void)WriteLocked(store);
    } else {
      records.erase(store);
      (void)options.manager->fs().DeleteFile(path);
    }
    return job->Finish(Annotate(begun, absl::StrCat("the refresh of store \"", store, "\" can't begin")));
  }
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
      if (record != records.end() && record->second.job() == next->second) {  // Nothing newer was published.
        begun = BeginLocked(next->first, record->second, nullptr, "").status();
      }
      if (absl::IsAborted(begun)) {  // Something is in its way.
        ++next;
        continue;
      }
      if (!begun.ok()) LogWarning("refresh", absl::StrCat("store=", next->first, " is not taken up: ", begun.message()));
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
  const ReembedOptions reembed{.store = store,
                               .encoder = encoder,
                               .index = record.index(),
                               .activate = !record.no_activate(),
                               .max_encoder_share = record.max_encoder_share()};
  int64_t encoded_count = 0;
  const auto once = [&]() -> absl::StatusOr<ReembedResult> {
    LOCI_ASSIGN_OR_RETURN(const std::shared_ptr<const ServingSet> serving, manager.TryCapture(store, ""));
    if (PassageHalfOf(*serving) == encoder->spec().fingerprint.passage) return NothingToDo(*serving, *encoder);
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
    if (reembed.activate) first.check = [&] { return CheckStillServes(manager, reembed.store, view.generation().id()); };
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
    control.chosen(generation);
  };
  absl::StatusOr<ReembedResult> result = Reembed(manager, reembed, rest);
  if (HasReason(result.status(), "GENERATION_CHANGED") && !built.empty()) {
    // Built in vain: what it begins again with has all its vectors in the journal.
    if (const absl::Status deleted = manager.DeleteGeneration(reembed.store, built); !deleted.ok() && !absl::IsNotFound(deleted)) {
      LogWarning("refresh", absl::StrCat("store=", reembed.store, " the unused generation ", built, " stays: ", deleted.message()));
    }
  }
  return result;
}

void EncoderRefresher::State::Measured(const std::string& store, const std::string& job, const std::string& served_half, const EncoderDrift& drift) {
  LogInfo("refresh", absl::StrCat("store=", store, " job=", job, " drift=", drift.drift, " passages=", drift.sample_count));
  MutexLock lock(&mutex);
  const auto record = records.find(store);
  if (record == records.end() || record->second.job() != job) return;  // A newer one, or a newer store.
  options.drifts->Measured(store, served_half, drift);
  record->second.clear_figures();
  for (const auto& [half, figure] : options.drifts->Figures(store)) {
    RefreshRecord::Figure& added = *record->second.add_figures();
    added.set_passage_half(half);
    added.set_drift(figure.drift);
    added.set_sample_count(figure.sample_count);
  }
  if (const absl::Status written = WriteLocked(store); !written.ok()) {
    LogWarning("refresh", absl::StrCat("store=", store, " the drift is not on disk: ", written.message()));
  }
}

void EncoderRefresher::State::Ended(const std::string& store, const std::string& job) {
  MutexLock lock(&mutex);
  const auto record = records.find(store);
  if (record == records.end() || record->second.job() != job) return;
  record->second.set_pending(false);
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

absl::StatusOr<std::string> EncoderRefresher::Start(const std::string& store, std::shared_ptr<TextEncoder> encoder, const RefreshOptions& options) {
  GenerationManager& manager = *state_->options.manager;
  MutexLock lock(&state_->mutex);
  LOCI_RETURN_IF_ERROR(manager.TryCapture(store, "").status());
  const auto found = state_->records.find(store);
  const bool is_under_way = found != state_->records.end() && state_->IsUnderWay(found->second);
  if (is_under_way && PassageHalfOf(found->second.encoder_fingerprint()) == encoder->spec().fingerprint.passage) return found->second.job();
  if (!is_under_way) LOCI_RETURN_IF_ERROR(CheckReembedding(manager, {.store = store, .encoder = encoder}));
  RefreshRecord record;
  record.set_encoder_fingerprint(encoder->spec().fingerprint.ToString());
  record.set_index(options.index);
  record.set_max_encoder_share(options.max_encoder_share);
  record.set_drift_sample_count(options.drift_sample_count);
  record.set_seed(options.seed);
  record.set_no_activate(!options.activate);
  return state_->BeginLocked(store, std::move(record), std::move(encoder), options.request_id);
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
      if (state.IsUnderWay(*record)) interrupted[store.name] = record->job();
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
