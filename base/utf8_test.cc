#include "base/utf8.h"

#include <gtest/gtest.h>

#include <string>

namespace loci {
namespace {

// The obvious encoder, for code points that may be none (surrogates, too large).
std::string Encode(uint32_t c) {
  if (c < 0x80) return {static_cast<char>(c)};
  if (c < 0x800) return {static_cast<char>(0xc0 | c >> 6), static_cast<char>(0x80 | (c & 63))};
  if (c < 0x10000) {
    return {static_cast<char>(0xe0 | c >> 12), static_cast<char>(0x80 | (c >> 6 & 63)), static_cast<char>(0x80 | (c & 63))};
  }
  return {static_cast<char>(0xf0 | c >> 18), static_cast<char>(0x80 | (c >> 12 & 63)), static_cast<char>(0x80 | (c >> 6 & 63)),
          static_cast<char>(0x80 | (c & 63))};
}

TEST(Utf8, AcceptsEveryScalarValueAndNoOther) {
  for (uint32_t c = 0; c < 0x120000; ++c) {
    const bool valid = c < 0xd800 || (c > 0xdfff && c <= 0x10ffff);
    ASSERT_EQ(IsValidUtf8(Encode(c)), valid) << std::hex << c;
  }
}

TEST(Utf8, NamesTheFirstInvalidByte) {
  EXPECT_EQ(FindInvalidUtf8(""), std::string_view::npos);
  EXPECT_EQ(FindInvalidUtf8("plain ascii of more than eight bytes"), std::string_view::npos);
  EXPECT_EQ(FindInvalidUtf8("0123456789\xff"), 10u);
  EXPECT_EQ(FindInvalidUtf8("\x80"), 0u);
  EXPECT_EQ(FindInvalidUtf8("ab\xc0\x80"), 2u);        // Overlong NUL.
  EXPECT_EQ(FindInvalidUtf8("\xe0\x80\xaf"), 0u);      // Overlong slash.
  EXPECT_EQ(FindInvalidUtf8("\xf0\x8f\xbf\xbf"), 0u);  // Overlong U+FFFF.
  EXPECT_EQ(FindInvalidUtf8("\xf5\x80\x80\x80"), 0u);
}

TEST(Utf8, RejectsEveryTruncatedCharacter) {
  for (const uint32_t c : {0xe9u, 0x20acu, 0x1f600u}) {
    const std::string whole = "abc" + Encode(c);
    for (size_t size = 4; size < whole.size(); ++size) {
      EXPECT_EQ(FindInvalidUtf8(whole.substr(0, size)), 3u);
      EXPECT_EQ(FindInvalidUtf8(whole.substr(0, size) + "defghijkl"), 3u);
    }
  }
}

TEST(Utf8, PrefixNeverCutsACharacter) {
  const std::string text = "a" + Encode(0xe9) + Encode(0x20ac) + Encode(0x1f600) + "z";  // Boundaries 0 1 3 6 10 11.
  const size_t expected[] = {0, 1, 1, 3, 3, 3, 6, 6, 6, 6, 10, 11};
  for (size_t limit = 0; limit <= text.size(); ++limit) EXPECT_EQ(Utf8Prefix(text, limit), expected[limit]) << limit;
  EXPECT_EQ(Utf8Prefix(text, 1000), text.size());
  EXPECT_EQ(Utf8Prefix("", 3), 0u);
}

}  // namespace
}  // namespace loci
