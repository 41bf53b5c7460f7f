#include "clients/cli/markdown_sections.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

namespace loci {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Pair;

Document Parse(std::string text) {
  Document document;
  document.text = std::move(text);
  const absl::Status status = FindMarkdownSections(&document);
  EXPECT_TRUE(status.ok()) << status;
  return document;
}

// Title and text of each section.
std::vector<std::pair<std::string, std::string>> Sections(const Document& document) {
  std::vector<std::pair<std::string, std::string>> sections;
  for (const DocumentSection& section : document.sections) {
    sections.emplace_back(SectionTitle(document, section, "file"),
                          document.text.substr(section.start_byte, section.end_byte - section.start_byte));
  }
  return sections;
}
auto SectionsOf(std::string text) { return Sections(Parse(std::move(text))); }

TEST(MarkdownSectionsTest, HeadingsOfBothKindsNestIntoTitles) {
  const Document document = Parse(
      "# Guide\n\nIntro.\n\n## Install ##\nSteps\nmore\n\n### On Debian\napt\nOld\n---\nold text\r\nTop\r\n===\r\nlast\r\n");
  EXPECT_EQ(document.title, "Guide");
  EXPECT_THAT(Sections(document), ElementsAre(Pair("Guide", "Intro."), Pair("Guide > Install", "Steps\nmore"),
                                              Pair("Guide > Install > On Debian", "apt\nOld\n---\nold text\r\nTop\r\n===\r\nlast")));
  EXPECT_THAT(SectionsOf("Title\n=====\na\n\nSub\n---\nb\n\nOther\n=\nc"),
              ElementsAre(Pair("Title", "a"), Pair("Title > Sub", "b"), Pair("Title > Other", "c")));
}

TEST(MarkdownSectionsTest, EachSectionTellsItsBytesAndItsLine) {
  const std::string text = "\n# A\n\nfirst\n## B\nsecond\n";
  const Document document = Parse(text);
  ASSERT_EQ(document.sections.size(), 2u);
  EXPECT_EQ(document.sections[0].start_byte, text.find("first"));
  EXPECT_EQ(document.sections[0].end_byte, text.find("first") + 5);
  EXPECT_EQ(document.sections[0].line, 4);
  EXPECT_EQ(document.sections[1].line, 6);
}

TEST(MarkdownSectionsTest, CodeAndListsHoldNoHeadings) {
  EXPECT_THAT(SectionsOf("# A\n```sh\n# not one\n~~~\n```\n~~~~\n# nor this\n~~~\n~~~~\n    # indented\n- item\n---\n#hashtag\n"),
              ElementsAre(Pair("A", ::testing::EndsWith("- item\n---\n#hashtag"))));
  EXPECT_THAT(SectionsOf("# A\n```\n# never closed\n"), ElementsAre(Pair("A", "```\n# never closed")));
}

TEST(MarkdownSectionsTest, AHeadingWithNothingBelowIsKeptAndOneAboveAnotherIsNot) {
  EXPECT_THAT(SectionsOf("# A\n## B\ntext\n## Empty\n## C\n\n# Last #\n"),
              ElementsAre(Pair("A > B", "text"), Pair("A > Empty", "## Empty"), Pair("A > C", "## C"), Pair("A > Last", "# Last #")));
  EXPECT_THAT(SectionsOf("#\n\n##   \n"), IsEmpty());
  EXPECT_THAT(SectionsOf(""), IsEmpty());
}

TEST(MarkdownSectionsTest, FrontMatterIsLeftOutAndGivesTheTitle) {
  EXPECT_THAT(SectionsOf("---\ntitle: \"A: title\"\ntags:\n  - x\nother:\n  title: no\n---\n## H\ntext\n"),
              ElementsAre(Pair("A: title > H", "text")));
  EXPECT_THAT(SectionsOf("+++\ntitle = 'T'\n[params]\nx = 1\n+++\ntext"), ElementsAre(Pair("T", "text")));
  // Rules across the page, and front matter without an end, are text.
  EXPECT_THAT(SectionsOf("---\nSome words.\n\n---\ntext"), ElementsAre(Pair("file", "---\nSome words.\n\n---\ntext")));
  EXPECT_THAT(SectionsOf("---\ntitle: x\ntext"), ElementsAre(Pair("file", "---\ntitle: x\ntext")));
}

TEST(MarkdownSectionsTest, WithoutAHeadingOfLevelOneTheFileNameIsTheTitle) {
  EXPECT_THAT(SectionsOf("before\n## B\ntext\n"), ElementsAre(Pair("file", "before"), Pair("file > B", "text")));
  Document text;
  text.text = " \n# plain\ntext \n";
  FindTextSections(&text);
  EXPECT_THAT(Sections(text), ElementsAre(Pair("file", "# plain\ntext")));
  EXPECT_EQ(text.sections[0].line, 2);
}

TEST(MarkdownSectionsTest, HeadingsAreCutBetweenCharactersAndTheirNumberIsLimited) {
  std::string heading;
  for (int i = 0; i < 200; ++i) heading += "ä";
  const Document document = Parse("# x" + heading + "\ntext");
  EXPECT_EQ(document.headings[0].text.size(), 255u);
  EXPECT_EQ(Parse("---\ntitle: x" + heading + "\n---\ntext").title.size(), 255u);
  std::string many;
  for (int i = 0; i < 100'001; ++i) many += "# h\n";
  Document hostile;
  hostile.text = many;
  EXPECT_THAT(std::string(FindMarkdownSections(&hostile).message()), ::testing::HasSubstr("more than 100000 headings"));
}

}  // namespace
}  // namespace loci
