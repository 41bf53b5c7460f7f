#include "clients/cli/input_interrupt.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>

namespace loci {
namespace {

constexpr int64_t kMaxPollMs = 60'000;

}  // namespace

InputInterrupt::InputInterrupt(int64_t timeout_ms)
    : deadline_(timeout_ms > 0 ? Clock::now() + std::chrono::milliseconds(timeout_ms) : Clock::time_point::max()),
      wake_descriptor_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {}

InputInterrupt::~InputInterrupt() {
  if (wake_descriptor_ >= 0) close(wake_descriptor_);
}

void InputInterrupt::Trigger() {
  triggered_ = true;
  const uint64_t one = 1;
  if (wake_descriptor_ >= 0) (void)!write(wake_descriptor_, &one, sizeof(one));
}

absl::Status InputInterrupt::Check() const {
  if (triggered_) return absl::CancelledError("the input was not read to its end");
  if (Clock::now() >= deadline_) return absl::DeadlineExceededError("the input was not read to its end within --timeout");
  return absl::OkStatus();
}

int InputInterrupt::PollMs() const {
  if (deadline_ == Clock::time_point::max()) return static_cast<int>(kMaxPollMs);
  const int64_t left_ms = std::chrono::ceil<std::chrono::milliseconds>(deadline_ - Clock::now()).count();
  return static_cast<int>(std::clamp<int64_t>(left_ms, 0, kMaxPollMs));
}

absl::Status InputInterrupt::WaitReadable(int descriptor) const {
  pollfd waits[2] = {{descriptor, POLLIN, 0}, {wake_descriptor_, POLLIN, 0}};
  while (true) {
    if (const absl::Status status = Check(); !status.ok()) return status;
    if (poll(waits, 2, PollMs()) > 0 && waits[0].revents != 0) return absl::OkStatus();
  }
}

}  // namespace loci
