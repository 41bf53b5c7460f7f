// Encodes given token sequences on demand and says what it took; driven by tests/peers/encoder_benchmark.py.
//
//   encoder_benchmark MODEL_DIR IDS_FILE [THREADS] [MAX_BATCH_TOKENS] [--precision=auto|float32|bfloat16|float16|int8]
//
// IDS_FILE has one sequence a line, ids separated by spaces. Each line of standard input is a command, each answered by a line of JSON:
//
//   run           encodes all sequences, in the file's order, in batches of MAX_BATCH_TOKENS (4096)
//   spec          says what the encoder computes in and why, how long it took to load and what it holds
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
#include <string_view>
#include <vector>

#include "base/device.h"
#include "base/file.h"
#include "base/thread_pool.h"
#include "encoder/encoder.h"
#include "encoder/precision.h"

namespace loci {
namespace {

double Seconds(clockid_t clock) {
  timespec t;
  clock_gettime(clock, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

int Main(int argc, char** argv) {
  constexpr std::string_view kFlag = "--precision=";
  std::vector<const char*> arguments;
  std::string precision_name = "auto";
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    if (argument.substr(0, kFlag.size()) == kFlag) {
      precision_name = argument.substr(kFlag.size());
    } else if (argument == "--precision" && i + 1 < argc) {
      precision_name = argv[++i];
    } else {
      arguments.push_back(argv[i]);
    }
  }
  const absl::StatusOr<Precision> precision = ParsePrecision(precision_name);
  if (arguments.size() < 2 || arguments.size() > 4 || !precision.ok()) {
    std::fprintf(stderr, "usage: encoder_benchmark MODEL_DIR IDS_FILE [THREADS] [MAX_BATCH_TOKENS] [--precision=%s]\n",
                 "auto|float32|bfloat16|float16|int8");
    return 2;
  }
  const int threads = arguments.size() > 2 ? std::atoi(arguments[2]) : 1;
  const int64_t max_tokens = arguments.size() > 3 ? std::atoi(arguments[3]) : 4096;
  std::unique_ptr<ThreadPool> pool;
  if (threads > 1) pool = std::make_unique<ThreadPool>("encode", threads - 1, 1000);
  EncoderOptions options;
  options.pool = pool.get();
  options.precision = *precision;
  const double load_begin = Seconds(CLOCK_PROCESS_CPUTIME_ID);
  const absl::StatusOr<std::shared_ptr<const Encoder>> encoder = LoadEncoder(PosixFileSystem(), arguments[0], options);
  if (!encoder.ok()) {
    std::fprintf(stderr, "%s\n", encoder.status().ToString().c_str());
    return 1;
  }
  const double load_cpu_s = Seconds(CLOCK_PROCESS_CPUTIME_ID) - load_begin;
  const EncoderSpec& spec = (*encoder)->spec();
  std::vector<PackedBatch> batches(1);
  int64_t tokens = 0, sequences = 0;
  double flop = 0;
  std::ifstream in(arguments[1]);
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
    if (command == "spec") {
      std::printf("{\"element_type\": \"%s\", \"reason\": \"%s\", \"load_cpu_s\": %.3f, \"memory_bytes\": %lld}\n",
                  spec.element_type.c_str(), spec.element_type_reason.c_str(), load_cpu_s, static_cast<long long>(spec.memory_bytes));
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
