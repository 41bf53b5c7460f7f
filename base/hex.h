// Hex digits as files and clients have them.
#ifndef LOCI_BASE_HEX_H_
#define LOCI_BASE_HEX_H_

#include <cstddef>
#include <string_view>

namespace loci {

inline constexpr size_t kHalfDigits = 16;  // Of a half of a fingerprint.

// Whether the text is so many hex digits, lower-case.
inline bool IsHex(std::string_view text, size_t digits) {
  return text.size() == digits && text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

}  // namespace loci

#endif  // LOCI_BASE_HEX_H_
