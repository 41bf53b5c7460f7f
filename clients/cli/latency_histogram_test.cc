#include "clients/cli/latency_histogram.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

namespace loci {
namespace {

TEST(LatencyHistogram, PercentilesAgreeWithSortedValues) {
  std::mt19937_64 random(7);
  std::lognormal_distribution<double> distribution(8, 2);
  std::vector<int64_t> values;
  LatencyHistogram a, b;
  for (int i = 0; i < 20'000; ++i) {
    values.push_back(static_cast<int64_t>(distribution(random)));
    (i % 3 == 0 ? a : b).Add(values.back());
  }
  a.Merge(b);
  std::sort(values.begin(), values.end());
  EXPECT_EQ(a.count(), 20'000);
  EXPECT_EQ(a.max_us(), values.back());
  for (const double fraction : {0.001, 0.1, 0.5, 0.9, 0.99, 0.999, 1.0}) {
    const int64_t exact = values[static_cast<size_t>(std::ceil(fraction * 20'000)) - 1];
    const int64_t got = a.PercentileUs(fraction);
    EXPECT_GE(got, exact) << fraction;
    EXPECT_LE(static_cast<double>(got), static_cast<double>(exact) * (1 + 1.0 / 128)) << fraction;
  }
}

TEST(LatencyHistogram, HoldsExtremes) {
  LatencyHistogram histogram;
  EXPECT_EQ(histogram.PercentileUs(0.5), 0);
  for (const int64_t value : {int64_t{-5}, int64_t{255}, int64_t{256}, INT64_MAX}) histogram.Add(value);
  EXPECT_EQ(histogram.PercentileUs(0.25), 0);
  EXPECT_EQ(histogram.PercentileUs(0.5), 255);
  EXPECT_EQ(histogram.PercentileUs(0.75), 257);
  EXPECT_EQ(histogram.PercentileUs(1), int64_t{1} << 40);
}

}  // namespace
}  // namespace loci
