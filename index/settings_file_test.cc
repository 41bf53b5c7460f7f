#include "index/settings_file.h"

#include <cstdlib>

#include "gtest/gtest.h"

namespace loci {
namespace {

storage::StoreSettings Settings() {
  storage::StoreSettings settings;
  settings.set_keep_generations(3);
  settings.add_pinned("20260101-000000-0000");
  return settings;
}

TEST(SettingsFile, NoticesEveryDamagedByte) {
  const std::string content = SerializeSettings(Settings());
  EXPECT_EQ(ParseSettings(content)->keep_generations(), 3);
  EXPECT_EQ(ParseSettings(content)->pinned(0), "20260101-000000-0000");
  for (size_t i = 0; i < content.size(); ++i) {
    std::string damaged = content;
    damaged[i] ^= 1;
    EXPECT_EQ(ParseSettings(damaged).status().code(), absl::StatusCode::kDataLoss) << i;
    EXPECT_EQ(ParseSettings(content.substr(0, i)).status().code(), absl::StatusCode::kDataLoss) << i;
  }
}

TEST(SettingsFile, RefusesWhatCannotBeSet) {
  storage::StoreSettings settings = Settings();
  settings.set_keep_generations(kMaxKeepGenerations + 1);
  EXPECT_EQ(ParseSettings(SerializeSettings(settings)).status().code(), absl::StatusCode::kDataLoss);
  settings.set_keep_generations(-1);
  EXPECT_EQ(ParseSettings(SerializeSettings(settings)).status().code(), absl::StatusCode::kDataLoss);
}

TEST(SettingsFile, KnowsInt8AndNoOtherPrecision) {
  storage::StoreSettings settings = Settings();
  for (const char* known : {"", "int8"}) {
    settings.set_encoder_precision(known);
    EXPECT_EQ(ParseSettings(SerializeSettings(settings))->encoder_precision(), known);
  }
  for (const char* unknown : {"auto", "int4", "INT8"}) {
    settings.set_encoder_precision(unknown);
    EXPECT_EQ(ParseSettings(SerializeSettings(settings)).status().code(), absl::StatusCode::kDataLoss) << unknown;
  }
}

TEST(SettingsFile, WithoutAFileNothingIsSet) {
  std::string pattern = testing::TempDir() + "/settings_XXXXXX";
  const std::string directory = mkdtemp(pattern.data());
  const auto nothing = ReadSettings(PosixFileSystem(), directory);
  ASSERT_TRUE(nothing.ok()) << nothing.status();
  EXPECT_FALSE(nothing->has_keep_generations());
  storage::StoreSettings all;
  all.set_keep_generations(0);
  ASSERT_TRUE(WriteSettings(PosixFileSystem(), directory, all).ok());
  EXPECT_TRUE(ReadSettings(PosixFileSystem(), directory)->has_keep_generations());
}

}  // namespace
}  // namespace loci
