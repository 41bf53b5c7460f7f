#include "clients/cli/text_encoding.h"

#include <cstdint>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/utf8.h"

namespace loci {
namespace {

constexpr std::string_view kUtf8Mark = "\xEF\xBB\xBF";

void AppendCharacter(uint32_t code, std::string* text) {
  const auto add = [text](uint32_t byte) { *text += static_cast<char>(byte); };
  if (code < 0x80) {
    add(code);
  } else if (code < 0x800) {
    add(0xC0 | code >> 6);
    add(0x80 | (code & 0x3F));
  } else if (code < 0x10000) {
    add(0xE0 | code >> 12);
    add(0x80 | (code >> 6 & 0x3F));
    add(0x80 | (code & 0x3F));
  } else {
    add(0xF0 | code >> 18);
    add(0x80 | (code >> 12 & 0x3F));
    add(0x80 | (code >> 6 & 0x3F));
    add(0x80 | (code & 0x3F));
  }
}

absl::StatusOr<std::string> DecodeUtf16(std::string_view bytes, bool big_endian) {
  const auto unit = [&](size_t at) {
    const auto first = static_cast<unsigned char>(bytes[at]), second = static_cast<unsigned char>(bytes[at + 1]);
    return static_cast<uint32_t>(big_endian ? first << 8 | second : second << 8 | first);
  };
  std::string text;
  text.reserve(bytes.size());
  if (bytes.size() % 2 != 0) return absl::InvalidArgumentError("the UTF-16 text ends within a character");
  for (size_t at = 2; at < bytes.size(); at += 2) {
    uint32_t code = unit(at);
    if (code >= 0xD800 && code < 0xE000) {
      const uint32_t low = at + 2 < bytes.size() ? unit(at + 2) : 0;
      if (code >= 0xDC00 || low < 0xDC00 || low >= 0xE000) {
        return absl::InvalidArgumentError(absl::StrCat("not valid UTF-16 at byte ", at + 1, ": half of a surrogate pair"));
      }
      code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
      at += 2;
    }
    AppendCharacter(code, &text);
  }
  return text;
}

}  // namespace

absl::StatusOr<DecodedText> DecodeText(std::string bytes) {
  DecodedText decoded;
  const std::string_view view = bytes;
  if (view.starts_with(std::string_view("\xFF\xFE\0\0", 4)) || view.starts_with(std::string_view("\0\0\xFE\xFF", 4))) {
    return absl::InvalidArgumentError("the text is UTF-32; UTF-8 is needed, or UTF-16 with a byte order mark");
  }
  if (view.starts_with("\xFF\xFE") || view.starts_with("\xFE\xFF")) {
    absl::StatusOr<std::string> text = DecodeUtf16(view, bytes[0] == '\xFE');
    if (!text.ok()) return text.status();
    decoded.text = *std::move(text);
  } else {
    if (const size_t bad = FindInvalidUtf8(view); bad != std::string_view::npos) {
      return absl::InvalidArgumentError(
          absl::StrCat("not valid UTF-8 at byte ", bad + 1, "; UTF-8 is needed, or UTF-16 with a byte order mark"));
    }
    decoded.offset_bytes = view.starts_with(kUtf8Mark) ? kUtf8Mark.size() : 0;
    decoded.text = std::move(bytes);
    decoded.text.erase(0, decoded.offset_bytes);
  }
  if (const size_t nul = decoded.text.find('\0'); nul != std::string::npos) {
    return absl::InvalidArgumentError(absl::StrCat("there is a NUL at byte ", nul + 1,
                                                   ": that is not text (UTF-16 needs a byte order mark)"));
  }
  return decoded;
}

}  // namespace loci
