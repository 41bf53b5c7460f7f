// Measures the encoder on a CUDA device; run by deploy/gpu_check.sh.
//
//   cuda_benchmark MODEL_DIR kernels            the device's roofs, then each kernel at 16,384 tokens and its share of the roof
//   cuda_benchmark MODEL_DIR encoder            throughput by length and type, one query's latency, fidelity to float32 on the CPU
//   cuda_benchmark MODEL_DIR soak SECONDS       encodes while encoders come and go; device memory must not grow
//   cuda_benchmark MODEL_DIR serve TYPE IDS     answers commands on standard input by a line of JSON each, for paired measurements:
//                                               `run` encodes all sequences of IDS (one a line), `write FILE` also writes the vectors
//
// Exits 2 where there is no device, with the reason.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <iostream>
#include <memory>
#include <random>
#include <sstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/benchmark.h"
#include "base/device.h"
#include "base/file.h"
#include "base/vector_type.h"
#include "encoder/cuda/backend.h"
#include "encoder/cuda/batch_plan.h"
#include "encoder/encoder.h"

namespace loci {
namespace {

constexpr ElementType kTypes[] = {ElementType::kBfloat16, ElementType::kFloat16, ElementType::kFloat32};

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

std::shared_ptr<const Encoder> Load(const std::string& model, const std::shared_ptr<CudaBackend>& backend, ElementType type) {
  EncoderOptions options;
  options.cuda = backend;
  options.precision = ValueOrDie(ParsePrecision(ElementTypeName(type)));
  return ValueOrDie(LoadEncoder(PosixFileSystem(), model, options));
}

// `count` sequences of `length` tokens each, or of 8 to 2 * length where `mixed`; ids of whole words.
PackedBatch Batch(int64_t count, int length, bool mixed, uint32_t seed) {
  std::mt19937 random(seed);
  PackedBatch batch;
  for (int64_t s = 0; s < count; ++s) {
    const int tokens = mixed ? 8 + static_cast<int>(random() % static_cast<unsigned>(2 * (length - 8) + 1)) : length;
    for (int i = 0; i < tokens; ++i)
      batch.token_ids.push_back(i == 0 ? 101 : i + 1 == tokens ? 102 : 2000 + static_cast<int32_t>(random() % 20000));
    batch.offsets.push_back(static_cast<int32_t>(batch.token_ids.size()));
  }
  return batch;
}

double Flop(const EncoderSpec& spec, const PackedBatch& batch) {
  double flop = 0;
  const double dense = 4.0 * spec.dim * spec.dim + 2.0 * spec.dim * spec.intermediate_size;
  for (int64_t s = 0; s < batch.sequence_count(); ++s) {
    const double length = batch.offsets[static_cast<size_t>(s) + 1] - batch.offsets[static_cast<size_t>(s)];
    flop += spec.layer_count * length * (2 * dense + 4 * length * spec.dim);
  }
  return flop;
}

// ---- Kernels ----

class KernelBench {
 public:
  explicit KernelBench(CudaBackend& backend) : backend_(backend), runtime_(backend.runtime()) {
    stream_ = ValueOrDie(Own<CudaStream>(runtime_, runtime_.CreateStream()));
    event_ = ValueOrDie(Own<CudaEvent>(runtime_, runtime_.CreateEvent(EventWait::kSpin)));
  }

  CudaHandle stream() const { return stream_.get(); }

  DeviceMemory Memory(int64_t bytes) { return ValueOrDie(Own<DeviceMemory>(runtime_, runtime_.Allocate(bytes))); }

  // Random values in [-1, 1) of the type, not zeros, on which hardware is faster.
  DeviceMemory Random(ElementType type, int64_t count) {
    const int64_t size = static_cast<int64_t>(ElementSize(type)), some = std::min<int64_t>(count, 1 << 20);
    DeviceMemory memory = Memory(count * size);
    PinnedMemory pinned = ValueOrDie(Own<PinnedMemory>(runtime_, runtime_.AllocatePinned(some * size)));
    std::mt19937 random(1);
    std::uniform_real_distribution<float> uniform(-1, 1);
    for (int64_t i = 0; i < some; ++i) {
      const float value = uniform(random);
      if (type == ElementType::kFloat32) static_cast<float*>(pinned.get())[i] = value;
      if (type == ElementType::kFloat16) Float32ToFloat16(&value, static_cast<uint16_t*>(pinned.get()) + i, 1);
      if (type == ElementType::kBfloat16) Float32ToBfloat16(&value, static_cast<uint16_t*>(pinned.get()) + i, 1);
    }
    for (int64_t begin = 0; begin < count; begin += some) {
      CheckOk(runtime_.CopyToDevice(static_cast<char*>(memory.get()) + begin * size, pinned.get(),
                                    std::min(some, count - begin) * size, stream()));
    }
    Wait();
    return memory;
  }

