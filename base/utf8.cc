#include "base/utf8.h"

#include <cstdint>
#include <cstring>

namespace loci {

size_t FindInvalidUtf8(std::string_view text) {
  const auto* bytes = reinterpret_cast<const unsigned char*>(text.data());
  const size_t size = text.size();
  const auto is_continuation = [&](size_t i) { return i < size && (bytes[i] & 0xc0) == 0x80; };
  size_t i = 0;
  while (i < size) {
    if (size - i >= 8) {  // Eight ASCII bytes at once.
      uint64_t word;
      std::memcpy(&word, bytes + i, sizeof(word));
      if ((word & 0x8080808080808080u) == 0) {
        i += 8;
        continue;
      }
    }
    const unsigned char lead = bytes[i];
    if (lead < 0x80) {
      i += 1;
    } else if (lead >= 0xc2 && lead <= 0xdf) {
      if (!is_continuation(i + 1)) return i;
      i += 2;
    } else if (lead >= 0xe0 && lead <= 0xef) {
      if (!is_continuation(i + 1) || !is_continuation(i + 2)) return i;
      if (lead == 0xe0 && bytes[i + 1] < 0xa0) return i;   // Overlong.
      if (lead == 0xed && bytes[i + 1] >= 0xa0) return i;  // A surrogate.
      i += 3;
    } else if (lead >= 0xf0 && lead <= 0xf4) {
      if (!is_continuation(i + 1) || !is_continuation(i + 2) || !is_continuation(i + 3)) return i;
      if (lead == 0xf0 && bytes[i + 1] < 0x90) return i;   // Overlong.
      if (lead == 0xf4 && bytes[i + 1] >= 0x90) return i;  // Above U+10FFFF.
      i += 4;
    } else {
      return i;
    }
  }
  return std::string_view::npos;
}

size_t Utf8Prefix(std::string_view text, size_t limit) {
  if (limit >= text.size()) return text.size();
  size_t size = limit;
  // At most three continuation bytes precede the cut in valid text.
  for (int i = 0; i < 3 && size > 0 && (static_cast<unsigned char>(text[size]) & 0xc0) == 0x80; ++i) --size;
  return size;
}

}  // namespace loci
