#include "server/quantize_command.h"

#include <cstdio>
#include <ios>
#include <istream>
#include <sstream>
#include <streambuf>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "encoder/testing/tiny_checkpoint.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace loci {
namespace {

using testing::HasSubstr;

class QuantizeCommandTest : public testing::Test {
 protected:
  void SetUp() override {
    model_ = testing::TempDir() + "/quantize_" + testing::UnitTest::GetInstance()->current_test_info()->name();
    ASSERT_TRUE(fs_.DeleteRecursively(model_).ok());
    ASSERT_TRUE(WriteTinyCheckpoint(fs_, model_, {}).ok());
  }
  void TearDown() override { EXPECT_TRUE(fs_.DeleteRecursively(model_).ok()); }

  static std::string Lines(int count) {
    std::string lines = "\n";
    for (int i = 0; i < count; ++i) {
      absl::StrAppend(&lines, i % 2 == 0 ? absl::StrCat("plain text ", i, "\r\n")
                                         : absl::StrCat("{\"id\": ", i, ", \"title\": \"T\", \"text\": \"number ", i,
                                                        "\", \"more\": [1]}\n"));
    }
    return lines;
  }

  absl::StatusOr<QuantizeResult> Run(std::vector<std::string> arguments, const std::string& input) {
    std::istringstream in(input);
    return RunQuantizeCommand(arguments, in);
  }

  FileSystem& fs_ = PosixFileSystem();
  std::string model_;
};

TEST_F(QuantizeCommandTest, PrintsAndRecordsFidelityAndSpeed) {
  const auto report = Run({"--model", model_, "--texts=-", "--sample", "20"}, Lines(45));
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_THAT(report->report, HasSubstr("int8 against float32, 20 texts"));
  EXPECT_THAT(report->report, HasSubstr("top-10 overlap"));
  EXPECT_THAT(report->report, HasSubstr("\nrecorded in"));
  const auto record = fs_.ReadFile(JoinPath(model_, kInt8FidelityFile));
  ASSERT_TRUE(record.ok()) << record.status();
  EXPECT_THAT(*record, HasSubstr("\"candidate\": \"int8\", \"text_count\": 20"));
}

TEST_F(QuantizeCommandTest, KeepsNoRecordWhereToldSo) {
  const auto report = Run({"--model", model_, "--texts", "-", "--record", ""}, Lines(30));
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_THAT(report->report, HasSubstr("30 texts"));
  EXPECT_FALSE(fs_.Exists(JoinPath(model_, kInt8FidelityFile)));
}

TEST_F(QuantizeCommandTest, ARecordThatCannotBeWrittenLosesNoReport) {
  const std::string record = JoinPath(model_, kInt8FidelityFile);
  ASSERT_TRUE(fs_.CreateDirectories(record + ".tmp").ok());
  const auto by_default = Run({"--model", model_, "--texts=-"}, Lines(20));
  ASSERT_TRUE(by_default.ok()) << by_default.status();
  EXPECT_THAT(by_default->report, HasSubstr("int8 against float32, 20 texts"));
  EXPECT_THAT(by_default->report, HasSubstr("\nnot recorded: "));
  EXPECT_THAT(by_default->report, HasSubstr(record));
  EXPECT_TRUE(by_default->recorded.ok()) << by_default->recorded;
  const auto asked = Run({"--model", model_, "--texts=-", "--record", record}, Lines(20));
  ASSERT_TRUE(asked.ok()) << asked.status();
  EXPECT_THAT(asked->report, HasSubstr("int8 against float32, 20 texts"));
  EXPECT_THAT(asked->report, HasSubstr("\nnot recorded: "));
  EXPECT_FALSE(asked->recorded.ok());
  for (const std::string& named : {model_, model_ + "/absent/x.json"}) {
    const auto report = Run({"--model", model_, "--texts=-", "--record", named}, Lines(20));
    ASSERT_TRUE(report.ok()) << report.status();
    EXPECT_FALSE(report->recorded.ok()) << named;
    EXPECT_THAT(report->report, HasSubstr("\nnot recorded: "));
  }
}

TEST_F(QuantizeCommandTest, HelpGivesTheRangeOfTheSample) { EXPECT_THAT(QuantizeHelp(), HasSubstr("20 to 10000, drawn at random (1000)")); }

TEST_F(QuantizeCommandTest, TheSampleIsOfAllTextsAndTheSameEachTime) {
  // Three tokens a text in the first half, six in the other: of 100 drawn from all, some 450.
  std::string lines;
  for (int i = 0; i < 1000; ++i) lines += i < 500 ? "tree\n" : "red tree by river\n";
  const auto tokens = [&]() -> int {
    const auto result = Run({"--model", model_, "--texts=-", "--sample=100"}, lines);
    EXPECT_TRUE(result.ok()) << result.status();
    int count = 0;
    if (!result.ok()) return 0;
    EXPECT_EQ(std::sscanf(result->report.c_str(), "int8 against float32, 100 texts of %d", &count), 1);
    return count;
  };
  const int count = tokens();
  EXPECT_GT(count, 400);
  EXPECT_LT(count, 500);
  EXPECT_EQ(tokens(), count);
}

// Ends in an error, as a disk that fails.
class FailingBuffer : public std::streambuf {
 public:
  explicit FailingBuffer(std::string content) : content_(std::move(content)) { setg(content_.data(), content_.data(), content_.data() + content_.size()); }

