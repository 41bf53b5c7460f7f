#include "index/softmax_kernels.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "base/device.h"

namespace loci {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

std::vector<CpuIsa> Isas() {
  std::vector<CpuIsa> isas = {CpuIsa::kAvx2};
  if (DetectCpuIsa() == CpuIsa::kAvx512) isas.push_back(CpuIsa::kAvx512);
  return isas;
}

// Rows of a type, each in an allocation of its own, so that reading beyond one is seen; `values` is what they hold.
struct Rows {
  std::vector<std::vector<char>> stored;
  std::vector<const void*> data;
  std::vector<std::vector<float>> values;
};

Rows MakeRows(int64_t rows, int dim, ElementType type, std::mt19937_64& random) {
  std::normal_distribution<float> normal;
  Rows made;
  for (int64_t r = 0; r < rows; ++r) {
    std::vector<float> values(dim);
    for (float& value : values) value = normal(random);
    std::vector<char> stored(dim * ElementSize(type));
    if (type == ElementType::kFloat32) {
      std::memcpy(stored.data(), values.data(), stored.size());
    } else {
      std::vector<uint16_t> halves(dim);
      if (type == ElementType::kFloat16) {
        Float32ToFloat16(values.data(), halves.data(), dim);
        Float16ToFloat32(halves.data(), values.data(), dim);
      } else {
        Float32ToBfloat16(values.data(), halves.data(), dim);
        Bfloat16ToFloat32(halves.data(), values.data(), dim);
      }
      std::memcpy(stored.data(), halves.data(), stored.size());
    }
    made.values.push_back(values);
    made.stored.push_back(stored);
  }
  for (const std::vector<char>& row : made.stored) made.data.push_back(row.data());
  return made;
}

TEST(SoftmaxKernels, WeightsAreThoseOfTheExponential) {
  std::vector<float> exponents;
  for (double x = 0; x > -87.3; x -= 0.0137) exponents.push_back(static_cast<float>(x));
  for (const float x : {-0.0f, -1e-30f, -0.34657f, -0.34658f, -87.32f, -87.34f, -88.0f, -1e4f, -1e30f, -kInfinity}) exponents.push_back(x);
  while (exponents.size() % kSoftmaxGroupRows != 0) exponents.push_back(-kInfinity);
  for (const float max : {0.0f, 3.5f, -1000.0f}) {
    for (const float inverse_temperature : {1.0f, 32.0f, 0.03125f}) {  // Powers of two, so that nothing is rounded but by e^x.
      std::vector<std::vector<float>> by_isa;
      for (const CpuIsa isa : Isas()) {
        std::vector<float> weights(exponents.size());
        for (size_t first = 0; first < exponents.size(); first += kSoftmaxGroupRows) {
          std::vector<float> scores(kSoftmaxGroupRows), before;
          for (int64_t i = 0; i < kSoftmaxGroupRows; ++i) scores[i] = max + exponents[first + i] / inverse_temperature;
          before = scores;
          const double sum = GetSoftmaxKernels(isa).weigh(scores.data(), kSoftmaxGroupRows, max, inverse_temperature);
          double expected_sum = 0;
          for (int64_t i = 0; i < kSoftmaxGroupRows; ++i) {
            const double x = (static_cast<double>(before[i]) - max) * inverse_temperature;
            const double expected = x < kLeastExponent ? 0 : std::exp(x);
            ASSERT_NEAR(scores[i], expected, expected == 0 || x == 0 ? 0 : 2e-7 * (1 + std::abs(x)) * expected) << x;
            expected_sum += expected;
          }
          ASSERT_NEAR(sum, expected_sum, 1e-5 * expected_sum);
          std::copy(scores.begin(), scores.end(), weights.begin() + first);
          weights[first] = static_cast<float>(sum);
        }
        by_isa.push_back(weights);
      }
      EXPECT_EQ(std::memcmp(by_isa.front().data(), by_isa.back().data(), by_isa.front().size() * sizeof(float)), 0);
    }
  }
}

TEST(SoftmaxKernels, MaxIsTheLargest) {
  std::mt19937_64 random(1);
  std::normal_distribution<float> normal(-500);
  for (const int64_t count : {16, 32, 176, 256}) {
    for (int round = 0; round < 40; ++round) {
      std::vector<float> scores(count, -kInfinity);
      for (int64_t i = 0; i < round % 17; ++i) scores[random() % count] = normal(random);
      for (const CpuIsa isa : Isas())
        ASSERT_EQ(GetSoftmaxKernels(isa).max(scores.data(), count), *std::max_element(scores.begin(), scores.end()));
    }
  }
}

class SoftmaxKernelsTest : public testing::TestWithParam<ElementType> {};

TEST_P(SoftmaxKernelsTest, AccumulateIsTheWeightedSum) {
  std::mt19937_64 random(2);
  for (const int dim : {1, 2, 5, 8, 31, 33, 64, 127, 384}) {
    for (const int64_t row_count : {1, 5, 33, 256}) {
      if (dim == 384 && row_count == 33) continue;
      const Rows rows = MakeRows(row_count, dim, GetParam(), random);
      for (const int query_count : {1, 2, 3, 5, 6, 7}) {
        SCOPED_TRACE("dim " + std::to_string(dim) + " rows " + std::to_string(row_count) + " queries " + std::to_string(query_count));
        const int64_t weight_stride = row_count + 3, sum_stride = dim + 1;
        std::vector<float> weights(query_count * weight_stride, std::nanf(""));
        for (int q = 0; q < query_count; ++q) {
          for (int64_t r = 0; r < row_count; ++r)
            weights[q * weight_stride + r] = r % 7 == 3 ? 0 : static_cast<float>(random() % 1000) / 999;
        }
        std::vector<std::vector<double>> by_isa;
        for (const CpuIsa isa : Isas()) {
          std::vector<double> sums(query_count * sum_stride - 1, 7.0);  // Allocated to the last that may be written.
          GetSoftmaxKernels(isa).accumulate(GetParam())(weights.data(), query_count, weight_stride, rows.data.data(), row_count, dim,
                                                        sums.data(), sum_stride);
          for (int q = 0; q < query_count; ++q) {
            for (int d = 0; d < dim; ++d) {
              double expected = 7, size = 1;
              for (int64_t r = 0; r < row_count; ++r) {
                expected += static_cast<double>(weights[q * weight_stride + r]) * rows.values[r][d];
                size += std::abs(static_cast<double>(weights[q * weight_stride + r]) * rows.values[r][d]);
              }
              ASSERT_NEAR(sums[q * sum_stride + d], expected, 2e-6 * size) << "query " << q << " dimension " << d;
            }
            if (q + 1 < query_count) {
              ASSERT_EQ(sums[q * sum_stride + dim], 7.0) << "beyond the last dimension";
            }
          }
          by_isa.push_back(sums);
        }
        ASSERT_EQ(by_isa.front(), by_isa.back());
      }
    }
  }
}

TEST_P(SoftmaxKernelsTest, LengthsAreThoseOfTheRows) {
  std::mt19937_64 random(3);
  for (const int dim : {1, 2, 5, 15, 16, 31, 33, 47, 64, 127, 384}) {
    const Rows rows = MakeRows(9, dim, GetParam(), random);
    double expected = 0;
    for (const std::vector<float>& row : rows.values) {
      double squared = 0;
      for (const float value : row) squared += static_cast<double>(value) * value;
      expected = std::max(expected, squared);
    }
    std::vector<uint32_t> bits;
    for (const CpuIsa isa : Isas()) {
      const float got = GetSoftmaxKernels(isa).max_squared_length(GetParam())(rows.data.data(), 9, dim);
      EXPECT_NEAR(got, expected, expected * (1e-6 + dim * 1e-7)) << dim;
      bits.push_back(std::bit_cast<uint32_t>(got));
    }
    EXPECT_EQ(bits.front(), bits.back()) << dim;
  }
}

INSTANTIATE_TEST_SUITE_P(Types, SoftmaxKernelsTest, testing::Values(ElementType::kFloat32, ElementType::kFloat16, ElementType::kBfloat16),
                         [](const auto& info) { return std::string(ElementTypeName(info.param)); });

}  // namespace
}  // namespace loci
