// What went wrong with a call, for people and for scripts.
#ifndef LOCI_CLIENTS_CLI_RPC_ERROR_H_
#define LOCI_CLIENTS_CLI_RPC_ERROR_H_

#include <grpcpp/support/status.h>

#include <map>
#include <string>

#include "absl/status/status.h"

namespace loci {

// What the program ends with. Printed by `loci help`.
enum ExitCode : int {
  kExitOk = 0,
  // The server refused the request, or some of the input was not taken, or a file cannot be read, or a job that was watched failed, or a plan
  // has blockers.
  kExitFailed = 1,
  kExitUsage = 2,        // The command line is wrong; nothing was sent.
  kExitUnreachable = 3,  // No server answers there, or it is draining.
  kExitTimeout = 4,      // --timeout passed. A change may have been made or not.
};

struct RpcError {
  std::string code;  // "NOT_FOUND".
  std::string message;
  std::string reason;  // ErrorInfo's; empty where the server sent none.
  std::string domain;
  std::map<std::string, std::string> metadata;
};

// Decodes the google.rpc.Status in the trailer grpc-status-details-bin; details that cannot be decoded are left out.
RpcError DecodeRpcError(const grpc::Status& status);

// "error: NOT_FOUND: no store named movies (reason STORE_NOT_FOUND, store=movies)\n", safe to print on a terminal.
std::string FormatRpcError(const RpcError& error);

ExitCode ExitCodeOf(const grpc::Status& status);

// "INVALID_ARGUMENT" for code 3.
std::string GrpcCodeName(int code);

}  // namespace loci

#endif  // LOCI_CLIENTS_CLI_RPC_ERROR_H_
