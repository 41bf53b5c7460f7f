#include "retriever/store_tuner.h"

#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "gtest/gtest.h"
#include "retriever/testing/retriever_fixture.h"

namespace loci {
namespace {

class StoreTunerTest : public RetrieverFixture {
 protected:
  static std::vector<loci::v1::Passage> Passages(int count) {
    std::vector<loci::v1::Passage> passages;
    for (int i = 0; i < count; ++i) passages.push_back(MakePassage(absl::StrCat("p", i), absl::StrCat("word", i % 17, " thing", i % 23, " number ", i)));
    return passages;
  }
  static TuneOptions Options() { return {.recall_target = 0.9, .exact_rows = 100}; }

  // Names in the store's folder that are no generation's and no file of the store.
  std::vector<std::string> Leftovers() {
    std::vector<std::string> names;
    const auto listed = manager_->fs().List(manager_->StoreDirectory("s"));
    EXPECT_TRUE(listed.ok()) << listed.status();
    for (const std::string& name : listed.value_or(std::vector<std::string>())) {
      if (name[0] == '.') names.push_back(name);
    }
    return names;
  }
};

TEST_F(StoreTunerTest, MeasuresWhatServesAndChangesNothing) {
  Start();
  const std::string generation = Ingest("s", Passages(600))->generation;
  std::set<std::string> phases;
  std::string chosen;
  OperationControl control;
  control.progress = [&](std::string_view phase, int64_t, int64_t) { phases.insert(std::string(phase)); };
  control.chosen = [&](const std::string& name) { chosen = name; };
  const auto result = TuneStore(*manager_, "s", Options(), control);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->generation, generation);
  EXPECT_EQ(chosen, generation);
  EXPECT_EQ(result->tuning.row_count(), 600);
  EXPECT_GT(result->tuning.query_count(), 200);
  EXPECT_NE(result->tuning.query_source().find("words in a row"), std::string::npos);
  EXPECT_GE(result->tuning.front_size(), 1);
  EXPECT_EQ(phases, (std::set<std::string>{"encode", "tune"}));
  EXPECT_TRUE(Leftovers().empty());
  EXPECT_EQ(manager_->ListGenerations("s")->generations.size(), 1u);
}

TEST_F(StoreTunerTest, TakesQueriesOfTheRequest) {
  Start();
  ASSERT_TRUE(Ingest("s", Passages(200)).ok());
  TuneOptions options = Options();
  options.queries = {"word3 thing4", "number 7"};
  const auto result = TuneStore(*manager_, "s", options, {});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->tuning.query_count(), 2);
  EXPECT_EQ(result->tuning.query_source(), "queries of the request");
}

TEST_F(StoreTunerTest, AnEncoderThatComesLaterEncodesTheQueries) {
  Start();
  ASSERT_TRUE(Ingest("s", Passages(200)).ok());
  Stop();
  ASSERT_TRUE(fs_.DeleteRecursively(JoinPath(DataDirectory(), "encoders")).ok());
  Start(/*import_encoder=*/false);
  TuneOptions options = Options();
  options.queries = {"word3 thing4"};
  EXPECT_EQ(GetErrorReason(TuneStore(*manager_, "s", options, {}).status())->reason, "ENCODER_MISMATCH");
  ASSERT_TRUE(registry_->Import(CheckpointDirectory(1)).ok());
  const auto result = TuneStore(*manager_, "s", options, {});
  EXPECT_TRUE(result.ok()) << result.status();
}

TEST_F(StoreTunerTest, RefusesWhatHasNothingToMeasure) {
  Start();
  EXPECT_EQ(TuneStore(*manager_, "absent", Options(), {}).status().code(), absl::StatusCode::kNotFound);
  ASSERT_TRUE(manager_->CreateStore("s").ok());
  absl::Status status = TuneStore(*manager_, "s", Options(), {}).status();
  EXPECT_EQ(GetErrorReason(status)->reason, "NO_ACTIVE_GENERATION") << status;
  ASSERT_TRUE(manager_->Upsert("s", Passages(3), {}).ok());  // Over an empty generation.
  status = TuneStore(*manager_, "s", Options(), {}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(GetErrorReason(status)->reason, "EMPTY_STORE") << status;
}

TEST_F(StoreTunerTest, EndsWhenCancelledAndLeavesNothing) {
  Start();
  ASSERT_TRUE(Ingest("s", Passages(300)).ok());
  OperationControl control;
  control.progress = [&](std::string_view phase, int64_t done, int64_t) {
    if (phase == "tune" && done == 1) control.limits.Cancel();
  };
  EXPECT_EQ(TuneStore(*manager_, "s", Options(), control).status().code(), absl::StatusCode::kCancelled);
  EXPECT_TRUE(Leftovers().empty());
}

TEST_F(StoreTunerTest, AStoreThatIsDeletedMeanwhileStaysDeleted) {
  Start();
  ASSERT_TRUE(Ingest("s", Passages(300)).ok());
  OperationControl control;
  control.progress = [&](std::string_view phase, int64_t, int64_t) {
    if (phase == "encode") {
      EXPECT_TRUE(manager_->DeleteStore("s").ok());
    }
  };
  const absl::Status status = TuneStore(*manager_, "s", Options(), control).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound) << status;
  EXPECT_EQ(GetErrorReason(status)->reason, "STORE_NOT_FOUND");
  EXPECT_FALSE(fs_.Exists(manager_->StoreDirectory("s")));
}

}  // namespace
}  // namespace loci
