// An encoder without a model, for tests: a token is a lower-cased run of letters and digits, a vector the normalised sum of a
// fixed pseudo-random direction per token. Texts that share words lie near each other.
//
//   FakeEncoder encoder({.dim = 16, .max_length = 32});
//   encoder.set_on_encode([](const PackedBatch& batch) { return absl::OkStatus(); });   // Before a batch is encoded.
#ifndef LOCI_ENCODER_TESTING_FAKE_ENCODER_H_
#define LOCI_ENCODER_TESTING_FAKE_ENCODER_H_

#include <cmath>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "encoder/encoder.h"
#include "encoder/tokenizer.h"
#include "encoder/types.h"

namespace loci {

// Immutable after construction.
class FakeTokenizer : public Tokenizer {
 public:
  static constexpr int kVocabularySize = 30'000;

  void Tokenize(std::string_view text, std::vector<int32_t>* ids) const override {
    uint32_t hash = 0;
    for (size_t i = 0; i <= text.size(); ++i) {
      const unsigned char c = i < text.size() ? static_cast<unsigned char>(text[i]) : ' ';
      const bool in_word = c >= 0x80 || (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
      if (in_word) {
        if (hash == 0) hash = 2166136261u;
        hash = (hash ^ (c >= 'A' && c <= 'Z' ? c + 32u : c)) * 16777619u;
      } else if (hash != 0) {
        ids->push_back(static_cast<int32_t>(10 + hash % (kVocabularySize - 10)));
        hash = 0;
      }
    }
  }
  int vocabulary_size() const override { return kVocabularySize; }
  int32_t cls_id() const override { return 1; }
  int32_t sep_id() const override { return 2; }
  std::string digest() const override { return std::string(64, 'f'); }
};

struct FakeEncoderOptions {
  int dim = 8;
  int max_length = 32;
  bool normalize = true;
  std::string query_prefix;
  std::string passage_prefix;
  std::string model_name = "fake";
  Fingerprint fingerprint = {"00000000000000f0", "00000000000000f1"};
};

// Thread-safe once set_on_encode was called, if that function is.
class FakeEncoder : public Encoder {
 public:
  using OnEncode = std::function<absl::Status(const PackedBatch&)>;

  explicit FakeEncoder(const FakeEncoderOptions& options = {}) {
    spec_.model_name = options.model_name;
    spec_.dim = options.dim;
    spec_.max_length = options.max_length;
    spec_.normalize = options.normalize;
    spec_.query_prefix = options.query_prefix;
    spec_.passage_prefix = options.passage_prefix;
    spec_.fingerprint = options.fingerprint;
  }
  void set_on_encode(OnEncode on_encode) { on_encode_ = std::move(on_encode); }

  const EncoderSpec& spec() const override { return spec_; }
  const Tokenizer& tokenizer() const override { return tokenizer_; }

  absl::Status Encode(const PackedBatch& batch, float* vectors) const override {
    if (on_encode_) {
      if (absl::Status status = on_encode_(batch); !status.ok()) return status;
    }
    for (int64_t i = 0; i < batch.sequence_count(); ++i) {
      const size_t begin = static_cast<size_t>(batch.offsets[static_cast<size_t>(i)]);
      const size_t end = static_cast<size_t>(batch.offsets[static_cast<size_t>(i) + 1]);
      if (begin == end || end - begin > static_cast<size_t>(spec_.max_length)) {
        return absl::InvalidArgumentError("a sequence is empty or too long");
      }
      EncodeSequence({batch.token_ids.begin() + begin, batch.token_ids.begin() + end}, vectors + i * spec_.dim);
    }
    return absl::OkStatus();
  }

  // What Encode gives for one sequence: a function of its ids alone.
  void EncodeSequence(const std::vector<int32_t>& ids, float* vector) const {
    std::vector<double> sum(static_cast<size_t>(spec_.dim), 0.0);
    for (const int32_t id : ids) {
      uint64_t state = static_cast<uint64_t>(id) * 0x9e3779b97f4a7c15u + 1;
      for (double& value : sum) {
        state = (state ^ (state >> 29)) * 0xbf58476d1ce4e5b9u + 0x94d049bb133111ebu;
        value += static_cast<double>(static_cast<int32_t>(state >> 32)) / 2147483648.0;
      }
    }
    double square = 0;
    for (const double value : sum) square += value * value;
    const double scale = spec_.normalize && square > 0 ? 1 / std::sqrt(square) : 1;
    for (size_t d = 0; d < sum.size(); ++d) vector[d] = static_cast<float>(sum[d] * scale);
  }

 private:
  EncoderSpec spec_;
  FakeTokenizer tokenizer_;
  OnEncode on_encode_;
};

}  // namespace loci

#endif  // LOCI_ENCODER_TESTING_FAKE_ENCODER_H_
