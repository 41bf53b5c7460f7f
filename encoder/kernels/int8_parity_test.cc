// Holds every int8 kernel on every instruction set of this machine to its reference.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "base/device.h"
#include "encoder/kernels/attention.h"
#include "encoder/kernels/attention_int8.h"
#include "encoder/kernels/gemm_int8.h"
#include "encoder/kernels/layer_norm.h"
#include "gtest/gtest.h"

namespace loci {
namespace {

const int kSizes[] = {1, 2, 5, 31, 33, 127};

std::vector<Int8Isa> MachineIsas() {
  std::vector<Int8Isa> isas = {Int8Isa::kAvx2};
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni")) {
    isas.push_back(Int8Isa::kAvx512Vnni);
  }
  return isas;
}

std::string Sizes(int64_t a, int64_t b, int64_t c) {
  return "sizes=" + std::to_string(a) + "," + std::to_string(b) + "," + std::to_string(c);
}

// As a row-major matrix of plain bytes, whatever the layout of the set.
struct PlainRows {
  std::vector<uint8_t> q;
  std::vector<float> scale, offset;
};

class Int8Parity : public testing::TestWithParam<Int8Isa> {
 protected:
  std::vector<float> Random(int64_t size, float scale = 1.0f) {
    std::normal_distribution<float> normal(0.0f, scale);
    std::vector<float> values(size);
    for (float& value : values) value = normal(random_);
    return values;
  }

  static PlainRows Plain(Int8Rows& rows, int64_t count, int64_t depth) {
    PlainRows plain;
    const int64_t width = GetParam() == Int8Isa::kAvx2 ? 2 : 1;
    for (int64_t r = 0; r < count; ++r) {
      for (int64_t k = 0; k < depth; ++k) plain.q.push_back(rows.data[r * rows.row_bytes + k * width]);
      plain.scale.push_back(rows.scale[r]);
      plain.offset.push_back(rows.offset[r]);
    }
    return plain;
  }

  static PlainRows Quantized(const std::vector<float>& input, const ChannelMap& map, int64_t rows, int64_t depth) {
    PlainRows plain{std::vector<uint8_t>(rows * depth), std::vector<float>(rows), std::vector<float>(rows)};
    QuantizeRowsReference(plain.q.data(), plain.scale.data(), plain.offset.data(), input.data(), map, rows, depth);
    return plain;
  }

  static void ExpectSame(const PlainRows& actual, const PlainRows& expected, const std::string& sizes) {
    ASSERT_EQ(actual.scale, expected.scale) << sizes;
    ASSERT_EQ(actual.offset, expected.offset) << sizes;
    ASSERT_EQ(actual.q, expected.q) << sizes;
  }

