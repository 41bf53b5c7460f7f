// What a reading of every byte finds, tells and looks at.
#include <map>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "base/error.h"
#include "base/file.h"
#include "index/file_sums.h"
#include "index/generation.h"
#include "index/manifest.h"

namespace loci {
namespace {

constexpr int kDim = 256;
constexpr int kRows = 1'200;  // vectors.bin has 1.2 MB: blocks of 64 KiB.
constexpr uint64_t kSeed = 20261121;

class GenerationVerifyTest : public testing::Test {
 protected:
  void SetUp() override {
    directory_ = JoinPath(testing::TempDir(), "generation_verify_test_g");
    ASSERT_TRUE(fs_.DeleteRecursively(directory_).ok());
    BuildOptions options;
    options.index = "IVF4,Flat";
    options.dim = kDim;
    options.query_fingerprint = "00112233445566aa";
    options.passage_fingerprint = "8899aabbccddeeff";
    auto builder = GenerationBuilder::Create(fs_, directory_, "wiki", "generation_verify_test_g", std::move(options));
    ASSERT_TRUE(builder.ok()) << builder.status();
    std::mt19937_64 random(kSeed);
    std::normal_distribution<float> normal;
    std::vector<v1::Passage> passages(kRows);
    std::vector<float> vectors(kRows * kDim);
    for (int i = 0; i < kRows; ++i) {
      passages[i].set_id("p" + std::to_string(i));
      passages[i].set_text("text " + std::to_string(random()));
    }
    for (float& value : vectors) value = normal(random);
    ASSERT_TRUE((*builder)->Add(passages, vectors.data()).ok());
    const auto manifest = (*builder)->Finish(RequestLimits(), nullptr);
    ASSERT_TRUE(manifest.ok()) << manifest.status();
    manifest_ = *manifest;
  }
  void TearDown() override { EXPECT_TRUE(fs_.DeleteRecursively(directory_).ok()); }

  void Write(const std::string& file, const std::string& content) {
    ASSERT_TRUE(WriteFileAtomically(fs_, JoinPath(directory_, file), content).ok());
  }
  std::string Read(const std::string& file) { return fs_.ReadFile(JoinPath(directory_, file)).value(); }
  static std::map<std::string, std::string> DamageOf(const absl::Status& status) {
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
    const auto reason = GetErrorReason(status);
    EXPECT_TRUE(reason.has_value() && reason->reason == "FILE_DAMAGED") << status;
    return reason.has_value() ? reason->metadata : std::map<std::string, std::string>();
  }