  void Wait() {
    CheckOk(runtime_.Record(event_.get(), stream()));
    CheckOk(runtime_.Wait(event_.get()));
  }

  // Seconds of one call, the median of nine runs of as many as take about 20 ms.
  double Time(const std::function<absl::Status()>& call) {
    CheckOk(call());
    Wait();
    double begin = NowSeconds();
    for (int i = 0; i < 5; ++i) CheckOk(call());
    Wait();
    const int calls = std::clamp(static_cast<int>(0.02 / ((NowSeconds() - begin) / 5)), 1, 2000);
    std::vector<double> seconds;
    for (int round = 0; round < 9; ++round) {
      begin = NowSeconds();
      for (int i = 0; i < calls; ++i) CheckOk(call());
      Wait();
      seconds.push_back((NowSeconds() - begin) / calls);
    }
    return Median(seconds);
  }

  double CopyBytesPerSecond() {
    const int64_t bytes = int64_t{1} << 30;
    DeviceMemory from = Random(ElementType::kFloat32, bytes / 4), to = Memory(bytes);
    return 2.0 * static_cast<double>(bytes) / Time([&] { return runtime_.CopyOnDevice(to.get(), from.get(), bytes, stream()); });
  }

  // Operations per second of output [rows, cols] = input [rows, depth] weight^T.
  double DenseSeconds(ElementType type, int32_t rows, int cols, int depth) {
    auto kernels = ValueOrDie(
        backend_.MakeKernels({.type = type, .dim = 384, .head_count = 12, .intermediate_size = 1536, .row_counts = {rows}}));
    DeviceMemory weight = Random(type, static_cast<int64_t>(cols) * depth), bias = Random(type, cols),
                 input = Random(type, static_cast<int64_t>(rows) * depth);
    DeviceMemory output = Memory(static_cast<int64_t>(rows) * cols * static_cast<int64_t>(ElementSize(type)));
    const int layer = ValueOrDie(kernels->AddDense(weight.get(), bias.get(), cols, depth));
    if (ValueOrDie(kernels->DenseCandidates(cols, depth)) == 0) return INFINITY;
    kernels->PinDense(cols, depth, 0);
    return Time([&] { return kernels->Dense(layer, output.get(), input.get(), rows, stream()); });
  }

