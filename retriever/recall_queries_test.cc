#include "retriever/recall_queries.h"

#include <memory>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/metrics.h"
#include "encoder/testing/fake_encoder.h"
#include "gtest/gtest.h"

namespace loci {
namespace {

loci::v1::Passage MakePassage(const std::string& title, const std::string& text) {
  loci::v1::Passage passage;
  passage.set_title(title);
  passage.set_text(text);
  return passage;
}

TEST(RecallQueryText, IsTheMiddleThirdOfTheText) {
  EXPECT_EQ(RecallQueryText(MakePassage("t", "a b c d e f")), "c d");
  EXPECT_EQ(RecallQueryText(MakePassage("t", "  a\tb\nc  ")), "b");
  EXPECT_EQ(RecallQueryText(MakePassage("t", "a b c d e f g")), "c d e");
}

TEST(RecallQueryText, TakesTheTitleOfAShortText) {
  EXPECT_EQ(RecallQueryText(MakePassage("one two three", "a b")), "two");
  EXPECT_EQ(RecallQueryText(MakePassage("one two", "a b")), "");
  EXPECT_EQ(RecallQueryText(MakePassage("", "")), "");
}

class EncodeRecallQueriesTest : public ::testing::Test {
 protected:
  std::shared_ptr<FakeEncoder> fake_ = std::make_shared<FakeEncoder>(FakeEncoderOptions{.dim = 16, .query_prefix = "ask "});
  TextEncoder encoder_{fake_, {}, RealClock(), NullMetrics()};
};

TEST_F(EncodeRecallQueriesTest, EncodesAsQueriesAndSkipsWhatGivesNoText) {
  const std::vector<loci::v1::Passage> sample = {MakePassage("", "a b c"), MakePassage("", "a"), MakePassage("", "d e f")};
  const absl::StatusOr<std::vector<float>> vectors = EncodeRecallQueries(encoder_, sample, RequestLimits());
  ASSERT_TRUE(vectors.ok()) << vectors.status();
  const absl::StatusOr<EncodedTexts> expected = encoder_.EncodeAndWait({"b", "e"}, {.role = TextRole::kQuery});
  ASSERT_TRUE(expected.ok()) << expected.status();
  EXPECT_EQ(*vectors, expected->vectors);
  EXPECT_NE(expected->vectors, encoder_.EncodeAndWait({"b", "e"}, {.role = TextRole::kPassage})->vectors);
}

TEST_F(EncodeRecallQueriesTest, NothingInNothingOut) {
  const absl::StatusOr<std::vector<float>> vectors = EncodeRecallQueries(encoder_, {}, RequestLimits());
  ASSERT_TRUE(vectors.ok()) << vectors.status();
  EXPECT_TRUE(vectors->empty());
}

TEST_F(EncodeRecallQueriesTest, PassesOnErrors) {
  const RequestLimits limits;
  limits.Cancel();
  EXPECT_EQ(EncodeRecallQueries(encoder_, {MakePassage("", "a b c")}, limits).status().code(), absl::StatusCode::kCancelled);
  fake_->set_on_encode([](const PackedBatch&) { return absl::InternalError("broken"); });
  EXPECT_EQ(EncodeRecallQueries(encoder_, {MakePassage("", "a b c")}, RequestLimits()).status().code(), absl::StatusCode::kInternal);
}

}  // namespace
}  // namespace loci
