#include "encoder/tokenizer_splitter.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cinttypes>
#include <cstdio>
#include <fstream>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "encoder/tokenizer.h"

namespace loci {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

std::vector<std::string> Words(const CharMap& map, std::string_view text, int max_chars = 100) {
  std::vector<std::string> words;
  BertSplitter splitter(map, max_chars);
  splitter.Split(text,
                 [&words](std::string_view word, bool too_long) { words.push_back(too_long ? "TOO LONG" : std::string(word)); });
  return words;
}

std::string Utf8(uint32_t code_point) {
  char bytes[4];
  return std::string(bytes, static_cast<size_t>(EncodeUtf8(code_point, bytes)));
}

// As probe() of tests/golden/make_tokenizer_golden.py.
std::string Probe(uint32_t code_point) {
  const std::string c = Utf8(code_point);
  return "X" + c + "Y " + c + " x\u0345" + c + "\u0334\u302e" + c + "\u302a";
}

TEST(BertSplitterTest, SplitsEveryCodePointAsHuggingFaceTokenizers) {
  std::ifstream golden("tests/golden/tokenizer_words.golden");
  ASSERT_TRUE(golden);
  std::string previous;
  std::unique_ptr<CharMap> map;
  int lines = 0;
  for (std::string line; std::getline(golden, line); ++lines) {
    int clean, chinese, accents, lower;
    uint32_t first, last;
    uint64_t expected;
    ASSERT_EQ(std::sscanf(line.c_str(), "%d %d %d %d %" SCNx32 " %" SCNx32 " %" SCNx64, &clean, &chinese, &accents, &lower,
                          &first, &last, &expected),
              7);
    if (previous != line.substr(0, 7)) {
      previous = line.substr(0, 7);
      TokenizerOptions options;
      options.clean_text = clean != 0;
      options.handle_chinese_chars = chinese != 0;
      options.strip_accents = accents != 0;
      options.lowercase = lower != 0;
      map = std::make_unique<CharMap>(options);
    }
    uint64_t hash = 0xCBF29CE484222325;
    const auto add = [&hash](char byte) { hash = (hash ^ static_cast<uint8_t>(byte)) * 0x100000001B3; };
    BertSplitter splitter(*map, 10000);
    for (uint32_t c = first; c <= last; ++c) {
      if (c >= 0xD800 && c < 0xE000) continue;
      splitter.Split(Probe(c), [&add](std::string_view word, bool) {
        for (const char byte : word) add(byte);
        add('\n');
      });
    }
    EXPECT_EQ(hash, expected) << line;
  }
  EXPECT_GE(lines, 7 * 64);
}

TEST(BertSplitterTest, NormalisesAndSplitsInOnePass) {
  const CharMap map{TokenizerOptions()};
  EXPECT_THAT(Words(map, "Caf\u00e9, na\u00efve!?"), ElementsAre("cafe", ",", "naive", "!", "?"));
  EXPECT_THAT(Words(map, "a\u4e2d\u6587b"), ElementsAre("a", "\u4e2d", "\u6587", "b"));
  EXPECT_THAT(Words(map, "soft\u00adhyphen\u200bx"), ElementsAre("softhyphenx"));
  EXPECT_THAT(Words(map, std::string_view("nul\0l", 5)), ElementsAre("null"));
  EXPECT_THAT(Words(map, "\ud55c"), ElementsAre("\u1112\u1161\u11ab"));
  EXPECT_THAT(Words(map, "\u037e"), ElementsAre(";"));
  EXPECT_THAT(Words(map, "\u0301\u0301 \u0301"), IsEmpty());
  EXPECT_THAT(Words(map, ""), IsEmpty());
}

TEST(BertSplitterTest, SortsMarksThatStay) {
  const CharMap map{TokenizerOptions()};
  // Combining classes: U+302F 224, U+302A 218 (removed), U+1D165 216, U+1D16D 226.
  EXPECT_THAT(Words(map, "a\u302f\U0001d165b"), ElementsAre("a\U0001d165\u302fb"));
  EXPECT_THAT(Words(map, "a\u302f\u0301\U0001d165b"), ElementsAre("a\U0001d165\u302fb"));  // Across a removed mark,
  EXPECT_THAT(Words(map, "a\u302f\u200b\U0001d165b"), ElementsAre("a\U0001d165\u302fb"));  // and what cleaning removes before,
  EXPECT_THAT(Words(map, "a\u302f\u0e31\U0001d165b"), ElementsAre("a\u302f\U0001d165b"));  // but not across a removed starter,
  EXPECT_THAT(Words(map, "a\u302f \U0001d165b"), ElementsAre("a\u302f", "\U0001d165b"));   // nor white space.
}

TEST(BertSplitterTest, SaysWhichWordIsTooLong) {
  const CharMap map{TokenizerOptions()};
  EXPECT_THAT(Words(map, "abcd abcde abc", 4), ElementsAre("abcd", "TOO LONG", "abc"));
  EXPECT_THAT(Words(map, "abc\u00e9 abcd\u00e9", 4), ElementsAre("abce", "TOO LONG"));
  EXPECT_THAT(Words(map, "\ud55c\ud55c", 5), ElementsAre("TOO LONG"));  // Six letters after decomposition.
  EXPECT_THAT(Words(map, std::string(100000, 'x') + "-" + std::string(300, 'y'), 200), ElementsAre("TOO LONG", "-", "TOO LONG"));
  EXPECT_THAT(Words(map, std::string(10000, 'z'), 10000), ElementsAre(std::string(10000, 'z')));
}

TEST(BertSplitterTest, KeepsInvalidBytesAsReplacementCharactersWithoutCleaning) {
  TokenizerOptions options;
  options.clean_text = false;
  const CharMap map(options);
  EXPECT_THAT(Words(map, "a\xFFz"), ElementsAre("a\uFFFDz"));
  EXPECT_THAT(Words(map, "\xE4\xB8"), ElementsAre("\uFFFD\uFFFD"));
}

TEST(DecodeUtf8Test, RefusesWhatIsNotUtf8) {
  const auto decode = [](std::string_view text, int* length) {
    const auto* p = reinterpret_cast<const uint8_t*>(text.data());
    return DecodeUtf8(p, p + text.size(), length);
  };
  int length = 0;
  for (const uint32_t c : {0x0u, 0x7Fu, 0x80u, 0x7FFu, 0x800u, 0xD7FFu, 0xE000u, 0xFFFFu, 0x10000u, 0x10FFFFu}) {
    EXPECT_EQ(decode(Utf8(c), &length), c);
    EXPECT_EQ(static_cast<size_t>(length), Utf8(c).size());
    for (size_t cut = 1; cut < Utf8(c).size(); ++cut) {
      EXPECT_EQ(decode(Utf8(c).substr(0, cut), &length), 0xFFFDu);
      EXPECT_EQ(length, 1);
    }
  }
  for (const std::string_view bad : {"\xC0\x80", "\xC1\xBF", "\xE0\x9F\xBF", "\xED\xA0\x80", "\xF0\x8F\xBF\xBF",
                                     "\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "\x80"}) {
    EXPECT_EQ(decode(bad, &length), 0xFFFDu);
    EXPECT_EQ(length, 1);
  }
}

}  // namespace
}  // namespace loci
