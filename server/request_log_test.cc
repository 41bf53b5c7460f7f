#include "server/request_log.h"

#include <string>

#include "base/logging.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace loci {
namespace {

using ::testing::AllOf;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::Not;

std::string Logged(const absl::Status& status) {
  RequestTrace trace;
  trace.request_id = "r-1";
  trace.trace_id = "4bf92f3577b34da6a3ce929d0e0e4736";
  PhaseTimes phases;
  phases.encode_us = 20;
  testing::internal::CaptureStderr();
  LogRequest({trace, Method::kSearch, status, 25, phases, "ipv4:127.0.0.1:9"});
  return testing::internal::GetCapturedStderr();
}

TEST(LogRequest, SaysWhatHappenedAndWhatRan) {
  EXPECT_THAT(Logged(absl::OkStatus()),
              AllOf(EndsWith("I request: answered method=Search code=OK duration_us=25 encode_us=20 request_id=r-1 "
                             "trace_id=4bf92f3577b34da6a3ce929d0e0e4736 peer=ipv4:127.0.0.1:9\n"),
                    Not(HasSubstr("search_us"))));
  EXPECT_THAT(Logged(absl::NotFoundError("no store x")), AllOf(HasSubstr("I request: failed method=Search code=NOT_FOUND"), EndsWith("error=\"no store x\"\n")));
  EXPECT_THAT(Logged(absl::DataLossError("bad sum")), HasSubstr("W request: failed"));
}

TEST(LogRequest, IsOneJsonObjectWhereThatIsChosen) {
  SetLogFormat(LogFormat::kJson);
  EXPECT_THAT(Logged(absl::OkStatus()), AllOf(HasSubstr("\"method\":\"Search\",\"code\":\"OK\",\"duration_us\":\"25\""),
                                              HasSubstr("\"trace_id\":\"4bf92f3577b34da6a3ce929d0e0e4736\""), EndsWith("}\n")));
  SetLogFormat(LogFormat::kText);
}

TEST(LogRequest, IsOfTheServersFaultsUnlessAllAreAskedFor) {
  EXPECT_FALSE(IsLogged(absl::OkStatus(), false));
  EXPECT_FALSE(IsLogged(absl::ResourceExhaustedError("busy"), false));
  EXPECT_TRUE(IsLogged(absl::InternalError("broken"), false));
  EXPECT_TRUE(IsLogged(absl::OkStatus(), true));
}

}  // namespace
}  // namespace loci
