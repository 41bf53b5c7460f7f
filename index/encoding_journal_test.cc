#include "index/encoding_journal.h"

#include <fstream>
#include <limits>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "gtest/gtest.h"
#include "index/store_testing.h"

namespace loci {
namespace {

constexpr int kDim = 4;
constexpr int64_t kRecordBytes = 16 + 4 * kDim + 8;

// Used by one thread.
class EncodingJournalTest : public testing::Test {
 protected:
  EncodingJournal::Options Options() const {
    return {.directory = JoinPath(directory_.path(), "encoded"), .passage_half = "0123456789abcdef", .dim = kDim};
  }
  static ContentHash Hash(int i) { return HashContent(absl::StrCat("text ", i)); }
  static std::vector<float> Vector(int i) { return {0.1f * static_cast<float>(i), 1.0f / 3, -1e-30f, static_cast<float>(i)}; }
  static void Append(EncodingJournal& journal, int from, int to) {
    std::vector<ContentHash> hashes;
    std::vector<float> vectors;
    for (int i = from; i < to; ++i) {
      hashes.push_back(Hash(i));
      for (const float value : Vector(i)) vectors.push_back(value);
    }
    journal.Append(hashes, vectors.data());
  }
  // Which of the first `count` it has; what it has must be right.
  static std::vector<int> Found(const EncodingJournal& journal, int count) {
    std::vector<int> found;
    for (int i = 0; i < count; ++i) {
      std::vector<float> vector(kDim);
      if (!journal.Find(Hash(i), vector.data())) continue;
      EXPECT_EQ(vector, Vector(i));
      found.push_back(i);
    }
    return found;
  }
  std::string File(int number) const { return JoinPath(Options().directory, absl::StrCat("0000000", number)); }
  void Overwrite(const std::string& path, int64_t offset, const std::string& bytes) {
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(offset);
    file << bytes;
  }
  void Truncate(const std::string& path, int64_t bytes) {
    const std::string content = *PosixFileSystem().ReadFile(path);
    const auto file = *PosixFileSystem().NewWritableFile(path);
    ASSERT_TRUE(file->Append(content.substr(0, static_cast<size_t>(bytes))).ok());
  }

