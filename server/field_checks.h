// Checks that the validations of several services share. Errors: INVALID_ARGUMENT of request_errors.h, naming field, value and limit.
#ifndef LOCI_SERVER_FIELD_CHECKS_H_
#define LOCI_SERVER_FIELD_CHECKS_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace loci {

inline constexpr int64_t kMaxTextBytes = int64_t{1} << 20;

// "queries[3]".
std::string Element(std::string_view field, int64_t i);
// "is 0; it must be from 1 to 10".
std::string Range(int64_t value, int64_t least, int64_t most);
// Whether a repeated field has from `least` to `most` entries.
absl::Status CheckCount(std::string_view field, int64_t count, int64_t least, int64_t most);
// At most kMaxTextBytes; a question has a byte at least.
absl::Status CheckText(std::string_view field, std::string_view text);
absl::Status CheckQuestion(std::string_view field, std::string_view text);

}  // namespace loci

#endif  // LOCI_SERVER_FIELD_CHECKS_H_
