#include "clients/cli/document.h"

#include <algorithm>
#include <utility>

#include "base/utf8.h"

namespace loci {
namespace {

// Runs of white space become one space; none at either end.
std::string OneLine(const std::string& text) {
  std::string line;
  for (const char c : text) {
    if (c == ' ' || (c >= '\t' && c <= '\r')) {
      if (!line.empty() && line.back() != ' ') line += ' ';
    } else {
      line += c;
    }
  }
  if (line.ends_with(' ')) line.pop_back();
  return line;
}

}  // namespace

bool HeadingStack::Open(int level, std::string text, Document* document) {
  while (!open_.empty() && document->headings[static_cast<size_t>(open_.back())].level >= level) open_.pop_back();
  text = OneLine(text);
  if (text.empty()) return true;
  if (document->headings.size() >= DocumentLimits::kMaxHeadings) return false;
  text.resize(Utf8Prefix(text, DocumentLimits::kMaxHeadingBytes));
  if (text.ends_with(' ')) text.pop_back();  // It was cut behind a word.
  document->headings.push_back({level, current(), std::move(text)});
  open_.push_back(static_cast<int64_t>(document->headings.size()) - 1);
  return true;
}

std::string SectionTitle(const Document& document, const DocumentSection& section, const std::string& fallback_title) {
  const std::string& title = document.title.empty() ? fallback_title : document.title;
  std::vector<const std::string*> path;
  for (int64_t heading = section.heading; heading >= 0; heading = document.headings[static_cast<size_t>(heading)].parent) {
    path.push_back(&document.headings[static_cast<size_t>(heading)].text);
  }
  if (path.empty() || *path.back() != title) path.push_back(&title);
  std::reverse(path.begin(), path.end());
  std::string joined;
  for (const std::string* part : path) {
    if (!joined.empty()) joined += " > ";
    joined += *part;
  }
  return joined;
}

}  // namespace loci
