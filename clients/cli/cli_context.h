// What every command needs: where to print, the server, and how errors end.
#ifndef LOCI_CLIENTS_CLI_CLI_CONTEXT_H_
#define LOCI_CLIENTS_CLI_CLI_CONTEXT_H_

#include <grpcpp/grpcpp.h>

#include <cstdint>
#include <memory>
#include <ostream>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "clients/cli/input_interrupt.h"
#include "clients/cli/rpc_error.h"
#include "clients/cli/text_table.h"
#include "google/protobuf/message.h"
#include "proto/loci/v1/admin.grpc.pb.h"
#include "proto/loci/v1/retrieval.grpc.pb.h"

namespace loci {

// Where the program runs. Widths are columns; 0 means that it is not a terminal.
struct CliEnvironment {
  std::ostream& out;
  std::ostream& err;
  int out_width = 0;
  int err_width = 0;
  bool stdin_is_terminal = false;
  std::string server;  // $LOCI_SERVER.
};

// Flags of every command.
struct GlobalOptions {
  std::string server = "127.0.0.1:7440";
  std::string output = "table";
  int64_t timeout_ms = -1;  // -1: the command's own default. 0: none.
};

// Used by one thread: the command's; stubs and NewCallContext() may be used by any.
class CliContext {
 public:
  CliContext(const CliEnvironment& environment, GlobalOptions options);

  std::ostream& out() { return environment_.out; }
  std::ostream& err() { return environment_.err; }
  const CliEnvironment& environment() const { return environment_; }
  const GlobalOptions& options() const { return options_; }
  bool json() const { return options_.output == "json"; }

  v1::RetrievalService::Stub& retrieval();
  v1::AdminService::Stub& admin();
  // A channel of its own: its calls share no connection with others.
  std::shared_ptr<grpc::Channel> NewChannel() const;

  // Ends the reading of input at --timeout, counted from the command's start.
  InputInterrupt& interrupt() { return interrupt_; }

  // A call's context with its deadline: --timeout, or else `default_timeout_ms` (0: none).
  void SetDeadline(grpc::ClientContext* context, int64_t default_timeout_ms) const;

  static constexpr int64_t kDefaultTimeoutMs = 60'000;
  static constexpr int64_t kNoTimeout = 0;

  // Calls `method` of `stub`; where that fails prints the error and sets *exit_code. Returns whether there is a response.
  template <typename Stub, typename Request, typename Response>
  bool Call(Stub& stub, grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Response*), const Request& request,
            Response* response, int* exit_code, int64_t default_timeout_ms = kDefaultTimeoutMs) {
    grpc::ClientContext context;
    SetDeadline(&context, default_timeout_ms);
    const grpc::Status status = (stub.*method)(&context, request, response);
    if (!status.ok()) *exit_code = Fail(status);
    return status.ok();
  }

  // Print the error and return the exit code that fits it. The second is for what went wrong on this side.
  int Fail(const grpc::Status& status);
  int Fail(const absl::Status& status);
  // Of a call that failed, whose error was printed; names the server where none answers.
  int ExitCodeAfterHint(const grpc::Status& status);
  int UsageError(std::string_view message);

  // Proto3 JSON with the proto's own field names, fields at their default printed too. Returns the exit code.
  int PrintJson(const google::protobuf::Message& message);
  void PrintTable(const TextTable& table);
  // --dry-run: "dry run, nothing was sent: would TEXT", or in JSON the request message. Returns the exit code.
  int PrintDryRun(std::string_view text, const google::protobuf::Message& request);

 private:
  CliEnvironment environment_;
  const GlobalOptions options_;
  InputInterrupt interrupt_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::RetrievalService::Stub> retrieval_;
  std::unique_ptr<v1::AdminService::Stub> admin_;
};

// INVALID_ARGUMENT unless it is HOST:PORT: a name, an IPv4 address or an IPv6 one in brackets, and a port of 1 to 65535.
absl::Status CheckServerAddress(std::string_view address);

// "default" for the empty name.
std::string StoreName(std::string_view store);

}  // namespace loci

#endif  // LOCI_CLIENTS_CLI_CLI_CONTEXT_H_
