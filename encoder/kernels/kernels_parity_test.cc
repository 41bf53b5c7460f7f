// Holds every kernel on every instruction set of this machine to its reference.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "base/device.h"
#include "encoder/kernels/attention.h"
#include "encoder/kernels/embedding.h"
#include "encoder/kernels/gemm.h"
#include "encoder/kernels/layer_norm.h"
#include "encoder/kernels/pooling.h"
#include "gtest/gtest.h"

namespace loci {
namespace {

struct Case {
  CpuIsa isa;
  float tolerance;  // Of a difference, relative to 1 + |expected|.
};

const int kSizes[] = {1, 2, 5, 31, 33, 127};

std::vector<CpuIsa> MachineIsas() {
  std::vector<CpuIsa> isas = {CpuIsa::kAvx2};
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl")) {
    isas.push_back(CpuIsa::kAvx512);
  }
  return isas;
}

class KernelsParity : public testing::TestWithParam<Case> {
 protected:
  std::vector<float> Random(int64_t size, float scale = 1.0f) {
    std::normal_distribution<float> normal(0.0f, scale);
    std::vector<float> values(size);
    for (float& value : values) value = normal(random_);
    return values;
  }

  void ExpectNear(const std::vector<float>& actual, const std::vector<float>& expected, const std::string& sizes) {
    ASSERT_EQ(actual.size(), expected.size());
    for (size_t i = 0; i < actual.size(); ++i) {
      ASSERT_NEAR(actual[i], expected[i], GetParam().tolerance * (1 + std::abs(expected[i])))
          << sizes << " isa=" << CpuIsaName(GetParam().isa) << " element=" << i;
    }
  }

  // Starts of sequences of the given lengths.
  static std::vector<int32_t> Offsets(const std::vector<int>& lengths) {
    std::vector<int32_t> offsets = {0};
    for (int length : lengths) offsets.push_back(offsets.back() + length);
    return offsets;
  }

