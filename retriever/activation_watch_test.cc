#include "retriever/activation_watch.h"

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "base/error.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace loci {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kLong = 60'000'000'000;

// Watches on a thread of its own, so that requests can be recorded meanwhile.
class Watching {
 public:
  Watching(ActivationWatches& watches, const std::string& store, const WatchConditions& conditions, RequestLimits limits = {},
           std::function<bool()> is_serving = nullptr)
      : thread_([this, &watches, store, conditions, limits, is_serving] {
          result_ = watches.Watch(store, "g", conditions, limits, [this](int64_t, int64_t) { started_ = true; }, is_serving);
        }) {
    while (!started_) std::this_thread::yield();
  }
  absl::StatusOr<std::string> Join() {
    thread_.join();
    return result_;
  }

 private:
  std::atomic<bool> started_{false};
  absl::StatusOr<std::string> result_ = absl::UnknownError("");
  std::thread thread_;
};

TEST(ActivationWatches, FailsAsSoonAsTooManyRequestsDo) {
  ActivationWatches watches;
  Watching watching(watches, "s", {.watch_us = kLong, .max_error_rate = 0.1, .min_requests = 20});
  for (int i = 0; i < 100; ++i) watches.Record("other", "g", absl::StatusCode::kInternal, 0);
  for (int i = 0; i < 17; ++i) watches.Record("s", "g", absl::StatusCode::kOk, 5);
  for (const auto code : {absl::StatusCode::kInternal, absl::StatusCode::kDataLoss, absl::StatusCode::kUnavailable}) watches.Record("s", "g", code, 0);
  const absl::Status status = watching.Join().status();
  EXPECT_TRUE(absl::IsFailedPrecondition(status));
  EXPECT_EQ(GetErrorReason(status)->reason, "WATCH_FAILED");
  EXPECT_EQ(GetErrorReason(status)->metadata.at("error_rate"), "0.15");
  EXPECT_THAT(std::string(status.message()), HasSubstr("3 of 20 requests"));
}

TEST(ActivationWatches, FailsWhereSearchesTakeLong) {
  ActivationWatches watches;
  Watching watching(watches, "s", {.watch_us = kLong, .max_p99_us = 1'000, .min_requests = 100});
  for (int i = 0; i < 98; ++i) watches.Record("s", "g", absl::StatusCode::kOk, 100);
  for (int i = 0; i < 2; ++i) watches.Record("s", "g", absl::StatusCode::kOk, 1'001);
  const absl::Status status = watching.Join().status();
  EXPECT_EQ(GetErrorReason(status)->metadata.at("p99_us"), "1001");
}

TEST(ActivationWatches, JudgesNothingOfFewRequestsNorOfWhatClientsDidWrong) {
  ActivationWatches watches;
  Watching watching(watches, "s", {.watch_us = 100'000, .max_error_rate = 0, .max_p99_us = 1, .min_requests = 20});
  for (int i = 0; i < 10; ++i) watches.Record("s", "g", absl::StatusCode::kInternal, 0);
  const absl::StatusOr<std::string> summary = watching.Join();
  ASSERT_TRUE(summary.ok()) << summary.status();
  EXPECT_THAT(*summary, HasSubstr("10 requests, 10 failed"));
  Watching clients(watches, "s", {.watch_us = 100'000, .max_error_rate = 0, .min_requests = 1});
  for (int i = 0; i < 50; ++i) watches.Record("s", "g", absl::StatusCode::kInvalidArgument, 0);
  EXPECT_TRUE(clients.Join().ok());
}

TEST(ActivationWatches, ASearchThatRanIntoItsDeadlineIsAFailureAndTheSlowest) {
  ActivationWatches watches;
  Watching slow(watches, "s", {.watch_us = kLong, .max_p99_us = 1'000'000, .min_requests = 100});
  for (int i = 0; i < 98; ++i) watches.Record("s", "g", absl::StatusCode::kOk, 100);
  for (int i = 0; i < 2; ++i) watches.Record("s", "g", absl::StatusCode::kDeadlineExceeded, 0);
  const absl::Status status = slow.Join().status();
  EXPECT_EQ(GetErrorReason(status)->metadata.at("p99_us"), "DEADLINE_EXCEEDED");
  EXPECT_THAT(std::string(status.message()), HasSubstr("99 % of 100 searches took more than their deadlines left, at most 1000000 us"));
  Watching failing(watches, "s", {.watch_us = kLong, .max_error_rate = 0.5, .min_requests = 2});
  for (int i = 0; i < 2; ++i) watches.Record("s", "g", absl::StatusCode::kDeadlineExceeded, 0);
  EXPECT_EQ(GetErrorReason(failing.Join().status())->metadata.at("failed"), "max_error_rate");
}

TEST(ActivationWatches, LooksAtRequestsToItsGenerationAlone) {
  ActivationWatches watches;
  EXPECT_FALSE(watches.IsWatching());
  RequestLimits limits;
  Watching watching(watches, "s", {.watch_us = kLong, .max_error_rate = 0, .max_p99_us = 1, .min_requests = 1}, limits);
  EXPECT_TRUE(watches.IsWatching());
  watches.Record("s", "older", absl::StatusCode::kInternal, 0);
  watches.Record("s", "older", absl::StatusCode::kOk, 1'000);
  watches.Record("s", "", absl::StatusCode::kDeadlineExceeded, 0);
  limits.Cancel();
  const absl::StatusOr<std::string> summary = watching.Join();
  ASSERT_TRUE(summary.ok()) << summary.status();
  EXPECT_THAT(*summary, HasSubstr(" 0 requests"));
}

TEST(ActivationWatches, EndsOnceAnotherGenerationServes) {
  ActivationWatches watches;
  std::atomic<bool> serving{true};
  Watching watching(watches, "s", {.watch_us = kLong, .max_error_rate = 0}, {}, [&] { return serving.load(); });
  serving = false;
  const absl::StatusOr<std::string> summary = watching.Join();
  ASSERT_TRUE(summary.ok()) << summary.status();
  EXPECT_THAT(*summary, HasSubstr("the generation serves no longer"));
}

TEST(ActivationWatches, RefusesMoreThanItHasPlacesFor) {
  ActivationWatches watches(NullMetrics(), &RealClock(), /*max_watches=*/2);
  const auto first = watches.Reserve();
  auto second = watches.Reserve();
  ASSERT_TRUE(first.ok() && second.ok());
  const absl::Status refused = watches.Reserve().status();
  EXPECT_TRUE(absl::IsResourceExhausted(refused)) << refused;
  EXPECT_EQ(GetErrorReason(refused)->reason, "OVERLOADED");
  std::shared_ptr<void> copy = *second;
  second->reset();
  EXPECT_FALSE(watches.Reserve().ok()) << "a copy holds it too";
  copy.reset();
  EXPECT_TRUE(watches.Reserve().ok());
}

TEST(ActivationWatches, EndsWhenItIsToldWithoutAnError) {
  ActivationWatches watches;
  RequestLimits limits;
  Watching watching(watches, "s", {.watch_us = kLong, .max_error_rate = 0}, limits);
  limits.Cancel();
  const absl::StatusOr<std::string> summary = watching.Join();
  ASSERT_TRUE(summary.ok());
  EXPECT_THAT(*summary, HasSubstr("the watch was ended"));
  watches.Record("s", "g", absl::StatusCode::kInternal, 0);  // Nobody watches any more.
}

}  // namespace
}  // namespace loci
