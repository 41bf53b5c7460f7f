#include "base/mapping_guard.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <thread>
#include <vector>

namespace loci {
namespace {

constexpr size_t kPage = 4096;
constexpr size_t kBytes = 64 * kPage;

// A file of kBytes bytes 'x', mapped.
class MappingGuardTest : public testing::Test {
 protected:
  void SetUp() override {
    path_ = testing::TempDir() + "/mapping_guard_test_XXXXXX";
    fd_ = mkstemp(path_.data());
    ASSERT_GE(fd_, 0);
    const std::string bytes(kBytes, 'x');
    ASSERT_EQ(write(fd_, bytes.data(), bytes.size()), static_cast<ssize_t>(bytes.size()));
    address_ = static_cast<char*>(mmap(nullptr, kBytes, PROT_READ, MAP_SHARED, fd_, 0));
    ASSERT_NE(address_, MAP_FAILED);
  }
  void TearDown() override {
    munmap(address_, kBytes);
    close(fd_);
    unlink(path_.c_str());
  }
  // How many of the mapping's bytes are `c`.
  size_t Count(char c) const {
    const volatile char* bytes = address_;
    size_t count = 0;
    for (size_t i = 0; i < kBytes; ++i) count += bytes[i] == c ? 1 : 0;
    return count;
  }

  std::string path_;
  int fd_ = -1;
  char* address_ = nullptr;
};

TEST_F(MappingGuardTest, WhatIsReadWholeIsNotLost) {
  const MappingGuard guard(address_, kBytes);
  EXPECT_EQ(Count('x'), kBytes);
  EXPECT_FALSE(guard.lost());
}

TEST_F(MappingGuardTest, PagesThatWereCutOffReadAsZerosAndAreLost) {
  const MappingGuard guard(address_, kBytes);
  EXPECT_EQ(Count('x'), kBytes);
  ASSERT_EQ(ftruncate(fd_, 16 * kPage), 0);
  EXPECT_EQ(Count('x'), 16 * kPage);
  EXPECT_TRUE(guard.lost());
  EXPECT_EQ(Count('\0'), kBytes - 16 * kPage);  // Again, where the pages are already replaced.
}

TEST_F(MappingGuardTest, TheLastPageOfAMappingThatEndsWithinItIsGuarded) {
  const MappingGuard guard(address_, kBytes - 100);
  ASSERT_EQ(ftruncate(fd_, 0), 0);
  EXPECT_EQ(Count('\0'), kBytes);
  EXPECT_TRUE(guard.lost());
}

TEST_F(MappingGuardTest, AMappingBesideTheLostOneIsNotLost) {
  const MappingGuard lost(address_, kBytes / 2);
  const MappingGuard whole(address_ + kBytes / 2, kBytes / 2);
  ASSERT_EQ(ftruncate(fd_, 0), 0);
  const volatile char* bytes = address_;
  EXPECT_EQ(bytes[kBytes / 2 - 1], '\0');
  EXPECT_TRUE(lost.lost());
  EXPECT_FALSE(whole.lost());
}

// A process may have 65,530 mappings.
TEST_F(MappingGuardTest, PagesThatAreReadHereAndThereDoNotBecomeAMappingEach) {
  constexpr size_t kManyBytes = 80'000 * kPage;
  ASSERT_EQ(ftruncate(fd_, kManyBytes), 0);
  auto* const bytes = static_cast<volatile char*>(mmap(nullptr, kManyBytes, PROT_READ, MAP_SHARED, fd_, 0));
  ASSERT_NE(bytes, MAP_FAILED);
  {
    const MappingGuard guard(const_cast<char*>(bytes), kManyBytes);
    ASSERT_EQ(ftruncate(fd_, 0), 0);
    for (size_t page = 80'000; page > 1; page -= 2) ASSERT_EQ(bytes[(page - 1) * kPage], 0);
    EXPECT_TRUE(guard.lost());
  }
  munmap(const_cast<char*>(bytes), kManyBytes);
}

TEST_F(MappingGuardTest, ManyThreadsMayMeetTheLossAtOnce) {
  const MappingGuard guard(address_, kBytes);
  ASSERT_EQ(ftruncate(fd_, 0), 0);
  std::vector<std::thread> threads;
  std::vector<size_t> counts(4);
  for (size_t i = 0; i < counts.size(); ++i) threads.emplace_back([this, i, &counts] { counts[i] = Count('\0'); });
  for (std::thread& thread : threads) thread.join();
  for (const size_t count : counts) EXPECT_EQ(count, kBytes);
  EXPECT_TRUE(guard.lost());
}

TEST_F(MappingGuardTest, ALaterGuardOfTheSamePlaceStartsWhole) {
  auto guard = std::make_unique<MappingGuard>(address_, kBytes);
  ASSERT_EQ(ftruncate(fd_, 0), 0);
  EXPECT_EQ(Count('\0'), kBytes);
  guard = nullptr;
  guard = std::make_unique<MappingGuard>(address_, kBytes);  // Takes the slot again; the pages are zeros by now.
  EXPECT_EQ(Count('\0'), kBytes);
  EXPECT_FALSE(guard->lost());
}

using MappingGuardDeathTest = MappingGuardTest;

TEST_F(MappingGuardDeathTest, ASignalThatNobodysTouchRaisedEndsTheProcessAsBefore) {
  testing::FLAGS_gtest_death_test_style = "threadsafe";
  EXPECT_EXIT(
      {
        signal(SIGBUS, SIG_DFL);
        const MappingGuard guard(address_, kBytes);
        raise(SIGBUS);
      },
      testing::KilledBySignal(SIGBUS), "");
}

TEST_F(MappingGuardDeathTest, WhatNobodyGuardsEndsTheProcessAsBefore) {
  testing::FLAGS_gtest_death_test_style = "threadsafe";
  EXPECT_EXIT(
      {
        signal(SIGBUS, SIG_DFL);  // That of a sanitizer.
        { const MappingGuard past(address_, kBytes); }
        if (ftruncate(fd_, 0) == 0) Count('x');
      },
      testing::KilledBySignal(SIGBUS), "");
}

}  // namespace
}  // namespace loci
