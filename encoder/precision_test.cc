#include "encoder/precision.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace loci {
namespace {

using testing::HasSubstr;

TEST(Precision, NamesGoBothWays) {
  for (const Precision precision :
       {Precision::kAuto, Precision::kFloat32, Precision::kBfloat16, Precision::kFloat16, Precision::kInt8}) {
    const auto parsed = ParsePrecision(PrecisionName(precision));
    ASSERT_TRUE(parsed.ok()) << PrecisionName(precision);
    EXPECT_EQ(*parsed, precision);
  }
  for (const char* const word : {"", "fp32", "bf16", "half", "BFLOAT16", "float32 "}) {
    EXPECT_EQ(ParsePrecision(word).status().code(), absl::StatusCode::kInvalidArgument) << word;
  }
}

TEST(Precision, AutoTakesWhatTheCpuIsFastestInAndSaysWhy) {
  const auto half = ChoosePrecision(Precision::kAuto, CpuIsa::kAvx512, {.bfloat16 = true, .float16 = true});
  ASSERT_TRUE(half.ok());
  EXPECT_EQ(half->precision, Precision::kFloat16);
  EXPECT_THAT(half->reason, HasSubstr("has AVX-512 fp16"));
  const auto brain = ChoosePrecision(Precision::kAuto, CpuIsa::kAvx512, {.bfloat16 = true});
  ASSERT_TRUE(brain.ok());
  EXPECT_EQ(brain->precision, Precision::kBfloat16);
  EXPECT_THAT(brain->reason, HasSubstr("has AVX-512 bf16"));
  for (const auto& neither : {ChoosePrecision(Precision::kAuto, CpuIsa::kAvx512, {.vnni = true}),
                              ChoosePrecision(Precision::kAuto, CpuIsa::kAvx2, {.bfloat16 = true, .float16 = true})}) {
    ASSERT_TRUE(neither.ok());
    EXPECT_EQ(neither->precision, Precision::kFloat32);
    EXPECT_THAT(neither->reason, HasSubstr("has neither"));
  }
}

TEST(Precision, AnExplicitOneIsMetOrRefused) {
  const CpuExtensions all = {.bfloat16 = true, .float16 = true, .vnni = true};
  EXPECT_EQ(ChoosePrecision(Precision::kFloat32, CpuIsa::kAvx2, {})->precision, Precision::kFloat32);
  EXPECT_EQ(ChoosePrecision(Precision::kInt8, CpuIsa::kAvx2, {})->precision, Precision::kInt8);
  for (const Precision precision : {Precision::kFloat32, Precision::kBfloat16, Precision::kFloat16, Precision::kInt8}) {
    EXPECT_EQ(ChoosePrecision(precision, CpuIsa::kAvx512, all)->precision, precision);
  }
  for (const auto& refused :
       {ChoosePrecision(Precision::kBfloat16, CpuIsa::kAvx512, {.float16 = true}),
        ChoosePrecision(Precision::kFloat16, CpuIsa::kAvx512, {.bfloat16 = true}),
        ChoosePrecision(Precision::kBfloat16, CpuIsa::kAvx2, all), ChoosePrecision(Precision::kFloat16, CpuIsa::kAvx2, all)}) {
    EXPECT_EQ(refused.status().code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(std::string(refused.status().message()), HasSubstr("float16 was asked for, but the CPU, as avx"));
  }
}

}  // namespace
}  // namespace loci
