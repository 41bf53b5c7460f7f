#include "base/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <set>
#include <thread>
#include <vector>

#include "base/mutex.h"

namespace loci {
namespace {

// Lets threads meet.
class Gate {
 public:
  void Open() {
    MutexLock lock(&mutex_);
    open_ = true;
    changed_.NotifyAll();
  }
  void Wait() {
    MutexLock lock(&mutex_);
    while (!open_) changed_.Wait(&mutex_);
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  bool open_ ABSL_GUARDED_BY(mutex_) = false;
};

TEST(ThreadPool, TheDestructorRunsWhatIsQueued) {
  std::atomic<int> count = 0;
  {
    ThreadPool pool("test", 2, 1000);
    for (int i = 0; i < 500; ++i) ASSERT_TRUE(pool.TrySubmit([&] { ++count; }));
  }
  EXPECT_EQ(count, 500);
}

TEST(ThreadPool, RefusesAboveTheLimit) {
  Gate gate;
  Gate started;
  std::atomic<int> count = 0;
  {
    ThreadPool pool("test", 1, 2);
    ASSERT_TRUE(pool.TrySubmit([&] {
      started.Open();
      gate.Wait();
    }));
    started.Wait();
    EXPECT_EQ(pool.queue_size(), 0);
    EXPECT_TRUE(pool.TrySubmit([&] { ++count; }));
    EXPECT_TRUE(pool.TrySubmit([&] { ++count; }));
    EXPECT_EQ(pool.queue_size(), 2);
    EXPECT_FALSE(pool.TrySubmit([&] { ++count; }));
    gate.Open();
  }
  EXPECT_EQ(count, 2);
}

TEST(ThreadPool, RunsTasksInOrderOfArrival) {
  std::vector<int> order;
  {
    ThreadPool pool("test", 1, 100);
    for (int i = 0; i < 50; ++i) ASSERT_TRUE(pool.TrySubmit([&order, i] { order.push_back(i); }));
  }
  for (int i = 0; i < 50; ++i) EXPECT_EQ(order[static_cast<size_t>(i)], i);
}

TEST(ParallelFor, CallsEveryIndexOnce) {
  ThreadPool pool("a name longer than fifteen", 3, 10);
  EXPECT_EQ(pool.thread_count(), 3);
  for (const int64_t count : {0, 1, 2, 3, 5, 31, 1000}) {
    std::vector<std::atomic<int>> calls(static_cast<size_t>(count));
    pool.ParallelFor(count, [&](int64_t i) { ++calls[static_cast<size_t>(i)]; });
    for (const auto& c : calls) EXPECT_EQ(c, 1);
  }
  pool.ParallelFor(-1, [](int64_t) { FAIL(); });
}

TEST(ParallelFor, UsesThePoolsThreads) {
  ThreadPool pool("test", 1, 10);
  Gate second;
  // Ends only if two threads run at once.
  pool.ParallelFor(2, [&](int64_t i) {
    if (i == 0) second.Wait();
    if (i == 1) second.Open();
  });
}

TEST(ParallelFor, NeedsNoFreeThread) {
  ThreadPool pool("test", 1, 10);
  Gate gate;
  Gate started;
  ASSERT_TRUE(pool.TrySubmit([&] {
    started.Open();
    gate.Wait();
  }));
  started.Wait();
  int sum = 0;
  pool.ParallelFor(100, [&](int64_t i) { sum += static_cast<int>(i); });
  EXPECT_EQ(sum, 4950);
  gate.Open();
}

TEST(ParallelFor, MayBeNestedAndCalledFromTasks) {
  std::atomic<int64_t> sum = 0;
  {
    ThreadPool pool("test", 2, 100);
    for (int t = 0; t < 20; ++t) {
      ASSERT_TRUE(pool.TrySubmit([&] { pool.ParallelFor(7, [&](int64_t) { pool.ParallelFor(5, [&](int64_t) { ++sum; }); }); }));
    }
  }
  EXPECT_EQ(sum, 20 * 7 * 5);
}

TEST(ParallelFor, ManyCallersAtOnce) {
  ThreadPool pool("test", 2, 1);
  std::atomic<int64_t> sum = 0;
  std::vector<std::thread> callers;
  for (int t = 0; t < 4; ++t) {
    callers.emplace_back([&] {
      for (int round = 0; round < 300; ++round) {
        std::vector<int> values(8, 0);  // Not atomic: the call must have ended for all when it returns.
        pool.ParallelFor(8, [&](int64_t i) { values[static_cast<size_t>(i)] = 1; });
        for (const int v : values) sum += v;
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(sum, 4 * 300 * 8);
}

TEST(ThreadPool, WithoutThreadsTheCallerDoesTheLoops) {
  ThreadPool pool("test", 0, 10);
  EXPECT_FALSE(pool.TrySubmit([] {}));
  int count = 0;
  pool.ParallelFor(5, [&](int64_t) { ++count; });
  EXPECT_EQ(count, 5);
}

}  // namespace
}  // namespace loci
