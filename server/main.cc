// loci_server: flags, signals, exit codes. Everything else is in server.cc.
#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "base/logging.h"
#include "base/mutex.h"
#include "server/config.h"
#include "server/flags.h"
#include "server/quantize_command.h"
#include "server/server.h"
#include "server/service_manager.h"
#include "server/version.h"

namespace {

constexpr int kExitFailed = 1;
constexpr int kExitUsage = 2;
constexpr int kExitForced = 3;  // A second signal while draining.

// Raised by the signal thread. Thread-safe.
class StopRequest {
 public:
  void Raise() {
    loci::MutexLock lock(&mutex_);
    raised_ = true;
    changed_.NotifyAll();
  }
  void Wait() {
    loci::MutexLock lock(&mutex_);
    while (!raised_) changed_.Wait(&mutex_);
  }
  // From here on a signal waits for the main thread; before, it ends the process (nothing was acknowledged yet).
  void Arm() {
    loci::MutexLock lock(&mutex_);
    armed_ = true;
  }
  bool armed() {
    loci::MutexLock lock(&mutex_);
    return armed_;
  }

 private:
  loci::Mutex mutex_;
  loci::CondVar changed_;
  bool raised_ ABSL_GUARDED_BY(mutex_) = false;
  bool armed_ ABSL_GUARDED_BY(mutex_) = false;
};

// A line on standard output, where whoever started the server waits for it.
void Announce(const char* what, const std::string& address) {
  std::printf("%s on %s\n", what, address.c_str());
  std::fflush(stdout);
}

int Fail(const absl::Status& status, int exit_code) {
  std::fprintf(stderr, "loci_server: %s\n", std::string(status.message()).c_str());
  return exit_code;
}

// The pipe's end for writing. A handler may do little more than write to it.
int signal_pipe = -1;

void OnSignal(int) {
  const int saved_errno = errno;
  const char byte = 0;
  (void)!write(signal_pipe, &byte, 1);
  errno = saved_errno;
}

// From here on the first SIGTERM or SIGINT raises `stop`, and the second ends the process. Handlers and not sigwait: libraries
// (OpenBLAS) start threads before main, which do not inherit a mask that is set here.
bool CatchSignals(StopRequest* stop) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return false;
  signal_pipe = ends[1];
  std::thread([read_end = ends[0], stop] {
    const auto wait = [read_end] {
      char byte;
      while (read(read_end, &byte, 1) != 1) {
      }
    };
    wait();
    if (!stop->armed()) _exit(0);
    stop->Raise();
    wait();
    _exit(kExitForced);
  }).detach();
  struct sigaction action = {};
  action.sa_handler = OnSignal;
  action.sa_flags = SA_RESTART;
  return sigaction(SIGTERM, &action, nullptr) == 0 && sigaction(SIGINT, &action, nullptr) == 0;
}

// `arguments` behind "quantize".
int Quantize(const std::vector<std::string>& arguments) {
  for (const std::string& argument : arguments) {
    if (argument == "--help" || argument == "-h") return std::fputs(loci::QuantizeHelp().c_str(), stdout) < 0;
  }
  const absl::StatusOr<loci::QuantizeResult> result = loci::RunQuantizeCommand(arguments, std::cin);
  if (!result.ok()) return Fail(result.status(), result.status().code() == absl::StatusCode::kInvalidArgument ? kExitUsage : kExitFailed);
  const bool printed = std::fputs(result->report.c_str(), stdout) >= 0;
  if (!result->recorded.ok()) return Fail(result->recorded, kExitFailed);
  return printed ? 0 : kExitFailed;
}

}  // namespace

int main(int argc, char** argv) {
  // Debian builds Abseil with its search for deadlocks, which takes a lock of the whole process whenever gRPC takes one.
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
  if (argc > 1 && std::string(argv[1]) == "quantize") return Quantize(std::vector<std::string>(argv + 2, argv + argc));
  const absl::StatusOr<loci::ServerFlags> flags = loci::ParseServerFlags(std::vector<std::string>(argv + 1, argv + argc));
  if (!flags.ok()) return Fail(flags.status(), kExitUsage);
  if (flags->help) return std::fputs(loci::ServerHelp().c_str(), stdout) < 0;
  if (flags->version) return std::printf("loci_server %s\n", loci::kVersion) < 0;

  const absl::StatusOr<loci::config::ServerConfig> config = loci::EffectiveConfig(*flags);
  if (!config.ok()) return Fail(config.status(), kExitUsage);
  if (flags->check_config) return std::fputs(loci::PrintServerConfig(*config).c_str(), stdout) < 0;
  loci::SetLogFormat(config->log().format() == loci::config::Log::JSON ? loci::LogFormat::kJson : loci::LogFormat::kText);
  loci::SetLogLevel(static_cast<loci::LogLevel>(config->log().level()));

  std::signal(SIGPIPE, SIG_IGN);
  auto* const stop = new StopRequest;  // Never destroyed: the signal thread is not joined.
  if (!CatchSignals(stop)) return Fail(absl::InternalError("cannot catch signals"), kExitFailed);

  loci::ServerOptions options = loci::ToServerOptions(*config);
  options.on_metrics_listening = [](const std::string& address) { Announce("metrics", address); };
  absl::StatusOr<std::unique_ptr<loci::Server>> server = loci::Server::Start(std::move(options));
  if (!server.ok()) return Fail(server.status(), kExitFailed);
  stop->Arm();
  Announce("listening", (*server)->address());
  loci::NotifyServiceManager("READY=1");

  stop->Wait();
  loci::NotifyServiceManager("STOPPING=1");
  (*server)->Stop();
  server->reset();
  return 0;
}