  std::mt19937 random_{20240229};
};

std::string Sizes(int a, int b, int c) {
  return "sizes=" + std::to_string(a) + "," + std::to_string(b) + "," + std::to_string(c);
}

TEST_P(KernelsParity, Gemm) {
  const CpuIsa isa = GetParam().isa;
  std::vector<int> depths(std::begin(kSizes), std::end(kSizes));
  depths.push_back(1100);  // More than one slice.
  std::vector<int> widths(std::begin(kSizes), std::end(kSizes));
  widths.push_back(128);
  for (int rows : kSizes) {
    for (int cols : widths) {
      for (int depth : depths) {
        const std::vector<float> input = Random(rows * depth);
        const std::vector<float> weight = Random(cols * depth, 1 / std::sqrt(static_cast<float>(depth)));
        const std::vector<float> bias = Random(cols);
        const std::vector<float> residual = Random(rows * cols);
        const AlignedFloats packed = PackWeight(isa, weight.data(), cols, depth);
        for (Activation activation : {Activation::kNone, Activation::kGelu}) {
          for (const float* add : {static_cast<const float*>(nullptr), residual.data()}) {
            std::vector<float> expected(rows * cols), actual(rows * cols);
            GemmReference(expected.data(), input.data(), weight.data(), bias.data(), add, rows, cols, depth, activation);
            Gemm(isa, actual.data(), input.data(), packed.data(), bias.data(), add, rows, cols, depth, activation);
            ASSERT_NO_FATAL_FAILURE(ExpectNear(actual, expected, Sizes(rows, cols, depth)));
          }
        }
        std::vector<float> expected(rows * cols), in_place = residual;
        GemmReference(expected.data(), input.data(), weight.data(), bias.data(), residual.data(), rows, cols, depth,
                      Activation::kNone);
        Gemm(isa, in_place.data(), input.data(), packed.data(), bias.data(), in_place.data(), rows, cols, depth,
             Activation::kNone);
        ASSERT_NO_FATAL_FAILURE(ExpectNear(in_place, expected, Sizes(rows, cols, depth)));
      }
    }
  }
}

TEST_P(KernelsParity, GemmGivesARowTheSameBitsAmongAnyOthers) {
  const CpuIsa isa = GetParam().isa;
  const int cols = 192, depth = 1100;
  const std::vector<float> input = Random(127 * depth);
  const std::vector<float> weight = Random(cols * depth);
  const std::vector<float> bias = Random(cols);
  const AlignedFloats packed = PackWeight(isa, weight.data(), cols, depth);
  std::vector<float> all(127 * cols);
  Gemm(isa, all.data(), input.data(), packed.data(), bias.data(), nullptr, 127, cols, depth, Activation::kGelu);
  for (int rows : {1, 2, 3, 4, 5, 6, 7, 31, 33}) {
    for (int first : {0, 1, 50, 94}) {
      std::vector<float> some(rows * cols);
      Gemm(isa, some.data(), input.data() + first * depth, packed.data(), bias.data(), nullptr, rows, cols, depth,
           Activation::kGelu);
      ASSERT_EQ(std::memcmp(some.data(), all.data() + first * cols, some.size() * sizeof(float)), 0)
          << "rows=" << rows << " first=" << first;
    }
  }
}

TEST_P(KernelsParity, GeluOverItsWholeRange) {
  const CpuIsa isa = GetParam().isa;
  std::vector<float> input;
  for (int i = -12000; i <= 12000; ++i) input.push_back(static_cast<float>(i) / 1000.0f);
  for (float x : {-1e30f, -100.0f, 100.0f, 1e30f, -0.0f, 1e-30f}) input.push_back(x);
  const float one = 1, zero = 0;
  const AlignedFloats packed = PackWeight(isa, &one, 1, 1);
  std::vector<float> expected(input.size()), actual(input.size());
  GemmReference(expected.data(), input.data(), &one, &zero, nullptr, input.size(), 1, 1, Activation::kGelu);
  Gemm(isa, actual.data(), input.data(), packed.data(), &zero, nullptr, input.size(), 1, 1, Activation::kGelu);
  for (size_t i = 0; i < input.size(); ++i) {
    const float bound = std::abs(input[i]) > 5.52f ? 2e-7f : 1e-6f;  // Far out it is 0 or x, nearly.
    ASSERT_NEAR(actual[i], expected[i], bound + 2e-7f * std::abs(expected[i])) << "x=" << input[i];
  }
}

TEST_P(KernelsParity, Attention) {
  const CpuIsa isa = GetParam().isa;
  const std::vector<int> lengths = {1, 2, 5, 31, 33, 127, 64, 16, 300};
  const std::vector<int32_t> offsets = Offsets(lengths);
  const int64_t sequence_count = lengths.size();
  for (int head_count : {1, 2, 5}) {
    for (int head_dim : {1, 2, 5, 16, 31, 32, 33, 64, 127}) {
      const int64_t hidden = head_count * head_dim;
      // Scores of several tens, so that small weights vanish.
      const std::vector<float> qkv = Random(offsets.back() * 3 * hidden, 2.0f);
      std::vector<float> scratch(AttentionScratchSize(isa, 300, head_dim), std::nanf(""));
      std::vector<float> expected(offsets.back() * hidden), actual(expected.size());
      AttentionReference(expected.data(), qkv.data(), offsets.data(), sequence_count, head_count, head_dim);
      Attention(isa, actual.data(), qkv.data(), offsets.data(), sequence_count, head_count, head_dim, scratch.data());
      for (size_t i = 0; i < actual.size(); ++i) {
        ASSERT_NEAR(actual[i], expected[i], 8 * GetParam().tolerance) << Sizes(head_count, head_dim, i / hidden);
      }
      for (size_t s = 0; s < lengths.size(); ++s) {
        const int32_t alone[] = {0, lengths[s]};
        std::vector<float> bits(lengths[s] * hidden);
        Attention(isa, bits.data(), qkv.data() + offsets[s] * 3 * hidden, alone, 1, head_count, head_dim, scratch.data());
        ASSERT_EQ(std::memcmp(bits.data(), actual.data() + offsets[s] * hidden, bits.size() * sizeof(float)), 0)
            << Sizes(head_count, head_dim, lengths[s]);
      }
    }
  }
}

TEST_P(KernelsParity, LayerNorm) {
  for (int rows : kSizes) {
    for (int dim : {5, 31, 33, 127, 384}) {
      const std::vector<float> input = Random(rows * dim, 3.0f), residual = Random(rows * dim);
      const std::vector<float> gamma = Random(dim), beta = Random(dim);
      for (const float* add : {static_cast<const float*>(nullptr), residual.data()}) {
        std::vector<float> expected(rows * dim), actual(rows * dim);
        LayerNormReference(expected.data(), input.data(), add, gamma.data(), beta.data(), 1e-12f, rows, dim);
        LayerNorm(GetParam().isa, actual.data(), input.data(), add, gamma.data(), beta.data(), 1e-12f, rows, dim);
        ASSERT_NO_FATAL_FAILURE(ExpectNear(actual, expected, Sizes(rows, dim, 0)));
        std::vector<float> in_place = input;
        LayerNorm(GetParam().isa, in_place.data(), in_place.data(), add, gamma.data(), beta.data(), 1e-12f, rows, dim);
        ASSERT_EQ(in_place, actual);
      }
    }
  }
}

TEST_P(KernelsParity, LayerNormOfAConstantRowIsBeta) {
  const std::vector<float> input(33, 0.1f), gamma = Random(33), beta = Random(33);
  std::vector<float> output(33);
  LayerNorm(GetParam().isa, output.data(), input.data(), nullptr, gamma.data(), beta.data(), 1e-5f, 1, 33);
  ExpectNear(output, beta, "33");
}

TEST_P(KernelsParity, Embedding) {
  const std::vector<int> lengths = {1, 2, 5, 31, 33, 127};
  const std::vector<int32_t> offsets = Offsets(lengths);
  for (int dim : {5, 31, 33, 127, 384}) {
    const int vocabulary = 97;
    const std::vector<float> word = Random(vocabulary * dim), position = Random(127 * dim), type = Random(dim);
    const std::vector<float> gamma = Random(dim), beta = Random(dim);
    std::vector<int32_t> ids(offsets.back());
    for (int32_t& id : ids) id = static_cast<int32_t>(random_() % vocabulary);
    const EmbeddingTables tables = {word.data(), position.data(), type.data(), gamma.data(), beta.data(), 1e-12f};
    std::vector<float> expected(ids.size() * dim), actual(ids.size() * dim);
    EmbeddingReference(expected.data(), ids.data(), offsets.data(), lengths.size(), tables, dim);
    Embedding(GetParam().isa, actual.data(), ids.data(), offsets.data(), lengths.size(), tables, dim);
    ASSERT_NO_FATAL_FAILURE(ExpectNear(actual, expected, Sizes(dim, 0, 0)));
  }
}

TEST_P(KernelsParity, Pooling) {
  const std::vector<int> lengths = {1, 2, 5, 31, 33, 127};
  const std::vector<int32_t> offsets = Offsets(lengths);
  for (int dim : {1, 2, 5, 31, 33, 127, 384}) {
    const std::vector<float> input = Random(offsets.back() * dim);
    for (Pooling pooling : {Pooling::kMean, Pooling::kCls, Pooling::kMax}) {
      for (bool normalize : {false, true}) {
        std::vector<float> expected(lengths.size() * dim), actual(lengths.size() * dim);
        PoolReference(expected.data(), input.data(), offsets.data(), lengths.size(), dim, pooling, normalize);
        Pool(GetParam().isa, actual.data(), input.data(), offsets.data(), lengths.size(), dim, pooling, normalize);
        ASSERT_NO_FATAL_FAILURE(ExpectNear(actual, expected, Sizes(dim, static_cast<int>(pooling), normalize)));
      }
    }
  }
}

TEST_P(KernelsParity, PoolingOfZerosStaysFinite) {
  const std::vector<float> input(2 * 33, 0.0f);
  const int32_t offsets[] = {0, 2};
  std::vector<float> output(33, 1.0f);
  Pool(GetParam().isa, output.data(), input.data(), offsets, 1, 33, Pooling::kMean, true);
  EXPECT_EQ(output, std::vector<float>(33, 0.0f));
}

std::vector<Case> Cases() {
  std::vector<Case> cases;
  for (CpuIsa isa : MachineIsas()) cases.push_back({isa, 1e-5f});
  return cases;
}

INSTANTIATE_TEST_SUITE_P(Cpu, KernelsParity, testing::ValuesIn(Cases()),
                         [](const auto& info) { return std::string(CpuIsaName(info.param.isa)); });

}  // namespace
}  // namespace loci
