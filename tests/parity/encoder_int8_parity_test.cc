// The default encoder in int8 against transformers' float32 vectors, and against itself: the same bits in every batch.
#include <algorithm>
#include <cmath>
#include <cstdio>
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

class EncoderInt8Parity : public testing::TestWithParam<CpuIsa> {
 protected:
  static std::shared_ptr<const Encoder> Load(Precision precision, ThreadPool* pool = nullptr) {
    const char* folder = std::getenv("LOCI_MODEL_DIR");
    EncoderOptions options;
    options.isa = GetParam();
    options.precision = precision;
    options.pool = pool;
    auto encoder = LoadEncoder(PosixFileSystem(), folder != nullptr ? folder : "models/all-MiniLM-L6-v2", options);
    EXPECT_TRUE(encoder.ok()) << encoder.status();
    return encoder.ok() ? *std::move(encoder) : nullptr;
  }

  static std::vector<float> Encode(const Encoder& encoder, const std::vector<std::vector<int32_t>>& sequences) {
    PackedBatch batch;
    for (const std::vector<int32_t>& ids : sequences) {
      batch.token_ids.insert(batch.token_ids.end(), ids.begin(), ids.end());
      batch.offsets.push_back(static_cast<int32_t>(batch.token_ids.size()));
    }
    std::vector<float> vectors(sequences.size() * encoder.spec().dim, std::nanf(""));
    const absl::Status status = encoder.Encode(batch, vectors.data());
    EXPECT_TRUE(status.ok()) << status;
    return vectors;
  }
};

TEST_P(EncoderInt8Parity, VectorsAreNearThoseOfTransformers) {
  const Golden golden = ReadGolden("tests/golden/encoder.golden");
  const std::shared_ptr<const Encoder> encoder = Load(Precision::kInt8);
  ASSERT_NE(encoder, nullptr);
  EXPECT_EQ(encoder->spec().element_type, "int8");
  const std::vector<float> vectors = Encode(*encoder, golden.ids);
  double least = 1, total = 0;
  for (size_t i = 0; i < golden.ids.size(); ++i) {
    double dot = 0, length = 0, golden_length = 0;
    for (int d = 0; d < golden.dim; ++d) {
      const double a = vectors[i * golden.dim + d], b = golden.vectors[i][d];
      dot += a * b;
      length += a * a;
      golden_length += b * b;
    }
    EXPECT_NEAR(length, 1.0, 1e-6);
    const double cosine = dot / std::sqrt(length * golden_length);
    EXPECT_GE(cosine, 0.99) << "text " << i << " of " << golden.ids[i].size() << " tokens";
    least = std::min(least, cosine);
    total += cosine;
  }
  EXPECT_GE(total / static_cast<double>(golden.ids.size()), 0.998);
  EXPECT_GE(least, 0.995);  // Where wide channels are quantised with the others it is .994 (AVX2) and .992.
  std::printf("%s: cosine mean %.5f, least %.5f\n", std::string(CpuIsaName(GetParam())).c_str(),
              total / static_cast<double>(golden.ids.size()), least);
}

TEST_P(EncoderInt8Parity, TheFingerprintIsThatOfFloat32AndTheWeightsAreSmaller) {
  const std::shared_ptr<const Encoder> bytes = Load(Precision::kInt8), floats = Load(Precision::kFloat32);
  ASSERT_TRUE(bytes != nullptr && floats != nullptr);
  EXPECT_EQ(bytes->spec().fingerprint.passage, floats->spec().fingerprint.passage);
  EXPECT_LT(bytes->spec().memory_bytes, floats->spec().memory_bytes);
}

TEST_P(EncoderInt8Parity, ASequenceHasTheSameBitsInEveryBatchAndOnEveryNumberOfThreads) {
  Golden golden = ReadGolden("tests/golden/encoder.golden");
  ASSERT_EQ(golden.ids.size(), 60u);
  golden.ids.resize(24);
  golden.ids.push_back({golden.ids[0].front(), golden.ids[0].back()});  // The empty text.
  golden.ids.push_back({golden.ids[0].front()});
  std::unique_ptr<ThreadPool> pool = std::make_unique<ThreadPool>("encode", 2, 100);
  const std::shared_ptr<const Encoder> alone = Load(Precision::kInt8), together = Load(Precision::kInt8, pool.get());
  ASSERT_TRUE(alone != nullptr && together != nullptr);
  const int dim = golden.dim;
  std::vector<std::vector<float>> expected;
  for (const std::vector<int32_t>& ids : golden.ids) {
    expected.push_back(Encode(*alone, {ids}));
    for (const float value : expected.back()) ASSERT_TRUE(std::isfinite(value));
  }
  std::mt19937 random(7);
  for (int round = 0; round < 8; ++round) {
    std::vector<size_t> which(1 + random() % 12);
    std::vector<std::vector<int32_t>> sequences;
    for (size_t& i : which) {
      i = random() % golden.ids.size();
      sequences.push_back(golden.ids[i]);
    }
    const std::vector<float> vectors = Encode(round % 2 == 0 ? *alone : *together, sequences);
    for (size_t i = 0; i < which.size(); ++i) {
      ASSERT_EQ(std::memcmp(vectors.data() + i * dim, expected[which[i]].data(), dim * sizeof(float)), 0)
          << "round " << round << " text " << which[i];
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Isa, EncoderInt8Parity, testing::ValuesIn(MachineIsas()),
                         [](const auto& info) { return std::string(CpuIsaName(info.param)); });

}  // namespace
}  // namespace loci
