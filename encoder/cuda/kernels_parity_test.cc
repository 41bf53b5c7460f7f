// Holds every CUDA kernel to the reference in encoder/kernels, on the simulated grid and, where there is one, on the device.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <ostream>
#include <random>
#include <string>
#include <vector>

#include "encoder/cuda/batch_plan.h"
#include "encoder/cuda/dense_pinning.h"
#include "encoder/cuda/testing/test_devices.h"
#include "encoder/kernels/attention.h"
#include "encoder/kernels/embedding.h"
#include "encoder/kernels/gemm.h"
#include "encoder/kernels/layer_norm.h"
#include "encoder/kernels/pooling.h"
#include "gtest/gtest.h"

namespace loci::cuda {
namespace {

struct Case {
  TestDevice device;
  ElementType type;
  float tolerance;  // Of a difference, relative to 1 + |expected|.
};

void PrintTo(const Case& c, std::ostream* out) { *out << c.device.name << " " << ElementTypeName(c.type); }

class CudaKernelsParity : public testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    auto backend = OpenTestDevice(GetParam().device);
    if (!backend.ok()) GTEST_SKIP() << backend.status();
    backend_ = *std::move(backend);
    stream_ = *Own<CudaStream>(runtime(), runtime().CreateStream());
  }

  CudaRuntime& runtime() { return backend_->runtime(); }

  std::unique_ptr<EncoderKernels> Kernels(int dim, int head_count, int intermediate = 8, Pooling pooling = Pooling::kMean,
                                          bool normalize = true) {
    EncoderKernelsConfig config = {.type = GetParam().type,
                                   .dim = dim,
                                   .head_count = head_count,
                                   .intermediate_size = intermediate,
                                   .epsilon = 1e-12f,
                                   .pooling = pooling,
                                   .normalize = normalize,
                                   .multiprocessor_count = runtime().multiprocessor_count(),
                                   .row_counts = RowBuckets(256)};
    auto kernels = backend_->MakeKernels(config);
    EXPECT_TRUE(kernels.ok()) << kernels.status();
    return kernels.ok() ? *std::move(kernels) : nullptr;
  }

  // Values that the type holds exactly.
  std::vector<float> Random(int64_t size, float scale = 1.0f) {
    std::normal_distribution<float> normal(0.0f, scale);
    std::vector<float> values(static_cast<size_t>(size));
    for (float& value : values) value = normal(random_);
    return Decode(Encode(values));
  }

  std::vector<uint8_t> Encode(const std::vector<float>& values) const {
    std::vector<uint8_t> bytes(values.size() * ElementSize(GetParam().type));
    if (GetParam().type == ElementType::kFloat32) std::memcpy(bytes.data(), values.data(), bytes.size());
    if (GetParam().type == ElementType::kFloat16)
      Float32ToFloat16(values.data(), reinterpret_cast<uint16_t*>(bytes.data()), values.size());
    if (GetParam().type == ElementType::kBfloat16)
      Float32ToBfloat16(values.data(), reinterpret_cast<uint16_t*>(bytes.data()), values.size());
    return bytes;
  }
  std::vector<float> Decode(const std::vector<uint8_t>& bytes) const {
    std::vector<float> values(bytes.size() / ElementSize(GetParam().type));
    if (GetParam().type == ElementType::kFloat32) std::memcpy(values.data(), bytes.data(), bytes.size());
    if (GetParam().type == ElementType::kFloat16)
      Float16ToFloat32(reinterpret_cast<const uint16_t*>(bytes.data()), values.data(), values.size());
    if (GetParam().type == ElementType::kBfloat16)
      Bfloat16ToFloat32(reinterpret_cast<const uint16_t*>(bytes.data()), values.data(), values.size());
    return values;
  }
  DeviceArray<uint8_t> Upload(const std::vector<float>& values) { return DeviceArray<uint8_t>(runtime(), Encode(values)); }
  // Rows that nothing was written to stay NaN.
  DeviceArray<uint8_t> Poisoned(int64_t size) {
    return DeviceArray<uint8_t>(runtime(), std::vector<uint8_t>(static_cast<size_t>(size) * ElementSize(GetParam().type), 0xFF));
  }
  std::vector<float> Read(DeviceArray<uint8_t>* array) {
    const auto bytes = array->Read(stream_.get());
    EXPECT_TRUE(bytes.ok()) << bytes.status();
    return bytes.ok() ? Decode(*bytes) : std::vector<float>();
  }

