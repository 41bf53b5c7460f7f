#include "base/background_thread.h"

#include <sched.h>
#include <sys/resource.h>

#include <thread>

#include "gtest/gtest.h"

namespace loci {
namespace {

TEST(BackgroundThread, RunsElsewhereAtALowerPriorityAndWaits) {
  const int before = getpriority(PRIO_PROCESS, 0);
  const std::thread::id caller = std::this_thread::get_id();
  std::thread::id ran_on;
  bool is_lower = false;
  RunInBackground("test", [&] {
    ran_on = std::this_thread::get_id();
    is_lower = sched_getscheduler(0) == SCHED_IDLE || getpriority(PRIO_PROCESS, 0) == 19;
  });
  EXPECT_NE(ran_on, std::thread::id());
  EXPECT_NE(ran_on, caller);
  EXPECT_TRUE(is_lower);
  EXPECT_EQ(sched_getscheduler(0), SCHED_OTHER);
  EXPECT_EQ(getpriority(PRIO_PROCESS, 0), before);
}

}  // namespace
}  // namespace loci
