#include "encoder/encode_backlog.h"

#include <gtest/gtest.h>

#include <utility>
#include <vector>

namespace loci {
namespace {

constexpr int64_t kNow = 5'000'000'000;
constexpr int64_t kSecond = 1'000'000;

TEST(EncodeBacklog, SaysNothingBeforeABatchWasMeasured) {
  const auto backlog = std::make_shared<EncodeBacklog>();
  const EncodeBacklog::Share share = EncodeBacklog::Take(backlog, kNow, kNow + kSecond, 1'000'000);
  EXPECT_EQ(backlog->tokens(), 1'000'000);
  EXPECT_EQ(backlog->DelayMicros(kNow, kNow + kSecond), 0);
}

TEST(EncodeBacklog, CountsWhatIsDueNoLaterAtTheRateOfLate) {
  const auto backlog = std::make_shared<EncodeBacklog>();
  for (int i = 0; i < 5; ++i) backlog->Measured(100, 1'000);
  EXPECT_NEAR(backlog->micros_per_token(), 10, 1e-9);
  EncodeBacklog::Share soon = EncodeBacklog::Take(backlog, kNow, kNow + kSecond, 300);
  const EncodeBacklog::Share later = EncodeBacklog::Take(backlog, kNow, kNow + 5 * kSecond, 7'000);
  const EncodeBacklog::Share far = EncodeBacklog::Take(backlog, kNow, INT64_MAX, 90'000);
  EXPECT_EQ(backlog->DelayMicros(kNow, kNow + kSecond / 2), 0);
  EXPECT_EQ(backlog->DelayMicros(kNow, kNow + 2 * kSecond), 3'000);
  EXPECT_EQ(backlog->DelayMicros(kNow, kNow + 6 * kSecond), 73'000);
  EXPECT_EQ(backlog->DelayMicros(kNow, INT64_MAX), 973'000) << "who can wait waits for all";
  for (int i = 0; i < 100; ++i) backlog->Measured(100, 2'000);
  EXPECT_NEAR(backlog->micros_per_token(), 20, 0.01);
  soon.Release();
  soon.Release();
  EXPECT_EQ(backlog->DelayMicros(kNow, kNow + 2 * kSecond), 0);
  EXPECT_EQ(backlog->tokens(), 97'000);
}

TEST(EncodeBacklog, WhoCanWaitWaitsForWhatIsDueBeforeIt) {
  const auto backlog = std::make_shared<EncodeBacklog>();
  backlog->Measured(100, 1'000);
  std::vector<EncodeBacklog::Share> shares;
  for (const auto& [due_us, tokens] : std::vector<std::pair<int64_t, int64_t>>{
           {kSecond, 1}, {20 * kSecond, 10}, {200 * kSecond, 100}, {3'600 * kSecond, 1'000}, {7'200 * kSecond, 1'000}, {INT64_MAX - kNow, 10'000}}) {
    shares.push_back(EncodeBacklog::Take(backlog, kNow, kNow + due_us, tokens));
  }
  EXPECT_EQ(backlog->DelayMicros(kNow, kNow + 9 * kSecond), 10) << "what is far stands in no near one's way";
  EXPECT_EQ(backlog->DelayMicros(kNow, kNow + 15 * kSecond), 10);
  EXPECT_EQ(backlog->DelayMicros(kNow, kNow + 30 * kSecond), 110);
  EXPECT_EQ(backlog->DelayMicros(kNow, kNow + 190 * kSecond), 110);
  EXPECT_EQ(backlog->DelayMicros(kNow, kNow + 250 * kSecond), 1'110);
  EXPECT_EQ(backlog->DelayMicros(kNow, kNow + 5'000 * kSecond), 21'110) << "what is due in hours is not told apart";
  EXPECT_EQ(backlog->DelayMicros(kNow, INT64_MAX), 121'110) << "without a deadline, for all";
  EXPECT_EQ(backlog->DelayMicros(kNow + 100 * kSecond, kNow + 150 * kSecond), 10) << "as time goes by, too";
  EXPECT_EQ(backlog->DelayMicros(kNow + 100 * kSecond, kNow + 210 * kSecond), 1'010);
}

TEST(EncodeBacklog, WhatWaitsIsDividedAmongTheWorkers) {
  const auto backlog = std::make_shared<EncodeBacklog>(/*worker_count=*/4);
  backlog->Measured(100, 1'000);
  const EncodeBacklog::Share soon = EncodeBacklog::Take(backlog, kNow, kNow + kSecond, 400);
  const EncodeBacklog::Share far = EncodeBacklog::Take(backlog, kNow, INT64_MAX, 8'000);
  EXPECT_NEAR(backlog->micros_per_token(), 10, 1e-9) << "one batch goes no faster beside others";
  EXPECT_EQ(backlog->DelayMicros(kNow, kNow + 2 * kSecond), 1'000);
  EXPECT_EQ(backlog->DelayMicros(kNow, INT64_MAX), 21'000);
}

TEST(EncodeBacklog, AShareMovesAndEndsOnce) {
  const auto backlog = std::make_shared<EncodeBacklog>();
  {
    EncodeBacklog::Share first = EncodeBacklog::Take(backlog, kNow, kNow + kSecond, 5);
    EncodeBacklog::Share second = std::move(first);
    first = EncodeBacklog::Share();
    EXPECT_EQ(backlog->tokens(), 5);
    second = EncodeBacklog::Take(backlog, kNow, kNow - kSecond, 7);  // Late already.
    EXPECT_EQ(backlog->tokens(), 7);
  }
  EXPECT_EQ(backlog->tokens(), 0);
}

}  // namespace
}  // namespace loci
