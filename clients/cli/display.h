// Text on a terminal: columns that characters take, cutting, and numbers for people.
#ifndef LOCI_CLIENTS_CLI_DISPLAY_H_
#define LOCI_CLIENTS_CLI_DISPLAY_H_

#include <cstdint>
#include <string>
#include <string_view>

namespace loci {

// One line that is safe to print: white space of any kind becomes one space, other control characters (escape sequences of a
// terminal begin with one), bidirectional overrides and bytes that are not UTF-8 become U+FFFD.
std::string SanitizeLine(std::string_view text);

// A file's name or path as valid UTF-8: as it is where it is that; else with its bytes that are not, and "%", as "%" and two hex digits, so
// that no two of them become one.
std::string PrintablePath(std::string_view path);

// Columns that valid UTF-8 takes: 2 for East Asian wide characters and emoji, 0 for combining marks.
int DisplayWidth(std::string_view text);

// `text` in at most `width` columns, with "…" as its last where something was cut. `width` >= 1.
std::string CutToWidth(std::string_view text, int width);

std::string FormatCount(int64_t count);             // "63,666".
std::string FormatCountOf(int64_t count, std::string_view noun);  // "1 passage", "63,666 passages" of "passage".
std::string FormatBytes(int64_t bytes);             // "1.5 MiB".
std::string FormatSeconds(double seconds);          // "0:07", "12:34", "1:02:03".
std::string FormatTimeUtc(int64_t unix_us);         // "2026-11-21 09:57:38"; "-" for 0.
std::string FormatMicros(int64_t microseconds);     // "850 us", "12.3 ms", "1.20 s".
std::string FormatFixed(double value, int digits);  // "0.4213".

}  // namespace loci

#endif  // LOCI_CLIENTS_CLI_DISPLAY_H_
