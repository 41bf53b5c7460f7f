// The CUDA encoder on a simulated device, held to the CPU's encoder; and where there is a CUDA device, on that.
#include "encoder/cuda/cuda_encoder.h"

#include <cmath>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "encoder/cuda/testing/test_devices.h"
#include "encoder/safetensors.h"
#include "encoder/testing/tiny_checkpoint.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace loci {
namespace {

using cuda::SimulatedBackend;
using testing::HasSubstr;

class CudaEncoderTest : public testing::Test {
 protected:
  void SetUp() override {
    directory_ = testing::TempDir() + "/cuda_encoder_" + testing::UnitTest::GetInstance()->current_test_info()->name();
    ASSERT_TRUE(fs_.DeleteRecursively(directory_).ok());
  }
  void TearDown() override { EXPECT_TRUE(fs_.DeleteRecursively(directory_).ok()); }

  static FakeCudaRuntime& Fake(CudaBackend& backend) { return static_cast<FakeCudaRuntime&>(backend.runtime()); }

  // Small chunks, so that a batch has several of them.
  static CudaEncoderOptions Options(std::shared_ptr<CudaBackend> backend, ElementType type = ElementType::kFloat32) {
    CudaEncoderOptions options;
    options.backend = std::move(backend);
    options.type = type;
    options.limits = {.max_rows = 256, .max_sequences = 16, .lanes = 2, .reserve_bytes = 1 << 20};
    options.max_graph_rows = 48;
    options.graph_capacity = 4;
    return options;
  }

  void Write(const TinyCheckpointOptions& options = {}) { ASSERT_TRUE(WriteTinyCheckpoint(fs_, directory_, options).ok()); }

  absl::StatusOr<std::shared_ptr<const Encoder>> Make(const CudaEncoderOptions& options) {
    const auto config = LoadModelConfig(fs_, directory_);
    if (!config.ok()) return config.status();
    const auto weights = Safetensors::Open(fs_, directory_ + "/model.safetensors");
    if (!weights.ok()) return weights.status();
    auto tokenizer = Tokenizer::Load(fs_, directory_);
    if (!tokenizer.ok()) return tokenizer.status();
    EncoderSpec spec;
    spec.dim = config->hidden_size;
    spec.max_length = config->max_length;
    return CudaEncoder::Create(BertReader(**weights, *config), *config, std::move(spec), *std::move(tokenizer), options);
  }

  std::shared_ptr<const Encoder> MakeOrDie(const CudaEncoderOptions& options) {
    auto encoder = Make(options);
    EXPECT_TRUE(encoder.ok()) << encoder.status();
    return encoder.ok() ? *std::move(encoder) : nullptr;
  }

  std::shared_ptr<const Encoder> OnCpu() {
    // In float32 whatever the CPU has beside it.
    EncoderOptions options;
    options.precision = Precision::kFloat32;
    auto encoder = LoadEncoder(fs_, directory_, options);
    EXPECT_TRUE(encoder.ok()) << encoder.status();
    return *std::move(encoder);
  }

  // `count` sequences of 1 to `longest` tokens.
  static PackedBatch Batch(int count, int longest = 64) {
    PackedBatch batch;
    uint32_t state = 12345;
    for (int s = 0; s < count; ++s) {
      const int length = s == 0 ? longest : 1 + static_cast<int>((state >> 16) % static_cast<unsigned>(longest));
      for (int i = 0; i < length; ++i) {
        state = state * 1664525u + 1013904223u;
        batch.token_ids.push_back(static_cast<int32_t>((state >> 16) % 90));
      }
      batch.offsets.push_back(static_cast<int32_t>(batch.token_ids.size()));
    }
    return batch;
  }

  static PackedBatch One(const PackedBatch& batch, size_t s) {
    return {.token_ids = {batch.token_ids.begin() + batch.offsets[s], batch.token_ids.begin() + batch.offsets[s + 1]},
            .offsets = {0, batch.offsets[s + 1] - batch.offsets[s]}};
  }

