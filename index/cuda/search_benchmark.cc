// Measures exact search on a CUDA device; run by deploy/gpu_check.sh.
//
//   search_benchmark FOLDER make ROWS DIM     writes FOLDER/vectors.bin, so many random rows in 4096 clusters, bfloat16, and FOLDER/queries.f32,
//                                             512 more of them, [512, DIM]; needs no device
//   search_benchmark FOLDER measure           uploads the file, compares hits, log Z and means with the CPU's, then times the top 100 of 1, 8, 16, 64
//                                             and 512 queries, and log Z and means of 1, 8 and 64
//   search_benchmark FOLDER serve             answers commands on standard input by a line of JSON each, for paired measurements: `run N` searches
//                                             the first N queries, `write N FILE` also writes the rows found, int64 [N, 100]
//
// Exits 2 where there is no device, with the reason.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <memory>
#include <span>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "base/benchmark.h"
#include "base/device.h"
#include "base/file.h"
#include "base/thread_pool.h"
#include "index/cuda/cuda_exact_index.h"
#include "index/device_softmax.h"
#include "index/exact_index.h"

namespace loci {
namespace {

constexpr int kTopK = 100;
constexpr int64_t kQueries = 512;
constexpr int64_t kClusters = 4096;

std::string VectorsPath(const std::string& folder) { return JoinPath(folder, "vectors.bin"); }
std::string QueriesPath(const std::string& folder) { return JoinPath(folder, "queries.f32"); }

// A vector of `seed`, of about normal elements; as fast as memory nearly.
void Noise(uint64_t seed, int dim, float* out) {
  uint64_t state = (seed + 1) * 0x9E3779B97F4A7C15u;
  for (int d = 0; d < dim; ++d) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    const uint64_t bits = state * 0x2545F4914F6CDD1Du;
    const int64_t sum = static_cast<int64_t>((bits & 0xffff) + (bits >> 16 & 0xffff) + (bits >> 32 & 0xffff) + (bits >> 48));
    out[d] = static_cast<float>(sum - 2 * 65535) * (1.0f / 37837);  // Of variance 1.
  }
}

// Row `i`, unit length.
void MakeRow(uint64_t i, const std::vector<float>& centres, int dim, float* out) {
  Noise(i + (uint64_t{1} << 40), dim, out);
  const float* const centre = &centres[static_cast<size_t>(i * 0x9E3779B1u % kClusters) * static_cast<size_t>(dim)];
  float squares = 0;
  for (int d = 0; d < dim; ++d) {
    out[d] = out[d] + 0.7f * centre[d];
    squares += out[d] * out[d];
  }
  const float factor = 1 / std::sqrt(squares);
  for (int d = 0; d < dim; ++d) out[d] *= factor;
}

int Make(const std::string& folder, int64_t rows, int dim) {
  ThreadPool pool("make", static_cast<int>(std::max(2u, std::thread::hardware_concurrency())) - 1, 1024);
  std::vector<float> centres(static_cast<size_t>(kClusters * dim));
  for (int64_t c = 0; c < kClusters; ++c) Noise(static_cast<uint64_t>(c), dim, &centres[static_cast<size_t>(c * dim)]);
  auto writer = ValueOrDie(VectorFileWriter::Create(PosixFileSystem(), VectorsPath(folder), rows, dim, ElementType::kBfloat16));
  constexpr int64_t kPiece = 16384;
  std::vector<float> piece(static_cast<size_t>(kPiece * dim));
  for (int64_t first = 0; first < rows; first += kPiece) {
    const int64_t count = std::min(kPiece, rows - first);
    pool.ParallelFor((count + 63) / 64, [&](int64_t part) {
      for (int64_t i = 64 * part; i < std::min(count, 64 * part + 64); ++i) {
        MakeRow(static_cast<uint64_t>(first + i), centres, dim, &piece[static_cast<size_t>(i * dim)]);
      }
    });
    for (int64_t i = 0; i < count; ++i) CheckOk(writer->Append(&piece[static_cast<size_t>(i * dim)]));
  }
  CheckOk(writer->Finish());
  std::vector<float> queries(static_cast<size_t>(kQueries * dim));
  for (int64_t q = 0; q < kQueries; ++q)
    MakeRow(static_cast<uint64_t>(rows + q), centres, dim, &queries[static_cast<size_t>(q * dim)]);
  std::ofstream(QueriesPath(folder), std::ios::binary)
      .write(reinterpret_cast<const char*>(queries.data()), static_cast<std::streamsize>(4 * queries.size()));
  return 0;
}

struct Loaded {
  std::unique_ptr<ThreadPool> pool;
  std::shared_ptr<const VectorFile> vectors;
  std::shared_ptr<const ExactIndex> cpu;
  std::unique_ptr<CudaExactIndex> index;
  std::vector<float> queries;
  std::vector<RowHit> hits = std::vector<RowHit>(static_cast<size_t>(kQueries * kTopK));

