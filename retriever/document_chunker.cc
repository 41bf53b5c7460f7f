#include "retriever/document_chunker.h"

#include <utf8proc.h>

#include <algorithm>
#include <deque>
#include <limits>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "base/strings.h"
#include "base/utf8.h"
#include "retriever/sentence_splitter.h"

namespace loci {
namespace {

constexpr int kSpecialTokens = 2;  // [CLS] and [SEP] around each sequence.
constexpr size_t kSentencesAtOnce = 1024;
// A text may begin or end with something that its neighbour, not parted from it by white space, changes the count of.
constexpr int kUnpartedTokens = 2;

bool IsSpace(char c) { return absl::ascii_isspace(static_cast<unsigned char>(c)); }

// The end of the character at `at` of valid UTF-8.
size_t CharacterEnd(std::string_view text, size_t at) {
  ++at;
  while (at < text.size() && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80) ++at;
  return at;
}

// Whether the character at `at` belongs to the one before it: combining marks, and what joins two to one.
bool Continues(std::string_view text, size_t at) {
  utf8proc_int32_t code_point = -1;
  if (utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(text.data()) + at, static_cast<utf8proc_ssize_t>(text.size() - at),
                       &code_point) < 1) {
    return false;
  }
  const utf8proc_category_t category = utf8proc_category(code_point);
  return category == UTF8PROC_CATEGORY_MN || category == UTF8PROC_CATEGORY_MC || category == UTF8PROC_CATEGORY_ME ||
         code_point == 0x200D;
}

// The last place at or before `limit` (in (0, text.size()]) to cut at: between characters, and where there is one near, not before a
// mark. 0 where the first character is longer.
size_t CutBefore(std::string_view text, size_t limit) {
  constexpr size_t kMaxMarkBytes = 64;
  if (limit >= text.size()) return text.size();
  const size_t cut = Utf8Prefix(text, limit);
  size_t better = cut;
  while (better > 0 && cut - better < kMaxMarkBytes && Continues(text, better)) better = Utf8Prefix(text, better - 1);
  return better == 0 || Continues(text, better) ? cut : better;
}

}  // namespace

const std::string& DocumentKey(const loci::v1::Passage& section) {
  return section.document_id().empty() ? section.id() : section.document_id();
}

std::string ChunkId(std::string_view document_key, int32_t chunk_index) {
  return absl::StrCat(AbslView(document_key), "#", chunk_index);
}

// A sentence, or a piece of one: [start, end) of the text.
struct DocumentChunker::Unit {
  size_t start = 0;
  size_t end = 0;
  int64_t tokens = 0;
  bool whole_sentence = false;
  bool cut_within_word = false;  // No white space is before it: what is before it would change its tokens.
};

// Fills passages with units, as many as fit. Used by one thread.
class DocumentChunker::Assembler {
 public:
  // All borrowed. `prototype` is a passage but for what differs from one to the next.
  Assembler(std::string_view text, const loci::v1::Passage& prototype, int64_t max_tokens, int64_t overlap_tokens, int64_t first_byte,
            int32_t* chunk_index, const Emit& emit)
      : text_(text),
        prototype_(prototype),
        max_tokens_(max_tokens),
        overlap_tokens_(overlap_tokens),
        first_byte_(first_byte),
        chunk_index_(chunk_index),
        emit_(emit) {}

  absl::Status Add(const Unit& unit) {
    if (fresh_count_ > 0 && !Fits(unit)) {
      LOCI_RETURN_IF_ERROR(EmitPassage());
      while (!units_.empty() && (tokens_ > overlap_tokens_ || !Fits(unit))) DropFirst();
      // What a piece stands before is no whole sentence either.
      for (size_t i = units_.size(); i > 0; --i) {
        if (units_[i - 1].whole_sentence) continue;
        for (; i > 0; --i) DropFirst();
        break;
      }
    }
    units_.push_back(unit);
    tokens_ += unit.tokens;
    ++fresh_count_;
    return absl::OkStatus();
  }

