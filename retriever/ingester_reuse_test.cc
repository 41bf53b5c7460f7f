// Texts that were encoded before are not encoded again.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <fstream>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "index/manifest.h"
#include "retriever/ingester.h"
#include "retriever/testing/retriever_fixture.h"

namespace loci {
namespace {

class IngesterReuse : public RetrieverFixture {
 protected:
  static std::vector<loci::v1::Passage> Passages(int from, int to, const std::string& id_prefix = "p") {
    std::vector<loci::v1::Passage> passages;
    for (int i = from; i < to; ++i) passages.push_back(MakePassage(absl::StrCat(id_prefix, i), absl::StrCat("the text of number ", i), "title"));
    return passages;
  }
  int64_t EncodedCount() {
    const EncoderSpec& spec = (*registry_->Get(""))->spec();
    return static_cast<int64_t>(
        metrics_.value("loci_batcher_batch_sequences", {{"encoder", spec.model_name}, {"fingerprint", spec.fingerprint.ToString()}}));
  }
  // The vectors of p<from> ... as they are stored.
  std::map<std::string, std::vector<float>> Vectors(const std::string& store, int from, int to, const std::string& id_prefix = "p") {
    std::map<std::string, std::vector<float>> vectors;
    const auto set = *manager_->Capture(store, "");
    for (int i = from; i < to; ++i) {
      const auto row = *set->view->Find(absl::StrCat(id_prefix, i));
      if (!row.has_value()) continue;
      EXPECT_TRUE(set->view->CopyVector(*row, (vectors[absl::StrCat("p", i)] = std::vector<float>(kDim)).data()).ok());
    }
    return vectors;
  }
};

TEST_F(IngesterReuse, ASecondIngestEncodesNothingAndHasTheSameVectors) {
  Start();
  ASSERT_EQ(Ingest("s", Passages(0, 600))->reused_count, 0);
  const int64_t before = EncodedCount();
  EXPECT_EQ(before, 600);
  const auto vectors = Vectors("s", 0, 600);
  // Other ids, other order: it goes by the text alone.
  auto again = Passages(0, 600, "q");
  std::reverse(again.begin(), again.end());
  const auto result = Ingest("s", std::move(again));
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->reused_count, 600);
  EXPECT_EQ(result->passage_count, 600);
  EXPECT_EQ(EncodedCount(), before);
  EXPECT_EQ(Vectors("s", 0, 600, "q"), vectors);
}

// Damage that came while the generation serves is not carried into the next one, where it would have sums of its own.
TEST_F(IngesterReuse, WhatIsDamagedIsEncodedAgain) {
  Start();
  const auto first = Ingest("s", Passages(0, 600));
  ASSERT_TRUE(first.ok()) << first.status();
  const auto vectors = Vectors("s", 0, 600);
  const std::string path = JoinPath(manager_->StoreDirectory("s"), JoinPath(first->generation, kVectorsFile));
  {
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(40'003);
    const char byte = static_cast<char>(file.get() ^ 0x80);
    file.seekp(40'003);
    file.put(byte);
  }
  ASSERT_NE(Vectors("s", 0, 600), vectors);
  const int64_t before = EncodedCount();
  const auto again = Ingest("s", Passages(0, 600));
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(Vectors("s", 0, 600), vectors);
  EXPECT_LT(again->reused_count, 600);
  EXPECT_GE(again->reused_count, 600 - 33);  // A block of 4 KiB.
  EXPECT_EQ(EncodedCount() - before, 600 - again->reused_count);
}

TEST_F(IngesterReuse, OnlyWhatIsNewIsEncoded) {
  Start();
  ASSERT_TRUE(Ingest("s", Passages(0, 100)).ok());
  ASSERT_TRUE(Ingest("s", Passages(100, 150), {.mode = IngestMode::kUpsert}).ok());
  ASSERT_TRUE(manager_->Delete("s", {"p7"}).ok());
  const int64_t before = EncodedCount();
  auto passages = Passages(0, 200);
  passages[3].set_title("another");  // The title is encoded as well.
  const auto result = Ingest("s", passages, {.writes_since = WritesPolicy::kDiscard});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->reused_count, 149);
  EXPECT_EQ(EncodedCount() - before, 51);
  const auto vectors = Vectors("s", 0, 200);
  const auto whole = Ingest("whole", passages);
  ASSERT_TRUE(whole.ok());
  EXPECT_EQ(Vectors("whole", 0, 200), vectors);
}

TEST_F(IngesterReuse, UpsertsOfWhatIsThereEncodeNothing) {
  Start();
  ASSERT_TRUE(Ingest("s", Passages(0, 50)).ok());
  const auto vectors = Vectors("s", 0, 50);
  const int64_t before = EncodedCount();
  const auto result = Ingest("s", Passages(0, 60), {.mode = IngestMode::kUpsert});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->reused_count, 50);
  EXPECT_EQ(EncodedCount() - before, 10);
  EXPECT_EQ(Vectors("s", 0, 50), vectors);
}

TEST_F(IngesterReuse, AFewTextsAreLookedUpByTheirIdsOnly) {
  Start();
  ASSERT_TRUE(Ingest("s", Passages(0, 600)).ok());
  // Not worth reading 600 passages for: one of them under its own id, one under another, one new.
  const auto few = Ingest("s", {Passages(5, 6)[0], Passages(6, 7, "q")[0], MakePassage("new", "new")});
  ASSERT_TRUE(few.ok()) << few.status();
  EXPECT_EQ(few->reused_count, 1);
}

TEST_F(IngesterReuse, EncodesAgainWhereItIsToldTo) {
  Start();
  ASSERT_TRUE(Ingest("s", Passages(0, 10)).ok());
  const int64_t before = EncodedCount();
  const auto result = Ingest("s", Passages(0, 10), {.reencode = true});
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(result->reused_count, 0);
  EXPECT_EQ(EncodedCount() - before, 10);
}

TEST_F(IngesterReuse, RoundedVectorsAreNoSourceOfPreciseOnes) {
  Start();
  ASSERT_TRUE(Ingest("s", Passages(0, 10), {.element_type = ElementType::kFloat16}).ok());
  const auto rounded = Vectors("s", 0, 10);
  EXPECT_EQ(Ingest("s", Passages(0, 10), {.mode = IngestMode::kUpsert})->reused_count, 0);
  EXPECT_EQ(Ingest("s", Passages(0, 10), {.element_type = ElementType::kFloat16, .writes_since = WritesPolicy::kDiscard})->reused_count, 10);
  EXPECT_EQ(Vectors("s", 0, 10), rounded);
  EXPECT_EQ(Ingest("s", Passages(0, 10), {.element_type = ElementType::kBfloat16})->reused_count, 0);
  EXPECT_EQ(Ingest("s", Passages(0, 10))->reused_count, 0);
  const auto precise = Vectors("s", 0, 10);
  EXPECT_NE(precise, rounded);
  EXPECT_EQ(Ingest("s", Passages(0, 10), {.element_type = ElementType::kFloat16})->reused_count, 10);
  EXPECT_EQ(Vectors("s", 0, 10), rounded);
}

TEST_F(IngesterReuse, AnotherEncodersVectorsAreNotTaken) {
  Start();
  ASSERT_TRUE(Ingest("s", Passages(0, 10)).ok());
  ASSERT_TRUE(WriteTinyCheckpoint(fs_, CheckpointDirectory(2), {.seed = 2}).ok());
  const auto other = registry_->Import(CheckpointDirectory(2));
  ASSERT_TRUE(other.ok()) << other.status();
  const auto result = Ingest("s", Passages(0, 10), {.encoder_fingerprint = (*other)->spec().fingerprint.passage});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->reused_count, 0);
}

