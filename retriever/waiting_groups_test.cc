#include "retriever/waiting_groups.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

namespace loci {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

using Waiting = WaitingGroups<std::string, int>;

TEST(WaitingGroups, TheFirstOfAKindCallsForAll) {
  Waiting waiting;
  EXPECT_TRUE(waiting.Add("a", 1, 1));
  EXPECT_FALSE(waiting.Add("a", 2, 1));
  EXPECT_TRUE(waiting.Add("b", 3, 1));
  EXPECT_FALSE(waiting.Add("a", 4, 1));
  const Waiting::Taken taken = waiting.Take("a", 10);
  EXPECT_THAT(taken.items, ElementsAre(1, 2, 4));
  EXPECT_FALSE(taken.more);
  EXPECT_TRUE(waiting.Add("a", 5, 1)) << "nothing of it waited any more";
  EXPECT_THAT(waiting.Take("b", 10).items, ElementsAre(3));
}

TEST(WaitingGroups, TakesWhatFits) {
  Waiting waiting;
  EXPECT_TRUE(waiting.Add("a", 1, 4));
  for (int i = 2; i <= 4; ++i) EXPECT_FALSE(waiting.Add("a", i, 3));
  Waiting::Taken taken = waiting.Take("a", 7);
  EXPECT_THAT(taken.items, ElementsAre(1, 2));
  EXPECT_TRUE(taken.more);
  EXPECT_FALSE(waiting.Add("a", 5, 1)) << "who took is to call again";
  taken = waiting.Take("a", 2);
  EXPECT_THAT(taken.items, ElementsAre(3)) << "one, however heavy";
  EXPECT_TRUE(taken.more);
  taken = waiting.Take("a", 4);
  EXPECT_THAT(taken.items, ElementsAre(4, 5));
  EXPECT_FALSE(taken.more);
  EXPECT_THAT(waiting.Take("a", 4).items, IsEmpty());
  EXPECT_THAT(waiting.Take("never", 4).items, IsEmpty());
}

TEST(WaitingGroups, WhoStaysIsTheOnlyCaller) {
  Waiting waiting;
  EXPECT_THAT(waiting.Take("a", 10, /*stay=*/true).items, IsEmpty());
  EXPECT_TRUE(waiting.Add("a", 1, 1)) << "nobody stays for nothing";
  Waiting::Taken taken = waiting.Take("a", 10, /*stay=*/true);
  EXPECT_THAT(taken.items, ElementsAre(1));
  EXPECT_FALSE(taken.more);
  EXPECT_FALSE(waiting.Add("a", 2, 1));
  EXPECT_FALSE(waiting.Add("a", 3, 1));
  EXPECT_TRUE(waiting.Add("b", 4, 1));
  EXPECT_TRUE(waiting.Leave("a"));
  EXPECT_FALSE(waiting.Add("a", 5, 1)) << "who left is to call again";
  taken = waiting.Take("a", 2, /*stay=*/true);
  EXPECT_THAT(taken.items, ElementsAre(2, 3));
  EXPECT_FALSE(taken.more) << "that is for Leave to say";
  EXPECT_TRUE(waiting.Leave("a"));
  EXPECT_THAT(waiting.Take("a", 2, /*stay=*/true).items, ElementsAre(5));
  EXPECT_FALSE(waiting.Leave("a"));
  EXPECT_TRUE(waiting.Add("a", 6, 1));
  EXPECT_THAT(waiting.Take("a", 2).items, ElementsAre(6));
  EXPECT_FALSE(waiting.Leave("a"));
}

TEST(WaitingGroups, KeepsNothingOfWhatWasTaken) {
  WaitingGroups<int, std::shared_ptr<int>> waiting;
  const auto item = std::make_shared<int>(0);
  EXPECT_TRUE(waiting.Add(0, item, 1));
  waiting.Take(0, 1);
  EXPECT_EQ(item.use_count(), 1);
}

TEST(WaitingGroups, GivesEachItemToOneThread) {
  constexpr int kThreads = 4, kItems = 20'000;
  WaitingGroups<int, int> waiting;
  std::vector<std::atomic<int>> taken(kThreads * kItems);
  const auto take = [&](int kind) {
    for (bool more = true; more;) {
      const auto group = waiting.Take(kind, 5);
      EXPECT_FALSE(group.items.empty());
      for (const int item : group.items) ++taken[static_cast<size_t>(item)];
      more = group.more;
    }
  };
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < kItems; ++i) {
        if (waiting.Add(i % 3, t * kItems + i, 1 + i % 4)) take(i % 3);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const std::atomic<int>& count : taken) EXPECT_EQ(count, 1);
}

}  // namespace
}  // namespace loci
