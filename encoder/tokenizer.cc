#include "encoder/tokenizer.h"

#include <utility>

#include "base/status_macros.h"
#include "encoder/tokenizer_config.h"
#include "encoder/tokenizer_wordpiece.h"

namespace loci {

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Load(FileSystem& fs, const std::string& model_directory) {
  const std::string json_path = JoinPath(model_directory, "tokenizer.json");
  const std::string vocabulary_path = JoinPath(model_directory, "vocab.txt");
  const std::string config_path = JoinPath(model_directory, "tokenizer_config.json");
  std::string config;
  if (fs.Exists(config_path)) {
    LOCI_ASSIGN_OR_RETURN(config, fs.ReadFile(config_path));
  }
  TokenizerSpec spec;
  if (fs.Exists(json_path)) {
    LOCI_ASSIGN_OR_RETURN(const std::string json, fs.ReadFile(json_path));
    LOCI_ASSIGN_OR_RETURN(spec, ParseTokenizerJson(json, config, json_path));
  } else {
    LOCI_ASSIGN_OR_RETURN(const std::string vocabulary, fs.ReadFile(vocabulary_path));
    LOCI_ASSIGN_OR_RETURN(spec, ParseVocabularyText(vocabulary, config, vocabulary_path));
  }
  return std::make_unique<WordPieceTokenizer>(spec);
}

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Create(std::vector<std::string> vocabulary, TokenizerOptions options) {
  const TokenizerSpec spec = MakeTokenizerSpec(std::move(vocabulary), std::move(options));
  LOCI_RETURN_IF_ERROR(ValidateTokenizerSpec(spec, "vocabulary"));
  return std::make_unique<WordPieceTokenizer>(spec);
}

}  // namespace loci
