// Text to words: BERT's normaliser and pre-tokenizer in one pass, without a normalised copy of the text.
//
//   auto on_word = [&](std::string_view word, bool too_long) { ... };   // `word` is in a buffer that the next word overwrites
//   BertSplitter splitter(char_map, /*max_chars_per_word=*/100);
//   splitter.Split("Café, naïve", on_word);                             // "cafe" "," "naive"
#ifndef LOCI_ENCODER_TOKENIZER_SPLITTER_H_
#define LOCI_ENCODER_TOKENIZER_SPLITTER_H_

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string_view>
#include <vector>

#include "encoder/tokenizer_char_map.h"

namespace loci {

// Decodes the character at `p` < `end`. A byte that begins no valid character gives U+FFFD with a length of 1.
inline uint32_t DecodeUtf8(const uint8_t* p, const uint8_t* end, int* length) {
  const uint32_t first = *p;
  *length = 1;
  if (first < 0x80) return first;
  const auto rest = [p](int i) { return static_cast<uint32_t>(p[i] & 0x3F); };
  const auto continues = [p](int i) { return (p[i] & 0xC0) == 0x80; };
  const ptrdiff_t left = end - p;
  if (first >= 0xC2 && first < 0xE0) {
    if (left < 2 || !continues(1)) return 0xFFFD;
    *length = 2;
    return (first & 0x1F) << 6 | rest(1);
  }
  if (first >= 0xE0 && first < 0xF0) {
    if (left < 3 || !continues(1) || !continues(2)) return 0xFFFD;
    const uint32_t code_point = (first & 0x0F) << 12 | rest(1) << 6 | rest(2);
    if (code_point < 0x800 || (code_point >= 0xD800 && code_point < 0xE000)) return 0xFFFD;
    *length = 3;
    return code_point;
  }
  if (first >= 0xF0 && first < 0xF5) {
    if (left < 4 || !continues(1) || !continues(2) || !continues(3)) return 0xFFFD;
    const uint32_t code_point = (first & 0x07) << 18 | rest(1) << 12 | rest(2) << 6 | rest(3);
    if (code_point < 0x10000 || code_point > 0x10FFFF) return 0xFFFD;
    *length = 4;
    return code_point;
  }
  return 0xFFFD;
}

// Cheap to make: no allocation where words have at most 100 characters. Used by one thread: the one that calls Split.
class BertSplitter {
 public:
  // `map` must outlive this. Of a word of more than `max_chars_per_word` characters only so much is handed over as fits.
  BertSplitter(const CharMap& map, int max_chars_per_word)
      : map_(map), max_chars_(static_cast<size_t>(max_chars_per_word)), word_(inline_buffer_) {
    const size_t capacity = 4 * (max_chars_ + 1) + CharMap::kMaxTextBytes;
    if (capacity > sizeof(inline_buffer_)) {
      heap_buffer_ = std::make_unique<char[]>(capacity);
      word_ = heap_buffer_.get();
    }
  }
  BertSplitter(const BertSplitter&) = delete;
  BertSplitter& operator=(const BertSplitter&) = delete;

  // Calls `on_word(std::string_view word, bool too_long)` for each word of `text`, in order. Words are never empty.
  template <typename OnWord>
  void Split(std::string_view text, OnWord&& on_word) {
    const auto* p = reinterpret_cast<const uint8_t*>(text.data());
    const uint8_t* const end = p + text.size();
    const uint8_t* const ascii_word = map_.ascii_word();
    while (p < end) {
      if (ascii_word[*p] != 0) {
        p = AppendAscii(p, end, ascii_word);
        continue;
      }
      int length;
      const uint32_t code_point = DecodeUtf8(p, end, &length);
      const CharMap::Entry entry = map_.Find(code_point);
      switch (entry.kind()) {
        case CharMap::kKeep:
          Append(Raw(p, length, code_point), 1);
          break;
        case CharMap::kReplace:
          Append(map_.Text(entry), static_cast<size_t>(entry.char_count()));
          break;
        case CharMap::kRemove:
        case CharMap::kRemoveStart:
          break;
        case CharMap::kSpace:
          EndWord(on_word);
          break;
        case CharMap::kPunctuation:
        case CharMap::kChinese: {
          EndWord(on_word);
          const std::string_view replaced = entry.offset() == 0 ? Raw(p, length, code_point) : map_.Text(entry);
          on_word(replaced, static_cast<size_t>(entry.char_count()) > max_chars_);
          break;
        }
        case CharMap::kMarks:
          p = SplitMarks(p, end, on_word);
          continue;
      }
      p += length;
    }
    EndWord(on_word);
  }

