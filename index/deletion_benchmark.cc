// What deletions cost a search: the same index with 0, 1 and 10 % of its rows hidden, timed in turns in one run.
//
//   bazel run -c opt //index:deletion_benchmark -- [--rows N] [--dim D] [--rounds R] [--queries Q]
//
// Prints, for exact search and for approximate indexes, the median of the rounds, the ratio to nothing hidden, and the recall@10 of an
// approximate one against the exact search of the rows that are left. The rows are clustered, and hidden ones random. One thread, by CPU
// time.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "base/file.h"
#include "index/exact_index.h"
#include "index/faiss_index.h"
#include "index/row_mask.h"
#include "index/vector_file.h"

namespace loci {
namespace {

constexpr int kTopK = 10;

double CpuSeconds() {
  timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

class Clusters {
 public:
  Clusters(int count, int dim) : dim_(dim), centres_(static_cast<size_t>(count) * dim) {
    for (float& value : centres_) value = Uniform();
  }
  void Draw(float* out) {
    const size_t centre = random_() % (centres_.size() / static_cast<size_t>(dim_));
    for (int d = 0; d < dim_; ++d) out[d] = centres_[centre * static_cast<size_t>(dim_) + static_cast<size_t>(d)] + 0.5f * Uniform();
  }

 private:
  float Uniform() { return static_cast<float>(random_()) * 0x1p-32f - 0.5f; }
  const int dim_;
  std::mt19937 random_{1};
  std::vector<float> centres_;
};

double RecallAgainst(const std::vector<RowHit>& found, const std::vector<RowHit>& truth) {
  size_t hits = 0;
  for (size_t q = 0; q < truth.size(); q += kTopK) {
    for (size_t i = q; i < q + kTopK; ++i) hits += found[i].row >= 0 && found[i].score >= truth[q + kTopK - 1].score;
  }
  return static_cast<double>(hits) / static_cast<double>(truth.size());
}

int Run(int64_t rows, int dim, int rounds, int queries) {
  const char* folder = std::getenv("TMPDIR");
  const std::string base = folder == nullptr ? "/tmp" : folder;
  const std::string path = JoinPath(base, "deletion_benchmark_vectors"), index_path = JoinPath(base, "deletion_benchmark_index");
  Clusters clusters(static_cast<int>(std::max<int64_t>(16, rows / 500)), dim);
  {
    auto writer = VectorFileWriter::Create(PosixFileSystem(), path, rows, dim, ElementType::kFloat32).value();
    std::vector<float> row(static_cast<size_t>(dim));
    for (int64_t r = 0; r < rows; ++r) {
      clusters.Draw(row.data());
      if (!writer->Append(row.data()).ok()) return 1;
    }
    if (!writer->Finish().ok()) return 1;
  }
  const std::shared_ptr<const VectorFile> file = VectorFile::Open(PosixFileSystem(), path).value();
  PosixFileSystem().DeleteFile(path).IgnoreError();
  file->Warm();
  std::vector<float> vectors(static_cast<size_t>(queries) * static_cast<size_t>(dim));
  for (int q = 0; q < queries; ++q) clusters.Draw(vectors.data() + static_cast<int64_t>(q) * dim);

  std::mt19937 random(2);
  std::vector<RowMask> masks;
  const std::vector<double> shares = {0, 0.01, 0.1};
  for (const double share : shares) {
    std::vector<int64_t> hidden;
    for (int64_t row = 0; row < rows; ++row) {
      if (static_cast<double>(random()) < share * 0x1p32) hidden.push_back(row);
    }
    masks.push_back(RowMask().WithHidden(hidden));
  }
  const ExactIndex exact(file, nullptr);
  IndexSearchOptions options;
  options.top_k = kTopK;
  std::vector<std::vector<RowHit>> truth(masks.size());
  for (size_t m = 0; m < masks.size(); ++m) {
    truth[m].resize(static_cast<size_t>(queries) * kTopK);
    if (!exact.Search({vectors.data(), queries, dim}, options, masks[m], truth[m].data()).ok()) return 1;
  }
  std::printf("%lld x %d, %d queries, top %d\n", static_cast<long long>(rows), dim, queries, kTopK);
  for (const std::string factory : {"exact", "HNSW32", "IVF256,Flat", "IVF256,SQ8", "SQ8", "PQ16"}) {
    std::unique_ptr<PassageIndex> approximate;
    if (factory != "exact") {
      if (!BuildFaissIndex(PosixFileSystem(), factory, *file, index_path, {}).ok()) return 1;
      approximate = OpenFaissIndex(PosixFileSystem(), index_path, factory, file, nullptr).value();
      PosixFileSystem().DeleteFile(index_path).IgnoreError();
    }
    const PassageIndex& index = approximate == nullptr ? static_cast<const PassageIndex&>(exact) : *approximate;
    std::vector<std::vector<double>> seconds(masks.size());
    std::vector<RowHit> hits(static_cast<size_t>(queries) * kTopK);
    std::vector<double> recall(masks.size());
    for (int round = -1; round < rounds; ++round) {
      for (size_t m = 0; m < masks.size(); ++m) {
        const double start = CpuSeconds();
        if (!index.Search({vectors.data(), queries, dim}, options, masks[m], hits.data()).ok()) return 1;
        if (round >= 0) seconds[m].push_back(CpuSeconds() - start);
        recall[m] = RecallAgainst(hits, truth[m]);
      }
    }
    double nothing_hidden = 0;
    for (size_t m = 0; m < masks.size(); ++m) {
      std::sort(seconds[m].begin(), seconds[m].end());
      const double median = seconds[m][seconds[m].size() / 2];
      if (m == 0) nothing_hidden = median;
      std::printf("  %-12s %4.0f %% hidden: %9.3f ms, ratio %5.2f, recall@10 %.3f\n", factory.c_str(), 100 * shares[m], 1e3 * median,
                  median / nothing_hidden, recall[m]);
    }
  }
  return 0;
}

}  // namespace
}  // namespace loci

int main(int argc, char** argv) {
  int64_t rows = 100'000;
  int dim = 384, rounds = 7, queries = 32;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string flag = argv[i];
    const int64_t value = std::atoll(argv[i + 1]);
    if (flag == "--rows") rows = value;
    if (flag == "--dim") dim = static_cast<int>(value);
    if (flag == "--rounds") rounds = static_cast<int>(value);
    if (flag == "--queries") queries = static_cast<int>(value);
  }
  if (rows < 1'000 || dim < 16 || dim % 16 != 0 || rounds < 1 || queries < 1) {
    std::fprintf(stderr, "deletion_benchmark: --rows from 1000, --dim a multiple of 16, the others positive\n");
    return 2;
  }
  return loci::Run(rows, dim, rounds, queries);
}
