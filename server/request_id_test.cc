#include "server/request_id.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace loci {
namespace {

using ::testing::MatchesRegex;

constexpr char kParent[] = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

TEST(RequestTrace, KeepsTheClientsIdAndReplacesWhatIsNone) {
  EXPECT_EQ(MakeRequestTrace("order-17/a", "", "").request_id, "order-17/a");
  EXPECT_EQ(MakeRequestTrace(std::string(128, 'x'), "", "").request_id, std::string(128, 'x'));
  for (const std::string& bad : {std::string(), std::string(129, 'x'), std::string("a b"), std::string("a\nb"), std::string("a\x7f"), std::string("\xc3\xa9")}) {
    EXPECT_THAT(MakeRequestTrace(bad, "", "").request_id, MatchesRegex("[0-9a-f]{16}"));
  }
  EXPECT_NE(MakeRequestTrace("", "", "").request_id, MakeRequestTrace("", "", "").request_id);
}

TEST(RequestTrace, TakesAPlaceInTheTrace) {
  const RequestTrace trace = MakeRequestTrace("", kParent, "");
  EXPECT_EQ(trace.trace_id, "4bf92f3577b34da6a3ce929d0e0e4736");
  EXPECT_EQ(trace.parent_id, "00f067aa0ba902b7");
  EXPECT_TRUE(trace.sampled);
  EXPECT_THAT(trace.span_id, MatchesRegex("[0-9a-f]{16}"));
  EXPECT_NE(trace.span_id, trace.parent_id);
  EXPECT_EQ(trace.Traceparent(), "00-4bf92f3577b34da6a3ce929d0e0e4736-" + trace.span_id + "-01");
}

TEST(RequestTrace, PassesOnOnlyTheFlagThatItKnows) {
  const std::string start(kParent, sizeof(kParent) - 3);
  EXPECT_THAT(MakeRequestTrace("", start + "00", "").Traceparent(), MatchesRegex(".*-00"));
  EXPECT_THAT(MakeRequestTrace("", start + "fe", "").Traceparent(), MatchesRegex(".*-00"));
  EXPECT_THAT(MakeRequestTrace("", start + "ff", "").Traceparent(), MatchesRegex(".*-01"));
}

TEST(RequestTrace, TakesALaterVersionAsItsOwn) {
  const std::string later = "01" + std::string(kParent + 2);
  EXPECT_THAT(MakeRequestTrace("", later + "-more", "").Traceparent(), MatchesRegex("00-4bf9.*-01"));
  EXPECT_EQ(MakeRequestTrace("", later + "more", "").trace_id, "");
}

TEST(RequestTrace, IgnoresAMalformedTraceparent) {
  const std::string good = kParent;
  std::string upper = good, zero_trace = good, zero_span = good, dash = good, flags = good;
  upper[3] = 'A';
  zero_trace.replace(3, 32, 32, '0');
  zero_span.replace(36, 16, 16, '0');
  dash[35] = '_';
  flags[54] = 'g';
  for (const std::string& bad : {std::string(), good.substr(1), good.substr(0, 54), good + "-more", good + "0", "ff" + good.substr(2), upper, zero_trace,
                                 zero_span, dash, flags, std::string(10'000, '-')}) {
    const RequestTrace trace = MakeRequestTrace("", bad, "a=b");
    EXPECT_EQ(trace.trace_id, "") << bad;
    EXPECT_EQ(trace.trace_state, "") << bad;
  }
}

TEST(RequestTrace, PassesOnATraceStateThatIsOne) {
  std::string many, too_many;
  for (int i = 0; i < 33; ++i) (i < 32 ? many : too_many) += (i > 0 ? ",k" : "k") + std::to_string(i) + "=v";
  too_many = many + too_many;
  for (const std::string& good : {std::string("congo=t61rcWkgMzE,rojo=00f067aa0ba902b7"), std::string("a=b"), std::string(" a=b ,, 1x@y= c d "), many}) {
    EXPECT_EQ(MakeRequestTrace("", kParent, good).trace_state, good);
  }
  for (const std::string& bad : {std::string("a"), std::string("A=b"), std::string("=b"), std::string("a="), std::string("a=b=c"), std::string("a=b,a=c"),
                                 std::string("a=\x01"), std::string("a=b\t"), std::string("\ta=b"), std::string("a=b\x7f"), std::string("a=\xc3\xa9"), std::string(","), "a=" + std::string(511, 'x'), too_many}) {
    EXPECT_EQ(MakeRequestTrace("", kParent, bad).trace_state, "") << bad;
    EXPECT_NE(MakeRequestTrace("", kParent, bad).trace_id, "") << "the trace stays";
  }
}

}  // namespace
}  // namespace loci
