#include "server/flags.h"

#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/address.h"

namespace loci {
namespace {

using ::testing::HasSubstr;

TEST(ServerFlags, HasDefaults) {
  const absl::StatusOr<ServerFlags> flags = ParseServerFlags({});
  ASSERT_TRUE(flags.ok());
  EXPECT_EQ(flags->listen, "127.0.0.1:7440");
  EXPECT_EQ(flags->metrics_listen, "127.0.0.1:7441");
  EXPECT_EQ(flags->model, "models/all-MiniLM-L6-v2");
  EXPECT_EQ(flags->device, "auto");
}

TEST(ServerFlags, TakesBothForms) {
  const absl::StatusOr<ServerFlags> flags =
      ParseServerFlags({"--data-dir", "a=b", "--listen=127.0.0.1:0", "--metrics-listen", "[::1]:0", "--device=cpu", "--max-in-flight=7",
                        "--threads", "3", "--drain-timeout-s=0", "--max-ingests", "2", "--model", "m", "--abstain-threshold=0.25"});
  ASSERT_TRUE(flags.ok()) << flags.status();
  EXPECT_EQ(flags->data_dir, "a=b");
  EXPECT_EQ(flags->listen, "127.0.0.1:0");
  EXPECT_EQ(flags->metrics_listen, "[::1]:0");
  EXPECT_EQ(flags->device, "cpu");
  EXPECT_EQ(flags->max_in_flight, 7);
  EXPECT_EQ(flags->threads, 3);
  EXPECT_EQ(flags->drain_timeout_s, 0);
  EXPECT_EQ(flags->max_ingests, 2);
  EXPECT_EQ(flags->model, "m");
  EXPECT_EQ(flags->abstain_threshold, 0.25);
}

TEST(ServerFlags, NamesWhatIsWrong) {
  const auto error = [](std::vector<std::string> arguments) { return std::string(ParseServerFlags(arguments).status().message()); };
  EXPECT_THAT(error({"--lisen", "x:1"}), HasSubstr("unknown argument \"--lisen\""));
  EXPECT_THAT(error({"serve"}), HasSubstr("unknown argument \"serve\""));
  EXPECT_THAT(error({"--listen"}), HasSubstr("--listen needs a value"));
  EXPECT_THAT(error({"--data-dir="}), HasSubstr("--data-dir is empty"));
  EXPECT_THAT(error({"--listen=7440"}), HasSubstr("--listen: \"7440\" is not an address"));
  EXPECT_THAT(error({"--listen=localhost:70000"}), HasSubstr("not an address"));
  EXPECT_THAT(error({"--listen=localhost:-1"}), HasSubstr("not an address"));
  EXPECT_THAT(error({"--listen=:80"}), HasSubstr("not an address"));
  EXPECT_THAT(error({"--listen=::1:80"}), HasSubstr("not an address"));
  EXPECT_THAT(error({"--max-in-flight", "0"}), HasSubstr("from 1 to 1000000"));
  EXPECT_THAT(error({"--threads", "2x"}), HasSubstr("--threads is \"2x\""));
  EXPECT_THAT(error({"--abstain-threshold", "1.5"}), HasSubstr("--abstain-threshold is \"1.5\"; it must be a number from 0 to 1"));
  EXPECT_THAT(error({"--abstain-threshold=nan"}), HasSubstr("from 0 to 1"));
  EXPECT_THAT(error({"--config", "loci.txtpb"}), HasSubstr("--config is not available yet"));
}

TEST(ServerFlags, HelpNamesEveryFlag) {
  EXPECT_TRUE(ParseServerFlags({"--help"})->help);
  EXPECT_TRUE(ParseServerFlags({"--version"})->version);
  for (const char* flag : {"--config", "--data-dir", "--model", "--listen", "--metrics-listen", "--device", "--threads", "--max-in-flight",
                           "--max-ingests", "--drain-timeout-s", "--abstain-threshold"}) {
    EXPECT_THAT(ServerHelp(), HasSubstr(flag));
  }
}

TEST(Address, PrintsWhatItParses) {
  EXPECT_EQ(ParseHostPort("127.0.0.1:7440")->ToString(), "127.0.0.1:7440");
  EXPECT_EQ(ParseHostPort("[::1]:0")->ToString(), "[::1]:0");
  EXPECT_EQ(ParseHostPort("[::1]:0")->host, "::1");
}

TEST(Address, SaysWhyItCannotListen) {
  EXPECT_TRUE(CheckCanListen({"127.0.0.1", 0}).ok());
  EXPECT_THAT(std::string(CheckCanListen({"no.such.host.invalid", 0}).message()), HasSubstr("cannot listen on no.such.host.invalid:0"));
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  ASSERT_EQ(bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  ASSERT_EQ(listen(fd, 1), 0);
  socklen_t size = sizeof(address);
  ASSERT_EQ(getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size), 0);
  const absl::Status taken = CheckCanListen({"127.0.0.1", ntohs(address.sin_port)});
  EXPECT_EQ(taken.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(taken.message()), HasSubstr("Address already in use"));
  close(fd);
}

}  // namespace
}  // namespace loci
