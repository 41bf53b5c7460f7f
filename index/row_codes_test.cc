#include "index/row_codes.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "index/row_code_kernels.h"

namespace loci {
namespace {

std::vector<ScanIsa> Isas() {
  std::vector<ScanIsa> isas = {ScanIsa::kAvx2};
  if (DetectScanIsa() == ScanIsa::kVnni) isas.push_back(ScanIsa::kVnni);
  return isas;
}

TEST(RowCodeKernels, MultiplyAsObviousLoopsDo) {
  std::mt19937_64 random(5);
  for (const ScanIsa isa : Isas()) {
    const RowCodeKernels& kernels = GetRowCodeKernels(isa);
    for (const int64_t stride : {64, 128, 384, 448}) {
      for (const int64_t count : {0, 1, 3, 4, 5, 31, 64, 127}) {
        const bool extreme = count == 5;  // The largest products that there are.
        std::vector<uint8_t> codes(static_cast<size_t>(stride * std::max<int64_t>(count, 1)));
        for (uint8_t& code : codes) code = extreme ? 255 : static_cast<uint8_t>(random());
        std::vector<int8_t> query(static_cast<size_t>(stride));
        int32_t offset = 0;
        for (int8_t& code : query) {
          code = extreme ? 127 : static_cast<int8_t>(static_cast<int64_t>(random() % 255) - 127);
          offset -= 128 * code;
        }
        const std::vector<int16_t> wide(query.begin(), query.end());
        const RowCodeQuery prepared{kernels.code_bytes == 1 ? static_cast<const void*>(query.data()) : wide.data(), offset};
        std::vector<int32_t> rows(static_cast<size_t>(count));
        for (int32_t& row : rows) row = static_cast<int32_t>(random() % static_cast<uint64_t>(count));
        std::vector<int32_t> gathered(static_cast<size_t>(count) + 1, 77);
        kernels.gather(prepared, codes.data(), stride, rows.data(), count, gathered.data());
        const auto expected = [&](int64_t row) {
          int32_t sum = 0;
          for (int64_t d = 0; d < stride; ++d)
            sum += query[static_cast<size_t>(d)] * (codes[static_cast<size_t>(row * stride + d)] - 128);
          return sum;
        };
        for (int64_t i = 0; i < count; ++i) {
          ASSERT_EQ(gathered[static_cast<size_t>(i)], expected(rows[static_cast<size_t>(i)]))
              << "stride " << stride << ", row " << i << " of " << count;
        }
        EXPECT_EQ(gathered.back(), 77);
      }
    }
  }
}

TEST(RowCodes, ScoreNearlyAsTheVectorsDo) {
  std::mt19937_64 random(6);
  std::normal_distribution<float> normal;
  for (const ScanIsa isa : Isas()) {
    for (const int dim : {1, 2, 31, 60, 61, 64, 127, 384}) {
      const int64_t count = dim == 31 ? 5000 : 33;
      std::vector<float> vectors(static_cast<size_t>(count * dim)), query(static_cast<size_t>(dim));
      for (float& value : vectors) value = normal(random);
      for (float& value : query) value = normal(random);
      // Rows of every length have their own scale.
      for (int d = 0; d < dim; ++d) vectors[static_cast<size_t>(3 * dim + d)] *= 1e10f;
      for (int d = 0; d < dim; ++d) vectors[static_cast<size_t>(4 * dim + d)] *= 1e-10f;
      const auto created = RowCodes::Create(count, dim, isa, [&](int64_t row, float* out) {
        std::memcpy(out, &vectors[static_cast<size_t>(row * dim)], sizeof(float) * static_cast<size_t>(dim));
      });
      const RowCodes& codes = created.value();
      const RoundedQuery rounded(query.data(), dim, codes.stride(), isa);
      std::vector<int32_t> rows, products(static_cast<size_t>(count));
      for (int64_t row = count - 1; row >= 0; --row) rows.push_back(static_cast<int32_t>(row));
      std::vector<float> scores(static_cast<size_t>(count));
      codes.Score(rounded.codes(), rows.data(), count, products.data(), scores.data());
      float largest = 0;
      for (const float value : query) largest = std::max(largest, std::abs(value));
      for (size_t i = 0; i < rows.size(); ++i) {
        const float* const row = &vectors[static_cast<size_t>(rows[i]) * static_cast<size_t>(dim)];
        double product = 0, row_largest = 0, row_sum = 0, query_sum = 0;
        for (int d = 0; d < dim; ++d) {
          product += static_cast<double>(row[d]) * query[static_cast<size_t>(d)];
          row_largest = std::max<double>(row_largest, std::abs(row[d]));
          row_sum += std::abs(row[d]);
          query_sum += std::abs(query[static_cast<size_t>(d)]);
        }
        // Half a step of each element of either.
        const double bound = 0.51 / 127 * (largest * row_sum + row_largest * query_sum);
        EXPECT_NEAR(scores[i] * largest / 127, product, bound) << "dim " << dim << ", row " << rows[i];
      }
    }
  }
}

TEST(RowCodes, ScoreZeroWhereARowOrQueryHasNoDirection) {
  const float infinity = std::numeric_limits<float>::infinity();
  const std::vector<std::vector<float>> vectors = {{0, 0, 0}, {infinity, 1, 1}, {std::nanf(""), 1, 1}, {1e-45f, 0, 0}, {1, 2, 3}};
  for (const ScanIsa isa : Isas()) {
    const auto created = RowCodes::Create(
        5, 3, isa, [&](int64_t row, float* out) { std::copy_n(vectors[static_cast<size_t>(row)].data(), 3, out); });
    const RowCodes& codes = created.value();
    const std::vector<int32_t> rows = {0, 1, 2, 3, 4};
    std::vector<int32_t> products(5);
    std::vector<float> scores(5);
    codes.Score(RoundedQuery(vectors[4].data(), 3, codes.stride(), isa).codes(), rows.data(), 5, products.data(), scores.data());
    for (size_t i = 0; i < 4; ++i) EXPECT_EQ(scores[i], 0) << i;
    EXPECT_GT(scores[4], 0);
    codes.Score(RoundedQuery(vectors[0].data(), 3, codes.stride(), isa).codes(), rows.data(), 5, products.data(), scores.data());
    EXPECT_EQ(scores[4], 0);
  }
}

TEST(RowCodes, OfNoRowTakeNextToNothing) {
  const auto codes = RowCodes::Create(0, 384, DetectScanIsa(), [](int64_t, float*) { FAIL(); });
  EXPECT_LE(codes.value().memory_bytes(), 64);
}

TEST(RowCodes, EndWhenTheyAreToldTo) {
  int64_t copied_count = 0, asked_count = 0;
  const auto codes = RowCodes::Create(
      100'000, 3, DetectScanIsa(),
      [&](int64_t, float* out) {
        std::fill_n(out, 3, 1.0f);
        ++copied_count;
      },
      [&] { return ++asked_count == 3 ? absl::CancelledError("enough") : absl::OkStatus(); });
  EXPECT_EQ(codes.status(), absl::CancelledError("enough"));
  EXPECT_GT(copied_count, 0);
  EXPECT_LT(copied_count, 50'000);
}

}  // namespace
}  // namespace loci
