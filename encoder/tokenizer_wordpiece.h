// The one implementation of Tokenizer: BERT's splitter, then WordPiece longest match first over a trie.
#ifndef LOCI_ENCODER_TOKENIZER_WORDPIECE_H_
#define LOCI_ENCODER_TOKENIZER_WORDPIECE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "encoder/tokenizer.h"
#include "encoder/tokenizer_char_map.h"
#include "encoder/tokenizer_config.h"
#include "encoder/tokenizer_trie.h"

namespace loci {

// Immutable after construction.
class WordPieceTokenizer final : public Tokenizer {
 public:
  // `spec` as ValidateTokenizerSpec accepts it.
  explicit WordPieceTokenizer(const TokenizerSpec& spec);

  void Tokenize(std::string_view text, std::vector<int32_t>* ids) const override;
  int vocabulary_size() const override { return vocabulary_size_; }
  int32_t cls_id() const override { return cls_id_; }
  int32_t sep_id() const override { return sep_id_; }
  std::string digest() const override { return digest_; }

 private:
  // Text without added tokens in it.
  void TokenizeSegment(std::string_view text, std::vector<int32_t>* ids) const;
  void TokenizeWord(std::string_view word, std::vector<int32_t>* ids) const;
  // The first byte at or after `from` that an added token begins with, or npos.
  size_t FindAddedTokenByte(std::string_view text, size_t from) const;

  const CharMap char_map_;
  const int max_chars_per_word_;
  const int vocabulary_size_;
  int32_t unknown_id_ = 0;
  int32_t cls_id_ = 0;
  int32_t sep_id_ = 0;
  std::string digest_;

  PieceTrie pieces_;  // Below first_: pieces as they are. Below next_: pieces that continue a word, without their prefix.
  PieceTrie::Node first_ = PieceTrie::kNone;
  PieceTrie::Node next_ = PieceTrie::kNone;  // kNone where no piece continues a word.

  PieceTrie added_tokens_;
  std::string added_first_bytes_;  // Each once.
  bool is_added_first_byte_[256] = {};
};

}  // namespace loci

#endif  // LOCI_ENCODER_TOKENIZER_WORDPIECE_H_
