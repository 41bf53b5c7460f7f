#include "clients/cli/rpc_error.h"

#include "absl/strings/str_cat.h"
#include "clients/cli/display.h"
#include "proto/loci/rpc/status.pb.h"

namespace loci {

std::string GrpcCodeName(int code) {
  return absl::StatusCodeToString(static_cast<absl::StatusCode>(code)).empty()
             ? absl::StrCat("CODE_", code)
             : absl::StatusCodeToString(static_cast<absl::StatusCode>(code));
}

RpcError DecodeRpcError(const grpc::Status& status) {
  RpcError error;
  error.code = GrpcCodeName(status.error_code());
  error.message = status.error_message();
  if (error.message.empty() && status.error_code() == grpc::StatusCode::UNIMPLEMENTED) {
    error.message = "the server does not know this method";
  }
  rpc::Status details;
  if (!details.ParseFromString(status.error_details())) return error;
  for (const google::protobuf::Any& detail : details.details()) {
    rpc::ErrorInfo info;
    if (!detail.type_url().ends_with("/google.rpc.ErrorInfo") || !info.ParseFromString(detail.value())) continue;
    error.reason = info.reason();
    error.domain = info.domain();
    error.metadata.insert(info.metadata().begin(), info.metadata().end());
    break;
  }
  return error;
}

std::string FormatRpcError(const RpcError& error) {
  std::string text = absl::StrCat("error: ", error.code, ": ", error.message);
  if (!error.reason.empty()) {
    absl::StrAppend(&text, " (reason ", error.reason);
    for (const auto& [name, value] : error.metadata) absl::StrAppend(&text, ", ", name, "=", value);
    text += ')';
  }
  return SanitizeLine(text) + '\n';
}

ExitCode ExitCodeOf(const grpc::Status& status) {
  switch (status.error_code()) {
    case grpc::StatusCode::OK:
      return kExitOk;
    case grpc::StatusCode::UNAVAILABLE:
      return kExitUnreachable;
    case grpc::StatusCode::DEADLINE_EXCEEDED:
      return kExitTimeout;
    default:
      return kExitFailed;
  }
}

}  // namespace loci
