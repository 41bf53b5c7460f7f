// Approximate search, asked line by line by tests/peers/approximate_benchmark.py, or by hand.
//
//   approximate_index_benchmark FOLDER DIM     reads FOLDER/rows.f32 and FOLDER/queries.f32 ([n, DIM] float32), writes FOLDER/vectors.bin, then reads:
//     build FACTORY                            makes the index, by one thread: prints its CPU time in seconds and its bytes in memory
//     run FACTORY QUERIES TOP_K EFFORT [RESCORE]      one search by one thread: prints its CPU time in seconds. EFFORT is efSearch or nprobe, whichever
//                                              the index has; RESCORE its rescore factor
//     hits FACTORY QUERIES TOP_K EFFORT [RESCORE]     prints the rows found, query by query
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <iostream>
#include <map>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "base/benchmark.h"
#include "base/cancellation.h"
#include "base/file.h"
#include "index/faiss_index.h"
#include "index/row_mask.h"
#include "index/vector_file.h"

namespace loci {
namespace {

// Of all threads: a build may start some.
double CpuSeconds() {
  timespec now;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

std::vector<float> ReadFloats(const std::string& path) {
  const auto bytes = PosixFileSystem().ReadFile(path);
  CheckOk(bytes.status());
  std::vector<float> values(bytes->size() / sizeof(float));
  std::memcpy(values.data(), bytes->data(), values.size() * sizeof(float));
  return values;
}

int Run(const std::string& folder, int dim) {
  FileSystem& fs = PosixFileSystem();
  const std::vector<float> queries = ReadFloats(JoinPath(folder, "queries.f32"));
  const std::string vectors_path = JoinPath(folder, "vectors.bin");
  {
    const std::vector<float> rows = ReadFloats(JoinPath(folder, "rows.f32"));
    const int64_t count = static_cast<int64_t>(rows.size()) / dim;
    auto writer = VectorFileWriter::Create(fs, vectors_path, count, dim, ElementType::kFloat32).value();
    for (int64_t r = 0; r < count; ++r) CheckOk(writer->Append(&rows[static_cast<size_t>(r * dim)]));
    CheckOk(writer->Finish());
  }
  const std::shared_ptr<const VectorFile> vectors = VectorFile::Open(fs, vectors_path).value();
  vectors->Warm();
  std::cout << "ready" << std::endl;
  std::map<std::string, std::unique_ptr<PassageIndex>> indexes;
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream words(line);
    std::string verb, factory;
    int64_t query_count = 0;
    int effort = 0;
    IndexSearchOptions options;
    words >> verb >> factory >> query_count >> options.top_k >> effort >> options.rescore_factor;
    if (verb == "build") {
      CheckOk(ValidateFaissFactory(factory, dim, vectors->rows()));
      const std::string path = JoinPath(folder, "index.faiss");
      const double start = CpuSeconds();
      CheckOk(BuildFaissIndex(fs, factory, *vectors, path, RequestLimits()));
      const double seconds = CpuSeconds() - start;
      auto index = OpenFaissIndex(fs, path, factory, vectors, nullptr);
      CheckOk(index.status());
      std::cout << "{\"cpu_s\": " << seconds << ", \"memory_bytes\": " << (*index)->memory_bytes() << "}" << std::endl;
      indexes[factory] = *std::move(index);
      CheckOk(fs.DeleteFile(path));
      continue;
    }
    const auto found = indexes.find(factory);
    if (found == indexes.end() || query_count < 1 || query_count * dim > static_cast<int64_t>(queries.size()) ||
        options.top_k < 1)
      return 2;
    (factory.rfind("HNSW", 0) == 0 ? options.ef_search : options.nprobe) = effort;
    std::vector<RowHit> hits(static_cast<size_t>(query_count * options.top_k));
    const double start = CpuSeconds();
    CheckOk(found->second->Search({queries.data(), query_count, dim}, options, RowMask(), hits.data()));
    const double seconds = CpuSeconds() - start;
    if (verb == "run") {
      std::printf("{\"cpu_s\": %.9f}\n", seconds);
    } else {
      std::printf("[");
      for (size_t i = 0; i < hits.size(); ++i) std::printf("%s%lld", i == 0 ? "" : ", ", static_cast<long long>(hits[i].row));
      std::printf("]\n");
    }
    std::fflush(stdout);
  }
  return 0;
}

}  // namespace
}  // namespace loci

int main(int argc, char** argv) {
  if (argc != 3 || std::atoi(argv[2]) < 1) {
    std::fprintf(stderr, "usage: approximate_index_benchmark FOLDER DIM\n");
    return 2;
  }
  return loci::Run(argv[1], std::atoi(argv[2]));
}
