#include "retriever/sentence_reader.h"

#include <atomic>
#include <future>
#include <mutex>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/metrics.h"
#include "encoder/testing/fake_encoder.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace loci {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

// Weights of the test's own: the defaults change when they are fitted anew.
SentenceReaderOptions Weights(double bias, double cosine, double margin, double overlap, double abstain_threshold) {
  return {.bias = bias,
          .cosine_weight = cosine,
          .margin_weight = margin,
          .overlap_weight = overlap,
          .abstain_threshold = abstain_threshold};
}

// Every sentence is good enough: for tests of what is chosen, not of whether.
SentenceReaderOptions Eager() { return Weights(0, 4, 0, 0, 0); }

class SentenceReaderTest : public ::testing::Test {
 protected:
  SentenceReaderTest() {
    fake_->set_on_encode([this](const PackedBatch& batch) {
      const std::lock_guard<std::mutex> lock(mutex_);
      encoded_sentences_ += static_cast<int>(batch.sequence_count());
      encoded_tokens_ += static_cast<int>(batch.token_count());
      return encoder_status_;
    });
  }

  ReadRequest Request(const std::string& question, const std::vector<std::string>& texts, int max_answers = 1) {
    ReadRequest request{.question = question, .max_answers = max_answers};
    std::vector<int32_t> ids = {fake_->tokenizer().cls_id()};
    fake_->tokenizer().Tokenize(question, &ids);
    ids.push_back(fake_->tokenizer().sep_id());
    request.question_vector.resize(fake_->spec().dim);
    fake_->EncodeSequence(ids, request.question_vector.data());
    for (const std::string& text : texts) {
      request.passages.emplace_back().set_text(text);
      request.passage_scores.push_back(0.5f);
    }
    return request;
  }

  absl::StatusOr<ReadResult> Read(ReadRequest request, const SentenceReaderOptions& options = Eager()) {
    std::promise<absl::StatusOr<ReadResult>> promise;
    const std::shared_ptr<const Reader> reader = MakeSentenceReader(options);
    reader->Read(std::move(request), encoder_, [&](absl::StatusOr<ReadResult> result) {
      ++done_calls_;
      promise.set_value(std::move(result));
    });
    return promise.get_future().get();
  }

  std::vector<std::string> Texts(const absl::StatusOr<ReadResult>& result) {
    std::vector<std::string> texts;
    if (!result.ok()) return {result.status().ToString()};
    for (const ReadAnswer& answer : result->answers) texts.push_back(answer.text);
    return texts;
  }

  std::shared_ptr<FakeEncoder> fake_ = std::make_shared<FakeEncoder>(FakeEncoderOptions{.dim = 64, .max_length = 32});
  std::mutex mutex_;
  absl::Status encoder_status_;
  int encoded_sentences_ = 0;
  int encoded_tokens_ = 0;
  std::atomic<int> done_calls_ = 0;
  TextEncoder encoder_{fake_, {}, RealClock(), NullMetrics()};  // Last: it calls the others.
};

TEST_F(SentenceReaderTest, GivesTheNearestSentenceVerbatimWithItsBytes) {
  const std::string text = "Caf\u00e9s open at \u4e03. The river \u2018Lo\u00eff\u2019 floods in spring!  It is long.";
  const ReadRequest request = Request("When does the river flood in spring?", {"Nothing here.", text});
  const absl::StatusOr<ReadResult> result = Read(request);
  ASSERT_TRUE(result.ok()) << result.status();
  ASSERT_EQ(result->answers.size(), 1u);
  const ReadAnswer& answer = result->answers[0];
  EXPECT_EQ(answer.text, "The river \u2018Lo\u00eff\u2019 floods in spring!");
  EXPECT_EQ(answer.passage, 1);
  EXPECT_EQ(text.substr(answer.start_byte, answer.end_byte - answer.start_byte), answer.text);
  EXPECT_FALSE(result->abstained);
  EXPECT_EQ(done_calls_, 1);
}

TEST_F(SentenceReaderTest, OrdersByConfidenceAndStopsAtMaxAnswers) {
  const std::vector<std::string> texts = {"Green apples fall. Red apples grow on tall trees.", "Red apples grow on old trees in May."};
  const absl::StatusOr<ReadResult> two = Read(Request("red apples grow on tall trees", texts, 2));
  EXPECT_THAT(Texts(two), ElementsAre("Red apples grow on tall trees.", "Red apples grow on old trees in May."));
  EXPECT_GT(two->answers[0].score, two->answers[1].score);
  EXPECT_LE(two->answers[0].score, 1);
  EXPECT_EQ(Texts(Read(Request("red apples grow on tall trees", texts, 9))).size(), 3u);
}

TEST_F(SentenceReaderTest, GivesASentenceOfTwoPassagesOnce) {
  const absl::StatusOr<ReadResult> result = Read(Request("red apples", {"Red apples. Blue.", "Red apples. Green."}, 9));
  EXPECT_THAT(Texts(result), testing::UnorderedElementsAre("Red apples.", "Blue.", "Green."));
  EXPECT_EQ(result->answers[0].passage, 0);
}

