#include "retriever/ingester.h"

#include <limits>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "retriever/testing/retriever_fixture.h"

namespace loci {
namespace {

using ::testing::HasSubstr;

using IngesterTest = RetrieverFixture;

TEST_F(IngesterTest, CountsBadPassagesByTheirPlaceAndTakesTheOthers) {
  Start();
  const auto result =
      Ingest("s", {MakePassage("a", "one"), MakePassage("", "no id"), MakePassage("b", ""), MakePassage("c", "three"), MakePassage("a", "again")});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->accepted_count, 3);
  EXPECT_EQ(result->rejected_count, 2);
  EXPECT_EQ(result->duplicate_count, 1);
  ASSERT_EQ(result->errors.size(), 2u);
  EXPECT_EQ(result->errors[0].line, 2);
  EXPECT_THAT(result->errors[0].message, HasSubstr("id is empty"));
  EXPECT_EQ(result->errors[1].line, 3);
  EXPECT_EQ(result->errors[1].id, "b");
  EXPECT_EQ(manager_->GetStore("s")->passage_count, 2);
  std::vector<loci::v1::Passage> passages;
  const auto set = *manager_->Capture("s", "");
  ASSERT_TRUE(set->view->Read(std::vector<ViewRow>{**set->view->Find("a")}, &passages).ok());
  EXPECT_EQ(passages[0].text(), "again");
}

TEST_F(IngesterTest, KeepsOnlyTheFirstErrors) {
  Start();
  std::vector<loci::v1::Passage> bad(Ingester::kMaxErrors + 50);
  bad.push_back(MakePassage("good", "one"));
  const auto result = Ingest("s", std::move(bad));
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->rejected_count, Ingester::kMaxErrors + 50);
  EXPECT_EQ(result->errors.size(), static_cast<size_t>(Ingester::kMaxErrors));
}

TEST_F(IngesterTest, ABadLineEndsTheIngestWhereItIsToldTo) {
  Start();
  ASSERT_TRUE(Ingest("s", {MakePassage("a", "one")}).ok());
  const std::string before = manager_->GetStore("s")->generation;
  const absl::Status status =
      Ingest("s", {MakePassage("a", "one"), MakePassage("b", ""), MakePassage("c", "three")}, {.bad_lines = LinePolicy::kFail}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("passage 2 of the stream: text and title are both empty"));
  ASSERT_TRUE(GetErrorReason(status).has_value());
  EXPECT_EQ(GetErrorReason(status)->reason, "BAD_LINE");
  EXPECT_EQ(GetErrorReason(status)->metadata.at("line"), "2");
  EXPECT_EQ(GetErrorReason(status)->metadata.at("id"), "b");
  EXPECT_EQ(manager_->GetStore("s")->generation, before);
  EXPECT_EQ(manager_->ListGenerations("s")->generations.size(), 1u);
}

TEST_F(IngesterTest, TheFirstOfDuplicatesStaysWhereItIsToldTo) {
  Start();
  for (const IngestMode mode : {IngestMode::kNewGeneration, IngestMode::kUpsert}) {
    const std::string store = mode == IngestMode::kUpsert ? "upserted" : "new";
    // The passage that was rejected has no claim on its id.
    const auto result = Ingest(store, {MakePassage("a", ""), MakePassage("a", "one"), MakePassage("b", "two"), MakePassage("a", "again")},
                               {.mode = mode, .duplicates = LinePolicy::kSkip});
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(result->accepted_count, 2);
    EXPECT_EQ(result->rejected_count, 1);
    EXPECT_EQ(result->duplicate_count, 1);
    EXPECT_EQ(result->passage_count, 2);
    std::vector<loci::v1::Passage> passages;
    const auto set = *manager_->Capture(store, "");
    ASSERT_TRUE(set->view->Read(std::vector<ViewRow>{**set->view->Find("a")}, &passages).ok());
    EXPECT_EQ(passages[0].text(), "one");
  }
}

TEST_F(IngesterTest, ADuplicateEndsTheIngestWhereItIsToldTo) {
  Start();
  const std::vector<loci::v1::Passage> passages = {MakePassage("a", "one"), MakePassage("b", "two"), MakePassage("a", "again")};
  for (const IngestMode mode : {IngestMode::kNewGeneration, IngestMode::kUpsert}) {
    const absl::Status status = Ingest("s", passages, {.mode = mode, .duplicates = LinePolicy::kFail}).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr("passage 3 of the stream: id \"a\" came before"));
    ASSERT_TRUE(GetErrorReason(status).has_value());
    EXPECT_EQ(GetErrorReason(status)->reason, "DUPLICATE_ID");
    EXPECT_EQ(GetErrorReason(status)->metadata.at("line"), "3");
  }
}

