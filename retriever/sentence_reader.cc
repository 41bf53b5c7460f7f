#include "retriever/sentence_reader.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "retriever/sentence_splitter.h"

namespace loci {
namespace {

// A sentence of one of the passages.
struct Candidate {
  int passage = 0;
  SentenceSpan span;
};

class SentenceReader : public Reader {
 public:
  explicit SentenceReader(const SentenceReaderOptions& options) : options_(options) {}

  std::string name() const override { return "sentence"; }

  void Read(ReadRequest request, TextEncoder& encoder, Done done) const override {
    auto shared = std::make_shared<ReadRequest>(std::move(request));
    std::vector<Candidate> candidates = FindCandidates(*shared);
    if (candidates.empty()) return done(ReadResult{.abstained = true});
    std::vector<std::string> texts;
    texts.reserve(candidates.size());
    for (const Candidate& candidate : candidates) {
      const loci::v1::Passage& passage = shared->passages[candidate.passage];
      const int32_t size = candidate.span.end - candidate.span.start;
      texts.push_back(PassageText(passage.title(), std::string_view(passage.text()).substr(candidate.span.start, size)));
    }
    const RequestLimits limits = shared->limits;
    encoder.Encode(texts, {.role = TextRole::kPassage, .limits = limits},
                   [this, shared, candidates = std::move(candidates), done = std::move(done)](absl::StatusOr<EncodedTexts> encoded) {
                     if (!encoded.ok()) return done(encoded.status());
                     done(Choose(*shared, candidates, encoded->vectors));
                   });
  }

 private:
  // Sentences of all passages, the best passage's first, until there are enough.
  std::vector<Candidate> FindCandidates(const ReadRequest& request) const {
    std::vector<Candidate> candidates;
    for (int p = 0; p < static_cast<int>(request.passages.size()); ++p) {
      for (const SentenceSpan& span : SplitSentences(request.passages[p].text(), options_.max_sentences_per_passage)) {
        if (static_cast<int>(candidates.size()) == options_.max_sentences) return candidates;
        candidates.push_back({p, span});
      }
    }
    return candidates;
  }

  ReadResult Choose(const ReadRequest& request, const std::vector<Candidate>& candidates, const std::vector<float>& vectors) const {
    const size_t dim = request.question_vector.size();
    std::vector<double> confidences(candidates.size());
    for (size_t i = 0; i < candidates.size(); ++i) {
      const float* vector = vectors.data() + i * dim;
      const double cosine = std::inner_product(vector, vector + dim, request.question_vector.begin(), 0.0);
      const double logit = options_.bias + options_.sentence_weight * cosine +
                           options_.passage_weight * request.passage_scores[candidates[i].passage];
      confidences[i] = 1.0 / (1.0 + std::exp(-logit));
    }
    std::vector<size_t> order(candidates.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return confidences[a] > confidences[b]; });

    ReadResult result;
    if (confidences[order[0]] < options_.abstain_threshold) {
      result.abstained = true;
      return result;
    }
    for (size_t i : order) {
      if (static_cast<int>(result.answers.size()) == request.max_answers) break;
      if (confidences[i] < options_.abstain_threshold) break;
      const Candidate& candidate = candidates[i];
      const std::string& text = request.passages[candidate.passage].text();
      result.answers.push_back({.text = text.substr(candidate.span.start, candidate.span.end - candidate.span.start),
                                .score = confidences[i],
                                .passage = candidate.passage,
                                .start_byte = candidate.span.start,
                                .end_byte = candidate.span.end});
    }
    return result;
  }

  const SentenceReaderOptions options_;
};

}  // namespace

std::shared_ptr<const Reader> MakeSentenceReader(const SentenceReaderOptions& options) {
  return std::make_shared<SentenceReader>(options);
}

}  // namespace loci