TEST_F(SentenceReaderTest, ReadsASentenceUnderItsTitle) {
  ReadRequest request = Request("how tall is mount fuji", {"It is tall.", "It is tall, too."});
  request.passages[1].set_title("Mount Fuji");
  EXPECT_THAT(Texts(Read(request)), ElementsAre("It is tall, too."));
}

TEST_F(SentenceReaderTest, EachEvidenceCounts) {
  ReadRequest margin = Request("x", {"One here.", "Two here."});
  margin.passage_scores = {0.2f, 0.9f};
  EXPECT_THAT(Texts(Read(margin, Weights(0, 0, 1, 0, 0))), ElementsAre("Two here."));
  const ReadRequest overlap = Request("Who painted walls?", {"Who does the this. He paints a wall."});
  EXPECT_THAT(Texts(Read(overlap, Weights(0, 0, 0, 1, 0))), ElementsAre("He paints a wall."));
}

TEST_F(SentenceReaderTest, AbstainsBelowTheThreshold) {
  const ReadRequest request = Request("red apples", {"Red apples. Blue whales."}, 9);
  EXPECT_THAT(Texts(Read(request, Weights(-16, 20, 0, 0, 0.5))), ElementsAre("Red apples."));  // The other is below it.
  const absl::StatusOr<ReadResult> result = Read(request, Weights(-21, 20, 0, 0, 0.5));
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_TRUE(result->abstained);
  EXPECT_THAT(result->answers, IsEmpty());
}

TEST_F(SentenceReaderTest, AbstainsWhereThereIsNothingToRead) {
  for (const std::vector<std::string>& texts : {std::vector<std::string>{}, {""}, {" \n ", ""}, {"Is it red? (Or blue?)"}}) {
    done_calls_ = 0;
    const absl::StatusOr<ReadResult> result = Read(Request("red", texts));
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_TRUE(result->abstained);
    EXPECT_THAT(result->answers, IsEmpty());
    EXPECT_EQ(done_calls_, 1);
  }
  EXPECT_EQ(encoded_sentences_, 0);
}

TEST_F(SentenceReaderTest, NeverAnswersWithAQuestion) {
  const absl::StatusOr<ReadResult> result =
      Read(Request("red apples", {"Red apples? [[Red apples?]] Apples in \u4e2d\uff1f \u201cRed?\u201d Whales are not."}, 9));
  EXPECT_THAT(Texts(result), ElementsAre("Whales are not."));
}

TEST_F(SentenceReaderTest, KeepsItsLimits) {
  std::string text;
  for (int i = 0; i < 100; ++i) text += "Word" + std::to_string(i) + " and three more. ";
  SentenceReaderOptions options = Eager();
  options.limits = {.max_sentences = 7, .max_sentences_per_passage = 4, .max_tokens = 1000};
  EXPECT_EQ(Texts(Read(Request("word", {text, text}, 99), options)).size(), 4u);  // The second passage's are the same.
  EXPECT_EQ(encoded_sentences_, 7);
  options.limits = {.max_sentences = 1000, .max_sentences_per_passage = 1000, .max_tokens = 20};  // A sentence has 6 tokens.
  encoded_sentences_ = encoded_tokens_ = 0;
  EXPECT_EQ(Texts(Read(Request("word", {text}, 99), options)).size(), 3u);
  EXPECT_EQ(encoded_tokens_, 18);
  options.limits.max_tokens = 1;
  EXPECT_EQ(Texts(Read(Request("word", {text}, 99), options)).size(), 1u);
}

TEST_F(SentenceReaderTest, PassesOnTheEncodersError) {
  encoder_status_ = absl::InternalError("the device is gone");
  const absl::StatusOr<ReadResult> result = Read(Request("red", {"Red apples."}));
  EXPECT_EQ(result.status().code(), absl::StatusCode::kInternal);
  EXPECT_EQ(done_calls_, 1);
  ReadRequest cancelled = Request("red", {"Red apples."});
  cancelled.limits.Cancel();
  EXPECT_EQ(Read(cancelled).status().code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(done_calls_, 2);
}

TEST(PassageMargin, IsTheLeadOverTheBestOther) {
  EXPECT_NEAR(PassageMargin({0.9f, 0.7f, 0.6f}, 0), 0.2, 1e-6);
  EXPECT_NEAR(PassageMargin({0.9f, 0.7f, 0.6f}, 2), -0.3, 1e-6);
  EXPECT_EQ(PassageMargin({0.9f}, 0), 0);
}

TEST(QuestionWords, CountsContentWords) {
  const QuestionWords words("Who was walking to the \u00c9glise in 1990?");  // walki, the church's first bytes, 1990
  EXPECT_NEAR(words.ShareIn("He WALKING."), 1.0 / 3, 1e-9);
  EXPECT_NEAR(words.ShareIn("1990: walkings to the \u00c9glise"), 1, 1e-9);
  EXPECT_EQ(words.ShareIn("who was to the in"), 0);
  EXPECT_EQ(QuestionWords("who is it?").ShareIn("who is it"), 0);
  EXPECT_EQ(QuestionWords("").ShareIn(""), 0);
}

}  // namespace
}  // namespace loci
