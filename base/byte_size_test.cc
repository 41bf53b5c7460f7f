#include "base/byte_size.h"

#include <limits>

#include "gtest/gtest.h"

namespace loci {
namespace {

TEST(ParseByteSize, ReadsBytesAndUnits) {
  EXPECT_EQ(ParseByteSize("0"), 0);
  EXPECT_EQ(ParseByteSize("1048576"), 1 << 20);
  EXPECT_EQ(ParseByteSize("512KiB"), 512 << 10);
  EXPECT_EQ(ParseByteSize("2GiB"), int64_t{2} << 30);
  EXPECT_EQ(ParseByteSize("3GB"), 3'000'000'000);
  EXPECT_EQ(ParseByteSize("9223372036854775807"), std::numeric_limits<int64_t>::max());
}

TEST(ParseByteSize, RefusesWhatIsNoSize) {
  for (const char* text : {"", "GiB", "-1", "+1", "1.5GiB", "2 GiB", "2gib", "2G", "0x10", "9223372036854775808", "9999999999TiB", "1KiBKiB"}) {
    EXPECT_EQ(ParseByteSize(text), std::nullopt) << text;
  }
}

}  // namespace
}  // namespace loci
