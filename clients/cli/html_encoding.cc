#include <iconv.h>

#include <cerrno>
#include <string_view>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "clients/cli/html_sections.h"
#include "clients/cli/text_encoding.h"

namespace loci {
namespace {

constexpr size_t kDeclarationBytes = 4096;
constexpr std::string_view kReplacement = "\xEF\xBF\xBD";  // U+FFFD.

// What iconv calls the charsets that browsers know, by names that pages use. The empty name is UTF-8.
struct Charset {
  std::string_view label;
  const char* name;
};
constexpr Charset kCharsets[] = {
    {"utf-8", ""},
    {"utf8", ""},
    {"unicode", ""},
    {"utf-16", ""},  // Without a byte order mark a page that says so in ASCII is none.
    {"utf-16le", ""},
    {"utf-16be", ""},
    {"us-ascii", "WINDOWS-1252"},
    {"ascii", "WINDOWS-1252"},
    {"iso-8859-1", "WINDOWS-1252"},  // As browsers do.
    {"iso8859-1", "WINDOWS-1252"},
    {"latin1", "WINDOWS-1252"},
    {"iso-8859-2", "ISO-8859-2"},
    {"iso-8859-3", "ISO-8859-3"},
    {"iso-8859-4", "ISO-8859-4"},
    {"iso-8859-5", "ISO-8859-5"},
    {"iso-8859-6", "ISO-8859-6"},
    {"iso-8859-7", "ISO-8859-7"},
    {"iso-8859-8", "ISO-8859-8"},
    {"iso-8859-8-i", "ISO-8859-8"},
    {"iso-8859-9", "WINDOWS-1254"},
    {"iso-8859-10", "ISO-8859-10"},
    {"iso-8859-13", "ISO-8859-13"},
    {"iso-8859-14", "ISO-8859-14"},
    {"iso-8859-15", "ISO-8859-15"},
    {"iso-8859-16", "ISO-8859-16"},
    {"windows-874", "CP874"},
    {"tis-620", "CP874"},
    {"windows-1250", "WINDOWS-1250"},
    {"windows-1251", "WINDOWS-1251"},
    {"cp1251", "WINDOWS-1251"},
    {"windows-1252", "WINDOWS-1252"},
    {"cp1252", "WINDOWS-1252"},
    {"windows-1253", "WINDOWS-1253"},
    {"windows-1254", "WINDOWS-1254"},
    {"windows-1255", "WINDOWS-1255"},
    {"windows-1256", "WINDOWS-1256"},
    {"windows-1257", "WINDOWS-1257"},
    {"windows-1258", "WINDOWS-1258"},
    {"koi8-r", "KOI8-R"},
    {"koi8-u", "KOI8-U"},
    {"ibm866", "CP866"},
    {"macintosh", "MACINTOSH"},
    {"gb2312", "GB18030"},
    {"gbk", "GB18030"},
    {"gb18030", "GB18030"},
    {"big5", "BIG5-HKSCS"},
    {"euc-jp", "EUC-JP"},
    {"shift_jis", "CP932"},
    {"shift-jis", "CP932"},
    {"sjis", "CP932"},
    {"iso-2022-jp", "ISO-2022-JP"},
    {"euc-kr", "UHC"},
    {"ks_c_5601-1987", "UHC"},
};

// What follows `name` "=" in `tag`: the label of a charset, or empty.
std::string ValueAfter(std::string_view tag, std::string_view name) {
  const size_t at = tag.find(name);
  if (at == std::string_view::npos) return "";
  size_t start = tag.find_first_not_of(" \t\r\n", at + name.size());
  if (start == std::string_view::npos || tag[start] != '=') return "";
  start = tag.find_first_not_of(" \t\r\n\"'", start + 1);
  if (start == std::string_view::npos) return "";
  return std::string(tag.substr(start, tag.find_first_of(" \t\r\n\"';/>?", start) - start));
}

// The charset that a page's first bytes (in lower case) declare in a <meta> or in an XML declaration; empty without one.
std::string DeclaredCharset(std::string_view head) {
  if (head.starts_with("<?xml")) {
    if (std::string label = ValueAfter(head.substr(0, head.find('>')), "encoding"); !label.empty()) return label;
  }
  for (size_t at = head.find("<meta"); at != std::string_view::npos; at = head.find("<meta", at + 1)) {
    if (std::string label = ValueAfter(head.substr(at, head.find('>', at) - at), "charset"); !label.empty()) return label;
  }
  return "";
}

absl::StatusOr<std::string> Convert(const std::string& bytes, const char* charset) {
  const iconv_t converter = iconv_open("UTF-8", charset);
  if (converter == reinterpret_cast<iconv_t>(-1)) {
    return absl::FailedPreconditionError(absl::StrCat("this machine has no conversion of charset ", charset));
  }
  std::string text, buffer(256 * 1024, '\0');
  char* in = const_cast<char*>(bytes.data());
  size_t in_left = bytes.size();
  while (in_left > 0) {
    char* out = buffer.data();
    size_t out_left = buffer.size();
    const size_t result = iconv(converter, &in, &in_left, &out, &out_left);
    text.append(buffer.data(), buffer.size() - out_left);
    if (result == static_cast<size_t>(-1) && errno != E2BIG) {
      text += kReplacement;  // For one byte that the charset does not have, or that the text ends within.
      ++in;
      --in_left;
    }
  }
  iconv_close(converter);
  return text;
}

}  // namespace

absl::StatusOr<std::string> DecodeHtml(std::string bytes) {
  const std::string_view view = bytes;
  std::string label;
  if (!view.starts_with("\xEF\xBB\xBF") && !view.starts_with("\xFF\xFE") && !view.starts_with("\xFE\xFF")) {
    label = DeclaredCharset(absl::AsciiStrToLower(bytes.substr(0, kDeclarationBytes)));
  }
  if (!label.empty()) {
    const char* name = nullptr;
    for (const Charset& charset : kCharsets) {
      if (charset.label == label) name = charset.name;
    }
    if (name == nullptr) return absl::InvalidArgumentError(absl::StrCat("the page's charset \"", label.substr(0, 64), "\" is not known"));
    if (*name != '\0') {
      absl::StatusOr<std::string> converted = Convert(bytes, name);
      if (!converted.ok()) return converted.status();
      bytes = *std::move(converted);
    }
  }
  absl::StatusOr<DecodedText> decoded = DecodeText(std::move(bytes));
  if (!decoded.ok()) return decoded.status();
  return std::move(decoded->text);
}

}  // namespace loci
