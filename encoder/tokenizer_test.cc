#include "encoder/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <zlib.h>

#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "base/error.h"
#include "base/file.h"

namespace loci {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

std::string ModelFolder() {
  const char* folder = std::getenv("LOCI_MODEL_DIR");
  return folder != nullptr && *folder != '\0' ? folder : "models/all-MiniLM-L6-v2";
}

std::vector<int32_t> Ids(const Tokenizer& tokenizer, std::string_view text) {
  std::vector<int32_t> ids;
  tokenizer.Tokenize(text, &ids);
  return ids;
}

std::string Gunzip(const std::string& path) {
  std::string out;
  gzFile file = gzopen(path.c_str(), "rb");
  if (file == nullptr) return out;
  char buffer[1 << 16];
  for (int n; (n = gzread(file, buffer, sizeof(buffer))) > 0;) out.append(buffer, static_cast<size_t>(n));
  gzclose(file);
  return out;
}

// The model that users have.
class TokenizerModelTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    auto loaded = Tokenizer::Load(PosixFileSystem(), ModelFolder());
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    tokenizer_ = std::move(*loaded).release();
  }
  static void TearDownTestSuite() {
    delete tokenizer_;
    tokenizer_ = nullptr;
  }
  void SetUp() override { ASSERT_NE(tokenizer_, nullptr); }

  static Tokenizer* tokenizer_;
};
Tokenizer* TokenizerModelTest::tokenizer_ = nullptr;

TEST_F(TokenizerModelTest, GivesTheIdsOfHuggingFaceTokenizers) {
  const std::string golden = Gunzip("tests/golden/tokenizer.golden.gz");
  ASSERT_GE(golden.size(), 4u) << "no golden file";
  const auto uint32_at = [&golden](size_t offset) {
    uint32_t value;
    std::memcpy(&value, golden.data() + offset, sizeof(value));
    return value;
  };
  const uint32_t count = uint32_at(0);
  ASSERT_GE(count, 20000u);
  size_t text_offset = 4 + size_t{8} * count;
  size_t id_offset = text_offset;
  for (uint32_t i = 0; i < count; ++i) id_offset += uint32_at(4 + size_t{8} * i);
  int different = 0;
  std::vector<int32_t> ids;
  std::vector<int32_t> expected;
  for (uint32_t i = 0; i < count; ++i) {
    const uint32_t size_bytes = uint32_at(4 + size_t{8} * i);
    const uint32_t id_count = uint32_at(8 + size_t{8} * i);
    const std::string_view text(golden.data() + text_offset, size_bytes);
    expected.clear();
    for (uint32_t k = 0; k < id_count; ++k) {
      uint16_t id;
      std::memcpy(&id, golden.data() + id_offset + size_t{2} * k, sizeof(id));
      expected.push_back(id);
    }
    text_offset += size_bytes;
    id_offset += size_t{2} * id_count;
    ids.clear();
    tokenizer_->Tokenize(text, &ids);
    if (ids != expected && ++different <= 5) {
      ADD_FAILURE() << "string " << i << ": " << ::testing::PrintToString(std::string(text)) << "\nexpected "
                    << ::testing::PrintToString(expected) << "\ngot      " << ::testing::PrintToString(ids);
    }
  }
  EXPECT_EQ(different, 0) << "of " << count << " strings";
  EXPECT_EQ(id_offset, golden.size());
}

// The expected ids below are of `tokenizers` 0.23.3 too.
TEST_F(TokenizerModelTest, KnowsItsSpecialTokens) {
  EXPECT_EQ(tokenizer_->vocabulary_size(), 30522);
  EXPECT_EQ(tokenizer_->cls_id(), 101);
  EXPECT_EQ(tokenizer_->sep_id(), 102);
  EXPECT_THAT(Ids(*tokenizer_, "Which package turns PDF into text?"), ElementsAre(2029, 7427, 4332, 11135, 2046, 3793, 1029));
}

TEST_F(TokenizerModelTest, EmptyTextHasNoIds) {
  EXPECT_THAT(Ids(*tokenizer_, ""), IsEmpty());
  EXPECT_THAT(Ids(*tokenizer_, " \t\r\n"), IsEmpty());
}

