#include "server/admission.h"

#include <chrono>
#include <memory>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "base/error.h"
#include "base/fake_metrics.h"
#include "gtest/gtest.h"

namespace loci {
namespace {

TEST(Admission, RefusesBeyondTheLimitAndTakesAgainAfterRelease) {
  FakeMetrics metrics;
  Admission admission({.kind = "request", .max_requests = 2, .max_bytes = 1000, .metrics = &metrics});
  absl::StatusOr<Admission::Permit> first = admission.Acquire(1);
  absl::StatusOr<Admission::Permit> second = admission.Acquire(1);
  ASSERT_TRUE(first.ok() && second.ok());
  EXPECT_EQ(metrics.value("loci_in_flight", {{"kind", "request"}}), 2);
  const absl::Status refused = admission.Acquire(1).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(refused.message(), "2 requests are in flight, the limit is 2");
  EXPECT_EQ(GetErrorReason(refused)->reason, "OVERLOADED");
  first->Release();
  first->Release();  // Nothing.
  EXPECT_EQ(admission.in_flight(), 1);
  EXPECT_TRUE(admission.Acquire(1).ok());
  EXPECT_EQ(admission.in_flight(), 1) << "a permit that is dropped is released";
}

TEST(Admission, BoundsBytesButTakesALoneRequestOfAnySize) {
  Admission admission({.max_requests = 10, .max_bytes = 100});
  {
    absl::StatusOr<Admission::Permit> huge = admission.Acquire(1'000'000);
    ASSERT_TRUE(huge.ok());
    EXPECT_EQ(admission.Acquire(1).status().code(), absl::StatusCode::kResourceExhausted);
  }
  absl::StatusOr<Admission::Permit> small = admission.Acquire(60);
  ASSERT_TRUE(small.ok());
  EXPECT_FALSE(admission.Acquire(41).ok());
  EXPECT_TRUE(admission.Acquire(40).ok());
}

TEST(Admission, CountsWhatItRefusesByWhy) {
  FakeMetrics metrics;
  const auto refused = [&metrics](const char* reason) { return metrics.value("loci_refused_total", {{"kind", "request"}, {"reason", reason}}); };
  Admission admission({.max_requests = 2, .max_bytes = 100, .metrics = &metrics});
  Admission method({.method = "Encode", .max_requests = 1, .metrics = &metrics});
  EXPECT_EQ(refused("count"), 0) << "there from the start";
  const absl::StatusOr<Admission::Permit> first = admission.Acquire(60), own = method.Acquire(60);
  EXPECT_FALSE(admission.Acquire(60).ok());
  EXPECT_EQ(refused("bytes"), 1);
  const absl::StatusOr<Admission::Permit> second = admission.Acquire(1);
  EXPECT_FALSE(admission.Acquire(1).ok());
  EXPECT_FALSE(admission.Acquire(1).ok());
  EXPECT_EQ(refused("count"), 2);
  EXPECT_FALSE(method.Acquire(1).ok());
  EXPECT_EQ(refused("method_count"), 1);
  admission.Drain();
  EXPECT_FALSE(admission.Acquire(1).ok());
  EXPECT_EQ(refused("draining"), 1);
  EXPECT_EQ(refused("bytes"), 1);
}

TEST(Admission, MovedPermitIsReleasedOnce) {
  Admission admission({.max_requests = 10});
  Admission::Permit outer;
  {
    absl::StatusOr<Admission::Permit> permit = admission.Acquire(5);
    ASSERT_TRUE(permit.ok());
    outer = *std::move(permit);
  }
  EXPECT_EQ(admission.in_flight(), 1);
  outer = Admission::Permit();
  EXPECT_EQ(admission.in_flight(), 0);
}

TEST(Admission, WaitsForTheLastPermitWhenDraining) {
  auto admission = std::make_unique<Admission>(Admission::Options{.max_requests = 64});
  std::atomic<int> answered{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 16; ++i) {
    absl::StatusOr<Admission::Permit> permit = admission->Acquire(1);
    ASSERT_TRUE(permit.ok());
    threads.emplace_back([&answered, permit = *std::move(permit)]() mutable {
      ++answered;
      permit.Release();
    });
  }
  admission->Drain();
  EXPECT_EQ(admission->Acquire(1).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_TRUE(admission->WaitUntilIdle(60'000));
  EXPECT_EQ(answered, 16);
  admission.reset();  // Whoever saw it idle may end it.
  for (std::thread& thread : threads) thread.join();
}

TEST(Admission, GivesUpWaitingAfterTheTimeout) {
  Admission admission({.max_requests = 1});
  absl::StatusOr<Admission::Permit> permit = admission.Acquire(1);
  admission.Drain();
  EXPECT_FALSE(admission.WaitUntilIdle(1));
  permit->Release();
  EXPECT_TRUE(admission.WaitUntilIdle(0));
}

TEST(Admission, NamesTheMethodOfALimitOfItsOwn) {
  FakeMetrics metrics;
  Admission admission({.method = "Search", .max_requests = 1, .metrics = &metrics});
  absl::StatusOr<Admission::Permit> permit = admission.Acquire(0);
  ASSERT_TRUE(permit.ok());
  const absl::Status refused = admission.Acquire(0).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(refused.message(), "method Search has 1 requests in flight, its limit is 1");
  EXPECT_EQ(GetErrorReason(refused)->metadata.at("method"), "Search");
  permit->Release();
  EXPECT_TRUE(admission.Acquire(0).ok());
}

TEST(Admission, IsQuietOnceNothingHasComeToBeRefusedForAWhile) {
  Admission admission({});
  admission.Drain();
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  EXPECT_FALSE(admission.Acquire(0).ok());
  const int64_t refused_us = RealClock().NowMicros();
  admission.WaitUntilQuiet(100, 60'000);
  EXPECT_GE(RealClock().NowMicros() - refused_us, 99'000) << "counted from what was refused last";
  admission.WaitUntilQuiet(60'000, 1);  // Not longer than that.
}

}  // namespace
}  // namespace loci
