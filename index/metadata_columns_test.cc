#include "index/metadata_columns.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "index/external_sorter.h"
#include "index/filter_testing.h"
#include "index/metadata_record.h"

namespace loci {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

// A corpus and its columns, in a folder of the test's own.
class MetadataColumnsTest : public ::testing::Test {
 protected:
  ~MetadataColumnsTest() override { PosixFileSystem().DeleteRecursively(directory_).IgnoreError(); }

  v1::Passage& Add(const std::string& id) {
    passages_.emplace_back().set_id(id);
    return passages_.back();
  }

  std::string path() const { return JoinPath(directory_, "columns.bin"); }

  absl::StatusOr<std::unique_ptr<MetadataColumns>> Build(int64_t memory_bytes = 32 << 20) {
    EXPECT_TRUE(PosixFileSystem().CreateDirectories(directory_).ok());
    const auto builder = MetadataColumnsBuilder::Create(PosixFileSystem(), path(), JoinPath(directory_, "staging"), memory_bytes);
    for (size_t row = 0; row < passages_.size(); ++row) {
      if (absl::Status added = builder->Add(static_cast<int64_t>(row), passages_[row]); !added.ok()) return added;
    }
    if (absl::Status finished = builder->Finish(static_cast<int64_t>(passages_.size()), RequestLimits()); !finished.ok()) return finished;
    EXPECT_FALSE(PosixFileSystem().Exists(JoinPath(directory_, "staging")));
    return MetadataColumns::Open(PosixFileSystem(), path(), static_cast<int64_t>(passages_.size()));
  }

  IdLookup Ids() const {
    return {[this](std::string_view id) -> absl::StatusOr<std::optional<int64_t>> {
              for (size_t row = 0; row < passages_.size(); ++row) {
                if (passages_[row].id() == id) return std::optional<int64_t>(row);
              }
              return std::optional<int64_t>();
            },
            [this](int64_t row) -> absl::StatusOr<std::string> { return passages_[static_cast<size_t>(row)].id(); }};
  }

  std::vector<std::string> Matching(const MetadataColumns& columns, const std::string& filter) const {
    const auto parsed = FilterExpression::Parse(filter);
    EXPECT_TRUE(parsed.ok()) << parsed.status();
    const auto rows = EvaluateFilter(**parsed, columns, Ids(), RequestLimits());
    EXPECT_TRUE(rows.ok()) << rows.status();
    std::vector<std::string> ids;
    for (size_t row = 0; row < passages_.size(); ++row) {
      if (rows->contains(static_cast<int64_t>(row))) ids.push_back(passages_[row].id());
      EXPECT_EQ(Matches(**parsed, MetadataRecord(passages_[row]), passages_[row].id()), rows->contains(static_cast<int64_t>(row)));
    }
    return ids;
  }