  std::mt19937 random_{20240229};
};

TEST_P(Int8Parity, QuantizeRows) {
  for (int rows : kSizes) {
    for (int depth : {1, 2, 3, 5, 15, 16, 17, 31, 33, 63, 64, 65, 127, 384}) {
      std::vector<float> input = Random(rows * depth, 3.0f);
      std::fill_n(input.data() + (rows / 2) * depth, depth, rows % 2 == 0 ? 0.0f : -7.5f);  // One row of one value.
      const std::vector<float> factor = Random(depth), shift = Random(depth);
      for (const ChannelMap& map : {ChannelMap(), ChannelMap{factor.data(), shift.data()}}) {
        Int8Rows quantized(GetParam(), rows, depth);
        QuantizeRows(GetParam(), quantized.from(0), input.data(), map, rows, depth);
        ASSERT_NO_FATAL_FAILURE(ExpectSame(Plain(quantized, rows, depth), Quantized(input, map, rows, depth),
                                           Sizes(rows, depth, map.factor != nullptr)));
      }
    }
  }
}

TEST_P(Int8Parity, QuantizeRowsOfDenormalAndHugeValues) {
  const int depth = 37;
  std::vector<float> input(4 * depth, 0.0f);
  for (int k = 0; k < depth; ++k) {
    input[k] = static_cast<float>(k % 3) * 1e-41f;
    input[depth + k] = static_cast<float>(k % 5) * 1e-37f;
    input[2 * depth + k] = static_cast<float>(k % 5 - 2) * 8e37f;
    input[3 * depth + k] = 1e30f + static_cast<float>(k);
  }
  Int8Rows quantized(GetParam(), 4, depth);
  QuantizeRows(GetParam(), quantized.from(0), input.data(), {}, 4, depth);
  const PlainRows plain = Plain(quantized, 4, depth);
  ExpectSame(plain, Quantized(input, {}, 4, depth), "denormal");
  for (int r = 0; r < 4; ++r) {
    ASSERT_TRUE(std::isfinite(plain.scale[r]) && std::isfinite(plain.offset[r])) << r;
    for (int k = 0; k < depth; ++k) {
      const float back = plain.scale[r] * plain.q[r * depth + k] + plain.offset[r];
      ASSERT_NEAR(back, input[r * depth + k], std::max(plain.scale[r], 1e-30f)) << r;
    }
  }
}

TEST_P(Int8Parity, Gemm) {
  const Int8Isa isa = GetParam();
  for (int rows : {1, 2, 5, 6, 7, 12, 13, 31, 33, 127}) {
    for (int cols : {1, 2, 5, 16, 31, 32, 33, 127, 128}) {
      for (int depth : {1, 2, 5, 31, 33, 127, 1100}) {
        const std::vector<float> input = Random(rows * depth), bias = Random(cols), residual = Random(rows * cols);
        // Whole numbers times a scale, so that the reference knows the bytes.
        std::vector<int8_t> q(cols * depth);
        for (int8_t& value : q) value = static_cast<int8_t>(static_cast<int>(random_() % 255) - 127);
        std::vector<float> weight(cols * depth), scale(cols);
        for (int c = 0; c < cols; ++c) {
          q[c * depth + depth / 2] = c % 2 == 0 ? 127 : -127;
          scale[c] = std::ldexp(1.0f, -static_cast<int>(random_() % 8));
          for (int k = 0; k < depth; ++k) weight[c * depth + k] = scale[c] * q[c * depth + k];
        }
        const Int8Weight packed = PackWeightInt8(isa, weight.data(), bias.data(), cols, depth);
        Int8Rows quantized(isa, rows, depth);
        QuantizeRows(isa, quantized.from(0), input.data(), {}, rows, depth);
        const PlainRows plain = Plain(quantized, rows, depth);
        for (Activation activation : {Activation::kNone, Activation::kGelu}) {
          for (const float* add : {static_cast<const float*>(nullptr), residual.data()}) {
            std::vector<float> expected(rows * cols), actual(rows * cols, std::nanf(""));
            GemmInt8Reference(expected.data(), plain.q.data(), plain.scale.data(), plain.offset.data(), q.data(), scale.data(),
                              bias.data(), add, rows, cols, depth, activation);
            GemmInt8(isa, actual.data(), cols, quantized.from(0), packed.panels(), add, rows, activation);
            for (int i = 0; i < rows * cols; ++i) {
              // What cancels between the products and the offset's part is of the size of depth * scale.
              const float bound = (activation == Activation::kGelu ? 6e-4f : 0) +
                                  1e-6f * (1 + scale[i % cols] * 127 * 4 * static_cast<float>(depth));
              ASSERT_NEAR(actual[i], expected[i], bound) << Sizes(rows, cols, depth) << " element=" << i;
            }
          }
        }
        std::vector<float> expected(rows * cols), in_place = residual;
        GemmInt8(isa, expected.data(), cols, quantized.from(0), packed.panels(), residual.data(), rows, Activation::kNone);
        GemmInt8(isa, in_place.data(), cols, quantized.from(0), packed.panels(), in_place.data(), rows, Activation::kNone);
        ASSERT_EQ(in_place, expected) << Sizes(rows, cols, depth);
      }
    }
  }
}

TEST_P(Int8Parity, GemmGivesARowTheSameBitsAmongAnyOthersAndLeavesTheGapsOfAStride) {
  const Int8Isa isa = GetParam();
  const int cols = 99, depth = 385, stride = 130;
  const std::vector<float> input = Random(127 * depth), weight = Random(cols * depth), bias = Random(cols);
  const Int8Weight packed = PackWeightInt8(isa, weight.data(), bias.data(), cols, depth);
  Int8Rows quantized(isa, 127, depth);
  QuantizeRows(isa, quantized.from(0), input.data(), {}, 127, depth);
  std::vector<float> all(127 * cols);
  GemmInt8(isa, all.data(), cols, quantized.from(0), packed.panels(), nullptr, 127, Activation::kGelu);
  for (int rows : {1, 2, 3, 4, 5, 6, 7, 11, 12, 13, 31, 33}) {
    for (int first : {0, 1, 50, 94}) {
      std::vector<float> some(rows * stride, -3.0f);
      GemmInt8(isa, some.data(), stride, quantized.from(first), packed.panels(), nullptr, rows, Activation::kGelu);
      for (int r = 0; r < rows; ++r) {
        ASSERT_EQ(std::memcmp(some.data() + r * stride, all.data() + (first + r) * cols, cols * sizeof(float)), 0)
            << rows << " " << first;
        for (int c = cols; c < stride; ++c) ASSERT_EQ(some[r * stride + c], -3.0f);
      }
    }
  }
}

TEST_P(Int8Parity, GeluOverItsWholeRange) {
  const Int8Isa isa = GetParam();
  std::vector<float> x;
  for (int i = -12000; i <= 12000; ++i) x.push_back(static_cast<float>(i) / 1000.0f);
  for (float far : {-1e30f, -100.0f, 100.0f, 1e30f, -0.0f, 1e-40f}) x.push_back(far);
  // The values come in by the bias.
  const int cols = static_cast<int>(x.size());
  const std::vector<float> weight(cols, 0.0f);
  const Int8Weight packed = PackWeightInt8(isa, weight.data(), x.data(), cols, 1);
  const float zero = 0;
  Int8Rows quantized(isa, 1, 1);
  QuantizeRows(isa, quantized.from(0), &zero, {}, 1, 1);
  std::vector<float> actual(cols);
  GemmInt8(isa, actual.data(), cols, quantized.from(0), packed.panels(), nullptr, 1, Activation::kGelu);
  for (int i = 0; i < cols; ++i) {
    const double exact = x[i] * 0.5 * (1 + std::erf(x[i] * std::sqrt(0.5)));
    ASSERT_NEAR(actual[i], exact, 5e-4 + 2e-7 * std::abs(x[i])) << x[i];
  }
}

TEST_P(Int8Parity, WeightsOfZerosGiveTheBias) {
  const std::vector<float> weight(33 * 70, 0.0f), bias = Random(33), input = Random(3 * 70);
  const Int8Weight packed = PackWeightInt8(GetParam(), weight.data(), bias.data(), 33, 70);
  Int8Rows quantized(GetParam(), 3, 70);
  QuantizeRows(GetParam(), quantized.from(0), input.data(), {}, 3, 70);
  std::vector<float> output(3 * 33);
  GemmInt8(GetParam(), output.data(), 33, quantized.from(0), packed.panels(), nullptr, 3, Activation::kNone);
  for (int i = 0; i < 3 * 33; ++i) EXPECT_EQ(output[i], bias[i % 33]);
}

TEST_P(Int8Parity, LayerNormQuantize) {
  for (int rows : kSizes) {
    for (int dim : {1, 5, 16, 31, 33, 127, 384}) {
      std::vector<float> input = Random(rows * dim, 3.0f);
      std::fill_n(input.data() + (rows / 2) * dim, dim, 0.1f);
      const std::vector<float> gamma = Random(dim), beta = Random(dim), factor = Random(dim), shift = Random(dim);
      std::vector<float> expected(rows * dim);
      LayerNormReference(expected.data(), input.data(), nullptr, gamma.data(), beta.data(), 1e-5f, rows, dim);
      for (const ChannelMap& map : {ChannelMap(), ChannelMap{factor.data(), shift.data()}}) {
        std::vector<float> values = input;
        Int8Rows quantized(GetParam(), rows, dim);
        LayerNormQuantize(GetParam(), values.data(), quantized.from(0), map, gamma.data(), beta.data(), 1e-5f, rows, dim);
        for (int i = 0; i < rows * dim; ++i)
          ASSERT_NEAR(values[i], expected[i], 1e-4f * (1 + std::abs(expected[i]))) << Sizes(rows, dim, i);
        ASSERT_NO_FATAL_FAILURE(
            ExpectSame(Plain(quantized, rows, dim), Quantized(values, map, rows, dim), Sizes(rows, dim, map.factor != nullptr)));
      }
    }
  }
}

TEST_P(Int8Parity, Attention) {
  const Int8Isa isa = GetParam();
  const std::vector<int> lengths = {1, 2, 5, 31, 33, 127, 64, 16, 300};
  std::vector<int32_t> offsets = {0};
  for (int length : lengths) offsets.push_back(offsets.back() + length);
  for (int head_dim : {1, 2, 5, 16, 31, 32, 33, 64, 127}) {
    const int stride = head_dim + 7;
    std::vector<float> qkv = Random(offsets.back() * 3 * head_dim);
    // A token of zeros, and a sequence whose values are.
    std::fill_n(qkv.data() + (offsets[3] + 4) * 3 * head_dim, 3 * head_dim, 0.0f);
    for (int i = offsets[7]; i < offsets[8]; ++i) std::fill_n(qkv.data() + (i * 3 + 2) * head_dim, head_dim, 0.0f);
    AlignedArray<uint8_t> scratch(AttentionInt8ScratchBytes(isa, 300, head_dim));
    std::memset(scratch.data(), 0xff, scratch.size());
    std::vector<float> expected(offsets.back() * head_dim), actual(offsets.back() * stride, -3.0f);
    AttentionReference(expected.data(), qkv.data(), offsets.data(), lengths.size(), 1, head_dim);
    AttentionInt8(isa, actual.data(), stride, qkv.data(), offsets.data(), lengths.size(), head_dim, scratch.data());
    double error = 0, size = 0;
    for (int i = 0; i < offsets.back(); ++i) {
      for (int d = 0; d < head_dim; ++d) {
        const double difference = actual[i * stride + d] - expected[i * head_dim + d];
        ASSERT_LE(std::abs(difference), isa == Int8Isa::kAvx2 ? 1e-4 : 0.15) << Sizes(head_dim, i, d);
        error += difference * difference;
        size += expected[i * head_dim + d] * expected[i * head_dim + d];
      }
      for (int d = head_dim; d < stride; ++d) ASSERT_EQ(actual[i * stride + d], -3.0f);
    }
    EXPECT_LE(std::sqrt(error / size), isa == Int8Isa::kAvx2 ? 1e-5 : 0.02) << head_dim;
    for (size_t s = 0; s < lengths.size(); ++s) {
      const int32_t alone[] = {0, lengths[s]};
      std::vector<float> bits(lengths[s] * head_dim);
      // No more scratch space than it asks for.
      AlignedArray<uint8_t> least(AttentionInt8ScratchBytes(isa, lengths[s], head_dim));
      AttentionInt8(isa, bits.data(), head_dim, qkv.data() + offsets[s] * 3 * head_dim, alone, 1, head_dim, least.data());
      for (int i = 0; i < lengths[s]; ++i) {
        ASSERT_EQ(std::memcmp(bits.data() + i * head_dim, actual.data() + (offsets[s] + i) * stride, head_dim * sizeof(float)), 0)
            << Sizes(head_dim, lengths[s], i);
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Cpu, Int8Parity, testing::ValuesIn(MachineIsas()),
                         [](const auto& info) { return info.param == Int8Isa::kAvx2 ? "avx2" : "avx512vnni"; });

}  // namespace
}  // namespace loci
