#include "index/ivf_testing.h"

#include <faiss/IndexScalarQuantizer.h>
#include <faiss/impl/IDSelector.h>
#include <faiss/index_factory.h>
#include <gtest/gtest.h>
#include <omp.h>

#include <algorithm>
#include <random>

namespace loci {

std::vector<float> RandomRows(int64_t count, int dim, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<float> values(static_cast<size_t>(count * dim));
  for (float& value : values) value = static_cast<float>(random()) * 0x1p-32f - 0.4f;
  return values;
}

std::unique_ptr<faiss::Index> BuildIvf(const std::string& factory, const std::vector<float>& rows, int dim, bool by_residual) {
  omp_set_num_threads(1);
  std::unique_ptr<faiss::Index> index(faiss::index_factory(dim, factory.c_str(), faiss::METRIC_INNER_PRODUCT));
  dynamic_cast<faiss::IndexIVF&>(*index).cp.min_points_per_centroid = 1;
  if (auto* const scalar = dynamic_cast<faiss::IndexIVFScalarQuantizer*>(index.get())) scalar->by_residual = by_residual;
  const int64_t count = static_cast<int64_t>(rows.size()) / dim;
  index->train(count, rows.data());
  index->add(count, rows.data());
  return index;
}

void ExpectSelectedRowsOnly(const std::string& factory,
                            const std::function<std::unique_ptr<faiss::Index>(std::unique_ptr<faiss::Index>)>& wrap) {
  constexpr int kDim = 40;
  const std::vector<float> rows = RandomRows(300, kDim, 5), query = RandomRows(1, kDim, 6);
  const std::unique_ptr<faiss::Index> index = wrap(BuildIvf(factory, rows, kDim));
  faiss::IDSelectorRange selector(100, 107);
  faiss::SearchParametersIVF parameters;
  parameters.nprobe = dynamic_cast<const faiss::IndexIVF&>(*index).nlist;
  parameters.sel = &selector;
  std::vector<float> scores(20);
  std::vector<faiss::Index::idx_t> found(20);
  index->search(1, query.data(), 20, scores.data(), found.data(), &parameters);
  std::sort(found.begin(), found.end());
  EXPECT_EQ(std::vector<faiss::Index::idx_t>(found.begin() + 13, found.end()),
            (std::vector<faiss::Index::idx_t>{100, 101, 102, 103, 104, 105, 106}));
  EXPECT_EQ(std::count(found.begin(), found.end(), -1), 13);
}

}  // namespace loci
