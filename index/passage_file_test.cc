#include "index/passage_file.h"

#include <sys/resource.h>
#include <unistd.h>

#include <cstdio>
#include <ctime>
#include <map>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "base/file.h"

namespace loci {
namespace {

std::string FreshDirectory(const std::string& name) {
  const std::string directory = JoinPath(testing::TempDir(), "passage_file_test_" + name);
  EXPECT_TRUE(PosixFileSystem().DeleteRecursively(directory).ok());
  return directory;
}

// Ids in bytewise order: "p0000000", ...; texts that compress badly enough to fill several blocks.
loci::v1::Passage MakePassage(int64_t row) {
  loci::v1::Passage passage;
  char id[16];
  snprintf(id, sizeof(id), "p%07d", static_cast<int>(row));
  passage.set_id(id);
  passage.set_title("title " + std::to_string(row * 7919));
  for (int i = 0; i < 40; ++i) passage.set_text(passage.text() + std::to_string(row * 104729 + i * 31337) + " ");
  (*passage.mutable_metadata())["row"].set_int64_value(row);
  return passage;
}

std::string Write(const std::string& name, int64_t rows) {
  const std::string directory = FreshDirectory(name);
  auto writer = PassageFileWriter::Create(directory);
  EXPECT_TRUE(writer.ok()) << writer.status();
  for (int64_t row = 0; row < rows; ++row) EXPECT_TRUE((*writer)->Append(MakePassage(row)).ok());
  EXPECT_TRUE((*writer)->Finish().ok());
  return directory;
}

std::map<std::string, std::string> Contents(const std::string& directory) {
  std::map<std::string, std::string> contents;
  const auto names = PosixFileSystem().List(directory);
  EXPECT_TRUE(names.ok());
  for (const std::string& name : *names) contents[name] = PosixFileSystem().ReadFile(JoinPath(directory, name)).value();
  return contents;
}

TEST(PassageFile, ReturnsPassagesByRowAndRowsById) {
  constexpr int64_t kRows = 3000;
  auto file = PassageFile::Open(Write("round_trip", kRows), kRows);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ((*file)->row_count(), kRows);
  const std::vector<int64_t> rows = {2999, 0, 17, 17, 1500};
  std::vector<loci::v1::Passage> passages;
  ASSERT_TRUE((*file)->Read(rows, &passages).ok());
  ASSERT_EQ(passages.size(), rows.size());
  for (size_t i = 0; i < rows.size(); ++i) {
    EXPECT_EQ(passages[i].SerializeAsString(), MakePassage(rows[i]).SerializeAsString());
  }
  for (int64_t row = 0; row < kRows; row += 37) {
    EXPECT_EQ((*file)->ReadId(row).value(), MakePassage(row).id());
    EXPECT_EQ((*file)->FindRow(MakePassage(row).id()).value(), row);
  }
  for (const std::string id : {"", "p", "p0003000", "q", "p00000001"}) EXPECT_EQ((*file)->FindRow(id).value(), std::nullopt) << id;
  EXPECT_GT((*file)->memory_bytes(), 0);
  EXPECT_LT((*file)->memory_bytes(), 40 << 20);
}

// A generation is deleted while requests hold it: their reads need files that were opened before.
TEST(PassageFile, ReadsEveryRowAfterItsFolderIsDeleted) {
  constexpr int64_t kRows = 1200;
  const std::string directory = FreshDirectory("deleted");
  auto writer = PassageFileWriter::Create(directory, /*table_bytes=*/1);
  ASSERT_TRUE(writer.ok());
  for (int64_t row = 0; row < kRows; ++row) ASSERT_TRUE((*writer)->Append(MakePassage(row)).ok());
  ASSERT_TRUE((*writer)->Finish().ok());
  int tables = 0;
  for (const auto& [name, content] : Contents(directory)) tables += name.find(".sst") != std::string::npos;
  ASSERT_GT(tables, 64);
  auto file = PassageFile::Open(directory, kRows);
  ASSERT_TRUE(file.ok()) << file.status();
  ASSERT_TRUE(PosixFileSystem().DeleteRecursively(directory).ok());
  std::vector<loci::v1::Passage> passages;
  for (int64_t row = 0; row < kRows; ++row) {
    const absl::Status status = (*file)->Read({&row, 1}, &passages);
    ASSERT_TRUE(status.ok()) << status;
    ASSERT_EQ(passages[0].id(), MakePassage(row).id());
    ASSERT_EQ((*file)->FindRow(passages[0].id()).value(), row);
  }
}

// Too many open files are not damage.
TEST(PassageFile, SaysWhenThereAreNoFileDescriptorsLeft) {
  const std::string directory = Write("descriptors", 3);
  rlimit before;
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  const int lowest_free = dup(0);
  close(lowest_free);
  const rlimit none{static_cast<rlim_t>(lowest_free) + 1, before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
  const absl::Status status = PassageFile::Open(directory, 3).status();
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
  EXPECT_TRUE(PassageFile::Open(directory, 3).ok());
}

// A passage read is checked; an id read costs no more than the id, so that a search may return a million.
TEST(PassageFile, ReadsIdsWithoutThePassages) {
  const std::string directory = FreshDirectory("ids");
  std::vector<std::string> expected;
  for (const size_t size : {1, 127, 128, 511, 512}) expected.push_back(std::string(size, static_cast<char>('a' + expected.size())));
  auto writer = PassageFileWriter::Create(directory);
  ASSERT_TRUE(writer.ok());
  for (const std::string& id : expected) {
    loci::v1::Passage passage = MakePassage(0);
    passage.set_id(id);
    passage.set_text(std::string(1 << 20, 'x'));
    ASSERT_TRUE((*writer)->Append(passage).ok());
  }
  loci::v1::Passage only_id;
  only_id.set_id("z");
  expected.push_back("z");
  ASSERT_TRUE((*writer)->Append(only_id).ok());
  ASSERT_TRUE((*writer)->Finish().ok());
  auto file = PassageFile::Open(directory, 6);
  ASSERT_TRUE(file.ok()) << file.status();
  std::vector<std::string> ids = {"what was there before"};
  ASSERT_TRUE((*file)->ReadIds(std::vector<int64_t>{5, 0, 4, 3, 3, 2, 1}, &ids).ok());
  EXPECT_EQ(ids, (std::vector<std::string>{expected[5], expected[0], expected[4], expected[3], expected[3], expected[2], expected[1]}));
  ASSERT_TRUE((*file)->ReadIds({}, &ids).ok());
  EXPECT_TRUE(ids.empty());
  EXPECT_EQ((*file)->ReadIds(std::vector<int64_t>{0, 6}, &ids).code(), absl::StatusCode::kInvalidArgument);
  // Checking and parsing 20 000 of these takes seconds; their ids take some 40 ms.
  std::vector<int64_t> rows;
  for (int i = 0; i < 200; ++i) rows.push_back(i % 6);
  const std::clock_t start = std::clock();  // Of the processor: other work on the machine does not count.
  for (int i = 0; i < 100; ++i) ASSERT_TRUE((*file)->ReadIds(rows, &ids).ok());
  EXPECT_LT(std::clock() - start, 1.5 * CLOCKS_PER_SEC);
}

TEST(PassageFile, MayBeEmpty) {
  auto file = PassageFile::Open(Write("empty", 0), 0);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ((*file)->FindRow("p").value(), std::nullopt);
  std::vector<loci::v1::Passage> passages;
  EXPECT_TRUE((*file)->Read({}, &passages).ok());
}

TEST(PassageFile, RefusesRowsOutsideTheFile) {
  auto file = PassageFile::Open(Write("range", 3), 3);
  ASSERT_TRUE(file.ok());
  for (const int64_t row : {int64_t{-1}, int64_t{3}, INT64_MAX, INT64_MIN}) {
    std::vector<loci::v1::Passage> passages;
    EXPECT_EQ((*file)->Read(std::vector<int64_t>{0, row}, &passages).code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ((*file)->ReadId(row).status().code(), absl::StatusCode::kInvalidArgument);
  }
}

TEST(PassageFile, LeavesEveryByteOfTheFolderAsItIs) {
  const std::string directory = Write("unchanged", 500);
  const auto before = Contents(directory);
  for (const auto& [name, content] : before) {
    EXPECT_TRUE(name == "CURRENT" || name == "IDENTITY" || name.rfind("MANIFEST-", 0) == 0 || name.rfind("OPTIONS-", 0) == 0 ||
                name.find(".sst") != std::string::npos)
        << name;
    EXPECT_FALSE(content.empty()) << name;
  }
  for (int i = 0; i < 2; ++i) {
    {
      auto first = PassageFile::Open(directory, 500);
      auto second = PassageFile::Open(directory, 500);
      ASSERT_TRUE(first.ok() && second.ok());
      EXPECT_TRUE((*first)->ReadId(499).ok());
    }
    EXPECT_EQ(Contents(directory), before);
  }
}

TEST(PassageFile, FindsAWrongNumberOfRows) {
  const std::string directory = Write("count", 10);
  EXPECT_EQ(PassageFile::Open(directory, 9).status().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(PassageFile::Open(directory, 11).status().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(PassageFile::Open(directory, 0).status().code(), absl::StatusCode::kDataLoss);
}

// Whatever byte is damaged, a passage read is a passage written.
TEST(PassageFile, FindsDamage) {
  constexpr int64_t kRows = 200;
  const std::string directory = Write("damage", kRows);
  const auto before = Contents(directory);
  int found = 0;
  for (const auto& [name, content] : before) {
    const std::string path = JoinPath(directory, name);
    for (size_t offset = content.size() / 3; offset < content.size(); offset += content.size() / 3 + 1) {
      std::string damaged = content;
      damaged[offset] ^= 0x41;
      ASSERT_TRUE(WriteFileAtomically(PosixFileSystem(), path, damaged).ok());
      auto file = PassageFile::Open(directory, kRows);
      absl::Status status = file.status();
      for (int64_t row = 0; status.ok() && row < kRows; ++row) {
        std::vector<loci::v1::Passage> passages;
        status = (*file)->Read({&row, 1}, &passages);
        if (status.ok()) {
          ASSERT_EQ(passages[0].SerializeAsString(), MakePassage(row).SerializeAsString());
        }
      }
      if (!status.ok()) {
        ++found;
        EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << name << ": " << status;
      }
    }
    ASSERT_TRUE(PosixFileSystem().DeleteFile(path).ok());
    if (name.find(".sst") != std::string::npos || name == "CURRENT" || name.rfind("MANIFEST-", 0) == 0) {
      auto file = PassageFile::Open(directory, kRows);
      std::vector<loci::v1::Passage> passages;
      const int64_t row = 0;
      EXPECT_FALSE(file.ok() && (*file)->Read({&row, 1}, &passages).ok() && (*file)->FindRow("p0000000").ok()) << name;
    }
    ASSERT_TRUE(WriteFileAtomically(PosixFileSystem(), path, content).ok());
  }
  EXPECT_GE(found, 4);
  EXPECT_EQ(PassageFile::Open(FreshDirectory("absent"), kRows).status().code(), absl::StatusCode::kDataLoss);
  EXPECT_FALSE(PosixFileSystem().Exists(FreshDirectory("absent")));
}

TEST(PassageFileWriter, RefusesIdsThatDoNotAscend) {
  auto writer = PassageFileWriter::Create(FreshDirectory("order"));
  ASSERT_TRUE(writer.ok());
  ASSERT_TRUE((*writer)->Append(MakePassage(5)).ok());
  EXPECT_EQ((*writer)->Append(MakePassage(5)).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ((*writer)->Append(MakePassage(4)).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE((*writer)->Append(MakePassage(6)).ok());
}

TEST(PassageFileWriter, RefusesAFolderThatHasOne) {
  EXPECT_FALSE(PassageFileWriter::Create(Write("exists", 1)).ok());
}

}  // namespace
}  // namespace loci
