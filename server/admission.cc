#include "server/admission.h"

#include <algorithm>
#include <chrono>
#include <thread>

#include "absl/strings/str_cat.h"
#include "base/error.h"

namespace loci {
namespace {

Counter& RefusedCounter(const Admission::Options& options, const char* reason) {
  return options.metrics->counter("loci_refused_total", "Requests and ingests that were refused at the door, by why: too many, too many bytes, draining.",
                                  {{"kind", options.kind}, {"reason", reason}});
}

}  // namespace

Admission::Admission(Options options)
    : options_(std::move(options)),
      gauge_(options_.method.empty() ? options_.metrics->gauge("loci_in_flight", "Requests and ingests admitted and not yet answered.",
                                                               {{"kind", options_.kind}})
                                     : options_.metrics->gauge("loci_method_in_flight", "Requests in flight of methods with a limit of their own.",
                                                               {{"method", options_.method}})),
      refused_count_(RefusedCounter(options_, options_.method.empty() ? "count" : "method_count")),
      refused_bytes_(RefusedCounter(options_, "bytes")),
      refused_draining_(RefusedCounter(options_, "draining")) {
  gauge_.Set(0);
}

absl::StatusOr<Admission::Permit> Admission::Acquire(int64_t size_bytes) {
  MutexLock lock(&mutex_);
  if (draining_) {
    last_refusal_us_ = RealClock().NowMicros();
    refused_draining_.Add(1);
    return ErrorWithReason(absl::UnavailableError("the server is draining; ask another one, or again when it is back"), "DRAINING");
  }
  if (in_flight_ >= options_.max_requests && !options_.method.empty()) {
    refused_count_.Add(1);
    return ErrorWithReason(absl::ResourceExhaustedError(absl::StrCat("method ", options_.method, " has ", in_flight_,
                                                                     " requests in flight, its limit is ", options_.max_requests)),
                           "OVERLOADED", {{"method", options_.method}, {"limit", absl::StrCat(options_.max_requests)}});
  }
  if (in_flight_ >= options_.max_requests) {
    refused_count_.Add(1);
    return ErrorWithReason(
        absl::ResourceExhaustedError(absl::StrCat(in_flight_, " ", options_.kind, "s are in flight, the limit is ", options_.max_requests)),
        "OVERLOADED", {{"kind", options_.kind}, {"limit", absl::StrCat(options_.max_requests)}});
  }
  if (in_flight_ > 0 && size_bytes > options_.max_bytes - bytes_) {
    refused_bytes_.Add(1);
    return ErrorWithReason(absl::ResourceExhaustedError(absl::StrCat("the ", options_.kind, "s in flight hold ", bytes_, " bytes; ", size_bytes,
                                                                     " more exceed the limit of ", options_.max_bytes)),
                           "OVERLOADED", {{"kind", options_.kind}, {"limit_bytes", absl::StrCat(options_.max_bytes)}});
  }
  ++in_flight_;
  bytes_ += size_bytes;
  gauge_.Set(static_cast<double>(in_flight_));
  return Permit(this, size_bytes);
}

void Admission::Permit::Release() {
  Admission* const admission = std::exchange(admission_, nullptr);
  if (admission == nullptr) return;
  MutexLock lock(&admission->mutex_);
  --admission->in_flight_;
  admission->bytes_ -= bytes_;
  admission->gauge_.Set(static_cast<double>(admission->in_flight_));
  // Under the lock: whoever waits may destroy this object once it sees zero.
  if (admission->in_flight_ == 0) admission->idle_.NotifyAll();
}

void Admission::Drain() {
  MutexLock lock(&mutex_);
  draining_ = true;
  last_refusal_us_ = RealClock().NowMicros();
}

void Admission::WaitUntilQuiet(int64_t quiet_ms, int64_t timeout_ms) {
  const int64_t until_us = RealClock().NowMicros() + timeout_ms * 1000;
  while (true) {
    int64_t quiet_from_us;
    {
      MutexLock lock(&mutex_);
      quiet_from_us = last_refusal_us_ + quiet_ms * 1000;
    }
    const int64_t left_us = std::min(quiet_from_us, until_us) - RealClock().NowMicros();
    if (left_us <= 0) return;
    std::this_thread::sleep_for(std::chrono::microseconds(left_us));
  }
}

bool Admission::WaitUntilIdle(int64_t timeout_ms) {
  const int64_t until_us = RealClock().NowMicros() + timeout_ms * 1000;
  MutexLock lock(&mutex_);
  while (in_flight_ > 0) {
    const int64_t left_us = until_us - RealClock().NowMicros();
    if (left_us <= 0) return false;
    idle_.WaitFor(&mutex_, std::chrono::microseconds(left_us));
  }
  return true;
}

int64_t Admission::in_flight() const {
  MutexLock lock(&mutex_);
  return in_flight_;
}

}  // namespace loci
