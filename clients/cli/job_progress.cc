#include "clients/cli/job_progress.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "clients/cli/display.h"
#include "clients/cli/rpc_error.h"

namespace loci {
namespace {

constexpr std::chrono::milliseconds kLookAgain(200);

}  // namespace

std::string DescribeJobPhase(const v1::Job& job) {
  std::string text = job.phase().empty() ? "starting" : SanitizeLine(job.phase());
  const bool bytes = job.unit() == "bytes";
  const auto amount = [bytes](int64_t number) { return bytes ? FormatBytes(number) : FormatCount(number); };
  if (job.done() > 0 || job.total() > 0) {
    std::string unit = bytes ? "" : absl::StrCat(" ", SanitizeLine(job.unit()));
    if ((job.total() > 0 ? job.total() : job.done()) == 1) unit = unit == " queries" ? " query" : unit.substr(0, unit.rfind('s'));
    absl::StrAppend(&text, " ", amount(job.done()), job.total() > 0 ? absl::StrCat(" / ", amount(job.total())) : "", unit);
  }
  if (job.rate() >= 0.5) absl::StrAppend(&text, "   ", amount(std::llround(job.rate())), "/s");
  if (job.total() > 0) absl::StrAppend(&text, "   ", std::min<int64_t>(100, 100 * job.done() / job.total()), " %");
  if (job.total() > 0 && job.eta_ms() >= 0) {
    absl::StrAppend(&text, "   ETA ", FormatSeconds(static_cast<double>(job.eta_ms()) / 1e3));
  }
  return text;
}

std::string JobStateName(v1::JobState state) {
  const std::string name = v1::JobState_Name(state), prefix = "JOB_STATE_";
  return name.starts_with(prefix) ? name.substr(prefix.size()) : name;
}

TextTable JobTable() {
  return TextTable({{"JOB"},
                    {"KIND"},
                    {"STORE"},
                    {"GENERATION"},
                    {"STATE"},
                    {"PHASE"},
                    {"DONE", TextTable::kRight},
                    {"TOTAL", TextTable::kRight},
                    {"RATE", TextTable::kRight},
                    {"ETA", TextTable::kRight},
                    {"STARTED (UTC)"},
                    {"ERROR", TextTable::kLeft, 80}});
}

void AddJobRow(const v1::Job& job, TextTable* table) {
  const bool running = job.state() == v1::JOB_STATE_RUNNING;
  table->AddRow({job.job(), job.kind(), job.store(), job.generation().empty() ? "-" : job.generation(), JobStateName(job.state()),
                 job.phase().empty() ? "-" : job.phase(), FormatCount(job.done()), job.total() > 0 ? FormatCount(job.total()) : "-",
                 running && job.rate() > 0 ? absl::StrCat(FormatCount(static_cast<int64_t>(job.rate())), "/s") : "-",
                 running && job.total() > 0 && job.eta_ms() >= 0 ? FormatSeconds(static_cast<double>(job.eta_ms()) / 1e3) : "-",
                 FormatTimeUtc(job.started_unix_us()),
                 job.error_code() == 0 ? "" : absl::StrCat(GrpcCodeName(job.error_code()), ": ", job.error_message())});
}

bool FollowJob(CliContext& cli, const std::string& id, v1::Job* job, int* exit_code) {
  v1::WatchJobRequest request;
  request.set_job(id);
  grpc::ClientContext context;
  cli.SetDeadline(&context, CliContext::kNoTimeout);
  const std::unique_ptr<grpc::ClientReader<v1::Job>> reader = cli.admin().WatchJob(&context, request);
  {
    Progress progress(cli.err(), cli.environment().err_width, "", [] { return Progress::Numbers(); });
    progress.SetPhase("waiting for the server");
    v1::Job update;
    while (reader->Read(&update)) {
      *job = update;
      progress.SetPhase(absl::StrCat(SanitizeLine(job->kind()), ": ", DescribeJobPhase(*job)));
    }
  }
  grpc::Status status = reader->Finish();
  if (status.ok() && (job->state() == v1::JOB_STATE_RUNNING || job->job().empty())) {
    status = grpc::Status(grpc::StatusCode::UNAVAILABLE, "the server ended the watch before the job's end");
  }
  if (!status.ok()) *exit_code = cli.Fail(status);
  return status.ok();
}

bool AwaitJob(CliContext& cli, const std::string& id, v1::Job* job, int* exit_code) {
  if (!FollowJob(cli, id, job, exit_code)) {
    cli.err() << "the job may go on; see loci watch " << SanitizeLine(id) << " and loci cancel " << SanitizeLine(id) << '\n';
    return false;
  }
  if (job->state() == v1::JOB_STATE_SUCCEEDED) return true;
  *exit_code = FailedJob(cli, *job);
  return false;
}

int TellJob(CliContext& cli, const std::string& job) {
  cli.out() << "it goes on as a job; follow it with loci watch " << SanitizeLine(job) << '\n';
  return kExitOk;
}

int FailedJob(CliContext& cli, const v1::Job& job) {
  cli.err() << "error: job " << SanitizeLine(job.job()) << " ended as " << JobStateName(job.state());
  if (job.state() == v1::JOB_STATE_FAILED) cli.err() << ": " << GrpcCodeName(job.error_code());
  if (!job.error_message().empty()) cli.err() << ": " << SanitizeLine(job.error_message());
  cli.err() << '\n';
  return kExitFailed;
}

int PrintIngestSummary(CliContext& cli, const std::string& store, const v1::IngestResponse& response) {
  TextTable table({{"STORE"},
                   {"GENERATION"},
                   {"REVISION", TextTable::kRight},
                   {"ACCEPTED", TextTable::kRight},
                   {"PASSAGES", TextTable::kRight},
                   {"REUSED", TextTable::kRight},
                   {"DUPLICATES", TextTable::kRight},
                   {"REJECTED", TextTable::kRight},
                   {"DONE"},
                   {"JOB"}});
  table.AddRow({StoreName(store), response.generation(), absl::StrCat(response.revision()), FormatCount(response.accepted_count()),
                FormatCount(response.passage_count()), FormatCount(response.reused_count()), FormatCount(response.duplicate_count()),
                FormatCount(response.rejected_count()), response.done() ? "yes" : "no", response.job()});
  cli.PrintTable(table);
  return kExitOk;
}

IngestPhases::IngestPhases(CliContext& cli, const std::string& store, Progress& progress, std::function<void(int64_t)> on_written,
                           std::function<void()> on_ended)
    : progress_(progress),
      stub_(cli.admin()),
      on_written_(std::move(on_written)),
      on_ended_(std::move(on_ended)),
      all_sent_(on_written_ == nullptr),
      thread_([this, name = StoreName(store)] { Run(name); }) {}

IngestPhases::~IngestPhases() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    over_ = true;
    if (context_ != nullptr) context_->TryCancel();
  }
  changed_.notify_all();
  thread_.join();
}

