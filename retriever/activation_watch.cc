#include "retriever/activation_watch.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/error.h"
#include "base/strings.h"

namespace loci {
namespace {

constexpr size_t kMaxTimes = 10'000;
constexpr std::chrono::milliseconds kPeriod(20);  // Between two looks.

int64_t P99(std::vector<int64_t> times_us) {
  if (times_us.empty()) return 0;
  const size_t rank = static_cast<size_t>(std::ceil(0.99 * static_cast<double>(times_us.size()))) - 1;
  std::nth_element(times_us.begin(), times_us.begin() + static_cast<std::ptrdiff_t>(rank), times_us.end());
  return times_us[rank];
}

}  // namespace

bool IsServerFault(absl::StatusCode code) {
  return code == absl::StatusCode::kUnknown || code == absl::StatusCode::kInternal || code == absl::StatusCode::kDataLoss ||
         code == absl::StatusCode::kUnavailable;
}

void ActivationWatches::Record(std::string_view store, absl::StatusCode code, int64_t search_us) {
  if (watched_count_.load(std::memory_order_relaxed) == 0) return;
  MutexLock lock(&mutex_);
  for (Watched& watched : watched_) {
    if (watched.store != store) continue;
    ++watched.request_count;
    watched.failure_count += IsServerFault(code);
    if (code != absl::StatusCode::kOk) continue;
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
  return ErrorWithReason(absl::FailedPreconditionError(absl::StrCat("99 % of ", seen.times_us.size(), " searches took up to ", p99_us, " us, at most ",
                                                                    *conditions.max_p99_us, " is allowed")),
                         "WATCH_FAILED",
                         {{"failed", "max_p99_us"}, {"p99_us", absl::StrCat(p99_us)}, {"max_p99_us", absl::StrCat(*conditions.max_p99_us)}});
}

absl::StatusOr<std::string> ActivationWatches::Watch(const std::string& store, const WatchConditions& conditions, const RequestLimits& limits,
                                                     const std::function<void(int64_t done_ms, int64_t total_ms)>& progress) {
  std::list<Watched>::iterator mine;
  {
    MutexLock lock(&mutex_);
    mine = watched_.insert(watched_.end(), Watched{.store = store});
    watched_count_.store(static_cast<int>(watched_.size()), std::memory_order_relaxed);
  }
  const int64_t start_us = clock_->NowMicros();
  absl::Status checked;
  bool given_up = false;
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
    if (progress) progress(std::min(watched_us, conditions.watch_us) / 1000, conditions.watch_us / 1000);
    if (!checked.ok() || given_up || watched_us >= conditions.watch_us) break;
    std::this_thread::sleep_for(kPeriod);
  }
  {
    MutexLock lock(&mutex_);
    watched_.erase(mine);
    watched_count_.store(static_cast<int>(watched_.size()), std::memory_order_relaxed);
  }
  if (!checked.ok()) return Annotate(checked, absl::StrCat("after ", watched_us / 1000, " ms"));
  return absl::StrCat(given_up ? "the watch was ended" : "watched", " after ", watched_us / 1000, " ms: ", seen.request_count, " requests, ",
                      seen.failure_count, " failed by the server's fault, 99 % of searches took up to ", P99(seen.times_us), " us");
}

}  // namespace loci
