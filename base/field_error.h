// Errors that name the field of a request that earned them.
#ifndef LOCI_BASE_FIELD_ERROR_H_
#define LOCI_BASE_FIELD_ERROR_H_

#include <string_view>

#include "absl/status/status.h"

namespace loci {

// INVALID_ARGUMENT `message`, with reason INVALID_ARGUMENT and `field` in its metadata.
absl::Status FieldError(std::string_view field, std::string_view message);

// The same, where the message is "`field` `problem`": InvalidField("top_k", "is 0; it must be from 1 to 10000").
absl::Status InvalidField(std::string_view field, std::string_view problem);

}  // namespace loci

#endif  // LOCI_BASE_FIELD_ERROR_H_