  static std::vector<float> Encode(const Encoder& encoder, const PackedBatch& batch) {
    std::vector<float> vectors(static_cast<size_t>(batch.sequence_count() * encoder.spec().dim), std::nanf(""));
    const absl::Status status = encoder.Encode(batch, vectors.data());
    EXPECT_TRUE(status.ok()) << status;
    return vectors;
  }

  static double LeastCosine(const std::vector<float>& a, const std::vector<float>& b, size_t dim) {
    double least = 1;
    for (size_t row = 0; row < a.size() / dim; ++row) {
      double dot = 0, aa = 0, bb = 0;
      for (size_t i = row * dim; i < (row + 1) * dim; ++i) {
        dot += static_cast<double>(a[i]) * b[i];
        aa += static_cast<double>(a[i]) * a[i];
        bb += static_cast<double>(b[i]) * b[i];
      }
      least = std::min(least, dot / std::sqrt(aa * bb));
    }
    return least;
  }

  FileSystem& fs_ = PosixFileSystem();
  std::string directory_;
};

TEST_F(CudaEncoderTest, AgreesWithTheCpuInEachType) {
  for (const int head_count : {1, 2}) {  // Heads of 32 by matrix instructions, of 16 the plain way.
    Write({.head_count = head_count});
    const auto cpu = OnCpu();
    const PackedBatch batch = Batch(9);
    const std::vector<float> expected = Encode(*cpu, batch);
    for (const auto& [type, least] : {std::pair(ElementType::kFloat32, 0.9999999), std::pair(ElementType::kFloat16, 0.99999),
                                      std::pair(ElementType::kBfloat16, 0.9995)}) {
      const auto encoder = MakeOrDie(Options(SimulatedBackend(), type));
      ASSERT_NE(encoder, nullptr);
      EXPECT_GT(LeastCosine(Encode(*encoder, batch), expected, 32), least) << ElementTypeName(type);
      EXPECT_EQ(encoder->spec().element_type, ElementTypeName(type));
      EXPECT_EQ(encoder->spec().device, "cuda:0");
    }
  }
}

TEST_F(CudaEncoderTest, PoolsAsTheCheckpointSays) {
  for (const char* const pooling : {"cls", "max"}) {
    Write({.pooling = pooling, .normalize = false});
    const std::vector<float> expected = Encode(*OnCpu(), Batch(3));
    const std::vector<float> actual = Encode(*MakeOrDie(Options(SimulatedBackend())), Batch(3));
    for (size_t i = 0; i < expected.size(); ++i) ASSERT_NEAR(actual[i], expected[i], 1e-4) << pooling;
  }
}

TEST_F(CudaEncoderTest, EverySequenceHasTheBitsItHasAlone) {
  Write({.layer_count = 1});
  for (const ElementType type : {ElementType::kFloat32, ElementType::kBfloat16}) {
    const auto encoder = MakeOrDie(Options(SimulatedBackend(), type));
    ASSERT_NE(encoder, nullptr);
    const PackedBatch batch = Batch(40);
    ASSERT_GT(batch.token_count(), 3 * 256) << "several chunks";
    const std::vector<float> together = Encode(*encoder, batch);
    for (size_t s = 0; s < 40; s += 3) {
      const std::vector<float> alone = Encode(*encoder, One(batch, s));
      ASSERT_EQ(std::memcmp(alone.data(), together.data() + s * 32, 32 * sizeof(float)), 0) << s;
    }
  }
}

TEST_F(CudaEncoderTest, AllocatesNothingAndWaitsOncePerChunk) {
  Write({.layer_count = 1});
  const auto backend = SimulatedBackend();
  FakeCudaRuntime& fake = Fake(*backend);
  {
    const auto encoder = MakeOrDie(Options(backend));
    ASSERT_NE(encoder, nullptr);
    EXPECT_EQ(fake.device_bytes(), encoder->spec().memory_bytes);
    const PackedBatch batch = Batch(33);
    int64_t chunks = 0;
    for (int64_t first = 0; first < batch.sequence_count(); ++chunks)
      first += cuda::NextChunk(batch, first, 256, 16).sequence_count;
    ASSERT_GT(chunks, 3);
    const int64_t allocations = fake.allocations(), captured = fake.graphs_captured(), waits = fake.waits();
    Encode(*encoder, batch);
    EXPECT_EQ(fake.waits() - waits, chunks);
    const int64_t blocking = fake.blocking_waits();
    Encode(*encoder, Batch(1, 5));
    Encode(*encoder, Batch(1, 30));
    EXPECT_EQ(fake.waits() - waits, chunks + 2);
    EXPECT_EQ(fake.blocking_waits(), blocking) << "a graph is waited for by a core";
    Encode(*encoder, Batch(1, 64));
    EXPECT_EQ(fake.blocking_waits(), blocking + 1) << "what takes longer is not";
    EXPECT_EQ(fake.allocations(), allocations);
    EXPECT_EQ(fake.graphs_captured(), captured) << "all graphs are there from the start";
    EXPECT_EQ(fake.graph_launches(), 2);
  }
  EXPECT_EQ(fake.device_bytes(), 0);
  EXPECT_EQ(fake.pinned_bytes(), 0);
  EXPECT_EQ(fake.live_handles(), 0);
  EXPECT_EQ(fake.live_graphs(), 0);
}

TEST_F(CudaEncoderTest, AFullGraphCacheGivesTheSameBits) {
  Write({.layer_count = 1});
  const auto backend = SimulatedBackend();
  CudaEncoderOptions options = Options(backend);
  options.max_graph_rows = 256;
  options.graph_capacity = 2;
  const auto few = MakeOrDie(options);
  options.graph_capacity = 0;
  const auto none = MakeOrDie(options);
  ASSERT_NE(few, nullptr);
  ASSERT_NE(none, nullptr);
  const PackedBatch batch = Batch(20);
  for (size_t s = 0; s < 20; ++s) EXPECT_EQ(Encode(*few, One(batch, s)), Encode(*none, One(batch, s))) << s;
  EXPECT_EQ(Encode(*few, batch), Encode(*none, batch));
  EXPECT_EQ(Fake(*backend).live_graphs(), 2 * 2);
}

TEST_F(CudaEncoderTest, ThreadsMayEncodeAtOnce) {
  Write({.layer_count = 1});
  const auto encoder = MakeOrDie(Options(SimulatedBackend()));
  ASSERT_NE(encoder, nullptr);
  const PackedBatch batch = Batch(20, 20);
  const std::vector<float> expected = Encode(*encoder, batch);
  std::vector<std::vector<float>> results(3);
  {
    std::vector<std::thread> threads;
    for (auto& result : results) threads.emplace_back([&] { result = Encode(*encoder, batch); });
    for (std::thread& thread : threads) thread.join();
  }
  for (const auto& result : results) EXPECT_EQ(result, expected);
}

TEST_F(CudaEncoderTest, RefusesBatchesThatDoNotFit) {
  Write({.layer_count = 1});
  const auto encoder = MakeOrDie(Options(SimulatedBackend()));
  ASSERT_NE(encoder, nullptr);
  float vector[32];
  EXPECT_THAT(std::string(encoder->Encode({.token_ids = std::vector<int32_t>(65, 5), .offsets = {0, 65}}, vector).message()),
              HasSubstr("the limit is 64"));
  EXPECT_THAT(std::string(encoder->Encode({.token_ids = {-1}, .offsets = {0, 1}}, vector).message()), HasSubstr("has the id -1"));
  EXPECT_THAT(std::string(encoder->Encode({.token_ids = {1 << 30}, .offsets = {0, 1}}, vector).message()),
              HasSubstr("the vocabulary has"));
  EXPECT_TRUE(encoder->Encode({}, nullptr).ok());
}

TEST_F(CudaEncoderTest, PassesOverAlgorithmsThatDependOnTheBatch) {
  Write({.layer_count = 1});
  const auto encoder = MakeOrDie(Options(SimulatedBackend({.invariant_candidate = 2})));
  ASSERT_NE(encoder, nullptr);
  const PackedBatch batch = Batch(12);
  const std::vector<float> together = Encode(*encoder, batch);
  EXPECT_EQ(Encode(*encoder, One(batch, 5)), std::vector<float>(together.begin() + 5 * 32, together.begin() + 6 * 32));

  ASSERT_NE(MakeOrDie(Options(SimulatedBackend({.candidates = 4, .first_that_runs = 3}))), nullptr) << "others do not run";
  const auto refused = Make(Options(SimulatedBackend({.candidates = 3, .first_that_runs = 3})));
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr("an algorithm that does not run"));

