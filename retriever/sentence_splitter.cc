#include "retriever/sentence_splitter.h"

#include <algorithm>
#include <array>

#include "absl/strings/ascii.h"
#include "base/utf8.h"

namespace loci {
namespace {

constexpr std::string_view kAbbreviations[] = {"adm", "al",  "approx", "art", "ca",  "capt", "cf",  "co",   "col",  "corp", "dept", "dr",
                                               "e.g", "ed",  "eds",    "eq",  "esp", "est",  "etc", "fig",  "figs", "gen",  "gov",  "hon",
                                               "i.e", "inc", "jr",     "lt",  "ltd", "maj",  "mr",  "mrs",  "ms",   "mt",   "no",   "nos",
                                               "op",  "p",   "pp",     "prof", "rep", "rev", "sen", "sgt",  "sr",   "st",   "vol",  "vs"};

constexpr std::string_view kClosers[] = {"\"", "'", ")", "]", "}", "\u201d", "\u2019", "\u00bb"};
constexpr std::string_view kFullWidthTerminators[] = {"\u3002", "\uff01", "\uff1f"};
constexpr std::string_view kBullets[] = {"- ", "* ", "+ ", "\u2022"};

bool IsSpace(char c) { return absl::ascii_isspace(static_cast<unsigned char>(c)); }

template <size_t N>
size_t MatchAt(std::string_view text, size_t at, const std::string_view (&words)[N]) {
  for (std::string_view word : words) {
    if (text.substr(at, word.size()) == word) return word.size();
  }
  return 0;
}

// Whether the period at `at` belongs to an abbreviation or an initial.
bool IsAbbreviation(std::string_view text, size_t at) {
  size_t start = at;
  while (start > 0 && (absl::ascii_isalpha(static_cast<unsigned char>(text[start - 1])) || text[start - 1] == '.')) --start;
  const std::string_view word = text.substr(start, at - start);
  if (word.empty()) return false;
  if (word.size() == 1) return absl::ascii_isupper(static_cast<unsigned char>(word[0])) && word[0] != 'I';
  if (word.size() >= 3 && word[word.size() - 2] == '.' && absl::ascii_isupper(static_cast<unsigned char>(word.back()))) return true;  // U.S.
  std::array<char, 8> lower{};
  if (word.size() > lower.size()) return false;
  std::transform(word.begin(), word.end(), lower.begin(), [](char c) { return absl::ascii_tolower(static_cast<unsigned char>(c)); });
  const std::string_view folded(lower.data(), word.size());
  return std::find(std::begin(kAbbreviations), std::end(kAbbreviations), folded) != std::end(kAbbreviations);
}

// Where the sentence that reaches `at` ends if one ends here, else 0. `next_at`: where to look next in that case; past what was read,
// so that a text of terminators alone takes linear time.
size_t BoundaryAt(std::string_view text, size_t at, size_t* next_at) {
  *next_at = at + 1;
  if (const size_t size = MatchAt(text, at, kFullWidthTerminators); size > 0) return at + size;
  const char c = text[at];
  if (c == '\n') {
    size_t next = at + 1;
    while (next < text.size() && (text[next] == ' ' || text[next] == '\t' || text[next] == '\r')) ++next;
    if (next < text.size() && (text[next] == '\n' || MatchAt(text, next, kBullets) > 0)) return at;
    return 0;
  }
  if (c != '.' && c != '!' && c != '?') return 0;
  size_t end = at + 1;
  for (;;) {
    if (end < text.size() && (text[end] == '.' || text[end] == '!' || text[end] == '?')) {
      ++end;
    } else if (const size_t size = MatchAt(text, end, kClosers); size > 0) {
      end += size;
    } else {
      break;
    }
  }
  *next_at = end;
  if (end == text.size()) return end;
  if (!IsSpace(text[end])) return 0;
  size_t next = end;
  while (next < text.size() && IsSpace(text[next])) ++next;
  if (next < text.size() && absl::ascii_islower(static_cast<unsigned char>(text[next]))) return 0;
  if (c == '.' && end == at + 1 && IsAbbreviation(text, at)) return 0;
  return end;
}

// Adds [start, end) without the white space around it, in pieces of at most `max_bytes`.
void Add(std::string_view text, size_t start, size_t end, size_t max_bytes, size_t max_sentences, std::vector<SentenceSpan>* spans) {
  while (spans->size() < max_sentences) {
    while (start < end && IsSpace(text[start])) ++start;
    while (end > start && IsSpace(text[end - 1])) --end;
    if (start == end) return;
    size_t stop = end;
    if (end - start > max_bytes) {
      stop = start + std::max<size_t>(Utf8Prefix(text.substr(start, end - start), max_bytes), 1);
      size_t space = stop;
      while (space > start && !IsSpace(text[space])) --space;
      if (space > start) stop = space;
    }
    size_t last = stop;
    while (last > start && IsSpace(text[last - 1])) --last;
    spans->push_back({static_cast<int32_t>(start), static_cast<int32_t>(last)});
    start = stop;
  }
}

}  // namespace

std::vector<SentenceSpan> SplitSentences(std::string_view text, size_t max_sentences, size_t max_bytes) {
  std::vector<SentenceSpan> spans;
  size_t start = 0;
  for (size_t at = 0; at < text.size() && spans.size() < max_sentences;) {
    size_t next_at = 0;
    const size_t end = BoundaryAt(text, at, &next_at);
    if (end == 0) {
      at = next_at;
      continue;
    }
    Add(text, start, end, max_bytes, max_sentences, &spans);
    start = end;
    at = std::max(end, at + 1);
  }
  Add(text, start, text.size(), max_bytes, max_sentences, &spans);
  return spans;
}

}  // namespace loci