 protected:
  int_type underflow() override { throw std::ios_base::failure("the disk failed"); }

 private:
  std::string content_;
};

TEST_F(QuantizeCommandTest, TextsThatEndInAnErrorAreNotTheWhole) {
  FailingBuffer buffer(Lines(45));
  std::istream input(&buffer);
  const absl::Status status = RunQuantizeCommand({"--model", model_, "--texts", "-"}, input).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("-:47: cannot be read"));
  EXPECT_FALSE(fs_.Exists(JoinPath(model_, kInt8FidelityFile)));
}

TEST_F(QuantizeCommandTest, NamesWhatIsWrong) {
  const auto message = [&](std::vector<std::string> arguments, const std::string& input) {
    const absl::Status status = Run(std::move(arguments), input).status();
    EXPECT_FALSE(status.ok());
    return std::string(status.message());
  };
  EXPECT_THAT(message({}, ""), HasSubstr("--model"));
  EXPECT_THAT(message({"--model", model_}, ""), HasSubstr("--texts"));
  EXPECT_THAT(message({"--model"}, ""), HasSubstr("--model needs a value"));
  EXPECT_THAT(message({"--modle", model_}, ""), HasSubstr("no flag \"--modle\""));
  EXPECT_THAT(message({"--model", model_, "--texts", "-", "--sample", "19"}, ""), HasSubstr("20 to 10000"));
  EXPECT_THAT(message({"--model", model_, "--texts", "-"}, ""), HasSubstr("there are 0 texts"));
  EXPECT_THAT(message({"--model", model_, "--texts", "-"}, "{\"text\": 3}\n"),
              HasSubstr("-:1: the JSON object has no string \"text\""));
  EXPECT_THAT(message({"--model", model_, "--texts", "-"}, "a\n{\"text\"\n"), HasSubstr("-:2: not a JSON object"));
  EXPECT_THAT(message({"--model", model_, "--texts", "-"}, std::string("\x1f\x8b\x08\0\0\0\0\0\0\x03\n\xff", 12)),
              HasSubstr("- is gzipped; unpack it before: gzip -dc"));
  EXPECT_THAT(message({"--model", model_, "--texts", model_ + "/none"}, ""), HasSubstr("cannot read"));
  EXPECT_THAT(message({"--model", model_, "--texts", model_}, ""), HasSubstr("a folder; it must be a file"));
  EXPECT_FALSE(fs_.Exists(JoinPath(model_, kInt8FidelityFile)));
}

}  // namespace
}  // namespace loci
