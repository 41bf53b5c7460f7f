#include "base/logging.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

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

TEST(CheckDeathTest, NamesTheCondition) {
  LOCI_CHECK(1 + 1 == 2);
  EXPECT_DEATH(LOCI_CHECK(1 + 1 == 3), "failed: 1 \\+ 1 == 3 at .*logging_test.cc");
}

}  // namespace
}  // namespace loci
