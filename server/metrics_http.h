// The HTTP port that metrics are read from: GET /metrics, and nothing else.
//
// Not prometheus-cpp's exposer: its civetweb gives its threads 100 KiB of stack, of which glibc takes the process's static thread-local
// storage, and OpenBLAS alone has 60 KiB of that. In the whole server a scrape ran off the stack.
#ifndef LOCI_SERVER_METRICS_HTTP_H_
#define LOCI_SERVER_METRICS_HTTP_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <string>
#include <thread>

#include "absl/status/statusor.h"
#include "server/address.h"

namespace loci {

// Answers many clients at a time from one thread of its own: a client that says nothing, or reads slowly, holds up no other. Thread-safe.
class MetricsHttp {
 public:
  struct Options {
    int max_connections = 32;            // One more, and the one that has been silent longest is dropped.
    int64_t client_time_us = 5'000'000;  // From a connection's arrival to the end of its answer; then it is dropped.
  };

  // `text` makes the body of each answer, on this object's thread. FAILED_PRECONDITION where `address` can't be listened on.
  static absl::StatusOr<std::unique_ptr<MetricsHttp>> Listen(const HostPort& address, std::function<std::string()> text,
                                                             const Options& options);
  static absl::StatusOr<std::unique_ptr<MetricsHttp>> Listen(const HostPort& address, std::function<std::string()> text) {
    return Listen(address, std::move(text), Options());
  }
  ~MetricsHttp();  // Joins; clients are cut off.
  MetricsHttp(const MetricsHttp&) = delete;
  MetricsHttp& operator=(const MetricsHttp&) = delete;

  const HostPort& address() const { return address_; }  // The port as it is.

 private:
  // Reads its request, then writes its answer, then is closed.
  struct Connection {
    int fd = -1;
    int64_t until_us = 0;
    int64_t active_us = 0;  // When it last sent or took something.
    std::string request;
    std::string response;  // Empty until the request is there.
    size_t sent = 0;
  };

  MetricsHttp(Listener listener, int wake_fd, std::function<std::string()> text, const Options& options);
  void Serve();
  bool Accept(int64_t now_us);  // False where the system has none to give although one waits.
  bool Advance(Connection& connection, int64_t now_us) const;  // False: close it.
  std::string Respond(const std::string& request) const;

  const HostPort address_;
  const int listen_fd_;
  const int wake_fd_;  // Readable once this object ends.
  const std::function<std::string()> text_;
  const Options options_;
  std::list<Connection> connections_;  // Of the thread. Oldest first.
  std::thread thread_;
};

}  // namespace loci

#endif  // LOCI_SERVER_METRICS_HTTP_H_
