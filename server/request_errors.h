// The errors that a request's own fields earn, in one wording.
#ifndef LOCI_SERVER_REQUEST_ERRORS_H_
#define LOCI_SERVER_REQUEST_ERRORS_H_

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "base/field_error.h"  // InvalidField, for who validates.

namespace loci {

// `status` with `field` in its ErrorInfo where it is an INVALID_ARGUMENT that names none, or, where it names one, with `field` and a dot before
// that: InField(ValidatePassage(passage), "passages[3]") is about "passages[3].text". Others stay as they are.
absl::Status InField(const absl::Status& status, std::string_view field);

// A client's string for a message: quoted, cut to 64 bytes at a character's end.
std::string Quoted(std::string_view value);

}  // namespace loci

#endif  // LOCI_SERVER_REQUEST_ERRORS_H_