  static PackedBatch Batch(const std::vector<int>& lengths, int vocabulary = 97) {
    PackedBatch batch;
    std::mt19937 random(3);
    for (const int length : lengths) {
      for (int i = 0; i < length; ++i)
        batch.token_ids.push_back(static_cast<int32_t>(random() % static_cast<unsigned>(vocabulary)));
      batch.offsets.push_back(static_cast<int32_t>(batch.token_ids.size()));
    }
    return batch;
  }

  // The batch on the device, and a launch for it: with its own counts, or with the bounds of its bucket as a graph has them.
  struct Staged {
    std::unique_ptr<DeviceArray<int32_t>> ints;
    Launch launch;
  };
  Staged Stage(const PackedBatch& batch, bool exact = true) {
    const int32_t sequences = static_cast<int32_t>(batch.sequence_count()), tokens = static_cast<int32_t>(batch.token_count());
    std::vector<int32_t> ints(static_cast<size_t>(MaxDeviceBatchInts(tokens, sequences)), -1);
    int32_t tiles = 0;
    WriteDeviceBatch(batch, {.first_sequence = 0, .sequence_count = sequences, .token_count = tokens}, ints.data(), &tiles);
    Staged staged;
    staged.ints = std::make_unique<DeviceArray<int32_t>>(runtime(), ints);
    const int32_t rows = BucketOf(RowBuckets(1024), tokens);
    staged.launch = {.batch = staged.ints->get(),
                     .rows = rows,
                     .sequences = exact ? sequences : rows,
                     .tiles = exact ? tiles : MaxTiles(rows, rows),
                     .exact = exact,
                     .stream = stream_.get()};
    return staged;
  }

  // `written` values are held to `expected`; what lies behind must be untouched.
  void ExpectNear(const std::vector<float>& actual, const std::vector<float>& expected, const std::string& sizes,
                  float factor = 1) {
    ASSERT_GE(actual.size(), expected.size());
    for (size_t i = 0; i < expected.size(); ++i) {
      ASSERT_NEAR(actual[i], expected[i], factor * GetParam().tolerance * (1 + std::abs(expected[i])))
          << sizes << " element=" << i;
    }
    for (size_t i = expected.size(); i < actual.size(); ++i)
      ASSERT_TRUE(std::isnan(actual[i])) << sizes << " was written beyond its end at " << i;
  }

  std::shared_ptr<CudaBackend> backend_;
  CudaStream stream_;
  std::mt19937 random_{20240229};
};

TEST_P(CudaKernelsParity, Embedding) {
  const PackedBatch batch = Batch({1, 2, 5, 31, 33, 127});
  const int64_t tokens = batch.token_count();
  for (const int dim : {8, 40, 128, 136, 384, 776, 1024}) {
    auto kernels = Kernels(dim, 1);
    const std::vector<float> word = Random(97 * dim), position = Random(127 * dim), type = Random(dim), gamma = Random(dim),
                             beta = Random(dim);
    std::vector<float> expected(static_cast<size_t>(tokens * dim));
    EmbeddingReference(expected.data(), batch.token_ids.data(), batch.offsets.data(), batch.sequence_count(),
                       {word.data(), position.data(), type.data(), gamma.data(), beta.data(), 1e-12f}, dim);
    auto word_d = Upload(word), position_d = Upload(position), type_d = Upload(type);
    DeviceArray<float> gamma_d(runtime(), gamma), beta_d(runtime(), beta);
    const Staged staged = Stage(batch);
    auto output = Poisoned(staged.launch.rows * dim);
    ASSERT_TRUE(
        kernels
            ->Embedding(staged.launch, output.get(), {word_d.get(), position_d.get(), type_d.get(), gamma_d.get(), beta_d.get()})
            .ok());
    ASSERT_NO_FATAL_FAILURE(ExpectNear(Read(&output), expected, "dim=" + std::to_string(dim)));
  }
}

