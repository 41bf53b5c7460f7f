#include "encoder/precision.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace loci {
namespace {

using testing::HasSubstr;

TEST(Precision, NamesGoBothWays) {
  for (const Precision precision : {Precision::kAuto, Precision::kFloat32, Precision::kBfloat16, Precision::kFloat16, Precision::kInt8}) {
    const auto parsed = ParsePrecision(PrecisionName(precision));
    ASSERT_TRUE(parsed.ok()) << PrecisionName(precision);
    EXPECT_EQ(*parsed, precision);
  }
  for (const char* const word : {"", "fp32", "bf16", "half", "BFLOAT16", "float32 "}) {
    EXPECT_EQ(ParsePrecision(word).status().code(), absl::StatusCode::kInvalidArgument) << word;
  }
}

TEST(Precision, AnExplicitOneIsMetOrRefused) {
  EXPECT_EQ(ChoosePrecision(Precision::kFloat32, CpuIsa::kAvx2, {})->precision, Precision::kFloat32);
  EXPECT_EQ(ChoosePrecision(Precision::kFloat32, CpuIsa::kAvx512, {.bfloat16 = true})->precision, Precision::kFloat32);
  for (const auto& refused : {ChoosePrecision(Precision::kBfloat16, CpuIsa::kAvx512, {.vnni = true}),
                              ChoosePrecision(Precision::kBfloat16, CpuIsa::kAvx2, {.bfloat16 = true})}) {
    EXPECT_EQ(refused.status().code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(std::string(refused.status().message()), HasSubstr("bfloat16 was asked for"));
  }
}

}  // namespace
}  // namespace loci
