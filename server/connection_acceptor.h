// Accepts the connections of the gRPC port and hands them over, a bounded number of them.
//
// gRPC 1.51 can do it itself, but when the system has no file descriptor left it stops listening, for good: a few thousand idle clients take
// a server away from all that come after them. Here who comes when the house is full is turned away, and the next one is let in as soon as
// somebody has left.
#ifndef LOCI_SERVER_CONNECTION_ACCEPTOR_H_
#define LOCI_SERVER_CONNECTION_ACCEPTOR_H_

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <thread>
#include <unordered_map>

#include "absl/status/statusor.h"
#include "base/metrics.h"
#include "server/address.h"

namespace loci {

// The soft limit of open files, after it was raised to the hard one where that is allowed. Of the whole process.
int64_t RaiseFileLimit();
// How many connections a process with such a limit may have beside its files: `wanted`, or as many as leave room for those.
int64_t ConnectionLimit(int64_t wanted, int64_t file_limit);

// Thread-safe, but for Start and the destructor.
class ConnectionAcceptor {
 public:
  struct Options {
    int64_t max_connections = 16'384;
    int64_t max_descriptor = INT64_MAX;  // One above it is closed at once: so many files are open.
    int user_timeout_ms = 20'000;        // A connection whose client takes nothing for so long is closed.
    MetricsSink* metrics = &NullMetrics();
  };

  // FAILED_PRECONDITION where `address` can't be listened on. Connections wait until Start.
  static absl::StatusOr<std::unique_ptr<ConnectionAcceptor>> Listen(const HostPort& address, const Options& options);
  ~ConnectionAcceptor();  // Joins and stops listening; connections handed over stay.
  ConnectionAcceptor(const ConnectionAcceptor&) = delete;
  ConnectionAcceptor& operator=(const ConnectionAcceptor&) = delete;

  const HostPort& address() const { return address_; }  // The port as it is.
  // From now on `hand_over` gets connected sockets (non-blocking, its own to close) on this object's thread. Once.
  void Start(std::function<void(int fd)> hand_over);

 private:
  ConnectionAcceptor(Listener listener, int wake_fd, const Options& options);
  void Serve();
  bool Accept();       // False where the system has none to give although one waits.
  bool Full();
  void ForgetClosed();  // Of those that were handed over.

  const HostPort address_;
  const int listen_fd_;
  const int wake_fd_;  // Readable once this object ends.
  const Options options_;
  Gauge& open_;
  Counter& accepted_;
  Counter& refused_;
  std::function<void(int)> hand_over_;
  // Of the thread. Sockets handed over, by descriptor: the same inode is there as long as it is open.
  std::unordered_map<int, ino_t> handed_over_;
  int64_t looked_us_ = 0;      // When the closed ones were forgotten last.
  int64_t complained_us_ = 0;  // When the log was told of a full house last.
  std::thread thread_;
};

}  // namespace loci

#endif  // LOCI_SERVER_CONNECTION_ACCEPTOR_H_
