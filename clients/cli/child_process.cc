#include "clients/cli/child_process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace loci {
namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kMaxErrorBytes = 4096;

// Both ends are closed with it. Used by one thread.
struct Pipe {
  int read_end = -1;
  int write_end = -1;
  ~Pipe() {
    CloseWriteEnd();
    if (read_end >= 0) close(read_end);
  }
  bool Open() {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) return false;
    read_end = ends[0];
    write_end = ends[1];
    return true;
  }
  void CloseWriteEnd() {
    if (write_end >= 0) close(write_end);
    write_end = -1;
  }
};

// The program's path; empty where there is none on the PATH.
std::string FindProgram(const std::string& name) {
  const char* const path = std::getenv("PATH");
  for (const auto& folder : absl::StrSplit(path != nullptr ? path : "/usr/bin:/bin", ':')) {
    std::string program = absl::StrCat(folder, "/", name);
    struct stat info = {};
    if (access(program.c_str(), X_OK) == 0 && stat(program.c_str(), &info) == 0 && S_ISREG(info.st_mode)) return program;
  }
  return "";
}

// In the new process, where only async-signal-safe functions may be called: others' locks may be held by threads that are not there.
[[noreturn]] void BecomeProgram(const char* program, char* const* argv, char* const* environment, int input, int output, int errors, pid_t parent) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(127);  // It ended before.
  for (int signal_number = 1; signal_number < NSIG; ++signal_number) signal(signal_number, SIG_DFL);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  if (dup2(input, STDIN_FILENO) < 0 || dup2(output, STDOUT_FILENO) < 0 || dup2(errors, STDERR_FILENO) < 0) _exit(127);
  close_range(STDERR_FILENO + 1, ~0U, 0);
  execve(program, argv, environment);
  _exit(127);
}

// 0, or an errno.
int Spawn(const std::vector<std::string>& arguments, int input, int output, int errors, pid_t* child) {
  const std::string program = FindProgram(arguments[0]);
  if (program.empty()) return ENOENT;
  std::vector<char*> argv;
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  const char* const path = std::getenv("PATH");
  std::string path_entry = absl::StrCat("PATH=", path != nullptr ? path : "/usr/bin:/bin"), locale = "LC_ALL=C.UTF-8";
  char* environment[] = {path_entry.data(), locale.data(), nullptr};
  // posix_spawn can't ask for the signal at this process's end.
  const pid_t parent = getpid();
  *child = fork();
  if (*child < 0) return errno;
  if (*child == 0) BecomeProgram(program.c_str(), argv.data(), environment, input, output, errors, parent);
  return 0;
}

void SetLimits(pid_t child, const ChildLimits& limits) {
  // It fails only where the child has ended already.
  const rlimit address_space = {limits.max_address_space_bytes, limits.max_address_space_bytes};
  prlimit(child, RLIMIT_AS, &address_space, nullptr);
  const rlimit cpu = {limits.max_cpu_seconds, limits.max_cpu_seconds + 1};
  prlimit(child, RLIMIT_CPU, &cpu, nullptr);
  const rlimit none = {0, 0};
  prlimit(child, RLIMIT_CORE, &none, nullptr);
  prlimit(child, RLIMIT_FSIZE, &none, nullptr);
}

// Reads what is there; false at the end.
bool ReadSome(int descriptor, std::string* buffer, std::string* text, size_t max_bytes) {
  const ssize_t count = read(descriptor, buffer->data(), buffer->size());
  if (count < 0) return errno == EINTR || errno == EAGAIN;
  if (count > 0 && text->size() < max_bytes) text->append(*buffer, 0, std::min(static_cast<size_t>(count), max_bytes - text->size()));
  return count > 0;
}

}  // namespace

absl::StatusOr<ChildResult> RunChild(const std::vector<std::string>& arguments, int input_descriptor, const ChildLimits& limits,
                                     const InputInterrupt* interrupt) {
  const Clock::time_point deadline = Clock::now() + limits.max_time;
  Pipe output, errors;
  if (!output.Open() || !errors.Open()) return absl::ResourceExhaustedError(absl::StrCat("no pipe: ", std::strerror(errno)));
  pid_t child = -1;
  if (const int error = Spawn(arguments, input_descriptor, output.write_end, errors.write_end, &child); error != 0) {
    const std::string message = absl::StrCat(arguments[0], ": ", std::strerror(error));
    return error == ENOENT ? absl::NotFoundError(message) : absl::ResourceExhaustedError(message);
  }
  SetLimits(child, limits);
  output.CloseWriteEnd();
  errors.CloseWriteEnd();

  ChildResult result;
  std::string buffer(64 * 1024, '\0');
  absl::Status interrupted;
  const auto check_interrupt = [&] {
    if (interrupt != nullptr) interrupted = interrupt->Check();
    return interrupted.ok();
  };
  pollfd waits[3] = {{output.read_end, POLLIN, 0}, {errors.read_end, POLLIN, 0}, {interrupt != nullptr ? interrupt->wake_descriptor() : -1, POLLIN, 0}};
  while (waits[0].fd >= 0 || waits[1].fd >= 0) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now());
    if (left.count() <= 0) {
      result.end = ChildResult::kTooLong;
      break;
    }
    if (!check_interrupt()) break;
    const int64_t wait_ms = std::min<int64_t>(left.count(), interrupt != nullptr ? interrupt->PollMs() : 60'000);
    const int ready = poll(waits, 3, static_cast<int>(wait_ms));
    if (ready <= 0) continue;  // A signal, or time to look at the clock.
    if (waits[0].fd >= 0 && waits[0].revents != 0) {
      // One byte more than the limit tells that there is more.
      if (!ReadSome(waits[0].fd, &buffer, &result.output, limits.max_output_bytes + 1)) waits[0].fd = -1;
      if (result.output.size() > limits.max_output_bytes) {
        result.end = ChildResult::kTooMuchOutput;
        result.output.pop_back();
        break;
      }
    }
    if (waits[1].fd >= 0 && waits[1].revents != 0 && !ReadSome(waits[1].fd, &buffer, &result.errors, kMaxErrorBytes)) waits[1].fd = -1;
  }
  // It may have closed both and still run.
  int status = 0;
  while (interrupted.ok() && result.end == ChildResult::kExited && waitpid(child, &status, WNOHANG) == 0) {
    if (Clock::now() >= deadline) {
      result.end = ChildResult::kTooLong;
    } else if (check_interrupt()) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }
  if (result.end != ChildResult::kExited || !interrupted.ok()) {
    kill(child, SIGKILL);
    while (waitpid(child, &status, 0) < 0 && errno == EINTR) continue;
  }
  if (!interrupted.ok()) return interrupted;
  if (result.end == ChildResult::kExited && WIFSIGNALED(status)) result.end = ChildResult::kSignalled;
  result.code = WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status);
  return result;
}

}  // namespace loci
