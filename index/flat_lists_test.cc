#include "index/flat_lists.h"

#include <faiss/IndexIVFFlat.h>
#include <faiss/impl/IDSelector.h>
#include <faiss/index_factory.h>
#include <gtest/gtest.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "base/vector_type.h"
#include "index/exact_index.h"

namespace loci {
namespace {

using idx_t = faiss::Index::idx_t;

std::vector<float> Random(int64_t count, int dim, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<float> values(static_cast<size_t>(count * dim));
  for (float& value : values) value = static_cast<float>(random()) * 0x1p-32f - 0.4f;
  return values;
}

std::unique_ptr<faiss::Index> Build(const std::string& factory, const std::vector<float>& rows, int dim) {
  omp_set_num_threads(1);
  std::unique_ptr<faiss::Index> index(faiss::index_factory(dim, factory.c_str(), faiss::METRIC_INNER_PRODUCT));
  auto& ivf = dynamic_cast<faiss::IndexIVF&>(*index);
  ivf.cp.min_points_per_centroid = 1;
  ivf.nprobe = 3;
  const int64_t count = static_cast<int64_t>(rows.size()) / dim;
  index->train(count, rows.data());
  index->add(count, rows.data());
  return index;
}

std::vector<CpuIsa> Isas() {
  std::vector<CpuIsa> isas = {CpuIsa::kAvx2};
  if (DetectCpuIsa() == CpuIsa::kAvx512) isas.push_back(CpuIsa::kAvx512);
  return isas;
}

TEST(FlatLists, FindWhatFaissFindsWithExactScores) {
  for (const CpuIsa isa : Isas()) {
    for (const int dim : {1, 2, 31, 33, 127, 384}) {
      const int64_t count = dim == 33 ? 3000 : 333;
      const std::vector<float> rows = Random(count, dim, 1), queries = Random(9, dim, 2);
      const std::unique_ptr<faiss::Index> theirs = Build("IVF7,Flat", rows, dim),
                                          ours = WithFlatLists(Build("IVF7,Flat", rows, dim), isa);
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

TEST(FlatLists, LookAtSelectedRowsOnly) {
  constexpr int kDim = 40;
  const std::vector<float> rows = Random(300, kDim, 5), query = Random(1, kDim, 6);
  const std::unique_ptr<faiss::Index> index = WithFlatLists(Build("IVF4,Flat", rows, kDim));
  faiss::IDSelectorRange selector(100, 107);
  faiss::SearchParametersIVF parameters;
  parameters.nprobe = 4;
  parameters.sel = &selector;
  std::vector<float> scores(20);
  std::vector<idx_t> found(20);
  index->search(1, query.data(), 20, scores.data(), found.data(), &parameters);
  std::sort(found.begin(), found.end());
  EXPECT_EQ(std::vector<idx_t>(found.begin() + 13, found.end()), (std::vector<idx_t>{100, 101, 102, 103, 104, 105, 106}));
  EXPECT_EQ(std::count(found.begin(), found.end(), -1), 13);
}

TEST(FlatLists, LeaveOthersAsTheyAre) {
  const std::vector<float> rows = Random(300, 32, 8);
  for (const char* factory : {"IVF2,SQ8", "IVF2,SQfp16", "IVF2,PQ4x4"}) {
    std::unique_ptr<faiss::Index> index = Build(factory, rows, 32);
    const faiss::Index* const before = index.get();
    EXPECT_EQ(WithFlatLists(std::move(index)).get(), before) << factory;
  }
  std::unique_ptr<faiss::Index> euclidean(faiss::index_factory(32, "IVF2,Flat", faiss::METRIC_L2));
  const faiss::Index* const before = euclidean.get();
  EXPECT_EQ(WithFlatLists(std::move(euclidean)).get(), before);
}

}  // namespace
}  // namespace loci