  TestDirectory directory_{"encoding_journal"};
};

TEST_F(EncodingJournalTest, VectorsOfAnotherPrecisionAreNotFound) {
  EncodingJournal::Options int8 = Options(), as_before = Options(), longest = Options();
  int8.precision = "int8";
  longest.precision = "sixteen letters.";
  Append(*EncodingJournal::Open(as_before), 0, 2);
  Append(*EncodingJournal::Open(int8), 2, 4);
  Append(*EncodingJournal::Open(longest), 4, 5);
  EXPECT_EQ(Found(*EncodingJournal::Open(as_before), 8), (std::vector<int>{0, 1}));
  EXPECT_EQ(Found(*EncodingJournal::Open(longest), 8), (std::vector<int>{4}));
  int8.delete_others = true;
  EXPECT_EQ(Found(*EncodingJournal::Open(int8), 8), (std::vector<int>{2, 3}));
  EXPECT_EQ(Found(*EncodingJournal::Open(as_before), 8), std::vector<int>());
}

TEST_F(EncodingJournalTest, KeepsVectorsBitForBitOverManyIngests) {
  Append(*EncodingJournal::Open(Options()), 0, 3);
  auto second = EncodingJournal::Open(Options());
  EXPECT_EQ(second->record_count(), 3);
  Append(*second, 3, 4);
  Append(*second, 4, 6);
  second.reset();
  EXPECT_EQ(Found(*EncodingJournal::Open(Options()), 10), (std::vector<int>{0, 1, 2, 3, 4, 5}));
}

TEST_F(EncodingJournalTest, ReadsNothingOfAnotherEncoder) {
  Append(*EncodingJournal::Open(Options()), 0, 3);
  auto other = Options();
  other.passage_half = "0123456789abcdee";
  EXPECT_EQ(EncodingJournal::Open(other)->record_count(), 0);
  other = Options();
  other.dim = kDim + 1;
  EXPECT_EQ(EncodingJournal::Open(other)->record_count(), 0);
}

TEST_F(EncodingJournalTest, LeavesOutWhatIsDamagedOrCutOff) {
  Append(*EncodingJournal::Open(Options()), 0, 5);
  Append(*EncodingJournal::Open(Options()), 5, 8);
  Overwrite(File(1), 64 + kRecordBytes + 20, "x");      // In the vector of 1.
  Truncate(File(2), 64 + 2 * kRecordBytes + kRecordBytes - 1);
  EXPECT_EQ(Found(*EncodingJournal::Open(Options()), 10), (std::vector<int>{0, 2, 3, 4, 5, 6}));
  Truncate(File(2), 63);
  Overwrite(File(1), 20, "x");  // The header.
  auto journal = EncodingJournal::Open(Options());
  EXPECT_EQ(journal->record_count(), 0);
  Append(*journal, 0, 1);
  journal.reset();
  EXPECT_EQ(Found(*EncodingJournal::Open(Options()), 10), std::vector<int>{0});
}

TEST_F(EncodingJournalTest, ClearsAll) {
  Append(*EncodingJournal::Open(Options()), 0, 3);
  auto journal = EncodingJournal::Open(Options());
  ASSERT_TRUE(journal->Clear().ok());
  EXPECT_TRUE(Found(*journal, 10).empty());
  EXPECT_FALSE(PosixFileSystem().Exists(Options().directory));
  Append(*journal, 3, 4);
  journal.reset();
  EXPECT_EQ(Found(*EncodingJournal::Open(Options()), 10), std::vector<int>{3});
}

TEST_F(EncodingJournalTest, EndsAtItsLimit) {
  auto options = Options();
  options.max_bytes = 64 + 5 * kRecordBytes;
  const auto journal = EncodingJournal::Open(options);
  Append(*journal, 0, 3);
  Append(*journal, 3, 6);  // Would be too much.
  Append(*journal, 6, 7);  // Once ended, it stays so.
  EXPECT_EQ(Found(*EncodingJournal::Open(options), 10), (std::vector<int>{0, 1, 2}));
}

TEST_F(EncodingJournalTest, WhatIsOldOrTooMuchIsDeletedWhenItIsOpened) {
  FakeClock clock;
  auto options = Options();
  options.clock = &clock;
  for (int i = 0; i < 4; ++i) {
    Append(*EncodingJournal::Open(options), 2 * i, 2 * i + 2);
    clock.Advance(1'000'000);
  }
  options.max_age_us = 3'500'000;  // The first one is 4 s old.
  EXPECT_EQ(Found(*EncodingJournal::Open(options), 10), (std::vector<int>{2, 3, 4, 5, 6, 7}));
  EXPECT_FALSE(PosixFileSystem().Exists(File(1)));
  options.max_records = 4;
  EXPECT_EQ(Found(*EncodingJournal::Open(options), 10), (std::vector<int>{4, 5, 6, 7})) << "the newest stay";
  options.max_bytes = 2 * (64 + 2 * kRecordBytes) - 1;
  EXPECT_EQ(Found(*EncodingJournal::Open(options), 10), (std::vector<int>{6, 7}));
  auto full = EncodingJournal::Open(options);
  Append(*full, 8, 9);  // Behind the limit of bytes.
  EXPECT_EQ(Found(*EncodingJournal::Open(options), 10), (std::vector<int>{6, 7}));
  auto other = options;  // Of another encoder, as of a store that is not ingested into any more.
  other.passage_half = "fedcba9876543210";
  other.dim = kDim + 1;
  clock.Advance(10'000'000);
  EncodingJournal::DeleteExpired(other);
  EXPECT_FALSE(PosixFileSystem().Exists(File(4)));
}

TEST_F(EncodingJournalTest, KeepsSoManyFiles) {
  auto options = Options();
  options.max_files = 3;
  for (int i = 0; i < 6; ++i) Append(*EncodingJournal::Open(options), i, i + 1);
  EXPECT_EQ(Found(*EncodingJournal::Open(options), 10), (std::vector<int>{3, 4, 5}));
  Overwrite(File(5), 8, "\x07");  // A format that is not known.
  EXPECT_EQ(Found(*EncodingJournal::Open(options), 10), (std::vector<int>{3, 5}));
  EXPECT_FALSE(PosixFileSystem().Exists(File(5)));
}

TEST_F(EncodingJournalTest, EndsAtItsLimitOfRecords) {
  auto options = Options();
  options.max_records = 4;
  const auto journal = EncodingJournal::Open(options);
  Append(*journal, 0, 3);
  Append(*journal, 3, 5);  // Would be too much.
  EXPECT_EQ(Found(*EncodingJournal::Open(options), 10), (std::vector<int>{0, 1, 2}));
}

TEST_F(EncodingJournalTest, ADiskThatTakesNoMoreEndsTheWritingOnly) {
  FaultyFileSystem fs;
  auto options = Options();
  options.fs = &fs;
  for (int64_t fail_from = 0; fail_from < 4; ++fail_from) {
    fs.operations = 0;
    fs.fail_from = fail_from;
    const auto journal = EncodingJournal::Open(options);
    Append(*journal, 0, 2);
    Append(*journal, 2, 3);
    fs.Heal();
    Append(*journal, 3, 4);  // Nothing behind a hole.
    const std::vector<int> found = Found(*EncodingJournal::Open(options), 10);
    for (size_t i = 0; i < found.size(); ++i) EXPECT_EQ(found[i], static_cast<int>(i));
    EXPECT_LT(found.size(), 3u);
    ASSERT_TRUE(EncodingJournal::Open(options)->Clear().ok());
  }
}

}  // namespace
}  // namespace loci
