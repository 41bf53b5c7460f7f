#include "base/memory_info.h"

#include <cstdlib>

#include "gtest/gtest.h"

namespace loci {
namespace {

class MemoryInfoTest : public testing::Test {
 protected:
  MemoryInfoTest() {
    std::string pattern = testing::TempDir() + "/memory_XXXXXX";
    root_ = mkdtemp(pattern.data());
    Write("proc/meminfo", "MemTotal:       2000 kB\nMemFree:  10 kB\nMemAvailable:    1000 kB\n");
  }
  ~MemoryInfoTest() override { (void)fs_.DeleteRecursively(root_); }
  void Write(const std::string& path, const std::string& content) {
    const std::string full = JoinPath(root_, path);
    ASSERT_TRUE(fs_.CreateDirectories(ParentPath(full)).ok());
    ASSERT_TRUE(WriteFileAtomically(fs_, full, content).ok());
  }

  FileSystem& fs_ = PosixFileSystem();
  std::string root_;
};

TEST_F(MemoryInfoTest, WithoutALimitItIsTheMachines) {
  EXPECT_EQ(AvailableMemoryBytes(fs_, root_), 1'024'000);
  Write("proc/self/cgroup", "0::/a\n");
  Write("sys/fs/cgroup/a/memory.max", "max\n");
  Write("sys/fs/cgroup/a/memory.current", "100\n");
  EXPECT_EQ(AvailableMemoryBytes(fs_, root_), 1'024'000);
}

TEST_F(MemoryInfoTest, ALimitOfTheGroupOrOneAboveCounts) {
  Write("proc/self/cgroup", "0::/a/b\n");
  Write("sys/fs/cgroup/a/b/memory.max", "500000\n");
  Write("sys/fs/cgroup/a/b/memory.current", "300000\n");
  Write("sys/fs/cgroup/a/b/memory.stat", "anon 1\ninactive_file 50000\nactive_file 20000\n");
  EXPECT_EQ(AvailableMemoryBytes(fs_, root_), 270'000);
  Write("sys/fs/cgroup/a/memory.max", "400000\n");
  Write("sys/fs/cgroup/a/memory.current", "399000\n");
  EXPECT_EQ(AvailableMemoryBytes(fs_, root_), 1'000);
}

TEST_F(MemoryInfoTest, OldGroupsCountToo) {
  Write("proc/self/cgroup", "12:cpu:/x\n9:memory:/a\n");
  Write("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "5000\n");
  Write("sys/fs/cgroup/memory/a/memory.usage_in_bytes", "6000\n");
  EXPECT_EQ(AvailableMemoryBytes(fs_, root_), 0);
}

TEST_F(MemoryInfoTest, UnknownIsSaid) {
  ASSERT_TRUE(fs_.DeleteRecursively(JoinPath(root_, "proc")).ok());
  EXPECT_EQ(AvailableMemoryBytes(fs_, root_), -1);
  EXPECT_GT(AvailableMemoryBytes(fs_), 0) << "of the machine that runs this";
}

TEST_F(MemoryInfoTest, ReadsWhatTheProcessHas) {
  Write("proc/self/status", "Name:\tloci\nVmRSS:\t    3000 kB\nRssAnon:\t    1000 kB\n");
  Write("proc/self/fd/0", "");
  Write("proc/self/fd/17", "");
  const ProcessUsage usage = ReadProcessUsage(fs_, root_);
  EXPECT_EQ(usage.resident_bytes, 3'072'000);
  EXPECT_EQ(usage.anonymous_bytes, 1'024'000);
  EXPECT_EQ(usage.open_files, 2);
  EXPECT_EQ(ReadProcessUsage(fs_, root_ + "/none").resident_bytes, -1);
  EXPECT_GT(ReadProcessUsage(fs_).anonymous_bytes, 0);
}

}  // namespace
}  // namespace loci
