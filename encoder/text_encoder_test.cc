#include "encoder/text_encoder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "base/fake_metrics.h"
#include "encoder/testing/fake_encoder.h"

namespace loci {
namespace {

using ::testing::HasSubstr;

// Words w<begin> to w<end - 1>.
std::string Words(int begin, int end) {
  std::string text;
  for (int i = begin; i < end; ++i) absl::StrAppend(&text, i > begin ? " " : "", "w", i);
  return text;
}

class TextEncoderTest : public testing::Test {
 protected:
  void Make(FakeEncoderOptions options, BatcherOptions batcher = {}) {
    encoder_ = std::make_shared<FakeEncoder>(options);
    text_encoder_ = std::make_unique<TextEncoder>(encoder_, batcher, clock_, metrics_);
  }
  // The vector of one sequence: `text` between [CLS] and [SEP].
  std::vector<float> Vector(const std::string& text) {
    std::vector<int32_t> ids = {encoder_->tokenizer().cls_id()};
    encoder_->tokenizer().Tokenize(text, &ids);
    ids.push_back(encoder_->tokenizer().sep_id());
    std::vector<float> vector(static_cast<size_t>(encoder_->spec().dim));
    encoder_->EncodeSequence(ids, vector.data());
    return vector;
  }
  std::vector<float> Row(const EncodedTexts& encoded, size_t i) {
    const auto dim = static_cast<std::ptrdiff_t>(encoder_->spec().dim);
    const auto begin = encoded.vectors.begin() + static_cast<std::ptrdiff_t>(i) * dim;
    return {begin, begin + dim};
  }

