#include "server/error_table.h"

#include <algorithm>
#include <array>
#include <map>

#include "absl/strings/numbers.h"
#include "base/error.h"
#include "base/strings.h"
#include "base/utf8.h"
#include "google/protobuf/any.pb.h"
#include "proto/loci/rpc/status.pb.h"

namespace loci {
namespace {

constexpr char kErrorInfoUrl[] = "type.googleapis.com/google.rpc.ErrorInfo";
// A message travels twice: percent-encoded (up to three bytes a byte) and in the detail, base64 over that.
constexpr size_t kMaxMessageBytesInTrailer = 1000;
constexpr size_t kMaxMetadataEntries = 6;
constexpr size_t kMaxMetadataBytes = 96;
constexpr size_t kMaxRequestIdInTrailer = 128;

struct Row {
  absl::StatusCode code;
  grpc::StatusCode grpc_code;
  std::string_view name;
};

constexpr std::array<Row, 17> kTable = {{
    {absl::StatusCode::kOk, grpc::StatusCode::OK, "OK"},
    {absl::StatusCode::kCancelled, grpc::StatusCode::CANCELLED, "CANCELLED"},
    {absl::StatusCode::kUnknown, grpc::StatusCode::UNKNOWN, "UNKNOWN"},
    {absl::StatusCode::kInvalidArgument, grpc::StatusCode::INVALID_ARGUMENT, "INVALID_ARGUMENT"},
    {absl::StatusCode::kDeadlineExceeded, grpc::StatusCode::DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED"},
    {absl::StatusCode::kNotFound, grpc::StatusCode::NOT_FOUND, "NOT_FOUND"},
    {absl::StatusCode::kAlreadyExists, grpc::StatusCode::ALREADY_EXISTS, "ALREADY_EXISTS"},
    {absl::StatusCode::kPermissionDenied, grpc::StatusCode::PERMISSION_DENIED, "PERMISSION_DENIED"},
    {absl::StatusCode::kResourceExhausted, grpc::StatusCode::RESOURCE_EXHAUSTED, "RESOURCE_EXHAUSTED"},
    {absl::StatusCode::kFailedPrecondition, grpc::StatusCode::FAILED_PRECONDITION, "FAILED_PRECONDITION"},
    {absl::StatusCode::kAborted, grpc::StatusCode::ABORTED, "ABORTED"},
    {absl::StatusCode::kOutOfRange, grpc::StatusCode::OUT_OF_RANGE, "OUT_OF_RANGE"},
    {absl::StatusCode::kUnimplemented, grpc::StatusCode::UNIMPLEMENTED, "UNIMPLEMENTED"},
    {absl::StatusCode::kInternal, grpc::StatusCode::INTERNAL, "INTERNAL"},
    {absl::StatusCode::kUnavailable, grpc::StatusCode::UNAVAILABLE, "UNAVAILABLE"},
    {absl::StatusCode::kDataLoss, grpc::StatusCode::DATA_LOSS, "DATA_LOSS"},
    {absl::StatusCode::kUnauthenticated, grpc::StatusCode::UNAUTHENTICATED, "UNAUTHENTICATED"},
}};

const Row& Find(absl::StatusCode code) {
  for (const Row& row : kTable) {
    if (row.code == code) return row;
  }
  return kTable[2];
}

// At most `limit` bytes of valid UTF-8; what is not valid becomes '?'.
std::string Clean(std::string_view text, size_t limit) {
  std::string result(text.substr(0, limit + 4));
  for (size_t bad = FindInvalidUtf8(result); bad != std::string::npos; bad = FindInvalidUtf8(result)) result[bad] = '?';
  result.resize(Utf8Prefix(result, limit));
  if (result.size() < text.size() && limit > 3) {
    result.resize(Utf8Prefix(result, limit - 3));
    result += "...";
  }
  return result;
}

}  // namespace

std::optional<int64_t> PushbackMs(const absl::Status& status, int64_t base_ms, int64_t backlog_ms) {
  constexpr int64_t kMostMs = 60'000;
  if (status.code() != absl::StatusCode::kResourceExhausted) return std::nullopt;
  const std::optional<ErrorReason> reason = GetErrorReason(status);
  if (!reason.has_value() || (reason->reason != "OVERLOADED" && reason->reason != "ENCODER_QUEUE_FULL")) return std::nullopt;
  if (const auto found = reason->metadata.find("retry_after_ms"); found != reason->metadata.end()) {
    int64_t told_ms = 0;
    if (absl::SimpleAtoi(found->second, &told_ms)) backlog_ms = told_ms;
  }
  return std::min(kMostMs, base_ms + std::clamp<int64_t>(backlog_ms, 0, kMostMs));
}

std::string_view CodeName(absl::StatusCode code) { return Find(code).name; }

grpc::Status ToGrpcStatus(const absl::Status& status, std::string_view request_id) {
  if (status.ok()) return grpc::Status::OK;
  const Row& row = Find(status.code());
  const std::string message = Clean(StdView(status.message()), kMaxMessageBytesInTrailer);

  rpc::ErrorInfo info;
  info.set_domain(kErrorDomain);
  info.set_reason(std::string(row.name));
  if (const std::optional<ErrorReason> reason = GetErrorReason(status); reason.has_value()) {
    if (!reason->reason.empty()) info.set_reason(Clean(reason->reason, kMaxMetadataBytes));
    for (const auto& [key, value] : reason->metadata) {
      if (static_cast<size_t>(info.metadata_size()) == kMaxMetadataEntries) break;
      (*info.mutable_metadata())[Clean(key, kMaxMetadataBytes)] = Clean(value, kMaxMetadataBytes);
    }
  }
  if (!request_id.empty()) (*info.mutable_metadata())["request_id"] = Clean(request_id, kMaxRequestIdInTrailer);
  rpc::Status detail;
  detail.set_code(row.grpc_code);
  detail.set_message(message);
  google::protobuf::Any& any = *detail.add_details();
  any.set_type_url(kErrorInfoUrl);
  any.set_value(info.SerializeAsString());
  return grpc::Status(row.grpc_code, message, detail.SerializeAsString());
}

}  // namespace loci
