// Holds the kernels of every 16-bit type that this machine has to their references.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "base/device.h"
#include "base/vector_type.h"
#include "encoder/kernels/half_attention.h"
#include "encoder/kernels/half_gemm.h"
#include "encoder/kernels/half_layer_norm.h"
#include "encoder/kernels/half_layout.h"
#include "encoder/kernels/layer_norm.h"
#include "gtest/gtest.h"

namespace loci {
namespace {

struct Case {
  HalfType type;
  float sum_tolerance;      // Of a dense layer's output of about one, absolute and relative.
  float context_tolerance;  // Of an attention's output, likewise.
};

const int kSizes[] = {1, 2, 5, 31, 33, 127};

std::vector<Case> Cases() {
  std::vector<Case> cases;
  const CpuExtensions extensions = DetectCpuExtensions();
  if (extensions.bfloat16) cases.push_back({HalfType::kBfloat16, 2e-6f, 0.03f});
  if (extensions.float16) cases.push_back({HalfType::kFloat16, 1e-2f, 0.05f});
  return cases;
}

std::string Name(HalfType type) { return type == HalfType::kBfloat16 ? "bfloat16" : "float16"; }

std::string Sizes(int64_t a, int64_t b, int64_t c) {
  return "sizes=" + std::to_string(a) + "," + std::to_string(b) + "," + std::to_string(c);
}

class HalfKernelsParity : public testing::TestWithParam<Case> {
 protected:
  HalfType type() const { return GetParam().type; }

  std::vector<float> Random(int64_t size, float scale = 1.0f) {
    std::normal_distribution<float> normal(0.0f, scale);
    std::vector<float> values(size);
    for (float& value : values) value = normal(random_);
    return values;
  }

  std::vector<Half> Rounded(const std::vector<float>& values) const {
    std::vector<Half> halves(values.size());
    if (type() == HalfType::kBfloat16) {
      Float32ToBfloat16(values.data(), halves.data(), values.size());
    } else {
      Float32ToFloat16(values.data(), halves.data(), values.size());
    }
    return halves;
  }

  std::vector<float> Widened(const std::vector<Half>& halves) const {
    std::vector<float> values(halves.size());
    if (type() == HalfType::kBfloat16) {
      Bfloat16ToFloat32(halves.data(), values.data(), values.size());
    } else {
      Float16ToFloat32(halves.data(), values.data(), values.size());
    }
    return values;
  }

  void ExpectNear(const std::vector<float>& actual, const std::vector<float>& expected, float absolute, float relative,
                  const std::string& sizes) {
    ASSERT_EQ(actual.size(), expected.size());
    for (size_t i = 0; i < actual.size(); ++i) {
      ASSERT_NEAR(actual[i], expected[i], absolute + relative * std::abs(expected[i]))
          << Name(type()) << " " << sizes << " element=" << i;
    }
  }

  static std::vector<int32_t> Offsets(const std::vector<int>& lengths) {
    std::vector<int32_t> offsets = {0};
    for (int length : lengths) offsets.push_back(offsets.back() + length);
    return offsets;
  }