 private:
  static std::string_view Raw(const uint8_t* p, int length, uint32_t code_point) {
    if (code_point == 0xFFFD) return "\xEF\xBF\xBD";  // Also for an invalid byte.
    return {reinterpret_cast<const char*>(p), static_cast<size_t>(length)};
  }

  // The ASCII letters and digits from `p` on; returns their end.
  const uint8_t* AppendAscii(const uint8_t* p, const uint8_t* end, const uint8_t* ascii_word) {
    if (chars_ > max_chars_) {  // Too long already: its characters don't matter any more.
      while (p < end && ascii_word[*p] != 0) ++p;
      return p;
    }
    const uint8_t* const start = p;
    const uint8_t* const stop = p + std::min<size_t>(static_cast<size_t>(end - p), max_chars_ + 1 - chars_);
    char* out = word_ + bytes_;
    uint8_t lower;
    while (p < stop && (lower = ascii_word[*p]) != 0) {
      *out++ = static_cast<char>(lower);
      ++p;
    }
    chars_ += static_cast<size_t>(p - start);
    bytes_ += static_cast<size_t>(p - start);
    return p;
  }

  void Append(std::string_view text, size_t char_count) {
    if (chars_ > max_chars_) return;
    std::memcpy(word_ + bytes_, text.data(), text.size());
    bytes_ += text.size();
    chars_ += char_count;
  }

  template <typename OnWord>
  void EndWord(OnWord& on_word) {
    if (chars_ == 0) return;
    on_word(std::string_view(word_, bytes_), chars_ > max_chars_);
    chars_ = 0;
    bytes_ = 0;
  }

  // From a kMarks character on, as far as marks may have to be sorted; returns where it stopped.
  template <typename OnWord>
  const uint8_t* SplitMarks(const uint8_t* p, const uint8_t* end, OnWord& on_word) {
    marks_.clear();
    while (p < end) {
      int length;
      const CharMap::Entry entry = map_.Find(DecodeUtf8(p, end, &length));
      if (entry.kind() == CharMap::kMarks) {
        int count;
        const CharMap::Part* parts = map_.Parts(entry, &count);
        for (int i = 0; i < count; ++i) {
          if (parts[i].combining_class != 0) {
            marks_.push_back(&parts[i]);
          } else {
            FlushMarks(on_word);
            EmitPart(parts[i], on_word);
          }
        }
      } else if (entry.kind() != CharMap::kRemove) {
        break;
      }
      p += length;
    }
    FlushMarks(on_word);
    return p;
  }

  template <typename OnWord>
  void FlushMarks(OnWord& on_word) {
    if (marks_.size() > 1) {
      std::stable_sort(marks_.begin(), marks_.end(),
                       [](const CharMap::Part* a, const CharMap::Part* b) { return a->combining_class < b->combining_class; });
    }
    for (const CharMap::Part* part : marks_) EmitPart(*part, on_word);
    marks_.clear();
  }

  template <typename OnWord>
  void EmitPart(const CharMap::Part& part, OnWord& on_word) {
    if (part.kind == CharMap::kReplace) {
      Append(part.text(), part.char_count);
    } else if (part.kind == CharMap::kPunctuation) {
      EndWord(on_word);
      on_word(part.text(), part.char_count > max_chars_);
    } else if (part.kind == CharMap::kSpace) {
      EndWord(on_word);
    }
  }

  const CharMap& map_;
  const size_t max_chars_;
  size_t chars_ = 0;  // Of the word so far; stops growing above max_chars_.
  size_t bytes_ = 0;
  char* word_;
  std::vector<const CharMap::Part*> marks_;
  std::unique_ptr<char[]> heap_buffer_;
  char inline_buffer_[512];
};

}  // namespace loci

#endif  // LOCI_ENCODER_TOKENIZER_SPLITTER_H_
