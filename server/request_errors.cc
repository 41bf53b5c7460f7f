#include "server/request_errors.h"

#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "base/strings.h"
#include "base/utf8.h"

namespace loci {

absl::Status InField(const absl::Status& status, std::string_view field) {
  if (!absl::IsInvalidArgument(status)) return status;
  ErrorReason reason = GetErrorReason(status).value_or(ErrorReason{.reason = "INVALID_ARGUMENT"});
  const auto named = reason.metadata.find("field");
  reason.metadata["field"] = named == reason.metadata.end() ? std::string(field) : absl::StrCat(AbslView(field), ".", named->second);
  return ErrorWithReason(status, reason.reason, std::move(reason.metadata));
}

std::string Quoted(std::string_view value) {
  constexpr size_t kLimit = 64;
  if (value.size() <= kLimit) return absl::StrCat("\"", AbslView(value), "\"");
  return absl::StrCat("\"", AbslView(value.substr(0, Utf8Prefix(value, kLimit))), "...\" (", value.size(), " bytes)");
}

}  // namespace loci
