#include "server/refusal_queue.h"

#include <atomic>
#include <memory>
#include <thread>
#include <vector>

#include "gtest/gtest.h"

namespace loci {
namespace {

using std::chrono::hours;
using std::chrono::microseconds;

TEST(RefusalQueue, SendsWhatItHoldsWithoutBeingAskedAgain) {
  std::atomic<int> sent{0};
  RefusalQueue queue({.hold = microseconds(1'000)});
  for (int round = 1; round <= 3; ++round) {  // It goes on after it was empty.
    queue.Add([&] { ++sent; });
    while (sent < round) std::this_thread::yield();
  }
  EXPECT_EQ(sent, 3);
}

TEST(RefusalQueue, SendsTogetherInTheOrderOfTheirComing) {
  std::vector<int> order;
  std::atomic<std::thread::id> thread;
  {
    RefusalQueue queue({.hold = hours(1)});
    for (int i = 0; i < 100; ++i) {
      queue.Add([&, i] {
        order.push_back(i);
        thread = std::this_thread::get_id();
      });
    }
    EXPECT_TRUE(order.empty());
  }
  ASSERT_EQ(order.size(), 100u);  // Its end sends them.
  for (int i = 0; i < 100; ++i) EXPECT_EQ(order[i], i);
  EXPECT_NE(thread.load(), std::this_thread::get_id());
}

TEST(RefusalQueue, HoldsNoMoreThanItMay) {
  int sent = 0;
  RefusalQueue queue({.hold = hours(1), .max_held = 10});
  for (int i = 0; i < 25; ++i) queue.Add([&] { ++sent; });
  EXPECT_EQ(sent, 20);
}

TEST(RefusalQueue, SendsEachOnceWhateverThreadsAdd) {
  constexpr int kThreads = 4;
  constexpr int kEach = 5'000;
  auto sent = std::make_unique<std::atomic<int>[]>(kThreads * kEach);
  {
    RefusalQueue queue({.hold = microseconds(100), .max_held = 64});
    std::vector<std::thread> threads;
    for (int t = 0; t < kThreads; ++t) {
      threads.emplace_back([&, t] {
        for (int i = 0; i < kEach; ++i) queue.Add([&, t, i] { ++sent[t * kEach + i]; });
      });
    }
    for (std::thread& thread : threads) thread.join();
  }
  for (int i = 0; i < kThreads * kEach; ++i) ASSERT_EQ(sent[i], 1) << i;
}

}  // namespace
}  // namespace loci
