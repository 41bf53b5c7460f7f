// A program that is run with limits, its output kept in memory.
#ifndef LOCI_CLIENTS_CLI_CHILD_PROCESS_H_
#define LOCI_CLIENTS_CLI_CHILD_PROCESS_H_

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "clients/cli/input_interrupt.h"

namespace loci {

// Plain data.
struct ChildLimits {
  uint64_t max_address_space_bytes = 0;  // RLIMIT_AS.
  uint64_t max_cpu_seconds = 0;          // RLIMIT_CPU.
  std::chrono::milliseconds max_time{0};
  size_t max_output_bytes = 0;  // Of standard output.
};

// Plain data.
struct ChildResult {
  enum End { kExited, kSignalled, kTooMuchOutput, kTooLong } end = kExited;
  int code = 0;        // The exit code, or the signal.
  std::string output;  // Of standard output, at most max_output_bytes.
  std::string errors;  // The first 4 KiB of standard error.
};

// Runs arguments[0], found on the PATH, with `input_descriptor` as its standard input, no other descriptor of this process, and an
// environment of PATH and LC_ALL=C.UTF-8. Waits for its end; where a limit is met it is killed, and where the calling thread ends, as when this
// process is killed, too. NOT_FOUND where there is no such program; the error of `interrupt`, which may be null, where that ends it.
// May be called by any thread.
absl::StatusOr<ChildResult> RunChild(const std::vector<std::string>& arguments, int input_descriptor, const ChildLimits& limits,
                                     const InputInterrupt* interrupt = nullptr);

}  // namespace loci

#endif  // LOCI_CLIENTS_CLI_CHILD_PROCESS_H_
