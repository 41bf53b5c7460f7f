// The whole server in one object: pools, encoders, stores, pipeline, services, health, metrics.
//
//   LOCI_ASSIGN_OR_RETURN(std::unique_ptr<Server> server, Server::Start({.model_directory = "...", .listen = "127.0.0.1:0"}));
//   ... a channel to server->address() ...
//   server->Stop();
#ifndef LOCI_SERVER_SERVER_H_
#define LOCI_SERVER_SERVER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/file.h"
#include "encoder/batcher.h"

namespace loci {

struct ServerOptions {
  std::string data_directory = "loci-data";  // Made if absent; one server at a time.
  std::string model_directory = "models/all-MiniLM-L6-v2";
  std::string listen = "127.0.0.1:7440";  // HOST:PORT; port 0 picks one.
  std::string metrics_listen = "127.0.0.1:7441";  // Empty: none.
  std::string device = "auto";
  int thread_count = 0;  // Of the pool that tokenizes, encodes, searches. 0: one a core.
  int admin_thread_count = 8;
  int64_t max_in_flight = 1'024;
  int64_t max_in_flight_bytes = int64_t{1} << 28;
  int64_t max_ingests = 4;
  int64_t pushback_ms = 250;
  int64_t ingest_idle_timeout_ms = 120'000;
  int64_t drain_timeout_ms = 30'000;  // Stop waits so long for requests in flight, then cancels them.
  double abstain_threshold = 0.42;  // Below this confidence a reader gives no answer.
  BatcherOptions batcher;
  FileSystem* fs = &PosixFileSystem();
  Clock* clock = &RealClock();
  std::function<void(const std::string& address)> on_metrics_listening;  // Called once, while the rest still starts.
};

// Thread-safe, but for Start and the destructor.
class Server {
 public:
  // Returns once the server can answer. An error says what could not be had: an address, the device, the model, the data directory.
  // Blocks while stores are loaded.
  static absl::StatusOr<std::unique_ptr<Server>> Start(ServerOptions options);
  ~Server();  // Stops.

  const std::string& address() const;          // HOST:PORT of gRPC.
  const std::string& metrics_address() const;  // Empty where there is none.
  std::string MetricsText() const;             // What /metrics answers.

  // Health says NOT_SERVING, new requests get UNAVAILABLE, each admitted one is answered (after drain_timeout_ms with CANCELLED), then
  // the connections are closed. Returns when all is done; a second call waits for the first.
  void Stop();

 private:
  struct State;
  explicit Server(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace loci

#endif  // LOCI_SERVER_SERVER_H_