  void Table(ElementType type, double copy_rate, double flop_rate) {
    constexpr int32_t kTokens = 16384;
    constexpr int kDim = 384, kInner = 1536;
    const double size = static_cast<double>(ElementSize(type)), tokens = kTokens;
    auto kernels = ValueOrDie(backend_.MakeKernels({.type = type,
                                                    .dim = kDim,
                                                    .head_count = 12,
                                                    .intermediate_size = kInner,
                                                    .epsilon = 1e-12f,
                                                    .multiprocessor_count = runtime_.multiprocessor_count(),
                                                    .row_counts = {kTokens}}));
    std::printf("\n%-34s %10s %12s %12s %8s\n", (std::string(ElementTypeName(type)) + ", 16,384 tokens").c_str(), "us", "GB/s",
                "TFLOP/s", "of roof");
    const auto row = [&](const std::string& name, double bytes, double flop, double seconds) {
      const double floor = std::max(bytes / copy_rate, flop / flop_rate);
      std::printf("%-34s %10.1f %12.0f %12.1f %7.0f%%\n", name.c_str(), 1e6 * seconds, 1e-9 * bytes / seconds,
                  1e-12 * flop / seconds, 100 * floor / seconds);
    };
    DeviceMemory hidden = Random(type, kTokens * int64_t{kDim}), sum = Random(type, kTokens * int64_t{kDim}),
                 qkv = Random(type, kTokens * int64_t{3 * kDim});
    DeviceMemory inner = Random(type, kTokens * int64_t{kInner}), gamma = Random(ElementType::kFloat32, kDim),
                 beta = Random(ElementType::kFloat32, kDim);
    DeviceMemory word = Random(type, 30522 * int64_t{kDim}), position = Random(type, 512 * kDim),
                 output = Memory(4 * 2048 * kDim);
    const double matrix = tokens * kDim * size;
    for (const int length : {32, 128, 256}) {
      const PackedBatch batch = Batch(kTokens / length, length, false, 5);
      const int32_t sequences = static_cast<int32_t>(batch.sequence_count());
      const int64_t ints = cuda::MaxDeviceBatchInts(kTokens, sequences);
      PinnedMemory pinned = ValueOrDie(Own<PinnedMemory>(runtime_, runtime_.AllocatePinned(4 * ints)));
      DeviceMemory staged = Memory(4 * ints);
      int32_t tiles = 0;
      cuda::WriteDeviceBatch(batch, {.first_sequence = 0, .sequence_count = sequences, .token_count = kTokens},
                             static_cast<int32_t*>(pinned.get()), &tiles);
      CheckOk(runtime_.CopyToDevice(staged.get(), pinned.get(), 4 * ints, stream()));
      Wait();
      const cuda::Launch launch = {.batch = static_cast<const int32_t*>(staged.get()),
                                   .rows = kTokens,
                                   .sequences = sequences,
                                   .tiles = tiles,
                                   .stream = stream()};
      const float *g = static_cast<const float*>(gamma.get()), *b = static_cast<const float*>(beta.get());
      row("attention, length " + std::to_string(length), 4 * matrix, 4.0 * length * tokens * kDim,
          Time([&] { return kernels->Attention(launch, hidden.get(), qkv.get()); }));
      if (length != 128) continue;
      row("embedding", 2 * matrix, 0, Time([&] {
            return kernels->Embedding(launch, hidden.get(), {word.get(), position.get(), position.get(), g, b});
          }));
      row("residual + norm", 3 * matrix, 0,
          Time([&] { return kernels->ResidualNorm(launch, hidden.get(), sum.get(), hidden.get(), g, b); }));
      row("gelu", 2 * tokens * kInner * size, 0, Time([&] { return kernels->Gelu(launch, inner.get()); }));
      row("pooling", matrix, 0, Time([&] { return kernels->Pool(launch, static_cast<float*>(output.get()), hidden.get()); }));
    }
    struct Shape {
      const char* name;
      int cols, depth;
    };
    for (const Shape& s : {Shape{"dense 384 -> 1152", 1152, 384}, Shape{"dense 384 -> 384", 384, 384},
                           Shape{"dense 384 -> 1536", 1536, 384}, Shape{"dense 1536 -> 384", 384, 1536}}) {
      row(s.name, tokens * (s.cols + s.depth) * size, 2 * tokens * s.cols * s.depth,
          DenseSeconds(type, kTokens, s.cols, s.depth));
    }
  }

