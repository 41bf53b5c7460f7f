// Fuzzes what takes documents apart. The first byte says what: a file's bytes as text, Markdown or HTML.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "base/utf8.h"
#include "clients/cli/html_sections.h"
#include "clients/cli/markdown_sections.h"
#include "clients/cli/text_encoding.h"

namespace loci {
namespace {

constexpr std::string_view kSpaces = " \t\r\n\f\v";

void Require(bool holds) {
  if (!holds) __builtin_trap();
}

void Check(const Document& document) {
  Require(IsValidUtf8(document.text) && IsValidUtf8(document.title));
  size_t end = 0;
  for (const DocumentSection& section : document.sections) {
    // In order, not empty, no white space at the ends, and never within a character.
    Require(section.start_byte >= end && section.end_byte > section.start_byte && section.end_byte <= document.text.size());
    end = section.end_byte;
    const std::string_view text = std::string_view(document.text).substr(section.start_byte, section.end_byte - section.start_byte);
    Require(IsValidUtf8(text));
    Require(kSpaces.find(text.front()) == std::string_view::npos && kSpaces.find(text.back()) == std::string_view::npos);
    Require(section.line >= 1 && section.heading < static_cast<int64_t>(document.headings.size()));
    const std::string title = SectionTitle(document, section, "file");
    Require(!title.empty() && title.size() <= 8 * (DocumentLimits::kMaxHeadingBytes + 3) + document.title.size());
    Require(IsValidUtf8(title) && title.find('\n') == std::string::npos);
  }
  for (size_t i = 0; i < document.headings.size(); ++i) {
    const DocumentHeading& heading = document.headings[i];
    Require(!heading.text.empty() && heading.parent < static_cast<int64_t>(i));
    Require(heading.parent < 0 || document.headings[static_cast<size_t>(heading.parent)].level < heading.level);
  }
}

}  // namespace
}  // namespace loci

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using loci::Require;
  if (size < 1) return 0;
  std::string bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  loci::Document document;
  if (data[0] == 'h') {
    absl::StatusOr<std::string> html = loci::DecodeHtml(bytes);
    // Any text is markup, whatever it declares.
    if (!html.ok()) Require(!html.status().message().empty());
    if (!html.ok() && !loci::IsValidUtf8(bytes)) return 0;
    if (loci::ParseHtml(html.ok() ? *html : bytes, &document).ok()) loci::Check(document);
    return 0;
  }
  absl::StatusOr<loci::DecodedText> decoded = loci::DecodeText(std::move(bytes));
  if (!decoded.ok()) {
    Require(!decoded.status().message().empty());
    return 0;
  }
  document.text = std::move(decoded->text);
  if (data[0] == 'm') {
    Require(loci::FindMarkdownSections(&document).ok() || document.headings.size() == loci::DocumentLimits::kMaxHeadings);
  } else {
    loci::FindTextSections(&document);
  }
  loci::Check(document);
  return 0;
}
