// The one table that turns the server's errors into what travels: the gRPC code, the message, and google.rpc.Status with ErrorInfo
// in the trailer grpc-status-details-bin.
#ifndef LOCI_SERVER_ERROR_TABLE_H_
#define LOCI_SERVER_ERROR_TABLE_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "grpcpp/support/status.h"

namespace loci {

inline constexpr char kErrorDomain[] = "loci";
inline constexpr char kPushbackTrailer[] = "grpc-retry-pushback-ms";

// Every error carries an ErrorInfo: its own reason, or the code's name ("NOT_FOUND"). Message and metadata are cut and made valid
// UTF-8, so that the trailers stay below the 8 KiB that clients accept. `request_id`, where it is not empty, is in the metadata, too.
grpc::Status ToGrpcStatus(const absl::Status& status, std::string_view request_id = {});

// What an error of an overload, which passes, asks the client to wait: `base_ms`, and on top of that what the error says (`retry_after_ms` in
// its details) or, where it says nothing, `backlog_ms`; a minute at most. nullopt for every other error: a full disk does not pass.
std::optional<int64_t> PushbackMs(const absl::Status& status, int64_t base_ms, int64_t backlog_ms);

// "INVALID_ARGUMENT"; "UNKNOWN" for a code that gRPC does not have.
std::string_view CodeName(absl::StatusCode code);

}  // namespace loci

#endif  // LOCI_SERVER_ERROR_TABLE_H_