TEST_P(CudaKernelsParity, ResidualNorm) {
  for (const int rows : {1, 2, 5, 31, 33}) {
    for (const int dim : {8, 40, 128, 136, 384, 776, 1024}) {
      auto kernels = Kernels(dim, 1);
      const std::vector<float> input = Random(rows * dim, 3), residual = Random(rows * dim), gamma = Random(dim),
                               beta = Random(dim);
      std::vector<float> expected(input.size());
      LayerNormReference(expected.data(), input.data(), residual.data(), gamma.data(), beta.data(), 1e-12f, rows, dim);
      DeviceArray<float> gamma_d(runtime(), gamma), beta_d(runtime(), beta);
      auto input_d = Upload(input), residual_d = Upload(residual);
      const Staged staged = Stage(Batch({rows}));
      auto output = Poisoned(staged.launch.rows * dim);
      const std::string sizes = "rows=" + std::to_string(rows) + " dim=" + std::to_string(dim);
      ASSERT_TRUE(
          kernels->ResidualNorm(staged.launch, output.get(), input_d.get(), residual_d.get(), gamma_d.get(), beta_d.get()).ok());
      const std::vector<float> apart = Read(&output);
      ASSERT_NO_FATAL_FAILURE(ExpectNear(apart, expected, sizes));
      ASSERT_TRUE(
          kernels->ResidualNorm(staged.launch, residual_d.get(), input_d.get(), residual_d.get(), gamma_d.get(), beta_d.get())
              .ok());
      ASSERT_EQ(Read(&residual_d), std::vector<float>(apart.begin(), apart.begin() + rows * dim)) << sizes << " in place";
    }
  }
}

TEST_P(CudaKernelsParity, NormOfAConstantRowIsBeta) {
  auto kernels = Kernels(40, 1);
  const std::vector<float> gamma = Random(40), beta = Random(40);
  DeviceArray<float> gamma_d(runtime(), gamma), beta_d(runtime(), beta);
  auto input = Upload(std::vector<float>(40, 0.5f)), residual = Upload(std::vector<float>(40, 0.25f));
  const Staged staged = Stage(Batch({1}));
  ASSERT_TRUE(kernels->ResidualNorm(staged.launch, input.get(), input.get(), residual.get(), gamma_d.get(), beta_d.get()).ok());
  ExpectNear(Read(&input), beta, "constant");
}

TEST_P(CudaKernelsParity, Gelu) {
  for (const int rows : {1, 5, 33, 127}) {
    for (const int width : {8, 40, 1000}) {
      auto kernels = Kernels(8, 1, width);
      std::vector<float> values = Random(rows * width, 4);
      values[0] = -30;
      values[1] = 30;
      const std::vector<float> one = {1}, zero = {0};
      std::vector<float> expected(values.size());
      GemmReference(expected.data(), values.data(), one.data(), zero.data(), nullptr, rows * width, 1, 1, Activation::kGelu);
      const Staged staged = Stage(Batch({rows}));
      std::vector<float> padded = values;
      padded.resize(static_cast<size_t>(staged.launch.rows * width), std::nanf(""));
      auto values_d = Upload(padded);
      ASSERT_TRUE(kernels->Gelu(staged.launch, values_d.get()).ok());
      ASSERT_NO_FATAL_FAILURE(
          ExpectNear(Read(&values_d), expected, "rows=" + std::to_string(rows) + " width=" + std::to_string(width)));
    }
  }
}

