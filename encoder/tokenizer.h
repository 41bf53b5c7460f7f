// WordPiece with the BERT normaliser: text to token ids, the same ids as Hugging Face's `tokenizers`.
//
//   LOCI_ASSIGN_OR_RETURN(auto tokenizer, Tokenizer::Load(PosixFileSystem(), "models/all-MiniLM-L6-v2"));
//   std::vector<int32_t> ids;
//   tokenizer->Tokenize("Which package turns PDF into text?", &ids);   // without [CLS] and [SEP]
//
// Algorithm: Devlin et al. 2018 (BERT), WordPiece longest match first (Schuster and Nakajima 2012).
#ifndef LOCI_ENCODER_TOKENIZER_H_
#define LOCI_ENCODER_TOKENIZER_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "base/file.h"

namespace loci {

struct TokenizerOptions {
  bool lowercase = true;
  bool strip_accents = true;
  bool clean_text = true;
  bool handle_chinese_chars = true;
  // A word of more characters (after normalisation) is the unknown token. In [1, 10000].
  int max_input_chars_per_word = 100;
  // Marks a piece that continues a word.
  std::string continuing_subword_prefix = "##";
  std::string unk_token = "[UNK]";
  std::string cls_token = "[CLS]";
  std::string sep_token = "[SEP]";
  std::string pad_token = "[PAD]";
  std::string mask_token = "[MASK]";
};

// Immutable after construction.
class Tokenizer {
 public:
  // Reads tokenizer.json where the folder has one, else vocab.txt with tokenizer_config.json. A vocabulary without its special
  // tokens, with duplicates or gaps, or a tokenizer.json of another model than WordPiece: INVALID_ARGUMENT naming file and entry.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Load(FileSystem& fs, const std::string& model_directory);

  // `vocabulary[i]` is the piece with id i.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Create(std::vector<std::string> vocabulary, TokenizerOptions options);

  virtual ~Tokenizer() = default;

  // Appends the ids of `text`, without special tokens put around it. Special tokens that stand in the text as such ("[SEP]") are
  // matched as `tokenizers` matches added tokens. Any valid UTF-8, any length; invalid bytes count as U+FFFD.
  virtual void Tokenize(std::string_view text, std::vector<int32_t>* ids) const = 0;

  virtual int vocabulary_size() const = 0;
  virtual int32_t cls_id() const = 0;
  virtual int32_t sep_id() const = 0;
  // SHA-256 over what decides the ids: vocabulary, options, added tokens. 64 hex digits.
  virtual std::string digest() const = 0;
};

}  // namespace loci

#endif  // LOCI_ENCODER_TOKENIZER_H_
