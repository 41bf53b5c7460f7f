#include "retriever/recall_queries.h"

#include <algorithm>
#include <cstdint>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "base/clock.h"
#include "base/metrics.h"
#include "base/utf8.h"
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

TEST(RecallQueryText, IsThreeToFiveWordsInARowOfTheTextAndTheSameEachTime) {
  std::set<int64_t> counts, places;
  for (int text = 0; text < 60; ++text) {
    std::vector<std::string> words;
    for (int word = 0; word < 20; ++word) words.push_back(absl::StrCat("w", text, "x", word));
    const std::string joined = absl::StrJoin(words, " ");
    const std::string query = RecallQueryText(MakePassage("another title", absl::StrCat(" \t", absl::StrReplaceAll(joined, {{" ", "\n "}}))));
    EXPECT_EQ(query, RecallQueryText(MakePassage("t", absl::StrCat(" \t", absl::StrReplaceAll(joined, {{" ", "\n "}})))));
    EXPECT_NE(joined.find(query), std::string::npos) << query;
    counts.insert(std::count(query.begin(), query.end(), ' ') + 1);
    places.insert(static_cast<int64_t>(joined.find(query)));
  }
  EXPECT_EQ(counts, (std::set<int64_t>{3, 4, 5}));
  EXPECT_GT(places.size(), 10u);
}

TEST(RecallQueryText, LeavesSomethingOutOfAShortText) {
  const std::string three = RecallQueryText(MakePassage("t", "  a\tb\nc  "));
  EXPECT_TRUE(three == "a b" || three == "b c") << three;
  const std::string two = RecallQueryText(MakePassage("t", "a b"));
  EXPECT_TRUE(two == "a" || two == "b") << two;
}

TEST(RecallQueryText, TakesTheTitleOfAShorterTextStill) {
  const std::string title = RecallQueryText(MakePassage("one two", "a"));
  EXPECT_TRUE(title == "one" || title == "two") << title;
  EXPECT_EQ(RecallQueryText(MakePassage("one", "a")), "");
  EXPECT_EQ(RecallQueryText(MakePassage("", "")), "");
}

TEST(RecallQueryText, TakesCharactersOfATextWithoutSpacesAndCutsLongWordsBetweenThem) {
  std::string text;
  for (int i = 0; i < 40; ++i) text += "\xe6\xbc\xa2\xe5\xad\x97";
  const std::string query = RecallQueryText(MakePassage("", text));
  EXPECT_TRUE(IsValidUtf8(query));
  EXPECT_GE(query.size(), 3u * 6);
  EXPECT_LE(query.size(), 3u * 10);
  const std::string cut = RecallQueryText(MakePassage("", absl::StrCat(text, " ", text, " ", text)));
  EXPECT_TRUE(IsValidUtf8(cut));
  EXPECT_EQ(cut.size(), 78u);
}

class EncodeRecallQueriesTest : public ::testing::Test {
 protected:
  std::shared_ptr<FakeEncoder> fake_ = std::make_shared<FakeEncoder>(FakeEncoderOptions{.dim = 16, .query_prefix = "ask "});
  TextEncoder encoder_{fake_, {}, RealClock(), NullMetrics()};
};

TEST_F(EncodeRecallQueriesTest, EncodesAsQueriesAndSkipsWhatGivesNoText) {
  const std::vector<loci::v1::Passage> sample = {MakePassage("", "a b c"), MakePassage("", "a"), MakePassage("", "d e f")};
  const std::vector<std::string> texts = {RecallQueryText(sample[0]), RecallQueryText(sample[2])};
  const absl::StatusOr<std::vector<float>> vectors = EncodeRecallQueries(encoder_, sample, RequestLimits());
  ASSERT_TRUE(vectors.ok()) << vectors.status();
  const absl::StatusOr<EncodedTexts> expected = encoder_.EncodeAndWait(texts, {.role = TextRole::kQuery});
  ASSERT_TRUE(expected.ok()) << expected.status();
  EXPECT_EQ(*vectors, expected->vectors);
  EXPECT_NE(expected->vectors, encoder_.EncodeAndWait(texts, {.role = TextRole::kPassage})->vectors);
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