  std::mt19937 random_{20261122};
};

TEST_P(HalfKernelsParity, RoundsToNearestEven) {
  std::vector<float> values = {0.0f,      -0.0f,     1.0f,     1.00390625f, 1.01171875f,     1.00048828125f, 1.00146484375f,
                               3.389e38f, -65504.0f, 65519.0f, 65520.0f,    INFINITY,        -INFINITY,      1e-6f,
                               6.0e-8f,   2.0e-8f,   -2.0e-8f, 1e-30f,      1.17549435e-38f, 1e-39f,         -1e-45f};
  for (const float value : Random(5000, 30.0f)) values.push_back(value);
  for (const size_t count : {size_t{1}, size_t{15}, size_t{16}, size_t{17}, size_t{31}, size_t{33}, values.size()}) {
    const std::vector<float> some(values.begin(), values.begin() + static_cast<long>(count));
    std::vector<Half> actual(count);
    RoundToHalf(type(), actual.data(), some.data(), static_cast<int64_t>(count));
    const std::vector<Half> expected = Rounded(some);
    for (size_t i = 0; i < count; ++i) {
      // AVX512_BF16 takes what is below the smallest normal number for zero.
      const bool zero = type() == HalfType::kBfloat16 && std::abs(some[i]) < 1.17549435e-38f;
      ASSERT_EQ(actual[i], zero ? expected[i] & 0x8000 : expected[i]) << Name(type()) << " " << some[i];
    }
  }
}

TEST_P(HalfKernelsParity, Gemm) {
  std::vector<int> depths(std::begin(kSizes), std::end(kSizes));
  const std::vector<int> long_depths = {383, 384, 385, 768, 769, 1100};  // Around one and two sums in float16.
  depths.insert(depths.end(), long_depths.begin(), long_depths.end());
  std::vector<int> widths(std::begin(kSizes), std::end(kSizes));
  widths.push_back(128);
  for (int rows : kSizes) {
    for (int cols : widths) {
      for (int depth : depths) {
        if (depth >= long_depths[0] && (rows % 4 != 1 || cols % 2 != 0)) continue;  // 1, 5 or 33 rows; 2 or 128 columns.
        const std::vector<Half> input = Rounded(Random(rows * depth));
        const std::vector<float> weight = Random(cols * depth, 1 / std::sqrt(static_cast<float>(depth)));
        const std::vector<float> bias = Random(cols);
        const AlignedArray<Half> packed = PackHalfWeight(type(), weight.data(), cols, depth);
        for (Activation activation : {Activation::kNone, Activation::kGelu}) {
          std::vector<float> expected(rows * cols), actual(rows * cols);
          std::vector<Half> halves(rows * cols);
          HalfGemmReference(type(), expected.data(), input.data(), weight.data(), bias.data(), rows, cols, depth, activation);
          HalfGemm(type(), actual.data(), input.data(), packed.data(), bias.data(), rows, cols, depth, activation);
          const float tolerance = GetParam().sum_tolerance + (activation == Activation::kGelu ? 3e-5f : 0.0f);
          ASSERT_NO_FATAL_FAILURE(ExpectNear(actual, expected, tolerance, GetParam().sum_tolerance, Sizes(rows, cols, depth)));
          HalfGemm(type(), halves.data(), input.data(), packed.data(), bias.data(), rows, cols, depth, activation);
          ASSERT_EQ(halves, Rounded(actual)) << Sizes(rows, cols, depth);
        }
      }
    }
  }
}

TEST_P(HalfKernelsParity, GemmOfSmallWholeNumbersIsExact) {
  const int rows = 13, cols = 70, depth = 871;
  std::vector<float> input(rows * depth), weight(cols * depth), bias(cols, 0.5f);
  for (float& x : input) x = static_cast<float>(static_cast<int>(random_() % 5) - 2);
  for (float& x : weight) x = static_cast<float>(static_cast<int>(random_() % 5) - 2);
  const std::vector<Half> halves = Rounded(input);
  const AlignedArray<Half> packed = PackHalfWeight(type(), weight.data(), cols, depth);
  std::vector<float> expected(rows * cols), actual(rows * cols);
  HalfGemmReference(type(), expected.data(), halves.data(), weight.data(), bias.data(), rows, cols, depth, Activation::kNone);
  HalfGemm(type(), actual.data(), halves.data(), packed.data(), bias.data(), rows, cols, depth, Activation::kNone);
  EXPECT_EQ(actual, expected);
}

TEST_P(HalfKernelsParity, Float16SumsGrowByNoMoreThanIsReckonedWith) {
  if (type() != HalfType::kFloat16) GTEST_SKIP() << "bfloat16 sums in float32";
  for (const int depth : {384, 768}) {
    // After its first product each half of a sum takes products of a little over 8, where numbers are 16 apart: all round up. The
    // second 384 would bring the first ones' sum to 1.157 times what it is.
    std::vector<float> weight(depth, 8.0078125f);
    weight[0] = weight[1] = 16384;
    const std::vector<Half> input = Rounded(std::vector<float>(depth, 1.0f));
    const AlignedArray<Half> packed = PackHalfWeight(type(), weight.data(), 1, depth);
    const float bias = 0;
    float expected, actual;
    HalfGemmReference(type(), &expected, input.data(), weight.data(), &bias, 1, 1, depth, Activation::kNone);
    HalfGemm(type(), &actual, input.data(), packed.data(), &bias, 1, 1, depth, Activation::kNone);
    EXPECT_GT(actual, 1.07 * expected) << depth;
    EXPECT_LT(actual, kFloat16SumGrowth * expected) << depth;
  }
}

TEST_P(HalfKernelsParity, GemmGivesARowTheSameBitsAmongAnyOthers) {
  const int cols = 192, depth = 1101;
  const std::vector<Half> input = Rounded(Random(127 * depth));
  const std::vector<float> weight = Random(cols * depth, 0.1f);
  const std::vector<float> bias = Random(cols);
  const AlignedArray<Half> packed = PackHalfWeight(type(), weight.data(), cols, depth);
  std::vector<float> all(127 * cols);
  HalfGemm(type(), all.data(), input.data(), packed.data(), bias.data(), 127, cols, depth, Activation::kGelu);
  for (int rows : {1, 2, 3, 4, 5, 6, 7, 31, 33}) {
    for (int first : {0, 1, 50, 94}) {
      std::vector<float> some(rows * cols);
      HalfGemm(type(), some.data(), input.data() + first * depth, packed.data(), bias.data(), rows, cols, depth,
               Activation::kGelu);
      ASSERT_EQ(std::memcmp(some.data(), all.data() + first * cols, some.size() * sizeof(float)), 0)
          << "rows=" << rows << " first=" << first;
    }
  }
}

TEST_P(HalfKernelsParity, GeluOverItsWholeRange) {
  std::vector<float> values;
  for (int i = -12000; i <= 12000; ++i) values.push_back(static_cast<float>(i) / 1000.0f);
  for (float x : {-60000.0f, -100.0f, 100.0f, 60000.0f, -0.0f, 1e-4f}) values.push_back(x);
  const std::vector<Half> input = Rounded(values);
  const float one = 1, zero = 0;
  const int64_t count = static_cast<int64_t>(input.size());
  const AlignedArray<Half> packed = PackHalfWeight(type(), &one, 1, 1);
  std::vector<float> expected(input.size()), actual(input.size());
  HalfGemmReference(type(), expected.data(), input.data(), &one, &zero, count, 1, 1, Activation::kGelu);
  HalfGemm(type(), actual.data(), input.data(), packed.data(), &zero, count, 1, 1, Activation::kGelu);
  for (size_t i = 0; i < input.size(); ++i) {
    ASSERT_NEAR(actual[i], expected[i], values[i] < -5.2f ? 1e-6f : 3e-5f) << "x=" << values[i];
  }
}

TEST_P(HalfKernelsParity, Attention) {
  const std::vector<int> lengths = {1, 2, 5, 31, 33, 127, 64, 16, 200};
  const std::vector<int32_t> offsets = Offsets(lengths);
  const int64_t sequence_count = static_cast<int64_t>(lengths.size());
  for (int head_count : {1, 3}) {
    for (int head_dim : {1, 2, 5, 16, 31, 32, 33, 64, 127}) {
      const int64_t hidden = head_count * head_dim;
      // Scores of some ten, so that small weights vanish.
      std::vector<float> values = Random(offsets.back() * 3 * hidden);
      for (size_t i = 0; i < values.size(); ++i) {
        if (static_cast<int64_t>(i) % (3 * hidden) < 2 * hidden)
          values[i] *= 2.0f / std::sqrt(std::sqrt(static_cast<float>(head_dim)));
      }
      const std::vector<Half> qkv = Rounded(values);
      std::vector<float> scratch(HalfAttentionScratchSize(type(), 200, head_dim), std::nanf(""));
      std::vector<float> expected(offsets.back() * hidden);
      std::vector<Half> actual(expected.size());
      HalfAttentionReference(type(), expected.data(), qkv.data(), offsets.data(), sequence_count, head_count, head_dim);
      HalfAttention(type(), actual.data(), qkv.data(), offsets.data(), sequence_count, head_count, head_dim, scratch.data());
      const float tolerance = GetParam().context_tolerance;
      ASSERT_NO_FATAL_FAILURE(ExpectNear(Widened(actual), expected, tolerance, tolerance, Sizes(head_count, head_dim, 0)));
      for (size_t s = 0; s < lengths.size(); ++s) {
        const int32_t alone[] = {0, lengths[s]};
        std::vector<Half> bits(lengths[s] * hidden);
        HalfAttention(type(), bits.data(), qkv.data() + offsets[s] * 3 * hidden, alone, 1, head_count, head_dim, scratch.data());
        ASSERT_EQ(std::memcmp(bits.data(), actual.data() + offsets[s] * hidden, bits.size() * sizeof(Half)), 0)
            << Sizes(head_count, head_dim, lengths[s]);
      }
    }
  }
}

TEST_P(HalfKernelsParity, AttentionOverMoreThanOneSum) {
  const std::vector<int32_t> offsets = Offsets({384, 385, 512});
  for (int head_dim : {5, 32}) {
    std::vector<float> values = Random(offsets.back() * 3 * head_dim);
    for (size_t i = 0; i < values.size(); ++i) {
      if (static_cast<int64_t>(i) % (3 * head_dim) < 2 * head_dim)
        values[i] *= 1.0f / std::sqrt(std::sqrt(static_cast<float>(head_dim)));
    }
    const std::vector<Half> qkv = Rounded(values);
    std::vector<float> scratch(HalfAttentionScratchSize(type(), 512, head_dim), std::nanf(""));
    std::vector<float> expected(offsets.back() * head_dim);
    std::vector<Half> actual(expected.size());
    HalfAttentionReference(type(), expected.data(), qkv.data(), offsets.data(), 3, 1, head_dim);
    HalfAttention(type(), actual.data(), qkv.data(), offsets.data(), 3, 1, head_dim, scratch.data());
    const float tolerance = GetParam().context_tolerance;
    ASSERT_NO_FATAL_FAILURE(ExpectNear(Widened(actual), expected, tolerance, tolerance, Sizes(1, head_dim, 0)));
  }
}

TEST_P(HalfKernelsParity, AttentionToEqualKeysIsTheMeanOfValues) {
  const int32_t offsets[] = {0, 8};
  std::vector<float> values(8 * 3, 1.0f);
  for (int i = 0; i < 8; ++i) values[3 * i + 2] = static_cast<float>(i);
  const std::vector<Half> qkv = Rounded(values);
  std::vector<float> scratch(HalfAttentionScratchSize(type(), 8, 1));
  std::vector<Half> context(8);
  HalfAttention(type(), context.data(), qkv.data(), offsets, 1, 1, 1, scratch.data());
  EXPECT_EQ(Widened(context), std::vector<float>(8, 3.5f));
}

TEST_P(HalfKernelsParity, LayerNorm) {
  for (int rows : kSizes) {
    for (int dim : {5, 15, 16, 17, 31, 33, 127, 384}) {
      const std::vector<float> hidden = Random(rows * dim, 3.0f), input = Random(rows * dim);
      const std::vector<float> gamma = Random(dim), beta = Random(dim);
      std::vector<float> expected(rows * dim), actual = hidden;
      std::vector<Half> rounded(rows * dim);
      LayerNormReference(expected.data(), input.data(), hidden.data(), gamma.data(), beta.data(), 1e-12f, rows, dim);
      HalfLayerNorm(type(), actual.data(), rounded.data(), input.data(), gamma.data(), beta.data(), 1e-12f, rows, dim);
      ASSERT_NO_FATAL_FAILURE(ExpectNear(actual, expected, 1e-5f, 1e-5f, Sizes(rows, dim, 0)));
      ASSERT_EQ(rounded, Rounded(actual)) << Sizes(rows, dim, 0);
    }
  }
}

TEST_P(HalfKernelsParity, LayerNormOfAConstantRowIsBeta) {
  const std::vector<float> input(33, 0.0f), gamma = Random(33), beta = Random(33);
  std::vector<float> hidden(33, 0.1f);
  std::vector<Half> rounded(33);
  HalfLayerNorm(type(), hidden.data(), rounded.data(), input.data(), gamma.data(), beta.data(), 1e-5f, 1, 33);
  ExpectNear(hidden, beta, 1e-5f, 1e-5f, "33");
}

GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(HalfKernelsParity);
INSTANTIATE_TEST_SUITE_P(Cpu, HalfKernelsParity, testing::ValuesIn(Cases()),
                         [](const auto& info) { return Name(info.param.type); });

}  // namespace
}  // namespace loci
