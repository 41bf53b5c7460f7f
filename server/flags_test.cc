#include "server/flags.h"

#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <fstream>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/address.h"
#include "server/config.h"

namespace loci {
namespace {

using ::testing::HasSubstr;

TEST(ServerFlags, SetsNothingOfItsOwn) {
  const absl::StatusOr<ServerFlags> flags = ParseServerFlags({});
  ASSERT_TRUE(flags.ok());
  EXPECT_EQ(flags->overrides.ByteSizeLong(), 0u);
  EXPECT_EQ(EffectiveConfig(*flags)->SerializeAsString(), DefaultServerConfig().SerializeAsString());
}

TEST(ServerFlags, TakesBothForms) {
  const absl::StatusOr<ServerFlags> flags =
      ParseServerFlags({"--data-dir", "a=b", "--listen=127.0.0.1:0", "--metrics-listen", "[::1]:0", "--device=cpu", "--max-in-flight=7", "--encoder-precision=float32", "--search-device=cuda:1",
                        "--threads", "3", "--drain-timeout-s=0", "--max-ingests", "2", "--model", "m", "--abstain-threshold=0.25",
                        "--log-format", "json", "--log-level=error", "--log-requests", "--encoder", "one", "--encoder=two",
                        "--keep-generations=3"});
  ASSERT_TRUE(flags.ok()) << flags.status();
  const config::ServerConfig& config = flags->overrides;
  EXPECT_EQ(config.data_dir(), "a=b");
  EXPECT_EQ(config.listen(), "127.0.0.1:0");
  EXPECT_EQ(config.metrics_listen(), "[::1]:0");
  EXPECT_EQ(config.device(), "cpu");
  EXPECT_EQ(config.search_device(), "cuda:1");
  EXPECT_EQ(config.encoder_precision(), "float32");
  EXPECT_EQ(config.limits().max_in_flight(), 7);
  EXPECT_EQ(config.threads(), 3);
  EXPECT_TRUE(config.has_drain_timeout_s());
  EXPECT_EQ(config.drain_timeout_s(), 0);
  EXPECT_EQ(config.limits().max_ingests(), 2);
  EXPECT_EQ(config.model(), "m");
  ASSERT_EQ(config.encoders_size(), 2);
  EXPECT_EQ(config.encoders(1).model(), "two");
  EXPECT_EQ(config.keep_generations(), 3);
  EXPECT_EQ(config.reader().abstain_threshold(), 0.25);
  EXPECT_EQ(config.log().format(), config::Log::JSON);
  EXPECT_EQ(config.log().level(), config::Log::ERROR);
  EXPECT_TRUE(config.log().requests());
}

TEST(ServerFlags, StandOverTheFile) {
  const std::string path = testing::TempDir() + "/flags_test.txtpb";
  std::ofstream(path) << "threads: 2\nmodel: \"from-file\"\nlimits { max_ingests: 3 pushback_ms: 9 }\n";
  const absl::StatusOr<ServerFlags> flags = ParseServerFlags({"--threads=0", "--config", path, "--max-ingests=5", "--check-config"});
  ASSERT_TRUE(flags.ok()) << flags.status();
  EXPECT_TRUE(flags->check_config);
  const absl::StatusOr<config::ServerConfig> config = EffectiveConfig(*flags);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->threads(), 0);
  EXPECT_EQ(config->model(), "from-file");
  EXPECT_EQ(config->limits().max_ingests(), 5);
  EXPECT_EQ(config->limits().pushback_ms(), 9);
  std::ofstream(path) << "thread: 2\n";
  EXPECT_THAT(std::string(EffectiveConfig(*flags).status().message()), HasSubstr(path + ":1:"));
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
  EXPECT_THAT(error({"--log-format=xml"}), HasSubstr("--log-format is \"xml\"; it must be text or json"));
  EXPECT_THAT(error({"--log-level", "debug"}), HasSubstr("it must be info, warning or error"));
  EXPECT_THAT(error({"--search-device="}), HasSubstr("--search-device is empty"));
  const auto in_effect = [](std::vector<std::string> arguments) {
    return std::string(EffectiveConfig(*ParseServerFlags(arguments)).status().message());
  };
  EXPECT_EQ(in_effect({"--search-device=gpu"}), "search_device is \"gpu\"; it must be auto, cpu or cuda:N");
  EXPECT_EQ(in_effect({"--search-device", "cuda:-1"}), "search_device is \"cuda:-1\"; it must be auto, cpu or cuda:N");
  EXPECT_THAT(error({"--check-config=yes"}), HasSubstr("unknown argument"));
}

TEST(ServerFlags, HelpNamesEveryFlag) {
  EXPECT_TRUE(ParseServerFlags({"--help"})->help);
  EXPECT_TRUE(ParseServerFlags({"--version"})->version);
  for (const char* flag : {"--config", "--data-dir", "--model", "--listen", "--metrics-listen", "--device", "--encoder-precision", "--search-device", "--threads", "--max-in-flight",
                           "--max-ingests", "--drain-timeout-s", "--abstain-threshold", "--check-config", "--log-format",
                           "--log-level", "--log-requests"}) {
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
