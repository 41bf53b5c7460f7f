#include "retriever/activation_watch.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/error.h"
#include "base/strings.h"

namespace loci {
namespace {

constexpr size_t kMaxTimes = 10'000;
constexpr std::chrono::milliseconds kPeriod(20);  // Between two looks.
constexpr int64_t kMissedDeadline = std::numeric_limits<int64_t>::max();  // The time of a search that did.

int64_t P99(std::vector<int64_t> times_us) {
  if (times_us.empty()) return 0;
  const size_t rank = static_cast<size_t>(std::ceil(0.99 * static_cast<double>(times_us.size()))) - 1;
  std::nth_element(times_us.begin(), times_us.begin() + static_cast<std::ptrdiff_t>(rank), times_us.end());
  return times_us[rank];
}

std::string TookUpTo(int64_t p99_us) { return p99_us == kMissedDeadline ? "more than their deadlines left" : absl::StrCat("up to ", p99_us, " us"); }

}  // namespace

bool IsServerFault(absl::StatusCode code) {
  return code == absl::StatusCode::kUnknown || code == absl::StatusCode::kInternal || code == absl::StatusCode::kDataLoss ||
         code == absl::StatusCode::kUnavailable || code == absl::StatusCode::kDeadlineExceeded;
}

absl::StatusOr<std::shared_ptr<void>> ActivationWatches::Reserve() {
  if (reserved_count_->fetch_add(1) >= max_watches_) {
    reserved_count_->fetch_sub(1);
    return ErrorWithReason(absl::ResourceExhaustedError(absl::StrCat(max_watches_, " activations are watched, which is the most; wait until one "
                                                                                   "is through, or cancel its job, or activate without a watch")),
                           "OVERLOADED");
  }
  return std::shared_ptr<void>(nullptr, [count = reserved_count_](void*) { count->fetch_sub(1); });
}

void ActivationWatches::Record(std::string_view store, std::string_view generation, absl::StatusCode code, int64_t search_us) {
  if (!IsWatching()) return;
  if (code == absl::StatusCode::kDeadlineExceeded) search_us = kMissedDeadline;
  MutexLock lock(&mutex_);
  for (Watched& watched : watched_) {
    if (watched.store != store || watched.generation != generation) continue;
    ++watched.request_count;
    watched.failure_count += IsServerFault(code);
    if (code != absl::StatusCode::kOk && code != absl::StatusCode::kDeadlineExceeded) continue;
    if (watched.times_us.size() < kMaxTimes) {
      watched.times_us.push_back(search_us);
    } else {
      watched.times_us[watched.next_time] = search_us;
      watched.next_time = (watched.next_time + 1) % kMaxTimes;
    }
  }
}

absl::Status ActivationWatches::Check(const Watched& seen, const WatchConditions& conditions) const {
  if (seen.request_count < conditions.min_requests) return absl::OkStatus();
  const double error_rate = static_cast<double>(seen.failure_count) / static_cast<double>(seen.request_count);
  if (conditions.max_error_rate.has_value() && error_rate > *conditions.max_error_rate) {
    const std::string rate = absl::StrFormat("%.4g", error_rate), limit = absl::StrFormat("%.4g", *conditions.max_error_rate);
    return ErrorWithReason(absl::FailedPreconditionError(absl::StrCat(seen.failure_count, " of ", seen.request_count,
                                                                      " requests failed by the server's fault: a rate of ", rate, ", at most ", limit,
                                                                      " is allowed")),
                           "WATCH_FAILED", {{"failed", "max_error_rate"}, {"error_rate", rate}, {"max_error_rate", limit}});
  }
  if (!conditions.max_p99_us.has_value() || static_cast<int64_t>(seen.times_us.size()) < conditions.min_requests) return absl::OkStatus();
  const int64_t p99_us = P99(seen.times_us);
  if (p99_us <= *conditions.max_p99_us) return absl::OkStatus();
  return ErrorWithReason(absl::FailedPreconditionError(absl::StrCat("99 % of ", seen.times_us.size(), " searches took ", TookUpTo(p99_us), ", at most ",
                                                                    *conditions.max_p99_us, " us is allowed")),
                         "WATCH_FAILED",
                         {{"failed", "max_p99_us"}, {"p99_us", p99_us == kMissedDeadline ? "DEADLINE_EXCEEDED" : absl::StrCat(p99_us)}, {"max_p99_us", absl::StrCat(*conditions.max_p99_us)}});
}

absl::StatusOr<std::string> ActivationWatches::Watch(const std::string& store, const std::string& generation, const WatchConditions& conditions,
                                                     const RequestLimits& limits,
                                                     const std::function<void(int64_t done_ms, int64_t total_ms)>& progress,
                                                     const std::function<bool()>& is_serving) {
  std::list<Watched>::iterator mine;
  {
    MutexLock lock(&mutex_);
    mine = watched_.insert(watched_.end(), Watched{.store = store, .generation = generation});
    watched_count_.store(static_cast<int>(watched_.size()), std::memory_order_relaxed);
  }
  const int64_t start_us = clock_->NowMicros();
  absl::Status checked;
  bool given_up = false, replaced = false;
  int64_t watched_us = 0;
  Watched seen;
  while (true) {
    const int64_t now_us = clock_->NowMicros();
    watched_us = now_us - start_us;
    {
      MutexLock lock(&mutex_);
      seen = *mine;
    }
    checked = Check(seen, conditions);
    given_up = !limits.Check(now_us).ok();
    replaced = is_serving != nullptr && !is_serving();
    if (progress) progress(std::min(watched_us, conditions.watch_us) / 1000, conditions.watch_us / 1000);
    if (!checked.ok() || given_up || replaced || watched_us >= conditions.watch_us) break;
    std::this_thread::sleep_for(kPeriod);
  }
  {
    MutexLock lock(&mutex_);
    watched_.erase(mine);
    watched_count_.store(static_cast<int>(watched_.size()), std::memory_order_relaxed);
  }
  if (!checked.ok()) return Annotate(checked, absl::StrCat("after ", watched_us / 1000, " ms"));
  const char* const how = replaced ? "the watch ended, since the generation serves no longer," : given_up ? "the watch was ended" : "watched";
  return absl::StrCat(how, " after ", watched_us / 1000, " ms: ", seen.request_count, " requests, ", seen.failure_count,
                      " failed by the server's fault, 99 % of searches took ", TookUpTo(P99(seen.times_us)));
}

}  // namespace loci
