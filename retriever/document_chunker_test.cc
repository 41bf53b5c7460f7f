#include "retriever/document_chunker.h"

#include <atomic>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/utf8.h"
#include "encoder/encoder.h"
#include "encoder/testing/fake_encoder.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace loci {
namespace {

using ::testing::ElementsAre;

loci::v1::Passage Section(const std::string& text, const std::string& title = "") {
  loci::v1::Passage section;
  section.set_id("doc");
  section.set_text(text);
  section.set_title(title);
  return section;
}

std::vector<loci::v1::Passage> Cut(const Tokenizer& tokenizer, DocumentChunker::Options options, const loci::v1::Passage& section) {
  std::vector<loci::v1::Passage> passages;
  int32_t chunk_index = 0;
  const absl::Status cut = DocumentChunker(tokenizer, std::move(options)).Cut(section, &chunk_index, [&](loci::v1::Passage passage) {
    passages.push_back(std::move(passage));
    return absl::OkStatus();
  });
  EXPECT_TRUE(cut.ok()) << cut;
  EXPECT_EQ(chunk_index, static_cast<int32_t>(passages.size()));
  return passages;
}

std::vector<std::string> Texts(const std::vector<loci::v1::Passage>& passages) {
  std::vector<std::string> texts;
  for (const loci::v1::Passage& passage : passages) texts.push_back(passage.text());
  return texts;
}

int64_t CountTokens(const Tokenizer& tokenizer, const std::string& text) {
  std::vector<int32_t> ids;
  tokenizer.Tokenize(text, &ids);
  return static_cast<int64_t>(ids.size()) + 2;
}

// "w1 w2 ... w<count>."
std::string Sentence(int count, const std::string& word = "w") {
  std::string sentence;
  for (int i = 1; i <= count; ++i) absl::StrAppend(&sentence, i > 1 ? " " : "", word, i);
  sentence[0] = static_cast<char>(toupper(sentence[0]));
  return sentence + ".";
}

std::unique_ptr<Tokenizer> WordPiece() {
  std::vector<std::string> vocabulary = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", ",", "!", "the", "##ing"};
  for (char c = 'a'; c <= 'z'; ++c) {
    vocabulary.push_back(std::string(1, c));
    vocabulary.push_back(absl::StrCat("##", std::string(1, c)));
  }
  for (const char* character : {"\u4e2d", "\u6587", "\u3002"}) vocabulary.push_back(character);
  return *Tokenizer::Create(vocabulary, {});
}

// Counts the bytes that it is given.
class CountingTokenizer : public Tokenizer {
 public:
  explicit CountingTokenizer(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}
  void Tokenize(std::string_view text, std::vector<int32_t>* ids) const override {
    bytes += static_cast<int64_t>(text.size());
    longest = std::max<int64_t>(longest, static_cast<int64_t>(text.size()));
    tokenizer_.Tokenize(text, ids);
  }
  int vocabulary_size() const override { return tokenizer_.vocabulary_size(); }
  int32_t cls_id() const override { return tokenizer_.cls_id(); }
  int32_t sep_id() const override { return tokenizer_.sep_id(); }
  std::string digest() const override { return tokenizer_.digest(); }
  mutable std::atomic<int64_t> bytes{0};
  mutable std::atomic<int64_t> longest{0};

