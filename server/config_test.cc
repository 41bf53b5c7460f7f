#include "server/config.h"

#include <fcntl.h>
#include <unistd.h>

#include <random>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace loci {
namespace {

using ::testing::AllOf;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

std::string Error(const std::string& text) { return std::string(ParseServerConfig(text, "f.txtpb").status().message()); }

TEST(ServerConfig, DefaultsAreThoseOfTheOptions) {
  const config::ServerConfig config = DefaultServerConfig();
  EXPECT_TRUE(CheckServerConfig(config).ok());
  const ServerOptions options = ToServerOptions(config);
  const ServerOptions defaults;
  EXPECT_EQ(options.listen, defaults.listen);
  EXPECT_EQ(options.max_in_flight_bytes, defaults.max_in_flight_bytes);
  EXPECT_EQ(options.drain_timeout_ms, defaults.drain_timeout_ms);
  EXPECT_EQ(options.keepalive.min_ping_interval_ms, defaults.keepalive.min_ping_interval_ms);
  EXPECT_EQ(options.batcher.max_queued_tokens, defaults.batcher.max_queued_tokens);
  EXPECT_EQ(options.abstain_threshold, defaults.abstain_threshold);
  EXPECT_EQ(options.live_recall_share, 0.01);
}

TEST(ServerConfig, PrintsWhatItReads) {
  const std::string text = R"(
    data_dir: "/var/lib/l\u00f6ci"  # A comment.
    listen: "0.0.0.0:7440"
    limits { max_in_flight: 7 ingest_idle_timeout_ms: 100 }
    keepalive { time_ms: 1000 }
    log { format: JSON level: WARNING requests: true }
    reader { abstain_threshold: 0.25 }
    method_limits { method: "Search" max_in_flight: 3 }
    method_limits { method: "Answer" max_deadline_ms: 500 }
    keep_generations: 3
    memory_budget_bytes: 4000000000
    search_device: "cuda:1"
    search_device_memory_bytes: 5000000000
    live_recall_share: 0.5
    encoders { model: "models/one" }
    encoders: [{ model: "models/two" }])";
  const absl::StatusOr<config::ServerConfig> config = ParseServerConfig(text, "f");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_FALSE(config->has_model()) << "what is not in the file is not set";
  config::ServerConfig effective = DefaultServerConfig();
  effective.MergeFrom(*config);
  const ServerOptions options = ToServerOptions(effective);
  EXPECT_EQ(options.max_in_flight, 7);
  EXPECT_EQ(options.max_ingests, ServerOptions().max_ingests);
  EXPECT_EQ(options.keepalive.time_ms, 1000);
  EXPECT_TRUE(options.log_requests);
  ASSERT_EQ(options.method_limits.size(), 2u);
  EXPECT_EQ(options.method_limits[1].max_deadline_ms, 500);
  EXPECT_EQ(options.keep_generations, 3);
  EXPECT_EQ(options.memory_budget_bytes, 4'000'000'000);
  EXPECT_EQ(options.search_device, "cuda:1");
  EXPECT_EQ(options.search_device_memory_bytes, 5'000'000'000);
  EXPECT_EQ(options.live_recall_share, 0.5);
  EXPECT_EQ(options.encoder_directories, (std::vector<std::string>{"models/one", "models/two"}));
  const absl::StatusOr<config::ServerConfig> again = ParseServerConfig(PrintServerConfig(effective), "g");
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->SerializeAsString(), effective.SerializeAsString());
}

TEST(ServerConfig, TellsWhereTheMistakeIs) {
  EXPECT_THAT(Error("data_dir: \"a\"\n  colour: 3\n"), AllOf(StartsWith("f.txtpb:2:"), HasSubstr("colour")));
  EXPECT_THAT(Error("\nthreads: \"two\""), AllOf(StartsWith("f.txtpb:2:10: "), HasSubstr("integer")));
  EXPECT_THAT(Error("limits {\n  max_in_flight: 0\n}"), StartsWith("f.txtpb:2:3: limits.max_in_flight is 0; it must be from 1 to 1000000"));
  EXPECT_THAT(Error("threads: 99999999999"), StartsWith("f.txtpb:1:"));
  EXPECT_THAT(Error("threads: 1\nthreads: 2"), StartsWith("f.txtpb:2:"));
  EXPECT_THAT(Error("\n\n listen: \"7440\""), StartsWith("f.txtpb:3:2: listen: \"7440\" is not an address"));
  EXPECT_THAT(Error("data_dir: \"\""), StartsWith("f.txtpb:1:1: data_dir is empty"));
  EXPECT_THAT(Error("reader { abstain_threshold: nan }"), HasSubstr("it must be from 0 to 1"));
  EXPECT_THAT(Error("log { level: LOUD }"), AllOf(StartsWith("f.txtpb:1:"), HasSubstr("LOUD")));
  EXPECT_THAT(Error("log { level: 7 }"), StartsWith("f.txtpb:1:7: log.level is 7, which has no name"));
  EXPECT_EQ(Error("limits {"), "f.txtpb:1:8: the block that begins here with { is not closed");
  EXPECT_EQ(Error("\ndevice: \"tpu\""), "f.txtpb:2:1: device is \"tpu\"; it must be auto, cpu or cuda:N");
  for (const char* const device : {"auto", "cpu", "cuda:0", "cuda:7"}) {
    EXPECT_TRUE(ParseServerConfig(std::string("device: \"") + device + "\"", "f").ok()) << device;
    EXPECT_TRUE(ParseServerConfig(std::string("search_device: \"") + device + "\"", "f").ok()) << device;
  }
  EXPECT_EQ(Error("search_device: \"cuda\""), "f.txtpb:1:1: search_device is \"cuda\"; it must be auto, cpu or cuda:N");
  EXPECT_THAT(Error("search_device_memory_bytes: -1"), HasSubstr("it must be from 0 to"));
  EXPECT_EQ(Error("encoder_precision: \"fp16\""),
            "f.txtpb:1:1: encoder_precision is \"fp16\"; it must be auto, float32, bfloat16 or float16");
  EXPECT_THAT(Error("encoder_precision: \"int8\""), HasSubstr("do not interchange"));
  for (const char* const precision : {"auto", "float32", "bfloat16", "float16"}) {
    EXPECT_TRUE(ParseServerConfig(std::string("encoder_precision: \"") + precision + "\"", "f").ok()) << precision;
  }
  EXPECT_THAT(Error("model: \"m\"\n#\xff"), StartsWith("f.txtpb:2:2: is not UTF-8"));
}

TEST(ServerConfig, TellsOfEveryMistakeWithItsLine) {
  EXPECT_EQ(Error("threads: 1\n"
                  "colour: 3\n"
                  "limits {\n"
                  "  max_ingests: 0\n"
                  "  max_in_flight: 0\n"
                  "}\n"
                  "threads: two\n"
                  "device: \"tpu\"\n"),
            "f.txtpb:2:7: Message type \"loci.config.ServerConfig\" has no field named \"colour\".\n"
            "f.txtpb:4:3: limits.max_ingests is 0; it must be from 1 to 64\n"
            "f.txtpb:5:3: limits.max_in_flight is 0; it must be from 1 to 1000000\n"
            "f.txtpb:7:8: Non-repeated field \"threads\" is specified multiple times.\n"
            "f.txtpb:8:1: device is \"tpu\"; it must be auto, cpu or cuda:N");
  EXPECT_EQ(Error("\xEF\xBB\xBFthreads: 1\ncolour: 3"),
            "f.txtpb:1:1: begins with a byte order mark; save it as UTF-8 without one\n"
            "f.txtpb:2:7: Message type \"loci.config.ServerConfig\" has no field named \"colour\".");
  // Where a block ends is not guessed.
  EXPECT_EQ(Error("colour: 3\nlog { # {{\n  format: \"}\"\n  format: JSON\nreader {\n}\n"),
            "f.txtpb:2:5: the block that begins here with { is not closed");
  EXPECT_THAT(Error("colours { red: 1 }\ncolour: 3"), AllOf(StartsWith("f.txtpb:1:"), Not(HasSubstr("\n"))));
  std::string many;
  for (int i = 0; i < 100; ++i) many += "colour: 3\n";
  EXPECT_THAT(Error(many), AllOf(HasSubstr("f.txtpb:20:7: "), Not(HasSubstr("f.txtpb:21:")), EndsWith("\nand more")));
}

TEST(ServerConfig, NamesTheMethodOfALimit) {
  EXPECT_THAT(Error("method_limits { method: \"Search\" }\nmethod_limits {\n method: \"Serach\" }"),
              StartsWith("f.txtpb:3:2: method_limits[1].method is \"Serach\"; it must be a method's name"));
  EXPECT_THAT(Error("method_limits { max_in_flight: 3 }"), HasSubstr("method_limits[0].method is not set"));
  EXPECT_THAT(Error("encoders { model: \"a\" }\n encoders { }"), StartsWith("f.txtpb:2:2: encoders[1].model is not set"));
  EXPECT_THAT(Error("\nkeep_generations: 1001"), StartsWith("f.txtpb:2:1: keep_generations is 1001; it must be from 0 to 1000"));
  EXPECT_THAT(Error("method_limits { method: \"Ingest\" }"), HasSubstr("is Ingest, a stream"));
  EXPECT_THAT(Error("method_limits { method: \"Search\" }\nmethod_limits { method: \"Search\" }"),
              AllOf(StartsWith("f.txtpb:2:1: "), HasSubstr("above")));
}

TEST(ServerConfig, TakesAnEmptyText) { EXPECT_TRUE(ParseServerConfig("", "f").ok()); }

TEST(ServerConfig, SurvivesAnyText) {
  const std::string good = PrintServerConfig(DefaultServerConfig()) + "method_limits { method: \"Search\" max_in_flight: 3 }";
  std::mt19937 random(7);
  int refused = 0;
  for (int i = 0; i < 3'000; ++i) {
    std::string text = good;
    for (int change = 0; change < 3; ++change) {
      const size_t at = random() % text.size();
      if (random() % 3 == 0) {
        text.erase(at, random() % 20);
      } else {
        text[at] = static_cast<char>(random() % 256);
      }
    }
    const absl::StatusOr<config::ServerConfig> config = ParseServerConfig(text, "f");
    if (config.ok()) {
      EXPECT_TRUE(CheckServerConfig(*config).ok());
    } else {
      ++refused;
      EXPECT_THAT(std::string(config.status().message()), testing::ContainsRegex("^f:[1-9][0-9]*:[1-9][0-9]*: .")) << text;
    }
  }
  EXPECT_GT(refused, 1'000);
  std::string deep;
  for (int i = 0; i < 100'000; ++i) deep += "limits{";
  EXPECT_THAT(Error(deep), StartsWith("f.txtpb:1:"));
}

TEST(ServerConfigFile, RefusesWhatIsNoConfiguration) {
  const auto error = [](const std::string& path) { return std::string(LoadServerConfig(path).status().message()); };
  EXPECT_THAT(error("/no/such/file"), HasSubstr("cannot read the configuration /no/such/file: No such file"));
  EXPECT_THAT(error(testing::TempDir()), HasSubstr("it is not a file"));
  EXPECT_THAT(error("/dev/zero"), HasSubstr("it is not a file"));
  const std::string path = testing::TempDir() + "/huge.txtpb";
  const int fd = open(path.c_str(), O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0600);
  ASSERT_GE(fd, 0);
  EXPECT_TRUE(LoadServerConfig(path).ok()) << "empty";
  ASSERT_EQ(ftruncate(fd, 1 << 30), 0);
  close(fd);
  EXPECT_THAT(error(path), HasSubstr("it is larger than 1048576 bytes"));
  unlink(path.c_str());
}

}  // namespace
}  // namespace loci
