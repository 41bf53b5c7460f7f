// Exact search under filters, asked line by line by tests/peers/filter_benchmark.py, or by hand.
//
//   filter_benchmark FOLDER ROWS DIM     writes FOLDER/vectors.bin, FOLDER/columns.bin and FOLDER/numbers (int64 n of each row, 0 to 999), then reads:
//     run QUERIES TOP_K [FILTER]         one search by one thread: prints its CPU time in seconds, the filter's share of it, and how many rows match
//     hits QUERIES TOP_K [FILTER]        prints the rows found, query by query
// Vectors and queries are random and of unit length; query q is written to FOLDER/queries (float32), 64 of them. A row has the fields n (int64), year
// (int64, 1950 to 2024), lang (one of 8 strings), draft (bool) and score (double, all different).
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <iostream>
#include <memory>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "base/benchmark.h"
#include "base/file.h"
#include "index/exact_index.h"
#include "index/metadata_columns.h"
#include "index/row_mask.h"
#include "index/vector_file.h"

namespace loci {
namespace {

constexpr int kQueries = 64;

double CpuSeconds() {
  timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

void RandomUnitVector(std::mt19937& random, std::vector<float>* vector) {
  double sum = 0;
  for (float& value : *vector) {
    value = static_cast<float>(random()) * 0x1p-32f - 0.5f;
    sum += static_cast<double>(value) * value;
  }
  for (float& value : *vector) value = static_cast<float>(value / std::sqrt(sum));
}

void WriteBytes(const std::string& path, const void* data, size_t size) {
  auto file = PosixFileSystem().NewWritableFile(path).value();
  CheckOk(file->Append({static_cast<const char*>(data), size}));
  CheckOk(file->Close());
}

int Run(const std::string& folder, int64_t rows, int dim) {
  FileSystem& fs = PosixFileSystem();
  CheckOk(fs.CreateDirectories(folder));
  std::mt19937 random(1);
  std::vector<float> vector(static_cast<size_t>(dim));
  std::vector<int64_t> numbers;
  auto writer = VectorFileWriter::Create(fs, JoinPath(folder, "vectors.bin"), rows, dim, ElementType::kFloat32).value();
  const auto builder = MetadataColumnsBuilder::Create(fs, JoinPath(folder, "columns.bin"), JoinPath(folder, "staging"));
  double build_seconds = 0;
  for (int64_t row = 0; row < rows; ++row) {
    RandomUnitVector(random, &vector);
    CheckOk(writer->Append(vector.data()));
    v1::Passage passage;
    auto& metadata = *passage.mutable_metadata();
    numbers.push_back(static_cast<int64_t>(random() % 1000));
    metadata["n"].set_int64_value(numbers.back());
    metadata["year"].set_int64_value(1950 + static_cast<int64_t>(random() % 75));
    metadata["lang"].set_string_value(std::string("l") + static_cast<char>('0' + random() % 8));
    metadata["draft"].set_bool_value(random() % 2 == 0);
    metadata["score"].set_double_value(static_cast<double>(random()));
    const double start = CpuSeconds();
    CheckOk(builder->Add(row, passage));
    build_seconds += CpuSeconds() - start;
  }
  CheckOk(writer->Finish());
  double start = CpuSeconds();
  CheckOk(builder->Finish(rows, {}));
  build_seconds += CpuSeconds() - start;
  WriteBytes(JoinPath(folder, "numbers"), numbers.data(), numbers.size() * sizeof(numbers[0]));
  std::vector<float> queries;
  for (int q = 0; q < kQueries; ++q) {
    RandomUnitVector(random, &vector);
    queries.insert(queries.end(), vector.begin(), vector.end());
  }
  WriteBytes(JoinPath(folder, "queries"), queries.data(), queries.size() * sizeof(queries[0]));

  std::shared_ptr<const VectorFile> file = VectorFile::Open(fs, JoinPath(folder, "vectors.bin")).value();
  file->Warm();
  start = CpuSeconds();
  const auto columns = MetadataColumns::Open(fs, JoinPath(folder, "columns.bin"), rows).value();
  std::printf("columns of %lld rows: built in %.2f s, opened in %.3f s, %.1f MiB mapped, %.1f MiB in memory\n", static_cast<long long>(rows), build_seconds,
              CpuSeconds() - start, static_cast<double>(fs.FileSize(JoinPath(folder, "columns.bin")).value()) / (1 << 20),
              static_cast<double>(columns->memory_bytes()) / (1 << 20));
  std::fflush(stdout);
  const ExactIndex index(file, nullptr);
  std::string line;
  while (std::getline(std::cin, line)) {
    std::istringstream words(line);
    std::string command, filter;
    int query_count = 0, top_k = 0;
    words >> command >> query_count >> top_k >> std::ws;
    std::getline(words, filter);
    if (query_count < 1 || query_count > kQueries || top_k < 1) return 2;
    IndexSearchOptions options;
    options.top_k = top_k;
    std::vector<RowHit> hits(static_cast<size_t>(query_count) * static_cast<size_t>(top_k));
    const double begin = CpuSeconds();
    RowMask hidden;
    int64_t matches = rows;
    if (!filter.empty()) {
      const auto parsed = FilterExpression::Parse(filter);
      CheckOk(parsed.status());
      const auto found = EvaluateFilter(**parsed, *columns, {}, {});
      CheckOk(found.status());
      hidden = RowMask().RestrictedTo(rows, found->ToWords(rows));
      matches = rows - hidden.hidden_count();
    }
    const double filtered = CpuSeconds();
    CheckOk(index.Search({queries.data(), query_count, dim}, options, hidden, hits.data()));
    const double end = CpuSeconds();
    if (command == "run") {
      std::printf("{\"cpu_s\": %.9f, \"filter_s\": %.9f, \"matches\": %lld}\n", end - begin, filtered - begin, static_cast<long long>(matches));
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
  if (argc != 4 || std::atoll(argv[2]) < 1 || std::atoi(argv[3]) < 1) {
    std::fprintf(stderr, "usage: filter_benchmark FOLDER ROWS DIM\n");
    return 2;
  }
  return loci::Run(argv[1], std::atoll(argv[2]), std::atoi(argv[3]));
}