TEST_P(CudaKernelsParity, Attention) {
  struct Heads {
    int count, dim;
  };
  // Heads of 32 and 64 take the matrix instructions in 16 bits.
  for (const Heads heads : {Heads{1, 32}, Heads{3, 32}, Heads{2, 64}, Heads{2, 8}, Heads{3, 40}}) {
    for (const std::vector<int>& lengths : {std::vector<int>{1, 2, 5, 31, 33, 64, 65}, std::vector<int>{127, 16, 128, 129, 3}}) {
      const int64_t hidden = heads.count * heads.dim;
      auto kernels = Kernels(static_cast<int>(hidden), heads.count);
      const PackedBatch batch = Batch(lengths);
      // Scores of several tens, so that small weights vanish.
      const std::vector<float> qkv = Random(batch.token_count() * 3 * hidden, 1.5f);
      std::vector<float> expected(static_cast<size_t>(batch.token_count() * hidden));
      AttentionReference(expected.data(), qkv.data(), batch.offsets.data(), batch.sequence_count(), heads.count, heads.dim);
      auto qkv_d = Upload(qkv);
      const std::string sizes =
          "heads=" + std::to_string(heads.count) + "x" + std::to_string(heads.dim) + " first=" + std::to_string(lengths[0]);
      std::vector<float> exact;
      for (const bool counts : {true, false}) {
        const Staged staged = Stage(batch, counts);
        auto output = Poisoned(staged.launch.rows * hidden);
        ASSERT_TRUE(kernels->Attention(staged.launch, output.get(), qkv_d.get()).ok());
        const std::vector<float> actual = Read(&output);
        ASSERT_NO_FATAL_FAILURE(ExpectNear(actual, expected, sizes, 4));
        if (counts) {
          exact = actual;
        } else {
          ASSERT_EQ(std::memcmp(actual.data(), exact.data(), actual.size() * sizeof(float)), 0)
              << sizes << ": another grid, other bits";
        }
      }
      // Alone, each sequence has the bits that it has among the others.
      for (size_t s = 0; s < lengths.size(); ++s) {
        const int64_t begin = batch.offsets[s], rows = lengths[s];
        auto alone = Upload(std::vector<float>(qkv.begin() + begin * 3 * hidden, qkv.begin() + (begin + rows) * 3 * hidden));
        const Staged staged = Stage(Batch({lengths[s]}));
        auto output = Poisoned(staged.launch.rows * hidden);
        ASSERT_TRUE(kernels->Attention(staged.launch, output.get(), alone.get()).ok());
        ASSERT_EQ(
            std::memcmp(Read(&output).data(), exact.data() + begin * hidden, static_cast<size_t>(rows * hidden) * sizeof(float)),
            0)
            << sizes << " length=" << rows;
      }
    }
  }
}

TEST_P(CudaKernelsParity, AttentionOfTheLongestSequence) {
  if (GetParam().device.simulated && GetParam().device.order != ThreadOrder::kForward)
    GTEST_SKIP() << "one order is enough for many rows";
  for (const int head_dim : {32, 64}) {
    auto kernels = Kernels(head_dim, 1);
    const PackedBatch batch = Batch({512});
    const std::vector<float> qkv = Random(512 * 3 * head_dim, 1.5f);
    std::vector<float> expected(static_cast<size_t>(512 * head_dim));
    AttentionReference(expected.data(), qkv.data(), batch.offsets.data(), 1, 1, head_dim);
    auto qkv_d = Upload(qkv);
    const Staged staged = Stage(batch);
    auto output = Poisoned(512 * head_dim);
    ASSERT_TRUE(kernels->Attention(staged.launch, output.get(), qkv_d.get()).ok());
    ExpectNear(Read(&output), expected, "head_dim=" + std::to_string(head_dim), 4);
  }
}

TEST_P(CudaKernelsParity, Pooling) {
  const PackedBatch batch = Batch({1, 2, 5, 31, 33, 127});
  for (const int dim : {8, 40, 136, 384, 1024}) {
    const std::vector<float> input = Random(batch.token_count() * dim);
    auto input_d = Upload(input);
    for (const Pooling pooling : {Pooling::kMean, Pooling::kCls, Pooling::kMax}) {
      for (const bool normalize : {false, true}) {
        auto kernels = Kernels(dim, 1, 8, pooling, normalize);
        std::vector<float> expected(static_cast<size_t>(batch.sequence_count() * dim));
        PoolReference(expected.data(), input.data(), batch.offsets.data(), batch.sequence_count(), dim, pooling, normalize);
        for (const bool exact : {true, false}) {
          DeviceArray<float> output(runtime(), std::vector<float>(expected.size() + 64, std::nanf("")));
          const Staged staged = Stage(batch, exact);
          ASSERT_TRUE(kernels->Pool(staged.launch, output.get(), input_d.get()).ok());
          const auto actual = output.Read(stream_.get());
          ASSERT_TRUE(actual.ok()) << actual.status();
          // Sums and results are float32 whatever the type.
          for (size_t i = 0; i < expected.size(); ++i) {
            ASSERT_NEAR((*actual)[i], expected[i], 2e-6f * (1 + std::abs(expected[i])))
                << "dim=" << dim << " pooling=" << static_cast<int>(pooling);
          }
          for (size_t i = expected.size(); i < actual->size(); ++i) ASSERT_TRUE(std::isnan((*actual)[i]));
        }
      }
    }
  }
}