TEST_F(IngesterReuse, AnInterruptedIngestIsTakenUpWhereItWas) {
  Start();
  ASSERT_TRUE(Ingest("whole", Passages(0, 3000)).ok());
  const auto vectors = Vectors("whole", 0, 3000);
  {
    auto ingester = Ingester::Start(*manager_, {.store = "s"});
    ASSERT_TRUE(ingester.ok());
    ASSERT_TRUE((*ingester)->Add(Passages(0, 2000), {}, 0).ok());
  }
  const std::string journal = JoinPath(manager_->StoreDirectory("s"), "encoded");
  ASSERT_TRUE(fs_.Exists(journal));
  EXPECT_TRUE(manager_->ListGenerations("s")->generations.empty());
  Stop();
  // A tail that was cut, as a kill may leave it.
  const std::string path = JoinPath(journal, "00000001");
  const std::string content = *fs_.ReadFile(path);
  ASSERT_TRUE((*fs_.NewWritableFile(path))->Append(content.substr(0, content.size() - 30)).ok());
  Start();
  {
    // Also the second one fails; what it encoded is kept beside.
    auto ingester = Ingester::Start(*manager_, {.store = "s"});
    ASSERT_TRUE(ingester.ok()) << ingester.status();
    ASSERT_TRUE((*ingester)->Add(Passages(0, 2600), {}, 0).ok());
  }
  const int64_t before = EncodedCount();
  const auto result = Ingest("s", Passages(0, 3000));
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_GE(result->reused_count, 1500);
  EXPECT_EQ(EncodedCount() - before, 3000 - result->reused_count);
  EXPECT_EQ(Vectors("s", 0, 3000), vectors);
  EXPECT_FALSE(fs_.Exists(journal));
}

TEST_F(IngesterReuse, WhatIsToldAsDoneIsKeptAlsoWhileTheStreamPauses) {
  Start();
  const std::string path = JoinPath(JoinPath(manager_->StoreDirectory("s"), "encoded"), "00000001");
  constexpr int64_t kRecordBytes = 16 + 4 * kDim + 8, kHeaderBytes = 64;
  std::atomic<int64_t> told{0}, ahead{0};
  IngestOptions options{.store = "s"};
  options.progress = [&](std::string_view phase, int64_t done, int64_t) {
    if (phase != "receiving") return;
    const absl::StatusOr<int64_t> size = fs_.FileSize(path);
    const int64_t kept = size.ok() ? (*size - kHeaderBytes) / kRecordBytes : 0;
    ahead = std::max(ahead.load(), done - kept);
    told = done;
  };
  auto ingester = Ingester::Start(*manager_, options);
  ASSERT_TRUE(ingester.ok());
  ASSERT_TRUE((*ingester)->Add(Passages(0, 1000), {}, 0).ok());
  // Nothing more comes.
  for (int i = 0; i < 10'000 && told < 1000; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  EXPECT_EQ(told, 1000);
  // The file system's own buffer may hold the last few.
  EXPECT_LE(ahead * kRecordBytes, 64 << 10) << ahead << " more were told as done than a kill would leave";
}

TEST_F(IngesterReuse, WhatAnInterruptedIngestEncodedIsNotTakenWhereItIsToldSo) {
  Start();
  {
    auto ingester = Ingester::Start(*manager_, {.store = "s"});
    ASSERT_TRUE((*ingester)->Add(Passages(0, 2000), {}, 0).ok());
  }
  const auto result = Ingest("s", Passages(0, 2000), {.reencode = true});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->reused_count, 0);
  EXPECT_FALSE(fs_.Exists(JoinPath(manager_->StoreDirectory("s"), "encoded")));
}

}  // namespace
}  // namespace loci