  const auto none = Make(Options(SimulatedBackend({.invariant_candidate = 3, .candidates = 3})));
  EXPECT_EQ(none.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(none.status().message()), HasSubstr("none of 3 algorithms"));
}

TEST_F(CudaEncoderTest, TooLittleMemoryIsRefusedAtTheStart) {
  Write();
  const auto encoder = Make(Options(SimulatedBackend({}, 1 << 20)));
  EXPECT_EQ(encoder.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(encoder.status().message()), HasSubstr("are free"));
}

// Whatever call fails while the encoder is made, nothing is left behind; one that says that the device is broken marks it so.
TEST_F(CudaEncoderTest, AnyFailureWhileItIsMadeFreesEverything) {
  Write({.layer_count = 1});
  CudaEncoderOptions options = Options(nullptr);
  options.limits.max_rows = 48;
  options.limits.max_sequences = 4;
  Write({.layer_count = 1, .max_positions = 32});
  for (const absl::Status& error : {absl::ResourceExhaustedError("no memory"), absl::UnavailableError("device lost")}) {
    int calls = 0;
    const auto count = [&](int failing) {
      options.backend = SimulatedBackend();
      FakeCudaRuntime& fake = Fake(*options.backend);
      calls = 0;
      fake.SetFault([&calls, failing, &error](const std::string&) { return calls++ == failing ? error : absl::OkStatus(); });
      const auto encoder = Make(options);
      fake.SetFault(nullptr);
      if (failing < 0) {
        EXPECT_TRUE(encoder.ok()) << encoder.status();
        return;
      }
      ASSERT_FALSE(encoder.ok()) << failing;
      EXPECT_EQ(encoder.status().code(), absl::IsUnavailable(error) ? error.code() : absl::StatusCode::kFailedPrecondition)
          << failing;
      EXPECT_EQ(options.backend->health().Check().ok(), !absl::IsUnavailable(error)) << failing;
      EXPECT_EQ(fake.device_bytes() + fake.pinned_bytes() + fake.live_handles() + fake.live_graphs(), 0) << failing;
    };
    count(-1);
    const int all = calls;
    ASSERT_GT(all, 50);
    for (int failing = 0; failing < all; failing += 1 + failing / 8) ASSERT_NO_FATAL_FAILURE(count(failing));
  }
}

