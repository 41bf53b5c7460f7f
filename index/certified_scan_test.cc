#include "index/certified_scan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "base/device.h"
#include "base/file.h"
#include "base/thread_pool.h"
#include "base/vector_type.h"
#include "index/certified_plan.h"
#include "index/exact_index.h"
#include "index/int8_kernels.h"
#include "index/quantized_vectors.h"
#include "index/row_mask.h"
#include "index/vector_file.h"
#include "index/vector_file_testing.h"

namespace loci {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

std::vector<ScanIsa> Isas() {
  std::vector<ScanIsa> isas = {ScanIsa::kAvx2};
  if (DetectScanIsa() == ScanIsa::kVnni) isas.push_back(ScanIsa::kVnni);
  return isas;
}

std::vector<float> Normal(size_t count, uint64_t seed, float deviation = 0.3f) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal(0.0f, deviation);
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}

// Every row, with the instructions that make no panels.
ExactIndex ScoringAll(const std::shared_ptr<const VectorFile>& vectors) { return ExactIndex(vectors, nullptr, CpuIsa::kAvx2); }

IndexSearchOptions TopK(int top_k) {
  IndexSearchOptions options;
  options.top_k = top_k;
  return options;
}

// Both passes against the search that scores every row, whatever the sizes; gives the number of queries that were given up.
int64_t ExpectSameHits(const VectorsWithCodes& files, const std::vector<float>& queries, int top_k, const RowMask& mask, ThreadPool* pool,
                       const std::string& what) {
  const int dim = files.vectors->dim();
  const int64_t count = static_cast<int64_t>(queries.size()) / dim;
  const MatrixView<const float> view{queries.data(), count, dim};
  const size_t slots = static_cast<size_t>(count * top_k);
  std::vector<RowHit> expected(slots);
  EXPECT_TRUE(ScoringAll(files.vectors).Search(view, TopK(top_k), mask, expected.data()).ok());
  int64_t given_up_total = 0;
  std::vector<std::pair<ScanIsa, bool>> ways;  // And whether there are codes.
  for (const ScanIsa isa : Isas()) {
    ways.push_back({isa, true});
    if (GetInt8Kernels(isa).make_panel != nullptr) ways.push_back({isa, false});
  }
  for (const auto& [isa, has_codes] : ways) {
    const CertifiedScan scan(files.vectors, has_codes ? files.codes : nullptr, pool,
                             isa == ScanIsa::kVnni ? CpuIsa::kAvx512 : CpuIsa::kAvx2, isa);
    const RowHit untouched{-7, 7};
    std::vector<RowHit> hits(slots, untouched);
    std::vector<int64_t> given_up;
    const absl::Status status = scan.Search(view, TopK(top_k), mask, hits.data(), &given_up);
    EXPECT_TRUE(status.ok()) << status;
    EXPECT_TRUE(std::is_sorted(given_up.begin(), given_up.end()));
    EXPECT_EQ(scan.given_up_count(), static_cast<int64_t>(given_up.size()));
    EXPECT_EQ(scan.answered_count(), count - static_cast<int64_t>(given_up.size()));
    for (size_t i = 0; i < slots; ++i) {
      const bool left = std::binary_search(given_up.begin(), given_up.end(), static_cast<int64_t>(i) / top_k);
      const RowHit& wanted = left ? untouched : expected[i];
      if (hits[i].row == wanted.row && std::bit_cast<uint32_t>(hits[i].score) == std::bit_cast<uint32_t>(wanted.score)) continue;
      ADD_FAILURE() << what << " isa " << static_cast<int>(isa) << " codes " << has_codes << " dim " << dim << " rows "
                    << files.vectors->rows() << " queries " << count << " top_k " << top_k << " hidden " << mask.hidden_count()
                    << " hit " << i << ": row " << hits[i].row << " score " << hits[i].score << ", expected row " << wanted.row
                    << " score " << wanted.score;
      return -1;
    }
    if (has_codes) given_up_total += static_cast<int64_t>(given_up.size());
  }
  return given_up_total;
}

