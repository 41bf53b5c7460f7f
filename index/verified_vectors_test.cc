#include "index/verified_vectors.h"

#include <fstream>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "gtest/gtest.h"
#include "index/store.h"
#include "index/store_testing.h"
#include "index/view_copy.h"

namespace loci {
namespace {

constexpr int kDim = 16;
constexpr int kPassages = 1'000;  // 64,000 bytes of vectors: sixteen blocks of 4 KiB, and rows that lie in two.

BuildOptions Options() {
  BuildOptions options;
  options.dim = kDim;
  options.base_revision = -1;
  options.passage_fingerprint = "0123456789abcdef";
  return options;
}

class VerifiedVectorsTest : public testing::Test {
 protected:
  void SetUp() override {
    auto opened = Store::Open(JoinPath(directory_.path(), "s"), "s", {});
    ASSERT_TRUE(opened.ok()) << opened.status();
    store_ = *std::move(opened);
    TestContents contents;
    for (int i = 0; i < kPassages; ++i) {
      contents["p" + std::to_string(i)] = {"text", std::vector<float>(kDim, static_cast<float>(i) / kPassages)};
    }
    const auto built = BuildGeneration(*store_, contents, Options());
    ASSERT_TRUE(built.ok()) << built.status();
    generation_ = *built;
    ASSERT_TRUE(store_->Activate(*store_->OpenGeneration(generation_, true), WritesPolicy::kRefuse).ok());
    ASSERT_TRUE(store_->Write({Upsert("written", {"text", std::vector<float>(kDim, 2.0F)})}).ok());
    view_ = store_->view();
  }
  void Flip(int64_t offset) {
    std::fstream file(JoinPath(directory_.path(), "s/" + generation_ + "/" + kVectorsFile), std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(offset);
    const char byte = static_cast<char>(file.get() ^ 1);
    file.seekp(offset);
    file.put(byte);
    ASSERT_TRUE(file.good());
  }
  int64_t OffsetOf(int64_t row) const {
    const VectorFile& vectors = view_->generation().vectors();
    return static_cast<const char*>(vectors.row(row)) - vectors.data().data();
  }

  TestDirectory directory_{"verified_vectors"};
  std::unique_ptr<Store> store_;
  std::string generation_;
  std::shared_ptr<const View> view_;
};

TEST_F(VerifiedVectorsTest, CopiesWhatIsWhole) {
  VerifiedVectors vectors(view_->shared_generation());
  std::vector<float> copied(kDim), stored(kDim);
  for (int64_t row = 0; row < kPassages; ++row) {
    ASSERT_TRUE(vectors.Copy(*view_, {false, row}, copied.data()).ok());
    ASSERT_TRUE(view_->CopyVector({false, row}, stored.data()).ok());
    ASSERT_EQ(copied, stored);
  }
  ASSERT_TRUE(vectors.Copy(*view_, {true, 0}, copied.data()).ok());
  EXPECT_EQ(copied, std::vector<float>(kDim, 2.0F));
}

TEST_F(VerifiedVectorsTest, RefusesEachRowOfADamagedBlockAndNoOther) {
  for (const int64_t row : {int64_t{0}, int64_t{500}, int64_t{kPassages - 1}}) {
    const int64_t damaged = OffsetOf(row) + 5;
    Flip(damaged);
    VerifiedVectors vectors(view_->shared_generation());
    std::vector<float> copied(kDim);
    for (int64_t i = 0; i < kPassages; ++i) {
      const int64_t begin = OffsetOf(i);
      const int64_t end = OffsetOf(i + 1) - 1;
      const bool touched = begin / 4096 <= damaged / 4096 && damaged / 4096 <= end / 4096;
      const absl::Status status = vectors.Copy(*view_, {false, i}, copied.data());
      ASSERT_EQ(status.ok(), !touched) << i << ": " << status;
      if (!touched) continue;
      EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
      const std::optional<ErrorReason> reason = GetErrorReason(status);
      ASSERT_TRUE(reason.has_value());
      EXPECT_EQ(reason->metadata.at("file"), kVectorsFile);
      EXPECT_EQ(reason->metadata.at("offset"), std::to_string(damaged / 4096 * 4096));
    }
    Flip(damaged);
  }
}

TEST_F(VerifiedVectorsTest, AViewWithADamagedRowIsNotCopied) {
  Flip(OffsetOf(700) + 1);
  auto builder = store_->NewGeneration(Options());
  ASSERT_TRUE(builder.ok()) << builder.status();
  const absl::Status copied = CopyView(*view_, **builder, [](int64_t) { return absl::OkStatus(); });
  EXPECT_EQ(copied.code(), absl::StatusCode::kDataLoss) << copied;
}

}  // namespace
}  // namespace loci