  absl::Status Finish() { return fresh_count_ > 0 ? EmitPassage() : absl::OkStatus(); }

 private:
  bool Fits(const Unit& unit) const {
    if (units_.empty()) return true;
    return !unit.cut_within_word && tokens_ + unit.tokens <= max_tokens_ && unit.end - units_.front().start <= kMaxPassageBytes;
  }

  void DropFirst() {
    tokens_ -= units_.front().tokens;
    units_.pop_front();
  }

  absl::Status EmitPassage() {
    const size_t start = units_.front().start;
    const size_t end = units_.back().end;
    loci::v1::Passage passage = prototype_;
    passage.set_id(ChunkId(prototype_.document_id(), *chunk_index_));
    passage.set_chunk_index((*chunk_index_)++);
    passage.set_text(std::string(text_.substr(start, end - start)));
    (*passage.mutable_metadata())["start_byte"].set_int64_value(first_byte_ + static_cast<int64_t>(start));
    (*passage.mutable_metadata())["end_byte"].set_int64_value(first_byte_ + static_cast<int64_t>(end));
    fresh_count_ = 0;
    return emit_(std::move(passage));
  }

  const std::string_view text_;
  const loci::v1::Passage& prototype_;
  const int64_t max_tokens_;
  const int64_t overlap_tokens_;
  const int64_t first_byte_;
  int32_t* const chunk_index_;
  const Emit& emit_;
  std::deque<Unit> units_;  // Of the passage that is filled: overlap, then fresh ones.
  int64_t tokens_ = 0;
  int64_t fresh_count_ = 0;
};

DocumentChunker::DocumentChunker(const Tokenizer& tokenizer, Options options)
    : tokenizer_(tokenizer),
      options_(std::move(options)),
      prefix_tokens_(CountTokens(options_.prefix) +
                     (options_.prefix.empty() || IsSpace(options_.prefix.back()) ? 0 : kUnpartedTokens)) {}

int64_t DocumentChunker::CountTokens(std::string_view text) const {
  std::vector<int32_t> ids;
  tokenizer_.Tokenize(text, &ids);
  return static_cast<int64_t>(ids.size());
}

size_t DocumentChunker::CharacterPrefix(std::string_view text, int64_t max_tokens, int64_t* tokens) const {
  const size_t limit = std::min(text.size(), kMaxPassageBytes);
  size_t fits = 0, too_long = 0;
  // The length doubles until it is too long, then halves the gap: the cost goes with the length that is found.
  for (size_t length = std::min<size_t>(limit, 16);;) {
    const size_t cut = CutBefore(text, length);
    const int64_t count = cut > fits ? CountTokens(text.substr(0, cut)) : 0;
    if (cut > fits && count > max_tokens) {
      too_long = length;
    } else {
      if (cut > fits) {
        fits = cut;
        *tokens = count;
      } else if (too_long > 0) {
        break;
      }
      if (length == limit) break;
    }
    if (too_long == 0) {
      length = std::min(2 * length, limit);
    } else {
      length = fits + (too_long - fits) / 2;
      if (length == fits) break;
    }
  }
  if (fits > 0) return fits;
  const size_t first = CharacterEnd(text, 0);
  *tokens = CountTokens(text.substr(0, first));
  return first;
}

std::string DocumentChunker::FitTitle(const std::string& title) const {
  const int64_t max_tokens = std::max<int64_t>(1, (options_.max_tokens - kSpecialTokens - prefix_tokens_) / 2);
  if (CountTokens(title) <= max_tokens) return title;
  int64_t tokens = 0;
  size_t end = 0;
  for (size_t at = 0; at < title.size();) {
    size_t word_end = at;
    while (word_end < title.size() && IsSpace(title[word_end])) ++word_end;
    while (word_end < title.size() && !IsSpace(title[word_end])) ++word_end;
    tokens += CountTokens(std::string_view(title).substr(at, word_end - at));
    if (tokens > max_tokens) break;
    end = at = word_end;
  }
  if (end == 0) end = CharacterPrefix(title, max_tokens, &tokens);
  return title.substr(0, end);
}

