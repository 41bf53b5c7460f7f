// Speed of the softmax scan beside exact search of the same rows in the same run.
//
//   bazel run -c opt //index:softmax_scan_benchmark -- [--rows N] [--dim D] [--rounds R] [--threads T] [--queries B] [--isa avx2|avx512]
//   bazel run -c opt //index:softmax_scan_benchmark -- --dump FOLDER [--rows N] [--dim D] [--queries B]
//
// The second form writes rows, queries and what the scan makes of them to FOLDER, for tests/gradients/exact_phase_check.py, and times
// nothing. Prints for float16 rows what takes turns in each round: exact search of the best 10, log Z alone, log Z with the mean vector, all of it with
// block masses, and exact search again: the median times, and of each round's ratio to its exact search the median and the 90th percentile. One thread
// is timed by CPU time.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "base/device.h"
#include "base/file.h"
#include "base/thread_pool.h"
#include "index/exact_index.h"
#include "index/softmax_scan.h"

namespace loci {
namespace {

double Seconds(clockid_t clock) {
  timespec now;
  clock_gettime(clock, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

double Quantile(std::vector<double> values, double share) {
  std::sort(values.begin(), values.end());
  return values[static_cast<size_t>(share * static_cast<double>(values.size() - 1) + 0.5)];
}

std::shared_ptr<const VectorFile> MakeFile(int64_t rows, int dim) {
  const char* folder = std::getenv("TMPDIR");
  const std::string path = JoinPath(folder == nullptr ? "/tmp" : folder, "softmax_scan_benchmark_vectors");
  auto writer = VectorFileWriter::Create(PosixFileSystem(), path, rows, dim, ElementType::kFloat16).value();
  std::mt19937 random(1);
  std::vector<float> row(dim);
  for (int64_t r = 0; r < rows; ++r) {
    for (float& value : row) value = (static_cast<float>(random()) * 0x1p-32f - 0.5f) * 0.17f;  // About unit length.
    if (!writer->Append(row.data()).ok()) std::abort();
  }
  if (!writer->Finish().ok()) std::abort();
  std::shared_ptr<const VectorFile> file = VectorFile::Open(PosixFileSystem(), path).value();
  PosixFileSystem().DeleteFile(path).IgnoreError();
  file->Warm();
  return file;
}

int Run(int64_t rows, int dim, int rounds, int threads, const std::vector<int>& batches, CpuIsa isa) {
  std::printf("%s, %d thread%s, %lld x %d float16\n", std::string(CpuIsaName(isa)).c_str(), threads, threads == 1 ? "" : "s",
              static_cast<long long>(rows), dim);
  std::unique_ptr<ThreadPool> pool;
  if (threads > 1) pool = std::make_unique<ThreadPool>("search", threads - 1, 64);
  const std::shared_ptr<const VectorFile> file = MakeFile(rows, dim);
  const ExactIndex index(file, pool.get(), isa, nullptr, ScanIsa::kAvx2);  // Every row is scored, as here.
  const std::vector<ScanSegment> segments = {{.data = file->row(0), .type = file->element_type(), .rows = rows}};
  for (const int queries : batches) {
    std::vector<float> vectors(static_cast<size_t>(queries) * dim);
    std::mt19937 random(2);
    for (float& value : vectors) value = (static_cast<float>(random()) * 0x1p-32f - 0.5f) * 0.17f;
    const MatrixView<const float> matrix{vectors.data(), queries, dim};
    const std::vector<std::vector<ViewRow>> skipped(static_cast<size_t>(queries), std::vector<ViewRow>{{false, 5}, {false, rows / 2}});
    IndexSearchOptions search;
    search.top_k = 10;
    std::vector<RowHit> hits(static_cast<size_t>(queries) * 10);
    SoftmaxScanOptions options{.temperature = 0.05, .pool = pool.get(), .isa = isa};
    const clockid_t clock = threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC;
    constexpr const char* kWhat[] = {"exact search", "log Z", "with the mean", "and masses", "exact again"};
    std::vector<double> seconds[5], ratios[5];
    for (int round = -1; round < rounds; ++round) {
      for (int what = 0; what < 5; ++what) {
        options.mean = what == 2 || what == 3;
        options.block_masses = options.max_length = what == 3;
        const double start = Seconds(clock);
        const bool ok =
            what % 4 == 0 ? index.Search(matrix, search, RowMask(), hits.data()).ok() : ScanSoftmax(segments, matrix, skipped, options).ok();
        if (!ok) return 1;
        if (round < 0) continue;
        seconds[what].push_back(Seconds(clock) - start);
        ratios[what].push_back(seconds[what].back() / seconds[0].back());
      }
    }
    std::printf("  %3d queries:", queries);
    for (int what = 0; what < 5; ++what) {
      std::printf("  %s %8.2f ms", kWhat[what], 1e3 * Quantile(seconds[what], 0.5));
      if (what > 0) std::printf(" = %.2fx (p90 %.2fx)", Quantile(ratios[what], 0.5), Quantile(ratios[what], 0.9));
    }
    std::printf("\n");
  }
  return 0;
}

bool WriteAll(const std::string& path, const void* data, size_t bytes) {
  std::FILE* const file = std::fopen(path.c_str(), "wb");
  if (file == nullptr) return false;
  const bool written = std::fwrite(data, 1, bytes, file) == bytes;
  return std::fclose(file) == 0 && written;
}

// rows.f16, queries.f64 (exact in float32), and a result for each temperature, kind of query and number of threads: [B, 1 + dim] of log Z
// and E_p[z], float64.
int Dump(const std::string& folder, int64_t rows, int dim, int queries) {
  const std::shared_ptr<const VectorFile> file = MakeFile(rows, dim);
  const std::vector<ScanSegment> segments = {{.data = file->row(0), .type = file->element_type(), .rows = rows}};
  std::vector<float> vectors(static_cast<size_t>(queries) * dim);
  std::mt19937 random(2);
  // Every other query is close to a row, so that distributions are peaked as well as flat.
  for (int q = 0; q < queries; ++q) {
    file->CopyRow(random() % rows, vectors.data() + static_cast<int64_t>(q) * dim);
    for (int d = 0; d < dim; ++d) {
      float& value = vectors[static_cast<int64_t>(q) * dim + d];
      value = (q % 2 == 0 ? 0 : value) + (static_cast<float>(random()) * 0x1p-32f - 0.5f) * 0.17f;
    }
  }
  const std::vector<double> wide(vectors.begin(), vectors.end());
  bool ok = WriteAll(JoinPath(folder, "rows.f16"), file->row(0), static_cast<size_t>(rows) * dim * 2) &&
            WriteAll(JoinPath(folder, "queries.f64"), wide.data(), 8 * wide.size());
  ThreadPool pool("search", 3, 64);
  for (const double temperature : {1.0, 0.05, 0.01}) {
    for (const char* kind : {"float32", "float32_4threads", "float64"}) {
      const SoftmaxScanOptions options{.temperature = temperature, .mean = true, .pool = std::string(kind) == "float32" ? nullptr : &pool};
      const auto scan = std::string(kind) == "float64"
                            ? ScanSoftmax(segments, MatrixView<const double>{wide.data(), queries, dim}, {}, options)
                            : ScanSoftmax(segments, MatrixView<const float>{vectors.data(), queries, dim}, {}, options);
      if (!scan.ok()) return 1;
      std::vector<double> out;
      for (const SoftmaxSums& sums : scan->sums) {
        out.push_back(sums.LogMass(temperature));
        for (const double x : sums.weighted) out.push_back(x / sums.sum);
      }
      char name[64];
      std::snprintf(name, sizeof(name), "scan_%g_%s.f64", temperature, kind);
      ok = ok && WriteAll(JoinPath(folder, name), out.data(), 8 * out.size());
    }
  }
  return ok ? 0 : 1;
}

}  // namespace
}  // namespace loci

int main(int argc, char** argv) {
  int64_t rows = 200'000;
  int dim = 384, rounds = 5, threads = 1;
  std::string dump;
  std::vector<int> batches = {1, 6, 32, 128, 512};
  loci::CpuIsa isa = loci::DetectCpuIsa();
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string flag = argv[i], text = argv[i + 1];
    const int64_t value = std::atoll(argv[i + 1]);
    if (flag == "--rows") rows = value;
    if (flag == "--dim") dim = static_cast<int>(value);
    if (flag == "--rounds") rounds = static_cast<int>(value);
    if (flag == "--threads") threads = static_cast<int>(value);
    if (flag == "--queries") batches = {static_cast<int>(value)};
    if (flag == "--dump") dump = text;
    if (flag == "--isa" && text == "avx2") isa = loci::CpuIsa::kAvx2;
  }
  if (rows < 1 || dim < 1 || rounds < 1 || threads < 1 || batches[0] < 1) {
    std::fprintf(stderr, "softmax_scan_benchmark: every flag takes a positive number\n");
    return 2;
  }
  if (!dump.empty()) return loci::Dump(dump, rows, dim, batches.size() == 1 ? batches[0] : 32);
  return loci::Run(rows, dim, rounds, threads, batches, isa);
}
