// Exact search by 8-bit codes and by scoring every row, asked line by line by tests/peers/search_benchmark.py, or by hand.
//
//   certified_scan_benchmark FOLDER DIM [THREADS]     reads FOLDER/rows.f32 and FOLDER/queries.f32 ([n, DIM] float32), writes the files of the modes, then reads:
//     run MODE QUERIES TOP_K      one search: prints its seconds (CPU time where it has one thread, else of the clock), the rows scored a query, and the
//                                 queries given up
//     hits MODE QUERIES TOP_K     prints the rows found, query by query
// MODE: float32 or bfloat16, as vectors are stored; float32+int8 or bfloat16+int8, with codes; float32+all or bfloat16+all: every row is scored.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <iostream>
#include <map>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "base/benchmark.h"
#include "base/device.h"
#include "base/file.h"
#include "base/thread_pool.h"
#include "index/exact_index.h"
#include "index/quantized_vectors.h"
#include "index/row_mask.h"
#include "index/vector_file.h"

namespace loci {
namespace {

double Seconds(clockid_t clock) {
  timespec now;
  clock_gettime(clock, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

std::vector<float> ReadFloats(const std::string& path) {
  const std::string bytes = PosixFileSystem().ReadFile(path).value();
  std::vector<float> values(bytes.size() / sizeof(float));
  std::copy_n(bytes.data(), values.size() * sizeof(float), reinterpret_cast<char*>(values.data()));
  return values;
}

int Run(const std::string& folder, int dim, int threads) {
  FileSystem& fs = PosixFileSystem();
  const std::vector<float> queries = ReadFloats(JoinPath(folder, "queries.f32"));
  std::unique_ptr<ThreadPool> pool;
  if (threads > 1) pool = std::make_unique<ThreadPool>("search", threads - 1, 64);
  std::map<std::string, std::shared_ptr<const ExactIndex>> modes;
  {
    const std::vector<float> rows = ReadFloats(JoinPath(folder, "rows.f32"));
    const int64_t count = static_cast<int64_t>(rows.size()) / dim;
    for (const ElementType type : {ElementType::kFloat32, ElementType::kBfloat16}) {
      const std::string name(ElementTypeName(type)), path = JoinPath(folder, name);
      auto writer = VectorFileWriter::Create(fs, path, count, dim, type).value();
      for (int64_t r = 0; r < count; ++r) CheckOk(writer->Append(&rows[static_cast<size_t>(r * dim)]));
      CheckOk(writer->Finish());
      std::shared_ptr<const VectorFile> vectors = VectorFile::Open(fs, path).value();
      const double start = Seconds(CLOCK_MONOTONIC);
      CheckOk(WriteQuantizedVectors(fs, *vectors, path + ".int8", nullptr));
      std::cout << name << ": " << count << " x " << dim << ", codes written in " << Seconds(CLOCK_MONOTONIC) - start << " s"
                << std::endl;
      const std::shared_ptr<const QuantizedVectors> codes = QuantizedVectors::Open(fs, path + ".int8").value();
      vectors->Warm();
      codes->Warm();
      modes[name] = std::make_shared<ExactIndex>(vectors, pool.get());
      modes[name + "+all"] = std::make_shared<ExactIndex>(vectors, pool.get(), DetectCpuIsa(), nullptr, ScanIsa::kAvx2);
      modes[name + "+int8"] = std::make_shared<ExactIndex>(vectors, pool.get(), DetectCpuIsa(), codes);
    }
  }
  std::cout << "ready, " << CpuIsaName(DetectCpuIsa()) << (DetectScanIsa() == ScanIsa::kVnni ? " with vnni" : "") << ", "
            << threads << " thread(s)" << std::endl;
  const clockid_t clock = threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC;
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream words(line);
    std::string verb, mode;
    int64_t query_count = 0;
    IndexSearchOptions options;
    words >> verb >> mode >> query_count >> options.top_k;
    const auto found = modes.find(mode);
    if (found == modes.end() || query_count < 1 || query_count * dim > static_cast<int64_t>(queries.size())) {
      std::cout << "{\"error\": \"unknown mode or too many queries\"}" << std::endl;
      continue;
    }
    const ExactIndex& index = *found->second;
    const CertifiedScan& scan = index.certified_scan();
    const int64_t scored = scan.scored_count(), given_up = scan.given_up_count();
    std::vector<RowHit> hits(static_cast<size_t>(query_count * options.top_k));
    const double start = Seconds(clock);
    CheckOk(index.Search({queries.data(), query_count, dim}, options, RowMask(), hits.data()));
    const double seconds = Seconds(clock) - start;
    if (verb == "run") {
      std::cout << "{\"s\": " << seconds
                << ", \"scored\": " << static_cast<double>(scan.scored_count() - scored) / static_cast<double>(query_count)
                << ", \"given_up\": " << scan.given_up_count() - given_up << "}" << std::endl;
      continue;
    }
    std::cout << "[";
    for (size_t i = 0; i < hits.size(); ++i) std::cout << (i == 0 ? "" : ", ") << hits[i].row;
    std::cout << "]" << std::endl;
  }
  return 0;
}

}  // namespace
}  // namespace loci

int main(int argc, char** argv) {
  if (argc < 3) {
    std::fprintf(stderr, "usage: certified_scan_benchmark FOLDER DIM [THREADS]\n");
    return 2;
  }
  return loci::Run(argv[1], std::atoi(argv[2]), argc > 3 ? std::atoi(argv[3]) : 1);
}
