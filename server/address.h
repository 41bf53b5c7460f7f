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

// Binds and lets go at once, for an error in words: gRPC and the HTTP library only say that they could not.
// FAILED_PRECONDITION "cannot listen on 127.0.0.1:7440: Address already in use". Blocks while a name is resolved.
absl::Status CheckCanListen(const HostPort& address);

}  // namespace loci

#endif  // LOCI_SERVER_ADDRESS_H_
