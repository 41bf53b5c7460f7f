#include "encoder/tokenizer_wordpiece.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/checksum.h"
#include "encoder/tokenizer_splitter.h"

namespace loci {
namespace {

// What the two kinds of keys in pieces_ begin with.
constexpr std::string_view kFirst("\0", 1);
constexpr std::string_view kNext("\1", 1);

std::string Digest(const TokenizerSpec& spec, int32_t cls_id, int32_t sep_id) {
  // A change to what this covers, or to what Tokenize does with it, takes a new version.
  std::string text = "loci wordpiece 1\n";
  const TokenizerOptions& options = spec.options;
  absl::StrAppend(&text, options.lowercase, options.strip_accents, options.clean_text, options.handle_chinese_chars, " ",
                  options.max_input_chars_per_word, " ", cls_id, " ", sep_id, "\n");
  // Lengths before texts, so that no two specifications give the same bytes.
  const auto append = [&text](const std::string& value) { absl::StrAppend(&text, value.size(), ":", value); };
  append(options.continuing_subword_prefix);
  append(options.unk_token);
  absl::StrAppend(&text, "\n", spec.piece_count, "\n");
  for (const std::string& piece : spec.vocabulary) append(piece);
  std::vector<AddedToken> added = spec.added_tokens;
  std::sort(added.begin(), added.end(), [](const AddedToken& a, const AddedToken& b) { return a.content < b.content; });
  added.erase(
      std::unique(added.begin(), added.end(), [](const AddedToken& a, const AddedToken& b) { return a.content == b.content; }),
      added.end());
  absl::StrAppend(&text, "\n", added.size(), "\n");
  for (const AddedToken& token : added) {
    append(token.content);
    absl::StrAppend(&text, token.id, "\n");
  }
  return Sha256::Hex(text);
}

}  // namespace

WordPieceTokenizer::WordPieceTokenizer(const TokenizerSpec& spec)
    : char_map_(spec.options),
      max_chars_per_word_(spec.options.max_input_chars_per_word),
      vocabulary_size_(static_cast<int>(spec.vocabulary.size())) {
  const auto id_of = [&spec](const std::string& token) {
    return static_cast<int32_t>(std::find(spec.vocabulary.begin(), spec.vocabulary.end(), token) - spec.vocabulary.begin());
  };
  unknown_id_ = id_of(spec.options.unk_token);
  cls_id_ = id_of(spec.options.cls_token);
  sep_id_ = id_of(spec.options.sep_token);
  digest_ = Digest(spec, cls_id_, sep_id_);

  const std::string& prefix = spec.options.continuing_subword_prefix;
  std::vector<std::pair<std::string, int32_t>> keys;
  keys.reserve(spec.piece_count * 2);
  for (size_t id = 0; id < spec.piece_count; ++id) {
    const std::string& piece = spec.vocabulary[id];
    keys.emplace_back(std::string(kFirst) + piece, static_cast<int32_t>(id));
    if (piece.size() > prefix.size() && absl::StartsWith(piece, prefix)) {
      keys.emplace_back(std::string(kNext) + piece.substr(prefix.size()), static_cast<int32_t>(id));
    }
  }
  pieces_ = PieceTrie(std::move(keys));
  first_ = pieces_.Descend(PieceTrie::kRoot, kFirst);
  next_ = pieces_.Descend(PieceTrie::kRoot, kNext);

  keys.clear();
  for (const AddedToken& token : spec.added_tokens) {
    keys.emplace_back(token.content, token.id);
    const char first = token.content[0];
    if (!is_added_first_byte_[static_cast<uint8_t>(first)]) added_first_bytes_.push_back(first);
    is_added_first_byte_[static_cast<uint8_t>(first)] = true;
  }
  added_tokens_ = PieceTrie(std::move(keys));
}

size_t WordPieceTokenizer::FindAddedTokenByte(std::string_view text, size_t from) const {
  if (added_first_bytes_.size() <= 1) {  // BERT: all begin with "[".
    return added_first_bytes_.empty() ? std::string_view::npos : text.find(added_first_bytes_[0], from);
  }
  for (size_t i = from; i < text.size(); ++i) {
    if (is_added_first_byte_[static_cast<uint8_t>(text[i])]) return i;
  }
  return std::string_view::npos;
}

void WordPieceTokenizer::Tokenize(std::string_view text, std::vector<int32_t>* ids) const {
  // Added tokens first, leftmost and longest; what lies between them is normalised piece by piece.
  size_t segment_start = 0;
  size_t candidate = FindAddedTokenByte(text, 0);
  while (candidate != std::string_view::npos) {
    const PieceTrie::Match match = added_tokens_.LongestPrefix(PieceTrie::kRoot, text.substr(candidate));
    if (match.value >= 0) {
      TokenizeSegment(text.substr(segment_start, candidate - segment_start), ids);
      ids->push_back(match.value);
      segment_start = candidate + match.length;
      candidate = FindAddedTokenByte(text, segment_start);
    } else {
      candidate = FindAddedTokenByte(text, candidate + 1);
    }
  }
  TokenizeSegment(text.substr(segment_start), ids);
}

void WordPieceTokenizer::TokenizeSegment(std::string_view text, std::vector<int32_t>* ids) const {
  if (text.empty()) return;
  BertSplitter splitter(char_map_, max_chars_per_word_);
  splitter.Split(text, [this, ids](std::string_view word, bool too_long) {
    if (too_long) {
      ids->push_back(unknown_id_);
    } else {
      TokenizeWord(word, ids);
    }
  });
}

void WordPieceTokenizer::TokenizeWord(std::string_view word, std::vector<int32_t>* ids) const {
  PieceTrie::Match match = pieces_.LongestPrefix(first_, word);
  if (match.length == word.size()) [[likely]] {
    ids->push_back(match.value);
    return;
  }
  const size_t size_before = ids->size();
  while (match.value >= 0) {
    ids->push_back(match.value);
    word.remove_prefix(match.length);
    if (word.empty()) return;
    if (next_ == PieceTrie::kNone) break;
    match = pieces_.LongestPrefix(next_, word);
  }
  // Some part of the word is in no piece: the whole word is unknown.
  ids->resize(size_before);
  ids->push_back(unknown_id_);
}

}  // namespace loci
