#include "clients/cli/text_encoding.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace loci {
namespace {

using ::testing::HasSubstr;

std::string Message(std::string bytes) {
  const auto decoded = DecodeText(std::move(bytes));
  EXPECT_FALSE(decoded.ok());
  return std::string(decoded.status().message());
}

TEST(TextEncodingTest, ByteOrderMarksTellTheEncoding) {
  EXPECT_EQ(DecodeText("plain ä")->text, "plain ä");
  EXPECT_EQ(DecodeText("\xEF\xBB\xBFmarked")->text, "marked");
  EXPECT_EQ(DecodeText("\xEF\xBB\xBFmarked")->offset_bytes, 3u);
  const std::string little("\xFF\xFE" "a\0\xE4\0\xAC\x20\x3D\xD8\x00\xDE", 12), big("\xFE\xFF\0a\0\xE4\x20\xAC\xD8\x3D\xDE\x00", 12);
  EXPECT_EQ(DecodeText(little)->text, "aä€😀");
  EXPECT_EQ(DecodeText(big)->text, "aä€😀");
  EXPECT_EQ(DecodeText("")->text, "");
}

TEST(TextEncodingTest, WhatIsNoTextIsNamedWithItsByte) {
  EXPECT_THAT(Message("caf\xE9"), HasSubstr("not valid UTF-8 at byte 4"));
  EXPECT_THAT(Message(std::string("a\0b", 3)), HasSubstr("NUL at byte 2"));
  EXPECT_THAT(Message(std::string("\xFF\xFE" "a\0\x3D\xD8", 6)), HasSubstr("surrogate"));
  EXPECT_THAT(Message(std::string("\xFF\xFE" "\x00\xDE" "a\0", 6)), HasSubstr("not valid UTF-16 at byte 3"));
  EXPECT_THAT(Message("\xFF\xFE" "a"), HasSubstr("within a character"));
  EXPECT_THAT(Message(std::string("\xFF\xFE\0\0a\0\0\0", 8)), HasSubstr("UTF-32"));
}

}  // namespace
}  // namespace loci
