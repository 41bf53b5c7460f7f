#include "encoder/text_encoder.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "base/logging.h"
#include "base/mutex.h"

namespace loci {
namespace {

constexpr int kSpecialTokens = 2;  // [CLS] and [SEP] around each sequence.

// The sequences of a request's texts: text i has sequences first[i] .. first[i + 1] - 1.
struct Sequences {
  PackedBatch batch;
  std::vector<int64_t> first = {0};
  std::vector<TokenUsage> usage;

  bool one_each() const { return batch.sequence_count() == static_cast<int64_t>(usage.size()); }
};

void AppendSequence(const int32_t* begin, const int32_t* end, const Tokenizer& tokenizer, PackedBatch* batch) {
  batch->token_ids.push_back(tokenizer.cls_id());
  batch->token_ids.insert(batch->token_ids.end(), begin, end);
  batch->token_ids.push_back(tokenizer.sep_id());
  batch->offsets.push_back(static_cast<int32_t>(batch->token_count()));
}

absl::StatusOr<Sequences> Tokenize(const Encoder& encoder, const std::vector<std::string>& texts,
                                   const EncodeTextOptions& options, int64_t max_tokens, const Clock& clock, WorkMetrics& work) {
  const Tokenizer& tokenizer = encoder.tokenizer();
  const int max_length = encoder.spec().max_length;
  const int64_t window = max_length - kSpecialTokens;
  const std::string& prefix = options.role == TextRole::kQuery ? encoder.spec().query_prefix : encoder.spec().passage_prefix;
  Sequences result;
  result.usage.reserve(texts.size());
  std::vector<int32_t> ids;
  std::string prefixed;
  for (size_t i = 0; i < texts.size(); ++i) {
    // A large request takes a while: stop when nobody waits for it any more.
    if (absl::Status status = options.limits.Check(clock.NowMicros()); !status.ok()) {
      if (i > 0) work.Wasted(WorkPhase::kTokenize);
      work.Avoided(i > 0 ? WorkPhase::kEncode : WorkPhase::kTokenize);
      return status;
    }
    ids.clear();
    if (prefix.empty()) {
      tokenizer.Tokenize(texts[i], &ids);
    } else {
      prefixed.assign(prefix).append(texts[i]);
      tokenizer.Tokenize(prefixed, &ids);
    }
    const int64_t count = static_cast<int64_t>(ids.size());
    TokenUsage usage;
    usage.input_tokens = static_cast<int32_t>(count + kSpecialTokens);
    usage.used_tokens = usage.input_tokens;
    if (count > window && options.truncation == Truncation::kRefuse) {
      return ErrorWithReason(
          absl::InvalidArgumentError(
              absl::StrCat("text ", i, " has ", usage.input_tokens, " tokens, the encoder takes ", max_length)),
          "TEXT_TOO_LONG",
          {{"field", absl::StrCat("texts[", i, "]")}, {"index", absl::StrCat(i)}, {"tokens", absl::StrCat(usage.input_tokens)}, {"limit", absl::StrCat(max_length)}});
    }
    if (count > window && options.truncation == Truncation::kTruncate) {
      usage.used_tokens = max_length;
      usage.truncated = true;
    }
    const int64_t used = usage.truncated ? window : count;
    int64_t begin = 0;
    do {  // Also an empty text is a sequence: two tokens.
      const int64_t end = std::min(begin + window, used);
      AppendSequence(ids.data() + begin, ids.data() + end, tokenizer, &result.batch);
      begin = end;
    } while (begin < used);
    if (result.batch.token_count() > max_tokens) {
      return ErrorWithReason(absl::InvalidArgumentError(absl::StrCat("the first ", i + 1, " of ", texts.size(), " texts have ",
                                                                     result.batch.token_count(), " tokens, the limit of a request is ",
                                                                     max_tokens)),
                             "INVALID_ARGUMENT", {{"field", absl::StrCat("texts[", i, "]")}});
    }
    result.first.push_back(result.batch.sequence_count());
    result.usage.push_back(usage);
  }
  return result;
}

// [sequences, dim] -> [texts, dim]. A text of one window keeps its vector as it is; the others get the mean of their windows'
// vectors, weighted by their tokens (without the special ones), again of unit length where the encoder's are.
std::vector<float> PoolWindows(const std::vector<int64_t>& first, const std::vector<int32_t>& offsets,
                               const std::vector<float>& vectors, size_t dim, bool normalize) {
  const size_t text_count = first.size() - 1;
  std::vector<float> pooled(text_count * dim);
  std::vector<double> sum(dim);
  for (size_t i = 0; i < text_count; ++i) {
    float* const out = pooled.data() + i * dim;
    const size_t begin = static_cast<size_t>(first[i]);
    const size_t end = static_cast<size_t>(first[i + 1]);
    if (end - begin == 1) {
      std::copy_n(vectors.data() + begin * dim, dim, out);
      continue;
    }
    std::fill(sum.begin(), sum.end(), 0.0);
    double total_weight = 0;
    for (size_t s = begin; s < end; ++s) {
      const double weight = offsets[s + 1] - offsets[s] - kSpecialTokens;
      total_weight += weight;
      for (size_t d = 0; d < dim; ++d) sum[d] += weight * static_cast<double>(vectors[s * dim + d]);
    }
    double scale = 1 / total_weight;
    if (normalize) {
      double square = 0;
      for (const double value : sum) square += value * value;
      if (square > 0) scale = 1 / std::sqrt(square);  // Windows that cancel out leave a zero vector.
    }
    for (size_t d = 0; d < dim; ++d) out[d] = static_cast<float>(sum[d] * scale);
  }
  return pooled;
}

// Series under other labels than the encoder's own, where another has those.
class NamedMetrics final : public MetricsSink {
 public:
  NamedMetrics(MetricsSink& sink, MetricLabels labels) : sink_(sink), labels_(std::move(labels)) {}
  Counter& counter(const std::string& name, const std::string& help, const MetricLabels& labels) override {
    return sink_.counter(name, help, Named(labels));
  }
  Gauge& gauge(const std::string& name, const std::string& help, const MetricLabels& labels) override { return sink_.gauge(name, help, Named(labels)); }
  Histogram& histogram(const std::string& name, const std::string& help, const MetricLabels& labels, const std::vector<double>& bounds) override {
    return sink_.histogram(name, help, Named(labels), bounds);
  }

