#include "encoder/fidelity.h"

#include <algorithm>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "encoder/testing/tiny_checkpoint.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace loci {
namespace {

using testing::HasSubstr;

class FidelityTest : public testing::Test {
 protected:
  void SetUp() override {
    directory_ = testing::TempDir() + "/fidelity_" + testing::UnitTest::GetInstance()->current_test_info()->name();
    ASSERT_TRUE(fs_.DeleteRecursively(directory_).ok());
  }
  void TearDown() override { EXPECT_TRUE(fs_.DeleteRecursively(directory_).ok()); }

  std::shared_ptr<const Encoder> Load(Precision precision, uint64_t seed = 1) {
    TinyCheckpointOptions checkpoint;
    checkpoint.seed = seed;
    EXPECT_TRUE(WriteTinyCheckpoint(fs_, directory_, checkpoint).ok());
    EncoderOptions options;
    options.precision = precision;
    auto encoder = LoadEncoder(fs_, directory_, options);
    EXPECT_TRUE(encoder.ok()) << encoder.status();
    return encoder.ok() ? *std::move(encoder) : nullptr;
  }

  // The empty text and one that is cut among them.
  static std::vector<std::string> Texts(int count) {
    std::vector<std::string> texts = {"", std::string(500, 'x')};
    for (int i = 2; i < count; ++i) texts.push_back(absl::StrCat("text number ", i, " of ", i * i % 17, " words"));
    texts.resize(count);
    return texts;
  }

