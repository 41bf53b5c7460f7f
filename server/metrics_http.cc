#include "server/metrics_http.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/status_macros.h"

namespace loci {
namespace {

constexpr size_t kMaxRequestBytes = 16 << 10;
constexpr int64_t kAcceptPauseUs = 100'000;

std::string Response(const char* status, const char* type, const std::string& body) {
  return absl::StrCat("HTTP/1.1 ", status, "\r\nContent-Type: ", type, "\r\nContent-Length: ", body.size(), "\r\nConnection: close\r\n\r\n");
}

}  // namespace

absl::StatusOr<std::unique_ptr<MetricsHttp>> MetricsHttp::Listen(const HostPort& address, std::function<std::string()> text,
                                                                 const Options& options) {
  LOCI_ASSIGN_OR_RETURN(Listener listener, ListenOn(address));
  const int wake_fd = eventfd(0, EFD_CLOEXEC);
  if (wake_fd < 0) {
    close(listener.fd);
    return absl::InternalError(absl::StrCat("eventfd: ", strerror(errno)));
  }
  return std::unique_ptr<MetricsHttp>(new MetricsHttp(std::move(listener), wake_fd, std::move(text), options));
}

MetricsHttp::MetricsHttp(Listener listener, int wake_fd, std::function<std::string()> text, const Options& options)
    : address_(listener.address),
      listen_fd_(listener.fd),
      wake_fd_(wake_fd),
      text_(std::move(text)),
      options_(options),
      thread_([this] { Serve(); }) {}

MetricsHttp::~MetricsHttp() {
  const uint64_t one = 1;
  (void)!write(wake_fd_, &one, sizeof(one));
  thread_.join();
  for (const Connection& connection : connections_) close(connection.fd);
  close(listen_fd_);
  close(wake_fd_);
}

void MetricsHttp::Serve() {
  int64_t accept_from_us = 0;
  std::vector<pollfd> fds;
  while (true) {
    int64_t now_us = RealClock().NowMicros();
    int64_t wake_us = kNoDeadlineMicros;
    const bool accepting = now_us >= accept_from_us;
    if (!accepting) wake_us = accept_from_us;
    fds.assign({{wake_fd_, POLLIN, 0}, {accepting ? listen_fd_ : -1, POLLIN, 0}});
    for (const Connection& connection : connections_) {
      fds.push_back({connection.fd, static_cast<short>(connection.response.empty() ? POLLIN : POLLOUT), 0});
      wake_us = std::min(wake_us, connection.until_us);
    }
    const int64_t wait_ms = wake_us == kNoDeadlineMicros ? -1 : std::clamp<int64_t>((wake_us - now_us) / 1000 + 1, 0, 60'000);
    if (poll(fds.data(), fds.size(), static_cast<int>(wait_ms)) < 0) {
      if (errno != EINTR) accept_from_us = now_us + kAcceptPauseUs;  // Out of memory: not at once again.
      continue;
    }
    if (fds[0].revents != 0) return;
    now_us = RealClock().NowMicros();
    size_t i = 2;
    for (auto it = connections_.begin(); it != connections_.end(); ++i) {
      const bool open = now_us < it->until_us && (fds[i].revents == 0 || Advance(*it, now_us));
      if (!open) close(it->fd);
      it = open ? std::next(it) : connections_.erase(it);
    }
    // Out of file descriptors, say: the client stays in the queue, and polling at once would spin.
    if (fds[1].revents != 0 && !Accept(now_us)) accept_from_us = now_us + kAcceptPauseUs;
  }
}

bool MetricsHttp::Accept(int64_t now_us) {
  const int fd = accept4(listen_fd_, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
  if (fd < 0) return errno == EAGAIN || errno == EINTR || errno == ECONNABORTED;
  if (connections_.size() >= static_cast<size_t>(options_.max_connections)) {
    const auto silent = std::min_element(connections_.begin(), connections_.end(),
                                         [](const Connection& a, const Connection& b) { return a.active_us < b.active_us; });
    close(silent->fd);
    connections_.erase(silent);
  }
  Connection& connection = connections_.emplace_back();
  connection.fd = fd;
  connection.active_us = now_us;
  connection.until_us = now_us + options_.client_time_us;
  // The request often came with the connection.
  if (!Advance(connection, now_us)) {
    close(fd);
    connections_.pop_back();
  }
  return true;
}

bool MetricsHttp::Advance(Connection& connection, int64_t now_us) const {
  while (connection.response.empty()) {
    char buffer[2048];
    const ssize_t count = recv(connection.fd, buffer, sizeof(buffer), 0);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0 && errno == EAGAIN) return true;
    if (count <= 0) return false;
    connection.active_us = now_us;
    connection.request.append(buffer, static_cast<size_t>(count));
    if (connection.request.find("\r\n\r\n") != std::string::npos) connection.response = Respond(connection.request);
    if (connection.response.empty() && connection.request.size() > kMaxRequestBytes) return false;
  }
  while (connection.sent < connection.response.size()) {
    const ssize_t count =
        send(connection.fd, connection.response.data() + connection.sent, connection.response.size() - connection.sent, MSG_NOSIGNAL);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0 && errno == EAGAIN) return true;
    if (count <= 0) return false;
    connection.active_us = now_us;
    connection.sent += static_cast<size_t>(count);
  }
  return false;
}

std::string MetricsHttp::Respond(const std::string& request) const {
  std::string_view line = std::string_view(request).substr(0, request.find("\r\n"));
  const bool head = line.starts_with("HEAD ");
  if (!head && !line.starts_with("GET ")) return Response("405 Method Not Allowed", "text/plain", "");
  line.remove_prefix(head ? 5 : 4);
  const std::string_view path = line.substr(0, line.find_first_of(" ?"));
  const bool found = path == "/metrics";
  const std::string body = found ? text_() : "metrics are under /metrics\n";
  std::string response = Response(found ? "200 OK" : "404 Not Found", "text/plain; version=0.0.4; charset=utf-8", body);
  if (!head) response += body;
  return response;
}

}  // namespace loci