 private:
  MetricLabels Named(MetricLabels labels) const {
    if (!labels.contains("encoder")) return labels;
    for (const auto& [label, value] : labels_) labels[label] = value;
    return labels;
  }

  MetricsSink& sink_;
  const MetricLabels labels_;
};

// A batcher asks for its series when it is made, and only then.
std::unique_ptr<Batcher> MakeBatcher(const Encoder& tower, const EncoderTowers& towers, const BatcherOptions& options, Clock& clock, MetricsSink& metrics) {
  const EncoderSpec spec = towers.spec();
  const bool is_int8 = ParseVectorPrecision(spec.element_type) == VectorPrecision::kInt8;
  if (towers.query == nullptr && !is_int8) return Batcher::Create(tower, options, clock, metrics);
  MetricLabels labels{{"encoder", spec.model_name}, {"fingerprint", spec.fingerprint.ToString()}};
  // Of one of two towers, under the name of the encoder of both: a tower may be another encoder's too, and its own name is that one's.
  if (towers.query != nullptr) labels["tower"] = &tower == towers.query.get() ? "query" : "passage";
  if (is_int8) labels["precision"] = "int8";  // The encoder may be there in another, too.
  NamedMetrics named(metrics, std::move(labels));
  return Batcher::Create(tower, options, clock, named);
}

}  // namespace

TextEncoder::TextEncoder(EncoderTowers towers, BatcherOptions options, Clock& clock, MetricsSink& metrics)
    : towers_(std::move(towers)),
      spec_(towers_.spec()),
      clock_(clock),
      max_request_tokens_(std::min<int64_t>(options.max_queued_tokens, INT32_MAX)),
      work_(metrics),
      batcher_(MakeBatcher(*towers_.passage, towers_, options, clock, metrics)) {
  LOCI_CHECK(spec_.max_length > kSpecialTokens);
  if (towers_.query == nullptr) return;
  LOCI_CHECK(towers_.query->spec().dim == spec_.dim && towers_.query->spec().max_length == spec_.max_length);
  query_batcher_ = MakeBatcher(*towers_.query, towers_, options, clock, metrics);
}

TextEncoder::~TextEncoder() = default;

void TextEncoder::Encode(const std::vector<std::string>& texts, const EncodeTextOptions& options, Done done) {
  const int64_t start_us = clock_.NowMicros();
  absl::StatusOr<Sequences> tokenized = Tokenize(*towers_.passage, texts, options, max_request_tokens_, clock_, work_);
  if (!tokenized.ok()) return done(tokenized.status());
  const bool one_each = tokenized->one_each();
  EncodedTexts result;
  result.usage = std::move(tokenized->usage);
  result.tokenize_us = clock_.NowMicros() - start_us;
  std::vector<int64_t> first;
  std::vector<int32_t> offsets;
  if (!one_each) {
    first = std::move(tokenized->first);
    offsets = tokenized->batch.offsets;
  }
  BatcherOf(options.role).Submit(std::move(tokenized->batch), options.limits,
                   [done = std::move(done), result = std::move(result), one_each, first = std::move(first),
                    offsets = std::move(offsets), dim = static_cast<size_t>(spec_.dim),
                    normalize = spec_.normalize](absl::StatusOr<BatchedVectors> batched) mutable {
                     if (!batched.ok()) return done(std::move(batched).status());
                     result.queue_us = batched->queue_us;
                     result.encode_us = batched->encode_us;
                     result.vectors =
                         one_each ? std::move(batched->vectors) : PoolWindows(first, offsets, batched->vectors, dim, normalize);
                     done(std::move(result));
                   });
}

absl::StatusOr<EncodeBacklog::Share> TextEncoder::Reserve(int64_t text_count, int64_t text_bytes, const EncodeTextOptions& options,
                                                          int64_t other_work_us) {
  constexpr int64_t kBytesPerToken = 4;
  int64_t tokens = text_bytes / kBytesPerToken + kSpecialTokens * text_count;
  if (options.truncation == Truncation::kTruncate) tokens = std::min(tokens, text_count * spec_.max_length);
  return BatcherOf(options.role).Reserve(tokens, options.limits, other_work_us);
}

absl::StatusOr<EncodedTexts> TextEncoder::EncodeAndWait(const std::vector<std::string>& texts, const EncodeTextOptions& options) {
  Mutex mutex;
  CondVar answered;
  bool ready = false;
  absl::StatusOr<EncodedTexts> result = absl::InternalError("no answer");
  Encode(texts, options, [&](absl::StatusOr<EncodedTexts> answer) {
    MutexLock lock(&mutex);
    result = std::move(answer);
    ready = true;
    answered.NotifyOne();  // Under the lock: the waiter may not be gone before this returns.
  });
  MutexLock lock(&mutex);
  while (!ready) answered.Wait(&mutex);
  return result;
}

}  // namespace loci
