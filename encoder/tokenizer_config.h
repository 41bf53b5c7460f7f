// The tokenizer's files, read and checked: tokenizer.json, or vocab.txt with tokenizer_config.json.
//
// What these files may ask for and Loci's tokenizer does not do is an error, never ignored; but for "truncation" and "padding", which
// are the encoder's business.
#ifndef LOCI_ENCODER_TOKENIZER_CONFIG_H_
#define LOCI_ENCODER_TOKENIZER_CONFIG_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "encoder/tokenizer.h"

namespace loci {

inline constexpr size_t kMaxVocabularySize = size_t{1} << 22;
inline constexpr int kMaxInputCharsPerWordLimit = 10000;

// A token that is matched in the text before normalisation, wherever it stands.
struct AddedToken {
  std::string content;
  int32_t id = 0;
};

// All that decides the ids.
struct TokenizerSpec {
  std::vector<std::string> vocabulary;  // By id, added tokens outside the model's vocabulary too.
  size_t piece_count = 0;               // The first so many of the vocabulary are the model's pieces.
  TokenizerOptions options;
  std::vector<AddedToken> added_tokens;
};

// `tokenizer_config` is the text of tokenizer_config.json, or empty where there is none: it names [CLS] and [SEP] where
// tokenizer.json's post-processor does not. INVALID_ARGUMENT, reason INVALID_TOKENIZER, naming `file` and the entry.
absl::StatusOr<TokenizerSpec> ParseTokenizerJson(std::string_view json, std::string_view tokenizer_config,
                                                 const std::string& file);

// `vocabulary` has one piece a line. `tokenizer_config` as above; without it, an uncased BERT. Errors as above.
absl::StatusOr<TokenizerSpec> ParseVocabularyText(std::string_view vocabulary, std::string_view tokenizer_config,
                                                  const std::string& file);

// A specification from a vocabulary: its special tokens become added tokens; pad and mask where the vocabulary has them.
TokenizerSpec MakeTokenizerSpec(std::vector<std::string> vocabulary, TokenizerOptions options);

// Sizes and ranges; pieces not empty, valid UTF-8 and all different; unknown, [CLS] and [SEP] there. Errors as above.
absl::Status ValidateTokenizerSpec(const TokenizerSpec& spec, const std::string& file);

}  // namespace loci

#endif  // LOCI_ENCODER_TOKENIZER_CONFIG_H_
