#include "base/clock.h"

#include <gtest/gtest.h>

#include "base/cancellation.h"

namespace loci {
namespace {

TEST(RealClock, NeverGoesBack) {
  int64_t last_us = RealClock().NowMicros();
  for (int i = 0; i < 1000; ++i) {
    const int64_t now_us = RealClock().NowMicros();
    ASSERT_GE(now_us, last_us);
    last_us = now_us;
  }
}

TEST(RealClock, UnixTimeIsInThisCentury) {
  EXPECT_GT(RealClock().UnixMicros(), int64_t{1'600'000'000} * 1'000'000);
  EXPECT_LT(RealClock().UnixMicros(), int64_t{4'102'444'800} * 1'000'000);
}

TEST(FakeClock, MovesOnlyWhenTold) {
  FakeClock clock(5);
  EXPECT_EQ(clock.NowMicros(), 5);
  clock.Advance(7);
  EXPECT_EQ(clock.NowMicros(), 12);
  EXPECT_EQ(clock.UnixMicros(), 12);
}

TEST(RequestLimits, CopiesShareTheCancellation) {
  const RequestLimits limits(100);
  const RequestLimits copy = limits;
  EXPECT_TRUE(copy.Check(99).ok());
  EXPECT_EQ(copy.Check(100).code(), absl::StatusCode::kDeadlineExceeded);
  limits.Cancel();
  EXPECT_EQ(copy.Check(99).code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(RequestLimits().deadline_us(), kNoDeadlineMicros);
}

}  // namespace
}  // namespace loci
