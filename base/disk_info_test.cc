#include "base/disk_info.h"

#include "gtest/gtest.h"

namespace loci {
namespace {

TEST(DiskInfo, SaysWhatIsLeftOrThatItIsNotKnown) {
  EXPECT_GT(AvailableDiskBytes(testing::TempDir()), 0);
  EXPECT_EQ(AvailableDiskBytes("/there/is/no/such/folder"), -1);
}

}  // namespace
}  // namespace loci