  std::vector<v1::Passage> passages_;
  const std::string directory_ = JoinPath(::testing::TempDir(), absl::StrCat("metadata_columns_test_", getpid()));
};

TEST_F(MetadataColumnsTest, AnswersTheGrammarsExample) {
  const auto add = [&](const std::string& id, const std::string& lang, int64_t year, const std::string& source) -> v1::Passage& {
    v1::Passage& passage = Add(id);
    (*passage.mutable_metadata())["lang"].set_string_value(lang);
    (*passage.mutable_metadata())["year"].set_int64_value(year);
    (*passage.mutable_metadata())["source"].set_string_value(source);
    return passage;
  };
  add("0", "en", 2021, "a");
  (*add("1", "en", 2020, "b").mutable_metadata())["draft"].set_bool_value(true);
  (*add("2", "en", 2020, "b").mutable_metadata())["draft"].set_bool_value(false);
  add("3", "en", 2019, "a");
  add("4", "de", 2021, "a");
  add("5", "en", 2021, "c");
  const auto columns = Build();
  ASSERT_TRUE(columns.ok()) << columns.status();
  EXPECT_THAT(Matching(**columns, "lang = \"en\" and year >= 2020 and source in (\"a\",\"b\") and not draft"), ElementsAre("0", "2"));
  EXPECT_THAT(Matching(**columns, "draft != true"), ElementsAre("0", "2", "3", "4", "5"));
  EXPECT_THAT(Matching(**columns, "has(draft) and draft != true"), ElementsAre("2"));
  EXPECT_THAT(Matching(**columns, "year = 2020.0"), ElementsAre("1", "2"));
  EXPECT_THAT(Matching(**columns, "year > 2019.5 and lang < \"en\""), ElementsAre("4"));
  EXPECT_THAT(Matching(**columns, "year = \"2020\" or lang = 3 or unknown > 1"), IsEmpty());
  EXPECT_THAT(Matching(**columns, "id in ('5', '0', 'x') or id < '1'"), ElementsAre("0", "5"));
}

TEST_F(MetadataColumnsTest, AFileThatIsCutShortWhileItIsOpenIsDataLoss) {
  for (int i = 0; i < 300; ++i) {
    auto& metadata = *Add(absl::StrCat(i)).mutable_metadata();
    metadata["lang"].set_string_value(i % 2 == 0 ? "en" : "de");
    metadata["year"].set_int64_value(i);
  }
  const auto columns = Build();
  ASSERT_TRUE(columns.ok()) << columns.status();
  ASSERT_EQ(truncate(path().c_str(), 0), 0);
  for (const char* const text : {"year >= 5", "has(lang)", "lang = \"en\" and not year < 3", "lang in (\"en\", \"de\")"}) {
    const auto parsed = FilterExpression::Parse(text);
    ASSERT_TRUE(parsed.ok());
    EXPECT_EQ(EvaluateFilter(**parsed, **columns, Ids(), RequestLimits()).status().code(), absl::StatusCode::kDataLoss) << text;
  }
}

TEST_F(MetadataColumnsTest, AgreesWithANaiveReadingOfRandomFilters) {
  const uint64_t seed = 20201;
  std::mt19937_64 random(seed);
  for (int i = 0; i < 300; ++i) passages_.push_back(RandomPassage(absl::StrCat("p", 100 + i), random));
  // So little memory that it is sorted on disk.
  const auto columns = Build(4096);
  ASSERT_TRUE(columns.ok()) << columns.status();
  int mixed = 0;
  for (int i = 0; i < 2000; ++i) {
    const NaiveFilter filter = RandomFilter(static_cast<int>(random() % 4), random);
    const auto parsed = FilterExpression::Parse(filter.text);
    ASSERT_TRUE(parsed.ok()) << parsed.status() << " " << filter.text;
    const auto rows = EvaluateFilter(**parsed, **columns, Ids(), RequestLimits());
    ASSERT_TRUE(rows.ok()) << rows.status();
    int64_t count = 0;
    for (size_t row = 0; row < passages_.size(); ++row) {
      const v1::Passage& passage = passages_[row];
      const bool wanted = filter.matches(passage);
      count += wanted;
      ASSERT_EQ(rows->contains(static_cast<int64_t>(row)), wanted) << "seed " << seed << ", " << filter.text << "\n" << passage.DebugString();
      ASSERT_EQ(Matches(**parsed, MetadataRecord(passage), passage.id()), wanted) << "seed " << seed << ", " << filter.text << "\n" << passage.DebugString();
    }
    EXPECT_EQ(rows->count(), count);
    mixed += count > 0 && count < 300;
  }
  EXPECT_GT(mixed, 1000);  // Filters that tell passages apart.
}

TEST_F(MetadataColumnsTest, ManyRowsOfOneValueAndManyValuesOfOneRow) {
  constexpr int kRows = 20'000;
  std::mt19937_64 random(7);
  for (int i = 0; i < kRows; ++i) {
    v1::Passage& passage = Add(absl::StrCat(100'000 + i));
    (*passage.mutable_metadata())["half"].set_bool_value(random() % 2 == 0);
    (*passage.mutable_metadata())["year"].set_int64_value(static_cast<int64_t>(random() % 50));
    (*passage.mutable_metadata())["unique"].set_double_value(static_cast<double>(random()));
    (*passage.mutable_metadata())["few"].set_string_value(absl::StrCat("v", random() % 3));
  }
  const auto columns = Build(1 << 20);
  ASSERT_TRUE(columns.ok()) << columns.status();
  EXPECT_GT((*columns)->memory_bytes(), 0);
  EXPECT_LT((*columns)->memory_bytes(), 4 * 2 * kRows);
  EXPECT_EQ((*columns)->column_count(), 4);
  for (const std::string filter : {"half", "not half", "year >= 25", "year >= 25 and half", "unique > 9e18", "unique < 1e17", "few = 'v1' or few = 'v2'",
                                   "few in ('v0','v1') and year in (1,2,3,4,5,6,7)", "few > 'v'", "has(unique)"}) {
    const auto parsed = FilterExpression::Parse(filter);
    const auto rows = EvaluateFilter(**parsed, **columns, Ids(), RequestLimits());
    ASSERT_TRUE(rows.ok());
    const std::vector<uint64_t> words = rows->ToWords(kRows);
    for (int row = 0; row < kRows; ++row) {
      const v1::Passage& passage = passages_[static_cast<size_t>(row)];
      ASSERT_EQ((words[row / 64] >> (row % 64)) & 1, Matches(**parsed, MetadataRecord(passage), passage.id()) ? 1u : 0u) << filter << " row " << row;
    }
  }
}

TEST_F(MetadataColumnsTest, NamesAndStringsMayHoldAnyBytes) {
  const std::string zero("a\0b", 3), zeros("a\0\0", 3), end("a\xff", 2);
  (*Add("0").mutable_metadata())[zero].set_string_value(zeros);
  (*Add("1").mutable_metadata())[zero].set_string_value(zero);
  (*Add("2").mutable_metadata())["a"].set_string_value(end);
  (*Add("3").mutable_metadata())[zeros].set_string_value("");
  const auto columns = Build();
  ASSERT_TRUE(columns.ok()) << columns.status();
  EXPECT_THAT(Matching(**columns, "has(`a\\u0000b`)"), ElementsAre("0", "1"));
  EXPECT_THAT(Matching(**columns, "`a\\u0000b` < 'a\\u0000b'"), ElementsAre("0"));
  EXPECT_THAT(Matching(**columns, "`a\\u0000\\u0000` = ''"), ElementsAre("3"));
  EXPECT_THAT(Matching(**columns, "a > 'a'"), ElementsAre("2"));
}

TEST_F(MetadataColumnsTest, NoMetadataAndNoRowsAreColumnsToo) {
  ASSERT_TRUE(Build().ok());
  Add("0");
  Add("1");
  const auto columns = Build();
  ASSERT_TRUE(columns.ok()) << columns.status();
  EXPECT_THAT(Matching(**columns, "has(a) or b = 1"), IsEmpty());
  EXPECT_THAT(Matching(**columns, "not b"), ElementsAre("0", "1"));
}

TEST_F(MetadataColumnsTest, AnEvaluationEndsWithItsRequest) {
  Add("0");
  const auto columns = Build();
  const RequestLimits limits;
  limits.Cancel();
  EXPECT_EQ(EvaluateFilter(**FilterExpression::Parse("a"), **columns, Ids(), limits).status().code(), absl::StatusCode::kCancelled);
}

// Every byte of a small file, changed in several ways, and every shorter file: an error, or columns that can be evaluated.
TEST_F(MetadataColumnsTest, DamageIsDataLossOrHarmless) {
  std::mt19937_64 random(3);
  for (int i = 0; i < 4; ++i) passages_.push_back(RandomPassage(absl::StrCat("p", i), random));
  ASSERT_TRUE(Build().ok());
  const std::string content = PosixFileSystem().ReadFile(path()).value();
  const auto filter = FilterExpression::Parse("a < 'b' or b >= 0 or has(tags) or `x-y` or document_id = 'a' or not (chunk_index in (0, 1) and id > 'p3')");
  ASSERT_TRUE(filter.ok());
  int refused = 0, tried = 0;
  const auto try_content = [&](const std::string& damaged) {
    ++tried;
    {
      const auto file = PosixFileSystem().NewWritableFile(path());
      ASSERT_TRUE((*file)->Append(damaged).ok());
    }
    const auto columns = MetadataColumns::Open(PosixFileSystem(), path(), 4);
    if (!columns.ok()) {
      ++refused;
      EXPECT_TRUE(absl::IsDataLoss(columns.status()) || absl::IsFailedPrecondition(columns.status())) << columns.status();
      return;
    }
    const auto rows = EvaluateFilter(**filter, **columns, Ids(), RequestLimits());
    ASSERT_TRUE(rows.ok());
    EXPECT_LE(rows->count(), 4);
    EXPECT_EQ(rows->ToWords(4).size(), 1u);
  };
  for (size_t i = 0; i < content.size(); ++i) {
    for (const int change : {1, 0x80}) {
      std::string damaged = content;
      damaged[i] = static_cast<char>(damaged[i] ^ change);
      try_content(damaged);
    }
  }
  for (size_t size = 0; size < content.size(); size += 3) try_content(content.substr(0, size));
  try_content(content + "x");
  try_content(std::string(64, '\xff'));
  EXPECT_GT(refused, tried / 2);
  EXPECT_TRUE(absl::IsDataLoss(MetadataColumns::Open(PosixFileSystem(), path(), 7).status()));
}

TEST_F(MetadataColumnsTest, AStringThatEndsOutsideOfTheFileIsDamage) {
  (*Add("0").mutable_metadata())["k"].set_string_value("last");
  ASSERT_TRUE(Build().ok());
  std::string content = PosixFileSystem().ReadFile(path()).value();
  ASSERT_EQ(content.substr(content.size() - 8), std::string("\4\0\0\0last", 8));
  content[content.size() - 8] = 5;
  ASSERT_TRUE(WriteFileAtomically(PosixFileSystem(), path(), content).ok());
  const absl::Status status = MetadataColumns::Open(PosixFileSystem(), path(), 1).status();
  EXPECT_TRUE(absl::IsDataLoss(status)) << status;
}

TEST(ExternalSorter, SortsWhatDoesNotFitIntoMemory) {
  const std::string directory = JoinPath(::testing::TempDir(), absl::StrCat("external_sorter_test_", getpid()));
  for (const int64_t memory_bytes : {1, 300, 1 << 20}) {
    ExternalSorter sorter(PosixFileSystem(), directory, memory_bytes);
    std::mt19937_64 random(1);
    std::vector<std::string> records = {"", std::string("\0", 1), "\xff"};
    for (int i = 0; i < 200; ++i) records.push_back(std::string(random() % 40, static_cast<char>(random())));
    for (const std::string& record : records) ASSERT_TRUE(sorter.Add(record).ok());
    std::sort(records.begin(), records.end());
    std::vector<std::string> sorted;
    ASSERT_TRUE(sorter.ForEachSorted([&](std::string_view record) {
      sorted.emplace_back(record);
      return absl::OkStatus();
    }).ok());
    EXPECT_EQ(sorted, records);
    PosixFileSystem().DeleteRecursively(directory).IgnoreError();
  }
}

}  // namespace
}  // namespace loci