TEST_F(CudaEncoderTest, AFailedDeviceStaysFailedAndSaysSo) {
  Write({.layer_count = 1});
  for (const char* const call : {"CopyToDevice", "LaunchGraph", "CopyToHost", "Record", "Wait", "run"}) {
    const auto backend = SimulatedBackend();
    const auto encoder = MakeOrDie(Options(backend));
    ASSERT_NE(encoder, nullptr);
    std::vector<std::string> told;
    backend->health().SetListener([&](const absl::Status& status) { told.push_back(std::string(status.message())); });
    const PackedBatch batch = Batch(1, 20);
    Encode(*encoder, batch);
    Fake(*backend).SetFault([call](const std::string& name) {
      return name == call ? absl::UnavailableError("an illegal memory access") : absl::OkStatus();
    });
    std::vector<float> vectors(32);
    EXPECT_EQ(encoder->Encode(batch, vectors.data()).code(), absl::StatusCode::kUnavailable) << call;
    ASSERT_EQ(told.size(), 1u) << call;
    EXPECT_THAT(told[0], HasSubstr("an illegal memory access"));
    Fake(*backend).SetFault(nullptr);
    const absl::Status later = encoder->Encode(batch, vectors.data());
    EXPECT_EQ(later.code(), absl::StatusCode::kUnavailable) << call << ": there is no way back";
    EXPECT_THAT(std::string(later.message()), HasSubstr("restarted"));
    EXPECT_EQ(Make(Options(backend)).status().code(), absl::StatusCode::kUnavailable) << "nor for another encoder";
    EXPECT_EQ(told.size(), 1u);
  }
}