TEST_F(TokenizerModelTest, AppendsToWhatIsThere) {
  std::vector<int32_t> ids = {7};
  tokenizer_->Tokenize("text", &ids);
  EXPECT_THAT(ids, ElementsAre(7, 3793));
}

TEST_F(TokenizerModelTest, AWordOfAMegabyteIsUnknown) {
  EXPECT_THAT(Ids(*tokenizer_, std::string(1 << 20, 'a')), ElementsAre(100));
  EXPECT_THAT(Ids(*tokenizer_, std::string(1 << 20, 'a') + " text"), ElementsAre(100, 3793));
  std::string accented;
  for (int i = 0; i < 1 << 19; ++i) accented += "\xC3\xA9";
  EXPECT_THAT(Ids(*tokenizer_, accented), ElementsAre(100));
}

TEST_F(TokenizerModelTest, AMegabyteOfMarksOrPunctuationIsDoneInOneGo) {
  std::string marks = "a";  // U+302F and U+302E: spacing marks, which stay and are sorted.
  for (int i = 0; i < 1 << 17; ++i) marks += "\xE3\x80\xAF\xE3\x80\xAE";
  EXPECT_THAT(Ids(*tokenizer_, marks), ElementsAre(100));
  EXPECT_THAT(Ids(*tokenizer_, std::string(1 << 20, '!')), ::testing::SizeIs(1 << 20));
}

TEST_F(TokenizerModelTest, ALongTextIsNotCutOrPadded) {
  // tokenizer.json of this model truncates to 128 tokens and pads; that is the encoder's business.
  std::string text;
  for (int i = 0; i < 1000; ++i) text += "text ";
  EXPECT_THAT(Ids(*tokenizer_, text), ::testing::SizeIs(1000));
}

TEST_F(TokenizerModelTest, InvalidBytesCountAsReplacementCharacters) {
  const std::vector<int32_t> expected = Ids(*tokenizer_, "te\xEF\xBF\xBDxt");
  EXPECT_THAT(expected, ElementsAre(3793));  // Cleaning removes U+FFFD.
  for (const char* text : {"te\xFFxt", "te\xC0\x80xt", "te\xED\xA0\x80xt", "te\xE4\xB8xt", "te\xF4\x90\x80\x80xt", "te\x80xt"}) {
    EXPECT_EQ(Ids(*tokenizer_, text), expected) << ::testing::PrintToString(std::string(text));
  }
  EXPECT_THAT(Ids(*tokenizer_, "text\xE4"), ElementsAre(3793));
}

TEST_F(TokenizerModelTest, VocabularyTextGivesTheSameTokenizer) {
  FileSystem& fs = PosixFileSystem();
  const std::string folder = ::testing::TempDir() + "/tokenizer_vocabulary_only";
  ASSERT_TRUE(fs.DeleteRecursively(folder).ok());
  ASSERT_TRUE(fs.CreateDirectories(folder).ok());
  for (const char* name : {"vocab.txt", "tokenizer_config.json"}) {
    auto content = fs.ReadFile(JoinPath(ModelFolder(), name));
    ASSERT_TRUE(content.ok()) << content.status();
    ASSERT_TRUE(WriteFileAtomically(fs, JoinPath(folder, name), *content).ok());
  }
  auto loaded = Tokenizer::Load(fs, folder);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ((*loaded)->digest(), tokenizer_->digest());
  EXPECT_EQ((*loaded)->digest().size(), 64u);
  EXPECT_EQ(Ids(**loaded, "na\xC3\xAFve [SEP] x"), Ids(*tokenizer_, "na\xC3\xAFve [SEP] x"));
}

TEST_F(TokenizerModelTest, ThreadsShareOneTokenizer) {
  const std::string text = "Shared by threads: \xC3\xA9t\xC3\xA9, [MASK], \xE3\x80\xAF\xE3\x80\xAA unaffable";
  const std::vector<int32_t> expected = Ids(*tokenizer_, text);
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 200; ++i) EXPECT_EQ(Ids(*tokenizer_, text), expected);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

