// Splits text into sentences, by rule.
#ifndef LOCI_RETRIEVER_SENTENCE_SPLITTER_H_
#define LOCI_RETRIEVER_SENTENCE_SPLITTER_H_

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

namespace loci {

// Bytes [start, end) of a text; never empty, no white space at either end, never within a UTF-8 character.
struct SentenceSpan {
  int32_t start = 0;
  int32_t end = 0;
  friend bool operator==(const SentenceSpan&, const SentenceSpan&) = default;
};

// A sentence ends after . ! ? (with quotes and brackets that close) before white space that is not followed by a lower-case letter, after
// the full-width 。！？, at an empty line, and before a line that starts with a bullet. A period after an initial ("J.") or a common
// abbreviation ("e.g.", "Dr.") ends none. A sentence over `max_bytes` is cut at white space where there is some.
// At most `max_sentences`, from the start. `text` is valid UTF-8.
std::vector<SentenceSpan> SplitSentences(std::string_view text, size_t max_sentences, size_t max_bytes = 1000);

}  // namespace loci

#endif  // LOCI_RETRIEVER_SENTENCE_SPLITTER_H_
