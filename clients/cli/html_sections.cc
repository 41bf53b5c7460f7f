#include "clients/cli/html_sections.h"

#include <libxml/HTMLparser.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <mutex>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/utf8.h"

namespace loci {
namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kChunkBytes = 16 * 1024;  // Between two looks at the clock.
constexpr size_t kMaxHeadingText = 2048;   // A heading of more was never closed: it is text.

template <size_t kSize>
bool IsOneOf(std::string_view name, const std::string_view (&names)[kSize]) {
  return std::find(names, names + kSize, name) != names + kSize;
}

bool IsLeftOut(std::string_view name) {
  static constexpr std::string_view kNames[] = {"script", "style",  "nav", "template", "noscript", "iframe",
                                                "object", "applet", "svg", "math",     "canvas",   "noframes"};
  return IsOneOf(name, kNames);
}

// Elements that begin and end a block of text of their own.
bool IsBlock(std::string_view name) {
  static constexpr std::string_view kNames[] = {
      "address", "article", "aside",  "blockquote", "body", "caption", "center", "dd",     "details", "dialog", "dir",
      "div",     "dl",      "dt",     "fieldset",   "figcaption", "figure", "footer", "form", "h1", "h2", "h3",
      "h4",      "h5",      "h6",     "header",     "hgroup", "hr",   "legend", "li",     "main",    "menu",   "ol",
      "option",  "p",       "pre",    "section",    "select", "summary", "table", "tbody", "tfoot",  "thead",  "tr",
      "ul",      "textarea"};
  return IsOneOf(name, kNames);
}

int HeadingLevel(std::string_view name) {
  return name.size() == 2 && name[0] == 'h' && name[1] >= '1' && name[1] <= '6' ? name[1] - '0' : 0;
}

bool IsSpace(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

// Takes what the parser tells. Used by one thread.
class TextBuilder {
 public:
  TextBuilder(Document* document, int max_depth) : document_(document), max_depth_(max_depth) {}

  void set_parser(htmlParserCtxtPtr parser) { parser_ = parser; }
  const absl::Status& status() const { return status_; }

  void StartElement(std::string_view name) {
    if (!status_.ok()) return;
    if (++depth_ > max_depth_) return Stop(absl::StrCat("elements are nested more than ", max_depth_, " deep"));
    if (left_out_ > 0 || IsLeftOut(name)) {
      ++left_out_;
      return;
    }
    if (name == "head") in_head_ = true;
    if (name == "body") in_head_ = false;
    if (name == "title") {
      in_title_ = true;
      return;
    }
    if (name == "pre" || name == "textarea") ++preformatted_;
    if (name == "br") return EndLine(1);
    if (name == "td" || name == "th") {
      if (!text().empty() && text().back() != '\n') text() += '\t';
      wants_space_ = false;
    }
    if (IsBlock(name)) EndLine(2);
    if (const int level = HeadingLevel(name); level > 0 && heading_level_ == 0) {
      heading_level_ = level;
      heading_text_.clear();
    }
  }

  void EndElement(std::string_view name) {
    if (!status_.ok()) return;
    --depth_;
    if (left_out_ > 0) {
      --left_out_;
      return;
    }
    if (name == "head") in_head_ = false;
    if (name == "title") in_title_ = false;
    if ((name == "pre" || name == "textarea") && preformatted_ > 0) --preformatted_;
    if (heading_level_ > 0 && HeadingLevel(name) == heading_level_) return EndHeading();
    if (IsBlock(name)) EndLine(2);
  }

  void Characters(std::string_view characters) {
    if (!status_.ok() || left_out_ > 0) return;
    if (in_title_) {
      if (title_.size() < kMaxHeadingText) title_ += characters;
      return;
    }
    if (in_head_) return;
    if (heading_level_ > 0) {
      heading_text_ += characters;
      if (heading_text_.size() <= kMaxHeadingText) return;
      heading_level_ = 0;
      characters = heading_text_;
      AddText(characters);
      heading_text_.clear();
      return;
    }
    AddText(characters);
  }

  void Finish() {
    if (!status_.ok()) return;
    if (heading_level_ > 0) EndHeading();
    EndSection(0);
    document_->title.clear();
    HeadingStack one_line;  // As a heading is: one line, and cut.
    Document scratch;
    one_line.Open(1, title_, &scratch);
    if (!scratch.headings.empty()) {
      document_->title = scratch.headings[0].text;
    } else if (!document_->headings.empty() && document_->headings[0].level == 1) {
      document_->title = document_->headings[0].text;
    }
  }

 private:
  std::string& text() { return document_->text; }

  void Stop(std::string message) {
    status_ = absl::InvalidArgumentError(std::move(message));
    xmlStopParser(parser_);
  }

  void AddText(std::string_view characters) {
    for (const char c : characters) {
      if (preformatted_ > 0) {
        if (c != '\r') text() += c;
      } else if (IsSpace(c)) {
        wants_space_ = true;
      } else {
        if (std::exchange(wants_space_, false) && !text().empty() && !IsSpace(text().back())) text() += ' ';
        text() += c;
      }
    }
    if (text().size() > DocumentLimits::kMaxTextBytes) {
      Stop(absl::StrCat("the document has more than ", DocumentLimits::kMaxTextBytes, " bytes of text, the limit"));
    }
  }

  // So that `count` line ends are last; at the start of a section none.
  void EndLine(size_t count) {
    wants_space_ = false;
    if (heading_level_ > 0) {
      heading_text_ += ' ';
      return;
    }
    if (text().size() == section_start_) return;
    while (text().size() > section_start_ && (text().back() == ' ' || text().back() == '\t')) text().pop_back();
    size_t last = 0;
    while (last < count && last < text().size() - section_start_ && text()[text().size() - 1 - last] == '\n') ++last;
    text().append(count - last, '\n');
  }

  void EndHeading() {
    const int level = std::exchange(heading_level_, 0);
    EndSection(level);
    const size_t heading_count = document_->headings.size();
    if (!headings_.Open(level, heading_text_, document_)) {
      return Stop(absl::StrCat("the document has more than ", DocumentLimits::kMaxHeadings, " headings"));
    }
    last_level_ = level;
    has_heading_ = document_->headings.size() > heading_count;  // One of white space opens none.
    line_ = parser_->input != nullptr ? parser_->input->line : 1;
    heading_text_.clear();
  }

  // Ends the section before a heading of this level. A heading with nothing below it, not even a heading, is a section by itself.
  void EndSection(int next_level) {
    size_t end = text().size();
    while (end > section_start_ && IsSpace(text()[end - 1])) --end;
    size_t start = section_start_;
    while (start < end && IsSpace(text()[start])) ++start;
    if (start == end && has_heading_ && next_level <= last_level_) {
      text().resize(section_start_);
      text() += document_->headings.back().text;
      start = section_start_;
      end = text().size();
    }
    if (start < end) {
      text().resize(end);
      document_->sections.push_back({start, end, headings_.current(), line_});
      text() += "\n\n";
    } else {
      text().resize(section_start_);
    }
    section_start_ = text().size();
    has_heading_ = false;
  }

  Document* const document_;
  const int max_depth_;
  htmlParserCtxtPtr parser_ = nullptr;
  absl::Status status_;
  HeadingStack headings_;
  int depth_ = 0;
  int left_out_ = 0;      // Elements that are open, from the one that is left out on.
  int preformatted_ = 0;  // <pre> that are open.
  bool in_head_ = false;
  bool in_title_ = false;
  std::string title_;
  bool wants_space_ = false;
  size_t section_start_ = 0;
  int heading_level_ = 0;  // Of the heading that is open.
  std::string heading_text_;
  bool has_heading_ = false;  // The section began with one.
  int last_level_ = 0;
  int64_t line_ = 1;
};

std::string_view View(const xmlChar* text) { return reinterpret_cast<const char*>(text); }
TextBuilder& Builder(void* data) { return *static_cast<TextBuilder*>(data); }
void OnStartElement(void* data, const xmlChar* name, const xmlChar**) { Builder(data).StartElement(View(name)); }
void OnEndElement(void* data, const xmlChar* name) { Builder(data).EndElement(View(name)); }
void OnCharacters(void* data, const xmlChar* text, int size) {
  Builder(data).Characters(View(text).substr(0, static_cast<size_t>(size)));
}

}  // namespace

absl::Status ParseHtml(const std::string& html, Document* document, const HtmlLimits& limits) {
  static std::once_flag once;
  std::call_once(once, [] { xmlInitParser(); });
  const Clock::time_point deadline = Clock::now() + limits.max_time;
  htmlSAXHandler handler = {};
  handler.startElement = OnStartElement;
  handler.endElement = OnEndElement;
  handler.characters = handler.cdataBlock = handler.ignorableWhitespace = OnCharacters;
  TextBuilder builder(document, limits.max_depth);
  const std::unique_ptr<htmlParserCtxt, void (*)(htmlParserCtxtPtr)> parser(
      htmlCreatePushParserCtxt(&handler, &builder, nullptr, 0, nullptr, XML_CHAR_ENCODING_UTF8), htmlFreeParserCtxt);
  if (parser == nullptr) return absl::ResourceExhaustedError("no memory to parse HTML");
  builder.set_parser(parser.get());
  htmlCtxtUseOptions(parser.get(), HTML_PARSE_NONET | HTML_PARSE_NOERROR | HTML_PARSE_NOWARNING | HTML_PARSE_IGNORE_ENC);
  for (std::string_view left = html; !left.empty() && builder.status().ok();) {
    const size_t size = Utf8Prefix(left, kChunkBytes);
    htmlParseChunk(parser.get(), left.data(), static_cast<int>(size), 0);
    left.remove_prefix(size);
    if (Clock::now() > deadline) {
      return absl::InvalidArgumentError(absl::StrCat("reading the markup took longer than ", limits.max_time.count(), " ms, the limit"));
    }
  }
  if (builder.status().ok()) htmlParseChunk(parser.get(), nullptr, 0, 1);
  builder.Finish();
  return builder.status();
}

}  // namespace loci