TEST(Int8Kernels, GiveTheProductsAndTheComparisonOfTheDefinition) {
  std::mt19937_64 random(3);
  for (const int dim : {1, 2, 5, 31, 33, 64, 127, 384}) {
    const int steps = PanelSteps(dim);
    std::vector<char> bytes(static_cast<size_t>(PanelBytes(dim)));
    PanelHeader& header = *reinterpret_cast<PanelHeader*>(bytes.data());
    for (int r = 0; r < kPanelRows; ++r) {
      header.inverse_scale[r] = 100.0f + static_cast<float>(random() % 1000);
      header.length[r] = static_cast<float>(random() % 2000);
      header.error[r] = r == 7 ? kInfinity : static_cast<float>(random() % 10);
    }
    uint8_t* const codes = reinterpret_cast<uint8_t*>(&header + 1);
    for (int i = 0; i < steps * kPanelRows * kPanelElements; ++i) {
      const uint64_t kind = random() % 4;  // Extremes often.
      codes[i] = kind == 0 ? 1 : kind == 1 ? 255 : static_cast<uint8_t>(1 + random() % 255);
    }
    for (int query_count = 1; query_count <= kMaxInt8Queries; ++query_count) {
      std::vector<int8_t> query(static_cast<size_t>(query_count * steps * kPanelElements));
      for (int8_t& code : query)
        code = random() % 4 == 0 ? int8_t{127} : random() % 4 == 0 ? int8_t{-127} : static_cast<int8_t>(random() % 255 - 127);
      std::vector<Int8Bound> bounds(static_cast<size_t>(query_count));
      for (int q = 0; q < query_count; ++q) {
        int32_t sum = 0;
        for (int s = 0; s < steps; ++s) {
          for (int e = 0; e < kPanelElements; ++e) sum += query[static_cast<size_t>((s * query_count + q) * kPanelElements + e)];
        }
        bounds[static_cast<size_t>(q)] = {.threshold = static_cast<float>(random() % 200) - 100,
                                          .length_factor = 0.5f,
                                          .error_factor = 2.0f,
                                          .slack = 3.0f,
                                          .offset = -128 * sum};
      }
      if (query_count > 1) bounds[1].threshold = -kInfinity;
      for (const ScanIsa isa : Isas()) {
        const Int8Kernels& kernels = GetInt8Kernels(isa);
        std::vector<int16_t> wide(query.begin(), query.end());
        const void* const packed = kernels.code_bytes == 1 ? static_cast<const void*>(query.data()) : wide.data();
        std::vector<int32_t> products(static_cast<size_t>(query_count * kPanelRows), -1);
        std::vector<uint64_t> survivors(static_cast<size_t>(query_count), 0);
        kernels.scan(packed, query_count, bounds.data(), &header, steps, products.data(), survivors.data(), bytes.data(),
                     PanelBytes(dim));
        for (int q = 0; q < query_count; ++q) {
          for (int r = 0; r < kPanelRows; ++r) {
            int32_t product = 0;
            for (int s = 0; s < steps; ++s) {
              for (int e = 0; e < kPanelElements; ++e) {
                product += (codes[(s * kPanelRows + r) * kPanelElements + e] - 128) *
                           query[static_cast<size_t>((s * query_count + q) * kPanelElements + e)];
              }
            }
            ASSERT_EQ(products[static_cast<size_t>(q * kPanelRows + r)], product)
                << "isa " << static_cast<int>(isa) << " dim " << dim << " queries " << query_count << " q " << q << " r " << r;
            const Int8Bound& bound = bounds[static_cast<size_t>(q)];
            const double reach = product + 0.5 * header.length[r] + 2.0 * header.error[r] + 3.0;
            const double limit = static_cast<double>(bound.threshold) * header.inverse_scale[r];
            if (std::abs(reach - limit) < 1e-3 * (std::abs(reach) + std::abs(limit))) continue;  // Where float32 may say either.
            ASSERT_EQ((survivors[static_cast<size_t>(q)] >> r) & 1, !(reach < limit))
                << "isa " << static_cast<int>(isa) << " dim " << dim << " q " << q << " r " << r;
          }
        }
      }
    }
  }
}

TEST(QuantizedVectors, FiguresBoundWhatRoundingTookAway) {
  constexpr int kDim = 33;
  std::vector<float> rows = Normal(200 * kDim, 5);
  for (int d = 0; d < kDim; ++d) {
    rows[static_cast<size_t>(3 * kDim + d)] = 0;
    rows[static_cast<size_t>(4 * kDim + d)] *= 1e-40f;  // Denormals.
    rows[static_cast<size_t>(5 * kDim + d)] *= 1e14f;
    rows[static_cast<size_t>(6 * kDim + d)] *= 1e16f;  // Longer than kMaxSquaredLength.
  }
  rows[7 * kDim + 1] = 1000;  // One large element.
  rows[8 * kDim + 1] = kInfinity;
  rows[9 * kDim + 1] = std::nanf("");
  const VectorsWithCodes files = MakeVectorsWithCodes(rows, kDim);
  ASSERT_EQ(files.codes->rows(), 200);
  ASSERT_EQ(files.codes->panel_count(), 4);
  for (int64_t r = 0; r < 256; ++r) {
    const PanelHeader& panel = *files.codes->panel(r / kPanelRows);
    const int64_t place = r % kPanelRows;
    const uint8_t* const codes = reinterpret_cast<const uint8_t*>(&panel + 1);
    double length = 0, error = 0;
    for (int d = 0; d < PanelSteps(kDim) * kPanelElements; ++d) {
      const int code = codes[(d / kPanelElements * kPanelRows + place) * kPanelElements + d % kPanelElements] - 128;
      const double element = r < 200 && d < kDim ? rows[static_cast<size_t>(r * kDim + d)] : 0;
      length += code * code;
      error += std::pow(element * panel.inverse_scale[place] - code, 2);
      ASSERT_LE(std::abs(code), 127);
      if (r >= 200 || d >= kDim) {
        ASSERT_EQ(code, 0) << r << " " << d;
      }
    }
    if (r >= 6 && r <= 9 && r != 7) {
      EXPECT_EQ(panel.error[place], kInfinity) << r;
      continue;
    }
    EXPECT_GE(static_cast<double>(panel.length[place]), std::sqrt(length)) << r;
    EXPECT_LE(static_cast<double>(panel.length[place]), std::sqrt(length) * 1.000001) << r;
    EXPECT_GE(static_cast<double>(panel.error[place]), std::sqrt(error)) << r;
    EXPECT_LE(static_cast<double>(panel.error[place]), 0.5 * std::sqrt(kDim) * 1.001) << r;
  }
}