TEST_F(CudaEncoderTest, AVectorThatIsNotFiniteIsAnErrorOfTheRequestAlone) {
  Write({.layer_count = 1});
  const std::string path = directory_ + "/model.safetensors";
  const std::string file = *fs_.ReadFile(path);
  const auto parsed = Safetensors::Parse(file, path);
  ASSERT_TRUE(parsed.ok());
  const size_t data = file.size() - static_cast<size_t>((*parsed)->tensors().rbegin()->second.end);
  std::map<std::string, TestTensor> tensors;
  for (const auto& [name, info] : (*parsed)->tensors())
    tensors[name] = {info.dtype, info.shape, file.substr(data + info.begin, info.end - info.begin)};
  // Beyond what float16 holds, within float32.
  std::string& gamma = tensors["embeddings.LayerNorm.weight"].data;
  const float large = 60000;
  for (size_t at = 0; at < gamma.size(); at += sizeof(large)) std::memcpy(gamma.data() + at, &large, sizeof(large));
  ASSERT_TRUE(WriteFileAtomically(fs_, path, BuildSafetensors(tensors)).ok());

  const auto backend = SimulatedBackend();
  const auto encoder = MakeOrDie(Options(backend, ElementType::kFloat16));
  ASSERT_NE(encoder, nullptr);
  std::vector<float> vectors(3 * 32);
  const absl::Status status = encoder->Encode(Batch(3), vectors.data());
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_EQ(status.message(), "the vector of sequence 0 has a value that is not finite in float16");
  EXPECT_TRUE(backend->health().Check().ok());
}

TEST_F(CudaEncoderTest, ADeviceThatComputesSomethingElseIsNotServedFrom) {
  Write({.layer_count = 1});
  EncoderOptions options;
  const int64_t memory_bytes = 260 << 20;  // Little, so that chunks are small.
  options.cuda = SimulatedBackend({}, memory_bytes);
  const auto encoder = LoadEncoder(fs_, directory_, options);
  ASSERT_TRUE(encoder.ok()) << encoder.status();
  EXPECT_EQ((*encoder)->spec().device, "cuda:0");
  EXPECT_EQ((*encoder)->spec().element_type, "bfloat16");
  EXPECT_THAT((*encoder)->spec().element_type_reason, HasSubstr("auto takes bfloat16: "));
  EXPECT_EQ((*encoder)->spec().fingerprint, OnCpu()->spec().fingerprint) << "type and device are not hashed";
  EXPECT_GT(LeastCosine(Encode(**encoder, Batch(5)), Encode(*OnCpu(), Batch(5)), 32), 0.9995);

  options.cuda = SimulatedBackend({.wrong_by = 1.0f}, memory_bytes);
  const absl::Status wrong = LoadEncoder(fs_, directory_, options).status();
  EXPECT_EQ(wrong.code(), absl::StatusCode::kFailedPrecondition) << wrong;
  EXPECT_THAT(std::string(wrong.message()), HasSubstr("whose cosine to the CPU's is"));

  options.precision = Precision::kFloat32;
  options.cuda = SimulatedBackend({.wrong_in_graphs_by = 1e-5f}, memory_bytes);
  const absl::Status in_graphs = LoadEncoder(fs_, directory_, options).status();
  EXPECT_EQ(in_graphs.code(), absl::StatusCode::kFailedPrecondition) << in_graphs;
  EXPECT_THAT(std::string(in_graphs.message()), HasSubstr("another vector alone than in a batch"));
}

