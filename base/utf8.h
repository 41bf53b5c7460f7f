// UTF-8 validation and small helpers.
#ifndef LOCI_BASE_UTF8_H_
#define LOCI_BASE_UTF8_H_

#include <cstddef>
#include <string_view>

namespace loci {

// Byte offset of the first byte that is not part of valid UTF-8 (no overlong forms, no surrogates, at most U+10FFFF), or npos.
size_t FindInvalidUtf8(std::string_view text);
inline bool IsValidUtf8(std::string_view text) { return FindInvalidUtf8(text) == std::string_view::npos; }

// The largest prefix length <= `limit` that does not cut a character of valid UTF-8.
size_t Utf8Prefix(std::string_view text, size_t limit);

}  // namespace loci

#endif  // LOCI_BASE_UTF8_H_
