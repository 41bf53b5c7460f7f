#include "index/flat_lists.h"

#include <faiss/IndexIVFFlat.h>
#include <faiss/index_factory.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <utility>
#include <vector>

#include "base/vector_type.h"
#include "index/exact_index.h"
#include "index/faiss_limits.h"
#include "index/ivf_testing.h"

namespace loci {
namespace {

using idx_t = faiss::Index::idx_t;

std::vector<CpuIsa> Isas() {
  std::vector<CpuIsa> isas = {CpuIsa::kAvx2};
  if (DetectCpuIsa() == CpuIsa::kAvx512) isas.push_back(CpuIsa::kAvx512);
  return isas;
}

TEST(FlatLists, FindWhatFaissFindsWithExactScores) {
  for (const CpuIsa isa : Isas()) {
    for (const int dim : {1, 2, 31, 33, 127, 384}) {
      const int64_t count = dim == 33 ? 3000 : 333;
      const std::vector<float> rows = RandomRows(count, dim, 1), queries = RandomRows(9, dim, 2);
      const std::unique_ptr<faiss::Index> theirs = BuildIvf("IVF7,Flat", rows, dim),
                                          ours = WithFlatLists(BuildIvf("IVF7,Flat", rows, dim), isa);
      for (const auto& index : {theirs.get(), ours.get()}) dynamic_cast<faiss::IndexIVF&>(*index).nprobe = 3;
      for (const int64_t k : {1, 5, 80}) {
        std::vector<float> their_scores(static_cast<size_t>(9 * k)), scores(their_scores.size());
        std::vector<idx_t> their_rows(their_scores.size()), found(their_scores.size());
        theirs->search(9, queries.data(), k, their_scores.data(), their_rows.data());
        ours->search(9, queries.data(), k, scores.data(), found.data());
        for (size_t i = 0; i < found.size(); ++i) {
          if (their_rows[i] < 0) {
            ASSERT_EQ(found[i], -1) << "dim " << dim << " k " << k;
            continue;
          }
          ASSERT_NEAR(scores[i], their_scores[i], 1e-5 * dim) << "dim " << dim << " k " << k;
          const float* const query = &queries[i / static_cast<size_t>(k) * static_cast<size_t>(dim)];
          ASSERT_EQ(scores[i], ExactScore(query, &rows[static_cast<size_t>(found[i] * dim)], ElementType::kFloat32, dim))
              << "dim " << dim << " k " << k;
        }
      }
    }
  }
}

TEST(FlatLists, MayBeEmpty) {
  constexpr int kDim = 32;
  const std::vector<float> rows = RandomRows(400, kDim, 3), query = RandomRows(1, kDim, 4);
  const std::unique_ptr<faiss::Index> index = WithFlatLists(BuildIvf("IVF16,Flat", rows, kDim));
  dynamic_cast<faiss::IndexIVF&>(*index).nprobe = 16;
  for (const idx_t count : {0, 1, 3}) {  // Most lists have none of so few.
    index->reset();
    index->add(count, rows.data());
    std::vector<float> scores(5);
    std::vector<idx_t> found(5);
    index->search(1, query.data(), 5, scores.data(), found.data());
    EXPECT_EQ(std::count(found.begin(), found.end(), -1), 5 - count);
    std::sort(found.begin(), found.end());
    for (idx_t row = 0; row < count; ++row) EXPECT_EQ(found[static_cast<size_t>(5 - count + row)], row);
  }
}

TEST(FlatLists, AreLeftSoonAfterTheLimitsEnd) {
  constexpr int kDim = 8;
  constexpr size_t kCount = 3000;
  const std::vector<float> rows = RandomRows(kCount, kDim, 5), query = RandomRows(1, kDim, 6);
  const std::unique_ptr<faiss::Index> index = WithFlatLists(BuildIvf("IVF2,Flat", rows, kDim));
  dynamic_cast<faiss::IndexIVF&>(*index).nprobe = 2;
  const RequestLimits limits;
  const ScopedFaissLimits scope(limits);
  std::vector<float> scores(kCount);
  std::vector<idx_t> found(kCount);
  const auto found_count = [&] {
    index->search(1, query.data(), static_cast<idx_t>(kCount), scores.data(), found.data());
    return kCount - static_cast<size_t>(std::count(found.begin(), found.end(), -1));
  };
  EXPECT_EQ(found_count(), kCount);
  limits.Cancel();
  EXPECT_EQ(found_count(), 0u);
}

TEST(FlatLists, LookAtSelectedRowsOnly) {
  ExpectSelectedRowsOnly("IVF4,Flat", [](std::unique_ptr<faiss::Index> index) { return WithFlatLists(std::move(index)); });
}

TEST(FlatLists, LeaveOthersAsTheyAre) {
  const std::vector<float> rows = RandomRows(300, 32, 8);
  for (const char* factory : {"IVF2,SQ8", "IVF2,SQfp16", "IVF2,PQ4x4"}) {
    std::unique_ptr<faiss::Index> index = BuildIvf(factory, rows, 32);
    const faiss::Index* const before = index.get();
    EXPECT_EQ(WithFlatLists(std::move(index)).get(), before) << factory;
  }
  std::unique_ptr<faiss::Index> euclidean(faiss::index_factory(32, "IVF2,Flat", faiss::METRIC_L2));
  const faiss::Index* const before = euclidean.get();
  EXPECT_EQ(WithFlatLists(std::move(euclidean)).get(), before);
}

}  // namespace
}  // namespace loci
