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

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/status_macros.h"

namespace loci {
namespace {

constexpr int64_t kClientTimeUs = 5'000'000;
constexpr size_t kMaxRequestBytes = 16 << 10;

std::string Response(const char* status, const char* type, const std::string& body) {
  return absl::StrCat("HTTP/1.1 ", status, "\r\nContent-Type: ", type, "\r\nContent-Length: ", body.size(), "\r\nConnection: close\r\n\r\n");
}

}  // namespace

absl::StatusOr<std::unique_ptr<MetricsHttp>> MetricsHttp::Listen(const HostPort& address, std::function<std::string()> text) {
  LOCI_ASSIGN_OR_RETURN(Listener listener, ListenOn(address));
  const int wake_fd = eventfd(0, EFD_CLOEXEC);
  if (wake_fd < 0) {
    close(listener.fd);
    return absl::InternalError(absl::StrCat("eventfd: ", strerror(errno)));
  }
  return std::unique_ptr<MetricsHttp>(new MetricsHttp(std::move(listener), wake_fd, std::move(text)));
}

MetricsHttp::MetricsHttp(Listener listener, int wake_fd, std::function<std::string()> text)
    : address_(listener.address), listen_fd_(listener.fd), wake_fd_(wake_fd), text_(std::move(text)), thread_([this] { Serve(); }) {}

MetricsHttp::~MetricsHttp() {
  const uint64_t one = 1;
  (void)!write(wake_fd_, &one, sizeof(one));
  thread_.join();
  close(listen_fd_);
  close(wake_fd_);
}

bool MetricsHttp::WaitFor(int fd, short events, int64_t until_us) const {
  while (true) {
    const int64_t left_us = until_us - RealClock().NowMicros();
    if (left_us <= 0) return false;
    pollfd fds[2] = {{wake_fd_, POLLIN, 0}, {fd, events, 0}};
    const int ready = poll(fds, 2, static_cast<int>(std::min<int64_t>(left_us / 1000 + 1, 60'000)));
    if (ready < 0 && errno != EINTR) return false;
    if (ready <= 0) continue;
    if (fds[0].revents != 0) return false;
    if (fds[1].revents != 0) return true;
  }
}

void MetricsHttp::Serve() {
  while (WaitFor(listen_fd_, POLLIN, kNoDeadlineMicros)) {
    const int client = accept4(listen_fd_, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (client < 0) {
      // Out of file descriptors, say: the client stays in the queue, and polling at once would spin.
      if (errno != EINTR && errno != ECONNABORTED) WaitFor(-1, 0, RealClock().NowMicros() + 100'000);
      continue;
    }
    Answer(client);
    close(client);
  }
}

void MetricsHttp::Answer(int client) const {
  const int64_t until_us = RealClock().NowMicros() + kClientTimeUs;
  std::string request;
  while (request.find("\r\n\r\n") == std::string::npos) {
    char buffer[2048];
    if (request.size() > kMaxRequestBytes || !WaitFor(client, POLLIN, until_us)) return;
    const ssize_t count = recv(client, buffer, sizeof(buffer), 0);
    if (count < 0 && (errno == EAGAIN || errno == EINTR)) continue;
    if (count <= 0) return;
    request.append(buffer, static_cast<size_t>(count));
  }
  std::string_view line = std::string_view(request).substr(0, request.find("\r\n"));
  const bool head = line.starts_with("HEAD ");
  std::string response;
  if (!head && !line.starts_with("GET ")) {
    response = Response("405 Method Not Allowed", "text/plain", "");
  } else {
    line.remove_prefix(head ? 5 : 4);
    const std::string_view path = line.substr(0, line.find_first_of(" ?"));
    const bool found = path == "/metrics";
    const std::string body = found ? text_() : "metrics are under /metrics\n";
    response = Response(found ? "200 OK" : "404 Not Found", "text/plain; version=0.0.4; charset=utf-8", body);
    if (!head) response += body;
  }
  std::string_view rest = response;
  while (!rest.empty()) {
    const ssize_t count = send(client, rest.data(), rest.size(), MSG_NOSIGNAL);
    if (count > 0) {
      rest.remove_prefix(static_cast<size_t>(count));
    } else if (count < 0 && errno == EAGAIN) {
      if (!WaitFor(client, POLLOUT, until_us)) return;
    } else if (count == 0 || errno != EINTR) {
      return;
    }
  }
}

}  // namespace loci