 private:
  CudaBackend& backend_;
  CudaRuntime& runtime_;
  CudaStream stream_;
  CudaEvent event_;
};

void Kernels(const std::shared_ptr<CudaBackend>& backend) {
  KernelBench bench(*backend);
  const double copy = bench.CopyBytesPerSecond();
  std::printf("roof: device to device %.0f GB/s, read and written\n", 1e-9 * copy);
  for (const ElementType type : kTypes) {
    const double rate = 2.0 * 8192 * 8192 * 8192 / bench.DenseSeconds(type, 8192, 8192, 8192);
    std::printf("roof: product of 8192 x 8192 x 8192 in %s %.1f TFLOP/s\n", std::string(ElementTypeName(type)).c_str(),
                1e-12 * rate);
    bench.Table(type, copy, rate);
  }
}

// ---- Encoder ----

double EncodeSeconds(const Encoder& encoder, const PackedBatch& batch, int rounds) {
  std::vector<float> vectors(static_cast<size_t>(batch.sequence_count() * encoder.spec().dim));
  for (int i = 0; i < 2; ++i) CheckOk(encoder.Encode(batch, vectors.data()));
  std::vector<double> seconds;
  for (int i = 0; i < rounds; ++i) {
    const double begin = NowSeconds();
    CheckOk(encoder.Encode(batch, vectors.data()));
    seconds.push_back(NowSeconds() - begin);
  }
  return Median(seconds);
}

void Fidelity(const Encoder& cpu, const Encoder& encoder) {
  const PackedBatch batch = Batch(64, 64, true, 11);
  const size_t dim = static_cast<size_t>(cpu.spec().dim);
  std::vector<float> a(64 * dim), b(64 * dim), alone(dim);
  CheckOk(cpu.Encode(batch, a.data()));
  CheckOk(encoder.Encode(batch, b.data()));
  double least = 1, mean = 0;
  int differing = 0;
  for (size_t s = 0; s < 64; ++s) {
    double dot = 0;
    for (size_t i = 0; i < dim; ++i) dot += static_cast<double>(a[s * dim + i]) * b[s * dim + i];
    least = std::min(least, dot);
    mean += dot / 64;
    const PackedBatch one = {
        .token_ids = {batch.token_ids.begin() + batch.offsets[s], batch.token_ids.begin() + batch.offsets[s + 1]},
        .offsets = {0, batch.offsets[s + 1] - batch.offsets[s]}};
    CheckOk(encoder.Encode(one, alone.data()));
    differing += !std::equal(alone.begin(), alone.end(), b.begin() + static_cast<std::ptrdiff_t>(s * dim));
  }
  std::printf(
      "%s: cosine to float32 on the CPU, same weights: mean %.7f, least %.7f; sequences with other bits alone than in a batch: "
      "%d of 64\n",
      encoder.spec().element_type.c_str(), mean, least, differing);
}

void Throughput(const std::string& model, const std::shared_ptr<CudaBackend>& backend) {
  EncoderOptions reference;
  reference.precision = Precision::kFloat32;
  const auto cpu = ValueOrDie(LoadEncoder(PosixFileSystem(), model, reference));
  for (const ElementType type : kTypes) {
    const auto encoder = Load(model, backend, type);
    Fidelity(*cpu, *encoder);
    std::printf("%-10s %8s %10s %14s %14s %12s\n", encoder->spec().element_type.c_str(), "length", "batch", "sequences/s",
                "tokens/s", "TFLOP/s");
    for (const int length : {8, 32, 64, 128, 256}) {
      const int limit = std::min(length, encoder->spec().max_length);
      const PackedBatch batch = Batch(65536 / limit, limit, false, 7);
      const double seconds = EncodeSeconds(*encoder, batch, 9);
      std::printf("%-10s %8d %10lld %14.0f %14.0f %12.1f\n", "", limit, static_cast<long long>(batch.sequence_count()),
                  static_cast<double>(batch.sequence_count()) / seconds, static_cast<double>(batch.token_count()) / seconds,
                  1e-12 * Flop(encoder->spec(), batch) / seconds);
    }
    const PackedBatch mixed = Batch(1600, 40, true, 8);
    const double seconds = EncodeSeconds(*encoder, mixed, 9);
    std::printf("%-10s %8s %10d %14.0f %14.0f %12.1f\n", "", "8 to 72", 1600, 1600 / seconds,
                static_cast<double>(mixed.token_count()) / seconds, 1e-12 * Flop(encoder->spec(), mixed) / seconds);
    for (const int length : {8, 16, 32, 64}) {
      std::printf("%-10s one query of %d tokens: %.1f us\n", "", length,
                  1e6 * EncodeSeconds(*encoder, Batch(1, length, false, 9), 501));
    }
  }
}

// ---- Soak ----

int Soak(const std::string& model, const std::shared_ptr<CudaBackend>& backend, double seconds) {
  const PackedBatch batch = Batch(200, 40, true, 3);
  const auto used = [&] {
    const CudaRuntime::Memory memory = ValueOrDie(backend->runtime().GetMemory());
    return memory.total_bytes - memory.free_bytes;
  };
  std::vector<int64_t> levels;
  std::shared_ptr<const Encoder> served = Load(model, backend, ElementType::kBfloat16);
  std::vector<float> expected(static_cast<size_t>(200 * served->spec().dim)), vectors(expected.size());
  CheckOk(served->Encode(batch, expected.data()));
  int64_t encoded = 0, wrong = 0;
  const double end = NowSeconds() + seconds;
  do {
    // The next one is loaded while the old one serves, as a swap does it.
    std::shared_ptr<const Encoder> next;
    std::thread loader([&] { next = Load(model, backend, ElementType::kBfloat16); });
    for (int i = 0; i < 50; ++i, encoded += 200) {
      CheckOk(served->Encode(batch, vectors.data()));
      wrong += vectors != expected;
    }
    loader.join();
    served = std::move(next);
    levels.push_back(used());
  } while (NowSeconds() < end);
  // The runtime takes memory of the device by so much.
  constexpr int64_t kGranuleBytes = 2 << 20;
  const bool flat = levels.size() < 4 || levels.back() <= levels[levels.size() / 4] + kGranuleBytes;
  std::printf(
      "soak: %zu swaps, %lld sequences, %lld batches with other bits; device memory used %lld MiB after a quarter, %lld MiB at "
      "the end: %s\n",
      levels.size(), static_cast<long long>(encoded), static_cast<long long>(wrong),
      static_cast<long long>(levels[levels.size() / 4] >> 20), static_cast<long long>(levels.back() >> 20),
      flat && wrong == 0 ? "flat" : "FAILED");
  return flat && wrong == 0 ? 0 : 1;
}

// ---- Serve ----

int Serve(const std::string& model, const std::shared_ptr<CudaBackend>& backend, const std::string& type_name,
          const std::string& ids_file) {
  ElementType type = ElementType::kBfloat16;
  for (const ElementType each : kTypes) {
    if (ElementTypeName(each) == type_name) type = each;
  }
  const auto encoder = Load(model, backend, type);
  PackedBatch batch;
  std::ifstream in(ids_file);
  for (std::string line; std::getline(in, line);) {
    std::istringstream words(line);
    for (int32_t id; words >> id;) batch.token_ids.push_back(id);
    if (batch.offsets.back() < batch.token_count()) batch.offsets.push_back(static_cast<int32_t>(batch.token_count()));
  }
  std::vector<float> vectors(static_cast<size_t>(batch.sequence_count() * encoder->spec().dim));
  for (std::string command; std::getline(std::cin, command);) {
    const double begin = NowSeconds();
    CheckOk(encoder->Encode(batch, vectors.data()));
    const double seconds = NowSeconds() - begin;
    if (command.rfind("write ", 0) == 0) {
      std::ofstream(command.substr(6), std::ios::binary)
          .write(reinterpret_cast<const char*>(vectors.data()), static_cast<std::streamsize>(vectors.size() * sizeof(float)));
    }
    std::printf("{\"sequences\": %lld, \"tokens\": %lld, \"wall_s\": %.9f}\n", static_cast<long long>(batch.sequence_count()),
                static_cast<long long>(batch.token_count()), seconds);
    std::fflush(stdout);
  }
  return 0;
}

int Main(int argc, char** argv) {
  const std::string what = argc > 2 ? argv[2] : "";
  if (what != "kernels" && what != "encoder" && !(what == "soak" && argc > 3) && !(what == "serve" && argc > 4)) {
    std::fprintf(stderr, "usage: cuda_benchmark MODEL_DIR kernels | encoder | soak SECONDS | serve TYPE IDS_FILE\n");
    return 1;
  }
  const auto selected = SelectDevice("auto", ProbeCuda(), OpenCudaBackend, nullptr);
  CheckOk(selected.status());
  if (selected->cuda == nullptr) {
    std::printf("no device: %s\n", selected->choice.reason.c_str());
    return 2;
  }
  if (what == "serve") return Serve(argv[1], selected->cuda, argv[3], argv[4]);
  std::printf("%s\n", selected->choice.reason.c_str());
  if (what == "soak") return Soak(argv[1], selected->cuda, std::atof(argv[3]));
  if (what == "kernels") Kernels(selected->cuda);
  if (what == "encoder") Throughput(argv[1], selected->cuda);
  return 0;
}

}  // namespace
}  // namespace loci

int main(int argc, char** argv) { return loci::Main(argc, argv); }
