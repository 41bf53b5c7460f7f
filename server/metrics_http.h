// The HTTP port that metrics are read from: GET /metrics, and nothing else.
//
// Not prometheus-cpp's exposer: its civetweb gives its threads 100 KiB of stack, of which glibc takes the process's static thread-local
// storage, and OpenBLAS alone has 60 KiB of that. In the whole server a scrape ran off the stack.
#ifndef LOCI_SERVER_METRICS_HTTP_H_
#define LOCI_SERVER_METRICS_HTTP_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "absl/status/statusor.h"
#include "server/address.h"

namespace loci {

// Answers one client after the other, each within 5 s, on a thread of its own. Thread-safe.
class MetricsHttp {
 public:
  // `text` makes the body of each answer, on this object's thread. FAILED_PRECONDITION where `address` can't be listened on.
  static absl::StatusOr<std::unique_ptr<MetricsHttp>> Listen(const HostPort& address, std::function<std::string()> text);
  ~MetricsHttp();  // Joins; a client that stalls is cut off.
  MetricsHttp(const MetricsHttp&) = delete;
  MetricsHttp& operator=(const MetricsHttp&) = delete;

  const HostPort& address() const { return address_; }  // The port as it is.

 private:
  MetricsHttp(Listener listener, int wake_fd, std::function<std::string()> text);
  void Serve();
  void Answer(int client) const;
  bool WaitFor(int fd, short events, int64_t until_us) const;  // False after the time, or when this object ends.

  const HostPort address_;
  const int listen_fd_;
  const int wake_fd_;  // Readable once this object ends.
  const std::function<std::string()> text_;
  std::thread thread_;
};

}  // namespace loci

#endif  // LOCI_SERVER_METRICS_HTTP_H_
