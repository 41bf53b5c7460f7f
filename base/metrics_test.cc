#include "base/metrics.h"

#include <gtest/gtest.h>

#include "base/fake_metrics.h"

namespace loci {
namespace {

TEST(NullMetrics, TakesEverything) {
  NullMetrics().counter("loci_x_total", "help", {{"a", "b"}}).Add(1);
  NullMetrics().gauge("loci_x", "help", {}).Set(-1);
  NullMetrics().histogram("loci_x_seconds", "help", {}, {0.1, 1}).Observe(3);
  EXPECT_EQ(&NullMetrics(), &NullMetrics());
}

TEST(FakeMetrics, RemembersEachSeries) {
  FakeMetrics metrics;
  metrics.counter("c", "", {{"a", "1"}}).Add(2);
  metrics.counter("c", "", {{"a", "1"}}).Add(3);
  metrics.counter("c", "", {{"a", "2"}}).Add(7);
  metrics.gauge("g", "", {}).Set(4);
  metrics.gauge("g", "", {}).Set(1);
  EXPECT_EQ(metrics.value("c", {{"a", "1"}}), 5);
  EXPECT_EQ(metrics.update_count("c", {{"a", "1"}}), 2);
  EXPECT_EQ(metrics.value("c", {{"a", "2"}}), 7);
  EXPECT_EQ(metrics.value("g"), 1);
}

}  // namespace
}  // namespace loci
