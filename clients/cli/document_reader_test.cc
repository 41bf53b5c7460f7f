#include "clients/cli/document_reader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "clients/cli/input_testing.h"

namespace loci {
namespace {

using ::testing::ElementsAre;
using ::testing::EndsWith;
using ::testing::HasSubstr;

class DocumentReaderTest : public InputFilesTest {
 protected:
  struct Content {
    std::vector<v1::Passage> passages;
    std::vector<int64_t> lines;
    std::vector<std::string> errors;       // "name: message".
    std::vector<std::string> without_text;  // Names.
    std::vector<std::string> passed_over;  // Names.
    absl::Status status;
    std::vector<std::string> ids() const {
      std::vector<std::string> ids;
      for (const v1::Passage& passage : passages) ids.push_back(passage.id());
      return ids;
    }
  };
  static Content Read(const std::string& path, std::optional<DocumentFormat> format = std::nullopt, DocumentLimits limits = {}) {
    Content content;
    auto reader = DocumentReader::Open(path, format, limits);
    content.status = reader.status();
    const auto name = [&] { return std::filesystem::path((*reader)->place().file).filename().string(); };
    while (content.status.ok()) {
      PassageRecord record;
      const absl::StatusOr<IngestReader::Result> result = (*reader)->Next(&record);
      content.status = result.status();
      if (!result.ok() || *result == IngestReader::kEnd) break;
      if (*result == IngestReader::kPassage) {
        content.passages.push_back(record.passage);
        content.lines.push_back((*reader)->place().line);
      } else if (*result == IngestReader::kBadLine) {
        content.errors.push_back(name() + ": " + (*reader)->error());
      } else {
        content.without_text.push_back(name());
      }
    }
    if (reader.ok()) {
      EXPECT_EQ((*reader)->position_bytes(), (*reader)->size_bytes());
      for (const std::string& file : (*reader)->passed_over_files()) {
        content.passed_over.push_back(std::filesystem::path(file).filename().string());
      }
    }
    return content;
  }

};

TEST_F(DocumentReaderTest, AFolderIsReadInTheOrderOfPathsWithItsFolders) {
  Write("docs/b.txt", "b");
  Write("docs/a/z.md", "# Z\ntext\n");
  Write("docs/a/deeper/y.TXT", "y");
  Write("docs/a.text", "a");
  Write("docs/image.png", "x");
  Write("docs/.hidden.txt", "x");
  Write("docs/.git/config.txt", "x");
  Write("elsewhere/linked.txt", "linked");
  std::filesystem::create_directory_symlink("..", directory_ + "/docs/circle");
  std::filesystem::create_symlink("../elsewhere/linked.txt", directory_ + "/docs/link.txt");
  std::filesystem::create_symlink("a/z.md", directory_ + "/docs/latest.md");
  std::filesystem::create_symlink("nowhere.md", directory_ + "/docs/lost.md");
  const Content content = Read(directory_ + "/docs");
  ASSERT_TRUE(content.status.ok()) << content.status;
  EXPECT_THAT(content.ids(), ElementsAre("a.text#0", "a/deeper/y.TXT#0", "a/z.md#0", "b.txt#0", "latest.md#0"));
  EXPECT_THAT(content.passed_over, ElementsAre("circle", "image.png", "link.txt (a link out of the folder)", "lost.md"));
  // The folder itself may be reached through a link.
  std::filesystem::create_directory_symlink("docs", directory_ + "/way");
  EXPECT_EQ(Read(directory_ + "/way").ids(), content.ids());
  EXPECT_THAT(Read(directory_ + "/docs", DocumentFormat::kMarkdown).ids(), ElementsAre("a/z.md#0", "latest.md#0"));
  EXPECT_EQ(Read(directory_ + "/docs/.git", DocumentFormat::kMarkdown).status.code(), absl::StatusCode::kNotFound);
}

TEST_F(DocumentReaderTest, ASectionTellsItsDocumentTitleAndBytesOfTheFile) {
  const std::string text = "\xEF\xBB\xBF# Guide\n\nIntro ä.\n\n## Install\napt\n";
  const std::string path = Write("manual.md", text);
  const Content content = Read(path);
  ASSERT_EQ(content.passages.size(), 2u);
  const v1::Passage& passage = content.passages[1];
  EXPECT_EQ(passage.document_id(), "manual.md");
  EXPECT_EQ(passage.id(), "manual.md#1");
  EXPECT_EQ(passage.title(), "Guide > Install");
  EXPECT_EQ(passage.text(), "apt");
  EXPECT_EQ(passage.metadata().at("source").string_value(), path);
  const auto start = static_cast<size_t>(passage.metadata().at("start_byte").int64_value());
  const auto end = static_cast<size_t>(passage.metadata().at("end_byte").int64_value());
  EXPECT_EQ(text.substr(start, end - start), "apt");
  EXPECT_EQ(passage.metadata().count("page"), 0u);
  EXPECT_THAT(content.lines, ElementsAre(3, 6));
}

TEST_F(DocumentReaderTest, ABadDocumentIsOneBadLineAndTheOthersCome) {
  Write("d/1-latin.txt", "caf\xE9");
  Write("d/2-good.txt", "good");
  Write("d/3-large.txt", std::string(1001, 'x'));
  Write("d/4-empty.md", " \n");
  Write("d/5-cut.txt.gz", Gzip("some text").substr(0, 14));
  Write("d/6-" + std::string(200, 'n') + "/" + std::string(200, 'n') + "/" + std::string(100, 'n') + ".txt", "x");
  Write("d/7-bad\xff.txt", "x");
  Write("d/8-last.txt.gz", Gzip("last"));
  DocumentLimits limits;
  limits.max_text_bytes = 1000;
  const Content content = Read(directory_ + "/d", std::nullopt, limits);
  ASSERT_TRUE(content.status.ok()) << content.status;
  EXPECT_THAT(content.ids(), ElementsAre("2-good.txt#0", "7-bad%FF.txt#0", "8-last.txt.gz#0"));
  EXPECT_EQ(content.passages[1].title(), "7-bad%FF");
  EXPECT_THAT(content.passages[1].metadata().at("source").string_value(), EndsWith("/d/7-bad%FF.txt"));
  EXPECT_EQ(content.passages[2].title(), "8-last");
  EXPECT_THAT(content.errors, ElementsAre(HasSubstr("1-latin.txt: not valid UTF-8 at byte 4"),
                                          HasSubstr("3-large.txt: the document has more than 1000 bytes"), HasSubstr("cut short"),
                                          HasSubstr("the limit is 480")));
  EXPECT_THAT(content.without_text, ElementsAre("4-empty.md"));
}

TEST_F(DocumentReaderTest, ALongSectionComesInPartsThatCoverItOnce) {
  std::string text;
  for (int i = 0; text.size() < 3 * DocumentReader::kMaxSectionBytes; ++i) text += "Sentence " + std::to_string(i) + ".\n";
  const Content content = Read(Write("long.txt", text));
  ASSERT_EQ(content.passages.size(), 4u);
  size_t covered = 0;
  for (const v1::Passage& passage : content.passages) {
    EXPECT_LE(passage.text().size(), DocumentReader::kMaxSectionBytes);
    EXPECT_TRUE(passage.text().starts_with("Sentence ") && passage.text().ends_with("."));
    const auto start = static_cast<size_t>(passage.metadata().at("start_byte").int64_value());
    EXPECT_EQ(text.substr(start, passage.text().size()), passage.text());
    EXPECT_EQ(start, covered);
    covered = start + passage.text().size() + 1;
  }
  EXPECT_EQ(covered, text.size());
  EXPECT_EQ(content.lines[1], 1 + std::count(content.passages[0].text().begin(), content.passages[0].text().end(), '\n') + 1);
  // Without any place to cut, between characters.
  std::string word;
  while (word.size() <= DocumentReader::kMaxSectionBytes) word += "ä€";
  const Content cut = Read(Write("word.txt", word));
  ASSERT_EQ(cut.passages.size(), 2u);
  EXPECT_EQ(cut.passages[0].text() + cut.passages[1].text(), word);
  // A gap of white space that is longer than a part.
  const Content gap = Read(Write("gap.txt", "a" + std::string(3 * DocumentReader::kMaxSectionBytes, '\n') + "b"));
  ASSERT_EQ(gap.passages.size(), 2u);
  EXPECT_EQ(gap.passages[0].text(), "a");
  EXPECT_EQ(gap.passages[1].text(), "b");
}

TEST_F(DocumentReaderTest, HtmlAndPdfAreReadAndTheirFailuresAreOneBadDocumentEach) {
  Write("d/1.html", "<title>Page</title><h1>Head</h1><p>text &amp; more");
  Write("d/2.htm", "caf\xE9");
  Write("d/3.pdf", "no PDF");
  Write("d/4.html.gz", Gzip("<p>packed"));
  Write("d/5.html", "<script>x</script>");
  const Content content = Read(directory_ + "/d");
  EXPECT_THAT(content.ids(), ElementsAre("1.html#0", "4.html.gz#0"));
  EXPECT_EQ(content.passages[0].title(), "Page > Head");
  EXPECT_EQ(content.passages[0].text(), "text & more");
  EXPECT_THAT(content.errors, ElementsAre(HasSubstr("2.htm: not valid UTF-8 at byte 4"),
                                          HasSubstr("3.pdf: pdftotext can't read it: Syntax Warning: May not be a PDF file")));
  EXPECT_THAT(content.without_text, ElementsAre("5.html"));
}

TEST_F(DocumentReaderTest, AFolderThatCannotBeListedIsNamed) {
  EXPECT_EQ(Read(directory_ + "/absent.txt").status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(Read(directory_).status.message()), HasSubstr("no document is in it: *.txt"));
}

}  // namespace
}  // namespace loci
