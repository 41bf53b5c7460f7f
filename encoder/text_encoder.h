// Texts to vectors: tokenizer, truncation policy, batcher and encoder as the rest of the server uses them.
#ifndef LOCI_ENCODER_TEXT_ENCODER_H_
#define LOCI_ENCODER_TEXT_ENCODER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "base/cancellation.h"
#include "base/clock.h"
#include "base/metrics.h"
#include "base/vector_precision.h"
#include "encoder/batcher.h"
#include "encoder/encode_backlog.h"
#include "encoder/encoder.h"
#include "encoder/towers.h"
#include "encoder/work_metrics.h"

namespace loci {

struct EncodeTextOptions {
  TextRole role = TextRole::kPassage;
  Truncation truncation = Truncation::kTruncate;
  RequestLimits limits;
};

struct EncodedTexts {
  std::vector<float> vectors;     // [texts, dim]
  std::vector<TokenUsage> usage;  // One a text.
  int64_t tokenize_us = 0;
  int64_t queue_us = 0;
  int64_t encode_us = 0;
};

// Owns an encoder's towers, each with its batcher: texts of the QUERY role go to the query tower, where there is one. Thread-safe.
class TextEncoder {
 public:
  using Done = std::function<void(absl::StatusOr<EncodedTexts>)>;

  TextEncoder(EncoderTowers towers, BatcherOptions options, Clock& clock, MetricsSink& metrics);
  TextEncoder(std::shared_ptr<const Encoder> encoder, BatcherOptions options, Clock& clock, MetricsSink& metrics)
      : TextEncoder(EncoderTowers{.passage = std::move(encoder), .query = nullptr, .model_name = "", .element_type_reason = ""}, options, clock, metrics) {}
  ~TextEncoder();  // Answers what was submitted.

  const EncoderSpec& spec() const { return spec_; }  // Of both towers.
  VectorPrecision precision() const { return ParseVectorPrecision(spec_.element_type); }
  const Encoder& encoder() const { return *towers_.passage; }  // That encodes passages; the query tower has the same tokenizer.
  const std::shared_ptr<const Encoder>& passage_tower() const { return towers_.passage; }

  // Tokenizes on the calling thread (so: never a gRPC thread), then queues. `done` is called exactly once, on this thread or on a
  // batcher's (see Batcher::Submit for what it may do there). No texts: answered at once. Prefixes count as input tokens.
  // Truncation::kRefuse: INVALID_ARGUMENT naming the text's index, its tokens and the limit. More tokens in all than the
  // batcher's max_queued_tokens: INVALID_ARGUMENT.
  void Encode(const std::vector<std::string>& texts, const EncodeTextOptions& options, Done done);

  // Before any work on a request: Batcher::Reserve for texts of so many bytes, which have about a quarter as many tokens, and at most
  // as many as the encoder takes of each. The share is to be dropped once Encode has returned. Does not wait.
  absl::StatusOr<EncodeBacklog::Share> Reserve(int64_t text_count, int64_t text_bytes, const EncodeTextOptions& options, int64_t other_work_us);
  int64_t BacklogMicros() const { return batcher_->BacklogMicros() + (query_batcher_ == nullptr ? 0 : query_batcher_->BacklogMicros()); }

  // Encode, waiting for the answer. Blocks; never call it from a `done`.
  absl::StatusOr<EncodedTexts> EncodeAndWait(const std::vector<std::string>& texts, const EncodeTextOptions& options);

 private:
  Batcher& BatcherOf(TextRole role) const { return role == TextRole::kQuery && query_batcher_ != nullptr ? *query_batcher_ : *batcher_; }

  const EncoderTowers towers_;
  const EncoderSpec spec_;
  Clock& clock_;
  const int64_t max_request_tokens_;
  WorkMetrics work_;
  // Last: they answer before the towers go. With one tower the first is the only one.
  std::unique_ptr<Batcher> batcher_;
  std::unique_ptr<Batcher> query_batcher_;
};

}  // namespace loci

#endif  // LOCI_ENCODER_TEXT_ENCODER_H_
