#include "base/logging.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <thread>

#include "base/log_context.h"

namespace loci {
namespace {

TEST(Log, WritesOneLineWithTimeLevelAndComponent) {
  testing::internal::CaptureStderr();
  LogWarning("generation_manager", "activated g7");
  EXPECT_THAT(testing::internal::GetCapturedStderr(),
              testing::MatchesRegex("[0-9]+-[0-9]+-[0-9]+T[0-9]+:[0-9]+:[0-9]+\\.[0-9]+Z W generation_manager: activated g7\n"));
}

TEST(Log, EscapesControlCharactersAndKeepsUtf8) {
  testing::internal::CaptureStderr();
  LogInfo("server", std::string("a\nb\x1b[31m\x7f\0 \xc3\xa9", 13));
  EXPECT_THAT(testing::internal::GetCapturedStderr(), testing::EndsWith("I server: a\\nb\\x1b[31m\\x7f\\x00 \xc3\xa9\n"));
}

// Lines in another format or level end with the test.
class LogOptions : public testing::Test {
 protected:
  void TearDown() override {
    SetLogFormat(LogFormat::kText);
    SetLogLevel(LogLevel::kInfo);
  }
};

TEST_F(LogOptions, WritesOneJsonObjectALine) {
  SetLogFormat(LogFormat::kJson);
  testing::internal::CaptureStderr();
  Log(LogLevel::kError, "request", "a \"b\"\n\\", {{"request_id", "r-1"}, {"empty", ""}, {"code", "NOT_FOUND"}});
  EXPECT_THAT(testing::internal::GetCapturedStderr(),
              testing::MatchesRegex("\\{\"ts\":\"[0-9T:.-]+Z\",\"level\":\"error\",\"module\":\"request\","
                                    "\"message\":\"a \\\\\"b\\\\\"\\\\n\\\\\\\\\",\"request_id\":\"r-1\",\"code\":\"NOT_FOUND\"\\}\n"));
}

TEST_F(LogOptions, LeavesOutLinesBelowTheLevel) {
  SetLogLevel(LogLevel::kWarning);
  testing::internal::CaptureStderr();
  LogInfo("server", "quiet");
  LogWarning("server", "loud");
  EXPECT_THAT(testing::internal::GetCapturedStderr(), testing::AllOf(testing::HasSubstr("loud"), testing::Not(testing::HasSubstr("quiet"))));
}

TEST(Log, QuotesFieldsThatHaveSpaces) {
  testing::internal::CaptureStderr();
  Log(LogLevel::kInfo, "request", "failed", {{"method", "Search"}, {"error", "no \"x\""}});
  EXPECT_THAT(testing::internal::GetCapturedStderr(), testing::EndsWith("I request: failed method=Search error=\"no \\\"x\\\"\"\n"));
}

TEST(Log, NamesTheRequestThatItsThreadWorksFor) {
  testing::internal::CaptureStderr();
  {
    const ScopedLogContext outer("r-1", "4bf9");
    {
      const ScopedLogContext inner("r-2", "");
      LogInfo("a", "inner");
      EXPECT_EQ(CurrentRequestId(), "r-2");
      std::thread([] { LogInfo("a", "another"); }).join();
    }
    LogInfo("a", "outer");
    Log(LogLevel::kInfo, "a", "own", {{"request_id", "r-3"}});
  }
  LogInfo("a", "none");
  const std::string lines = testing::internal::GetCapturedStderr();
  for (const char* line : {"inner request_id=r-2\n", "another\n", "outer request_id=r-1 trace_id=4bf9\n", "own request_id=r-3 trace_id=4bf9\n", "none\n"}) {
    EXPECT_THAT(lines, testing::HasSubstr(std::string("I a: ") + line));
  }
}

TEST(JsonQuoted, TakesAnyBytes) {
  EXPECT_EQ(JsonQuoted(std::string("a\0\x1f\x7f", 4)), "\"a\\u0000\\u001f\\u007f\"");
  EXPECT_EQ(JsonQuoted("\xc3\xa9\xff\xc3"), "\"\xc3\xa9\xef\xbf\xbd\xef\xbf\xbd\"");
  EXPECT_EQ(JsonQuoted("\xed\xa0\x80"), "\"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\"") << "a surrogate";
  EXPECT_EQ(JsonQuoted(""), "\"\"");
}

TEST(CheckDeathTest, NamesTheCondition) {
  LOCI_CHECK(1 + 1 == 2);
  EXPECT_DEATH(LOCI_CHECK(1 + 1 == 3), "failed: 1 \\+ 1 == 3 at .*logging_test.cc");
}

}  // namespace
}  // namespace loci
