#include "retriever/work_forecast.h"

#include <gtest/gtest.h>

#include <utility>

namespace loci {
namespace {

TEST(WorkForecast, AddsUpWhatWaits) {
  WorkForecast forecast(2);
  WorkForecast::Waiting text = forecast.AddText();
  WorkForecast::Waiting search = forecast.AddSearch();
  EXPECT_EQ(forecast.DelayMicros(), 0) << "nothing was measured yet";
  forecast.TokenizeTook(10);
  forecast.SearchTook(100);
  EXPECT_EQ(forecast.DelayMicros(), (10 + 100) / 2);
  WorkForecast::Waiting second = forecast.AddSearch();
  EXPECT_EQ(forecast.DelayMicros(), (10 + 200) / 2);
  text.End();
  text.End();
  search = std::move(second);
  EXPECT_EQ(forecast.DelayMicros(), 100 / 2);
  search = WorkForecast::Waiting();
  EXPECT_EQ(forecast.DelayMicros(), 0) << "nothing waits";
}

TEST(WorkForecast, FollowsWhatItMeasures) {
  WorkForecast forecast(1);
  const WorkForecast::Waiting search = forecast.AddSearch();
  forecast.SearchTook(100);
  for (int i = 0; i < 200; ++i) forecast.SearchTook(1'000);
  EXPECT_NEAR(forecast.DelayMicros(), 1'000, 1);
}

}  // namespace
}  // namespace loci