absl::Status DocumentChunker::AddWord(std::string_view text, size_t start, size_t end, int64_t max_tokens, Assembler* assembler) const {
  bool first = true;
  while (start < end) {
    int64_t tokens = 0;
    const size_t length = CharacterPrefix(text.substr(start, end - start), max_tokens, &tokens);
    LOCI_RETURN_IF_ERROR(assembler->Add({start, start + length, tokens, false, !first}));
    first = false;
    start += length;
  }
  return absl::OkStatus();
}

absl::Status DocumentChunker::AddSentence(std::string_view text, size_t start, size_t end, int64_t max_tokens,
                                          Assembler* assembler) const {
  if (end - start <= kMaxPassageBytes) {
    const int64_t tokens = CountTokens(text.substr(start, end - start));
    if (tokens <= max_tokens) return assembler->Add({start, end, tokens, true, false});
  }
  // Words are counted one by one: WordPiece never looks over white space. As many as fit make a piece.
  Unit piece;
  const auto add_piece = [&] {
    if (piece.end == piece.start) return absl::OkStatus();
    return assembler->Add(std::exchange(piece, {}));
  };
  for (size_t at = start; at < end;) {
    if (IsSpace(text[at])) {
      ++at;
      continue;
    }
    size_t word_end = at;
    while (word_end < end && !IsSpace(text[word_end])) ++word_end;
    const size_t length = word_end - at;
    const int64_t tokens = length <= kMaxPassageBytes ? CountTokens(text.substr(at, length)) : max_tokens + 1;
    if (tokens > max_tokens) {
      LOCI_RETURN_IF_ERROR(add_piece());
      LOCI_RETURN_IF_ERROR(AddWord(text, at, word_end, max_tokens, assembler));
    } else if (piece.end > piece.start && piece.tokens + tokens <= max_tokens && word_end - piece.start <= kMaxPassageBytes) {
      piece.end = word_end;
      piece.tokens += tokens;
    } else {
      LOCI_RETURN_IF_ERROR(add_piece());
      piece = {at, word_end, tokens, false, false};
    }
    at = word_end;
  }
  return add_piece();
}

absl::Status DocumentChunker::Cut(const loci::v1::Passage& section, int32_t* chunk_index, const Emit& emit) const {
  const std::string_view text = section.text();
  loci::v1::Passage prototype;
  prototype.set_title(FitTitle(section.title()));
  prototype.set_document_id(DocumentKey(section));
  *prototype.mutable_metadata() = section.metadata();
  int64_t first_byte = 0;
  if (const auto own = section.metadata().find("start_byte"); own != section.metadata().end()) first_byte = own->second.int64_value();

  const int64_t title_tokens = CountTokens(prototype.title());
  const int64_t max_tokens = std::max<int64_t>(1, options_.max_tokens - kSpecialTokens - prefix_tokens_ - title_tokens);
  const int64_t overlap_tokens = std::min<int64_t>(options_.overlap_tokens, max_tokens / 2);
  Assembler assembler(text, prototype, max_tokens, overlap_tokens, first_byte, chunk_index, emit);
  bool any = false;
  for (size_t at = 0;;) {
    const std::vector<SentenceSpan> spans = SplitSentences(text.substr(at), kSentencesAtOnce, std::numeric_limits<size_t>::max());
    if (spans.empty()) break;
    for (const SentenceSpan& span : spans) {
      LOCI_RETURN_IF_ERROR(AddSentence(text, at + static_cast<size_t>(span.start), at + static_cast<size_t>(span.end), max_tokens, &assembler));
    }
    at += static_cast<size_t>(spans.back().end);
    any = true;
  }
  if (!any && !prototype.title().empty()) LOCI_RETURN_IF_ERROR(assembler.Add({0, 0, 0, true, false}));
  return assembler.Finish();
}

}  // namespace loci
