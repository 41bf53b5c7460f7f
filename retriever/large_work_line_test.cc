#include "retriever/large_work_line.h"

#include <algorithm>
#include <chrono>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/mutex.h"
#include "base/thread_pool.h"

namespace loci {
namespace {

using ::testing::ElementsAre;

// On a pool of one thread, which is held until Release.
class LargeWorkLineTest : public ::testing::Test {
 protected:
  void SetUp() override { Hold(); }
  void TearDown() override { Release(); }

  void Hold() {
    gate_ = std::promise<void>();
    std::promise<void> begun;
    held_ = pool_.TrySubmit([&begun, open = gate_.get_future().share()] {
      begun.set_value();
      open.wait();
    });
    ASSERT_TRUE(held_);
    begun.get_future().wait();
  }
  void Release() {
    if (std::exchange(held_, false)) gate_.set_value();
  }
  // Until the pool has done what is queued and what that queues.
  void Finish() {
    Release();
    for (int i = 0; i < 200; ++i) {
      std::promise<void> done;
      while (!pool_.TrySubmit([&done] { done.set_value(); })) std::this_thread::yield();
      done.get_future().wait();
    }
  }
  // Work of so many steps, each of which tells `name`.
  LargeWorkLine::Work Steps(std::string name, int count, int64_t deadline_us, int64_t elements = 1, LargeWorkKind kind = LargeWorkKind::kExactSearch) {
    auto left = std::make_shared<int>(count);
    return {.amount = {.kind = kind, .queries = elements},
            .deadline_us = deadline_us,
            .step =
                [this, name, left] {
                  told_.push_back(name);
                  return --*left > 0;
                },
            .refuse =
                [this, name](absl::Status status) {
                  told_.push_back("no " + name);
                  refused_ = std::move(status);
                }};
  }
  static LargeWorkLine::Amount Exact(int64_t elements) { return {.kind = LargeWorkKind::kExactSearch, .queries = elements}; }
  int64_t In(int64_t us) { return clock_.NowMicros() + us; }