TEST_P(CudaKernelsParity, TheLargestOfWhatIsNotANumberIsNone) {
  for (const int dim : {8, 1024}) {  // Rows shared out among groups of threads, and all by one.
    auto kernels = Kernels(dim, 1, 8, Pooling::kMax);
    std::vector<float> values(static_cast<size_t>(3 * dim), 0.5f);
    for (size_t row = 0; row < 3; ++row) values[row * static_cast<size_t>(dim) + row] = std::nanf("");
    auto input = Upload(values);
    DeviceArray<float> output(runtime(), std::vector<float>(static_cast<size_t>(dim), 1.0f));
    const Staged staged = Stage(Batch({3}));
    ASSERT_TRUE(kernels->Pool(staged.launch, output.get(), input.get()).ok());
    const auto actual = output.Read(stream_.get());
    ASSERT_TRUE(actual.ok()) << actual.status();
    for (size_t i = 0; i < 3; ++i) EXPECT_TRUE(std::isnan((*actual)[i])) << "dim=" << dim << " column " << i;
  }
}

TEST_P(CudaKernelsParity, PoolingOfZerosStaysFinite) {
  auto kernels = Kernels(40, 1);
  auto input = Upload(std::vector<float>(80, 0.0f));
  DeviceArray<float> output(runtime(), std::vector<float>(40, 1.0f));
  const Staged staged = Stage(Batch({2}));
  ASSERT_TRUE(kernels->Pool(staged.launch, output.get(), input.get()).ok());
  EXPECT_EQ(*output.Read(stream_.get()), std::vector<float>(40, 0.0f));
}

TEST_P(CudaKernelsParity, DenseOnceItIsPinned) {
  auto kernels = Kernels(40, 1);
  const int cols = 72, depth = 40;
  const std::vector<float> weight = Random(cols * depth, 0.2f), bias = Random(cols), input = Random(256 * depth);
  auto weight_d = Upload(weight), bias_d = Upload(bias), input_d = Upload(input);
  auto output = Poisoned(256 * cols);
  const auto layer = kernels->AddDense(weight_d.get(), bias_d.get(), cols, depth);
  ASSERT_TRUE(layer.ok()) << layer.status();
  const absl::Status pinned = PinDenseShape(runtime(), *kernels, {.layer = *layer, .cols = cols, .depth = depth}, RowBuckets(256),
                                            GetParam().type, {.input = input_d.get(), .output = output.get()}, stream_.get());
  ASSERT_TRUE(pinned.ok()) << pinned;
  auto again = Upload(input);
  std::vector<float> expected(static_cast<size_t>(48 * cols));
  GemmReference(expected.data(), input.data(), weight.data(), bias.data(), nullptr, 48, cols, depth, Activation::kNone);
  auto poisoned = Poisoned(49 * cols);
  ASSERT_TRUE(kernels->Dense(*layer, poisoned.get(), again.get(), 48, stream_.get()).ok());
  ExpectNear(Read(&poisoned), expected, "dense");
}

std::vector<Case> Cases() {
  std::vector<Case> cases;
  for (const TestDevice& device : TestDevices()) {
    cases.push_back({device, ElementType::kBfloat16, 8e-3f});
    if (device.simulated && device.order != ThreadOrder::kForward) continue;  // One type shows what depends on the order.
    cases.push_back({device, ElementType::kFloat32, 1e-5f});
    cases.push_back({device, ElementType::kFloat16, 1e-3f});
  }
  return cases;
}

INSTANTIATE_TEST_SUITE_P(All, CudaKernelsParity, testing::ValuesIn(Cases()), [](const auto& info) {
  return info.param.device.name + "_" + std::string(ElementTypeName(info.param.type));
});

}  // namespace
}  // namespace loci::cuda
