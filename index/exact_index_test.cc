#include "index/exact_index.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <tuple>
#include <vector>

#include <gtest/gtest.h>

#include "base/error.h"
#include "base/file.h"

namespace loci {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// The definition in exact_index.h, literally.
float ReferenceScore(const float* query, const float* row, int dim) {
  float lane[16];
  for (int l = 0; l < 16; ++l) {
    lane[l] = 0.0f;
    for (int c = 0; 16 * c < dim; ++c) {
      const int d = 16 * c + l;
      lane[l] = std::fma(d < dim ? query[d] : 0.0f, d < dim ? row[d] : 0.0f, lane[l]);
    }
  }
  for (int width = 8; width >= 1; width /= 2) {
    for (int l = 0; l < width; ++l) lane[l] = lane[l] + lane[l + width];
  }
  return lane[0];
}

struct Data {
  std::vector<float> values;    // What is stored, as float32: [rows, dim].
  std::vector<uint16_t> halves;  // The stored bits of a 16-bit type.
  RowBlock block;
};

Data MakeRows(int64_t rows, int dim, ElementType type, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal(0.0f, 0.3f);
  Data data;
  data.values.resize(rows * dim);
  for (float& value : data.values) value = normal(random);
  // Few distinct rows here and there: ties. And magnitudes that make the order of summation matter.
  for (int64_t r = 3; r < rows; r += 4) {
    for (int d = 0; d < dim; ++d) data.values[r * dim + d] = data.values[(r % 8) / 4 * dim + d];
  }
  for (size_t i = 0; i < data.values.size(); i += 17) data.values[i] *= 1000.0f;
  data.block = {data.values.data(), type, rows, dim};
  if (type != ElementType::kFloat32) {
    data.halves.resize(data.values.size());
    if (type == ElementType::kFloat16) {
      Float32ToFloat16(data.values.data(), data.halves.data(), data.values.size());
      Float16ToFloat32(data.halves.data(), data.values.data(), data.values.size());
    } else {
      Float32ToBfloat16(data.values.data(), data.halves.data(), data.values.size());
      Bfloat16ToFloat32(data.halves.data(), data.values.data(), data.values.size());
    }
    data.block.data = data.halves.data();
  }
  return data;
}

std::vector<float> MakeQueries(int64_t count, int dim, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> queries(count * dim);
  for (float& value : queries) value = normal(random);
  return queries;
}

std::shared_ptr<const VectorFile> MakeFile(const Data& data) {
  const std::string path = JoinPath(testing::TempDir(), "exact_index_test_vectors");
  auto writer = VectorFileWriter::Create(PosixFileSystem(), path, data.block.rows, data.block.dim, data.block.type);
  EXPECT_TRUE(writer.ok()) << writer.status();
  for (int64_t r = 0; r < data.block.rows; ++r) EXPECT_TRUE((*writer)->Append(&data.values[r * data.block.dim]).ok());
  EXPECT_TRUE((*writer)->Finish().ok());
  auto file = VectorFile::Open(PosixFileSystem(), path);
  EXPECT_TRUE(file.ok()) << file.status();
  EXPECT_TRUE(PosixFileSystem().DeleteFile(path).ok());
  return *std::move(file);
}

// Sorts everything: the specification of Search.
std::vector<RowHit> ReferenceSearch(const Data& data, const std::vector<float>& queries, int64_t query_count, int top_k,
                                    const RowMask& hidden) {
  const int dim = data.block.dim;
  std::vector<RowHit> all;
  for (int64_t q = 0; q < query_count; ++q) {
    std::vector<RowHit> hits;
    for (int64_t r = 0; r < data.block.rows; ++r) {
      if (!hidden.hidden(r)) hits.push_back({r, ReferenceScore(&queries[q * dim], &data.values[r * dim], dim)});
    }
    std::sort(hits.begin(), hits.end(),
              [](const RowHit& a, const RowHit& b) { return a.score != b.score ? a.score > b.score : a.row < b.row; });
    hits.resize(top_k, RowHit{-1, -kInfinity});
    all.insert(all.end(), hits.begin(), hits.end());
  }
  return all;
}

bool SameBits(float a, float b) { return std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b); }

