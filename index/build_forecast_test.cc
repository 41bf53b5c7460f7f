#include "index/build_forecast.h"

#include <filesystem>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "index/generation.h"

namespace loci {
namespace {

constexpr int kDim = 64;

int64_t SizeOfFolder(const std::string& path) {
  int64_t bytes = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(path)) {
    if (entry.is_regular_file()) bytes += static_cast<int64_t>(entry.file_size());
  }
  return bytes;
}

class BuildForecastTest : public testing::Test {
 protected:
  BuildForecastTest() {
    std::string pattern = testing::TempDir() + "/build_forecast_XXXXXX";
    directory_ = mkdtemp(pattern.data());
  }
  ~BuildForecastTest() override { std::filesystem::remove_all(directory_); }

  absl::StatusOr<std::unique_ptr<GenerationBuilder>> Create(BuildOptions options) {
    options.dim = kDim;
    options.available_disk_bytes = [this](const std::string&) { return available_bytes_; };
    options.available_memory_bytes = [this] { return available_memory_bytes_; };
    return GenerationBuilder::Create(PosixFileSystem(), Path(), "s", "20261121-000000-0000", std::move(options));
  }
  std::string Path() const { return directory_ + "/20261121-000000-0000"; }
  static std::vector<loci::v1::Passage> Passages(int64_t count, int64_t* bytes) {
    std::vector<loci::v1::Passage> passages(static_cast<size_t>(count));
    for (int64_t i = 0; i < count; ++i) {
      passages[i].set_id(absl::StrCat("p", 100000 + i));
      for (int j = 0; j < 40; ++j) absl::StrAppend(passages[i].mutable_text(), i * 7919 + j * 104729, " ");
      *bytes += static_cast<int64_t>(passages[i].ByteSizeLong());
    }
    return passages;
  }

  std::string directory_;
  int64_t available_bytes_ = -1, available_memory_bytes_ = -1;
};

TEST_F(BuildForecastTest, IsNotLessThanWhatABuildLeavesAndNotTwiceThat) {
  for (const char* index : {"exact", "exact:int8", "IVF16,Flat", "IVF16,SQfp16", "HNSW16", "HNSW48,SQ8", "IVF16,PQ8", "PQ64"}) {
    SCOPED_TRACE(index);
    int64_t bytes = 0;
    const std::vector<loci::v1::Passage> passages = Passages(3000, &bytes);
    std::vector<float> vectors;
    for (int64_t i = 0; i < 3000 * kDim; ++i) vectors.push_back(static_cast<float>((i * 7919) % 1009) / 1009.f);
    auto builder = Create({.index = index});
    ASSERT_TRUE(builder.ok() && (*builder)->Add(passages, vectors.data()).ok() && (*builder)->Finish({}, nullptr).ok());
    const BuildForecast forecast = ForecastBuild({.passage_count = 3000, .passage_bytes = bytes, .dim = kDim, .index = index});
    const int64_t left = SizeOfFolder(Path());
    EXPECT_GE(forecast.files_bytes + forecast.index_bytes, left);
    EXPECT_LT(forecast.files_bytes + forecast.index_bytes, 2 * left);
    EXPECT_GE(forecast.peak_bytes(), forecast.files_bytes + forecast.index_bytes);
    std::filesystem::remove_all(Path());
  }
}

TEST_F(BuildForecastTest, ABuildWithoutRoomIsRefusedBeforeItHasAFolder) {
  available_bytes_ = 1'000'000;
  const absl::Status refused = Create({.expected_passages = 10'000}).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  const auto reason = GetErrorReason(refused);
  ASSERT_TRUE(reason.has_value());
  EXPECT_EQ(reason->reason, "DISK");
  EXPECT_EQ(reason->metadata.at("available_bytes"), "1000000");
  EXPECT_EQ(reason->metadata.at("needed_bytes"), absl::StrCat(ForecastBuild({.passage_count = 10'000, .dim = kDim}).peak_bytes()));
  EXPECT_FALSE(std::filesystem::exists(Path()));
  EXPECT_TRUE(Create({.expected_passages = 100}).ok());
  EXPECT_TRUE(Create({}).ok()) << "nothing is known of it";
}

TEST_F(BuildForecastTest, ABuildWhoseIndexFindsNoMemoryIsRefused) {
  const int64_t graph = ForecastBuild({.passage_count = 10'000, .dim = kDim, .index = "HNSW32"}).memory_bytes;
  EXPECT_GT(graph, 10'000 * (kDim * 4 + 64 * 4)) << "with its vectors, though it is searched without";
  EXPECT_GT(graph, ForecastBuild({.passage_count = 10'000, .dim = kDim, .index = "HNSW32"}).opened_bytes);
  available_memory_bytes_ = graph - 1;
  const absl::Status refused = Create({.index = "HNSW32", .expected_passages = 10'000}).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(GetErrorReason(refused)->reason, "MEMORY");
  EXPECT_EQ(GetErrorReason(refused)->metadata.at("needed_bytes"), absl::StrCat(graph));
  EXPECT_THAT(std::string(refused.message()), testing::HasSubstr("HNSW32"));
  EXPECT_FALSE(std::filesystem::exists(Path()));
  available_memory_bytes_ = 0;
  for (const char* index : {"exact", "exact:int8"}) {
    EXPECT_TRUE(Create({.index = index, .expected_passages = 10'000}).ok()) << index << " is written as it is made";
  }
  int64_t bytes = 0;
  const std::vector<loci::v1::Passage> passages = Passages(100, &bytes);
  auto builder = Create({.index = "HNSW32"});
  ASSERT_TRUE(builder.ok() && (*builder)->Add(passages, std::vector<float>(100 * kDim).data()).ok());
  EXPECT_EQ(GetErrorReason((*builder)->Finish({}, nullptr).status())->reason, "MEMORY") << "what was not expected";
}

TEST_F(BuildForecastTest, AnAutomaticOneHasRoomForCodesAndForWhatItIsMeasuredOn) {
  for (const int64_t rows : {30'000, 60'000, 1'000'000}) {
    const auto bytes = [&](const std::string& index) {
      return ForecastBuild({.passage_count = rows, .dim = 384, .index = index}).index_bytes;
    };
    EXPECT_GE(bytes("auto"), bytes("HNSW32"));
    EXPECT_GE(bytes("auto"), bytes("IVF1024,Flat"));
    EXPECT_GE(bytes("auto:memory=1MiB"), bytes("exact:int8"));
    EXPECT_GE(bytes("auto:memory=1MiB"), std::min<int64_t>(rows, 50'000) * 384 * 4);
  }
}

TEST_F(BuildForecastTest, WhatWasNotExpectedIsRefusedBeforeItIsWritten) {
  int64_t bytes = 0;
  const std::vector<loci::v1::Passage> passages = Passages(1000, &bytes);
  auto builder = Create({});
  ASSERT_TRUE(builder.ok());
  ASSERT_TRUE((*builder)->Add(passages, std::vector<float>(1000 * kDim).data()).ok());
  available_bytes_ = 1000;
  const absl::Status refused = (*builder)->Finish({}, nullptr).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted) << refused;
  EXPECT_EQ(GetErrorReason(refused)->reason, "DISK");
  builder->reset();
  EXPECT_FALSE(std::filesystem::exists(Path()));
}

}  // namespace
}  // namespace loci