 private:
  const Tokenizer& tokenizer_;
};

TEST(DocumentChunker, FillsPassagesWithWholeSentences) {
  const FakeTokenizer tokenizer;
  const std::string text = absl::StrCat(Sentence(6, "a"), "  ", Sentence(8, "b"), "\n", Sentence(5, "c"), " ", Sentence(14, "d"));
  const auto passages = Cut(tokenizer, {.max_tokens = 16}, Section(text));
  EXPECT_THAT(Texts(passages), ElementsAre(absl::StrCat(Sentence(6, "a"), "  ", Sentence(8, "b")), Sentence(5, "c"), Sentence(14, "d")));
  EXPECT_EQ(passages[1].id(), "doc#1");
  EXPECT_EQ(passages[1].document_id(), "doc");
  EXPECT_EQ(passages[1].chunk_index(), 1);
  for (const loci::v1::Passage& passage : passages) {
    const int64_t start = passage.metadata().at("start_byte").int64_value(), end = passage.metadata().at("end_byte").int64_value();
    EXPECT_EQ(text.substr(start, end - start), passage.text());
  }
}

TEST(DocumentChunker, RepeatsWholeSentencesUpToTheOverlap) {
  const FakeTokenizer tokenizer;
  const std::string a = Sentence(6, "a"), b = Sentence(3, "b"), c = Sentence(4, "c"), d = Sentence(9, "d"), e = Sentence(12, "e");
  const auto passages = Cut(tokenizer, {.max_tokens = 16, .overlap_tokens = 7}, Section(absl::StrCat(a, " ", b, " ", c, " ", d, " ", e)));
  // Of b and c, 7 tokens, only c leaves room for d; d itself is longer than the overlap.
  EXPECT_THAT(Texts(passages), ElementsAre(absl::StrCat(a, " ", b, " ", c), absl::StrCat(c, " ", d), e));
}

TEST(DocumentChunker, CutsALongSentenceBetweenWordsAndALongWordBetweenCharacters) {
  const std::unique_ptr<Tokenizer> tokenizer = WordPiece();
  // Letters are tokens of their own here: 14 beside the two special ones.
  EXPECT_THAT(Texts(Cut(*tokenizer, {.max_tokens = 16}, Section("abcdef ghijkl mnopqr, stu vwx yz. The end"))),
              ElementsAre("abcdef ghijkl", "mnopqr, stu vwx", "yz. The end"));
  EXPECT_THAT(Texts(Cut(*tokenizer, {.max_tokens = 16}, Section("ab cdefghijklmnopqrstuvwxyzabcdef gh"))),
              ElementsAre("ab", "cdefghijklmnop", "qrstuvwxyzabcd", "ef gh"));
  // With an overlap as well: a piece is no sentence.
  EXPECT_THAT(Texts(Cut(*tokenizer, {.max_tokens = 16, .overlap_tokens = 7}, Section("abcdef ghijkl mnopqr, stu vwx yz. The end"))),
              ElementsAre("abcdef ghijkl", "mnopqr, stu vwx", "yz. The end"));
}

TEST(DocumentChunker, NeverCutsWithinACharacterNorItsMarks) {
  const std::unique_ptr<Tokenizer> tokenizer = WordPiece();
  std::string chinese, marked;
  for (int i = 0; i < 40; ++i) chinese += i % 2 == 0 ? "\u4e2d" : "\u6587";
  for (int i = 0; i < 60; ++i) marked += "\u4e2de\u0301\u0323";
  for (const std::string& text : {chinese, marked}) {
    std::string joined;
    for (const loci::v1::Passage& passage : Cut(*tokenizer, {.max_tokens = 16}, Section(text))) {
      EXPECT_TRUE(IsValidUtf8(passage.text()));
      EXPECT_FALSE(passage.text().starts_with("\u0301") || passage.text().starts_with("\u0323")) << passage.text();
      EXPECT_LE(CountTokens(*tokenizer, passage.text()), 16);
      joined += passage.text();
    }
    EXPECT_EQ(joined, text);
  }
  // Nothing but marks must be cut all the same.
  std::string marks;
  for (int i = 0; i < 100'000; ++i) marks += "\u0301";
  std::string joined;
  for (const loci::v1::Passage& passage : Cut(*tokenizer, {.max_tokens = 16}, Section(marks))) joined += passage.text();
  EXPECT_EQ(joined, marks);
}

TEST(DocumentChunker, CountsTheTitleAndThePrefix) {
  const FakeTokenizer tokenizer;
  const auto passages = Cut(tokenizer, {.max_tokens = 16, .prefix = "passage: "}, Section(Sentence(30), "One Two Three"));
  ASSERT_EQ(passages.size(), 3u);  // 16 - 2 - 1 - 3 = 10 each.
  for (const loci::v1::Passage& passage : passages) {
    EXPECT_EQ(passage.title(), "One Two Three");
    EXPECT_EQ(CountTokens(tokenizer, absl::StrCat("passage: ", PassageText(passage.title(), passage.text()))), 16);
  }
}

TEST(DocumentChunker, ATitleLeavesHalfOfTheTokensForText) {
  const FakeTokenizer tokenizer;
  const auto passages = Cut(tokenizer, {.max_tokens = 16}, Section(Sentence(14), "One two three four five six seven eight nine"));
  ASSERT_EQ(passages.size(), 2u);
  EXPECT_EQ(passages[0].title(), "One two three four five six seven");
  EXPECT_EQ(CountTokens(tokenizer, PassageText(passages[0].title(), passages[0].text())), 16);
}

TEST(DocumentChunker, RepeatsMetadataAndMovesBytesByTheSectionsOwn) {
  const FakeTokenizer tokenizer;
  loci::v1::Passage section = Section("  One two. Three four.");
  section.set_document_id("book");
  (*section.mutable_metadata())["start_byte"].set_int64_value(1000);
  (*section.mutable_metadata())["end_byte"].set_int64_value(1022);
  (*section.mutable_metadata())["path"].set_string_value("a.txt");
  const auto passages = Cut(tokenizer, {.max_tokens = 16}, section);
  ASSERT_EQ(passages.size(), 1u);
  EXPECT_EQ(passages[0].id(), "book#0");
  EXPECT_EQ(passages[0].metadata().at("start_byte").int64_value(), 1002);
  EXPECT_EQ(passages[0].metadata().at("end_byte").int64_value(), 1022);
  EXPECT_EQ(passages[0].metadata().at("path").string_value(), "a.txt");
}

TEST(DocumentChunker, ATitleAloneIsAPassageAndNothingIsNone) {
  const FakeTokenizer tokenizer;
  const auto passages = Cut(tokenizer, {.max_tokens = 16}, Section(" \n ", "Alone"));
  ASSERT_EQ(passages.size(), 1u);
  EXPECT_EQ(passages[0].title(), "Alone");
  EXPECT_EQ(passages[0].text(), "");
  EXPECT_TRUE(Cut(tokenizer, {.max_tokens = 16}, Section(" \n ")).empty());
}

TEST(DocumentChunker, EndsWithTheFirstError) {
  const FakeTokenizer tokenizer;
  int32_t chunk_index = 0;
  int calls = 0;
  const absl::Status cut = DocumentChunker(tokenizer, {.max_tokens = 16}).Cut(Section(Sentence(100)), &chunk_index, [&](loci::v1::Passage) {
    return ++calls == 2 ? absl::CancelledError("enough") : absl::OkStatus();
  });
  EXPECT_EQ(cut.code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(calls, 2);
}

TEST(DocumentChunker, HoldsItsLimitsOnRandomText) {
  const std::unique_ptr<Tokenizer> tokenizer = WordPiece();
  const std::vector<std::string> pieces = {"a", "bc", "the", "walking", " ", " ", "  ", ". ", ".", "! ", "\n", "\n\n", ",", "\u4e2d", "\u6587\u3002",
                                           "e\u0301", "[SEP]", "\u00a0", "\U0001F469\u200D\U0001F680", "abcdefghijklmnopqrstuvwxyz"};
  std::mt19937 random(1);
  for (int round = 0; round < 300; ++round) {
    std::string text;
    for (int i = static_cast<int>(random() % 200); i >= 0; --i) text += pieces[random() % pieces.size()];
    DocumentChunker::Options options{.max_tokens = 16 + static_cast<int>(random() % 30)};
    options.overlap_tokens = static_cast<int>(random() % (options.max_tokens / 2 + 1));
    const std::string title = round % 3 == 0 ? "the title abc" : "";
    size_t covered = 0;
    for (const loci::v1::Passage& passage : Cut(*tokenizer, options, Section(text, title))) {
      EXPECT_LE(CountTokens(*tokenizer, PassageText(passage.title(), passage.text())), options.max_tokens) << text;
      EXPECT_TRUE(IsValidUtf8(passage.text()));
      const auto start = static_cast<size_t>(passage.metadata().at("start_byte").int64_value());
      const auto end = static_cast<size_t>(passage.metadata().at("end_byte").int64_value());
      EXPECT_EQ(text.substr(start, end - start), passage.text());
      EXPECT_GT(end, covered) << "nothing new in " << passage.text();
      if (start > covered) {
        EXPECT_EQ(text.substr(covered, start - covered).find_first_not_of(" \n"), std::string::npos) << text;
      }
      covered = end;
    }
    EXPECT_EQ(text.substr(covered).find_first_not_of(" \n"), std::string::npos) << text;
  }
}

TEST(DocumentChunker, TakesLinearTimeAndBoundedMemory) {
  const std::unique_ptr<Tokenizer> word_piece = WordPiece();
  constexpr size_t kBytes = 1 << 20;
  std::vector<std::string> texts(5);
  while (texts[0].size() < kBytes) texts[0] += "no end of it ";
  texts[1].assign(kBytes, 'a');              // One unknown token.
  while (texts[2].size() < kBytes) texts[2] += "\u4e2d";  // Tokens without a space between.
  while (texts[3].size() < kBytes) texts[3] += "A. ";
  texts[4].assign(kBytes, '.');
  for (const std::string& text : texts) {
    const CountingTokenizer tokenizer(*word_piece);
    int64_t count = 0;
    int32_t chunk_index = 0;
    const DocumentChunker chunker(tokenizer, {.max_tokens = 256, .overlap_tokens = 64});
    ASSERT_TRUE(chunker.Cut(Section(text), &chunk_index, [&](const loci::v1::Passage& passage) {
      EXPECT_LE(passage.text().size(), DocumentChunker::kMaxPassageBytes);
      ++count;
      return absl::OkStatus();
    }).ok());
    EXPECT_GE(count, static_cast<int64_t>(kBytes / DocumentChunker::kMaxPassageBytes));
    EXPECT_LE(tokenizer.bytes, static_cast<int64_t>(20 * kBytes)) << text.substr(0, 20);
    EXPECT_LE(tokenizer.longest, static_cast<int64_t>(DocumentChunker::kMaxPassageBytes));
  }
}

}  // namespace
}  // namespace loci
