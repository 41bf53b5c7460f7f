// The default encoder in every precision of this machine against transformers' float32 vectors, and against itself: the same bits in
// every batch.
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/thread_pool.h"
#include "encoder/encoder.h"
#include "gtest/gtest.h"
#include "tests/parity/golden.h"

namespace loci {
namespace {

struct Case {
  CpuIsa isa;
  Precision precision;
  double least_cosine;
  double largest_difference;

  std::string Name() const { return std::string(CpuIsaName(isa)) + "_" + std::string(PrecisionName(precision)); }
};

std::vector<Case> Cases() {
  std::vector<Case> cases;
  for (const CpuIsa isa : MachineIsas()) cases.push_back({isa, Precision::kFloat32, 0.99999, 2e-5});
  const CpuExtensions extensions = DetectCpuExtensions();
  if (extensions.bfloat16) cases.push_back({CpuIsa::kAvx512, Precision::kBfloat16, 0.9999, 5e-3});
  if (extensions.float16) cases.push_back({CpuIsa::kAvx512, Precision::kFloat16, 0.99995, 3e-3});
  return cases;
}

class EncoderParity : public testing::TestWithParam<Case> {
 protected:
  static std::shared_ptr<const Encoder> Load(const Case& of, ThreadPool* pool = nullptr) {
    const char* folder = std::getenv("LOCI_MODEL_DIR");
    EncoderOptions options;
    options.isa = of.isa;
    options.precision = of.precision;
    options.pool = pool;
    auto encoder = LoadEncoder(PosixFileSystem(), folder != nullptr ? folder : "models/all-MiniLM-L6-v2", options);
    EXPECT_TRUE(encoder.ok()) << encoder.status();
    return encoder.ok() ? *std::move(encoder) : nullptr;
  }

  static PackedBatch Pack(const Golden& golden, const std::vector<size_t>& which) {
    PackedBatch batch;
    for (size_t i : which) {
      batch.token_ids.insert(batch.token_ids.end(), golden.ids[i].begin(), golden.ids[i].end());
      batch.offsets.push_back(static_cast<int32_t>(batch.token_ids.size()));
    }
    return batch;
  }

  static std::vector<float> Encode(const Encoder& encoder, const PackedBatch& batch) {
    std::vector<float> vectors(batch.sequence_count() * encoder.spec().dim, std::nanf(""));
    const absl::Status status = encoder.Encode(batch, vectors.data());
    EXPECT_TRUE(status.ok()) << status;
    return vectors;
  }
};

TEST_P(EncoderParity, VectorsAreThoseOfTransformers) {
  const Golden golden = ReadGolden("tests/golden/encoder.golden");
  ASSERT_EQ(golden.ids.size(), 60u);
  const std::shared_ptr<const Encoder> encoder = Load(GetParam());
  ASSERT_NE(encoder, nullptr);
  ASSERT_EQ(encoder->spec().dim, golden.dim);
  EXPECT_EQ(encoder->spec().max_length, 256);
  EXPECT_EQ(encoder->spec().element_type, PrecisionName(GetParam().precision));
  std::vector<size_t> all(golden.ids.size());
  for (size_t i = 0; i < all.size(); ++i) all[i] = i;
  const std::vector<float> vectors = Encode(*encoder, Pack(golden, all));
  double worst_cosine = 1, worst_difference = 0;
  for (size_t i = 0; i < all.size(); ++i) {
    double dot = 0, length = 0, golden_length = 0;
    for (int d = 0; d < golden.dim; ++d) {
      const double a = vectors[i * golden.dim + d], b = golden.vectors[i][d];
      dot += a * b;
      length += a * a;
      golden_length += b * b;
      worst_difference = std::max(worst_difference, std::abs(a - b));
    }
    EXPECT_NEAR(length, 1.0, 1e-6);
    const double cosine = dot / std::sqrt(length * golden_length);
    EXPECT_GE(cosine, GetParam().least_cosine) << "text " << i << " of " << golden.ids[i].size() << " tokens";
    worst_cosine = std::min(worst_cosine, cosine);
  }
  EXPECT_LE(worst_difference, GetParam().largest_difference);
  RecordProperty("worst_cosine", std::to_string(worst_cosine));
  std::printf("%s: worst cosine %.9f, largest difference %.2g\n", GetParam().Name().c_str(), worst_cosine,
              worst_difference);
}

TEST_P(EncoderParity, ASequenceHasTheSameBitsInEveryBatchAndOnEveryNumberOfThreads) {
  const Golden golden = ReadGolden("tests/golden/encoder.golden");
  ASSERT_EQ(golden.ids.size(), 60u);
  const std::shared_ptr<const Encoder> encoder = Load(GetParam());
  ASSERT_NE(encoder, nullptr);
  const int dim = golden.dim;
  std::vector<std::vector<float>> alone;
  for (size_t i = 0; i < golden.ids.size(); ++i) alone.push_back(Encode(*encoder, Pack(golden, {i})));
  const auto expect_same = [&](const Encoder& by, const std::vector<size_t>& which, const std::string& what) {
    const std::vector<float> together = Encode(by, Pack(golden, which));
    for (size_t i = 0; i < which.size(); ++i) {
      ASSERT_EQ(std::memcmp(together.data() + i * dim, alone[which[i]].data(), dim * sizeof(float)), 0)
          << what << " place=" << i << " text=" << which[i];
    }
  };
  std::mt19937 random(7);
  for (int pool_threads : {0, 1, 2}) {
    std::unique_ptr<ThreadPool> pool;
    if (pool_threads > 0) pool = std::make_unique<ThreadPool>("encode", pool_threads, 100);
    const std::shared_ptr<const Encoder> by = pool == nullptr ? encoder : Load(GetParam(), pool.get());
    for (int round = 0; round < 6; ++round) {
      std::vector<size_t> which(1 + random() % 12);
      for (size_t& i : which) i = random() % golden.ids.size();
      ASSERT_NO_FATAL_FAILURE(expect_same(*by, which, "threads=" + std::to_string(pool_threads + 1)));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Cpu, EncoderParity, testing::ValuesIn(Cases()), [](const auto& info) { return info.param.Name(); });

}  // namespace
}  // namespace loci
