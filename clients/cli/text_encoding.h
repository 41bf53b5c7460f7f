// Text of files in UTF-8, and in UTF-16 where a byte order mark tells.
#ifndef LOCI_CLIENTS_CLI_TEXT_ENCODING_H_
#define LOCI_CLIENTS_CLI_TEXT_ENCODING_H_

#include <cstddef>
#include <string>

#include "absl/status/statusor.h"

namespace loci {

struct DecodedText {
  std::string text;         // Valid UTF-8 with no NUL and no byte order mark.
  size_t offset_bytes = 0;  // Of `text` in the bytes given: 3 behind the mark of UTF-8, else 0.
};

// The text of a file's bytes: UTF-8, or UTF-16 of either byte order where it begins with a byte order mark. INVALID_ARGUMENT, naming the
// first bad byte (from 1), for another encoding or a NUL: nothing is guessed.
absl::StatusOr<DecodedText> DecodeText(std::string bytes);

}  // namespace loci

#endif  // LOCI_CLIENTS_CLI_TEXT_ENCODING_H_
