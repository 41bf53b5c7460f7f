#include "base/mutex.h"

#include <gtest/gtest.h>

#include <thread>
#include <vector>

namespace loci {
namespace {

TEST(Mutex, ExcludesOthers) {
  Mutex mutex;
  int64_t count = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 5000; ++i) {
        MutexLock lock(&mutex);
        ++count;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(count, 20000);
}

TEST(CondVar, WakesTheWaiter) {
  Mutex mutex;
  CondVar changed;
  bool ready = false;
  std::thread other([&] {
    MutexLock lock(&mutex);
    ready = true;
    changed.NotifyOne();
  });
  {
    MutexLock lock(&mutex);
    while (!ready) changed.Wait(&mutex);
  }
  other.join();
}

TEST(CondVar, WaitForEndsWithoutANotification) {
  Mutex mutex;
  CondVar changed;
  MutexLock lock(&mutex);
  while (changed.WaitFor(&mutex, std::chrono::microseconds(100))) {
  }
}

}  // namespace
}  // namespace loci
