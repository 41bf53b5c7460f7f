#include "clients/cli/markdown_sections.h"

#include <algorithm>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/utf8.h"

namespace loci {
namespace {

constexpr std::string_view kSpaces = " \t\r\n\f\v";

bool IsSpace(char c) { return kSpaces.find(c) != std::string_view::npos; }

std::string_view Trim(std::string_view text) {
  const size_t first = text.find_first_not_of(kSpaces);
  return first == std::string_view::npos ? std::string_view() : text.substr(first, text.find_last_not_of(kSpaces) - first + 1);
}

bool IsOnly(std::string_view text, char c) { return !text.empty() && text.find_first_not_of(c) == std::string_view::npos; }

size_t RunLength(std::string_view text, char c) { return std::min(text.find_first_not_of(c), text.size()); }

// The end of the line that begins at `start`, its line end included.
size_t LineEnd(std::string_view text, size_t start) {
  const size_t end = text.find('\n', start);
  return end == std::string_view::npos ? text.size() : end + 1;
}

// "name: value" or "name = value" with a name of one word: the value without quotes.
bool ParseField(std::string_view line, char separator, std::string_view* name, std::string_view* value) {
  const size_t at = line.find(separator);
  if (at == std::string_view::npos) return false;
  *name = Trim(line.substr(0, at));
  *value = Trim(line.substr(at + 1));
  if (value->size() >= 2 && (value->front() == '"' || value->front() == '\'') && value->back() == value->front()) {
    *value = value->substr(1, value->size() - 2);
  }
  return !name->empty() && name->find_first_of(" \t'\"*[](){}<>") == std::string_view::npos;
}

// Where the front matter ends, 0 without one; *title is its title, where it has one. Between two lines "---" is front matter only if its
// first line that is not blank is a field or a comment; else they are rules across the page.
size_t FrontMatterEnd(std::string_view text, std::string* title) {
  const std::string_view fence = Trim(text.substr(0, LineEnd(text, 0)));
  if (fence != "---" && fence != "+++") return 0;
  const char separator = fence == "---" ? ':' : '=';
  bool has_field = false;
  for (size_t start = LineEnd(text, 0); start < text.size();) {
    const size_t end = LineEnd(text, start);
    const std::string_view raw = text.substr(start, end - start), line = Trim(raw);
    start = end;
    if (line == fence || (line == "..." && separator == ':')) return has_field ? end : 0;
    std::string_view name, value;
    const bool is_field = ParseField(line, separator, &name, &value);
    if (!has_field && !line.empty() && !is_field && line[0] != '#' && line[0] != '[') return 0;
    if (is_field) {
      has_field = true;
      if (name == "title" && raw[0] == 't') *title = std::string(value.substr(0, Utf8Prefix(value, DocumentLimits::kMaxHeadingBytes)));
    }
  }
  title->clear();
  return 0;
}

// Finds headings, line by line. Used by one thread.
class HeadingFinder {
 public:
  // The level of the heading that `line` is, or that it makes of the line before (*underlined); 0 where there is none.
  int Next(std::string_view line, std::string_view* heading, bool* underlined) {
    *underlined = false;
    const std::string_view previous = std::exchange(previous_, {});
    const bool paragraph_of_one = std::exchange(lines_of_paragraph_, 0) == 1;
    const std::string_view trimmed = Trim(line);
    const size_t indent = RunLength(line, ' ');
    if (trimmed.empty()) return 0;
    const bool indented = indent >= 4 || line[indent] == '\t';
    if (fence_ != 0) {
      const size_t length = RunLength(trimmed, fence_);
      if (!indented && length >= fence_length_ && length == trimmed.size()) fence_ = 0;
      return 0;
    }
    if (indented) return 0;
    for (const char c : {'`', '~'}) {
      const size_t length = RunLength(trimmed, c);
      if (length < 3 || (c == '`' && trimmed.find('`', length) != std::string_view::npos)) continue;
      fence_ = c;
      fence_length_ = length;
      return 0;
    }
    const size_t level = RunLength(trimmed, '#');
    if (level >= 1 && level <= 6 && (level == trimmed.size() || IsSpace(trimmed[level]))) {
      *heading = Trim(trimmed.substr(level));
      const size_t last = heading->find_last_not_of('#');
      if (last == std::string_view::npos) {
        *heading = {};
      } else if (last + 1 < heading->size() && IsSpace((*heading)[last])) {
        *heading = Trim(heading->substr(0, last));
      }
      return static_cast<int>(level);
    }
    if (paragraph_of_one && !previous.empty() && (IsOnly(trimmed, '=') || (trimmed.size() >= 2 && IsOnly(trimmed, '-')))) {
      *heading = previous;
      *underlined = true;
      return trimmed[0] == '=' ? 1 : 2;
    }
    // A list, a quotation, a table or a rule is no heading, whatever is below it.
    const bool is_text = std::string_view("-*+>|").find(trimmed[0]) == std::string_view::npos;
    lines_of_paragraph_ = previous.empty() && is_text ? 1 : 2;
    previous_ = trimmed;
    return 0;
  }

