#include "encoder/encoder.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/file.h"
#include "base/thread_pool.h"
#include "encoder/safetensors.h"
#include "encoder/testing/tiny_checkpoint.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace loci {
namespace {

using testing::HasSubstr;

class EncoderTest : public testing::Test {
 protected:
  void SetUp() override {
    directory_ = testing::TempDir() + "/encoder_" + testing::UnitTest::GetInstance()->current_test_info()->name();
    ASSERT_TRUE(fs_.DeleteRecursively(directory_).ok());
  }
  void TearDown() override { EXPECT_TRUE(fs_.DeleteRecursively(directory_).ok()); }

  std::shared_ptr<const Encoder> Load(const TinyCheckpointOptions& options, ThreadPool* pool = nullptr) {
    EXPECT_TRUE(WriteTinyCheckpoint(fs_, directory_, options).ok());
    EncoderOptions encoder_options;
    encoder_options.pool = pool;
    auto encoder = LoadEncoder(fs_, directory_, encoder_options);
    EXPECT_TRUE(encoder.ok()) << encoder.status();
    return encoder.ok() ? *std::move(encoder) : nullptr;
  }

  static PackedBatch Pack(const Encoder& encoder, const std::vector<std::string>& texts) {
    PackedBatch batch;
    for (const std::string& text : texts) {
      batch.token_ids.push_back(encoder.tokenizer().cls_id());
      encoder.tokenizer().Tokenize(text, &batch.token_ids);
      batch.token_ids.push_back(encoder.tokenizer().sep_id());
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

  static double Dot(const std::vector<float>& vectors, int a, int b, int dim) {
    double dot = 0;
    for (int d = 0; d < dim; ++d) dot += static_cast<double>(vectors[a * dim + d]) * vectors[b * dim + d];
    return dot;
  }

  void ExpectRefused(absl::StatusCode code, const std::string& message) {
    const auto encoder = LoadEncoder(fs_, directory_, {});
    ASSERT_FALSE(encoder.ok()) << message;
    EXPECT_EQ(encoder.status().code(), code) << encoder.status();
    EXPECT_THAT(std::string(encoder.status().message()), HasSubstr(message));
  }

  FileSystem& fs_ = PosixFileSystem();
  std::string directory_;
};

TEST_F(EncoderTest, SpecSaysWhatTheCheckpointIs) {
  TinyCheckpointOptions options;
  options.query_prefix = "query: ";
  const auto encoder = Load(options);
  ASSERT_NE(encoder, nullptr);
  const EncoderSpec& spec = encoder->spec();
  EXPECT_EQ(spec.model_name, "encoder_SpecSaysWhatTheCheckpointIs");
  EXPECT_EQ(spec.dim, 32);
  EXPECT_EQ(spec.max_length, 64);
  EXPECT_TRUE(spec.normalize);
  EXPECT_EQ(spec.query_prefix, "query: ");
  EXPECT_EQ(spec.element_type, PrecisionName(ChoosePrecision(Precision::kAuto, DetectCpuIsa(), DetectCpuExtensions())->precision));
  EXPECT_THAT(spec.element_type_reason, HasSubstr("auto takes " + spec.element_type));
  EXPECT_EQ(spec.fingerprint.query.size(), 16u);
  EXPECT_GT(spec.memory_bytes, 2 * (4 * 32 * 32 + 2 * 64 * 32) * 2);
}

TEST_F(EncoderTest, NearTextsGetNearVectorsOfUnitLength) {
  const auto encoder = Load({});
  ASSERT_NE(encoder, nullptr);
  const std::vector<float> v =
      Encode(*encoder, Pack(*encoder, {"the cat and the dog", "the cat and the bird", "web server tool 42"}));
  for (int i = 0; i < 3; ++i) EXPECT_NEAR(Dot(v, i, i, 32), 1.0, 1e-5);
  EXPECT_GT(Dot(v, 0, 1, 32), Dot(v, 0, 2, 32) + 0.1);
}

TEST_F(EncoderTest, WithoutNormalizeLengthsStay) {
  TinyCheckpointOptions options;
  options.normalize = false;
  const auto encoder = Load(options);
  ASSERT_NE(encoder, nullptr);
  const std::vector<float> v = Encode(*encoder, Pack(*encoder, {"the cat"}));
  EXPECT_GT(std::abs(Dot(v, 0, 0, 32) - 1.0), 0.1);
}

TEST_F(EncoderTest, EverySequenceHasTheBitsItHasAlone) {
  ThreadPool pool("encode", 2, 100);
  const auto encoder = Load({}, &pool);
  ASSERT_NE(encoder, nullptr);
  std::vector<std::string> texts;
  for (int i = 0; i < 60; ++i) texts.push_back(std::string("cat " + std::string(i, 'x')).substr(0, 4 + i));
  const std::vector<float> together = Encode(*encoder, Pack(*encoder, texts));
  for (int i = 0; i < 60; ++i) {
    const std::vector<float> alone = Encode(*encoder, Pack(*encoder, {texts[i]}));
    ASSERT_EQ(std::memcmp(alone.data(), together.data() + i * 32, 32 * sizeof(float)), 0) << i;
  }
}

TEST_F(EncoderTest, ThreadsMayEncodeAtOnce) {
  ThreadPool pool("encode", 2, 100);
  const auto encoder = Load({}, &pool);
  ASSERT_NE(encoder, nullptr);
  const PackedBatch batch = Pack(*encoder, std::vector<std::string>(40, "a web server for python data"));
  const std::vector<float> expected = Encode(*encoder, batch);
  std::vector<std::thread> threads;
  std::vector<std::vector<float>> results(4);
  for (auto& result : results) {
    threads.emplace_back([&] {
      for (int i = 0; i < 5; ++i) result = Encode(*encoder, batch);
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const auto& result : results) EXPECT_EQ(result, expected);
}

TEST_F(EncoderTest, RefusesBatchesThatDoNotFitAndWritesNothing) {
  const auto encoder = Load({});
  ASSERT_NE(encoder, nullptr);
  const auto refused = [&](PackedBatch batch, const std::string& message) {
    std::vector<float> vectors(64, -7.0f);
    const absl::Status status = encoder->Encode(batch, vectors.data());
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr(message));
    EXPECT_EQ(vectors, std::vector<float>(64, -7.0f));
  };
  refused({{2, 3}, {0, 0, 2}}, "sequence 0 has 0 tokens");
  refused({std::vector<int32_t>(65, 5), {0, 65}}, "sequence 0 has 65 tokens, the limit is 64");
  refused({{2, -1, 3}, {0, 3}}, "token 1 has the id -1");
  refused({{2, 3, 1 << 30}, {0, 3}}, "token 2 has the id 1073741824");
  refused({{2, 3}, {0, 3}}, "offsets");
  refused({{2, 3}, {1, 2}}, "offsets");
  refused({{2, 3}, {0, 5, 2}}, "sequence 1 has -3 tokens");
  refused({{}, {}}, "offsets");
  EXPECT_TRUE(encoder->Encode({}, nullptr).ok());
}

TEST_F(EncoderTest, HalfPrecisionAndPrefixedWeightsLoadToNearlyTheSameVectors) {
  const auto full = Load({});
  ASSERT_NE(full, nullptr);
  const PackedBatch batch = Pack(*full, {"the green house by the river"});
  const std::vector<float> expected = Encode(*full, batch);
  for (const char* dtype : {"F32", "F16", "BF16"}) {
    TinyCheckpointOptions options;
    options.dtype = dtype;
    options.tensor_prefix = "bert.";
    const auto encoder = Load(options);
    ASSERT_NE(encoder, nullptr);
    std::vector<float> both = Encode(*encoder, batch);
    both.insert(both.end(), expected.begin(), expected.end());
    EXPECT_GT(Dot(both, 0, 1, 32), 0.999) << dtype;
    EXPECT_NE(encoder->spec().fingerprint.passage, full->spec().fingerprint.passage) << dtype;
  }
}

TEST_F(EncoderTest, AnotherSeedIsAnotherSpaceAndTheSameOneIsTheSame) {
  const Fingerprint first = Load({})->spec().fingerprint;
  EXPECT_EQ(Load({})->spec().fingerprint, first);
  TinyCheckpointOptions other;
  other.seed = 2;
  EXPECT_NE(Load(other)->spec().fingerprint.passage, first.passage);
  TinyCheckpointOptions prompted;
  prompted.query_prefix = "query: ";
  EXPECT_EQ(Load(prompted)->spec().fingerprint.passage, first.passage);
  EXPECT_NE(Load(prompted)->spec().fingerprint.query, first.query);
}

TEST_F(EncoderTest, NamesTheTensorThatDoesNotFit) {
  ASSERT_TRUE(WriteTinyCheckpoint(fs_, directory_, {}).ok());
  const std::string path = directory_ + "/model.safetensors";
  const std::string good = *fs_.ReadFile(path);
  const auto file = Safetensors::Parse(good, path);
  ASSERT_TRUE(file.ok());
  const auto tensors = [&] {
    std::map<std::string, TestTensor> all;
    const size_t data = good.size() - static_cast<size_t>((*file)->tensors().rbegin()->second.end);
    for (const auto& [name, info] : (*file)->tensors()) {
      all[name] = {info.dtype, info.shape, good.substr(data + info.begin, info.end - info.begin)};
    }
    return all;
  };
  const auto expect = [&](std::map<std::string, TestTensor> changed, const std::string& message) {
    ASSERT_TRUE(WriteFileAtomically(fs_, path, BuildSafetensors(changed)).ok());
    ExpectRefused(absl::StatusCode::kInvalidArgument, message);
  };
  auto missing = tensors();
  missing.erase("encoder.layer.1.output.dense.bias");
  expect(missing, "tensor \"encoder.layer.1.output.dense.bias\" is missing");
  auto turned = tensors();
  std::swap(turned["encoder.layer.0.intermediate.dense.weight"].shape[0],
            turned["encoder.layer.0.intermediate.dense.weight"].shape[1]);
  expect(turned, "tensor \"encoder.layer.0.intermediate.dense.weight\" has the shape [32, 64], the configuration says [64, 32]");
  auto typed = tensors();
  typed["encoder.layer.0.output.dense.bias"].dtype = "I32";
  expect(typed, "tensor \"encoder.layer.0.output.dense.bias\" has dtype I32");
  auto poisoned = tensors();
  const float infinity = INFINITY;
  std::memcpy(poisoned["embeddings.LayerNorm.weight"].data.data(), &infinity, 4);
  expect(poisoned, "tensor \"embeddings.LayerNorm.weight\" has a value that is not finite");
  auto huge = tensors();
  const float large = 3e38f;
  for (auto& [name, tensor] : huge) {
    for (size_t at = 0; at < tensor.data.size(); at += sizeof(large)) std::memcpy(tensor.data.data() + at, &large, sizeof(large));
  }
  expect(huge, "the vector of a text has a value that is not finite");
  auto zero = tensors();
  for (auto& [name, tensor] : zero) std::fill(tensor.data.begin(), tensor.data.end(), 0);
  expect(zero, "the vector of a text is zero");
  ASSERT_TRUE(WriteFileAtomically(fs_, path, good.substr(0, good.size() - 1)).ok());
  ExpectRefused(absl::StatusCode::kInvalidArgument, "outside the file");
  ASSERT_TRUE(fs_.DeleteFile(path).ok());
  ExpectRefused(absl::StatusCode::kNotFound, "model.safetensors");
}

TEST_F(EncoderTest, WeightsThatFloat16MightNotHoldAreNotComputedInIt) {
  if (!DetectCpuExtensions().float16) GTEST_SKIP() << "the CPU has no float16";
  ASSERT_TRUE(WriteTinyCheckpoint(fs_, directory_, {}).ok());
  EncoderOptions options;
  options.precision = Precision::kFloat16;
  ASSERT_TRUE(LoadEncoder(fs_, directory_, options).ok());
  const std::string path = directory_ + "/model.safetensors";
  const std::string good = *fs_.ReadFile(path);
  const auto file = Safetensors::Parse(good, path);
  ASSERT_TRUE(file.ok());
  const auto load_with = [&](const std::string& name, float value, Precision precision) {
    std::string bad = good;
    const auto& last = *std::max_element((*file)->tensors().begin(), (*file)->tensors().end(),
                                         [](const auto& a, const auto& b) { return a.second.end < b.second.end; });
    const size_t at = good.size() - static_cast<size_t>(last.second.end) + static_cast<size_t>((*file)->tensors().at(name).begin);
    std::memcpy(bad.data() + at, &value, sizeof(value));
    EXPECT_TRUE(WriteFileAtomically(fs_, path, bad).ok());
    options.precision = precision;
    return LoadEncoder(fs_, directory_, options);
  };
  const std::vector<std::pair<std::string, std::string>> refused = {
      {"encoder.layer.0.attention.self.value.weight", "layer 0, attention: "},
      {"encoder.layer.1.attention.self.key.bias", "layer 1, attention: "},
      {"encoder.layer.0.attention.output.dense.weight", "layer 0, attention.output: "},
      {"encoder.layer.0.output.LayerNorm.weight", "layer 1, attention: "},
      {"encoder.layer.1.intermediate.dense.bias", "layer 1, intermediate: "},
      {"encoder.layer.1.output.dense.weight", "layer 1, output: "},
  };
  for (const auto& [tensor, place] : refused) {
    const auto half = load_with(tensor, 1e5f, Precision::kFloat16);
    EXPECT_EQ(half.status().code(), absl::StatusCode::kFailedPrecondition) << tensor << half.status();
    EXPECT_THAT(std::string(half.status().message()), HasSubstr(place)) << tensor;
    const auto chosen = load_with(tensor, 1e5f, Precision::kAuto);
    ASSERT_TRUE(chosen.ok()) << tensor << chosen.status();
    EXPECT_EQ((*chosen)->spec().element_type, "float32") << tensor;
    EXPECT_THAT((*chosen)->spec().element_type_reason, HasSubstr("not float16, since in " + place)) << tensor;
  }
}

// Every value is `value` whatever the text, so every context is, and each sum of the layer's output is hidden_size * value * weight.
TEST_F(EncoderTest, Float16IsTakenUpToWhereRoundedSumsStillFit) {
  if (!DetectCpuExtensions().float16) GTEST_SKIP() << "the CPU has no float16";
  const TinyCheckpointOptions checkpoint;
  ASSERT_TRUE(WriteTinyCheckpoint(fs_, directory_, checkpoint).ok());
  const std::string path = directory_ + "/model.safetensors";
  const std::string good = *fs_.ReadFile(path);
  const auto file = Safetensors::Parse(good, path);
  ASSERT_TRUE(file.ok());
  const auto& last = *std::max_element((*file)->tensors().begin(), (*file)->tensors().end(),
                                       [](const auto& a, const auto& b) { return a.second.end < b.second.end; });
  const size_t data = good.size() - static_cast<size_t>(last.second.end);
  const float value = 16;
  const auto load_with_sums_of = [&](float sum) {
    std::string bytes = good;
    const auto fill = [&](const std::string& name, float with) {
      const auto& tensor = (*file)->tensors().at("encoder.layer.0.attention." + name);
      for (size_t at = static_cast<size_t>(tensor.begin); at < static_cast<size_t>(tensor.end); at += sizeof(with))
        std::memcpy(bytes.data() + data + at, &with, sizeof(with));
    };
    fill("self.value.weight", 0);
    fill("self.value.bias", value);
    fill("output.dense.weight", sum / (static_cast<float>(checkpoint.hidden_size) * value));
    EXPECT_TRUE(WriteFileAtomically(fs_, path, bytes).ok());
    EncoderOptions options;
    options.precision = Precision::kFloat16;
    return LoadEncoder(fs_, directory_, options);
  };
  // Values, contexts and sums may each be 1.11 times what they are without rounding: 65504 / 1.11^3 = 47896.
  const auto taken = load_with_sums_of(47800);
  ASSERT_TRUE(taken.ok()) << taken.status();
  PackedBatch batch;
  batch.token_ids.assign(64, (*taken)->tokenizer().cls_id());
  batch.offsets = {0, 64};
  std::vector<float> vector(static_cast<size_t>((*taken)->spec().dim));
  ASSERT_TRUE((*taken)->Encode(batch, vector.data()).ok());
  for (const float x : vector) EXPECT_TRUE(std::isfinite(x));
  for (const float sum : {48000.0f, 59000.0f}) {
    const absl::Status refused = load_with_sums_of(sum).status();
    EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition) << sum << refused;
    EXPECT_THAT(std::string(refused.message()), HasSubstr("layer 0, attention.output: a sum may come to ")) << sum;
  }
}

TEST_F(EncoderTest, RefusesAVocabularyLargerThanTheWeights) {
  ASSERT_TRUE(WriteTinyCheckpoint(fs_, directory_, {}).ok());
  const std::string vocabulary = *fs_.ReadFile(directory_ + "/vocab.txt");
  ASSERT_TRUE(WriteFileAtomically(fs_, directory_ + "/vocab.txt", vocabulary + "zebra\n").ok());
  ExpectRefused(absl::StatusCode::kInvalidArgument, "rows of word embeddings");
}

TEST_F(EncoderTest, RefusesAVocabularyThatWasCutOff) {
  ASSERT_TRUE(WriteTinyCheckpoint(fs_, directory_, {}).ok());
  const std::string vocabulary = *fs_.ReadFile(directory_ + "/vocab.txt");
  const size_t half = vocabulary.find('\n', vocabulary.size() / 2) + 1;
  ASSERT_TRUE(WriteFileAtomically(fs_, directory_ + "/vocab.txt", vocabulary.substr(0, half)).ok());
  ExpectRefused(absl::StatusCode::kInvalidArgument, "vocabulary has only");
}

TEST(PassageText, JoinsTitleAndText) {
  EXPECT_EQ(PassageText("Title", "text"), "Title text");
  EXPECT_EQ(PassageText("", "text"), "text");
}

}  // namespace
}  // namespace loci
