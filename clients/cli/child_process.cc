#include "clients/cli/child_process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "absl/strings/str_cat.h"

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

int Spawn(const std::vector<std::string>& arguments, int input, int output, int errors, pid_t* child) {
  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
  posix_spawn_file_actions_init(&actions);
  posix_spawnattr_init(&attributes);
  posix_spawn_file_actions_adddup2(&actions, input, STDIN_FILENO);
  posix_spawn_file_actions_adddup2(&actions, output, STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&actions, errors, STDERR_FILENO);
  posix_spawn_file_actions_addclosefrom_np(&actions, STDERR_FILENO + 1);
  sigset_t all_default, none_blocked;
  sigfillset(&all_default);
  sigemptyset(&none_blocked);
  posix_spawnattr_setsigdefault(&attributes, &all_default);
  posix_spawnattr_setsigmask(&attributes, &none_blocked);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK);
  std::vector<char*> argv;
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  const char* const path = std::getenv("PATH");
  std::string path_entry = absl::StrCat("PATH=", path != nullptr ? path : "/usr/bin:/bin"), locale = "LC_ALL=C.UTF-8";
  char* environment[] = {path_entry.data(), locale.data(), nullptr};
  const int error = posix_spawnp(child, argv[0], &actions, &attributes, argv.data(), environment);
  posix_spawn_file_actions_destroy(&actions);
  posix_spawnattr_destroy(&attributes);
  return error;
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

absl::StatusOr<ChildResult> RunChild(const std::vector<std::string>& arguments, int input_descriptor, const ChildLimits& limits) {
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
  pollfd waits[2] = {{output.read_end, POLLIN, 0}, {errors.read_end, POLLIN, 0}};
  while (waits[0].fd >= 0 || waits[1].fd >= 0) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now());
    if (left.count() <= 0) {
      result.end = ChildResult::kTooLong;
      break;
    }
    const int ready = poll(waits, 2, static_cast<int>(std::min<int64_t>(left.count(), 60'000)));
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
  while (result.end == ChildResult::kExited && waitpid(child, &status, WNOHANG) == 0) {
    if (Clock::now() >= deadline) {
      result.end = ChildResult::kTooLong;
    } else {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }
  if (result.end != ChildResult::kExited) {
    kill(child, SIGKILL);
    while (waitpid(child, &status, 0) < 0 && errno == EINTR) continue;
  }
  if (result.end == ChildResult::kExited && WIFSIGNALED(status)) result.end = ChildResult::kSignalled;
  result.code = WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status);
  return result;
}

}  // namespace loci