  FileSystem& fs_ = PosixFileSystem();
  std::string directory_;
};

TEST_F(FidelityTest, AnEncoderIsItsOwnEqual) {
  const std::shared_ptr<const Encoder> floats = Load(Precision::kFloat32);
  ASSERT_NE(floats, nullptr);
  const absl::StatusOr<Fidelity> fidelity = MeasureFidelity(*floats, *floats, *floats, Texts(41));
  ASSERT_TRUE(fidelity.ok()) << fidelity.status();
  EXPECT_EQ(fidelity->text_count, 41);
  EXPECT_GT(fidelity->token_count, 41);
  EXPECT_NEAR(fidelity->cosine_mean, 1, 1e-9);
  EXPECT_NEAR(fidelity->cosine_min, 1, 1e-9);
  EXPECT_EQ(fidelity->top_10_overlap, 1);
}

TEST_F(FidelityTest, Int8IsNearAndSaysSo) {
  const std::shared_ptr<const Encoder> floats = Load(Precision::kFloat32), bytes = Load(Precision::kInt8);
  ASSERT_TRUE(floats != nullptr && bytes != nullptr);
  const absl::StatusOr<Fidelity> fidelity = MeasureFidelity(*floats, *floats, *bytes, Texts(100));
  ASSERT_TRUE(fidelity.ok()) << fidelity.status();
  EXPECT_LT(fidelity->cosine_min, 1);
  EXPECT_GT(fidelity->cosine_min, 0.98);
  EXPECT_LE(fidelity->cosine_min, fidelity->cosine_mean);
  EXPECT_GT(fidelity->top_10_overlap, 0.7);
  EXPECT_THAT(FidelityTable(*fidelity), HasSubstr("int8 against float32, 100 texts"));
  EXPECT_THAT(FidelityJson(*fidelity),
              HasSubstr(absl::StrCat("\"fingerprint\": \"", floats->spec().fingerprint.ToString(), "\"")));
  EXPECT_THAT(FidelityJson(*fidelity), HasSubstr("\"candidate\": \"int8\""));
}

// By obvious loops, of vectors that an encoder made text by text.
double PlainOverlap(const Encoder& a, const Encoder& b, const std::vector<std::string>& texts) {
  const auto nearest = [&](const Encoder& encoder) {
    const int64_t dim = encoder.spec().dim, count = static_cast<int64_t>(texts.size());
    std::vector<float> vectors(static_cast<size_t>(count * dim));
    for (int64_t i = 0; i < count; ++i) {
      PackedBatch batch;
      batch.token_ids = {encoder.tokenizer().cls_id()};
      encoder.tokenizer().Tokenize(encoder.spec().passage_prefix + texts[i], &batch.token_ids);
      batch.token_ids.resize(std::min(batch.token_ids.size(), static_cast<size_t>(encoder.spec().max_length) - 1));
      batch.token_ids.push_back(encoder.tokenizer().sep_id());
      batch.offsets.push_back(static_cast<int32_t>(batch.token_ids.size()));
      EXPECT_TRUE(encoder.Encode(batch, vectors.data() + i * dim).ok());
    }
    std::vector<std::set<int64_t>> found;
    for (int64_t i = 0; i < count; ++i) {
      std::vector<std::pair<double, int64_t>> scored;
      for (int64_t j = 0; j < count; ++j) {
        double dot = 0;
        for (int64_t d = 0; d < dim; ++d) dot += static_cast<double>(vectors[i * dim + d]) * static_cast<double>(vectors[j * dim + d]);
        if (i != j) scored.emplace_back(-dot, j);
      }
      std::sort(scored.begin(), scored.end());
      std::set<int64_t> rows;
      for (size_t n = 0; n < 10; ++n) rows.insert(scored[n].second);
      found.push_back(std::move(rows));
    }
    return found;
  };
  const auto expected = nearest(a), found = nearest(b);
  int64_t both = 0;
  for (size_t i = 0; i < texts.size(); ++i) {
    for (const int64_t row : expected[i]) both += static_cast<int64_t>(found[i].count(row));
  }
  return static_cast<double>(both) / (10.0 * static_cast<double>(texts.size()));
}

TEST_F(FidelityTest, TheOverlapIsThatOfPlainLoops) {
  const std::shared_ptr<const Encoder> floats = Load(Precision::kFloat32), bytes = Load(Precision::kInt8);
  ASSERT_TRUE(floats != nullptr && bytes != nullptr);
  for (const int count : {20, 64, 65, 131}) {  // Rows are scored in blocks.
    const absl::StatusOr<Fidelity> fidelity = MeasureFidelity(*floats, *floats, *bytes, Texts(count));
    ASSERT_TRUE(fidelity.ok()) << fidelity.status();
    const double plain = PlainOverlap(*floats, *bytes, Texts(count));
    EXPECT_TRUE(plain < 1 || count < 100) << "else this shows little";
    // Scores that are equal but for rounding may fall to either side of the tenth place.
    EXPECT_NEAR(fidelity->top_10_overlap, plain, 0.01) << count;
  }
}

TEST_F(FidelityTest, ThePeerIsJudgedAsTheCandidateIs) {
  const std::shared_ptr<const Encoder> floats = Load(Precision::kFloat32), bytes = Load(Precision::kInt8);
  ASSERT_TRUE(floats != nullptr && bytes != nullptr);
  const absl::StatusOr<Fidelity> fidelity = MeasureFidelity(*floats, *bytes, *bytes, Texts(100));
  ASSERT_TRUE(fidelity.ok()) << fidelity.status();
  EXPECT_LT(fidelity->peer_cosine_min, 1);
  EXPECT_EQ(fidelity->peer_cosine_mean, fidelity->cosine_mean);
  EXPECT_EQ(fidelity->peer_cosine_min, fidelity->cosine_min);
  EXPECT_EQ(fidelity->peer_top_10_overlap, fidelity->top_10_overlap);
  const absl::StatusOr<Fidelity> alone = MeasureFidelity(*floats, *floats, *bytes, Texts(100));
  ASSERT_TRUE(alone.ok()) << alone.status();
  EXPECT_NEAR(alone->peer_cosine_min, 1, 1e-9);
  EXPECT_EQ(alone->peer_top_10_overlap, 1);
  EXPECT_EQ(alone->peer_tokens_per_s, alone->reference_tokens_per_s);
  EXPECT_EQ(alone->cosine_min, fidelity->cosine_min);
}

TEST_F(FidelityTest, TableAndRecordHaveTheFiguresOfEachPrecision) {
  Fidelity fidelity;
  fidelity.fingerprint = "a:b";
  fidelity.reference = "float32";
  fidelity.peer = "bfloat16";
  fidelity.candidate = "int8";
  fidelity.text_count = 100;
  fidelity.token_count = 2'000;
  fidelity.cosine_mean = 0.875;
  fidelity.cosine_min = 0.75;
  fidelity.top_10_overlap = 0.625;
  fidelity.peer_cosine_mean = 0.96875;
  fidelity.peer_cosine_min = 0.9375;
  fidelity.peer_top_10_overlap = 0.8125;
  fidelity.reference_tokens_per_s = 1'000;
  fidelity.peer_tokens_per_s = 2'000;
  fidelity.candidate_tokens_per_s = 5'000;
  EXPECT_EQ(FidelityTable(fidelity),
            "int8 against float32, 100 texts of 2000 tokens, encoder a:b\n"
            "precision   cosine mean  cosine min  top-10 overlap  tokens/s\n"
            "float32         1.00000     1.00000          1.0000      1000\n"
            "bfloat16        0.96875     0.93750          0.8125      2000\n"
            "int8            0.87500     0.75000          0.6250      5000\n"
            "int8 is 5.00x as fast as float32, 2.50x as bfloat16 (of one thread's CPU time)\n");
  EXPECT_EQ(FidelityJson(fidelity),
            "{\"fingerprint\": \"a:b\", \"reference\": \"float32\", \"peer\": \"bfloat16\", \"candidate\": \"int8\", \"text_count\": 100, "
            "\"token_count\": 2000, \"cosine_mean\": 0.875000, \"cosine_min\": 0.750000, \"top_10_overlap\": 0.625000, "
            "\"peer_cosine_mean\": 0.968750, \"peer_cosine_min\": 0.937500, \"peer_top_10_overlap\": 0.812500, "
            "\"reference_tokens_per_s\": 1000.0, \"peer_tokens_per_s\": 2000.0, \"candidate_tokens_per_s\": 5000.0}\n");
  fidelity.peer = fidelity.reference;  // Where the CPU has nothing faster.
  EXPECT_THAT(FidelityTable(fidelity), testing::EndsWith("float32         1.00000     1.00000          1.0000      1000\n"
                                                         "int8            0.87500     0.75000          0.6250      5000\n"
                                                         "int8 is 5.00x as fast as float32 (of one thread's CPU time)\n"));
}

TEST_F(FidelityTest, StepsTellHowFarItIsAndMayEndIt) {
  const std::shared_ptr<const Encoder> floats = Load(Precision::kFloat32), bytes = Load(Precision::kInt8);
  ASSERT_TRUE(floats != nullptr && bytes != nullptr);
  std::vector<std::vector<int32_t>> tokens;
  for (const std::string& text : Texts(100)) tokens.push_back(FidelityTokens(*floats, text));
  std::vector<std::pair<std::string, int64_t>> steps;
  const auto measure = [&](size_t allowed) {
    steps.clear();
    return MeasureFidelityOfTokens(*floats, *floats, *bytes, tokens, [&](std::string_view phase, int64_t done, int64_t total) {
      EXPECT_EQ(total, 100);
      steps.emplace_back(phase, done);
      return steps.size() > allowed ? absl::CancelledError("enough") : absl::OkStatus();
    });
  };
  const absl::StatusOr<Fidelity> whole = measure(1'000);
  ASSERT_TRUE(whole.ok()) << whole.status();
  ASSERT_GT(steps.size(), 10u);
  EXPECT_EQ(steps.front(), std::pair(std::string("encoding"), int64_t{0}));
  EXPECT_EQ(steps.back().first, "comparing");
  for (size_t i = 1; i < steps.size(); ++i) {
    if (steps[i].first == steps[i - 1].first) {
      EXPECT_GE(steps[i].second, steps[i - 1].second);
    }
  }
  for (const size_t allowed : {size_t{0}, size_t{5}, steps.size() - 1}) EXPECT_EQ(measure(allowed).status().code(), absl::StatusCode::kCancelled) << allowed;
  const absl::StatusOr<Fidelity> texts = MeasureFidelity(*floats, *floats, *bytes, Texts(100));
  ASSERT_TRUE(texts.ok()) << texts.status();
  EXPECT_EQ(texts->cosine_mean, whole->cosine_mean);
  EXPECT_EQ(texts->token_count, whole->token_count);
}

TEST_F(FidelityTest, TooFewTextsAndOtherWeightsAreRefused) {
  const std::shared_ptr<const Encoder> floats = Load(Precision::kFloat32), others = Load(Precision::kInt8, /*seed=*/2);
  ASSERT_TRUE(floats != nullptr && others != nullptr);
  const absl::Status few = MeasureFidelity(*floats, *floats, *floats, Texts(19)).status();
  EXPECT_EQ(few.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(few.message()), HasSubstr("19 texts"));
  EXPECT_EQ(MeasureFidelity(*floats, *floats, *floats, {}).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(MeasureFidelity(*floats, *floats, *others, Texts(30)).status().code(), absl::StatusCode::kFailedPrecondition);
}

}  // namespace
}  // namespace loci
