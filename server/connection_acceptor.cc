#include "server/connection_acceptor.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/logging.h"
#include "base/status_macros.h"

namespace loci {
namespace {

constexpr int kAcceptPauseMs = 100;
constexpr int kCountPeriodMs = 5'000;         // The gauge is that old at most.
constexpr int64_t kLookPeriodUs = 20'000;     // In a full house.
constexpr int64_t kComplainPeriodUs = 10'000'000;

}  // namespace

int64_t RaiseFileLimit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return 1024;
  if (limit.rlim_cur < limit.rlim_max) {
    rlimit raised = limit;
    raised.rlim_cur = raised.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &raised) == 0) limit = raised;
  }
  return limit.rlim_cur == RLIM_INFINITY ? INT64_MAX : static_cast<int64_t>(limit.rlim_cur);
}

int64_t ConnectionLimit(int64_t wanted, int64_t file_limit) {
  const int64_t files = std::clamp<int64_t>(file_limit / 4, 64, 1024);
  return std::clamp<int64_t>(file_limit - files, 1, wanted);
}

absl::StatusOr<std::unique_ptr<ConnectionAcceptor>> ConnectionAcceptor::Listen(const HostPort& address, const Options& options) {
  LOCI_ASSIGN_OR_RETURN(Listener listener, ListenOn(address));
  const int wake_fd = eventfd(0, EFD_CLOEXEC);
  if (wake_fd < 0) {
    close(listener.fd);
    return absl::InternalError(absl::StrCat("eventfd: ", strerror(errno)));
  }
  return std::unique_ptr<ConnectionAcceptor>(new ConnectionAcceptor(std::move(listener), wake_fd, options));
}

ConnectionAcceptor::ConnectionAcceptor(Listener listener, int wake_fd, const Options& options)
    : address_(listener.address),
      listen_fd_(listener.fd),
      wake_fd_(wake_fd),
      options_(options),
      open_(options.metrics->gauge("loci_connections", "Connections of the gRPC port, as of some seconds ago.", {})),
      accepted_(options.metrics->counter("loci_connections_total", "Connections that came to the gRPC port.", {{"result", "accepted"}})),
      refused_(options.metrics->counter("loci_connections_total", "Connections that came to the gRPC port.", {{"result", "refused"}})) {
  open_.Set(0);
}

ConnectionAcceptor::~ConnectionAcceptor() {
  const uint64_t one = 1;
  (void)!write(wake_fd_, &one, sizeof(one));
  if (thread_.joinable()) thread_.join();
  close(listen_fd_);
  close(wake_fd_);
}

void ConnectionAcceptor::Start(std::function<void(int)> hand_over) {
  hand_over_ = std::move(hand_over);
  thread_ = std::thread([this] { Serve(); });
}

void ConnectionAcceptor::Serve() {
  bool pause = false;
  while (true) {
    pollfd fds[] = {{wake_fd_, POLLIN, 0}, {pause ? -1 : listen_fd_, POLLIN, 0}};
    const int ready = poll(fds, 2, pause ? kAcceptPauseMs : handed_over_.empty() ? -1 : kCountPeriodMs);
    if (ready > 0 && fds[0].revents != 0) return;
    pause = false;
    if (ready == 0) ForgetClosed();
    // Out of file descriptors, say: the client stays in the queue, and polling at once would spin.
    if (ready < 0 || (ready > 0 && fds[1].revents != 0 && !Accept())) pause = true;
  }
}

bool ConnectionAcceptor::Accept() {
  const int fd = accept4(listen_fd_, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
  if (fd < 0) {
    if (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED) return true;
    const int64_t now_us = RealClock().NowMicros();
    if (complained_us_ == 0 || now_us - complained_us_ > kComplainPeriodUs) {
      complained_us_ = now_us;
      LogWarning("server", absl::StrCat("cannot accept a connection: ", strerror(errno)));
    }
    return false;
  }
  if (fd > options_.max_descriptor || Full()) {
    refused_.Add(1);  // First: who sees the end of the connection finds it counted.
    close(fd);
    return true;
  }
  const int on = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
  setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &options_.user_timeout_ms, sizeof(options_.user_timeout_ms));
  struct stat info {};
  fstat(fd, &info);
  handed_over_[fd] = info.st_ino;  // In the place of one that was closed, where it had this number.
  accepted_.Add(1);
  open_.Set(static_cast<double>(handed_over_.size()));
  hand_over_(fd);
  return true;
}

bool ConnectionAcceptor::Full() {
  const auto full = [this] { return static_cast<int64_t>(handed_over_.size()) >= options_.max_connections; };
  if (!full()) return false;
  const int64_t now_us = RealClock().NowMicros();
  if (looked_us_ == 0 || now_us - looked_us_ > kLookPeriodUs) ForgetClosed();
  if (full() && (complained_us_ == 0 || now_us - complained_us_ > kComplainPeriodUs)) {
    complained_us_ = now_us;
    LogWarning("server", absl::StrCat("there are ", handed_over_.size(), " connections, as many as may be: others are closed at once"));
  }
  return full();
}

void ConnectionAcceptor::ForgetClosed() {
  looked_us_ = RealClock().NowMicros();
  std::erase_if(handed_over_, [](const auto& connection) {
    struct stat info {};
    return fstat(connection.first, &info) != 0 || info.st_ino != connection.second;
  });
  open_.Set(static_cast<double>(handed_over_.size()));
}

}  // namespace loci
