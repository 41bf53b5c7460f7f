#include "index/graph_file.h"

#include <faiss/IndexHNSW.h>
#include <faiss/impl/io.h>
#include <faiss/index_factory.h>
#include <faiss/index_io.h>
#include <gtest/gtest.h>
#include <omp.h>

#include <memory>
#include <random>
#include <string>
#include <string_view>
#include <vector>

namespace loci {
namespace {

constexpr int kDim = 6;
constexpr int64_t kRows = 200;

struct Written {
  std::unique_ptr<faiss::Index> index;
  std::string data;
  const faiss::HNSW& graph() const { return dynamic_cast<const faiss::IndexHNSW&>(*index).hnsw; }
};

Written Write(const std::string& factory, int64_t rows = kRows, faiss::MetricType metric = faiss::METRIC_INNER_PRODUCT) {
  omp_set_num_threads(1);
  std::mt19937_64 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> vectors(static_cast<size_t>(kRows * kDim));
  for (float& value : vectors) value = normal(random);
  Written written;
  written.index.reset(faiss::index_factory(kDim, factory.c_str(), metric));
  written.index->train(kRows, vectors.data());
  if (rows > 0) written.index->add(rows, vectors.data());
  faiss::VectorIOWriter writer;
  faiss::write_index(written.index.get(), &writer);
  written.data.assign(writer.data.begin(), writer.data.end());
  return written;
}

TEST(GraphFile, HoldsTheGraphThatFaissWrote) {
  for (const char* const factory : {"HNSW5", "HNSW5,Flat", "HNSW5,SQ8", "HNSW5,SQfp16"}) {
    for (const int64_t rows : {int64_t{0}, int64_t{1}, kRows}) {
      const Written written = Write(factory, rows);
      const auto read = ReadGraph(written.data, rows, kDim);
      ASSERT_TRUE(read.ok()) << read.status();
      EXPECT_EQ(read->assign_probas, written.graph().assign_probas);
      EXPECT_EQ(read->cum_nneighbor_per_level, written.graph().cum_nneighbor_per_level);
      EXPECT_EQ(read->levels, written.graph().levels);
      EXPECT_EQ(read->offsets, written.graph().offsets);
      EXPECT_EQ(read->neighbors, written.graph().neighbors);
      EXPECT_EQ(read->entry_point, written.graph().entry_point);
      EXPECT_EQ(read->max_level, written.graph().max_level);
      EXPECT_EQ(read->efConstruction, written.graph().efConstruction);
      EXPECT_EQ(read->efSearch, written.graph().efSearch);
      EXPECT_EQ(read->upper_beam, written.graph().upper_beam);
    }
  }
}

TEST(GraphFile, IsReadWithoutTheVectorsBehindIt) {
  const Written written = Write("HNSW5");
  const size_t vector_bytes = sizeof(float) * static_cast<size_t>(kRows * kDim);
  const auto read = ReadGraph(std::string_view(written.data).substr(0, written.data.size() - vector_bytes), kRows, kDim);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->neighbors, written.graph().neighbors);
}

TEST(GraphFile, RefusesWhatEndsTooEarlyOrIsAnother) {
  const Written written = Write("HNSW5");
  const auto code = [](std::string_view data, int64_t rows, int dim) { return ReadGraph(data, rows, dim).status().code(); };
  // The storage's header, of 45 bytes, and vectors are not read.
  const size_t graph_bytes = written.data.size() - sizeof(float) * static_cast<size_t>(kRows * kDim) - 45;
  EXPECT_EQ(code(std::string_view(written.data).substr(0, graph_bytes), kRows, kDim), absl::StatusCode::kOk);
  for (size_t size = 0; size < graph_bytes; ++size) {
    ASSERT_EQ(code(std::string_view(written.data).substr(0, size), kRows, kDim), absl::StatusCode::kDataLoss) << size;
  }
  EXPECT_EQ(code(written.data, kRows - 1, kDim), absl::StatusCode::kDataLoss);
  EXPECT_EQ(code(written.data, kRows, kDim + 1), absl::StatusCode::kDataLoss);
  for (const char* const factory : {"Flat", "SQ8", "IVF4,Flat", "IVF4_HNSW4,Flat"}) {
    EXPECT_EQ(code(Write(factory).data, kRows, kDim), absl::StatusCode::kDataLoss) << factory;
  }
  EXPECT_EQ(code(Write("HNSW5", kRows, faiss::METRIC_L2).data, kRows, kDim), absl::StatusCode::kDataLoss);
  // Sizes that are larger than any memory.
  for (size_t at = 37; at + 8 <= graph_bytes; ++at) {
    std::string damaged = written.data;
    damaged.replace(at, 8, 8, '\x7f');
    (void)ReadGraph(damaged, kRows, kDim);  // Neither throws nor reads beyond the end.
  }
}

}  // namespace
}  // namespace loci
