#include "base/timestamp_id.h"

#include <set>

#include "gtest/gtest.h"

namespace loci {
namespace {

TEST(TimestampId, SaysTheSecondInUtc) {
  const std::string id = MakeTimestampId(int64_t{1'795'254'102} * 1'000'000 + 999'999);
  EXPECT_EQ(id.substr(0, 16), "20261121-094142-");
  EXPECT_TRUE(IsTimestampId(id));
  std::set<std::string> ids;
  for (int i = 0; i < 20; ++i) ids.insert(MakeTimestampId(0));
  EXPECT_GT(ids.size(), 10u);
}

TEST(TimestampId, KnowsItsShape) {
  EXPECT_TRUE(IsTimestampId("20261121-094142-3f2a"));
  for (const char* other : {"", "20261121-094142-3f2", "20261121-094142-3f2a0", "2026112a-094142-3f2a", "20261121-094142-3F2A", "20261121/094142-3f2a",
                            "20261121-09414g-3f2a", "../../../../etc/pass", "20261121-094142-3f2g"}) {
    EXPECT_FALSE(IsTimestampId(other)) << other;
  }
}

}  // namespace
}  // namespace loci