  FileSystem& fs_ = PosixFileSystem();
  std::string directory_;
  storage::Manifest manifest_;
};

TEST_F(GenerationVerifyTest, NamesTheBlockThatHoldsAFlippedByte) {
  std::mt19937_64 random(kSeed);
  SCOPED_TRACE(kSeed);
  std::vector<std::string> files = {kManifestFile};
  for (const storage::FileEntry& entry : manifest_.files()) files.push_back(entry.path());
  ASSERT_GE(files.size(), 6u);  // MANIFEST, vectors.bin, index.faiss and RocksDB's.
  for (const std::string& file : files) {
    const std::string content = Read(file);
    for (int i = 0; i < 4; ++i) {
      const int64_t position = static_cast<int64_t>(random() % content.size());
      SCOPED_TRACE(testing::Message() << file << " at " << position);
      std::string damaged = content;
      damaged[position] ^= static_cast<char>(1 << (random() % 8));
      Write(file, damaged);
      const int64_t block = file == kManifestFile ? INT64_MAX : BlockBytes(static_cast<int64_t>(content.size()));
      const int64_t begin = position / block * block;
      for (const absl::Status& status : {Generation::Verify(fs_, directory_), Generation::Open(fs_, directory_, {}).status()}) {
        const auto damage = DamageOf(status);
        EXPECT_EQ(damage.at("file"), file);
        EXPECT_EQ(damage.at("offset"), std::to_string(begin));
        EXPECT_GT(begin + std::stoll(damage.at("bytes")), position);
        EXPECT_NE(status.message().find(JoinPath(directory_, file)), std::string::npos) << status;
        EXPECT_NE(status.message().find("offset " + std::to_string(begin)), std::string::npos) << status;
      }
    }
    Write(file, content);
  }
  EXPECT_TRUE(Generation::Verify(fs_, directory_).ok());
}

TEST_F(GenerationVerifyTest, NamesWhereAFileEndsTooEarlyOrGoesOn) {
  const std::string content = Read(kVectorsFile);
  Write(kVectorsFile, content.substr(0, 1'000));
  auto damage = DamageOf(Generation::Verify(fs_, directory_));
  EXPECT_EQ(damage.at("offset"), "1000");
  Write(kVectorsFile, content + "x");
  damage = DamageOf(Generation::Verify(fs_, directory_));
  EXPECT_EQ(damage.at("offset"), std::to_string(content.size()));
  EXPECT_EQ(damage.at("bytes"), "1");
  ASSERT_TRUE(fs_.DeleteFile(JoinPath(directory_, kVectorsFile)).ok());
  damage = DamageOf(Generation::Verify(fs_, directory_));
  EXPECT_EQ(damage.at("offset"), "0");
  EXPECT_EQ(damage.at("bytes"), std::to_string(content.size()));
}

TEST_F(GenerationVerifyTest, BuildsWithoutSumsOfBlocksAreComparedAsAWhole) {
  for (storage::FileEntry& entry : *manifest_.mutable_files()) {
    entry.clear_block_bytes();
    entry.clear_block_xxh3();
  }
  Write(kManifestFile, SerializeManifest(manifest_));
  EXPECT_TRUE(Generation::Verify(fs_, directory_).ok());
  std::string content = Read(kVectorsFile);
  content.back() ^= 1;
  Write(kVectorsFile, content);
  const auto damage = DamageOf(Generation::Verify(fs_, directory_));
  EXPECT_EQ(damage.at("file"), kVectorsFile);
  EXPECT_EQ(damage.at("offset"), "0");
  EXPECT_EQ(damage.at("bytes"), std::to_string(content.size()));
}

TEST_F(GenerationVerifyTest, AWrongSumOfTheWholeIsDamageToo) {
  manifest_.mutable_files(0)->set_sha256(std::string(64, '0'));
  Write(kManifestFile, SerializeManifest(manifest_));
  EXPECT_EQ(DamageOf(Generation::Verify(fs_, directory_)).at("file"), manifest_.files(0).path());
}

TEST_F(GenerationVerifyTest, TellsHowFarItIsAndEndsWhenAsked) {
  int64_t last = -1, total = 0;
  VerifyControl control;
  control.progress = [&](int64_t done_bytes, int64_t total_bytes) {
    EXPECT_GE(done_bytes, last);
    EXPECT_LE(done_bytes - std::max<int64_t>(last, 0), 1 << 20);
    last = done_bytes;
    total = total_bytes;
  };
  ASSERT_TRUE(Generation::Verify(fs_, directory_, control).ok());
  int64_t size_bytes = 0;
  for (const storage::FileEntry& entry : manifest_.files()) size_bytes += entry.size_bytes();
  EXPECT_EQ(last, size_bytes);
  EXPECT_EQ(total, size_bytes);

  int64_t stopped_at = 0;
  control.progress = [&](int64_t done_bytes, int64_t) {
    stopped_at = done_bytes;
    if (done_bytes > 0) control.limits.Cancel();
  };
  EXPECT_EQ(Generation::Verify(fs_, directory_, control).code(), absl::StatusCode::kCancelled);
  EXPECT_LE(stopped_at, 1 << 20) << "the first piece was the last";
  EXPECT_EQ(Generation::Open(fs_, directory_, {.control = control}).status().code(), absl::StatusCode::kCancelled);
  VerifyControl late;
  late.limits = RequestLimits(1);
  EXPECT_EQ(Generation::Verify(fs_, directory_, late).code(), absl::StatusCode::kDeadlineExceeded);
}

}  // namespace
}  // namespace loci
