#include "clients/cli/html_sections.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <string>
#include <utility>
#include <vector>

namespace loci {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Pair;

// Title and text of each section.
std::vector<std::pair<std::string, std::string>> SectionsOf(const std::string& html) {
  Document document;
  const absl::Status status = ParseHtml(html, &document);
  EXPECT_TRUE(status.ok()) << status;
  std::vector<std::pair<std::string, std::string>> sections;
  for (const DocumentSection& section : document.sections) {
    sections.emplace_back(SectionTitle(document, section, "file"),
                          document.text.substr(section.start_byte, section.end_byte - section.start_byte));
  }
  return sections;
}
std::string TextOf(const std::string& html) {
  const auto sections = SectionsOf(html);
  EXPECT_LE(sections.size(), 1u);
  return sections.empty() ? "" : sections[0].second;
}

std::string Repeat(const std::string& text, size_t count) {
  std::string repeated;
  repeated.reserve(text.size() * count);
  for (size_t i = 0; i < count; ++i) repeated += text;
  return repeated;
}

absl::Status StatusOf(const std::string& html, const HtmlLimits& limits = {}) {
  Document document;
  return ParseHtml(html, &document, limits);
}

TEST(HtmlSectionsTest, HeadingsBecomeTitlesUnderThePagesTitle) {
  EXPECT_THAT(SectionsOf("<!DOCTYPE html><html><head><title> The\n page </title><meta charset=utf-8><style>b{}</style></head><body>"
                         "<p>Intro</p><h1>Guide</h1><p>one</p><h2>Install <em>it</em></h2>two<h1>More</h1><p>three"),
              ElementsAre(Pair("The page", "Intro"), Pair("The page > Guide", "one"), Pair("The page > Guide > Install it", "two"),
                          Pair("The page > More", "three")));
  EXPECT_THAT(SectionsOf("<h1>Guide</h1>a<h2>Empty</h2><h2>Sub</h2>b"),
              ElementsAre(Pair("Guide", "a"), Pair("Guide > Empty", "Empty"), Pair("Guide > Sub", "b")));
  EXPECT_THAT(SectionsOf("<h1> </h1><h2>\n</h2>text<h1> <b> </b></h1>"), ElementsAre(Pair("file", "text")));
  EXPECT_THAT(SectionsOf("plain words"), ElementsAre(Pair("file", "plain words")));
  const std::string word(DocumentLimits::kMaxHeadingBytes - 1, 'w');
  EXPECT_THAT(SectionsOf("<h1>" + word + " cut"), ElementsAre(Pair(word, word))) << "no space is left where a heading was cut";
  EXPECT_THAT(SectionsOf(""), IsEmpty());
  EXPECT_THAT(SectionsOf("<html><head><title>only</title></head><body> \n</body>"), IsEmpty());
}

TEST(HtmlSectionsTest, TextIsWhatABrowserShows) {
  EXPECT_EQ(TextOf("<p>a  <b>bold</b>\n word,<i>x</i>&amp;&nbsp;&#228;&ouml;&#x1F600;</p><div>b<br>c</div>"),
            "a bold word,x&\xC2\xA0äö😀\n\nb\nc");
  EXPECT_EQ(TextOf("<script>var a = '<p>x</p>';</script><nav><ul><li>menu</ul></nav><template><p>t</p></template><p>kept</p>"
                   "<noscript>n</noscript><svg><title>s</title><text>v</text></svg><!-- comment --><style>p{}</style>"),
            "kept");
  EXPECT_EQ(TextOf("<pre>a  b\n  c</pre><p>d  e"), "a  b\n  c\n\nd e");
  EXPECT_EQ(TextOf("<table><tr><th>Name</th><th>Age</th></tr><tr><td>Ada<td>36</table>after"), "Name\tAge\n\nAda\t36\n\nafter");
  EXPECT_EQ(TextOf("<ul><li>one<li>two</ul><section>s</section>"), "one\n\ntwo\n\ns");
  EXPECT_EQ(TextOf("a&nosuch;b &lt;p&gt; 1 < 2 &#0;&#xD800;&#99999999999;c").substr(0, 10), "a&nosuch;b");
}

TEST(HtmlSectionsTest, UnclosedAndWrongTagsLoseNoText) {
  EXPECT_EQ(TextOf("<div><p>a<b>b<div>c</p></i></b>d"), "ab\n\ncd");
  EXPECT_THAT(SectionsOf("<h1>Never closed<p>text"), ElementsAre(Pair("Never closed", "text")));
  const std::string longer = Repeat("word ", 1000);
  EXPECT_THAT(SectionsOf("<h1>" + longer), ElementsAre(Pair("file", longer.substr(0, longer.size() - 1))));
  EXPECT_EQ(TextOf("before<script>never closed <p>x"), "before");
}

TEST(HtmlSectionsTest, NestingIsLimitedAndAnyDepthEndsInGoodTime) {
  EXPECT_EQ(TextOf(Repeat("<div>", 5'000) + "deep" + Repeat("</div>", 5'000)), "deep");
  for (const char* tag : {"<div>", "<b>", "<unknown>", "<table>", "<ul><li>"}) {
    EXPECT_THAT(std::string(StatusOf(Repeat(tag, 100'000) + "deep").message()), HasSubstr("nested more than 10000 deep")) << tag;
  }
  // Tags that close nothing are compared with all that is open.
  const auto start = std::chrono::steady_clock::now();
  EXPECT_TRUE(StatusOf(Repeat("<b>", 9'000) + "x" + Repeat("</i>", 100'000)).ok());
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(20));
  HtmlLimits hasty;
  hasty.max_time = std::chrono::milliseconds(100);
  EXPECT_THAT(std::string(StatusOf(Repeat("<b>", 9'000) + "x" + Repeat("</i>", 5'000'000), hasty).message()),
              HasSubstr("took longer than 100 ms, the limit"));
}

TEST(HtmlSectionsTest, HostileMarkupIsReadToItsEnd) {
  for (const char* piece : {"<", "<a ", "&", "</", "<?", "<!DOCTYPE ", "<!--", "<![CDATA[", "&#xD800;", "<p a='", "<a b=\">", "<h1>a", "<title>",
                            "<table><td>", "<select><option>", "<script><!--", "\xC3\xA4<p"}) {
    const absl::Status status = StatusOf(Repeat(piece, 20'000));
    EXPECT_TRUE(status.ok() || status.message().find("deep") != absl::string_view::npos) << piece << status;
  }
  EXPECT_THAT(std::string(StatusOf(Repeat("<h1>a</h1>", 100'001)).message()), HasSubstr("more than 100000 headings"));
}

TEST(HtmlSectionsTest, ALargePageIsReadWhole) {
  const std::string paragraph = "<p>A sentence &amp; <b>more</b> of it.\n";
  Document document;
  ASSERT_TRUE(ParseHtml(Repeat(paragraph, (8 << 20) / paragraph.size()), &document).ok());
  ASSERT_EQ(document.sections.size(), 1u);
  EXPECT_EQ(document.sections[0].end_byte - document.sections[0].start_byte,
            ((8 << 20) / paragraph.size()) * std::string("A sentence & more of it.\n\n").size() - 2);
}

TEST(HtmlSectionsTest, CharactersOfSeveralBytesAreWholeWhereverTheParserIsFed) {
  for (const std::string before : {"", "x", "xy"}) {
    const std::string words = before + Repeat("ä€", 20'000);
    EXPECT_EQ(TextOf("<p>" + words + "</p>"), words);
    EXPECT_EQ(TextOf(words), words);
    Document document;
    ASSERT_TRUE(ParseHtml("<p title='" + words + "'>text</p><" + words + ">", &document).ok());
    EXPECT_EQ(document.text.substr(0, 4), "text");
  }
}

TEST(HtmlSectionsTest, TheEncodingIsTheOneThatIsDeclared) {
  EXPECT_EQ(*DecodeHtml("<meta charset=\"ISO-8859-1\"><p>caf\xE9 \x80"), "<meta charset=\"ISO-8859-1\"><p>café €");
  EXPECT_THAT(*DecodeHtml("<meta http-equiv='Content-Type' content='text/html; charset=windows-1251'>\xCF"), HasSubstr("П"));
  EXPECT_THAT(*DecodeHtml("<?xml version=\"1.0\" encoding=\"shift_jis\"?>\x93\xFA\x96\x7B"), HasSubstr("日本"));
  EXPECT_THAT(*DecodeHtml("<meta charset=euc-jp>\xC6\xFC\xFF z\xC6"), HasSubstr("日\xEF\xBF\xBD z\xEF\xBF\xBD"));
  EXPECT_EQ(*DecodeHtml("\xEF\xBB\xBF<meta charset=latin1>ä"), "<meta charset=latin1>ä");
  EXPECT_EQ(*DecodeHtml("charset=latin9 is no declaration: ä"), "charset=latin9 is no declaration: ä");
  EXPECT_THAT(std::string(DecodeHtml("<meta charset=klingon>").status().message()), HasSubstr("\"klingon\" is not known"));
  EXPECT_THAT(std::string(DecodeHtml("<p>caf\xE9").status().message()), HasSubstr("not valid UTF-8 at byte 7"));
  EXPECT_THAT(std::string(DecodeHtml("<meta charset=utf-8>\xE9").status().message()), HasSubstr("not valid UTF-8 at byte 21"));
  // The parser takes the text as it is, whatever it declares.
  EXPECT_EQ(TextOf("<meta charset=iso-8859-1><p>café"), "café");
}

}  // namespace
}  // namespace loci
