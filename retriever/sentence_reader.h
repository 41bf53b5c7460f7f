// The `sentence` reader: the sentences of the passages, scored against the question by the store's own encoder.
//
// Each sentence is encoded as a passage under its passage's title. A sentence's evidence is its cosine with the question and the
// score of the passage that it stands in. The confidence of an answer is a logistic function of them, fitted on questions with and
// without their gold passages; below `abstain_threshold` the reader abstains. README.md, "Answers", has data, fit and risk-coverage.
#ifndef LOCI_RETRIEVER_SENTENCE_READER_H_
#define LOCI_RETRIEVER_SENTENCE_READER_H_

#include <memory>

#include "retriever/reader.h"

namespace loci {

struct SentenceReaderOptions {
  int max_sentences = 128;             // Encoded for one question, over all passages.
  int max_sentences_per_passage = 32;  // From the passage's start.
  // logit(confidence) = bias + sentence_weight * cosine(question, sentence) + passage_weight * passage score.
  double bias = -6.0;
  double sentence_weight = 8.0;
  double passage_weight = 4.0;
  double abstain_threshold = 0.5;
};

// Thread-safe.
std::shared_ptr<const Reader> MakeSentenceReader(const SentenceReaderOptions& options = {});

}  // namespace loci

#endif  // LOCI_RETRIEVER_SENTENCE_READER_H_