std::vector<CpuIsa> Isas() {
  std::vector<CpuIsa> isas = {CpuIsa::kAvx2};
  if (DetectCpuIsa() == CpuIsa::kAvx512) isas.push_back(CpuIsa::kAvx512);
  return isas;
}

class ExactIndexParityTest : public testing::TestWithParam<std::tuple<ElementType, int>> {};

TEST_P(ExactIndexParityTest, ScoresHaveTheBitsOfTheDefinition) {
  const auto [type, dim] = GetParam();
  for (const int64_t rows : {1, 5, 31, 33, 127}) {
    const Data data = MakeRows(rows, dim, type, 7 + rows);
    for (const int64_t query_count : {1, 2, 3, 4, 5, 6, 7, 33}) {
      const std::vector<float> queries = MakeQueries(query_count, dim, 11);
      for (const CpuIsa isa : Isas()) {
        std::vector<float> scores(query_count * rows, -123.0f);
        ExactScores({queries.data(), query_count, dim}, data.block, scores.data(), isa);
        for (int64_t q = 0; q < query_count; ++q) {
          for (int64_t r = 0; r < rows; ++r) {
            const float expected = ReferenceScore(&queries[q * dim], &data.values[r * dim], dim);
            const void* row = static_cast<const char*>(data.block.data) + r * dim * ElementSize(type);
            ASSERT_TRUE(SameBits(scores[q * rows + r], expected) &&
                        SameBits(ExactScore(&queries[q * dim], row, type, dim, isa), expected))
                << CpuIsaName(isa) << " dim " << dim << " rows " << rows << " queries " << query_count << " q " << q << " r " << r
                << ": " << scores[q * rows + r] << ", expected " << expected;
          }
        }
      }
    }
  }
}

