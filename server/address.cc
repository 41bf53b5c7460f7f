#include "server/address.h"

#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/strings.h"

namespace loci {
namespace {

// Connections that wait to be accepted: clients of a server that restarts come all at once. The system may allow fewer.
constexpr int kBacklog = 4096;

}  // namespace

std::string HostPort::ToString() const {
  if (host.find(':') != std::string::npos) return absl::StrCat("[", host, "]:", port);
  return absl::StrCat(host, ":", port);
}

absl::StatusOr<HostPort> ParseHostPort(std::string_view address) {
  const auto bad = [address] {
    return absl::InvalidArgumentError(
        absl::StrCat("\"", AbslView(address), "\" is not an address; it must be HOST:PORT with a port from 0 to 65535, e.g. 127.0.0.1:7440"));
  };
  const size_t colon = address.rfind(':');
  if (colon == std::string_view::npos) return bad();
  std::string_view host = address.substr(0, colon);
  const std::string_view port = address.substr(colon + 1);
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
  } else if (host.find(':') != std::string_view::npos) {
    return bad();
  }
  if (host.empty()) return bad();
  HostPort result;
  result.host = std::string(host);
  const auto [end, error] = std::from_chars(port.data(), port.data() + port.size(), result.port);
  if (error != std::errc() || end != port.data() + port.size() || result.port < 0 || result.port > 65535) return bad();
  return result;
}

absl::StatusOr<Listener> ListenOn(const HostPort& address) {
  const auto failed = [&address](const char* why) {
    return absl::FailedPreconditionError(absl::StrCat("cannot listen on ", address.ToString(), ": ", why));
  };
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  const int error = getaddrinfo(address.host.c_str(), std::to_string(address.port).c_str(), &hints, &found);
  if (error != 0) return failed(gai_strerror(error));
  absl::StatusOr<Listener> result = failed("the name has no address");
  for (const addrinfo* info = found; info != nullptr && !result.ok(); info = info->ai_next) {
    const int fd = socket(info->ai_family, info->ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, info->ai_protocol);
    if (fd < 0) {
      result = failed(strerror(errno));
      continue;
    }
    const int on = 1;  // As gRPC does: connections that linger after the last server's end are no reason.
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    sockaddr_storage bound{};
    socklen_t size = sizeof(bound);
    if (bind(fd, info->ai_addr, info->ai_addrlen) != 0 || listen(fd, kBacklog) != 0 ||
        getsockname(fd, reinterpret_cast<sockaddr*>(&bound), &size) != 0) {
      result = failed(strerror(errno));
      close(fd);
      continue;
    }
    const int port = ntohs(bound.ss_family == AF_INET6 ? reinterpret_cast<sockaddr_in6*>(&bound)->sin6_port
                                                       : reinterpret_cast<sockaddr_in*>(&bound)->sin_port);
    result = Listener{fd, {address.host, port}};
  }
  freeaddrinfo(found);
  return result;
}

absl::Status CheckCanListen(const HostPort& address) {
  const absl::StatusOr<Listener> listener = ListenOn(address);
  if (listener.ok()) close(listener->fd);
  return listener.status();
}

}  // namespace loci
