// HTML as a document with sections, parsed by libxml2.
#ifndef LOCI_CLIENTS_CLI_HTML_SECTIONS_H_
#define LOCI_CLIENTS_CLI_HTML_SECTIONS_H_

#include <chrono>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "clients/cli/document.h"

namespace loci {

// The characters of an HTML file as UTF-8, by what tells its encoding: a byte order mark, else a charset declared within its first 4 KiB
// (one of those that browsers know; bytes that it does not have become U+FFFD), else UTF-8. INVALID_ARGUMENT, naming the first bad byte,
// for what is not UTF-8 where nothing else is declared, and for an unknown charset.
absl::StatusOr<std::string> DecodeHtml(std::string bytes);

// Limits of time and depth: whatever the markup, time is bounded by them and memory by the document's size.
struct HtmlLimits {
  int max_depth = 10'000;  // Of elements within elements.
  std::chrono::milliseconds max_time{30'000};
};

// Takes the text out of `html` (valid UTF-8): what a browser shows, with white space as one space (kept in <pre>), an empty line after
// a block, a line end for <br>, a tab between cells of a table. Left out are script, style, nav, template, noscript, iframe, object, svg,
// math, canvas, and the head but for its title. Markup of any kind is read as a browser would, never refused. h1 to h6 begin sections; the
// title is <title>, else the first heading of level 1. Sets document->text, title, headings and sections.
// INVALID_ARGUMENT for what exceeds a limit, naming it.
absl::Status ParseHtml(const std::string& html, Document* document, const HtmlLimits& limits = {});

}  // namespace loci

#endif  // LOCI_CLIENTS_CLI_HTML_SECTIONS_H_