void IngestPhases::AllSent(int64_t total) {
  const std::lock_guard<std::mutex> lock(mutex_);
  all_sent_ = true;
  total_ = total;
}

void IngestPhases::Show(v1::Job job) {
  if (on_ended_ != nullptr && job.state() != v1::JOB_STATE_UNSPECIFIED && job.state() != v1::JOB_STATE_RUNNING &&
      job.state() != v1::JOB_STATE_SUCCEEDED) {
    on_ended_();
  }
  const bool receives = job.phase() == "receiving";
  bool all_sent;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    all_sent = all_sent_;
    if (receives && all_sent && job.total() == 0) job.set_total(total_);
  }
  if (receives && on_written_ != nullptr) on_written_(job.done());
  if (!all_sent) return;
  if (receives && on_written_ != nullptr) {
    job.set_phase("encoding");
    const int64_t left = job.total() - job.done();
    if (job.rate() > 0 && left >= 0) job.set_eta_ms(static_cast<int64_t>(1e3 * static_cast<double>(left) / job.rate()));
  }
  progress_.SetPhase(DescribeJobPhase(job));
}

grpc::ClientContext* IngestPhases::NextContext() {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (over_) return nullptr;
  context_ = std::make_unique<grpc::ClientContext>();
  return context_.get();
}

void IngestPhases::Run(const std::string& store) {
  v1::ListJobsRequest list;
  list.set_store(store);
  list.set_state(v1::JOB_STATE_RUNNING);
  while (true) {
    v1::ListJobsResponse jobs;
    grpc::ClientContext* context = NextContext();
    if (context == nullptr || !stub_.ListJobs(context, list, &jobs).ok()) return;
    for (const v1::Job& running : jobs.jobs()) {
      if (running.kind() != "ingest" && running.kind() != "import") continue;
      v1::WatchJobRequest watch;
      watch.set_job(running.job());
      if ((context = NextContext()) == nullptr) return;
      const std::unique_ptr<grpc::ClientReader<v1::Job>> reader = stub_.WatchJob(context, watch);
      v1::Job job;
      while (reader->Read(&job)) Show(job);
      reader->Finish();
      return;
    }
    // The server has not come to the header yet.
    std::unique_lock<std::mutex> lock(mutex_);
    if (changed_.wait_for(lock, kLookAgain, [this] { return over_; })) return;
  }
}

}  // namespace loci
