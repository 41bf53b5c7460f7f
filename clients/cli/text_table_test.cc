#include "clients/cli/text_table.h"

#include <gtest/gtest.h>

#include "clients/cli/display.h"

namespace loci {
namespace {

TEST(Display, SanitizesWhatWouldDriveATerminal) {
  EXPECT_EQ(SanitizeLine("a\n\t b\r\n"), "a b");
  EXPECT_EQ(SanitizeLine("\x1b[31mred\x07"), "\xEF\xBF\xBD[31mred\xEF\xBF\xBD");
  EXPECT_EQ(SanitizeLine("a\xff"
                         "b"),
            "a\xEF\xBF\xBD"
            "b");
  EXPECT_EQ(SanitizeLine("x\xE2\x80\xAEy"), "x\xEF\xBF\xBDy");  // U+202E.
  EXPECT_EQ(SanitizeLine("Grüße 汉字"), "Grüße 汉字");
}

TEST(Display, PathsThatAreNotUtf8AreEscapedSoThatTheyStayDifferent) {
  EXPECT_EQ(PrintablePath("dir/caf\xC3\xA9 100%.txt"), "dir/caf\xC3\xA9 100%.txt");
  EXPECT_EQ(PrintablePath("dir/caf\xE9 100%.txt"), "dir/caf%E9 100%25.txt");
  EXPECT_EQ(PrintablePath("\xE9"), "%E9");
  EXPECT_EQ(PrintablePath("%E9\xE9"), "%25E9%E9");
  EXPECT_EQ(PrintablePath("\xF0\x9F\x98"), "%F0%9F%98");
  EXPECT_EQ(PrintablePath(""), "");
}

TEST(Display, CutsByColumnsNotBytes) {
  EXPECT_EQ(DisplayWidth("汉字"), 4);
  EXPECT_EQ(DisplayWidth("e\xCC\x81"), 1);  // Combining acute accent.
  EXPECT_EQ(CutToWidth("汉字汉字", 8), "汉字汉字");
  EXPECT_EQ(CutToWidth("汉字汉字", 7), "汉字汉…");
  EXPECT_EQ(CutToWidth("汉字汉字", 6), "汉字…");
  EXPECT_EQ(CutToWidth("abc", 1), "…");
}

TEST(Display, FormatsNumbers) {
  EXPECT_EQ(FormatCount(0), "0");
  EXPECT_EQ(FormatCount(63666), "63,666");
  EXPECT_EQ(FormatCount(-1234567), "-1,234,567");
  EXPECT_EQ(FormatBytes(1023), "1023 B");
  EXPECT_EQ(FormatBytes(1536), "1.5 KiB");
  EXPECT_EQ(FormatSeconds(3723), "1:02:03");
  EXPECT_EQ(FormatMicros(12345), "12.3 ms");
}

TEST(TextTable, AlignsByDisplayWidth) {
  TextTable table({{"N", TextTable::kRight}, {"NAME"}, {"TEXT"}});
  table.AddRow({"1", "汉字", "x"});
  table.AddRow({"10", "a", "y\nz"});
  EXPECT_EQ(table.Render(0),
            " N   NAME   TEXT\n"
            " 1   汉字   x\n"
            "10   a      y z\n");
}

TEST(TextTable, NamesStayWholeOnANarrowTerminal) {
  TextTable table({{"GENERATION"}, {"DETAIL", TextTable::kLeft, 100}});
  table.AddRow({"20261121-104445-940a", std::string(90, 'x')});
  for (const int width : {10, 40}) {
    EXPECT_NE(table.Render(width).find("20261121-104445-940a   xxxxxxx"), std::string::npos) << width;
  }
}

TEST(TextTable, FreeTextGivesWayToTheTerminal) {
  TextTable table({{"ID"}, {"TEXT", TextTable::kLeft, 600}, {"MORE", TextTable::kLeft, 100}});
  table.AddRow({"p1", std::string(500, 'x'), "汉字汉字汉字汉字汉字"});
  for (const int width : {24, 40, 79, 80}) {
    const std::string text = table.Render(width);
    size_t begin = 0;
    while (begin < text.size()) {
      const size_t end = text.find('\n', begin);
      EXPECT_LE(DisplayWidth(text.substr(begin, end - begin)), width);
      begin = end + 1;
    }
  }
  EXPECT_NE(table.Render(80).find("p1"), std::string::npos);
}

}  // namespace
}  // namespace loci
