// The whole server in one object: pools, encoders, stores, pipeline, services, health, metrics.
//
//   LOCI_ASSIGN_OR_RETURN(std::unique_ptr<Server> server, Server::Start({.model_directory = "...", .listen = "127.0.0.1:0"}));
//   ... a channel to server->address() ...
//   server->Stop();
#ifndef LOCI_SERVER_SERVER_H_
#define LOCI_SERVER_SERVER_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "server/server_options.h"

namespace loci {

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
