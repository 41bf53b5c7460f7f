// What the BERT normaliser and pre-tokenizer make of each character, worked out once for given options.
//
// The whole chain (clean text, pad Chinese characters, NFD, remove marks, lower case, split at white space and punctuation) acts on
// each code point by itself, but for one thing: NFD sorts a run of marks by combining class. So each code point gets one of the
// kinds below, and only kMarks needs more than a look-up.
#ifndef LOCI_ENCODER_TOKENIZER_CHAR_MAP_H_
#define LOCI_ENCODER_TOKENIZER_CHAR_MAP_H_

#include <cstdint>
#include <string_view>
#include <vector>

#include "encoder/tokenizer.h"

namespace loci {

// Immutable after construction.
class CharMap {
 public:
  enum Kind : uint8_t {
    kKeep,         // A character of a word, as it is.
    kReplace,      // Other characters of a word: Text().
    kRemove,       // Nothing.
    kRemoveStart,  // Nothing; but a starter, so that marks on either side of it are not sorted together.
    kSpace,        // Ends a word.
    kPunctuation,  // A word of its own: Text(), or itself where that is empty.
    kChinese,      // A word of its own, of Text(), or itself where that is empty.
    kMarks,        // Parts(): some of them are marks that stay and may have to be sorted.
  };

  // One character of a kMarks sequence after decomposition.
  struct Part {
    uint8_t combining_class;  // 0: a starter.
    Kind kind;                // kReplace (append), kPunctuation, kSpace, kRemove.
    uint8_t char_count;
    uint8_t byte_count;
    char bytes[8];  // UTF-8, lower case.
    std::string_view text() const { return {bytes, byte_count}; }
  };

  struct Entry {
    uint32_t bits;  // kind in the low 3 bits, then 4 bits of text length in characters, then an offset into a pool.
    Kind kind() const { return static_cast<Kind>(bits & 7); }
    int char_count() const { return static_cast<int>((bits >> 3) & 15); }
    uint32_t offset() const { return bits >> 7; }
  };

  // The longest Text() in bytes.
  static constexpr int kMaxTextBytes = 32;

  explicit CharMap(const TokenizerOptions& options);

  // `code_point` <= 0x10FFFF.
  Entry Find(uint32_t code_point) const {
    return entries_[(static_cast<uint32_t>(blocks_[code_point >> 7]) << 7) | (code_point & 127)];
  }
  // The replacement of kReplace, kPunctuation or kChinese; empty where the character stays as it is.
  std::string_view Text(Entry entry) const {
    const char* text = text_pool_.data() + entry.offset();
    return {text + 1, static_cast<uint8_t>(*text)};
  }
  // Parts of a kMarks entry; at least one.
  const Part* Parts(Entry entry, int* count) const {
    *count = entry.char_count();
    return part_pool_.data() + entry.offset();
  }

  // The lower-case byte for an ASCII character of a word; 0 for every other byte.
  const uint8_t* ascii_word() const { return ascii_word_; }

 private:
  Entry Resolve(uint32_t code_point, const TokenizerOptions& options);
  Entry AddText(Kind kind, std::string_view text, int char_count);
  Entry AddParts(const std::vector<Part>& parts);

  std::vector<uint16_t> blocks_;
  std::vector<Entry> entries_;
  std::vector<char> text_pool_;  // Length byte, then the text; offset 0 is the empty text.
  std::vector<Part> part_pool_;
  uint8_t ascii_word_[256];
};

// Writes `code_point` in UTF-8; returns the number of bytes, 1 to 4.
int EncodeUtf8(uint32_t code_point, char out[4]);

}  // namespace loci

#endif  // LOCI_ENCODER_TOKENIZER_CHAR_MAP_H_