TEST(Int8Kernels, MakePanelsThatBoundWhatRoundingTookAway) {
  for (const ScanIsa isa : Isas()) {
    const Int8Kernels& kernels = GetInt8Kernels(isa);
    if (kernels.make_panel == nullptr) continue;
    for (const int dim : {1, 3, 15, 16, 17, 30, 64, 127, 384}) {
      for (const int64_t rows : {1, 5, 63, 64}) {
        std::vector<float> values = Normal(static_cast<size_t>(rows * dim), 5);
        for (int64_t r = 0; r < rows; r += 5) {
          for (int d = 0; d < dim; ++d)
            values[static_cast<size_t>(r * dim + d)] *= r == 0    ? 0.0f
                                                        : r == 5  ? 1e-40f
                                                        : r == 10 ? 1e14f
                                                        : r == 15 ? 2e16f
                                                                  : 1e-25f;
        }
        if (rows > 30)
          values[static_cast<size_t>(21 * dim)] = kInfinity, values[static_cast<size_t>(22 * dim)] = std::nanf(""),
                                          values[static_cast<size_t>(23 * dim)] = 1000;
        std::vector<uint16_t> halves(values.size());
        for (const ElementType type : {ElementType::kFloat32, ElementType::kFloat16, ElementType::kBfloat16}) {
          std::vector<float> stored = values;
          if (type == ElementType::kFloat16)
            Float32ToFloat16(values.data(), halves.data(), values.size()),
                Float16ToFloat32(halves.data(), stored.data(), stored.size());
          if (type == ElementType::kBfloat16)
            Float32ToBfloat16(values.data(), halves.data(), values.size()),
                Bfloat16ToFloat32(halves.data(), stored.data(), stored.size());
          std::vector<char> bytes(static_cast<size_t>(PanelBytes(dim)), 77);
          PanelHeader& panel = *reinterpret_cast<PanelHeader*>(bytes.data());
          kernels.make_panel(type == ElementType::kFloat32 ? static_cast<const void*>(values.data()) : halves.data(), type, rows,
                             dim, &panel);
          const uint8_t* const codes = reinterpret_cast<const uint8_t*>(&panel + 1);
          std::vector<int8_t> expected_codes(static_cast<size_t>(dim));
          for (int64_t r = 0; r < kPanelRows; ++r) {
            QuantizedVector expected;
            std::fill(expected_codes.begin(), expected_codes.end(), int8_t{0});
            if (r < rows) expected = Quantize(&stored[static_cast<size_t>(r * dim)], dim, expected_codes.data());
            for (int d = 0; d < PanelSteps(dim) * kPanelElements; ++d) {
              const int code = codes[(d / kPanelElements * kPanelRows + r) * kPanelElements + d % kPanelElements] - 128;
              ASSERT_EQ(code, d < dim ? expected_codes[static_cast<size_t>(d)] : 0)
                  << "dim " << dim << " rows " << rows << " row " << r << " element " << d;
            }
            ASSERT_EQ(panel.inverse_scale[r], expected.inverse_scale);
            ASSERT_GE(panel.length[r], expected.length * (1 - 2e-7f));
            ASSERT_LE(panel.length[r], expected.length * 1.0001f);
            ASSERT_GE(panel.error[r], expected.error * (1 - 2e-7f));
            ASSERT_LE(panel.error[r], expected.error * 1.0001f);
          }
        }
      }
    }
  }
}

TEST(QuantizedVectors, RefusesDamagedHeaders) {
  FileSystem& fs = PosixFileSystem();
  const std::string path = JoinPath(testing::TempDir(), "quantized_vectors_test");
  const std::vector<float> rows = Normal(70 * 5, 1);
  auto writer = VectorFileWriter::Create(fs, path, 70, 5, ElementType::kFloat32);
  ASSERT_TRUE(writer.ok());
  for (int r = 0; r < 70; ++r) ASSERT_TRUE((*writer)->Append(&rows[static_cast<size_t>(r * 5)]).ok());
  ASSERT_TRUE((*writer)->Finish().ok());
  auto vectors = VectorFile::Open(fs, path);
  ASSERT_TRUE(vectors.ok());
  const std::string codes_path = path + ".int8";
  ASSERT_TRUE(WriteQuantizedVectors(fs, **vectors, codes_path, nullptr).ok());
  const std::string good = fs.ReadFile(codes_path).value();
  ASSERT_EQ(static_cast<int64_t>(good.size()), QuantizedVectorsBytes(70, 5));
  const auto open = [&](const std::string& content) {
    EXPECT_TRUE(WriteFileAtomically(fs, codes_path, content).ok());
    return QuantizedVectors::Open(fs, codes_path).status().code();
  };
  EXPECT_EQ(open(good), absl::StatusCode::kOk);
  for (const size_t at : {0, 12, 16, 22, 23, 24, 30, 40, 63}) {
    std::string bad = good;
    bad[at] = static_cast<char>(bad[at] ^ 0x41);
    EXPECT_EQ(open(bad), absl::StatusCode::kDataLoss) << at;
  }
  std::string newer = good;
  newer[8] = 2;
  EXPECT_EQ(open(newer), absl::StatusCode::kFailedPrecondition);
  for (const size_t size : {size_t{0}, size_t{63}, size_t{64}, good.size() - 1})
    EXPECT_EQ(open(good.substr(0, size)), absl::StatusCode::kDataLoss) << size;
  EXPECT_EQ(open(good + "x"), absl::StatusCode::kDataLoss);
  EXPECT_TRUE(fs.DeleteFile(path).ok() && fs.DeleteFile(codes_path).ok());
}

