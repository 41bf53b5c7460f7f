#include "retriever/pass_forecast.h"

#include <gtest/gtest.h>

#include <cstdint>

namespace loci {
namespace {

TEST(PassForecast, KnowsWhatItMeasured) {
  PassForecast forecast;
  EXPECT_EQ(forecast.Micros(1, 1'000'000), 0);
  forecast.Took(5, 1'000'000, 4'000);
  forecast.Took(1, 1'000'000, 1'000);
  EXPECT_EQ(forecast.Micros(4, 1'000'000), 4'000);
  EXPECT_EQ(forecast.Micros(7, 2'000'000), 8'000) << "twice the vectors";
  EXPECT_EQ(forecast.Micros(1, 1'000'000), 1'000);
  EXPECT_EQ(forecast.Micros(3, 1'000'000), 0);
  EXPECT_EQ(forecast.Micros(8, 1'000'000), 0);
  forecast.Took(64, 1'000, 50);
  EXPECT_EQ(forecast.Micros(INT64_MAX, 1'000), 50);
  forecast.Took(0, 1'000, 50);
  forecast.Took(2, 0, 50);
  EXPECT_EQ(forecast.Micros(2, 1'000), 0);
}

TEST(PassForecast, LargeStoresSayMoreThanSmallOnes) {
  PassForecast forecast;
  forecast.Took(1, 1'000, 100);  // Of which little is for its vectors.
  forecast.Took(1, 1'000'000'000, 1'000'000);
  EXPECT_EQ(forecast.Micros(1, 1'000'000'000), 1'000'000);
  for (int i = 0; i < 50; ++i) forecast.Took(1, 1'000, 100);
  EXPECT_NEAR(static_cast<double>(forecast.Micros(1, 1'000'000'000)), 1'000'000, 10'000);
}

TEST(PassForecast, FollowsWhatItMeasures) {
  PassForecast forecast;
  forecast.Took(1, 1'000'000, 90'000);
  for (int i = 0; i < 20; ++i) forecast.Took(1, 1'000'000, 1'000);
  EXPECT_NEAR(static_cast<double>(forecast.Micros(1, 1'000'000)), 1'000, 10);
}

TEST(PassForecast, WhatIsNotTriedIsBelievedLessAndLess) {
  PassForecast forecast;
  forecast.Took(64, 1'000'000, 90'000);
  forecast.Avoided(64);
  EXPECT_GT(forecast.Micros(64, 1'000'000), 80'000);
  for (int i = 0; i < 300; ++i) forecast.Avoided(64);
  EXPECT_LT(forecast.Micros(64, 1'000'000), 1'000);
}

}  // namespace
}  // namespace loci
