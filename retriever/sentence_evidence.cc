#include "retriever/sentence_evidence.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/strings/ascii.h"
#include "encoder/encoder.h"

namespace loci {
namespace {

constexpr size_t kWordBytes = 5;

// Lower-cased and cut to kWordBytes. Sorted.
constexpr std::string_view kFunctionWords[] = {
    "a",     "about", "after", "all",  "also",  "am",    "an",   "and",  "any",   "are",   "as",    "at",   "be",    "been", "befor",
    "being", "but",   "by",    "can",  "could", "did",   "do",   "does", "doing", "for",   "from",  "get",  "had",   "has",  "have",
    "he",    "her",   "his",   "how",  "i",     "if",    "in",   "into", "is",    "it",    "its",   "long", "m",     "many", "may",
    "me",    "might", "much",  "must", "my",    "name",  "no",   "not",  "of",    "on",    "one",   "or",   "our",   "s",    "shall",
    "she",   "shoul", "so",    "some", "such",  "t",     "than", "that", "the",   "their", "them",  "then", "there", "these", "they",
    "this",  "those", "to",    "up",   "us",    "was",   "we",   "were", "what",  "when",  "where", "which", "while", "who",  "whom",
    "whose", "why",   "will",  "with", "would", "you",   "your"};
static_assert(std::is_sorted(std::begin(kFunctionWords), std::end(kFunctionWords)));

// Sorted, each once.
std::vector<std::string> Words(std::string_view text) {
  std::vector<std::string> words;
  std::string word;
  for (size_t i = 0; i <= text.size(); ++i) {
    const unsigned char c = i < text.size() ? static_cast<unsigned char>(text[i]) : ' ';
    if (absl::ascii_isalnum(c) || c >= 0x80) {
      if (word.size() < kWordBytes) word.push_back(absl::ascii_tolower(c));
    } else if (!word.empty()) {
      words.push_back(std::move(word));
      word.clear();
    }
  }
  std::sort(words.begin(), words.end());
  words.erase(std::unique(words.begin(), words.end()), words.end());
  return words;
}

}  // namespace

bool EndsWithQuestionMark(std::string_view sentence) {
  constexpr std::string_view kClosers[] = {"\"", "'", ")", "]", "}", "*", "_", " ", "\u201d", "\u2019", "\u00bb"};
  for (bool cut = true; cut;) {
    cut = false;
    for (std::string_view closer : kClosers) {
      if (sentence.size() >= closer.size() && sentence.substr(sentence.size() - closer.size()) == closer) {
        sentence.remove_suffix(closer.size());
        cut = true;
      }
    }
  }
  constexpr std::string_view kFullWidth = "\uff1f";
  return (!sentence.empty() && sentence.back() == '?') ||
         (sentence.size() >= kFullWidth.size() && sentence.substr(sentence.size() - kFullWidth.size()) == kFullWidth);
}

std::vector<SentenceCandidate> FindSentenceCandidates(const std::vector<loci::v1::Passage>& passages, const Tokenizer& tokenizer,
                                                      int max_length, const SentenceLimits& limits) {
  std::vector<SentenceCandidate> candidates;
  std::vector<int32_t> ids;
  int tokens = 0;
  for (int p = 0; p < static_cast<int>(passages.size()); ++p) {
    const std::string_view text = passages[p].text();
    for (const SentenceSpan& span : SplitSentences(text, limits.max_sentences_per_passage)) {
      const std::string_view sentence = text.substr(span.start, span.end - span.start);
      if (EndsWithQuestionMark(sentence)) continue;
      if (static_cast<int>(candidates.size()) >= limits.max_sentences) return candidates;
      std::string encoded_text = PassageText(passages[p].title(), sentence);
      ids.clear();
      tokenizer.Tokenize(encoded_text, &ids);
      tokens += std::min(static_cast<int>(ids.size()) + 2, max_length);
      if (tokens > limits.max_tokens && !candidates.empty()) return candidates;
      candidates.push_back({p, span, std::move(encoded_text)});
    }
  }
  return candidates;
}

double PassageMargin(const std::vector<float>& scores, int passage) {
  if (scores.size() < 2) return 0;
  return static_cast<double>(scores[passage]) - scores[passage == 0 ? 1 : 0];
}

QuestionWords::QuestionWords(std::string_view question) {
  for (std::string& word : Words(question)) {
    if (!std::binary_search(std::begin(kFunctionWords), std::end(kFunctionWords), std::string_view(word))) {
      words_.push_back(std::move(word));
    }
  }
}

double QuestionWords::ShareIn(std::string_view text) const {
  if (words_.empty()) return 0;
  const std::vector<std::string> words = Words(text);
  const auto found = std::count_if(words_.begin(), words_.end(),
                                   [&](const std::string& word) { return std::binary_search(words.begin(), words.end(), word); });
  return static_cast<double>(found) / static_cast<double>(words_.size());
}

}  // namespace loci
