#include "base/split_mix.h"

#include <set>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace loci {
namespace {

// The first numbers of seed 1234567 as Vigna's reference implementation gives them (https://prng.di.unimi.it/splitmix64.c).
TEST(SplitMix64, GivesTheReferencesNumbers) {
  SplitMix64 random(1234567);
  for (const uint64_t expected : {6457827717110365317u, 3203168211198807973u, 9817491932198370423u, 4593380528125082431u, 16408922859458223821u}) {
    EXPECT_EQ(random.Next(), expected);
  }
}

TEST(SplitMix64, StaysInItsRanges) {
  SplitMix64 random(7);
  std::set<int64_t> seen;
  for (int i = 0; i < 1000; ++i) {
    const double uniform = random.Uniform();
    ASSERT_GE(uniform, 0);
    ASSERT_LT(uniform, 1);
    seen.insert(random.Below(5));
  }
  EXPECT_THAT(seen, ::testing::ElementsAre(0, 1, 2, 3, 4));
}

}  // namespace
}  // namespace loci