TEST_P(ExactIndexParityTest, SearchFindsWhatSortingFinds) {
  const auto [type, dim] = GetParam();
  ThreadPool pool("search", 2, 16);
  for (const int64_t rows : {0, 1, 5, 31, 33, 127, 1000}) {
    const Data data = MakeRows(rows, dim, type, 23 + rows);
    const std::shared_ptr<const VectorFile> file = MakeFile(data);
    std::vector<int64_t> few, some, most, all;
    for (int64_t r = 0; r < rows; ++r) {
      all.push_back(r);
      if (r % 20 == 0) few.push_back(r);
      if (r % 3 == 0) some.push_back(r);
      if (r % 50 != 3) most.push_back(r);
    }
    const std::vector<RowMask> masks = {RowMask(), RowMask().WithHidden(few), RowMask().WithHidden(some), RowMask().WithHidden(most),
                                        RowMask().WithHidden(all)};
    for (const int64_t query_count : {1, 2, 5, 7, 33}) {
      const std::vector<float> queries = MakeQueries(query_count, dim, 11);
      for (const RowMask& mask : masks) {
        for (const int top_k : {1, 2, 10, static_cast<int>(rows) + 5}) {
          const std::vector<RowHit> expected = ReferenceSearch(data, queries, query_count, top_k, mask);
          for (const CpuIsa isa : Isas()) {
            const ExactIndex index(file, &pool, isa);
            IndexSearchOptions options;
            options.top_k = top_k;
            std::vector<RowHit> hits(query_count * top_k);
            ASSERT_TRUE(index.Search({queries.data(), query_count, dim}, options, mask, hits.data()).ok());
            for (size_t i = 0; i < hits.size(); ++i) {
              ASSERT_TRUE(hits[i].row == expected[i].row && SameBits(hits[i].score, expected[i].score))
                  << CpuIsaName(isa) << " dim " << dim << " rows " << rows << " queries " << query_count << " top_k " << top_k
                  << " hidden " << mask.hidden_count() << " hit " << i << ": row " << hits[i].row << " score " << hits[i].score
                  << ", expected row " << expected[i].row << " score " << expected[i].score;
            }
          }
        }
      }
      if (rows == 1000 && query_count == 7) break;  // The reference takes the time.
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    All, ExactIndexParityTest,
    testing::Combine(testing::Values(ElementType::kFloat32, ElementType::kFloat16, ElementType::kBfloat16),
                     testing::Values(1, 2, 5, 16, 31, 33, 127, 384)),
    [](const testing::TestParamInfo<std::tuple<ElementType, int>>& info) {
      return std::string(ElementTypeName(std::get<0>(info.param))) + "_" + std::to_string(std::get<1>(info.param));
    });

std::vector<RowHit> Search(const PassageIndex& index, const std::vector<float>& queries, int top_k, const RowMask& mask = RowMask()) {
  IndexSearchOptions options;
  options.top_k = top_k;
  const int64_t count = static_cast<int64_t>(queries.size()) / index.dim();
  std::vector<RowHit> hits(count * top_k);
  EXPECT_TRUE(index.Search({queries.data(), count, index.dim()}, options, mask, hits.data()).ok());
  return hits;
}

TEST(ExactIndex, GivesTheSameForAnyNumberOfThreadsAndAnyBatch) {
  constexpr int kDim = 24;
  const Data data = MakeRows(30'000, kDim, ElementType::kFloat32, 5);
  const std::shared_ptr<const VectorFile> file = MakeFile(data);
  const std::vector<float> queries = MakeQueries(40, kDim, 6);
  std::vector<int64_t> rows;
  for (int64_t r = 0; r < 30'000; r += 7) rows.push_back(r);
  const RowMask mask = RowMask().WithHidden(rows);
  const ExactIndex alone(file, nullptr);
  const std::vector<RowHit> expected = Search(alone, queries, 50, mask);
  for (const int threads : {1, 2, 5}) {
    ThreadPool pool("search", threads, 16);
    const std::vector<RowHit> hits = Search(ExactIndex(file, &pool), queries, 50, mask);
    for (size_t i = 0; i < hits.size(); ++i) {
      ASSERT_EQ(hits[i].row, expected[i].row) << threads << " threads, hit " << i;
      ASSERT_TRUE(SameBits(hits[i].score, expected[i].score));
    }
  }
  for (int q = 0; q < 40; ++q) {
    const std::vector<RowHit> hits = Search(alone, {queries.begin() + q * kDim, queries.begin() + (q + 1) * kDim}, 50, mask);
    for (size_t i = 0; i < hits.size(); ++i) {
      ASSERT_EQ(hits[i].row, expected[q * 50 + i].row) << "query " << q;
      ASSERT_TRUE(SameBits(hits[i].score, expected[q * 50 + i].score));
    }
  }
}

// Stretches where nothing, little, much and all is hidden: each is scored in its own way.
TEST(ExactIndex, FindsTheVisibleRowsOfAnyDensity) {
  constexpr int kDim = 24;
  constexpr int64_t kRows = 70'001;
  const Data data = MakeRows(kRows, kDim, ElementType::kFloat16, 5);
  const std::shared_ptr<const VectorFile> file = MakeFile(data);
  std::vector<uint64_t> visible((kRows + 63) / 64);
  std::mt19937_64 random(9);
  const int per_mille[] = {1000, 1, 950, 0, 500, 10, 850, 880};
  for (int64_t r = 0; r < kRows; ++r) {
    if (static_cast<int>(random() % 1000) < per_mille[r / 9000]) visible[r / 64] |= uint64_t{1} << (r % 64);
  }
  const RowMask deleted = RowMask().WithHidden(std::vector<int64_t>{0, 9001, 20'000, 70'000});
  const RowMask mask = deleted.RestrictedTo(kRows, visible);
  const std::vector<float> queries = MakeQueries(13, kDim, 6);
  const std::vector<RowHit> expected = ReferenceSearch(data, queries, 13, 300, mask);
  ThreadPool pool("search", 2, 16);
  for (const CpuIsa isa : Isas()) {
    for (ThreadPool* const threads : {static_cast<ThreadPool*>(nullptr), &pool}) {
      const std::vector<RowHit> hits = Search(ExactIndex(file, threads, isa), queries, 300, mask);
      for (size_t i = 0; i < hits.size(); ++i) {
        ASSERT_EQ(hits[i].row, expected[i].row) << CpuIsaName(isa) << " hit " << i;
        ASSERT_TRUE(SameBits(hits[i].score, expected[i].score));
      }
    }
  }
}

TEST(ExactIndex, BreaksTiesByRow) {
  Data data = MakeRows(5000, 8, ElementType::kFloat32, 1);
  std::fill(data.values.begin(), data.values.end(), 0.5f);
  ThreadPool pool("search", 2, 16);
  for (const CpuIsa isa : Isas()) {
    const ExactIndex index(MakeFile(data), &pool, isa);
    const std::vector<RowHit> hits = Search(index, std::vector<float>(8, 1.0f), 300);
    for (int i = 0; i < 300; ++i) ASSERT_EQ(hits[i].row, i);
    // Also where the rows that win come last, after the threshold has risen to their score.
    TopKCollector backwards(1, 300, isa);
    const std::vector<float> scores(70, 4.0f);
    for (int64_t first = 4900; first >= 0; first -= 70) backwards.AddBlock(scores.data(), first, 70, RowMask());
    std::vector<RowHit> best(300);
    backwards.Finish(best.data());
    for (int i = 0; i < 300; ++i) ASSERT_EQ(best[i].row, i) << CpuIsaName(isa);
  }
}

TEST(ExactIndex, PaddingNeverWinsOverNegativeOrInfiniteScores) {
  Data data = MakeRows(7, 5, ElementType::kFloat32, 1);
  std::fill(data.values.begin(), data.values.end(), -1.0f);
  for (int d = 0; d < 5; ++d) data.values[2 * 5 + d] = -3e38f;
  for (const CpuIsa isa : Isas()) {
    const ExactIndex index(MakeFile(data), nullptr, isa);
    const std::vector<RowHit> hits = Search(index, std::vector<float>(5, 10.0f), 9);
    EXPECT_EQ(hits[0].row, 0);
    EXPECT_EQ(hits[0].score, -50.0f);
    EXPECT_EQ(hits[5].row, 6);
    EXPECT_EQ(hits[6].row, 2);
    EXPECT_EQ(hits[6].score, -kInfinity);
    EXPECT_EQ(hits[7].row, -1);
    EXPECT_EQ(hits[8].row, -1);
  }
}

TEST(ExactIndex, KeepsARowWhoseScoreOverflowsToNan) {
  Data data = MakeRows(2, 17, ElementType::kFloat32, 1);
  std::fill(data.values.begin(), data.values.end(), 1.0f);
  data.values[0] = 3e38f;   // + infinity in lane 0 after two products
  data.values[1] = -3e38f;  // - infinity in lane 1
  for (const CpuIsa isa : Isas()) {
    const ExactIndex index(MakeFile(data), nullptr, isa);
    const std::vector<RowHit> hits = Search(index, std::vector<float>(17, 100.0f), 2);
    EXPECT_EQ(hits[0].row, 1);
    EXPECT_EQ(hits[1].row, 0);
    EXPECT_EQ(hits[1].score, -kInfinity);
  }
}

TEST(ExactIndex, RefusesArgumentsThatDoNotFit) {
  const ExactIndex index(MakeFile(MakeRows(7, 5, ElementType::kFloat32, 1)), nullptr);
  std::vector<float> query(6, 1.0f);
  std::vector<RowHit> hits(20000);
  const auto code = [&](int64_t dim, auto change) {
    IndexSearchOptions options;
    options.top_k = 3;
    change(options);
    return index.Search({query.data(), 1, dim}, options, RowMask(), hits.data()).code();
  };
  EXPECT_EQ(code(5, [](IndexSearchOptions&) {}), absl::StatusCode::kOk);
  EXPECT_EQ(code(6, [](IndexSearchOptions&) {}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code(4, [](IndexSearchOptions&) {}), absl::StatusCode::kInvalidArgument);
  for (const int top_k : {0, -1, kMaxTopK + 1, std::numeric_limits<int>::max()}) {
    EXPECT_EQ(code(5, [&](IndexSearchOptions& o) { o.top_k = top_k; }), absl::StatusCode::kInvalidArgument) << top_k;
  }
  for (const int bad : {1, -1}) {
    for (const auto& [option, field] : {std::pair(&IndexSearchOptions::nprobe, "options.nprobe"), std::pair(&IndexSearchOptions::ef_search, "options.ef_search"),
                                        std::pair(&IndexSearchOptions::rescore_factor, "options.rescore_factor")}) {
      IndexSearchOptions options;
      options.top_k = 3;
      options.*option = bad;
      const absl::Status status = index.Search({query.data(), 1, 5}, options, RowMask(), hits.data());
      EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
      const auto reason = GetErrorReason(status);
      ASSERT_TRUE(reason.has_value()) << status;
      EXPECT_EQ(reason->reason, "INVALID_ARGUMENT");
      EXPECT_EQ(reason->metadata.at("field"), field);
    }
  }
  for (const float bad : {kInfinity, -kInfinity, std::nanf("")}) {
    query[3] = bad;
    EXPECT_EQ(code(5, [](IndexSearchOptions&) {}), absl::StatusCode::kInvalidArgument) << bad;
  }
}

TEST(ExactIndex, StopsWhenCancelledOrTooLate) {
  ThreadPool pool("search", 2, 16);
  const Data data = MakeRows(20'000, 24, ElementType::kFloat32, 1);
  const std::shared_ptr<const VectorFile> file = MakeFile(data);
  const std::vector<float> queries = MakeQueries(20, 24, 1);
  std::vector<RowHit> hits(20 * 3);
  for (ThreadPool* each : {&pool, static_cast<ThreadPool*>(nullptr)}) {
    const ExactIndex index(file, each);
    IndexSearchOptions options;
    options.top_k = 3;
    options.limits.Cancel();
    EXPECT_EQ(index.Search({queries.data(), 20, 24}, options, RowMask(), hits.data()).code(), absl::StatusCode::kCancelled);
    options.limits = RequestLimits(0);
    EXPECT_EQ(index.Search({queries.data(), 20, 24}, options, RowMask(), hits.data()).code(), absl::StatusCode::kDeadlineExceeded);
  }
}

TEST(TopKCollector, TakesBlocksInAnyOrderAndAtAnyRow) {
  const std::vector<float> scores = MakeQueries(1, 3001, 9);
  std::vector<int64_t> rows;
  for (int64_t r = 5; r < 3001; r += 5) rows.push_back(r);
  const RowMask mask = RowMask().WithHidden(rows);
  std::vector<RowHit> expected(20), hits(20);
  TopKCollector forward(1, 20);
  forward.AddBlock(scores.data(), 0, 3001, mask);
  forward.Finish(expected.data());
  for (const RowHit& hit : expected) EXPECT_FALSE(mask.hidden(hit.row));
  TopKCollector a(1, 20), b(1, 20);
  for (int64_t first = 2993; first >= -36; first -= 37) {  // Not at multiples of 64.
    const int64_t begin = std::max<int64_t>(first, 0);
    (first % 2 == 0 ? a : b).AddBlock(scores.data() + begin, begin, std::min<int64_t>(first + 37, 3001) - begin, mask);
  }
  a.Merge(b);
  a.Finish(hits.data());
  for (int i = 0; i < 20; ++i) {
    EXPECT_EQ(hits[i].row, expected[i].row) << i;
    EXPECT_EQ(hits[i].score, expected[i].score) << i;
  }
}

}  // namespace
}  // namespace loci