  MatrixView<const float> First(int64_t count) const { return {queries.data(), count, vectors->dim()}; }
};

Loaded Load(const SearchDevice& device, const std::string& folder) {
  Loaded loaded;
  loaded.pool =
      std::make_unique<ThreadPool>("search", static_cast<int>(std::max(2u, std::thread::hardware_concurrency())) - 1, 1024);
  loaded.vectors = ValueOrDie(VectorFile::Open(PosixFileSystem(), VectorsPath(folder)));
  loaded.cpu = std::make_shared<ExactIndex>(loaded.vectors, loaded.pool.get());
  loaded.queries.resize(static_cast<size_t>(kQueries * loaded.vectors->dim()));
  std::ifstream(QueriesPath(folder), std::ios::binary)
      .read(reinterpret_cast<char*>(loaded.queries.data()), static_cast<std::streamsize>(4 * loaded.queries.size()));
  CudaSearchOptions options;
  options.min_visible_rows = 0;
  loaded.index = ValueOrDie(CudaExactIndex::Create(device, loaded.vectors, nullptr, loaded.cpu, options, nullptr));
  return loaded;
}

IndexSearchOptions TopK() {
  IndexSearchOptions options;
  options.top_k = kTopK;
  return options;
}

double Run(Loaded& loaded, int64_t queries) {
  const double begin = NowSeconds();
  CheckOk(loaded.index->Search(loaded.First(queries), TopK(), RowMask(), loaded.hits.data()));
  return NowSeconds() - begin;
}

// log Z and mean vectors of all rows but the best 100, as the training service wants them, against the CPU's, and their time. False where they differ.
bool MeasureSoftmax(Loaded& loaded) {
  const DeviceSoftmax* const softmax = loaded.index->softmax(RowMask());
  if (softmax == nullptr) {
    std::printf("log Z and mean: FAILED, they are left to the CPU\n");
    return false;
  }
  SoftmaxScanOptions options = {.temperature = 0.05, .mean = true, .max_length = true, .pool = loaded.pool.get()};
  const ScanSegment segments[] = {
      {.data = loaded.vectors->row(0), .type = loaded.vectors->element_type(), .rows = loaded.vectors->rows()}};
  constexpr int64_t kCompared = 2;
  constexpr int64_t kMost = 64;
  Run(loaded, kMost);
  std::vector<std::vector<ViewRow>> heads(kMost);
  for (size_t i = 0; i < kMost * kTopK; ++i) {
    if (loaded.hits[i].row >= 0) heads[i / kTopK].push_back({false, loaded.hits[i].row});
  }
  const auto heads_of = [&heads](int64_t count) { return std::span<const std::vector<ViewRow>>(heads).first(static_cast<size_t>(count)); };
  const SoftmaxScan expected = ValueOrDie(ScanSoftmax(segments, loaded.First(kCompared), heads_of(kCompared), options));
  const SoftmaxScan found = ValueOrDie(softmax->Scan(loaded.First(kCompared), RowMask(), heads_of(kCompared), options));
  double log_z_error = 0, mean_error = 0, length_error = 0;
  int64_t wrong = 0;
  const auto compare = [&wrong](double mine, double theirs, double* worst) {
    const double error = std::abs(mine - theirs);
    wrong += !(error < 1e-4);  // A NaN too.
    *worst = std::max(*worst, error);
  };
  compare(found.max_length, expected.max_length, &length_error);
  for (size_t q = 0; q < found.sums.size(); ++q) {
    const SoftmaxSums &mine = found.sums[q], &theirs = expected.sums[q];
    compare(mine.LogMass(options.temperature), theirs.LogMass(options.temperature), &log_z_error);
    for (size_t d = 0; d < theirs.weighted.size(); ++d) {
      compare(mine.weighted[d] / mine.sum, theirs.weighted[d] / theirs.sum, &mean_error);
    }
  }
  std::printf("log Z and mean against the CPU's: off by at most %.1e and %.1e, %lld numbers by more than 1e-4: %s\n", log_z_error,
              mean_error, static_cast<long long>(wrong), wrong == 0 ? "the same" : "FAILED");
  for (const bool mean : {false, true}) {
    options.mean = mean;
    for (const int64_t count : {int64_t{1}, int64_t{8}, kMost}) {
      std::vector<double> times;
      for (int i = 0; i < 12; ++i) {
        const double begin = NowSeconds();
        (void)ValueOrDie(softmax->Scan(loaded.First(count), RowMask(), heads_of(count), options));
        if (i >= 2) times.push_back(NowSeconds() - begin);
      }
      std::sort(times.begin(), times.end());
      const double median = times[times.size() / 2];
      std::printf("log Z%s of %2lld queries, each without its best %d rows: %.3f ms median; rows at %.0f GB/s\n", mean ? " and mean" : "",
                  static_cast<long long>(count), kTopK, 1e3 * median,
                  static_cast<double>(loaded.vectors->rows()) * loaded.vectors->dim() *
                      static_cast<double>(ElementSize(loaded.vectors->element_type())) / median / 1e9);
    }
  }
  return wrong == 0;
}

int Measure(const SearchDevice& device, const std::string& folder) {
  const double begin = NowSeconds();
  Loaded loaded = Load(device, folder);
  const int64_t rows = loaded.vectors->rows();
  const int dim = loaded.vectors->dim();
  std::printf("%lld rows of %d: %.1f GB on the device, uploaded in %.1f s\n", static_cast<long long>(rows), dim,
              static_cast<double>(loaded.index->device_bytes()) / 1e9, NowSeconds() - begin);
  // Of the first 16 queries, and of 16 that lie in all tiles of 512 and in all columns of a tile.
  constexpr int64_t kCompared = 16;
  int64_t wrong = 0;
  for (const int64_t count : {kCompared, kQueries}) {
    std::vector<int64_t> compared;
    std::vector<float> queries;
    for (int64_t i = 0; i < kCompared; ++i) {
      compared.push_back(count == kQueries ? i * (kQueries / kCompared) + i : i);
      const float* const query = loaded.First(kQueries).row(compared.back());
      queries.insert(queries.end(), query, query + dim);
    }
    std::vector<RowHit> expected(static_cast<size_t>(kCompared * kTopK));
    CheckOk(loaded.cpu->Search({queries.data(), kCompared, dim}, TopK(), RowMask(), expected.data()));
    std::fill(loaded.hits.begin(), loaded.hits.end(), RowHit{-7, 7});
    Run(loaded, count);
    for (size_t i = 0; i < expected.size(); ++i) {
      const RowHit& hit = loaded.hits[static_cast<size_t>(compared[i / kTopK] * kTopK) + i % kTopK];
      wrong += hit.row != expected[i].row || std::bit_cast<uint32_t>(hit.score) != std::bit_cast<uint32_t>(expected[i].score);
    }
  }
  // What the CPU answered in the device's place says nothing of the device, and nothing in these rows asks for it.
  const CudaExactIndex::Counts compared_counts = loaded.index->counts();
  const bool same = wrong == 0 && compared_counts.left == 0 && compared_counts.answered == kCompared + kQueries;
  std::printf("hits against the CPU's: %lld of %lld differ; %lld queries answered by the device, %lld left to the CPU: %s\n",
              static_cast<long long>(wrong), static_cast<long long>(2 * kCompared * kTopK),
              static_cast<long long>(compared_counts.answered), static_cast<long long>(compared_counts.left),
              same ? "the same" : "FAILED");
  for (const int64_t count : {int64_t{1}, int64_t{8}, int64_t{16}, int64_t{64}, kQueries}) {
    for (int i = 0; i < 3; ++i) Run(loaded, count);
    const CudaExactIndex::Counts before = loaded.index->counts();
    std::vector<double> times;
    for (int i = 0; i < 30; ++i) times.push_back(Run(loaded, count));
    const CudaExactIndex::Counts after = loaded.index->counts();
    std::sort(times.begin(), times.end());
    const double median = times[times.size() / 2];
    // The least that is moved: the codes and their figures, once; and computed: a multiplication and an addition of each code.
    std::printf(
        "top %d of %3lld queries: %.3f ms median, %.3f ms p10, %.0f queries/s; codes at %.0f GB/s, %.0f TOPS; scanned again "
        "%lld, left to the CPU %lld\n",
        kTopK, static_cast<long long>(count), 1e3 * median, 1e3 * times[times.size() / 10], static_cast<double>(count) / median,
        static_cast<double>(rows) * (dim + 12) / median / 1e9, 2.0 * static_cast<double>(rows * count) * dim / median / 1e12,
        static_cast<long long>(after.repeated - before.repeated), static_cast<long long>(after.left - before.left));
  }
  const int64_t left = loaded.index->counts().left;
  if (left > 0) std::printf("FAILED: %lld queries were left to the CPU\n", static_cast<long long>(left));
  return MeasureSoftmax(loaded) && same && left == 0 ? 0 : 1;
}

int Serve(const SearchDevice& device, const std::string& folder) {
  Loaded loaded = Load(device, folder);
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream words(line);
    std::string command, path;
    int64_t count = 1;
    words >> command >> count >> path;
    count = std::clamp<int64_t>(count, 1, kQueries);
    const double seconds = Run(loaded, count);
    if (!path.empty()) {
      std::ofstream out(path, std::ios::binary);
      for (int64_t i = 0; i < count * kTopK; ++i) {
        out.write(reinterpret_cast<const char*>(&loaded.hits[static_cast<size_t>(i)].row), sizeof(int64_t));
      }
    }
    std::printf("{\"queries\": %lld, \"wall_s\": %.9f}\n", static_cast<long long>(count), seconds);
    std::fflush(stdout);
  }
  return 0;
}

int Main(int argc, char** argv) {
  const std::string what = argc > 2 ? argv[2] : "";
  if (what == "make" && argc > 4 && std::atoll(argv[3]) > 0 && std::atoi(argv[4]) > 0) {
    return Make(argv[1], std::atoll(argv[3]), std::atoi(argv[4]));
  }
  if (what != "measure" && what != "serve") {
    std::fprintf(stderr, "usage: search_benchmark FOLDER make ROWS DIM | measure | serve\n");
    return 1;
  }
  const auto device = OpenSearchDevice(0);
  if (!device.ok()) {
    std::printf("no device: %s\n", std::string(device.status().message()).c_str());
    return 2;
  }
  return what == "serve" ? Serve(*device, argv[1]) : Measure(*device, argv[1]);
}

}  // namespace
}  // namespace loci

int main(int argc, char** argv) { return loci::Main(argc, argv); }
