#include "base/field_error.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "base/strings.h"

namespace loci {

absl::Status FieldError(std::string_view field, std::string_view message) {
  return ErrorWithReason(absl::InvalidArgumentError(AbslView(message)), "INVALID_ARGUMENT", {{"field", std::string(field)}});
}

absl::Status InvalidField(std::string_view field, std::string_view problem) {
  return FieldError(field, absl::StrCat(AbslView(field), " ", AbslView(problem)));
}

}  // namespace loci
