#include "encoder/tokenizer_trie.h"

#include <gtest/gtest.h>

#include <map>
#include <random>
#include <string>
#include <string_view>

namespace loci {
namespace {

TEST(PieceTrieTest, FindsTheLongestKey) {
  const PieceTrie trie({{"a", 1}, {"abc", 2}, {"abcde", 3}, {"b", 4}});
  PieceTrie::Match match = trie.LongestPrefix(PieceTrie::kRoot, "abcd");
  EXPECT_EQ(match.value, 2);
  EXPECT_EQ(match.length, 3u);
  match = trie.LongestPrefix(PieceTrie::kRoot, "xa");
  EXPECT_EQ(match.value, -1);
  EXPECT_EQ(match.length, 0u);
  EXPECT_EQ(trie.LongestPrefix(PieceTrie::kRoot, "").value, -1);
  EXPECT_EQ(trie.LongestPrefix(trie.Descend(PieceTrie::kRoot, "ab"), "cdexx").length, 3u);
  EXPECT_EQ(trie.Descend(PieceTrie::kRoot, "ax"), PieceTrie::kNone);
}

TEST(PieceTrieTest, AnEmptySetMatchesNothing) {
  const PieceTrie trie;
  for (int byte = 0; byte < 256; ++byte) {
    EXPECT_EQ(trie.LongestPrefix(PieceTrie::kRoot, std::string(3, static_cast<char>(byte))).value, -1);
  }
}

TEST(PieceTrieTest, OfEqualKeysTheFirstWins) {
  const PieceTrie trie({{"a", 7}, {"a", 3}});
  EXPECT_EQ(trie.LongestPrefix(PieceTrie::kRoot, "a").value, 7);
}

// Any bytes, zero among them, against a search in a map.
TEST(PieceTrieTest, AgreesWithAMapOnRandomKeys) {
  std::mt19937 random(20250101);
  for (const int alphabet : {1, 2, 5, 256}) {
    const auto word = [&](size_t longest) {
      std::string out(random() % (longest + 1), '\0');
      for (char& c : out) c = static_cast<char>(random() % static_cast<unsigned>(alphabet));
      return out;
    };
    std::map<std::string, int32_t> expected;
    std::vector<std::pair<std::string, int32_t>> keys;
    for (int32_t i = 0; i < 3000; ++i) {
      const std::string key = word(6);
      keys.emplace_back(key, i);
      expected.emplace(key, i);
    }
    const PieceTrie trie(keys);
    for (int i = 0; i < 20000; ++i) {
      const std::string text = word(9);
      int32_t value = -1;
      size_t length = 0;
      for (size_t n = 1; n <= text.size(); ++n) {
        const auto found = expected.find(text.substr(0, n));
        if (found == expected.end()) continue;
        value = found->second;
        length = n;
      }
      const PieceTrie::Match match = trie.LongestPrefix(PieceTrie::kRoot, text);
      ASSERT_EQ(match.value, value) << "alphabet " << alphabet << ", text " << ::testing::PrintToString(text);
      ASSERT_EQ(match.length, length);
    }
  }
}

}  // namespace
}  // namespace loci
