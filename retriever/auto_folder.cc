#include "retriever/auto_folder.h"

#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/logging.h"
#include "retriever/job_progress.h"

namespace loci {
namespace {

constexpr double kLeastBody = 100'000;  // Shares of small bodies would be reached again and again.
constexpr int64_t kEndMs = 60'000;
constexpr int kNice = 10;             // What is asked for goes first.

}  // namespace

bool IsPastLimits(const OverlayInfo& overlay, const FoldLimits& limits) {
  const double changes = static_cast<double>(overlay.change_count);
  return (limits.max_overlay_passages > 0 && overlay.change_count > limits.max_overlay_passages) ||
         (limits.max_overlay_share > 0 && changes > limits.max_overlay_share * std::max(kLeastBody, static_cast<double>(overlay.body_count))) ||
         (limits.max_overlay_bytes > 0 && overlay.change_count > 0 && overlay.memory_bytes > limits.max_overlay_bytes);
}

AutoFolder::AutoFolder(Options options) : options_(std::move(options)) {
  const FoldLimits& limits = options_.limits;
  if (limits.max_overlay_passages > 0 || limits.max_overlay_share > 0 || limits.max_overlay_bytes > 0) thread_ = std::thread([this] { Run(); });
}

AutoFolder::~AutoFolder() {
  {
    MutexLock lock(&mutex_);
    stopping_ = true;
  }
  stopped_.NotifyAll();
  if (!thread_.joinable()) return;
  options_.jobs->EndYielding("", kEndMs);
  thread_.join();
}

bool AutoFolder::stopping() const {
  MutexLock lock(&mutex_);
  return stopping_;
}

void AutoFolder::Run() {
  // Of this thread, and of those that it starts. What can't be had is not needed.
  (void)setpriority(PRIO_PROCESS, static_cast<id_t>(syscall(SYS_gettid)), kNice);
  while (!stopping()) {
    Look();
    MutexLock lock(&mutex_);
    if (!stopping_) stopped_.WaitFor(&mutex_, std::chrono::milliseconds(options_.poll_ms));
  }
}

void AutoFolder::Look() {
  const std::vector<OverlayInfo> overlays = options_.manager->Overlays();
  std::erase_if(failures_, [&](const auto& failures) {
    return std::none_of(overlays.begin(), overlays.end(), [&](const OverlayInfo& overlay) { return overlay.store == failures.first; });
  });
  for (const OverlayInfo& overlay : overlays) {
    if (stopping()) return;
    if (!IsPastLimits(overlay, options_.limits)) continue;
    const auto failures = failures_.find(overlay.store);
    if (failures != failures_.end() && options_.clock->NowMicros() < failures->second.until_us) continue;
    Fold(overlay.store);
  }
}

void AutoFolder::Fold(const std::string& store) {
  absl::StatusOr<std::shared_ptr<JobHandle>> job = options_.jobs->Start({.kind = JobKind::kFold, .store = store, .yields = true});
  absl::Status status = job.status();
  int64_t ended_us = options_.clock->NowMicros();
  if (job.ok()) {
    if (stopping()) (void)options_.jobs->Cancel((*job)->id());  // It began when the others had been ended.
    const absl::StatusOr<FoldResult> folded = options_.manager->Fold(store, ControlOf(*job, kFoldSwitch));
    ended_us = options_.clock->NowMicros();  // Before anyone can see that it has.
    status = (*job)->Finish(folded.status());
  }
  if (status.ok()) {
    failures_.erase(store);
    return;
  }
  // What was in the way, or wanted to go first, goes by itself.
  if (absl::IsAborted(status) || absl::IsCancelled(status) || absl::IsUnavailable(status) || absl::IsNotFound(status)) return;
  Failures& failures = failures_[store];
  failures.pause_us = failures.pause_us == 0 ? kFirstPauseUs : std::min(2 * failures.pause_us, kLongestPauseUs);
  failures.until_us = ended_us + failures.pause_us;
  LogWarning("fold", absl::StrCat("store=", store, " could not be folded, and is left alone for ", failures.pause_us / 1'000'000,
                                  " s: ", status.message()));
}

}  // namespace loci
