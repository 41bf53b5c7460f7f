// What a build costs: time by phase and memory beside mapped files; then the opening with all checksums.
//
//   bazel run -c opt //index:generation_benchmark -- FOLDER [rows [dim [index]]]
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <random>
#include <string>
#include <vector>

#include "base/benchmark.h"
#include "base/file.h"
#include "index/generation.h"

namespace loci {
namespace {

// Resident memory of this process that no file backs.
int64_t AnonymousMiB() {
  std::ifstream status("/proc/self/status");
  for (std::string word; status >> word;) {
    int64_t kib = 0;
    if (word == "RssAnon:" && status >> kib) return kib / 1024;
  }
  return 0;
}

int Run(const std::string& folder, int64_t rows, int dim, const std::string& index) {
  FileSystem& fs = PosixFileSystem();
  BuildOptions options;
  options.index = index;
  options.dim = dim;
  const std::string directory = JoinPath(folder, "generation_benchmark");
  CheckOk(fs.DeleteRecursively(directory));
  auto builder = GenerationBuilder::Create(fs, directory, "bench", "g", options);
  CheckOk(builder.status());
  std::mt19937_64 random(1);
  constexpr int64_t kBatch = 256;
  int64_t peak = AnonymousMiB();
  double last = NowSeconds();
  const auto report = [&](const std::string& phase) {
    std::printf("%-10s %7.1f s, at most %lld MiB beside mapped files\n", phase.c_str(), NowSeconds() - last, static_cast<long long>(peak));
    last = NowSeconds();
  };
  for (int64_t first = 0; first < rows; first += kBatch) {
    const int64_t count = std::min(kBatch, rows - first);
    std::vector<v1::Passage> passages(count);
    std::vector<float> vectors(count * dim);
    for (float& value : vectors) value = static_cast<float>(random() >> 40) * 0x1p-24f - 0.5f;
    for (int64_t i = 0; i < count; ++i) {
      passages[i].set_id(std::to_string(random()));
      passages[i].set_title("A title");
      for (int w = 0; w < 60; ++w) passages[i].set_text(passages[i].text() + std::to_string(random() % 5000) + " ");
    }
    CheckOk((*builder)->Add(passages, vectors.data()));
    peak = std::max(peak, AnonymousMiB());
  }
  report("add");
  std::string phase = "count";
  const auto manifest = (*builder)->Finish(RequestLimits(), [&](std::string_view now, int64_t, int64_t) {
    peak = std::max(peak, AnonymousMiB());
    if (now == phase) return;
    report(phase);
    phase = std::string(now);
  });
  CheckOk(manifest.status());
  report(phase);
  builder->reset();
  const auto generation = Generation::Open(fs, directory, {});
  CheckOk(generation.status());
  peak = std::max(peak, AnonymousMiB());
  report("open");
  std::printf("%lld rows, recall@10 %.4f of %lld queries, the generation says %lld MiB\n",
              static_cast<long long>((*generation)->row_count()), manifest->recall_at_10(),
              static_cast<long long>(manifest->recall_query_count()), static_cast<long long>((*generation)->memory_bytes() >> 20));
  CheckOk(fs.DeleteRecursively(directory));
  return 0;
}

}  // namespace
}  // namespace loci

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: generation_benchmark FOLDER [rows [dim [index]]]\n");
    return 2;
  }
  return loci::Run(argv[1], argc > 2 ? std::atoll(argv[2]) : 100'000, argc > 3 ? std::atoi(argv[3]) : 384, argc > 4 ? argv[4] : "exact");
}
