#include "encoder/fidelity.h"

#include <memory>
#include <string>
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
