#include "retriever/drainer.h"

#include <atomic>
#include <chrono>
#include <future>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "gtest/gtest.h"

namespace loci {
namespace {

// Tells which thread destroyed it.
struct Tracked {
  explicit Tracked(std::promise<std::thread::id>* freed_by) : freed_by(freed_by) {}
  ~Tracked() { freed_by->set_value(std::this_thread::get_id()); }
  std::promise<std::thread::id>* freed_by;
};

TEST(Drainer, FreesOnItsOwnThreadAfterTheLastHolderLetGo) {
  std::promise<std::thread::id> freed_by;
  std::future<std::thread::id> freed = freed_by.get_future();
  std::promise<void> retired;
  Drainer drainer;  // After what its thread sets.
  auto object = std::make_shared<const Tracked>(&freed_by);
  std::shared_ptr<const Tracked> holder = object;
  drainer.Add(std::move(object), [&] { retired.set_value(); });
  EXPECT_EQ(drainer.draining_count(), 1);
  EXPECT_EQ(freed.wait_for(std::chrono::milliseconds(60)), std::future_status::timeout);
  const Tracked* last = holder.get();
  EXPECT_EQ(last->freed_by, &freed_by);
  holder.reset();
  EXPECT_NE(freed.get(), std::this_thread::get_id());
  retired.get_future().get();
  EXPECT_EQ(drainer.draining_count(), 0);
}

TEST(Drainer, HoldsBackOneButNotTheOthers) {
  std::promise<std::thread::id> first_freed_by;
  std::promise<std::thread::id> second_freed_by;
  std::future<std::thread::id> second_freed = second_freed_by.get_future();
  Drainer drainer;
  auto first = std::make_shared<const Tracked>(&first_freed_by);
  drainer.Add(first, nullptr);
  drainer.Add(std::make_shared<const Tracked>(&second_freed_by), nullptr);
  second_freed.get();
  EXPECT_EQ(first.use_count(), 2);
  EXPECT_EQ(drainer.draining_count(), 1);
}

TEST(Drainer, TakesTheSameObjectOnce) {
  std::promise<std::thread::id> freed_by;
  std::future<std::thread::id> freed = freed_by.get_future();
  Drainer drainer;
  auto object = std::make_shared<const Tracked>(&freed_by);
  drainer.Add(object, nullptr);
  drainer.Add(object, nullptr);
  EXPECT_EQ(drainer.draining_count(), 1);
  object.reset();
  freed.get();
}

TEST(Drainer, ManyHoldersOnManyThreads) {
  std::atomic<int> retired{0};
  {
    Drainer drainer;
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; ++t) {
      threads.emplace_back([&] {
        for (int i = 0; i < 25; ++i) {
          auto object = std::make_shared<const int>(i);
          std::shared_ptr<const int> holder = object;
          drainer.Add(std::move(object), [&] { retired.fetch_add(1); });
          std::this_thread::yield();
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    while (drainer.draining_count() > 0 || retired.load() < 100) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  EXPECT_EQ(retired.load(), 100);
}

}  // namespace
}  // namespace loci
