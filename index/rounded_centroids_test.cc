#include "index/rounded_centroids.h"

#include <faiss/IndexFlat.h>
#include <faiss/IndexIVFFlat.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <random>
#include <set>
#include <vector>

namespace loci {
namespace {

using idx_t = faiss::Index::idx_t;

std::vector<float> Random(int64_t count, int dim, unsigned seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<size_t>(count * dim));
  for (float& value : values) value = normal(random);
  return values;
}

// An index without lists of rows.
std::unique_ptr<faiss::IndexIVFFlat> WithCentroids(const std::vector<float>& centroids, int dim,
                                                   faiss::MetricType metric = faiss::METRIC_INNER_PRODUCT) {
  auto* const flat = new faiss::IndexFlat(dim, metric);
  const idx_t count = static_cast<idx_t>(centroids.size()) / dim;
  flat->add(count, centroids.data());
  auto index = std::make_unique<faiss::IndexIVFFlat>(flat, dim, count, metric);
  index->own_fields = true;
  return index;
}

TEST(RoundedCentroids, AreNearlyThoseThatScoreBestWithTheirOwnScores) {
  std::vector<ScanIsa> isas = {ScanIsa::kAvx2};
  if (DetectScanIsa() == ScanIsa::kVnni) isas.push_back(ScanIsa::kVnni);
  for (const ScanIsa isa : isas) {
    for (const int dim : {1, 31, 128, 384}) {
      const std::vector<float> centroids = Random(400, dim, 1), queries = Random(20, dim, 2);
      const auto theirs = WithCentroids(centroids, dim), ours = WithCentroids(centroids, dim);
      ASSERT_GE(UseRoundedCentroids(*ours, DetectCpuIsa(), isa).value(), 400 * (dim + 8));
      ASSERT_NE(dynamic_cast<faiss::IndexFlat*>(ours->quantizer), nullptr);
      for (const idx_t k : {1, 20, 100, 101, 400, 500}) {
        std::vector<float> their_scores(static_cast<size_t>(20 * k)), scores(their_scores.size());
        std::vector<idx_t> their_lists(their_scores.size()), lists(their_scores.size());
        theirs->quantizer->search(20, queries.data(), k, their_scores.data(), their_lists.data());
        ours->quantizer->search(20, queries.data(), k, scores.data(), lists.data());
        int64_t shared = 0;
        for (int64_t q = 0; q < 20; ++q) {
          const std::set<idx_t> expected(their_lists.begin() + q * k, their_lists.begin() + (q + 1) * k);
          const std::set<idx_t> found(lists.begin() + q * k, lists.begin() + (q + 1) * k);
          ASSERT_EQ(found.size(), expected.size()) << "dim " << dim << " k " << k;
          for (const idx_t list : found) shared += static_cast<int64_t>(expected.count(list));
          EXPECT_TRUE(std::is_sorted(scores.begin() + q * k, scores.begin() + (q + 1) * k, std::greater<>()));
          for (int64_t i = q * k; i < (q + 1) * k && i < q * k + 400; ++i) {
            double score = 0;
            for (int d = 0; d < dim; ++d) {
              score += static_cast<double>(queries[static_cast<size_t>(q * dim + d)]) *
                       centroids[static_cast<size_t>(lists[static_cast<size_t>(i)] * dim + d)];
            }
            ASSERT_NEAR(scores[static_cast<size_t>(i)], score, 1e-4) << "dim " << dim << " k " << k;
          }
        }
        EXPECT_GE(static_cast<double>(shared), dim == 1 ? 0.5 * 20 : 0.9 * 20 * static_cast<double>(std::min<idx_t>(k, 400)))
            << "dim " << dim << " k " << k;
      }
    }
  }
}

TEST(RoundedCentroids, LeaveOthersAsTheyAre) {
  const std::vector<float> centroids = Random(50, 8, 1);
  const auto euclidean = WithCentroids(centroids, 8, faiss::METRIC_L2);
  const faiss::Index* before = euclidean->quantizer;
  EXPECT_EQ(UseRoundedCentroids(*euclidean).value(), 0);
  EXPECT_EQ(euclidean->quantizer, before);
  faiss::IndexFlat borrowed(8, faiss::METRIC_INNER_PRODUCT);
  borrowed.add(50, centroids.data());
  faiss::IndexIVFFlat index(&borrowed, 8, 50, faiss::METRIC_INNER_PRODUCT);
  EXPECT_EQ(UseRoundedCentroids(index).value(), 0);
  EXPECT_EQ(index.quantizer, &borrowed);
}

}  // namespace
}  // namespace loci
