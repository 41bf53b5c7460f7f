// What ends the reading of a command's input before its end: --timeout, or another thread.
#ifndef LOCI_CLIENTS_CLI_INPUT_INTERRUPT_H_
#define LOCI_CLIENTS_CLI_INPUT_INTERRUPT_H_

#include <atomic>
#include <chrono>
#include <cstdint>

#include "absl/status/status.h"

namespace loci {

// Readers take a pointer to one, which may be null: nothing ends them then. Thread-safe.
class InputInterrupt {
 public:
  // Input must be read within `timeout_ms` from now on; 0 or less: there is no such limit.
  explicit InputInterrupt(int64_t timeout_ms);
  ~InputInterrupt();
  InputInterrupt(const InputInterrupt&) = delete;
  InputInterrupt& operator=(const InputInterrupt&) = delete;

  // From now on nothing more is read.
  void Trigger();

  // OK; CANCELLED after Trigger; DEADLINE_EXCEEDED after the time.
  absl::Status Check() const;
  // Waits until `descriptor` can be read without waiting: it has bytes, or is at its end. The error of Check() where that comes first.
  absl::Status WaitReadable(int descriptor) const;

  int wake_descriptor() const { return wake_descriptor_; }  // Can be read from Trigger on: for poll. -1 where there was no descriptor left.
  // Milliseconds for poll until the time is over, at most a minute: whoever waits looks at Check() then.
  int PollMs() const;

 private:
  using Clock = std::chrono::steady_clock;
  const Clock::time_point deadline_;
  const int wake_descriptor_;
  std::atomic<bool> triggered_{false};
};

}  // namespace loci

#endif  // LOCI_CLIENTS_CLI_INPUT_INTERRUPT_H_
