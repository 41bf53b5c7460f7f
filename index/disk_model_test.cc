#include "index/disk_model.h"

#include <random>
#include <set>
#include <string>

#include "base/file.h"
#include "gtest/gtest.h"
#include "index/store_testing.h"

namespace loci {
namespace {

using Survival = DiskModel::Survival;

class DiskModelTest : public ::testing::Test {
 protected:
  DiskModelTest() {
    EXPECT_TRUE(PosixFileSystem().CreateDirectories(root_).ok());
    EXPECT_TRUE(PosixFileSystem().CreateDirectories(JoinPath(directory_.path(), "empty")).ok());
  }
  std::string Path(const std::string& name) const { return JoinPath(root_, name); }
  // What `name` holds after a cut now, unless the sync of the given number lied; "(none)" where it is not there.
  std::string Left(const std::string& name, Survival survival, int lie = -1, std::mt19937* random = nullptr) {
    DiskModel model(JoinPath(directory_.path(), "empty"));
    int syncs = 0;
    for (const DiskOperation& operation : disk_.operations()) {
      if (!operation.is_sync() || syncs++ != lie) model.Play(operation);
    }
    const std::string left = JoinPath(directory_.path(), "left");
    model.WriteTo(left, survival, random);
    return PosixFileSystem().ReadFile(JoinPath(left, name)).value_or("(none)");
  }

  TestDirectory directory_{"power_cut_unit"};
  const std::string root_ = JoinPath(directory_.path(), "root");
  RecordingDisk disk_{root_};
};

TEST_F(DiskModelTest, OnlySyncedBytesUnderSyncedNamesSurvive) {
  auto file = *disk_.NewWritableFile(Path("f"));
  ASSERT_TRUE(file->Append("synced").ok());
  ASSERT_TRUE(file->Sync().ok());  // 0
  EXPECT_EQ(Left("f", Survival::kOnlySynced), "(none)");
  ASSERT_TRUE(disk_.SyncDirectory(root_).ok());  // 1
  ASSERT_TRUE(file->Append(" not").ok());
  EXPECT_EQ(Left("f", Survival::kOnlySynced), "synced");
  EXPECT_EQ(Left("f", Survival::kAll), "synced not");
  EXPECT_EQ(Left("f", Survival::kOnlySynced, /*lie=*/0), "");
  EXPECT_EQ(Left("f", Survival::kOnlySynced, /*lie=*/1), "(none)");
  std::set<std::string> found;
  std::mt19937 random(1);
  for (int i = 0; i < 200; ++i) found.insert(Left("f", Survival::kAny, -1, &random));
  EXPECT_TRUE(found.count("synced n") == 1 && found.count(std::string("synced n\0\0", 10)) == 1) << found.size();
  for (const std::string& content : found) EXPECT_EQ(content.substr(0, 6), "synced");
}

TEST_F(DiskModelTest, ARenameOrADeletionIsUndoneUntilItsFolderIsSynced) {
  ASSERT_TRUE(WriteFileAtomically(disk_, Path("f"), "old").ok());
  auto file = *disk_.NewWritableFile(Path("g"));
  ASSERT_TRUE(file->Append("new").ok() && file->Sync().ok());
  ASSERT_TRUE(disk_.Rename(Path("g"), Path("f")).ok());
  EXPECT_EQ(Left("f", Survival::kOnlySynced), "old");
  EXPECT_EQ(Left("f", Survival::kAll), "new");
  ASSERT_TRUE(disk_.SyncDirectory(root_).ok());
  EXPECT_EQ(Left("f", Survival::kOnlySynced), "new");
  ASSERT_TRUE(disk_.DeleteFile(Path("f")).ok());
  EXPECT_EQ(Left("f", Survival::kOnlySynced), "new");
  EXPECT_EQ(Left("f", Survival::kAll), "(none)");
}

TEST_F(DiskModelTest, RocksDbsFilesAreOfTheSameDisk) {
  const auto files = disk_.rocksdb_files();
  std::unique_ptr<rocksdb::FSWritableFile> file;
  ASSERT_TRUE(files->NewWritableFile(Path("f"), rocksdb::FileOptions(), &file, nullptr).ok());
  ASSERT_TRUE(file->Append("bytes", rocksdb::IOOptions(), nullptr).ok());
  ASSERT_TRUE(file->Sync(rocksdb::IOOptions(), nullptr).ok());
  ASSERT_TRUE(files->LinkFile(Path("f"), Path("g"), rocksdb::IOOptions(), nullptr).ok());
  std::unique_ptr<rocksdb::FSDirectory> folder;
  ASSERT_TRUE(files->NewDirectory(root_, rocksdb::IOOptions(), &folder, nullptr).ok());
  EXPECT_EQ(Left("g", Survival::kOnlySynced), "(none)");
  ASSERT_TRUE(folder->FsyncWithDirOptions(rocksdb::IOOptions(), nullptr, rocksdb::DirFsyncOptions()).ok());
  EXPECT_EQ(Left("g", Survival::kOnlySynced), "bytes");
  EXPECT_EQ(disk_.operations().back().Label(), "rocksdb sync folder (root)");
}

}  // namespace
}  // namespace loci