TEST_F(IngesterTest, UpsertsCountDuplicatesToo) {
  Start();
  const auto result = Ingest("s", {MakePassage("a", "one"), MakePassage("a", "again")}, {.mode = IngestMode::kUpsert});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->accepted_count, 2);
  EXPECT_EQ(result->duplicate_count, 1);
  EXPECT_EQ(SearchIds("s", "again", 5), std::vector<std::string>{"a"});
}

TEST_F(IngesterTest, AVectorThatTheFileCannotHoldIsABadLine) {
  Start();
  const std::string fingerprint = (*registry_->Get(""))->spec().fingerprint.ToString();
  auto ingester =
      Ingester::Start(*manager_, {.store = "s", .element_type = ElementType::kFloat16, .encoder_fingerprint = fingerprint});
  ASSERT_TRUE(ingester.ok()) << ingester.status();
  std::vector<float> vectors(2 * kDim, 0.5f);
  vectors[kDim + 3] = 1e6f;
  ASSERT_TRUE((*ingester)->Add({MakePassage("a", "one"), MakePassage("b", "two")}, vectors, kDim).ok());
  const auto result = (*ingester)->Finish();
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->rejected_count, 1);
  EXPECT_THAT(result->errors[0].message, HasSubstr("the limit of float16 is 65504"));
}

TEST_F(IngesterTest, NothingReplacesNothing) {
  Start();
  ASSERT_TRUE(Ingest("s", {MakePassage("a", "one")}).ok());
  const std::string before = manager_->GetStore("s")->generation;
  const auto empty = Ingest("s", {});
  EXPECT_EQ(empty.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(GetErrorReason(empty.status())->reason, "EMPTY_INGEST");
  const auto rejected = Ingest("s", {MakePassage("", "no id")});
  ASSERT_TRUE(rejected.ok()) << rejected.status();
  EXPECT_TRUE(rejected->generation.empty());
  EXPECT_EQ(rejected->rejected_count, 1);
  EXPECT_EQ(manager_->GetStore("s")->generation, before);
  EXPECT_EQ(manager_->ListGenerations("s")->generations.size(), 1u);
}

TEST_F(IngesterTest, ManyBatchesComeOutAsOneGeneration) {
  Start();
  auto ingester = Ingester::Start(*manager_, {.store = "s"});
  ASSERT_TRUE(ingester.ok()) << ingester.status();
  for (int b = 0; b < 10; ++b) {
    std::vector<loci::v1::Passage> batch;
    for (int i = 0; i < 300; ++i) batch.push_back(MakePassage(absl::StrCat("p", b * 300 + i), absl::StrCat("number ", b * 300 + i)));
    ASSERT_TRUE((*ingester)->Add(std::move(batch), {}, 0).ok());
  }
  const auto result = (*ingester)->Finish();
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->accepted_count, 3000);
  EXPECT_EQ(SearchIds("s", "number 1234", 1), std::vector<std::string>{"p1234"});
}

TEST_F(IngesterTest, TakesVectorsOfAKnownEncoderAsTheyAre) {
  Start();
  const std::string fingerprint = (*registry_->Get(""))->spec().fingerprint.ToString();
  auto ingester = Ingester::Start(*manager_, {.store = "s", .encoder_fingerprint = fingerprint});
  ASSERT_TRUE(ingester.ok()) << ingester.status();
  std::vector<float> vectors(3 * kDim, 0.0f);
  vectors[0] = 1.0f;
  vectors[kDim] = std::numeric_limits<float>::quiet_NaN();
  vectors[2 * kDim] = 3e38f;
  ASSERT_TRUE((*ingester)->Add({MakePassage("a", "one"), MakePassage("b", "two"), MakePassage("c", "three")}, vectors, kDim).ok());
  const auto result = (*ingester)->Finish();
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->accepted_count, 1);
  EXPECT_EQ(result->rejected_count, 2);
  const auto set = *manager_->Capture("s", "");
  std::vector<float> stored(kDim);
  ASSERT_TRUE(set->view->CopyVector(**set->view->Find("a"), stored.data()).ok());
  EXPECT_EQ(stored, std::vector<float>(vectors.begin(), vectors.begin() + kDim));
}

