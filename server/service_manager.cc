#include "server/service_manager.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/logging.h"

namespace loci {

void NotifyServiceManager(std::string_view state) {
  const char* const path = std::getenv("NOTIFY_SOCKET");
  if (path == nullptr || *path == '\0') return;
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const size_t length = std::strlen(path);
  if ((path[0] != '/' && path[0] != '@') || length >= sizeof(address.sun_path)) {
    LogWarning("server", absl::StrCat("NOTIFY_SOCKET=", path, " is no socket that can be sent to"));
    return;
  }
  std::memcpy(address.sun_path, path, length);
  if (path[0] == '@') address.sun_path[0] = '\0';  // Of the abstract namespace.
  const int socket = ::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  const auto address_size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + length);
  if (socket < 0 || ::sendto(socket, state.data(), state.size(), MSG_NOSIGNAL, reinterpret_cast<const sockaddr*>(&address), address_size) < 0) {
    LogWarning("server", absl::StrCat("cannot tell the service manager at ", path, ": ", std::strerror(errno)));
  }
  if (socket >= 0) ::close(socket);
}

}  // namespace loci
