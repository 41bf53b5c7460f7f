#include "clients/cli/job_progress.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "clients/cli/display.h"

namespace loci {

std::string DescribeJobPhase(const v1::Job& job) {
  std::string text = job.phase().empty() ? "starting" : SanitizeLine(job.phase());
  const bool bytes = job.unit() == "bytes";
  const auto amount = [bytes](int64_t number) { return bytes ? FormatBytes(number) : FormatCount(number); };
  if (job.done() > 0 || job.total() > 0) {
    absl::StrAppend(&text, " ", amount(job.done()), job.total() > 0 ? absl::StrCat(" / ", amount(job.total())) : "",
                    bytes ? "" : absl::StrCat(" ", SanitizeLine(job.unit())));
  }
  if (job.rate() > 0) absl::StrAppend(&text, "   ", amount(static_cast<int64_t>(job.rate())), "/s");
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

IngestPhases::IngestPhases(CliContext& cli, const std::string& store, Progress& progress)
    : progress_(progress), stub_(cli.admin()), thread_([this, name = StoreName(store)] { Run(name); }) {}

IngestPhases::~IngestPhases() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    over_ = true;
    if (context_ != nullptr) context_->TryCancel();
  }
  thread_.join();
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
  v1::ListJobsResponse jobs;
  grpc::ClientContext* context = NextContext();
  if (context == nullptr || !stub_.ListJobs(context, list, &jobs).ok()) return;
  for (const v1::Job& running : jobs.jobs()) {
    if (running.kind() != "ingest") continue;
    v1::WatchJobRequest watch;
    watch.set_job(running.job());
    if ((context = NextContext()) == nullptr) return;
    const std::unique_ptr<grpc::ClientReader<v1::Job>> reader = stub_.WatchJob(context, watch);
    v1::Job job;
    while (reader->Read(&job)) progress_.SetPhase(DescribeJobPhase(job));
    reader->Finish();
    return;
  }
}

}  // namespace loci
