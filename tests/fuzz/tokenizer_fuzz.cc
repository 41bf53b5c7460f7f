// Fuzzes the tokenizer's inputs. The first byte says which: text under the options of the second byte, tokenizer.json, vocab.txt, or
// tokenizer_config.json beside a good vocabulary.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "encoder/tokenizer_config.h"
#include "encoder/tokenizer_wordpiece.h"

namespace loci {
namespace {

void Require(bool holds) {
  if (!holds) __builtin_trap();
}

std::vector<std::string> Vocabulary() {
  std::vector<std::string> pieces = {"[PAD]", "[UNK]",  "[CLS]",  "[SEP]",    "[MASK]", "un",
                                     "##aff", "##able", "\u00e9", "##\u302f", "\u4e2d", "##\uFFFD"};
  for (char c = '!'; c <= '~'; ++c) pieces.push_back(std::string(1, c));
  for (char c = 'a'; c <= 'z'; ++c) pieces.push_back(std::string("##") + c);
  return pieces;
}

// One for each choice of the four options: their tables take a while to make.
const Tokenizer& TokenizerFor(uint8_t choice) {
  static std::unique_ptr<Tokenizer> tokenizers[16];
  std::unique_ptr<Tokenizer>& tokenizer = tokenizers[choice & 15];
  if (tokenizer == nullptr) {
    TokenizerOptions options;
    options.lowercase = (choice & 1) == 0;
    options.strip_accents = (choice & 2) == 0;
    options.clean_text = (choice & 4) == 0;
    options.handle_chinese_chars = (choice & 8) == 0;
    const TokenizerSpec spec = MakeTokenizerSpec(Vocabulary(), options);
    Require(ValidateTokenizerSpec(spec, "fuzz").ok());
    tokenizer = std::make_unique<WordPieceTokenizer>(spec);
  }
  return *tokenizer;
}

void FuzzText(uint8_t choice, std::string_view text) {
  const Tokenizer& tokenizer = TokenizerFor(choice);
  std::vector<int32_t> ids;
  tokenizer.Tokenize(text, &ids);
  for (const int32_t id : ids) Require(id >= 0 && id < tokenizer.vocabulary_size());
  Require(ids.size() <= 3 * text.size());  // At most the three letters of a Hangul syllable, or one id for a byte.
  // A space separates: the ids of the parts are the ids of the whole.
  const std::string joined = std::string(text) + " " + std::string(text);
  std::vector<int32_t> twice;
  tokenizer.Tokenize(joined, &twice);
  Require(twice.size() == 2 * ids.size());
  Require(std::equal(ids.begin(), ids.end(), twice.begin()) &&
          std::equal(ids.begin(), ids.end(), twice.begin() + static_cast<ptrdiff_t>(ids.size())));
}

void CheckSpec(const absl::StatusOr<TokenizerSpec>& spec) {
  if (!spec.ok()) {
    Require(spec.status().code() == absl::StatusCode::kInvalidArgument && !spec.status().message().empty());
    return;
  }
  // What was accepted must be what a tokenizer can be made of.
  Require(ValidateTokenizerSpec(*spec, "again").ok());
  Require(spec->piece_count <= spec->vocabulary.size());
  for (const AddedToken& token : spec->added_tokens) {
    Require(token.id >= 0 && static_cast<size_t>(token.id) < spec->vocabulary.size() &&
            spec->vocabulary[static_cast<size_t>(token.id)] == token.content);
  }
  static int made = 0;
  if (++made > 8) return;
  std::vector<int32_t> ids;
  WordPieceTokenizer(*spec).Tokenize("unaffable [SEP] \u00e9a##", &ids);
  for (const int32_t id : ids) Require(id >= 0 && static_cast<size_t>(id) < spec->vocabulary.size());
}

}  // namespace
}  // namespace loci

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  const std::string_view rest(reinterpret_cast<const char*>(data) + 1, size - 1);
  switch (data[0]) {
    case 'j':
      loci::CheckSpec(loci::ParseTokenizerJson(rest, "", "tokenizer.json"));
      break;
    case 'v':
      loci::CheckSpec(loci::ParseVocabularyText(rest, "", "vocab.txt"));
      break;
    case 'c':
      loci::CheckSpec(loci::ParseVocabularyText("[UNK]\n[CLS]\n[SEP]\na\n", rest, "vocab.txt"));
      break;
    default:
      loci::FuzzText(data[1], rest.substr(1));
  }
  return 0;
}
