#include "server/field_checks.h"

#include "absl/strings/str_cat.h"
#include "base/strings.h"
#include "server/request_errors.h"

namespace loci {

std::string Element(std::string_view field, int64_t i) { return absl::StrCat(AbslView(field), "[", i, "]"); }

std::string Range(int64_t value, int64_t least, int64_t most) {
  return absl::StrCat("is ", value, "; it must be from ", least, " to ", most);
}

absl::Status CheckCount(std::string_view field, int64_t count, int64_t least, int64_t most) {
  if (count >= least && count <= most) return absl::OkStatus();
  return InvalidField(field, absl::StrCat("has ", count, " entries; it must have from ", least, " to ", most));
}

absl::Status CheckText(std::string_view field, std::string_view text) {
  if (static_cast<int64_t>(text.size()) <= kMaxTextBytes) return absl::OkStatus();
  return InvalidField(field, absl::StrCat("has ", text.size(), " bytes; the limit is ", kMaxTextBytes));
}

absl::Status CheckQuestion(std::string_view field, std::string_view text) {
  if (text.empty()) return InvalidField(field, "is empty; it must have at least 1 byte");
  return CheckText(field, text);
}

}  // namespace loci
