#include "encoder/tokenizer_char_map.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <unordered_map>

#include "encoder/unicode_properties.h"

namespace loci {
namespace {

constexpr uint32_t kBlockSize = 128;
constexpr uint32_t kCodePointCount = 0x110000;

// Blocks in which every code point is of one kind in every version of Unicode so far: planes without characters, and private use but
// for the last block of a plane, which has the non-characters.
bool IsUniformBlock(uint32_t first) {
  return (first >= 0x40000 && first < 0xE0000) || (first >= 0xF0000 && (first & 0xFFFF) != 0x10000 - kBlockSize);
}

}  // namespace

int EncodeUtf8(uint32_t code_point, char out[4]) {
  if (code_point < 0x80) {
    out[0] = static_cast<char>(code_point);
    return 1;
  }
  if (code_point < 0x800) {
    out[0] = static_cast<char>(0xC0 | (code_point >> 6));
    out[1] = static_cast<char>(0x80 | (code_point & 0x3F));
    return 2;
  }
  if (code_point < 0x10000) {
    out[0] = static_cast<char>(0xE0 | (code_point >> 12));
    out[1] = static_cast<char>(0x80 | ((code_point >> 6) & 0x3F));
    out[2] = static_cast<char>(0x80 | (code_point & 0x3F));
    return 3;
  }
  out[0] = static_cast<char>(0xF0 | (code_point >> 18));
  out[1] = static_cast<char>(0x80 | ((code_point >> 12) & 0x3F));
  out[2] = static_cast<char>(0x80 | ((code_point >> 6) & 0x3F));
  out[3] = static_cast<char>(0x80 | (code_point & 0x3F));
  return 4;
}

CharMap::CharMap(const TokenizerOptions& options) {
  text_pool_.push_back(0);
  blocks_.resize(kCodePointCount / kBlockSize);
  // Equal blocks are stored once.
  std::unordered_map<std::string, uint16_t> known;
  std::vector<Entry> block(kBlockSize);
  for (uint32_t first = 0; first < kCodePointCount; first += kBlockSize) {
    if (IsUniformBlock(first)) {
      std::fill(block.begin(), block.end(), Resolve(first, options));
    } else {
      for (uint32_t i = 0; i < kBlockSize; ++i) block[i] = Resolve(first + i, options);
    }
    std::string key(kBlockSize * sizeof(Entry), '\0');
    std::memcpy(key.data(), block.data(), key.size());
    const auto [position, added] = known.emplace(std::move(key), static_cast<uint16_t>(known.size()));
    if (added) entries_.insert(entries_.end(), block.begin(), block.end());
    blocks_[first / kBlockSize] = position->second;
  }
  std::fill(std::begin(ascii_word_), std::end(ascii_word_), uint8_t{0});
  for (uint32_t c = 1; c < 0x80; ++c) {
    const Entry entry = Find(c);
    if (entry.kind() == kKeep) ascii_word_[c] = static_cast<uint8_t>(c);
    if (entry.kind() == kReplace && Text(entry).size() == 1) ascii_word_[c] = static_cast<uint8_t>(Text(entry)[0]);
  }
}

CharMap::Entry CharMap::AddText(Kind kind, std::string_view text, int char_count) {
  const auto offset = static_cast<uint32_t>(text_pool_.size());
  text_pool_.push_back(static_cast<char>(text.size()));
  text_pool_.insert(text_pool_.end(), text.begin(), text.end());
  return {static_cast<uint32_t>(kind) | static_cast<uint32_t>(char_count) << 3 | offset << 7};
}

CharMap::Entry CharMap::AddParts(const std::vector<Part>& parts) {
  const auto offset = static_cast<uint32_t>(part_pool_.size());
  part_pool_.insert(part_pool_.end(), parts.begin(), parts.end());
  return {static_cast<uint32_t>(kMarks) | static_cast<uint32_t>(parts.size()) << 3 | offset << 7};
}

CharMap::Entry CharMap::Resolve(uint32_t code_point, const TokenizerOptions& options) {
  auto plain = [](Kind kind) { return Entry{static_cast<uint32_t>(kind) | 1u << 3}; };
  if (options.clean_text && IsBertControl(code_point)) return plain(kRemove);
  // Cleaning makes every white space a plain space; without it the splitter splits there all the same.
  if (IsUnicodeSpace(code_point)) return plain(kSpace);

  uint32_t decomposed[kMaxDecomposition] = {code_point};
  const int decomposed_count = options.strip_accents ? CanonicalDecomposition(code_point, decomposed) : 1;
  std::vector<Part> parts;
  bool removed_starter = false;
  for (int i = 0; i < decomposed_count; ++i) {
    Part part = {};
    if (options.strip_accents) {
      part.combining_class = static_cast<uint8_t>(CombiningClass(decomposed[i]));
      if (IsNonspacingMark(decomposed[i])) {
        if (part.combining_class != 0) continue;
        removed_starter = true;
        part.kind = kRemove;
        parts.push_back(part);
        continue;
      }
    }
    uint32_t lower[kMaxLowerCase] = {decomposed[i]};
    part.char_count = static_cast<uint8_t>(options.lowercase ? LowerCase(decomposed[i], lower) : 1);
    for (int k = 0; k < part.char_count; ++k) {
      part.byte_count = static_cast<uint8_t>(part.byte_count + EncodeUtf8(lower[k], part.bytes + part.byte_count));
    }
    part.kind = IsUnicodeSpace(lower[0]) ? kSpace : IsBertPunctuation(lower[0]) ? kPunctuation : kReplace;
    parts.push_back(part);
  }

  const auto is_removed = [](const Part& part) { return part.kind == kRemove; };
  if (std::all_of(parts.begin(), parts.end(), is_removed)) return plain(removed_starter ? kRemoveStart : kRemove);
  const bool chinese = options.handle_chinese_chars && IsBertChinese(code_point);
  const bool simple = std::all_of(parts.begin(), parts.end(), [&](const Part& part) {
    return part.combining_class == 0 && (part.kind == kReplace || part.kind == kRemove);
  });
  if (parts.size() == 1 && parts[0].kind == kPunctuation && parts[0].combining_class == 0 && !chinese) {
    char self[4];
    const std::string_view same(self, static_cast<size_t>(EncodeUtf8(code_point, self)));
    return parts[0].text() == same ? plain(kPunctuation) : AddText(kPunctuation, parts[0].text(), 1);
  }
  if (!simple) {
    if (chinese) {
      Part space = {};
      space.kind = kSpace;
      parts.insert(parts.begin(), space);
      parts.push_back(space);
    }
    return AddParts(parts);
  }
  std::string text;
  int char_count = 0;
  for (const Part& part : parts) {
    text += part.text();
    char_count += part.char_count;
  }
  char self[4];
  const bool same = text == std::string_view(self, static_cast<size_t>(EncodeUtf8(code_point, self)));
  if (same) return plain(chinese ? kChinese : kKeep);
  return AddText(chinese ? kChinese : kReplace, text, char_count);
}

}  // namespace loci
