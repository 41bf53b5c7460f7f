// The `sentence` reader: the sentences of the passages, scored against the question by the store's own encoder.
//
// Each sentence is encoded as a passage under its passage's title; a sentence that is itself a question is left out. The confidence of an
// answer is a logistic function of three things that speak for it (SentenceEvidence), fitted on questions with and without their gold
// passages. Below `abstain_threshold` the reader abstains. A sentence that stands in several passages is given once.
//
// Cost of a question: at most SentenceLimits::max_tokens tokens are encoded, the best passage's sentences first. Sentences beyond that
// are not looked at, so that the answer of a long first passage may hide those of the next.
#ifndef LOCI_RETRIEVER_SENTENCE_READER_H_
#define LOCI_RETRIEVER_SENTENCE_READER_H_

#include <memory>

#include "retriever/reader.h"
#include "retriever/sentence_evidence.h"

namespace loci {

struct SentenceReaderOptions {
  SentenceLimits limits;
  // logit(confidence) = bias + cosine_weight * cosine + margin_weight * margin + overlap_weight * overlap.
  //
  // Fitted for all-MiniLM-L6-v2 on 2026-11-21 by tests/calibration/calibrate_sentence_reader.py (top_k 5) on questions of which half had
  // lost their gold passages: 992 of SQuAD (22 articles among 44) and 1,249 of stackfaq. The threshold is the least at which no more
  // than a third of the answers were wrong on either. Another encoder's cosines lie elsewhere: fit again for it.
  double bias = -7.31;
  double cosine_weight = 8.34;
  double margin_weight = 11.02;
  double overlap_weight = 1.58;
  double abstain_threshold = 0.42;
};

// Thread-safe.
std::shared_ptr<const Reader> MakeSentenceReader(const SentenceReaderOptions& options = {});

}  // namespace loci

#endif  // LOCI_RETRIEVER_SENTENCE_READER_H_
