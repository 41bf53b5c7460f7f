#include "base/file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"

namespace loci {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class FileTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = testing::TempDir() + "/file_test_XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
  }
  void TearDown() override { EXPECT_TRUE(fs_.DeleteRecursively(folder_).ok()); }

  std::string Path(std::string_view name) const { return JoinPath(folder_, name); }
  void Write(const std::string& path, std::string_view content) {
    auto file = fs_.NewWritableFile(path);
    ASSERT_TRUE(file.ok()) << file.status();
    ASSERT_TRUE((*file)->Append(content).ok());
    ASSERT_TRUE((*file)->Close().ok());
  }

  FileSystem& fs_ = PosixFileSystem();
  std::string folder_;
};

TEST_F(FileTest, ReadsBackWhatWasAppended) {
  auto file = fs_.NewWritableFile(Path("a"));
  ASSERT_TRUE(file.ok());
  std::string expected;
  for (int i = 0; i < 300; ++i) {  // Pieces smaller and larger than the buffer.
    const std::string piece(static_cast<size_t>(i * 997 % 90'001), static_cast<char>('a' + i % 26));
    ASSERT_TRUE((*file)->Append(piece).ok());
    expected += piece;
  }
  ASSERT_TRUE((*file)->Sync().ok());
  EXPECT_EQ(*fs_.ReadFile(Path("a")), expected);
  ASSERT_TRUE((*file)->Append("end").ok());
  ASSERT_TRUE((*file)->Close().ok());
  EXPECT_EQ(*fs_.ReadFile(Path("a")), expected + "end");
  EXPECT_EQ(*fs_.FileSize(Path("a")), static_cast<int64_t>(expected.size()) + 3);
  EXPECT_EQ((*file)->Append("x").code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(FileTest, TheDestructorWritesWhatIsBuffered) {
  {
    auto file = fs_.NewWritableFile(Path("a"));
    ASSERT_TRUE((*file)->Append("hello").ok());
  }
  EXPECT_EQ(*fs_.ReadFile(Path("a")), "hello");
}

TEST_F(FileTest, MapsWholeFilesAndEmptyOnes) {
  const std::string content(10'001, 'q');
  Write(Path("a"), content);
  Write(Path("empty"), "");
  auto mapped = fs_.Map(Path("a"));
  ASSERT_TRUE(mapped.ok()) << mapped.status();
  (*mapped)->Warm();
  EXPECT_EQ((*mapped)->data(), content);
  EXPECT_EQ(reinterpret_cast<uintptr_t>((*mapped)->data().data()) % 4096, 0u);
  auto empty = fs_.Map(Path("empty"));
  ASSERT_TRUE(empty.ok());
  (*empty)->Warm();
  EXPECT_EQ((*empty)->data().size(), 0u);
}

TEST_F(FileTest, AMappingOutlivesTheNameOfItsFile) {
  Write(Path("a"), "content");
  auto mapped = fs_.Map(Path("a"));
  ASSERT_TRUE(mapped.ok());
  ASSERT_TRUE(fs_.DeleteFile(Path("a")).ok());
  EXPECT_EQ((*mapped)->data(), "content");
}

TEST_F(FileTest, AMappedFileThatIsCutShortReadsAsZerosAndIsNamed) {
  Write(Path("a"), std::string(10'001, 'q'));
  const auto mapped = fs_.Map(Path("a"));
  ASSERT_TRUE(mapped.ok());
  EXPECT_TRUE((*mapped)->Check().ok());
  ASSERT_EQ(truncate(Path("a").c_str(), 4096), 0);
  EXPECT_EQ((*mapped)->data(), std::string(4096, 'q') + std::string(10'001 - 4096, '\0'));
  const absl::Status status = (*mapped)->Check();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(status.message()), HasSubstr(Path("a")));
  EXPECT_EQ(GetErrorReason(status)->metadata.at("file"), "a");
}

TEST_F(FileTest, AMissingPathIsNotFoundAndNamed) {
  const std::string path = Path("missing");
  for (const absl::Status& status :
       {fs_.ReadFile(path).status(), fs_.Map(path).status(), fs_.FileSize(path).status(), fs_.List(path).status(),
        fs_.DeleteFile(path), fs_.Rename(path, Path("b")), fs_.SyncDirectory(path),
        fs_.NewWritableFile(JoinPath(path, "x")).status(), fs_.LockFile(JoinPath(path, "x")).status()}) {
    EXPECT_EQ(status.code(), absl::StatusCode::kNotFound) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(path));
  }
  EXPECT_FALSE(fs_.Exists(path));
  EXPECT_FALSE(fs_.IsDirectory(path));
  EXPECT_TRUE(fs_.DeleteRecursively(path).ok());
}

TEST_F(FileTest, AFolderIsNotAFile) {
  for (const absl::Status& status : {fs_.ReadFile(folder_).status(), fs_.Map(folder_).status(), fs_.FileSize(folder_).status(),
                                     fs_.NewWritableFile(folder_).status()}) {
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
  }
  ASSERT_EQ(mkfifo(Path("fifo").c_str(), 0600), 0);
  EXPECT_EQ(fs_.Map(Path("fifo")).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(fs_.ReadFile(Path("fifo")).status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(FileTest, AFullDiskIsResourceExhausted) {
  if (access("/dev/full", W_OK) != 0) GTEST_SKIP() << "no /dev/full";
  auto file = fs_.NewWritableFile("/dev/full");
  ASSERT_TRUE(file.ok());
  EXPECT_EQ((*file)->Append(std::string(200'000, 'x')).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ((*file)->Sync().code(), absl::StatusCode::kResourceExhausted) << "an error stays";
  EXPECT_EQ((*file)->Close().code(), absl::StatusCode::kResourceExhausted);
}

TEST_F(FileTest, ReadsFilesWithoutASize) {
  auto status = fs_.ReadFile("/proc/self/status");
  ASSERT_TRUE(status.ok());
  EXPECT_THAT(*status, HasSubstr("Pid:"));
}

TEST_F(FileTest, ListsSortedNames) {
  Write(Path("b"), "");
  Write(Path("a"), "");
  ASSERT_TRUE(fs_.CreateDirectories(Path("c/d")).ok());
  EXPECT_THAT(*fs_.List(folder_), ElementsAre("a", "b", "c"));
}

TEST_F(FileTest, CreatesFoldersOnceAndRefusesAFileInTheWay) {
  EXPECT_TRUE(fs_.CreateDirectories(Path("x/y/z/")).ok());
  EXPECT_TRUE(fs_.CreateDirectories(Path("x/y/z")).ok());
  EXPECT_TRUE(fs_.IsDirectory(Path("x/y/z")));
  Write(Path("file"), "");
  EXPECT_EQ(fs_.CreateDirectories(Path("file")).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(fs_.CreateDirectories(Path("file/x")).code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(FileTest, CreatesFoldersWhoseEntriesAreSynced) {
  // The operating system's folders, with a list of what was done to them.
  class Recorder : public FileSystem {
   public:
    absl::StatusOr<std::unique_ptr<WritableFile>> NewWritableFile(const std::string& path) override { return fs.NewWritableFile(path); }
    absl::StatusOr<std::unique_ptr<MappedFile>> Map(const std::string& path) override { return fs.Map(path); }
    absl::StatusOr<std::string> ReadFile(const std::string& path) override { return fs.ReadFile(path); }
    absl::StatusOr<int64_t> FileSize(const std::string& path) override { return fs.FileSize(path); }
    bool Exists(const std::string& path) override { return fs.Exists(path); }
    bool IsDirectory(const std::string& path) override { return fs.IsDirectory(path); }
    absl::StatusOr<std::vector<std::string>> List(const std::string& directory) override { return fs.List(directory); }
    absl::Status CreateDirectories(const std::string& directory) override {
      done.push_back("make " + directory);
      return fs.CreateDirectories(directory);
    }
    absl::Status Rename(const std::string& from, const std::string& to) override { return fs.Rename(from, to); }
    absl::Status SyncDirectory(const std::string& directory) override {
      done.push_back("sync " + directory);
      return fail_sync ? absl::InternalError("injected") : fs.SyncDirectory(directory);
    }
    absl::Status DeleteFile(const std::string& path) override { return fs.DeleteFile(path); }
    absl::Status DeleteRecursively(const std::string& path) override { return fs.DeleteRecursively(path); }
    absl::StatusOr<std::unique_ptr<Lock>> LockFile(const std::string& path) override { return fs.LockFile(path); }

    FileSystem& fs = PosixFileSystem();
    std::vector<std::string> done;
    bool fail_sync = false;
  } fs;
  EXPECT_TRUE(CreateDirectoriesSynced(fs, Path("x/y")).ok());
  EXPECT_THAT(fs.done, ElementsAre("make " + Path("x"), "sync " + folder_, "make " + Path("x/y"), "sync " + Path("x")));
  EXPECT_TRUE(fs.IsDirectory(Path("x/y")));
  fs.done.clear();
  EXPECT_TRUE(CreateDirectoriesSynced(fs, Path("x//y/")).ok());
  EXPECT_TRUE(CreateDirectoriesSynced(fs, "/").ok());
  EXPECT_TRUE(CreateDirectoriesSynced(fs, ".").ok());
  EXPECT_THAT(fs.done, ElementsAre());
  fs.fail_sync = true;
  EXPECT_EQ(CreateDirectoriesSynced(fs, Path("z")).code(), absl::StatusCode::kInternal);
  fs.fail_sync = false;
  Write(Path("file"), "");
  EXPECT_EQ(CreateDirectoriesSynced(fs, Path("file")).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(CreateDirectoriesSynced(fs, Path("file/x")).code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(FileTest, DeletesFolders) {
  ASSERT_TRUE(fs_.CreateDirectories(Path("x/y")).ok());
  Write(Path("x/y/a"), "1");
  EXPECT_TRUE(fs_.DeleteRecursively(Path("x")).ok());
  EXPECT_FALSE(fs_.Exists(Path("x")));
}

TEST_F(FileTest, AtomicWriteReplacesAndLeavesNothingBehind) {
  ASSERT_TRUE(WriteFileAtomically(fs_, Path("CURRENT"), "one").ok());
  ASSERT_TRUE(WriteFileAtomically(fs_, Path("CURRENT"), "two").ok());
  EXPECT_EQ(*fs_.ReadFile(Path("CURRENT")), "two");
  EXPECT_THAT(*fs_.List(folder_), ElementsAre("CURRENT"));
}

TEST_F(FileTest, AFailedAtomicWriteKeepsTheOldState) {
  ASSERT_TRUE(fs_.CreateDirectories(Path("folder/inside")).ok());
  EXPECT_FALSE(WriteFileAtomically(fs_, Path("folder"), "x").ok());  // A folder is in the way.
  EXPECT_THAT(*fs_.List(folder_), ElementsAre("folder"));
}

TEST_F(FileTest, ALockHasOneHolder) {
  auto lock = fs_.LockFile(Path("LOCK"));
  ASSERT_TRUE(lock.ok()) << lock.status();
  EXPECT_EQ(fs_.LockFile(Path("LOCK")).status().code(), absl::StatusCode::kFailedPrecondition);
  lock->reset();
  EXPECT_TRUE(fs_.LockFile(Path("LOCK")).ok());
}

TEST_F(FileTest, ALockThatIsAnotherUsersSaysWhose) {
  if (geteuid() != 0) GTEST_SKIP() << "only root can be two users";
  ASSERT_EQ(chmod(folder_.c_str(), 0755), 0);
  ASSERT_TRUE(fs_.CreateDirectories(Path("data")).ok());
  ASSERT_TRUE(fs_.LockFile(Path("data/LOCK")).ok());
  std::string message;
  for (const mode_t mode : {0755, 0700}) {
    ASSERT_EQ(chmod(Path("data").c_str(), mode), 0);
    int ends[2];
    ASSERT_EQ(pipe(ends), 0);
    const pid_t child = fork();
    if (child == 0) {
      constexpr uid_t kNobody = 65'534;
      std::string text = "skip";
      if (seteuid(kNobody) == 0 && euidaccess(folder_.c_str(), X_OK) == 0) text = fs_.LockFile(Path("data/LOCK")).status().ToString();
      _exit(write(ends[1], text.data(), text.size()) < 0);
    }
    close(ends[1]);
    char buffer[2048];
    const ssize_t count = read(ends[0], buffer, sizeof(buffer));
    close(ends[0]);
    waitpid(child, nullptr, 0);
    ASSERT_GT(count, 0);
    message.assign(buffer, static_cast<size_t>(count));
    if (message == "skip") GTEST_SKIP() << "not another user here, or one who can't look into the folder";
    EXPECT_NE(message.find("Permission denied, and " + Path(mode == 0700 ? "data" : "data/LOCK") + " belongs to the user root (0); this process is of the user"),
              std::string::npos)
        << message;
  }
}

TEST(ParentPath, IsTheFolderThatAPathLiesIn) {
  EXPECT_EQ(ParentPath("a/b/c"), "a/b");
  EXPECT_EQ(ParentPath("a/b//c//"), "a/b");
  EXPECT_EQ(ParentPath("/a"), "/");
  EXPECT_EQ(ParentPath("//a"), "/");
  EXPECT_EQ(ParentPath("/"), "/");
  EXPECT_EQ(ParentPath("a"), ".");
}

TEST(JoinPath, PutsOneSlashBetween) {
  EXPECT_EQ(JoinPath("a", "b/c"), "a/b/c");
  EXPECT_EQ(JoinPath("a/", "/b"), "a/b");
  EXPECT_EQ(JoinPath("/", "b"), "/b");
  EXPECT_EQ(JoinPath("", "b"), "b");
  EXPECT_EQ(JoinPath("a", ""), "a");
}

}  // namespace
}  // namespace loci
