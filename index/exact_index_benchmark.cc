// Speed of exact search beside the roof of the same run.
//
//   bazel run -c opt //index:exact_index_benchmark -- [--rows N] [--dim D] [--rounds R] [--threads T]
//
// Prints, for each element type and number of queries, the median and best of the rounds: GFLOP/s (2 a multiplication and addition) and
// GB/s of rows read once a search, and their part of the roof: a loop of fused multiply-adds over registers, and a read of the same
// file. One thread is timed by CPU time.
#include <immintrin.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "base/device.h"
#include "base/file.h"
#include "base/thread_pool.h"
#include "index/exact_index.h"

namespace loci {
namespace {

double Seconds(clockid_t clock) {
  timespec now;
  clock_gettime(clock, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

volatile float sink;

__attribute__((target("avx512f"))) double FmaFlopsAvx512() {
  __m512 acc[12];
  for (__m512& a : acc) a = _mm512_set1_ps(1.0f);
  const __m512 factor = _mm512_set1_ps(0.999999f), term = _mm512_set1_ps(1e-7f);
  constexpr int64_t kLoops = 20'000'000;
  const double start = Seconds(CLOCK_THREAD_CPUTIME_ID);
  for (int64_t i = 0; i < kLoops; ++i) {
#pragma GCC unroll 12
    for (int j = 0; j < 12; ++j) acc[j] = _mm512_fmadd_ps(acc[j], factor, term);
  }
  const double seconds = Seconds(CLOCK_THREAD_CPUTIME_ID) - start;
  for (const __m512& a : acc) sink = _mm512_cvtss_f32(a);
  return 12.0 * 32 * kLoops / seconds;
}

double FmaFlopsAvx2() {
  __m256 acc[12];
  for (__m256& a : acc) a = _mm256_set1_ps(1.0f);
  const __m256 factor = _mm256_set1_ps(0.999999f), term = _mm256_set1_ps(1e-7f);
  constexpr int64_t kLoops = 20'000'000;
  const double start = Seconds(CLOCK_THREAD_CPUTIME_ID);
  for (int64_t i = 0; i < kLoops; ++i) {
#pragma GCC unroll 12
    for (int j = 0; j < 12; ++j) acc[j] = _mm256_fmadd_ps(acc[j], factor, term);
  }
  const double seconds = Seconds(CLOCK_THREAD_CPUTIME_ID) - start;
  for (const __m256& a : acc) sink = _mm256_cvtss_f32(a);
  return 12.0 * 16 * kLoops / seconds;
}

// Bytes a second of a plain read by one thread.
double ReadBytes(const VectorFile& vectors) {
  const int64_t bytes = vectors.rows() * vectors.dim() * static_cast<int64_t>(ElementSize(vectors.element_type()));
  const char* data = static_cast<const char*>(vectors.row(0));
  double best = 0;
  for (int round = 0; round < 5; ++round) {
    __m256i sum[4] = {};
    const double start = Seconds(CLOCK_THREAD_CPUTIME_ID);
    for (int64_t b = 0; b + 128 <= bytes; b += 128) {
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) {
        sum[j] = _mm256_xor_si256(sum[j], _mm256_loadu_si256(reinterpret_cast<const __m256i*>(data + b + 32 * j)));
      }
    }
    best = std::max(best, static_cast<double>(bytes) / (Seconds(CLOCK_THREAD_CPUTIME_ID) - start));
    sink = static_cast<float>(_mm256_extract_epi32(_mm256_xor_si256(_mm256_xor_si256(sum[0], sum[1]), _mm256_xor_si256(sum[2], sum[3])), 0));
  }
  return best;
}

std::shared_ptr<const VectorFile> MakeFile(int64_t rows, int dim, ElementType type) {
  const char* folder = std::getenv("TMPDIR");
  const std::string path = JoinPath(folder == nullptr ? "/tmp" : folder, "exact_index_benchmark_vectors");
  auto writer = VectorFileWriter::Create(PosixFileSystem(), path, rows, dim, type).value();
  std::mt19937 random(1);
  std::vector<float> row(dim);
  for (int64_t r = 0; r < rows; ++r) {
    for (float& value : row) value = static_cast<float>(random()) * 0x1p-32f - 0.5f;
    if (!writer->Append(row.data()).ok()) std::abort();
  }
  if (!writer->Finish().ok()) std::abort();
  std::shared_ptr<const VectorFile> file = VectorFile::Open(PosixFileSystem(), path).value();
  PosixFileSystem().DeleteFile(path).IgnoreError();
  file->Warm();
  return file;
}

int Run(int64_t rows, int dim, int rounds, int threads) {
  const CpuIsa isa = DetectCpuIsa();
  const double flops = isa == CpuIsa::kAvx512 ? FmaFlopsAvx512() : FmaFlopsAvx2();
  std::printf("%s, %d thread%s, %lld x %d; roof of one thread: %.0f GFLOP/s\n", std::string(CpuIsaName(isa)).c_str(), threads,
              threads == 1 ? "" : "s", static_cast<long long>(rows), dim, flops * 1e-9);
  std::unique_ptr<ThreadPool> pool;
  if (threads > 1) pool = std::make_unique<ThreadPool>("search", threads - 1, 64);
  for (const ElementType type : {ElementType::kFloat32, ElementType::kFloat16, ElementType::kBfloat16}) {
    const std::shared_ptr<const VectorFile> file = MakeFile(rows, dim, type);
    const double read = ReadBytes(*file);
    const double bytes = static_cast<double>(rows) * dim * static_cast<double>(ElementSize(type));
    std::printf("%s: reading by one thread %.1f GB/s\n", std::string(ElementTypeName(type)).c_str(), read * 1e-9);
    const ExactIndex index(file, pool.get(), isa);
    for (const int queries : {1, 2, 6, 12, 32, 64, 256}) {
      std::vector<float> vectors(static_cast<size_t>(queries) * dim);
      std::mt19937 random(2);
      for (float& value : vectors) value = static_cast<float>(random()) * 0x1p-32f - 0.5f;
      IndexSearchOptions options;
      options.top_k = 10;
      std::vector<RowHit> hits(queries * 10);
      std::vector<double> seconds;
      const clockid_t clock = threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC;
      for (int round = -1; round < rounds; ++round) {
        const double start = Seconds(clock);
        if (!index.Search({vectors.data(), queries, dim}, options, RowMask(), hits.data()).ok()) return 1;
        if (round >= 0) seconds.push_back(Seconds(clock) - start);
      }
      std::sort(seconds.begin(), seconds.end());
      const double median = seconds[seconds.size() / 2];
      const double work = 2.0 * static_cast<double>(rows) * dim * queries;
      std::printf("  %3d queries: median %8.2f ms (best %8.2f)  %6.1f GFLOP/s = %3.0f %% of roof  %5.1f GB/s = %3.0f %% of reading\n", queries,
                  1e3 * median, 1e3 * seconds[0], work / median * 1e-9, 100 * work / median / flops / threads, bytes / median * 1e-9,
                  100 * bytes / median / read);
    }
  }
  return 0;
}

}  // namespace
}  // namespace loci

int main(int argc, char** argv) {
  int64_t rows = 200'000;
  int dim = 384, rounds = 7, threads = 1;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string flag = argv[i];
    const int64_t value = std::atoll(argv[i + 1]);
    if (flag == "--rows") rows = value;
    if (flag == "--dim") dim = static_cast<int>(value);
    if (flag == "--rounds") rounds = static_cast<int>(value);
    if (flag == "--threads") threads = static_cast<int>(value);
  }
  if (rows < 1 || dim < 1 || rounds < 1 || threads < 1) {
    std::fprintf(stderr, "exact_index_benchmark: every flag takes a positive number\n");
    return 2;
  }
  return loci::Run(rows, dim, rounds, threads);
}
