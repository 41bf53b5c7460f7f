#include "retriever/sentence_reader.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

namespace loci {
namespace {

class SentenceReader : public Reader {
 public:
  explicit SentenceReader(const SentenceReaderOptions& options) : options_(options) {}

  std::string name() const override { return "sentence"; }

  void Read(ReadRequest request, TextEncoder& encoder, Done done) const override {
    auto shared = std::make_shared<ReadRequest>(std::move(request));
    std::vector<SentenceCandidate> candidates =
        FindSentenceCandidates(shared->passages, encoder.encoder().tokenizer(), encoder.spec().max_length, options_.limits);
    if (candidates.empty() || shared->max_answers < 1) return done(ReadResult{.abstained = true});
    std::vector<std::string> texts;
    texts.reserve(candidates.size());
    for (const SentenceCandidate& candidate : candidates) texts.push_back(candidate.encoded_text);
    const RequestLimits limits = shared->limits;
    encoder.Encode(texts, {.role = TextRole::kPassage, .limits = limits},
                   [this, shared, candidates = std::move(candidates), done = std::move(done)](absl::StatusOr<EncodedTexts> encoded) {
                     if (!encoded.ok()) return done(encoded.status());
                     done(Choose(*shared, candidates, encoded->vectors));
                   });
  }

 private:
  double Confidence(const SentenceEvidence& evidence) const {
    const double logit = options_.bias + options_.cosine_weight * evidence.cosine + options_.margin_weight * evidence.margin +
                         options_.overlap_weight * evidence.overlap;
    return 1.0 / (1.0 + std::exp(-logit));
  }

  ReadResult Choose(const ReadRequest& request, const std::vector<SentenceCandidate>& candidates,
                    const std::vector<float>& vectors) const {
    const size_t dim = request.question_vector.size();
    const QuestionWords words(request.question);
    std::vector<double> confidences(candidates.size());
    for (size_t i = 0; i < candidates.size(); ++i) {
      const float* vector = vectors.data() + i * dim;
      confidences[i] = Confidence({.cosine = std::inner_product(vector, vector + dim, request.question_vector.begin(), 0.0),
                                   .margin = PassageMargin(request.passage_scores, candidates[i].passage),
                                   .overlap = words.ShareIn(candidates[i].encoded_text)});
    }
    std::vector<size_t> order(candidates.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return confidences[a] > confidences[b]; });

    ReadResult result;
    for (const size_t i : order) {
      if (static_cast<int>(result.answers.size()) == request.max_answers || confidences[i] < options_.abstain_threshold) break;
      const SentenceCandidate& candidate = candidates[i];
      std::string text = request.passages[candidate.passage].text().substr(candidate.span.start, candidate.span.end - candidate.span.start);
      const bool again = std::any_of(result.answers.begin(), result.answers.end(),
                                     [&](const ReadAnswer& answer) { return answer.text == text; });
      if (again) continue;
      result.answers.push_back({.text = std::move(text),
                                .score = confidences[i],
                                .passage = candidate.passage,
                                .start_byte = candidate.span.start,
                                .end_byte = candidate.span.end});
    }
    result.abstained = result.answers.empty();
    return result;
  }

  const SentenceReaderOptions options_;
};

}  // namespace

std::shared_ptr<const Reader> MakeSentenceReader(const SentenceReaderOptions& options) {
  return std::make_shared<SentenceReader>(options);
}

}  // namespace loci