  FakeClock clock_;
  FakeMetrics metrics_;
  std::shared_ptr<FakeEncoder> encoder_;
  std::unique_ptr<TextEncoder> text_encoder_;
};

TEST_F(TextEncoderTest, ReservesAboutTheTokensOfTheTextsBeforeTheyAreCut) {
  Make({.max_length = 10}, {.max_queued_tokens = 100});
  const auto reserve = [this](int64_t count, int64_t bytes, Truncation truncation) {
    return text_encoder_->Reserve(count, bytes, {.truncation = truncation}, 0);
  };
  const absl::StatusOr<EncodeBacklog::Share> held = reserve(1, 4 * 48, Truncation::kPoolWindows);  // 50 tokens
  ASSERT_TRUE(held.ok()) << held.status();
  EXPECT_FALSE(reserve(1, 4 * 49, Truncation::kPoolWindows).ok());
  EXPECT_TRUE(reserve(5, 100'000, Truncation::kTruncate).ok()) << "10 tokens each";
  EXPECT_FALSE(reserve(6, 100'000, Truncation::kTruncate).ok());
}

TEST_F(TextEncoderTest, DoesNotTokenizeForWhoIsGone) {
  Make({});
  RequestLimits cancelled;
  cancelled.Cancel();
  EXPECT_EQ(text_encoder_->EncodeAndWait({"x"}, {.limits = cancelled}).status().code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(metrics_.value("loci_avoided_work_total", {{"phase", "tokenize"}}), 1);
  EXPECT_EQ(metrics_.value("loci_wasted_work_total", {{"phase", "tokenize"}}), 0);
}

TEST_F(TextEncoderTest, EncodesTextsInOrderAndCountsTokens) {
  Make({});
  const auto encoded = text_encoder_->EncodeAndWait({"one", "", "two words"}, {});
  ASSERT_TRUE(encoded.ok()) << encoded.status();
  ASSERT_EQ(encoded->vectors.size(), 24u);
  EXPECT_EQ(Row(*encoded, 0), Vector("one"));
  EXPECT_EQ(Row(*encoded, 1), Vector("")) << "an empty text is two tokens";
  EXPECT_EQ(Row(*encoded, 2), Vector("two words"));
  EXPECT_EQ(encoded->usage[0].input_tokens, 3);
  EXPECT_EQ(encoded->usage[1].input_tokens, 2);
  EXPECT_EQ(encoded->usage[2].used_tokens, 4);
  EXPECT_FALSE(encoded->usage[2].truncated);
}

TEST_F(TextEncoderTest, NoTextsNoVectors) {
  Make({});
  const auto encoded = text_encoder_->EncodeAndWait({}, {});
  ASSERT_TRUE(encoded.ok());
  EXPECT_TRUE(encoded->vectors.empty());
  EXPECT_TRUE(encoded->usage.empty());
}

TEST_F(TextEncoderTest, TruncatesAndSaysSo) {
  Make({.max_length = 12});
  const auto encoded = text_encoder_->EncodeAndWait({Words(0, 10), Words(0, 11), Words(0, 300)}, {});
  ASSERT_TRUE(encoded.ok());
  EXPECT_EQ(encoded->usage[0].input_tokens, 12);
  EXPECT_FALSE(encoded->usage[0].truncated) << "it just fits";
  EXPECT_EQ(encoded->usage[1].input_tokens, 13);
  EXPECT_EQ(encoded->usage[1].used_tokens, 12);
  EXPECT_TRUE(encoded->usage[1].truncated);
  EXPECT_EQ(encoded->usage[2].input_tokens, 302);
  for (size_t i = 0; i < 3; ++i) EXPECT_EQ(Row(*encoded, i), Vector(Words(0, 10)));
}

TEST_F(TextEncoderTest, RefusesNamingTextTokensAndLimit) {
  Make({.max_length = 12});
  EncodeTextOptions options;
  options.truncation = Truncation::kRefuse;
  EXPECT_TRUE(text_encoder_->EncodeAndWait({Words(0, 10)}, options).ok());
  const auto encoded = text_encoder_->EncodeAndWait({"short", Words(0, 11)}, options);
  EXPECT_EQ(encoded.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(encoded.status().message()), HasSubstr("text 1 has 13 tokens, the encoder takes 12"));
  EXPECT_EQ(GetErrorReason(encoded.status())->reason, "TEXT_TOO_LONG");
}

TEST_F(TextEncoderTest, PoolsWindowsWeightedByTheirTokens) {
  for (const bool normalize : {true, false}) {
    Make({.max_length = 12, .normalize = normalize});
    EncodeTextOptions options;
    options.truncation = Truncation::kPoolWindows;
    const auto encoded = text_encoder_->EncodeAndWait({"before", Words(0, 23), Words(5, 15), Words(0, 20)}, options);
    ASSERT_TRUE(encoded.ok()) << encoded.status();
    EXPECT_EQ(Row(*encoded, 0), Vector("before"));
    EXPECT_EQ(Row(*encoded, 2), Vector(Words(5, 15))) << "one window: its own vector, bit for bit";
    const auto check = [&](size_t text, const std::vector<std::vector<float>>& windows, const std::vector<double>& weights) {
      std::vector<double> mean(8, 0.0);
      double norm = 0;
      for (size_t d = 0; d < 8; ++d) {
        double total = 0;
        for (size_t w = 0; w < windows.size(); ++w) {
          mean[d] += weights[w] * static_cast<double>(windows[w][d]);
          total += weights[w];
        }
        mean[d] /= total;
        norm += mean[d] * mean[d];
      }
      for (size_t d = 0; d < 8; ++d) {
        EXPECT_NEAR(static_cast<double>(Row(*encoded, text)[d]), mean[d] / (normalize ? std::sqrt(norm) : 1), 1e-6)
            << text << " " << d;
      }
    };
    check(1, {Vector(Words(0, 10)), Vector(Words(10, 20)), Vector(Words(20, 23))}, {10, 10, 3});
    check(3, {Vector(Words(0, 10)), Vector(Words(10, 20))}, {10, 10});
    EXPECT_EQ(encoded->usage[1].input_tokens, 25);
    EXPECT_EQ(encoded->usage[1].used_tokens, 25);
    EXPECT_FALSE(encoded->usage[1].truncated);
  }
}

TEST_F(TextEncoderTest, PutsTheRolesPrefixBeforeTheText) {
  Make({.max_length = 6, .query_prefix = "query: ", .passage_prefix = "passage: "});
  EncodeTextOptions options;
  const auto passage = text_encoder_->EncodeAndWait({"text"}, options);
  options.role = TextRole::kQuery;
  const auto query = text_encoder_->EncodeAndWait({"text", Words(0, 4)}, options);
  EXPECT_EQ(Row(*passage, 0), Vector("passage: text"));
  EXPECT_EQ(Row(*query, 0), Vector("query: text"));
  EXPECT_EQ(query->usage[0].input_tokens, 4) << "the prefix is counted";
  EXPECT_TRUE(query->usage[1].truncated);
  EXPECT_EQ(Row(*query, 1), Vector("query: w0 w1 w2"));
}

TEST_F(TextEncoderTest, StopsForCancellationDeadlineAndTooManyTokens) {
  Make({}, {.max_queued_tokens = 10});
  EncodeTextOptions cancelled;
  cancelled.limits.Cancel();
  EXPECT_EQ(text_encoder_->EncodeAndWait({"a"}, cancelled).status().code(), absl::StatusCode::kCancelled);
  EncodeTextOptions late;
  late.limits = RequestLimits(clock_.NowMicros());
  EXPECT_EQ(text_encoder_->EncodeAndWait({"a"}, late).status().code(), absl::StatusCode::kDeadlineExceeded);
  const auto large = text_encoder_->EncodeAndWait({"a", "b", "c", "d"}, {});
  EXPECT_EQ(large.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(large.status().message()), HasSubstr("12 tokens, the limit of a request is 10"));
}

TEST_F(TextEncoderTest, PassesTheEncodersErrorOn) {
  encoder_ = std::make_shared<FakeEncoder>();
  encoder_->set_on_encode([](const PackedBatch&) { return absl::InternalError("the device is gone"); });
  text_encoder_ = std::make_unique<TextEncoder>(encoder_, BatcherOptions(), clock_, NullMetrics());
  EXPECT_EQ(text_encoder_->EncodeAndWait({"a"}, {}).status().message(), "the device is gone");
}

TEST_F(TextEncoderTest, AnswersWhatWasSubmittedWhenDestroyed) {
  Make({}, {.max_batch_tokens = 5, .max_wait_us = 1'000'000'000});
  std::atomic<int> answered = 0;
  for (int i = 0; i < 20; ++i) {
    text_encoder_->Encode({"some text", "more"}, {}, [&](absl::StatusOr<EncodedTexts> result) {
      EXPECT_TRUE(result.ok());
      ++answered;
    });
  }
  text_encoder_.reset();
  EXPECT_EQ(answered, 20);
}

TEST_F(TextEncoderTest, ManyThreadsGetTheirOwnVectors) {
  Make({.max_length = 12}, {.max_batch_tokens = 40, .worker_count = 2});
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int r = 0; r < 60; ++r) {
        EncodeTextOptions options;
        options.truncation = r % 2 == 0 ? Truncation::kTruncate : Truncation::kPoolWindows;
        const auto encoded = text_encoder_->EncodeAndWait({Words(t, t + r % 10), Words(0, 15), Words(r, r + 2)}, options);
        ASSERT_TRUE(encoded.ok());
        EXPECT_EQ(Row(*encoded, 0), Vector(Words(t, t + r % 10)));
        EXPECT_EQ(Row(*encoded, 2), Vector(Words(r, r + 2)));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST_F(TextEncoderTest, QueriesGoToTheQueryTower) {
  const auto passage = std::make_shared<FakeEncoder>(FakeEncoderOptions{.max_length = 12, .query_prefix = "ask ", .fingerprint = {"q1", "p1"}});
  const auto query = std::make_shared<FakeEncoder>(FakeEncoderOptions{.max_length = 12, .query_prefix = "ask ", .fingerprint = {"q2", "p1"}});
  int passage_batches = 0, query_batches = 0;
  passage->set_on_encode([&](const PackedBatch&) { return ++passage_batches, absl::OkStatus(); });
  query->set_on_encode([&](const PackedBatch&) { return ++query_batches, absl::OkStatus(); });
  TextEncoder two({.passage = passage, .query = query, .model_name = "two"}, {.max_queued_tokens = 100}, clock_, metrics_);
  EXPECT_EQ(two.spec().fingerprint, (Fingerprint{"q2", "p1"}));
  EXPECT_EQ(two.spec().model_name, "two");
  EXPECT_EQ(two.passage_tower(), passage);
  ASSERT_TRUE(two.EncodeAndWait({"one", Words(0, 40)}, {.role = TextRole::kQuery, .truncation = Truncation::kPoolWindows}).ok());
  EXPECT_EQ(passage_batches, 0);
  EXPECT_EQ(query_batches, 1);
  ASSERT_TRUE(two.EncodeAndWait({"one"}, {.role = TextRole::kPassage}).ok());
  EXPECT_EQ(passage_batches, 1);
  EXPECT_EQ(query_batches, 1);
  // Each has its own queue.
  const auto held = two.Reserve(9, 0, {.role = TextRole::kPassage, .truncation = Truncation::kPoolWindows}, 0);
  const auto more = two.Reserve(36, 0, {.role = TextRole::kPassage, .truncation = Truncation::kPoolWindows}, 0);
  ASSERT_TRUE(held.ok() && more.ok());
  EXPECT_FALSE(two.Reserve(9, 0, {.role = TextRole::kPassage, .truncation = Truncation::kPoolWindows}, 0).ok());
  EXPECT_TRUE(two.Reserve(9, 0, {.role = TextRole::kQuery, .truncation = Truncation::kPoolWindows}, 0).ok());
}

// The parent shares a tower, and its own batcher has a queue of its own.
TEST_F(TextEncoderTest, EachOfTwoTowersHasSeriesOfItsOwn) {
  Make({});
  TextEncoder two({.passage = encoder_, .query = std::make_shared<FakeEncoder>(FakeEncoderOptions{}), .model_name = "child"}, {}, clock_, metrics_);
  const auto sequences = [&](const std::string& name, const std::string& tower) {
    MetricLabels labels = {{"encoder", name}, {"fingerprint", encoder_->spec().fingerprint.ToString()}};
    if (!tower.empty()) labels["tower"] = tower;
    return metrics_.value("loci_batcher_batch_sequences", labels);
  };
  ASSERT_TRUE(two.EncodeAndWait({"w1", "w2", "w3"}, {.role = TextRole::kQuery}).ok());
  ASSERT_TRUE(two.EncodeAndWait({"w1"}, {.role = TextRole::kPassage}).ok());
  ASSERT_TRUE(text_encoder_->EncodeAndWait({"w1", "w2"}, {.role = TextRole::kQuery}).ok());
  EXPECT_EQ(sequences("child", "query"), 3);
  EXPECT_EQ(sequences("child", "passage"), 1);
  EXPECT_EQ(sequences(encoder_->spec().model_name, ""), 2);
}

}  // namespace
}  // namespace loci
