// Errors with a machine-readable reason.
//
// An absl::Status carries the code and a message for people; its reason and details travel as a payload until the server turns
// them into google.rpc.ErrorInfo (one table: server/error_table.h).
//
//   return ErrorWithReason(absl::FailedPreconditionError("3 writes were made since generation g1"), "WRITES_SINCE",
//                          {{"count", "3"}, {"generation", "g1"}});
#ifndef LOCI_BASE_ERROR_H_
#define LOCI_BASE_ERROR_H_

#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace loci {

// What a program reads of an error. `reason` is UPPER_SNAKE_CASE and stable; `metadata` values are short strings.
struct ErrorReason {
  std::string reason;
  std::map<std::string, std::string> metadata;
};

// Returns `status` with `reason` and `metadata` attached. `status` must not be OK.
absl::Status ErrorWithReason(absl::Status status, std::string_view reason, std::map<std::string, std::string> metadata = {});

// The reason attached to `status`, or nullopt where there is none.
std::optional<ErrorReason> GetErrorReason(const absl::Status& status);

// The same status with "`prefix`: " before its message; code and payloads stay.
absl::Status Annotate(const absl::Status& status, std::string_view prefix);

}  // namespace loci

#endif  // LOCI_BASE_ERROR_H_