const std::vector<std::string>& SmallVocabulary() {
  static const auto* const kPieces = new std::vector<std::string>{
      "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "un", "##aff", "##able", "##a", "able", ",", "caf\xC3\xA9", "cafe", "Un"};
  return *kPieces;
}

TEST(TokenizerTest, TakesTheLongestPieceFirst) {
  auto tokenizer = Tokenizer::Create(SmallVocabulary(), {});
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_THAT(Ids(**tokenizer, "unaffable"), ElementsAre(5, 6, 7));
  EXPECT_THAT(Ids(**tokenizer, "unaa able"), ElementsAre(5, 8, 8, 9));
  EXPECT_THAT(Ids(**tokenizer, "unaffx, able"), ElementsAre(1, 10, 9));  // One bad part makes the whole word unknown.
  EXPECT_THAT(Ids(**tokenizer, "aff"), ElementsAre(1));
}

TEST(TokenizerTest, OptionsChangeIdsAndDigest) {
  auto uncased = Tokenizer::Create(SmallVocabulary(), {});
  TokenizerOptions options;
  options.lowercase = false;
  options.strip_accents = false;
  auto cased = Tokenizer::Create(SmallVocabulary(), options);
  ASSERT_TRUE(uncased.ok() && cased.ok());
  EXPECT_THAT(Ids(**uncased, "caf\xC3\xA9 Un"), ElementsAre(12, 5));
  EXPECT_THAT(Ids(**cased, "caf\xC3\xA9 Un"), ElementsAre(11, 13));
  EXPECT_NE((*uncased)->digest(), (*cased)->digest());
  options = {};
  options.max_input_chars_per_word = 4;
  auto shorter = Tokenizer::Create(SmallVocabulary(), options);
  ASSERT_TRUE(shorter.ok());
  EXPECT_THAT(Ids(**shorter, "unaa unaaa"), ElementsAre(5, 8, 8, 1));
  EXPECT_NE((*uncased)->digest(), (*shorter)->digest());
}

TEST(TokenizerTest, DigestCoversEveryPiece) {
  std::vector<std::string> pieces = SmallVocabulary();
  auto before = Tokenizer::Create(pieces, {});
  pieces.back() = "Um";
  auto after = Tokenizer::Create(pieces, {});
  ASSERT_TRUE(before.ok() && after.ok());
  EXPECT_NE((*before)->digest(), (*after)->digest());
  auto again = Tokenizer::Create(SmallVocabulary(), {});
  ASSERT_TRUE(again.ok());
  EXPECT_EQ((*before)->digest(), (*again)->digest());
}

TEST(TokenizerTest, RefusesAVocabularyWithoutItsSpecialTokensOrWithDuplicates) {
  const auto refused = [](std::vector<std::string> pieces, const char* why) {
    auto tokenizer = Tokenizer::Create(std::move(pieces), {});
    ASSERT_FALSE(tokenizer.ok());
    EXPECT_EQ(tokenizer.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(tokenizer.status().message()), HasSubstr(why));
    auto reason = GetErrorReason(tokenizer.status());
    ASSERT_TRUE(reason.has_value());
    EXPECT_EQ(reason->reason, "INVALID_TOKENIZER");
  };
  refused({}, "empty");
  refused({"[UNK]", "[CLS]", "a"}, "[SEP]");
  refused({"[CLS]", "[SEP]", "a"}, "[UNK]");
  refused({"[UNK]", "[CLS]", "[SEP]", "a", "b", "a"}, "\"a\" has two ids, 3 and 5");
  refused({"[UNK]", "[CLS]", "[SEP]", ""}, "id 3");
  refused({"[UNK]", "[CLS]", "[SEP]", "\xFF"}, "not UTF-8");
}

TEST(TokenizerTest, AMissingFolderIsNotFound) {
  auto tokenizer = Tokenizer::Load(PosixFileSystem(), "no/such/folder");
  ASSERT_FALSE(tokenizer.ok());
  EXPECT_EQ(tokenizer.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(tokenizer.status().message()), HasSubstr("no/such/folder"));
}

}  // namespace
}  // namespace loci