 private:
  char fence_ = 0;
  size_t fence_length_ = 0;
  std::string_view previous_;  // The line before, where it is of a paragraph.
  int lines_of_paragraph_ = 0;
};

// Adds [start, end) without the white space at its ends; nothing where nothing is left.
bool AddSection(size_t start, size_t end, int64_t heading, Document* document) {
  const std::string_view body = Trim(std::string_view(document->text).substr(start, end - start));
  if (body.empty()) return false;
  const auto first = static_cast<size_t>(body.data() - document->text.data());
  document->sections.push_back({first, first + body.size(), heading});
  return true;
}

// Tells each section the line that it begins in.
void CountLines(Document* document) {
  int64_t line = 1;
  size_t at = 0;
  for (DocumentSection& section : document->sections) {
    line += std::count(document->text.begin() + static_cast<ptrdiff_t>(at),
                       document->text.begin() + static_cast<ptrdiff_t>(section.start_byte), '\n');
    at = section.start_byte;
    section.line = line;
  }
}

}  // namespace

void FindTextSections(Document* document) {
  AddSection(0, document->text.size(), -1, document);
  CountLines(document);
}

absl::Status FindMarkdownSections(Document* document) {
  const std::string_view text = document->text;
  HeadingStack stack;
  HeadingFinder finder;
  size_t heading_start = std::string_view::npos;  // Of the last heading, while nothing is known to be below it.
  size_t body_start = FrontMatterEnd(text, &document->title);
  size_t previous_start = body_start;  // Of the line before.
  int last_level = 0;
  const auto finish = [&](size_t end, int next_level) {
    if (AddSection(body_start, end, stack.current(), document)) return;
    if (heading_start != std::string_view::npos && next_level <= last_level) {
      AddSection(heading_start, body_start, stack.current(), document);
    }
  };
  for (size_t start = body_start; start < text.size();) {
    const size_t end = LineEnd(text, start);
    std::string_view heading;
    bool underlined = false;
    const int level = finder.Next(text.substr(start, end - start), &heading, &underlined);
    if (level > 0) {
      finish(underlined ? previous_start : start, level);
      if (!stack.Open(level, std::string(heading), document)) {
        return absl::InvalidArgumentError(
            absl::StrCat("the document has more than ", DocumentLimits::kMaxHeadings, " headings"));
      }
      heading_start = heading.empty() ? std::string_view::npos : underlined ? previous_start : start;
      last_level = level;
      body_start = end;
    }
    previous_start = start;
    start = end;
  }
  finish(text.size(), 0);
  if (document->title.empty() && !document->headings.empty() && document->headings[0].level == 1) {
    document->title = document->headings[0].text;
  }
  CountLines(document);
  return absl::OkStatus();
}

}  // namespace loci
