#include "clients/cli/display.h"

#include <utf8proc.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <ctime>

namespace loci {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";
constexpr std::string_view kEllipsis = "\xE2\x80\xA6";

// Decodes the character at `offset`. Returns its length, or 0 where the bytes are not UTF-8.
size_t Decode(std::string_view text, size_t offset, utf8proc_int32_t* codepoint) {
  const utf8proc_ssize_t length = utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(text.data()) + offset,
                                                   static_cast<utf8proc_ssize_t>(text.size() - offset), codepoint);
  return length > 0 ? static_cast<size_t>(length) : 0;
}

bool IsSpace(utf8proc_int32_t c) {
  return c == ' ' || (c >= '\t' && c <= '\r') || c == 0x85 || c == 0xA0 || c == 0x2028 || c == 0x2029 || c == 0x3000;
}

bool IsHostile(utf8proc_int32_t c) {
  if (utf8proc_category(c) == UTF8PROC_CATEGORY_CC) return true;
  return (c >= 0x202A && c <= 0x202E) || (c >= 0x2066 && c <= 0x2069);  // Would reorder the rest of the line.
}

}  // namespace

std::string SanitizeLine(std::string_view text) {
  std::string line;
  line.reserve(text.size());
  bool pending_space = false;
  for (size_t i = 0; i < text.size();) {
    utf8proc_int32_t codepoint = 0;
    const size_t length = Decode(text, i, &codepoint);
    if (length > 0 && IsSpace(codepoint)) {
      pending_space = !line.empty();
    } else {
      if (pending_space) line += ' ';
      pending_space = false;
      if (length == 0 || IsHostile(codepoint)) {
        line += kReplacement;
      } else {
        line += text.substr(i, length);
      }
    }
    i += std::max<size_t>(length, 1);
  }
  return line;
}

std::string PrintablePath(std::string_view path) {
  constexpr char kDigits[] = "0123456789ABCDEF";
  std::string printable;
  bool valid = true;
  for (size_t i = 0; i < path.size();) {
    utf8proc_int32_t codepoint = 0;
    const size_t length = Decode(path, i, &codepoint);
    if (length > 0 && codepoint != '%') {
      printable += path.substr(i, length);
    } else {
      const unsigned char byte = static_cast<unsigned char>(path[i]);
      printable += {'%', kDigits[byte >> 4], kDigits[byte & 15]};
      valid = valid && length > 0;
    }
    i += std::max<size_t>(length, 1);
  }
  return valid ? std::string(path) : printable;
}

int DisplayWidth(std::string_view text) {
  int width = 0;
  for (size_t i = 0; i < text.size();) {
    utf8proc_int32_t codepoint = 0;
    const size_t length = Decode(text, i, &codepoint);
    width += length == 0 ? 1 : utf8proc_charwidth(codepoint);
    i += std::max<size_t>(length, 1);
  }
  return width;
}

std::string CutToWidth(std::string_view text, int width) {
  int used = 0;
  size_t cut = 0;  // Where to cut if it does not fit: before the character that leaves no column for the ellipsis.
  for (size_t i = 0; i < text.size();) {
    utf8proc_int32_t codepoint = 0;
    const size_t length = Decode(text, i, &codepoint);
    const int columns = length == 0 ? 1 : utf8proc_charwidth(codepoint);
    if (used + columns > width) return std::string(text.substr(0, cut)) + std::string(kEllipsis);
    used += columns;
    i += std::max<size_t>(length, 1);
    if (used <= width - 1) cut = i;
  }
  return std::string(text);
}

std::string FormatCount(int64_t count) {
  std::string digits = std::to_string(count);
  const int first = count < 0 ? 1 : 0;
  for (int i = static_cast<int>(digits.size()) - 3; i > first; i -= 3) digits.insert(i, 1, ',');
  return digits;
}

std::string FormatCountOf(int64_t count, std::string_view noun) {
  return FormatCount(count).append(" ").append(noun).append(count == 1 ? "" : "s");
}

std::string FormatBytes(int64_t bytes) {
  const char* const kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  double value = static_cast<double>(bytes);
  int unit = 0;
  while (std::abs(value) >= 1024 && unit < 4) {
    value /= 1024;
    ++unit;
  }
  char text[48];
  std::snprintf(text, sizeof(text), unit == 0 ? "%.0f %s" : "%.1f %s", value, kUnits[unit]);
  return text;
}

std::string FormatSeconds(double seconds) {
  const int64_t total = std::llround(std::clamp(seconds, 0.0, 1e9));
  char text[48];
  if (total >= 3600) {
    std::snprintf(text, sizeof(text), "%lld:%02lld:%02lld", static_cast<long long>(total / 3600),
                  static_cast<long long>(total / 60 % 60), static_cast<long long>(total % 60));
  } else {
    std::snprintf(text, sizeof(text), "%lld:%02lld", static_cast<long long>(total / 60), static_cast<long long>(total % 60));
  }
  return text;
}

std::string FormatMicros(int64_t microseconds) {
  char text[48];
  if (microseconds < 1000) {
    std::snprintf(text, sizeof(text), "%lld us", static_cast<long long>(microseconds));
  } else if (microseconds < 1000000) {
    std::snprintf(text, sizeof(text), "%.1f ms", microseconds / 1e3);
  } else {
    std::snprintf(text, sizeof(text), "%.2f s", microseconds / 1e6);
  }
  return text;
}

std::string FormatFixed(double value, int digits) {
  char text[400];
  std::snprintf(text, sizeof(text), "%.*f", digits, value);
  return text;
}

std::string FormatTimeUtc(int64_t unix_us) {
  const time_t seconds = static_cast<time_t>(unix_us / 1'000'000);
  tm utc = {};
  char text[64];
  if (unix_us == 0 || gmtime_r(&seconds, &utc) == nullptr || strftime(text, sizeof(text), "%Y-%m-%d %H:%M:%S", &utc) == 0)
    return "-";
  return text;
}

}  // namespace loci
