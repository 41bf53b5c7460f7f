// Encodes given token sequences on demand and says what it took; driven by tests/peers/encoder_benchmark.py.
//
//   encoder_benchmark MODEL_DIR IDS_FILE [THREADS] [MAX_BATCH_TOKENS]
//
// IDS_FILE has one sequence a line, ids separated by spaces. Each line of standard input is a command, each answered by a line of JSON:
//
//   run           encodes all sequences, in the file's order, in batches of MAX_BATCH_TOKENS (4096)
//   roof          measures what the core's FMA units give
//   write FILE    encodes and writes the vectors, float32
#include <time.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "base/device.h"
#include "base/file.h"
#include "base/thread_pool.h"
#include "encoder/encoder.h"

namespace loci {
namespace {

double Seconds(clockid_t clock) {
  timespec t;
  clock_gettime(clock, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

// GFLOP/s of a loop of twelve independent FMAs: what no kernel can pass.
double RoofGflops(CpuIsa isa) {
  constexpr int64_t kSteps = 20'000'000;
  double best = 0;
  for (int round = 0; round < 5; ++round) {
    int64_t steps = kSteps;
    const double begin = Seconds(CLOCK_THREAD_CPUTIME_ID);
#define LOCI_FMA(r, n) "vfmadd231ps %%" #r "mm0, %%" #r "mm1, %%" #r "mm" #n "\n"
#define LOCI_FMAS(r)                                                                                                       \
  LOCI_FMA(r, 2)                                                                                                           \
  LOCI_FMA(r, 3) LOCI_FMA(r, 4) LOCI_FMA(r, 5) LOCI_FMA(r, 6) LOCI_FMA(r, 7) LOCI_FMA(r, 8) LOCI_FMA(r, 9) LOCI_FMA(r, 10) \
      LOCI_FMA(r, 11) LOCI_FMA(r, 12) LOCI_FMA(r, 13)
#define LOCI_FMA_LOOP(r)                                                                                                 \
  asm volatile("vzeroall\n1:\n" LOCI_FMAS(r) "dec %0\njnz 1b\nvzeroupper\n"                                              \
               : "+r"(steps)                                                                                             \
               :                                                                                                         \
               : "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", \
                 "xmm12", "xmm13", "xmm14", "xmm15")
    if (isa == CpuIsa::kAvx512) {
      LOCI_FMA_LOOP(z);
    } else {
      LOCI_FMA_LOOP(y);
    }
    const double seconds = Seconds(CLOCK_THREAD_CPUTIME_ID) - begin;
    const double lanes = isa == CpuIsa::kAvx512 ? 16 : 8;
    best = std::max(best, 2e-9 * 12 * lanes * static_cast<double>(kSteps) / seconds);
  }
  return best;
}

int Main(int argc, char** argv) {
  if (argc < 3) {
    std::fprintf(stderr, "usage: encoder_benchmark MODEL_DIR IDS_FILE [THREADS] [MAX_BATCH_TOKENS]\n");
    return 2;
  }
  const int threads = argc > 3 ? std::atoi(argv[3]) : 1;
  const int64_t max_tokens = argc > 4 ? std::atoi(argv[4]) : 4096;
  std::unique_ptr<ThreadPool> pool;
  if (threads > 1) pool = std::make_unique<ThreadPool>("encode", threads - 1, 1000);
  EncoderOptions options;
  options.pool = pool.get();
  const absl::StatusOr<std::shared_ptr<const Encoder>> encoder = LoadEncoder(PosixFileSystem(), argv[1], options);
  if (!encoder.ok()) {
    std::fprintf(stderr, "%s\n", encoder.status().ToString().c_str());
    return 1;
  }
  const EncoderSpec& spec = (*encoder)->spec();
  std::vector<PackedBatch> batches(1);
  int64_t tokens = 0, sequences = 0;
  double flop = 0;
  std::ifstream in(argv[2]);
  for (std::string line; std::getline(in, line);) {
    std::istringstream words(line);
    std::vector<int32_t> ids;
    for (int32_t id; words >> id;) ids.push_back(id);
    if (ids.empty()) continue;
    const double length = static_cast<double>(ids.size());
    const double dense = 4.0 * spec.dim * spec.dim + 2.0 * spec.dim * spec.intermediate_size;
    flop += spec.layer_count * length * (2 * dense + 4 * length * spec.dim);
    tokens += static_cast<int64_t>(ids.size());
    ++sequences;
    if (batches.back().token_count() > 0 && batches.back().token_count() + static_cast<int64_t>(ids.size()) > max_tokens)
      batches.emplace_back();
    PackedBatch& batch = batches.back();
    batch.token_ids.insert(batch.token_ids.end(), ids.begin(), ids.end());
    batch.offsets.push_back(static_cast<int32_t>(batch.token_ids.size()));
  }
  std::vector<float> vectors(sequences * spec.dim);
  const auto encode = [&]() -> absl::Status {
    float* out = vectors.data();
    for (const PackedBatch& batch : batches) {
      const absl::Status status = (*encoder)->Encode(batch, out);
      if (!status.ok()) return status;
      out += batch.sequence_count() * spec.dim;
    }
    return absl::OkStatus();
  };
  for (std::string command; std::getline(std::cin, command);) {
    if (command == "roof") {
      std::printf("{\"isa\": \"%s\", \"gflops\": %.1f}\n", std::string(CpuIsaName(options.isa)).c_str(), RoofGflops(options.isa));
    } else {
      const double wall = Seconds(CLOCK_MONOTONIC), cpu = Seconds(CLOCK_PROCESS_CPUTIME_ID);
      const absl::Status status = encode();
      const double wall_s = Seconds(CLOCK_MONOTONIC) - wall, cpu_s = Seconds(CLOCK_PROCESS_CPUTIME_ID) - cpu;
      if (!status.ok()) {
        std::fprintf(stderr, "%s\n", status.ToString().c_str());
        return 1;
      }
      if (command.rfind("write ", 0) == 0) {
        std::ofstream(command.substr(6), std::ios::binary)
            .write(reinterpret_cast<const char*>(vectors.data()), static_cast<std::streamsize>(vectors.size() * sizeof(float)));
      }
      std::printf("{\"sequences\": %lld, \"tokens\": %lld, \"gflop\": %.3f, \"wall_s\": %.6f, \"cpu_s\": %.6f}\n",
                  static_cast<long long>(sequences), static_cast<long long>(tokens), flop * 1e-9, wall_s, cpu_s);
    }
    std::fflush(stdout);
  }
  return 0;
}

}  // namespace
}  // namespace loci

int main(int argc, char** argv) { return loci::Main(argc, argv); }
