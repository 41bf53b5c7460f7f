#include "index/graph_search.h"

#include <faiss/IndexHNSW.h>
#include <gtest/gtest.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "index/vector_file_testing.h"

namespace loci {
namespace {

constexpr int kDim = 40;
constexpr int64_t kRows = 3000;

std::vector<float> MakeVectors(int64_t count, uint64_t seed) {
  std::mt19937_64 random(seed), fixed(9);
  std::normal_distribution<float> normal;
  std::vector<float> centres(30 * kDim), vectors(static_cast<size_t>(count * kDim));
  for (float& value : centres) value = normal(fixed);
  for (int64_t row = 0; row < count; ++row) {
    const size_t centre = random() % 30 * kDim;
    float* const vector = &vectors[static_cast<size_t>(row) * kDim];
    float squares = 0;
    for (size_t d = 0; d < kDim; ++d) {
      vector[d] = centres[centre + d] + 0.8f * normal(random);
      squares += vector[d] * vector[d];
    }
    for (size_t d = 0; d < kDim; ++d) vector[d] /= std::sqrt(squares);
  }
  return vectors;
}

// A graph that FAISS built, and its vectors.
struct Built {
  std::unique_ptr<faiss::IndexHNSWFlat> faiss;
  std::shared_ptr<const VectorFile> vectors;
  faiss::HNSW graph() const { return faiss->hnsw; }
};

Built Build(int64_t rows) {
  omp_set_num_threads(1);
  const std::vector<float> data = MakeVectors(rows, 1);
  Built built;
  built.faiss = std::make_unique<faiss::IndexHNSWFlat>(kDim, 8, faiss::METRIC_INNER_PRODUCT);
  built.faiss->add(rows, data.data());
  built.vectors = MakeVectorFile(data, kDim);
  return built;
}

std::unique_ptr<GraphSearch> Open(const Built& built, ScanIsa isa = DetectScanIsa()) {
  return GraphSearch::Create(built.graph(), *built.vectors, isa).value();
}

std::vector<int64_t> Find(const GraphSearch& search, const float* query, int64_t ef_search, const RowMask& hidden = RowMask()) {
  std::vector<int64_t> rows;
  EXPECT_TRUE(search.Search(query, ef_search, hidden, RequestLimits(), &rows).ok());
  std::sort(rows.begin(), rows.end());
  return rows;
}

double Dot(const float* a, const float* b) {
  double sum = 0;
  for (int d = 0; d < kDim; ++d) sum += static_cast<double>(a[d]) * b[d];
  return sum;
}

TEST(GraphSearch, FindsWhatFaissFindsInItsGraph) {
  const Built built = Build(kRows);
  const std::vector<float> queries = MakeVectors(100, 2);
  const auto search = Open(built);
  for (const int64_t ef_search : {10, 40}) {
    faiss::SearchParametersHNSW parameters;
    parameters.efSearch = static_cast<int>(ef_search);
    std::vector<float> scores(static_cast<size_t>(100 * ef_search));
    std::vector<faiss::Index::idx_t> theirs(static_cast<size_t>(100 * ef_search));
    for (int64_t q = 0; q < 100; ++q) {
      built.faiss->search(1, &queries[static_cast<size_t>(q * kDim)], ef_search, &scores[static_cast<size_t>(q * ef_search)],
                          &theirs[static_cast<size_t>(q * ef_search)], &parameters);
    }
    int64_t shared = 0;
    for (int64_t q = 0; q < 100; ++q) {
      const std::vector<int64_t> ours = Find(*search, &queries[static_cast<size_t>(q * kDim)], ef_search);
      ASSERT_EQ(static_cast<int64_t>(ours.size()), ef_search);
      ASSERT_EQ(std::set<int64_t>(ours.begin(), ours.end()).size(), ours.size());
      for (int64_t i = 0; i < ef_search; ++i)
        shared += std::binary_search(ours.begin(), ours.end(), theirs[static_cast<size_t>(q * ef_search + i)]);
    }
    EXPECT_GE(static_cast<double>(shared) / static_cast<double>(100 * ef_search), 0.9) << "ef_search " << ef_search;
  }
}

TEST(GraphSearch, ReachesEveryRowWhenTold) {
  const Built built = Build(kRows);
  const auto search = Open(built);
  const std::vector<float> query = MakeVectors(1, 2);
  const std::vector<int64_t> found = Find(*search, query.data(), kRows);
  EXPECT_GE(static_cast<int64_t>(found.size()), kRows * 99 / 100);
  EXPECT_EQ(Find(*search, query.data(), 10 * kRows), found);
}

TEST(GraphSearch, IsTheSameForEveryInstructionSetAndAfterOtherSearches) {
  const Built built = Build(kRows);
  const auto avx2 = Open(built, ScanIsa::kAvx2), best = Open(built);
  const std::vector<float> queries = MakeVectors(20, 2);
  for (int pass = 0; pass < 2; ++pass) {
    for (int64_t q = 0; q < 20; ++q) {
      const float* const query = &queries[static_cast<size_t>(q * kDim)];
      ASSERT_EQ(Find(*avx2, query, 30), Find(*best, query, 30)) << q;
      ASSERT_EQ(Find(*Open(built), query, 30), Find(*best, query, 30)) << q;
      if (q > 4) break;  // A fresh one each time takes long.
    }
  }
}

TEST(GraphSearch, GoesThroughHiddenRowsToOthers) {
  const Built built = Build(kRows);
  const auto search = Open(built);
  const std::vector<float> queries = MakeVectors(20, 2);
  int best_found = 0;
  for (int64_t q = 0; q < 20; ++q) {
    const float* const query = &queries[static_cast<size_t>(q * kDim)];
    // What is nearest is hidden.
    const std::vector<int64_t> nearest = Find(*search, query, 50);
    const RowMask hidden = RowMask().WithHidden(nearest);
    const std::vector<int64_t> others = Find(*search, query, 200, hidden);
    EXPECT_GE(others.size(), 140u) << q;
    EXPECT_LE(others.size(), 200u) << q;
    std::vector<std::pair<double, int64_t>> truth;
    for (int64_t row = 0; row < kRows; ++row) {
      if (!hidden.hidden(row)) truth.emplace_back(-Dot(query, static_cast<const float*>(built.vectors->row(row))), row);
    }
    std::sort(truth.begin(), truth.end());
    for (size_t i = 0; i < 10; ++i) best_found += std::binary_search(others.begin(), others.end(), truth[i].second);
    for (const int64_t row : others) ASSERT_FALSE(hidden.hidden(row));
  }
  EXPECT_GE(best_found, 190) << "of 10 for each of 20 queries";
}

TEST(GraphSearch, AnswersManyThreadsAsOne) {
  const Built built = Build(kRows);
  const auto search = Open(built);
  const std::vector<float> queries = MakeVectors(40, 2);
  std::vector<std::vector<int64_t>> expected;
  for (int64_t q = 0; q < 40; ++q) expected.push_back(Find(*search, &queries[static_cast<size_t>(q * kDim)], 25));
  std::vector<std::thread> threads;
  std::vector<int> wrong(4);
  for (size_t t = 0; t < wrong.size(); ++t) {
    threads.emplace_back([&, t] {
      for (size_t i = 0; i < 200; ++i) {
        const size_t q = (7 * i + t) % 40;
        wrong[t] += Find(*search, &queries[q * kDim], 25) != expected[q];
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, std::vector<int>(4, 0));
}

// However many candidates one query asks for; and the next search is as good as any.
TEST(GraphSearch, EndsSoonAfterItsLimits) {
  const Built built = Build(kRows);
  const auto search = Open(built);
  const std::vector<float> query = MakeVectors(1, 2);
  const std::vector<int64_t> expected = Find(*search, query.data(), 100);
  const RequestLimits cancelled, late(0);
  cancelled.Cancel();
  std::vector<int64_t> rows = {1};
  EXPECT_EQ(search->Search(query.data(), 100'000, RowMask(), cancelled, &rows).code(), absl::StatusCode::kCancelled);
  EXPECT_TRUE(rows.empty());
  EXPECT_EQ(search->Search(query.data(), 100'000, RowMask(), late, &rows).code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_TRUE(rows.empty());
  EXPECT_EQ(Find(*search, query.data(), 100), expected);
}

TEST(GraphSearch, FindsNothingAmongNoRowsAndOneAmongOne) {
  const std::vector<float> query = MakeVectors(1, 2);
  EXPECT_TRUE(Find(*Open(Build(0)), query.data(), 10).empty());
  EXPECT_EQ(Find(*Open(Build(1)), query.data(), 10), std::vector<int64_t>{0});
  EXPECT_EQ(Find(*Open(Build(1)), query.data(), 1), std::vector<int64_t>{0});
}

TEST(GraphSearch, RefusesAGraphThatLeadsAstray) {
  const Built built = Build(300);
  const auto refused = [&](const auto& damage) {
    faiss::HNSW graph = built.graph();
    damage(graph);
    const auto search = GraphSearch::Create(std::move(graph), *built.vectors, DetectScanIsa());
    return search.status().code() == absl::StatusCode::kDataLoss;
  };
  EXPECT_FALSE(refused([](faiss::HNSW&) {}));
  EXPECT_TRUE(refused([](faiss::HNSW& graph) { graph.neighbors[0] = 300; }));
  EXPECT_TRUE(refused([](faiss::HNSW& graph) { graph.neighbors.pop_back(); }));
  EXPECT_TRUE(refused([](faiss::HNSW& graph) { graph.entry_point = 300; }));
  EXPECT_TRUE(refused([](faiss::HNSW& graph) { graph.entry_point = -1; }));
  EXPECT_TRUE(refused([](faiss::HNSW& graph) { graph.max_level = 9; }));
  EXPECT_TRUE(refused([](faiss::HNSW& graph) { graph.levels[5] = 0; }));
  EXPECT_TRUE(refused([](faiss::HNSW& graph) { graph.levels[5] = 1000; }));
  EXPECT_TRUE(refused([](faiss::HNSW& graph) { graph.offsets[5] += 1; }));
  EXPECT_TRUE(refused([](faiss::HNSW& graph) { graph.levels.pop_back(); }));
  EXPECT_TRUE(refused([](faiss::HNSW& graph) { graph.cum_nneighbor_per_level.clear(); }));
  EXPECT_TRUE(refused([](faiss::HNSW& graph) {
    // On a level that the other one does not have.
    const auto high = std::find_if(graph.levels.begin(), graph.levels.end(), [](int levels) { return levels > 1; });
    const auto low = std::find(graph.levels.begin(), graph.levels.end(), 1);
    size_t first, end;
    graph.neighbor_range(high - graph.levels.begin(), 1, &first, &end);
    graph.neighbors[first] = static_cast<int>(low - graph.levels.begin());
  }));
}

}  // namespace
}  // namespace loci
