// Words that the encoder's parts share.
#ifndef LOCI_ENCODER_TYPES_H_
#define LOCI_ENCODER_TYPES_H_

#include <cstdint>
#include <string>
#include <vector>

namespace loci {

// Chooses the prefix that a checkpoint puts before its texts.
enum class TextRole { kQuery, kPassage };

// What to do with a text longer than the encoder takes.
enum class Truncation {
  kTruncate,     // Keep the first tokens, and say so.
  kPoolWindows,  // Encode windows of full length without overlap, average their vectors weighted by token count, normalise again.
  kRefuse,       // INVALID_ARGUMENT.
};

// Special tokens are counted. `used_tokens` < `input_tokens` exactly where `truncated`.
struct TokenUsage {
  int32_t input_tokens = 0;
  int32_t used_tokens = 0;
  bool truncated = false;
};

// Sequences laid one after the other without padding: sequence i has the ids token_ids[offsets[i]] .. token_ids[offsets[i + 1] - 1].
// offsets[0] = 0 and offsets.size() = sequence_count() + 1. Special tokens are in the ids.
struct PackedBatch {
  std::vector<int32_t> token_ids;
  std::vector<int32_t> offsets = {0};

  int64_t sequence_count() const { return static_cast<int64_t>(offsets.size()) - 1; }
  int64_t token_count() const { return static_cast<int64_t>(token_ids.size()); }
};

// Identifies a vector space. Each half is 16 lower-case hex digits.
//
// The passage half hashes what makes a passage's vector: weights, tokenizer, pooling, normalisation, passage prefix, the template
// `title + " " + text`, maximum length, dimension. The query half hashes the same for queries and names the passage half it serves.
// Numeric type and device are not hashed.
struct Fingerprint {
  std::string query;
  std::string passage;

  std::string ToString() const { return query + ":" + passage; }
  friend bool operator==(const Fingerprint& a, const Fingerprint& b) = default;
};

}  // namespace loci

#endif  // LOCI_ENCODER_TYPES_H_
