// HOST:PORT.
#ifndef LOCI_SERVER_ADDRESS_H_
#define LOCI_SERVER_ADDRESS_H_

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace loci {

struct HostPort {
  std::string host;  // Without brackets.
  int port = 0;      // 0 to 65535; 0 picks one.

  std::string ToString() const;  // "127.0.0.1:7440", "[::1]:7440".
};

// INVALID_ARGUMENT where `address` is not HOST:PORT or [IPV6]:PORT.
absl::StatusOr<HostPort> ParseHostPort(std::string_view address);

// A listening TCP socket.
struct Listener {
  int fd = -1;       // Non-blocking; the caller's to close.
  HostPort address;  // The port as it is.
};

// FAILED_PRECONDITION "cannot listen on 127.0.0.1:7440: Address already in use". Blocks while a name is resolved.
absl::StatusOr<Listener> ListenOn(const HostPort& address);

// ListenOn that lets go at once, for its error in words: gRPC only says that it could not.
absl::Status CheckCanListen(const HostPort& address);

}  // namespace loci

#endif  // LOCI_SERVER_ADDRESS_H_