  FakeClock clock_;
  std::promise<void> gate_;
  bool held_ = false;
  std::vector<std::string> told_;  // On the pool's thread, or while that is held.
  absl::Status refused_;
  ThreadPool pool_{"test", 1, 4};
  LargeWorkLine line_{&pool_, &clock_};
};

TEST_F(LargeWorkLineTest, ShortTasksGoBetweenSteps) {
  line_.Add(Steps("large", 3, kNoDeadlineMicros));
  ASSERT_TRUE(pool_.TrySubmit([this] { told_.push_back("short"); }));
  Finish();
  EXPECT_THAT(told_, ElementsAre("large", "short", "large", "large")) << "alone it goes on at once";
}

TEST_F(LargeWorkLineTest, WhatIsDueFirstGoesFirstBetweenStepsToo) {
  line_.Add(Steps("later", 2, In(3'000'000)));
  LargeWorkLine::Work soon = Steps("soon", 2, In(2'000'000));
  soon.step = [this, step = soon.step, added = false]() mutable {
    if (!std::exchange(added, true)) line_.Add(Steps("sooner", 1, In(1'000'000)));
    return step();
  };
  line_.Add(std::move(soon));
  Finish();
  EXPECT_THAT(told_, ElementsAre("soon", "sooner", "soon", "later", "later"));
}

TEST_F(LargeWorkLineTest, WhatHasNoDeadlineIsNotPassedByForEver) {
  line_.Add(Steps("never due", 1, kNoDeadlineMicros));
  line_.Add(Steps("due", 1, In(LargeWorkLine::kTurnUs - 1)));
  clock_.Advance(2);
  line_.Add(Steps("due later", 1, In(LargeWorkLine::kTurnUs - 1)));
  Finish();
  EXPECT_THAT(told_, ElementsAre("due", "never due", "due later"));
}

TEST_F(LargeWorkLineTest, AFullQueueRefusesWhatHasNotBegun) {
  for (int i = 0; i < 4; ++i) ASSERT_TRUE(pool_.TrySubmit([] {}));
  line_.Add(Steps("large", 2, kNoDeadlineMicros));
  EXPECT_THAT(told_, ElementsAre("no large"));
  EXPECT_EQ(refused_.code(), absl::StatusCode::kResourceExhausted) << refused_;
  EXPECT_EQ(GetErrorReason(refused_)->reason, "OVERLOADED");
  Finish();
  line_.Add(Steps("next", 1, kNoDeadlineMicros));
  Finish();
  EXPECT_THAT(told_, ElementsAre("no large", "next"));
}

TEST_F(LargeWorkLineTest, WhatHasBegunGoesOnWhereTheQueueIsFull) {
  LargeWorkLine::Work first = Steps("first", 3, In(1'000'000));
  first.step = [this, step = first.step, filled = false]() mutable {
    if (!std::exchange(filled, true)) {
      while (pool_.TrySubmit([this] { told_.push_back("short"); })) {
      }
    }
    return step();
  };
  line_.Add(std::move(first));
  Finish();
  ASSERT_GT(told_.size(), 3u);
  EXPECT_EQ(std::count(told_.begin(), told_.begin() + 3, "first"), 3) << "it does not wait for room";
}

TEST_F(LargeWorkLineTest, IsRefusedWhereWhatIsBeforeItTakesTooLong) {
  EXPECT_TRUE(line_.Check(Exact(1'000), In(1), 0).ok()) << "nothing was measured, and it comes alone";
  line_.Measured(Exact(1'000), 1'000'000);
  EXPECT_TRUE(line_.Check(Exact(1'000), In(1), 0).ok()) << "it comes alone";
  EXPECT_FALSE(line_.Check(Exact(1'000), In(1'000'000), 1'000).ok());
  {
    LargeWorkLine::Place place = line_.Take(Exact(2'000), In(1'000'000));
    EXPECT_EQ(line_.DelayMicros(In(5'000'000)), 2'000'000);
    const absl::Status late = line_.Check(Exact(1'000), In(4'900'000), 0);  // What is before it counts twice.
    EXPECT_EQ(late.code(), absl::StatusCode::kResourceExhausted) << late;
    EXPECT_EQ(GetErrorReason(late)->reason, "OVERLOADED");
    EXPECT_TRUE(line_.Check(Exact(1'000), In(5'000'001), 0).ok());
    EXPECT_TRUE(line_.Check(Exact(1'000), kNoDeadlineMicros, 0).ok());
    EXPECT_EQ(line_.DelayMicros(In(999'999)), 0) << "it is due later";
    place.Leaves(500);
    EXPECT_EQ(line_.DelayMicros(In(5'000'000)), 500'000);
    LargeWorkLine::Place moved;
    moved = std::move(place);
    EXPECT_EQ(line_.DelayMicros(In(5'000'000)), 500'000);
  }
  EXPECT_EQ(line_.DelayMicros(In(5'000'000)), 0) << "its place was given up";
}

TEST_F(LargeWorkLineTest, WhatCanNoLongerBeInTimeGivesWay) {
  line_.Measured(Exact(1'000), 1'000'000);
  line_.Add(Steps("late", 1, In(1'500'000), 1'000));
  line_.Add(Steps("next", 1, kNoDeadlineMicros, 1'000));
  clock_.Advance(600'000);
  Finish();
  EXPECT_THAT(told_, ElementsAre("no late", "next"));
  EXPECT_EQ(GetErrorReason(refused_)->reason, "OVERLOADED");
}

TEST_F(LargeWorkLineTest, EachKindHasItsOwnPace) {
  line_.Measured(Exact(1'000), 1'000'000);
  line_.Measured({LargeWorkKind::kApproximateSearch, 1'000}, 1'000);
  const LargeWorkLine::Place one = line_.Take({LargeWorkKind::kApproximateSearch, 2'000}, In(1));
  EXPECT_EQ(line_.DelayMicros(In(1)), 2'000);
  const LargeWorkLine::Place other = line_.Take({LargeWorkKind::kTraining, 1'000}, In(1));
  EXPECT_EQ(line_.DelayMicros(In(1)), 2'000) << "nothing of its kind was measured";
  EXPECT_TRUE(line_.Check({LargeWorkKind::kApproximateSearch, 1'000}, In(5'001), 0).ok());
  EXPECT_FALSE(line_.Check(Exact(1'000), In(900'000), 0).ok());
}

TEST_F(LargeWorkLineTest, WhatWaitsTooLongForItsTurnIsBeforeWhatComes) {
  line_.Measured(Exact(1'000), 1'000'000);
  const LargeWorkLine::Place never_due = line_.Take(Exact(3'000), kNoDeadlineMicros);
  EXPECT_EQ(line_.DelayMicros(In(8'000'000)), 0);
  clock_.Advance(LargeWorkLine::kTurnUs - 1'000'000);
  EXPECT_EQ(line_.DelayMicros(In(8'000'000)), 3'000'000);
}

TEST_F(LargeWorkLineTest, StepsAreAsLongAsOthersCanWait) {
  const LargeWorkLine::Amount small = {LargeWorkKind::kTraining, 1'000, 8};
  EXPECT_EQ(line_.StepQueries(small), 0) << "nothing was measured";
  line_.Measured(small, 10 * LargeWorkLine::kStepUs);
  EXPECT_EQ(line_.StepQueries(small), 400) << "nobody waits";
  line_.Add(Steps("large", 2, kNoDeadlineMicros));
  ASSERT_TRUE(pool_.TrySubmit([] {}));
  Finish();
  EXPECT_EQ(line_.StepQueries(small), 100);
  EXPECT_EQ(line_.StepQueries({LargeWorkKind::kTraining, 1, 10}), 80) << "about as large";
  EXPECT_EQ(line_.StepQueries({LargeWorkKind::kTraining, 1, 1'000}), 0) << "what is small tells nothing of it";
  EXPECT_EQ(line_.StepQueries({LargeWorkKind::kDoubleTraining, 1, 8}), 0);
  line_.Measured({LargeWorkKind::kDeviceTraining, 1'000, 8}, 0);
  EXPECT_GT(line_.StepQueries({LargeWorkKind::kDeviceTraining, 1, 8}), 1'000);
  clock_.Advance(LargeWorkLine::kOthersUs + 1);
  EXPECT_EQ(line_.StepQueries(small), 400) << "nobody did of late";
}

TEST_F(LargeWorkLineTest, APaceThatWasMeasuredLongAgoKeepsNobodyOut) {
  line_.Measured(Exact(1), 1'000'000'000);
  const LargeWorkLine::Place other = line_.Take({LargeWorkKind::kTraining, 1, 1}, In(1));
  EXPECT_FALSE(line_.Check(Exact(1), In(10'000'000), 0).ok());
  clock_.Advance(LargeWorkLine::kTurnUs + 1);
  EXPECT_TRUE(line_.Check(Exact(1), In(10'000'000), 0).ok());
  EXPECT_EQ(line_.StepQueries(Exact(1)), 0);
  line_.Measured(Exact(1), 1'000);
  EXPECT_EQ(line_.StepQueries(Exact(1)), 200) << "what is old does not count any more";
}

TEST_F(LargeWorkLineTest, WhatWasGivenUpTellsWhatItTookAtLeast) {
  line_.MeasuredAtLeast(Exact(1), LargeWorkLine::kStepUs);
  EXPECT_EQ(line_.StepQueries(Exact(1)), 0) << "it ended soon: that tells nothing";
  line_.MeasuredAtLeast(Exact(1), 1'000'000);
  const LargeWorkLine::Place place = line_.Take(Exact(1), In(1));
  EXPECT_EQ(line_.DelayMicros(In(1)), 1'000'000);
  line_.MeasuredAtLeast(Exact(1), 900'000);
  EXPECT_EQ(line_.DelayMicros(In(1)), 1'000'000) << "more was known already";
}

TEST_F(LargeWorkLineTest, EstimatesOfWhatIsHugeAreBounded) {
  line_.Measured({LargeWorkKind::kExactSearch, 1, int64_t{1} << 60}, 1'000'000);
  line_.Measured(Exact(1), 1'000'000);
  const LargeWorkLine::Place place = line_.Take(Exact(INT64_MAX), In(1));
  EXPECT_GT(line_.DelayMicros(In(1)), 0);
  EXPECT_FALSE(line_.Check(Exact(1), In(1'000'000'000), 0).ok());
}

TEST_F(LargeWorkLineTest, WhatIsLateAlreadyTakesNoTimeOfOthers) {
  line_.Measured(Exact(1'000), 1'000'000);
  line_.Add(Steps("late", 1, In(500'000), 10'000));
  line_.Add(Steps("next", 1, In(2'500'000), 1'000));
  clock_.Advance(1'000'000);
  Finish();
  EXPECT_THAT(told_, ElementsAre("late", "next")) << "a step says that it is late";
}

TEST_F(LargeWorkLineTest, OnceThePaceIsKnownThoseThatAreHopelessAreRefused) {
  for (const char* const name : {"one", "two", "three", "four"}) {
    LargeWorkLine::Work work = Steps(name, 1, In(2'500'000), 1'000);
    work.step = [this, step = work.step] {
      line_.Measured(Exact(1'000), 1'000'000);
      clock_.Advance(1'000'000);
      return step();
    };
    line_.Add(std::move(work));
  }
  Finish();
  // A second is over, and another one fits; of the rest none does.
  EXPECT_THAT(told_, ElementsAre("one", "no three", "no four", "two"));
  EXPECT_EQ(GetErrorReason(refused_)->reason, "OVERLOADED");
}

TEST_F(LargeWorkLineTest, WhereAllAreHopelessAllAreTold) {
  line_.Measured(Exact(1'000), 1'000'000);
  line_.Add(Steps("one", 1, In(1'500'000), 1'000));
  line_.Add(Steps("two", 1, In(1'600'000), 1'000));
  clock_.Advance(1'000'000);
  Finish();
  EXPECT_THAT(told_, ElementsAre("no one", "no two"));
  line_.Add(Steps("three", 1, kNoDeadlineMicros, 1'000));
  Finish();
  EXPECT_EQ(told_.back(), "three");
}

TEST(LargeWorkLineThreadsTest, OneStepIsDoneAtATime) {
  ThreadPool pool("test", 4, 1'000);
  auto line = std::make_unique<LargeWorkLine>(&pool, &RealClock());
  constexpr int kCount = 10, kSteps = 5;
  Mutex mutex;
  CondVar ended;
  int left = kCount, running = 0, most = 0, steps = 0;
  for (int i = 0; i < kCount; ++i) {
    line->Add({.amount = {LargeWorkKind::kExactSearch, 1},
               .step =
                   [&, done = 0]() mutable {
                     {
                       MutexLock lock(&mutex);
                       most = std::max(most, ++running);
                     }
                     std::this_thread::sleep_for(std::chrono::milliseconds(1));  // Others would begin meanwhile.
                     MutexLock lock(&mutex);
                     --running;
                     ++steps;
                     if (++done < kSteps) return true;
                     if (--left == 0) ended.NotifyAll();
                     return false;
                   },
               .refuse = [](absl::Status status) { ADD_FAILURE() << status; }});
  }
  MutexLock lock(&mutex);
  while (left > 0) ended.Wait(&mutex);
  line.reset();  // What it has in the pool's queue finds nothing to do.
  EXPECT_EQ(steps, kCount * kSteps);
  EXPECT_EQ(most, 1);
}

}  // namespace
}  // namespace loci
