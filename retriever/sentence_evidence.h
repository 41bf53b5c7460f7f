// Which sentences the sentence reader looks at, and what it knows of each.
//
//   std::vector<SentenceCandidate> candidates = FindSentenceCandidates(passages, tokenizer, 256, {});
//   ... encode candidate.encoded_text ...
//   QuestionWords words(question);
//   SentenceEvidence evidence = {cosine(question, encoded_text), PassageMargin(scores, candidate.passage), words.ShareIn(encoded_text)};
#ifndef LOCI_RETRIEVER_SENTENCE_EVIDENCE_H_
#define LOCI_RETRIEVER_SENTENCE_EVIDENCE_H_

#include <string>
#include <string_view>
#include <vector>

#include "encoder/tokenizer.h"
#include "proto/loci/v1/common.pb.h"
#include "retriever/sentence_splitter.h"

namespace loci {

// What bounds the cost of one question.
struct SentenceLimits {
  int max_sentences = 64;              // Over all passages.
  int max_sentences_per_passage = 32;  // From the passage's start.
  int max_tokens = 1024;               // Of the encoded texts with their special tokens. The first is taken in any case.
};

// A sentence of one of the passages.
struct SentenceCandidate {
  int passage = 0;
  SentenceSpan span;         // Of the passage's text.
  std::string encoded_text;  // What is encoded for it.
};

// The sentences of the passages, the first passage's first, until one would go beyond a limit. Sentences that are questions
// (EndsWithQuestionMark) are left out: they answer nothing. `max_length` is the encoder's, in tokens.
std::vector<SentenceCandidate> FindSentenceCandidates(const std::vector<loci::v1::Passage>& passages, const Tokenizer& tokenizer,
                                                      int max_length, const SentenceLimits& limits);

// What speaks for a sentence.
struct SentenceEvidence {
  double cosine = 0;   // Of the question's vector with that of the encoded text.
  double margin = 0;   // PassageMargin of its passage.
  double overlap = 0;  // QuestionWords::ShareIn of the encoded text.
};

// How far the score of a passage is ahead of the best other one's; negative where it is behind, 0 where it is the only one.
// `scores` are those of all passages found, best first.
double PassageMargin(const std::vector<float>& scores, int passage);

// Whether the last character is '?' or the full-width form, quotes and brackets after it aside.
bool EndsWithQuestionMark(std::string_view sentence);

// The content words of a question: runs of ASCII letters, digits and non-ASCII bytes, lower-cased and cut to five bytes ("walked" and
// "walking" are one word), without English function words. Immutable after construction.
class QuestionWords {
 public:
  explicit QuestionWords(std::string_view question);

  // The share of them that occur in `text`, in [0, 1]; 0 where the question has none.
  double ShareIn(std::string_view text) const;

 private:
  std::vector<std::string> words_;  // Sorted, each once.
};

}  // namespace loci

#endif  // LOCI_RETRIEVER_SENTENCE_EVIDENCE_H_