TEST_F(IngesterTest, RefusesVectorsThatNobodyCouldAskFor) {
  Start();
  EXPECT_EQ(Ingester::Start(*manager_, {.store = "s", .encoder_fingerprint = "0123456789abcdef"}).status().code(),
            absl::StatusCode::kFailedPrecondition);
  auto unnamed = Ingester::Start(*manager_, {.store = "s"});
  ASSERT_TRUE(unnamed.ok());
  const absl::Status status = (*unnamed)->Add({MakePassage("a", "one")}, std::vector<float>(kDim, 0.1f), kDim);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("encoder_fingerprint"));
  const std::string fingerprint = (*registry_->Get(""))->spec().fingerprint.passage;
  auto wrong_shape = Ingester::Start(*manager_, {.store = "s", .encoder_fingerprint = fingerprint});
  ASSERT_TRUE(wrong_shape.ok());
  EXPECT_EQ((*wrong_shape)->Add({MakePassage("a", "one")}, std::vector<float>(kDim + 1, 0.1f), kDim + 1).code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_F(IngesterTest, LeavesNothingWithoutFinish) {
  Start();
  ASSERT_TRUE(Ingest("s", {MakePassage("a", "one")}).ok());
  {
    auto ingester = Ingester::Start(*manager_, {.store = "s"});
    ASSERT_TRUE(ingester.ok());
    ASSERT_TRUE((*ingester)->Add({MakePassage("b", "two")}, {}, 0).ok());
  }
  EXPECT_EQ(manager_->ListGenerations("s")->generations.size(), 1u);
  EXPECT_EQ(SearchIds("s", "two", 5), std::vector<std::string>{"a"});
}

TEST_F(IngesterTest, ACancelledIngestEnds) {
  Start();
  RequestLimits limits;
  auto ingester = Ingester::Start(*manager_, {.store = "s", .limits = limits});
  ASSERT_TRUE(ingester.ok());
  limits.Cancel();
  absl::Status status = (*ingester)->Add({MakePassage("b", "two")}, {}, 0);
  if (status.ok()) status = (*ingester)->Finish().status();
  EXPECT_EQ(status.code(), absl::StatusCode::kCancelled);
}

TEST_F(IngesterTest, UpsertsIntoWhatIsThere) {
  Start();
  ASSERT_TRUE(Ingest("s", {MakePassage("a", "one"), MakePassage("b", "two")}).ok());
  const auto result = Ingest("s", {MakePassage("b", "second"), MakePassage("c", "third")}, {.mode = IngestMode::kUpsert});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->accepted_count, 2);
  EXPECT_EQ(manager_->GetStore("s")->passage_count, 3);
  EXPECT_EQ(manager_->GetStore("s")->overlay_count, 2);
  // A store that is not there is made.
  ASSERT_TRUE(Ingest("new", {MakePassage("a", "one")}, {.mode = IngestMode::kUpsert}).ok());
  EXPECT_EQ(manager_->GetStore("new")->passage_count, 1);
}

TEST_F(IngesterTest, ABadIndexIsRefused) {
  Start();
  EXPECT_EQ(Ingest("s", {MakePassage("a", "one")}, {.index = "IVF99999999999"}).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Ingest("s", {MakePassage("a", "one")}, {.index = "nonsense"}).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(IngesterTest, MeasuresRecallOfAnApproximateIndex) {
  Start();
  std::vector<loci::v1::Passage> passages;
  for (int i = 0; i < 500; ++i) passages.push_back(MakePassage(absl::StrCat("p", i), absl::StrCat("the text of number ", i, " is here")));
  const auto result = Ingest("s", std::move(passages), {.index = "IVF4,Flat"});
  ASSERT_TRUE(result.ok()) << result.status();
  const storage::Manifest manifest = manager_->ListGenerations("s")->generations[0].manifest;
  EXPECT_EQ(manifest.index(), "IVF4,Flat");
  EXPECT_GT(manifest.recall_query_count(), 0);
  EXPECT_GT(manifest.recall_at_10(), 0.3);
  EXPECT_THAT(manifest.recall_query_source(), HasSubstr("words in a row"));
}

}  // namespace
}  // namespace loci