TEST_F(CudaEncoderTest, OnADeviceAgreesWithTheCpu) {
  const auto backend = OpenCudaBackend(0);
  if (!backend.ok()) GTEST_SKIP() << backend.status();
  Write({.hidden_size = 64, .layer_count = 3, .head_count = 2, .intermediate_size = 256});
  const PackedBatch batch = Batch(300);
  const std::vector<float> expected = Encode(*OnCpu(), batch);
  for (const auto& [type, least] : {std::pair(ElementType::kFloat32, 0.9999999), std::pair(ElementType::kFloat16, 0.99999),
                                    std::pair(ElementType::kBfloat16, 0.9995)}) {
    CudaEncoderOptions options;
    options.backend = *backend;
    options.type = type;
    const auto encoder = MakeOrDie(options);
    ASSERT_NE(encoder, nullptr);
    const std::vector<float> together = Encode(*encoder, batch);
    EXPECT_GT(LeastCosine(together, expected, 64), least) << ElementTypeName(type);
    for (size_t s = 0; s < 300; s += 7) {
      ASSERT_EQ(std::memcmp(Encode(*encoder, One(batch, s)).data(), together.data() + s * 64, 64 * sizeof(float)), 0) << s;
    }
  }
}

// ---- Which device ----

CudaProbe OneGpu() {
  return {
      .built_in = true,
      .devices =
          {{.ordinal = 0, .name = "H100", .compute_major = 9, .total_memory_bytes = 80ll << 30, .free_memory_bytes = 79ll << 30}},
      .detail = ""};
}

TEST(SelectDevice, TakesTheDeviceThatWorks) {
  int opened = 0;
  const auto open = [&](int ordinal) -> absl::StatusOr<std::shared_ptr<CudaBackend>> {
    EXPECT_EQ(ordinal, 0);
    ++opened;
    return SimulatedBackend();
  };
  for (const char* const request : {"auto", "cuda:0"}) {
    const auto selected = SelectDevice(request, OneGpu(), open, [](const auto& backend) {
      EXPECT_NE(backend, nullptr);
      return absl::OkStatus();
    });
    ASSERT_TRUE(selected.ok()) << selected.status();
    EXPECT_EQ(selected->choice.name, "cuda:0");
    EXPECT_THAT(selected->choice.reason, HasSubstr("H100"));
    EXPECT_NE(selected->cuda, nullptr);
  }
  EXPECT_EQ(opened, 2);
  EXPECT_EQ(SelectDevice("cpu", OneGpu(), open, nullptr)->cuda, nullptr);
  EXPECT_EQ(opened, 2) << "the CPU opens nothing";
}

TEST(SelectDevice, AutoTakesTheCpuWithTheReasonAndAnExplicitDeviceIsRefused) {
  const auto works = [](int) -> absl::StatusOr<std::shared_ptr<CudaBackend>> { return SimulatedBackend(); };
  const auto too_old = [](int) -> absl::StatusOr<std::shared_ptr<CudaBackend>> {
    return absl::FailedPreconditionError("the driver serves CUDA 12.2");
  };
  const auto no_room = [](const std::shared_ptr<CudaBackend>&) { return absl::FailedPreconditionError("10 MiB are free"); };
  for (const auto& [open, try_it, reason] :
       {std::tuple<std::function<absl::StatusOr<std::shared_ptr<CudaBackend>>(int)>,
                   std::function<absl::Status(const std::shared_ptr<CudaBackend>&)>, const char*>(too_old, nullptr,
                                                                                                  "the driver serves CUDA 12.2"),
        {works, no_room, "10 MiB are free"}}) {
    const auto automatic = SelectDevice("auto", OneGpu(), open, try_it);
    ASSERT_TRUE(automatic.ok());
    EXPECT_EQ(automatic->choice.name, "cpu");
    EXPECT_EQ(automatic->cuda, nullptr);
    EXPECT_THAT(automatic->choice.reason, HasSubstr(reason));
    const auto asked = SelectDevice("cuda:0", OneGpu(), open, try_it);
    EXPECT_EQ(asked.status().code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(std::string(asked.status().message()), HasSubstr(reason));
  }
  const CudaProbe none = {.built_in = true, .devices = {}, .detail = "no CUDA device"};
  EXPECT_THAT(SelectDevice("auto", none, works, nullptr)->choice.reason, HasSubstr("no CUDA device"));
  EXPECT_EQ(SelectDevice("cuda:0", none, works, nullptr).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(SelectDevice("cuda:1", OneGpu(), works, nullptr).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(SelectDevice("gpu", OneGpu(), works, nullptr).status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace loci
