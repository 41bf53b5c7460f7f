#include "base/checksum.h"

#include <gtest/gtest.h>

#include <string>

namespace loci {
namespace {

// FIPS 180-4's examples (NIST, "SHA256.pdf").
TEST(Sha256, MatchesNistExamples) {
  EXPECT_EQ(Sha256::Hex(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(Sha256::Hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(Sha256::Hex("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  EXPECT_EQ(Sha256::Hex(std::string(1'000'000, 'a')), "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST(Sha256, IsTheSameInPieces) {
  Sha256 hash;
  hash.Update("a");
  hash.Update("");
  hash.Update("bc");
  EXPECT_EQ(hash.HexDigest(), Sha256::Hex("abc"));
}

// Files carry these, so that the function may never change. The empty string's hash is XXH3_64bits' published one
// (xxHash specification, 0.8).
TEST(Xxh3, MatchesThePublishedHash) {
  EXPECT_EQ(Xxh3(""), 0x2d06800538d394c2u);
  EXPECT_NE(Xxh3("a"), Xxh3("b"));
  EXPECT_EQ(Xxh3(std::string(1000, 'x')), Xxh3(std::string(1000, 'x')));
}

TEST(Sealed, IsTheBodyAndItsHash) {
  EXPECT_EQ(Sealed(""), "2d06800538d394c2");
  const std::string content = Sealed("body");
  EXPECT_EQ(content.substr(0, 4), "body");
  EXPECT_EQ(content.size(), 20);
  EXPECT_EQ(Unsealed(content).value(), "body");
  EXPECT_EQ(Unsealed(Sealed("")).value(), "");
}

TEST(Unsealed, NoticesEveryChangedOrMissingByte) {
  const std::string content = Sealed("body");
  for (size_t i = 0; i < content.size(); ++i) {
    std::string changed = content;
    changed[i] ^= 1;
    EXPECT_TRUE(absl::IsDataLoss(Unsealed(changed).status())) << i;
    EXPECT_TRUE(absl::IsDataLoss(Unsealed(content.substr(0, i)).status())) << i;
  }
}

}  // namespace
}  // namespace loci