TEST(QuantizedVectors, WritingTellsHowFarItIsAndEndsWhereToldTo) {
  constexpr int kDim = 128;
  constexpr int64_t kRows = 20'000;  // A few times what is written at once.
  FileSystem& fs = PosixFileSystem();
  const VectorsWithCodes files = MakeVectorsWithCodes(Normal(kRows * kDim, 1), kDim);
  const std::string path = JoinPath(testing::TempDir(), "quantized_vectors_progress_test");
  std::vector<int64_t> done;
  const auto written = WriteQuantizedVectors(fs, *files.vectors, path, [&](int64_t rows) {
    done.push_back(rows);
    return absl::OkStatus();
  });
  ASSERT_TRUE(written.ok()) << written;
  ASSERT_GE(done.size(), 2u);
  for (size_t i = 0; i < done.size(); ++i) {
    EXPECT_GT(done[i], i == 0 ? 0 : done[i - 1]);
    EXPECT_LE(done[i], kRows);
  }
  EXPECT_TRUE(QuantizedVectors::Open(fs, path).ok());

  int calls = 0;
  const auto cancelled = WriteQuantizedVectors(fs, *files.vectors, path, [&](int64_t) {
    ++calls;
    return absl::CancelledError("");
  });
  EXPECT_EQ(cancelled.code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(calls, 1);
  EXPECT_EQ(QuantizedVectors::Open(fs, path).status().code(), absl::StatusCode::kDataLoss);
  EXPECT_TRUE(fs.DeleteFile(path).ok());
}

class CertifiedScanTest : public testing::TestWithParam<std::tuple<ElementType, int>> {};

TEST_P(CertifiedScanTest, FindsWhatScoringAllFinds) {
  const auto [type, dim] = GetParam();
  ThreadPool pool("search", 2, 16);
  for (const int64_t rows : {0, 1, 63, 64, 65, 127, 1000, 9000}) {
    if (rows == 9000 && dim != 33) continue;  // The reference takes the time.
    std::vector<float> values = Normal(static_cast<size_t>(rows * dim), 23 + static_cast<uint64_t>(rows));
    // Ties, and rows of all lengths.
    for (int64_t r = 3; r < rows; r += 4)
      std::copy_n(&values[static_cast<size_t>((r % 8) / 4 * dim)], dim, &values[static_cast<size_t>(r * dim)]);
    for (int64_t r = 0; r < rows; r += 11) {
      for (int d = 0; d < dim; ++d) values[static_cast<size_t>(r * dim + d)] *= 3.0f;
    }
    for (int64_t r = 10; r < rows; r += 100) std::fill_n(&values[static_cast<size_t>(r * dim)], dim, 0.0f);
    const VectorsWithCodes files = MakeVectorsWithCodes(values, dim, type);
    std::vector<int64_t> some, most, all;
    for (int64_t r = 0; r < rows; ++r) {
      all.push_back(r);
      if (r % 3 == 0) some.push_back(r);
      if (r % 50 != 3) most.push_back(r);
    }
    for (const RowMask& mask : {RowMask(), RowMask().WithHidden(some), RowMask().WithHidden(most), RowMask().WithHidden(all)}) {
      for (const int64_t query_count : {1, 2, 5, 7, 131}) {
        if (query_count > 7 && (rows != 127 || mask.hidden_count() != 0)) continue;
        const std::vector<float> queries = Normal(static_cast<size_t>(query_count * dim), 11);
        for (const int top_k : {1, 10, static_cast<int>(std::min<int64_t>(rows, 500)) + 5}) {
          // Rows of few elements are too much alike, now and then; of many, never.
          const int64_t given_up = ExpectSameHits(files, queries, top_k, mask, query_count == 7 ? nullptr : &pool, "random");
          ASSERT_GE(given_up, 0);
          if (dim >= 16) {
            ASSERT_EQ(given_up, 0) << dim << " " << rows;
          }
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, CertifiedScanTest,
                         testing::Combine(testing::Values(ElementType::kFloat32, ElementType::kFloat16, ElementType::kBfloat16),
                                          testing::Values(1, 2, 5, 16, 33, 64, 127, 384)),
                         [](const testing::TestParamInfo<std::tuple<ElementType, int>>& info) {
                           return std::string(ElementTypeName(std::get<0>(info.param))) + "_" +
                                  std::to_string(std::get<1>(info.param));
                         });

TEST(CertifiedScan, ScoresFewRowsOfMany) {
  constexpr int kDim = 128;
  const VectorsWithCodes files = MakeVectorsWithCodes(Normal(40'000 * kDim, 1), kDim);
  const CertifiedScan scan(files.vectors, files.codes, nullptr, DetectCpuIsa(), DetectScanIsa());
  const std::vector<float> queries = Normal(20 * kDim, 2);
  std::vector<RowHit> hits(20 * 10);
  std::vector<int64_t> given_up;
  ASSERT_TRUE(scan.Search({queries.data(), 20, kDim}, TopK(10), RowMask(), hits.data(), &given_up).ok());
  EXPECT_TRUE(given_up.empty());
  EXPECT_GE(scan.scored_count(), 20 * 10);
  EXPECT_LT(scan.scored_count(), 20 * 400);
}

// Where 8 bits tell nothing apart the query is given up, and ExactIndex answers it all the same.
TEST(CertifiedScan, GivesUpWhereRowsAreTooMuchAlike) {
  constexpr int kDim = 24;
  constexpr int64_t kRows = 20'000;
  ThreadPool pool("search", 2, 16);
  std::vector<float> equal(kRows * kDim, 0.25f);
  std::vector<float> close = equal;
  std::mt19937_64 random(4);
  for (float& value : close) value += static_cast<float>(random() % 1000) * 1e-8f;
  std::vector<float> zero(kRows * kDim, 0.0f);
  // One element, the same in all rows, takes all of the steps.
  std::vector<float> outlier = Normal(kRows * kDim, 6);
  for (int64_t r = 0; r < kRows; ++r) outlier[static_cast<size_t>(r * kDim)] = 1e6f;
  std::vector<float> infinite = Normal(kRows * kDim, 7);
  for (int64_t r = 0; r < kRows; ++r) infinite[static_cast<size_t>(r * kDim + r % kDim)] = r % 2 == 0 ? kInfinity : std::nanf("");
  std::vector<float> queries = Normal(3 * kDim, 8);
  std::fill_n(queries.begin() + kDim, kDim, 0.0f);  // A zero among the others.
  for (const std::vector<float>* rows : {&equal, &close, &zero, &outlier, &infinite}) {
    const VectorsWithCodes files = MakeVectorsWithCodes(*rows, kDim);
    for (ThreadPool* const each : {static_cast<ThreadPool*>(nullptr), &pool}) {
      EXPECT_GT(ExpectSameHits(files, queries, 10, RowMask(), each, "alike"), 0);
      std::vector<RowHit> expected(30), hits(30);
      ASSERT_TRUE(ScoringAll(files.vectors).Search({queries.data(), 3, kDim}, TopK(10), RowMask(), expected.data()).ok());
      for (const ScanIsa isa : Isas()) {
        const ExactIndex index(files.vectors, each, DetectCpuIsa(), files.codes, isa);
        ASSERT_TRUE(index.Search({queries.data(), 3, kDim}, TopK(10), RowMask(), hits.data()).ok());
        EXPECT_GT(index.certified_scan().given_up_count(), 0);
        for (int i = 0; i < 30; ++i)
          ASSERT_TRUE(hits[i].row == expected[i].row &&
                      std::bit_cast<uint32_t>(hits[i].score) == std::bit_cast<uint32_t>(expected[i].score))
              << i;
      }
    }
  }
}

// A batch where one query is given up and the others are not.
TEST(CertifiedScan, AnswersTheOthersOfABatch) {
  constexpr int kDim = 64;
  const VectorsWithCodes files = MakeVectorsWithCodes(Normal(20'000 * kDim, 1), kDim);
  std::vector<float> queries = Normal(9 * kDim, 2);
  std::fill_n(queries.begin() + 4 * kDim, kDim, 0.0f);
  EXPECT_EQ(ExpectSameHits(files, queries, 10, RowMask(), nullptr, "one of nine"), static_cast<int64_t>(Isas().size()));
}

// Enough work that all threads scan: what they found comes together, thresholds are shared, and a query is given up by one for all.
TEST(CertifiedScan, WorkersFindTogetherWhatScoringAllFinds) {
  constexpr int kDim = 64;
  constexpr int64_t kRows = 40'000;
  constexpr int64_t kQueries = 40;
  constexpr int64_t kManyCopies = 4800;  // More than are scored for the smaller top_k, though no single thread need hold so many.
  constexpr int64_t kFewCopies = 12;
  ASSERT_GT(kRows * kQueries * kDim, int64_t{4} << 23);
  std::vector<float> rows = Normal(kRows * kDim, 1);
  std::vector<float> queries = Normal(kQueries * kDim, 2);
  std::fill_n(queries.begin(), kDim, 0.0f);  // All rows are the same to the first query.
  std::vector<int64_t> places(kRows);
  std::iota(places.begin(), places.end(), 0);
  std::shuffle(places.begin(), places.end(), std::mt19937_64(3));
  size_t used = 0;
  for (int64_t q = 1; q < kQueries; ++q) {
    // Copies of the query that differ in the last bits of an element, around every top_k below.
    for (int64_t i = 0; i < (q == 1 ? kManyCopies : kFewCopies); ++i) {
      float* const row = &rows[static_cast<size_t>(places[used++] * kDim)];
      std::copy_n(&queries[static_cast<size_t>(q * kDim)], kDim, row);
      for (int64_t ulps = 0; ulps <= i / kDim; ++ulps) row[i % kDim] = std::nextafter(row[i % kDim], kInfinity);
    }
  }
  const VectorsWithCodes files = MakeVectorsWithCodes(rows, kDim);
  std::vector<int64_t> some;
  for (int64_t r = 0; r < kRows; r += 9) some.push_back(r);
  ThreadPool pool("search", 3, 16);
  for (const RowMask& mask : {RowMask(), RowMask().WithHidden(some)}) {
    for (const int top_k : {1, 10, 500}) {
      const int64_t given_up = ExpectSameHits(files, queries, top_k, mask, &pool, "workers");
      EXPECT_EQ(given_up, static_cast<int64_t>(Isas().size()) * (top_k == 500 ? 1 : 2))
          << top_k << " of " << mask.hidden_count() << " hidden";
    }
  }
}

TEST(CertifiedScan, HoldsForAnyMagnitude) {
  constexpr int kDim = 40;
  constexpr int64_t kRows = 3000;
  std::mt19937_64 random(12);
  for (const float row_scale : {1e-44f, 1e-38f, 1e-30f, 1e-20f, 1.0f, 1e10f, 1e13f}) {
    std::vector<float> rows = Normal(kRows * kDim, 3, 1.0f);
    for (float& value : rows) value *= row_scale;
    // Some of another magnitude, some with a single element, some that nothing is known of.
    for (int64_t r = 0; r < kRows; r += 37) {
      for (int d = 0; d < kDim; ++d) rows[static_cast<size_t>(r * kDim + d)] *= r % 2 == 0 ? 1e-6f : 30.0f;
    }
    for (int64_t r = 5; r < kRows; r += 61) std::fill_n(&rows[static_cast<size_t>(r * kDim + 1)], kDim - 1, 0.0f);
    rows[100 * kDim] = kInfinity;
    rows[200 * kDim + 3] = std::nanf("");
    std::fill_n(&rows[300 * kDim], kDim, 2e17f);
    std::fill_n(&rows[301 * kDim], kDim, -2e17f);
    const VectorsWithCodes files = MakeVectorsWithCodes(rows, kDim);
    for (const float query_scale : {1e-44f, 1e-38f, 1e-25f, 1.0f, 1e13f}) {
      std::vector<float> queries = Normal(3 * kDim, 4, 1.0f);
      for (float& value : queries) value *= query_scale;
      ASSERT_GE(
          ExpectSameHits(files, queries, 7, RowMask(), nullptr, std::to_string(row_scale) + " " + std::to_string(query_scale)),
          0);
    }
  }
}

// As after a bad read of a page that was whole when the file was opened.
TEST(CertifiedScan, DamagedFiguresOfARowChangeNoOthers) {
  constexpr int kDim = 64;
  constexpr int64_t kRows = 9000;
  constexpr int kTopK = 10;
  constexpr int kDamagedOfPanel = 3;
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  const VectorsWithCodes files = MakeVectorsWithCodes(Normal(kRows * kDim, 1), kDim);
  const std::vector<float> queries = Normal(2 * kDim, 2);
  const MatrixView<const float> view{queries.data(), 2, kDim};
  ThreadPool pool("search", 2, 16);
  // So many that enough are left without those that are damaged.
  constexpr int kMany = 600;
  std::vector<RowHit> all(2 * kMany);
  ASSERT_TRUE(ScoringAll(files.vectors).Search(view, TopK(kMany), RowMask(), all.data()).ok());
  const auto is_damaged = [](int64_t row) { return row % kPanelRows < kDamagedOfPanel; };

  FileSystem& fs = PosixFileSystem();
  const std::string path = JoinPath(testing::TempDir(), "certified_scan_test_damaged");
  ASSERT_TRUE(WriteQuantizedVectors(fs, *files.vectors, path, nullptr).ok());
  const std::string good = fs.ReadFile(path).value();
  const size_t first_panel = good.size() - static_cast<size_t>(files.codes->panel_count() * PanelBytes(kDim));
  for (const size_t field : {offsetof(PanelHeader, inverse_scale), offsetof(PanelHeader, length), offsetof(PanelHeader, error)}) {
    for (const float value : {kNan, kInfinity, -kInfinity, 0.0f, -1.0f}) {
      const bool is_scale = field == offsetof(PanelHeader, inverse_scale);
      if (!is_scale && std::isfinite(value)) continue;  // A bound like any other.
      std::string bad = good;
      for (int64_t p = 0; p < files.codes->panel_count(); ++p) {
        for (size_t r = 0; r < kDamagedOfPanel; ++r) {
          std::memcpy(&bad[first_panel + static_cast<size_t>(p * PanelBytes(kDim)) + field + r * sizeof(float)], &value,
                      sizeof(value));
        }
      }
      ASSERT_TRUE(WriteFileAtomically(fs, path, bad).ok());
      auto codes = QuantizedVectors::Open(fs, path);
      ASSERT_TRUE(codes.ok()) << codes.status();
      const std::shared_ptr<const QuantizedVectors> damaged = *std::move(codes);
      for (const ScanIsa isa : Isas()) {
        for (ThreadPool* const each : {static_cast<ThreadPool*>(nullptr), &pool}) {
          SCOPED_TRACE(testing::Message() << "field at " << field << " value " << value << " isa " << static_cast<int>(isa));
          const CertifiedScan scan(files.vectors, damaged, each, isa == ScanIsa::kVnni ? CpuIsa::kAvx512 : CpuIsa::kAvx2, isa);
          std::vector<RowHit> hits(2 * kTopK);
          std::vector<int64_t> given_up;
          ASSERT_TRUE(scan.Search(view, TopK(kTopK), RowMask(), hits.data(), &given_up).ok());
          ASSERT_TRUE(given_up.empty());
          for (int q = 0; q < 2; ++q) {
            // What is known of the others is true; a damaged row may be found or not, but only with its score.
            const RowHit* expected = &all[static_cast<size_t>(q * kMany)];
            for (int i = 0; i < kTopK; ++i) {
              const RowHit& hit = hits[static_cast<size_t>(q * kTopK + i)];
              while (expected->row != hit.row && is_damaged(expected->row)) ++expected;
              ASSERT_EQ(hit.row, expected->row) << "query " << q << " hit " << i;
              ASSERT_EQ(std::bit_cast<uint32_t>(hit.score), std::bit_cast<uint32_t>(expected->score));
              ++expected;
            }
          }
        }
      }
    }
  }
  EXPECT_TRUE(fs.DeleteFile(path).ok());
}

TEST(CertifiedPlan, HoldsNoMoreThanItSays) {
  for (int64_t workers = 1; workers <= 128; ++workers) {
    for (int top_k = 1; top_k <= kMaxTopK; ++top_k) {
      for (const int64_t queries : {128, 512}) {
        const CertifiedPlan plan = MakeCertifiedPlan(workers, queries, top_k);
        ASSERT_GE(plan.workers, std::min<int64_t>(workers, 120)) << top_k;
        ASSERT_LE(plan.workers, workers);
        ASSERT_GE(plan.queries, 1) << workers << " workers, top_k " << top_k;
        ASSERT_LE(plan.queries, queries);
        ASSERT_LE(plan.queries * plan.holders() * MaxCandidates(top_k), kMaxPassCandidates)
            << workers << " workers, top_k " << top_k;
      }
    }
  }
  EXPECT_EQ(MakeCertifiedPlan(2, 128, 10).queries, 128);
  EXPECT_EQ(MakeCertifiedPlan(64, 128, 10'000).queries, 1);
}

TEST(CertifiedScan, StopsWhenCancelledOrTooLate) {
  const VectorsWithCodes files = MakeVectorsWithCodes(Normal(20'000 * 24, 1), 24);
  const std::vector<float> queries = Normal(20 * 24, 1);
  std::vector<RowHit> hits(20 * 3);
  ThreadPool pool("search", 2, 16);
  for (ThreadPool* const each : {static_cast<ThreadPool*>(nullptr), &pool}) {
    const ExactIndex index(files.vectors, each, DetectCpuIsa(), files.codes);
    IndexSearchOptions options = TopK(3);
    options.limits.Cancel();
    EXPECT_EQ(index.Search({queries.data(), 20, 24}, options, RowMask(), hits.data()).code(), absl::StatusCode::kCancelled);
    options.limits = RequestLimits(0);
    EXPECT_EQ(index.Search({queries.data(), 20, 24}, options, RowMask(), hits.data()).code(),
              absl::StatusCode::kDeadlineExceeded);
  }
}

// Without codes, where many queries share the making of a panel.
TEST(CertifiedScan, MakesCodesForManyQueries) {
  constexpr int kDim = 48;
  const VectorsWithCodes files = MakeVectorsWithCodes(Normal(9000 * kDim, 1), kDim, ElementType::kBfloat16);
  const std::vector<float> queries = Normal(600 * kDim, 2);
  ThreadPool pool("search", 2, 16);
  const ExactIndex index(files.vectors, &pool);
  std::vector<RowHit> hits(600 * 5), expected(600 * 5);
  for (const int64_t count : {1, 14, 15, 600}) {
    const int64_t before = index.certified_scan().answered_count();
    ASSERT_TRUE(index.Search({queries.data(), count, kDim}, TopK(5), RowMask(), hits.data()).ok());
    ASSERT_TRUE(ScoringAll(files.vectors).Search({queries.data(), count, kDim}, TopK(5), RowMask(), expected.data()).ok());
    EXPECT_EQ(index.certified_scan().answered_count() - before, DetectScanIsa() == ScanIsa::kVnni && count >= 15 ? count : 0);
    for (int64_t i = 0; i < count * 5; ++i) {
      ASSERT_TRUE(hits[i].row == expected[i].row &&
                  std::bit_cast<uint32_t>(hits[i].score) == std::bit_cast<uint32_t>(expected[i].score))
          << i;
    }
  }
}

// A pass in vain is not made for every search of rows that 8 bits do not tell apart.
TEST(CertifiedScan, IsTriedNowAndThenWhereItGaveUp) {
  constexpr int64_t kRows = 6000;
  constexpr int kDim = 8;
  const VectorsWithCodes alike = MakeVectorsWithCodes(std::vector<float>(static_cast<size_t>(kRows * kDim), 0.25f), kDim);
  const ExactIndex index(alike.vectors, nullptr, DetectCpuIsa(), alike.codes);
  const CertifiedScan& scan = index.certified_scan();
  const std::vector<float> query = Normal(kDim, 3);
  std::vector<RowHit> hits(5);
  std::vector<int> tried;
  for (int i = 0; i < 260; ++i) {
    const int64_t before = scan.given_up_count();
    ASSERT_TRUE(index.Search({query.data(), 1, kDim}, TopK(5), RowMask(), hits.data()).ok());
    for (int64_t row = 0; row < 5; ++row) ASSERT_EQ(hits[static_cast<size_t>(row)].row, row) << i;
    if (scan.given_up_count() > before) tried.push_back(i);
  }
  EXPECT_EQ(tried, (std::vector<int>{0, 2, 6, 14, 30, 62, 126, 190, 254}));
  EXPECT_EQ(scan.skipped_count(), 260 - static_cast<int64_t>(tried.size()));
  EXPECT_EQ(scan.answered_count(), 0);
}

TEST(CertifiedScan, GoesOnWhereItGaveUpFewQueries) {
  constexpr int64_t kRows = 6000;
  constexpr int kDim = 24;
  std::vector<float> rows = Normal(kRows * kDim, 1);
  for (int64_t r = 0; r < kRows; ++r) rows[static_cast<size_t>(r * kDim)] = 0.25f;
  const VectorsWithCodes files = MakeVectorsWithCodes(rows, kDim);
  const ExactIndex index(files.vectors, nullptr, DetectCpuIsa(), files.codes);
  const CertifiedScan& scan = index.certified_scan();
  std::vector<float> queries = Normal(4 * kDim, 3);
  std::fill_n(queries.begin(), 2 * kDim, 0.0f);
  queries[0] = queries[kDim] = 1;  // Of the element in which all rows are alike.
  std::vector<RowHit> hits(4 * 5);
  const auto given_up = [&](int64_t first, int64_t count) {
    const int64_t before = scan.given_up_count();
    EXPECT_TRUE(index.Search({queries.data() + first * kDim, count, kDim}, TopK(5), RowMask(), hits.data()).ok());
    return scan.given_up_count() - before;
  };
  for (int i = 0; i < 3; ++i) EXPECT_EQ(given_up(0, 4), 2) << "half of them";
  EXPECT_EQ(scan.skipped_count(), 0);
  EXPECT_EQ(given_up(0, 3), 2) << "more than half";
  EXPECT_EQ(given_up(0, 4), 0);
  EXPECT_EQ(scan.skipped_count(), 1);
  EXPECT_EQ(given_up(0, 3), 2) << "a second time in a row";
  for (int i = 0; i < 3; ++i) EXPECT_EQ(given_up(0, 4), 0);
  EXPECT_EQ(given_up(2, 2), 0) << "answers both, and begins anew";
  EXPECT_EQ(scan.skipped_count(), 4);
  EXPECT_EQ(given_up(0, 2), 2);
  EXPECT_EQ(given_up(2, 2), 0);
  EXPECT_EQ(scan.skipped_count(), 5);
  EXPECT_EQ(given_up(0, 2), 2);
}

// A query of which nothing is left in 8 bits is given up whatever the rows are: the searches of others go on as they would without it.
TEST(CertifiedScan, ZeroQueriesSayNothingOfTheCodes) {
  constexpr int64_t kRows = 6000;
  constexpr int kDim = 24;
  const std::vector<float> zero(kDim, 0.0f), tiny(kDim, 1e-40f), normal = Normal(kDim, 3);
  std::vector<float> mostly_zeros(4 * kDim, 0.0f);
  std::copy(normal.begin(), normal.end(), mostly_zeros.begin() + kDim);
  std::vector<RowHit> hits(4 * 5);
  {
    const VectorsWithCodes files = MakeVectorsWithCodes(Normal(kRows * kDim, 1), kDim);
    const ExactIndex index(files.vectors, nullptr, DetectCpuIsa(), files.codes);
    for (int i = 0; i < 3; ++i) {
      for (const std::vector<float>& queries : {zero, normal, tiny, normal, mostly_zeros}) {
        const int64_t count = static_cast<int64_t>(queries.size()) / kDim;
        ASSERT_TRUE(index.Search({queries.data(), count, kDim}, TopK(5), RowMask(), hits.data()).ok());
      }
    }
    EXPECT_EQ(index.certified_scan().skipped_count(), 0);
    EXPECT_EQ(index.certified_scan().given_up_count(), 3 * (1 + 1 + 3));
    EXPECT_EQ(index.certified_scan().answered_count(), 3 * (1 + 1 + 1));
  }
  // Nor do they begin anew what others found in vain.
  const VectorsWithCodes alike = MakeVectorsWithCodes(std::vector<float>(static_cast<size_t>(kRows * kDim), 0.25f), kDim);
  const ExactIndex index(alike.vectors, nullptr, DetectCpuIsa(), alike.codes);
  std::string tried;
  for (const char kind : std::string("nzznzzznnnnnnnnn")) {
    const int64_t before = index.certified_scan().given_up_count();
    ASSERT_TRUE(index.Search({kind == 'z' ? zero.data() : normal.data(), 1, kDim}, TopK(5), RowMask(), hits.data()).ok());
    tried += index.certified_scan().given_up_count() > before ? kind : '-';
  }
  EXPECT_EQ(tried, "n-zn---n-------n");
}

TEST(CertifiedScan, IsAskedOnlyWhereItPays) {
  const VectorsWithCodes files = MakeVectorsWithCodes(Normal(20'000 * 24, 1), 24);
  const ExactIndex index(files.vectors, nullptr, DetectCpuIsa(), files.codes);
  const std::vector<float> queries = Normal(24, 1);
  std::vector<RowHit> hits(10'000);
  const auto search = [&](int top_k, const RowMask& mask) {
    const int64_t before = index.certified_scan().answered_count();
    EXPECT_TRUE(index.Search({queries.data(), 1, 24}, TopK(top_k), mask, hits.data()).ok());
    return index.certified_scan().answered_count() - before;
  };
  std::vector<int64_t> most;
  for (int64_t r = 0; r < 20'000; ++r) {
    if (r % 10 != 0) most.push_back(r);
  }
  EXPECT_EQ(search(10, RowMask()), 1);
  EXPECT_EQ(search(10'000, RowMask()), 0);
  EXPECT_EQ(search(10, RowMask().WithHidden(most)), 0);
}

}  // namespace
}  // namespace loci
