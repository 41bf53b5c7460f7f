#include "encoder/batcher.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <future>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/fake_metrics.h"
#include "base/mutex.h"
#include "encoder/testing/fake_encoder.h"

namespace loci {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

PackedBatch Sequences(const std::vector<std::vector<int32_t>>& sequences) {
  PackedBatch batch;
  for (const auto& ids : sequences) {
    batch.token_ids.insert(batch.token_ids.end(), ids.begin(), ids.end());
    batch.offsets.push_back(static_cast<int32_t>(batch.token_count()));
  }
  return batch;
}

// `count` sequences of `length` tokens, all of them `id`: shows in a batch whose they are.
PackedBatch Marked(int32_t id, int count = 1, int length = 4) {
  return Sequences(
      std::vector<std::vector<int32_t>>(static_cast<size_t>(count), std::vector<int32_t>(static_cast<size_t>(length), id)));
}

// Collects one answer.
class Answer {
 public:
  Batcher::Done callback() {
    return [this](absl::StatusOr<BatchedVectors> result) {
      MutexLock lock(&mutex_);
      ++count_;
      result_ = std::move(result);
      changed_.NotifyAll();
    };
  }
  absl::StatusOr<BatchedVectors> Wait() {
    MutexLock lock(&mutex_);
    while (count_ == 0) changed_.Wait(&mutex_);
    return *result_;
  }
  int count() {
    MutexLock lock(&mutex_);
    return count_;
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  int count_ = 0;
  std::optional<absl::StatusOr<BatchedVectors>> result_;
};

// A fake encoder that records its batches and, while closed, holds each back after it was recorded.
class BatcherTest : public testing::Test {
 protected:
  BatcherTest() {
    encoder_.set_on_encode([this](const PackedBatch& batch) {
      MutexLock lock(&mutex_);
      batches_.push_back(batch);
      changed_.NotifyAll();
      while (closed_) changed_.Wait(&mutex_);
      return encode_status_(batch);
    });
  }
  ~BatcherTest() override { Open(); }

  void Start(BatcherOptions options) {
    batcher_.reset();
    {
      MutexLock lock(&mutex_);
      batches_.clear();
    }
    batcher_ = Batcher::Create(encoder_, options, clock_, metrics_);
  }

  void Close() {
    MutexLock lock(&mutex_);
    closed_ = true;
  }
  void Open() {
    MutexLock lock(&mutex_);
    closed_ = false;
    changed_.NotifyAll();
  }
  void WaitForBatches(size_t count) {
    MutexLock lock(&mutex_);
    while (batches_.size() < count) changed_.Wait(&mutex_);
  }
  // Brings the one worker to stand in the encoder with a batch of its own (id 9).
  void Occupy() {
    Close();
    batcher_->Submit(Marked(9), RequestLimits(), occupied_.callback());
    WaitForBatches(1);
  }
  size_t batch_count() {
    MutexLock lock(&mutex_);
    return batches_.size();
  }
  // First token of each sequence, batch by batch.
  std::vector<std::vector<int32_t>> BatchMarks() {
    MutexLock lock(&mutex_);
    std::vector<std::vector<int32_t>> marks;
    for (const PackedBatch& batch : batches_) {
      marks.emplace_back();
      for (int64_t i = 0; i < batch.sequence_count(); ++i) {
        marks.back().push_back(batch.token_ids[static_cast<size_t>(batch.offsets[static_cast<size_t>(i)])]);
      }
    }
    return marks;
  }
  RequestLimits Due(int64_t in_us) { return RequestLimits(clock_.NowMicros() + in_us); }

  FakeEncoder encoder_{{.dim = 3, .max_length = 64}};
  FakeClock clock_;
  FakeMetrics metrics_;
  const MetricLabels labels_ = {{"encoder", "fake"}, {"fingerprint", FakeEncoderOptions().fingerprint.ToString()}};
  MetricLabels WithReason(const char* reason) const {
    MetricLabels labels = labels_;
    labels["reason"] = reason;
    return labels;
  }
  Answer occupied_;
  Mutex mutex_;
  CondVar changed_;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<PackedBatch> batches_ ABSL_GUARDED_BY(mutex_);
  FakeEncoder::OnEncode encode_status_ = [](const PackedBatch&) { return absl::OkStatus(); };
  std::unique_ptr<Batcher> batcher_;  // Last: its workers use the rest.
};

TEST_F(BatcherTest, GivesEachRequestTheVectorsOfItsSequences) {
  Start({.max_batch_tokens = 16});
  std::vector<Answer> answers(20);
  std::vector<std::vector<float>> expected(20);
  for (size_t r = 0; r < answers.size(); ++r) {
    std::vector<std::vector<int32_t>> sequences;
    for (size_t s = 0; s < r % 5 + 1; ++s) {
      sequences.emplace_back(1 + (r + s) % 7, static_cast<int32_t>(100 * r + s));
      expected[r].resize(expected[r].size() + 3);
      encoder_.EncodeSequence(sequences.back(), expected[r].data() + 3 * s);
    }
    batcher_->Submit(Sequences(sequences), RequestLimits(), answers[r].callback());
  }
  for (size_t r = 0; r < answers.size(); ++r) {
    const auto result = answers[r].Wait();
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(result->vectors, expected[r]) << r;
  }
}

TEST_F(BatcherTest, AnEmptyRequestIsAnsweredAtOnce) {
  Start({});
  Answer answer;
  batcher_->Submit(PackedBatch(), RequestLimits(), answer.callback());
  ASSERT_EQ(answer.count(), 1);
  EXPECT_TRUE(answer.Wait()->vectors.empty());
  EXPECT_EQ(batch_count(), 0u);
}

TEST_F(BatcherTest, GroupsWaitingRequestsUpToTheTokenBudget) {
  Start({.max_batch_tokens = 12});
  Occupy();
  Answer answers[4];
  for (int i = 0; i < 4; ++i) batcher_->Submit(Marked(10 + i), RequestLimits(), answers[i].callback());
  Open();
  for (Answer& answer : answers) EXPECT_TRUE(answer.Wait().ok());
  EXPECT_THAT(BatchMarks(), ElementsAre(ElementsAre(9), ElementsAre(10, 11, 12), ElementsAre(13)));
  EXPECT_EQ(metrics_.update_count("loci_batcher_batch_tokens", labels_), 3);
  EXPECT_EQ(metrics_.value("loci_batcher_batch_tokens", labels_), 20);
  EXPECT_EQ(metrics_.value("loci_batcher_batch_sequences", labels_), 5);
}

TEST_F(BatcherTest, SpreadsARequestLargerThanTheBudget) {
  Start({.max_batch_tokens = 10});
  Answer answer;
  std::vector<std::vector<int32_t>> sequences;
  std::vector<float> expected(3 * 25);
  for (int32_t i = 0; i < 25; ++i) {
    sequences.push_back({i, i, i});
    encoder_.EncodeSequence(sequences.back(), expected.data() + 3 * i);
  }
  batcher_->Submit(Sequences(sequences), RequestLimits(), answer.callback());
  EXPECT_EQ(answer.Wait()->vectors, expected);
  EXPECT_EQ(batch_count(), 9u) << "three sequences of three tokens a batch";
}

TEST_F(BatcherTest, ASequenceLongerThanTheBudgetIsABatchAlone) {
  Start({.max_batch_tokens = 8});
  Occupy();
  Answer a, b, c;
  batcher_->Submit(Marked(10, 1, 2), RequestLimits(), a.callback());
  batcher_->Submit(Marked(11, 1, 20), RequestLimits(), b.callback());
  batcher_->Submit(Marked(12, 1, 2), RequestLimits(), c.callback());
  Open();
  EXPECT_TRUE(a.Wait().ok() && b.Wait().ok() && c.Wait().ok());
  EXPECT_THAT(BatchMarks(), ElementsAre(ElementsAre(9), ElementsAre(10), ElementsAre(11), ElementsAre(12)));
}

TEST_F(BatcherTest, TakesTheEarliestDeadlineFirst) {
  Start({.max_batch_tokens = 4});
  Occupy();
  Answer answers[5];
  batcher_->Submit(Marked(10), RequestLimits(), answers[0].callback());
  batcher_->Submit(Marked(11), Due(3000), answers[1].callback());
  batcher_->Submit(Marked(12), Due(1000), answers[2].callback());
  batcher_->Submit(Marked(13), Due(2000), answers[3].callback());
  batcher_->Submit(Marked(14), Due(1000), answers[4].callback());
  Open();
  for (Answer& answer : answers) EXPECT_TRUE(answer.Wait().ok());
  EXPECT_THAT(BatchMarks(),
              ElementsAre(ElementsAre(9), ElementsAre(12), ElementsAre(14), ElementsAre(13), ElementsAre(11), ElementsAre(10)));
}

TEST_F(BatcherTest, DropsCancelledAndExpiredWorkBeforeItIsEncoded) {
  Start({.max_batch_tokens = 100});
  Occupy();
  Answer cancelled, expired, good;
  const RequestLimits limits;
  batcher_->Submit(Marked(10, 3), limits, cancelled.callback());
  batcher_->Submit(Marked(11, 2), Due(500), expired.callback());
  batcher_->Submit(Marked(12), Due(100'000), good.callback());
  EXPECT_EQ(batcher_->queued_tokens(), 4 + 12 + 8 + 4);
  limits.Cancel();
  clock_.Advance(500);
  Open();
  EXPECT_EQ(cancelled.Wait().status().code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(expired.Wait().status().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_TRUE(good.Wait().ok());
  EXPECT_THAT(BatchMarks(), ElementsAre(ElementsAre(9), ElementsAre(12)));
  batcher_.reset();
  EXPECT_EQ(metrics_.value("loci_batcher_dropped_tokens_total", labels_), 20);
  EXPECT_EQ(metrics_.value("loci_batcher_wasted_tokens_total", labels_), 0);
  EXPECT_EQ(metrics_.value("loci_batcher_dropped_requests_total", WithReason("cancelled")), 1);
  EXPECT_EQ(metrics_.value("loci_batcher_dropped_requests_total", WithReason("deadline")), 1);
  EXPECT_EQ(metrics_.value("loci_batcher_queued_tokens", labels_), 0);
  EXPECT_EQ(metrics_.value("loci_wasted_work_total", {{"phase", "tokenize"}}), 2);
  EXPECT_EQ(metrics_.value("loci_wasted_work_total", {{"phase", "encode"}}), 0);
  EXPECT_EQ(metrics_.value("loci_avoided_work_total", {{"phase", "encode"}}), 2);
}

TEST_F(BatcherTest, EncodersOfOneNameHaveSeriesOfTheirOwn) {
  FakeEncoder other({.dim = 3, .max_length = 64, .fingerprint = {"00000000000000a0", "00000000000000a1"}});
  ASSERT_EQ(other.spec().model_name, encoder_.spec().model_name);
  Start({});
  const std::unique_ptr<Batcher> beside = Batcher::Create(other, {}, clock_, metrics_);
  std::promise<void> done;
  PackedBatch batch;
  batch.token_ids = {1, 2};
  batch.offsets = {0, 2};
  beside->Submit(std::move(batch), {}, [&done](absl::StatusOr<BatchedVectors>) { done.set_value(); });
  done.get_future().wait();
  EXPECT_EQ(metrics_.value("loci_batcher_batch_sequences", labels_), 0);
  EXPECT_EQ(metrics_.value("loci_batcher_batch_sequences", {{"encoder", "fake"}, {"fingerprint", other.spec().fingerprint.ToString()}}), 1);
}

TEST_F(BatcherTest, ARequestCancelledHalfwayIsAnsweredAfterItsRunningBatch) {
  Start({.max_batch_tokens = 8});
  Close();
  Answer answer;
  const RequestLimits limits;
  batcher_->Submit(Marked(10, 6), limits, answer.callback());
  WaitForBatches(1);
  limits.Cancel();
  EXPECT_EQ(answer.count(), 0);
  Open();
  EXPECT_EQ(answer.Wait().status().code(), absl::StatusCode::kCancelled);
  batcher_.reset();
  EXPECT_EQ(batch_count(), 1u);
  EXPECT_EQ(metrics_.value("loci_batcher_wasted_tokens_total", labels_), 8);
  EXPECT_EQ(metrics_.value("loci_batcher_dropped_tokens_total", labels_), 16);
  EXPECT_EQ(metrics_.value("loci_wasted_work_total", {{"phase", "encode"}}), 1);
  EXPECT_EQ(metrics_.value("loci_avoided_work_total", {{"phase", "encode"}}), 1);
}

TEST_F(BatcherTest, RefusesWhatIsCancelledOrExpiredAlready) {
  Start({});
  Answer cancelled, expired;
  const RequestLimits limits;
  limits.Cancel();
  batcher_->Submit(Marked(10), limits, cancelled.callback());
  batcher_->Submit(Marked(10), Due(0), expired.callback());
  EXPECT_EQ(cancelled.count(), 1);
  EXPECT_EQ(expired.count(), 1);
  EXPECT_EQ(cancelled.Wait().status().code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(expired.Wait().status().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(batch_count(), 0u);
  EXPECT_EQ(metrics_.value("loci_wasted_work_total", {{"phase", "tokenize"}}), 2);
}

TEST_F(BatcherTest, SharesOfTheQueueEndWhereItIsFull) {
  Start({.max_queued_tokens = 100});
  absl::StatusOr<EncodeBacklog::Share> first = batcher_->Reserve(60, RequestLimits(), 0);
  ASSERT_TRUE(first.ok()) << first.status();
  const absl::Status refused = batcher_->Reserve(41, RequestLimits(), 0).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(GetErrorReason(refused)->reason, "ENCODER_QUEUE_FULL");
  EXPECT_EQ(GetErrorReason(refused)->metadata.count("retry_after_ms"), 1u);
  EXPECT_TRUE(batcher_->Reserve(40, RequestLimits(), 0).ok());
  EXPECT_TRUE(batcher_->Reserve(101, RequestLimits(), 0).ok()) << "Submit says that no wait can make room";
  first->Release();
  EXPECT_TRUE(batcher_->Reserve(41, RequestLimits(), 0).ok());
  EXPECT_EQ(metrics_.value("loci_batcher_refused_requests_total", WithReason("queue_full")), 1);
}

TEST_F(BatcherTest, RefusesWhatCanNoLongerMakeItsDeadlineWhileItsClientWaits) {
  encode_status_ = [this](const PackedBatch& batch) {
    clock_.Advance(1'000 * batch.token_count());  // 1 ms a token.
    return absl::OkStatus();
  };
  Start({.max_batch_tokens = 8});
  Answer measured;
  batcher_->Submit(Marked(10), RequestLimits(), measured.callback());
  ASSERT_TRUE(measured.Wait().ok());
  Close();
  batcher_->Submit(Marked(9), RequestLimits(), occupied_.callback());
  WaitForBatches(2);
  Answer hopeless, good, last;
  batcher_->Submit(Marked(11), Due(4'000 + 7'000), hopeless.callback());  // 4 ms until the worker is free, then a batch of 8 tokens.
  batcher_->Submit(Marked(12), Due(4'000 + 9'000), good.callback());
  batcher_->Submit(Marked(13), Due(1'000'000), last.callback());
  Open();
  const absl::Status refused = hopeless.Wait().status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted) << refused;
  EXPECT_EQ(GetErrorReason(refused)->reason, "OVERLOADED");
  EXPECT_TRUE(good.Wait().ok());
  EXPECT_TRUE(last.Wait().ok());
  EXPECT_THAT(BatchMarks(), ElementsAre(ElementsAre(10), ElementsAre(9), ElementsAre(12, 13)));
  Answer alone;
  batcher_->Submit(Marked(14), Due(1'000), alone.callback());
  EXPECT_TRUE(alone.Wait().ok()) << "the last one in the queue is measured";
  batcher_.reset();
  EXPECT_EQ(metrics_.value("loci_batcher_dropped_requests_total", WithReason("out_of_reach")), 1);
  EXPECT_EQ(metrics_.value("loci_avoided_work_total", {{"phase", "encode"}}), 1);
}

TEST_F(BatcherTest, RefusesADeadlineThatIsOutOfReachBeforeWorkIsDone) {
  encode_status_ = [this](const PackedBatch& batch) {
    clock_.Advance(1'000 * batch.token_count());  // 1 ms a token.
    return absl::OkStatus();
  };
  Start({.max_batch_tokens = 20});
  EXPECT_TRUE(batcher_->Reserve(1'000'000, Due(1), 0).ok()) << "nothing was measured yet";
  Answer measured;
  batcher_->Submit(Marked(10), RequestLimits(), measured.callback());
  ASSERT_TRUE(measured.Wait().ok());

  EXPECT_TRUE(batcher_->Reserve(1'000, Due(1), 0).ok()) << "nothing is before it";
  absl::StatusOr<EncodeBacklog::Share> soon = batcher_->Reserve(40, Due(100'000), 0);
  ASSERT_TRUE(soon.ok()) << soon.status();
  const absl::StatusOr<EncodeBacklog::Share> later = batcher_->Reserve(300, Due(9'000'000), 0);
  ASSERT_TRUE(later.ok()) << later.status();
  // 40 ms of others, twice to be safe, and 20 ms of its own batch.
  EXPECT_TRUE(batcher_->Reserve(20, Due(100'000), 0).ok());
  const absl::Status refused = batcher_->Reserve(20, Due(99'000), 0).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(GetErrorReason(refused)->reason, "OVERLOADED");
  EXPECT_EQ(GetErrorReason(refused)->metadata.at("retry_after_ms"), "60");
  EXPECT_EQ(refused.message(), "the work before this request is estimated at 40 ms, which counts twice to be safe, and its own at 20 ms; its deadline is in 99 ms");
  EXPECT_FALSE(batcher_->Reserve(20, Due(100'000), 20'000).ok()) << "with 20 ms of other work";
  EXPECT_TRUE(batcher_->Reserve(1'000'000, RequestLimits(), 0).ok()) << "who can wait is not refused";
  EXPECT_EQ(batcher_->BacklogMicros(), 340'000);
  soon->Release();
  EXPECT_TRUE(batcher_->Reserve(20, Due(99'000), 0).ok());
  EXPECT_EQ(batch_count(), 1u);
  EXPECT_EQ(metrics_.value("loci_batcher_refused_requests_total", WithReason("deadline")), 2);
}

TEST_F(BatcherTest, LargeRequestsThatCanWaitAreTakenAsFarAsTheyCanEnd) {
  encode_status_ = [this](const PackedBatch& batch) {
    clock_.Advance(1'000 * batch.token_count());  // 1 ms a token.
    return absl::OkStatus();
  };
  Start({.max_batch_tokens = 1'000});
  Answer measured;
  batcher_->Submit(Marked(10, 10, 50), RequestLimits(), measured.callback());
  ASSERT_TRUE(measured.Wait().ok());

  const absl::StatusOr<EncodeBacklog::Share> ingest = batcher_->Reserve(500'000, RequestLimits(), 0);
  ASSERT_TRUE(ingest.ok()) << ingest.status();
  const absl::Status hopeless = batcher_->Reserve(17'000, Due(16'000'000), 0).status();
  EXPECT_EQ(GetErrorReason(hopeless)->reason, "OVERLOADED") << "its own work alone takes 17 s";
  std::vector<EncodeBacklog::Share> taken;
  absl::Status refused;
  for (int i = 0; i < 20; ++i) {
    absl::StatusOr<EncodeBacklog::Share> share = batcher_->Reserve(17'000, Due(40'000'000), 0);
    if (share.ok()) {
      taken.push_back(*std::move(share));
    } else {
      refused = share.status();
    }
  }
  EXPECT_EQ(taken.size(), 2u) << "a third would take 51 s";
  EXPECT_EQ(GetErrorReason(refused)->reason, "OVERLOADED");
  EXPECT_EQ(refused.message(), "the work before this request is estimated at 34000 ms and its own at 17000 ms; its deadline is in 40000 ms");
  EXPECT_EQ(GetErrorReason(refused)->metadata.at("retry_after_ms"), "51000");
  EXPECT_TRUE(batcher_->Reserve(5, Due(5'000'000), 0).ok()) << "it goes before them";
  EXPECT_TRUE(batcher_->Reserve(17'000, RequestLimits(), 0).ok()) << "who can wait for ever is not refused";
  EXPECT_TRUE(batcher_->Reserve(17'000, Due(20'000'000), 0).ok()) << "what is due later is not before it";
}

TEST_F(BatcherTest, ALoneLargeRequestIsTakenWhateverItsDeadline) {
  encode_status_ = [this](const PackedBatch& batch) {
    clock_.Advance(1'000 * batch.token_count());
    return absl::OkStatus();
  };
  Start({.max_batch_tokens = 100, .max_queued_tokens = 100'000});
  Answer measured;
  batcher_->Submit(Marked(10), RequestLimits(), measured.callback());
  ASSERT_TRUE(measured.Wait().ok());
  EXPECT_TRUE(batcher_->Reserve(100'000, Due(20'000'000), 0).ok());
  EXPECT_TRUE(batcher_->Reserve(100'000, Due(1'000), 0).ok());
}

TEST_F(BatcherTest, LargeRequestsThatCanWaitLeaveSomeOfTheQueue) {
  Start({.max_batch_tokens = 10, .max_queued_tokens = 1'000});
  std::vector<EncodeBacklog::Share> large;
  absl::Status refused;
  while (refused.ok()) {
    absl::StatusOr<EncodeBacklog::Share> share = batcher_->Reserve(50, Due(40'000'000), 0);
    refused = share.status();
    if (share.ok()) large.push_back(*std::move(share));
  }
  EXPECT_EQ(large.size(), 15u);
  EXPECT_EQ(GetErrorReason(refused)->reason, "ENCODER_QUEUE_FULL");
  EXPECT_EQ(GetErrorReason(refused)->metadata.at("limit"), "750");
  EXPECT_TRUE(batcher_->Reserve(5, RequestLimits(), 0).ok());
  const absl::StatusOr<EncodeBacklog::Share> soon = batcher_->Reserve(200, Due(5'000'000), 0);
  EXPECT_TRUE(soon.ok()) << soon.status();
  EXPECT_TRUE(batcher_->Reserve(10, Due(40'000'000), 0).ok());
  EXPECT_EQ(GetErrorReason(batcher_->Reserve(51, Due(5'000'000), 0).status())->metadata.at("limit"), "1000");
  large.resize(1);
  EXPECT_TRUE(batcher_->Reserve(500, RequestLimits(), 0).ok());
  large.clear();
  EXPECT_TRUE(batcher_->Reserve(800, RequestLimits(), 0).ok()) << "beside less than a quarter";
}

TEST_F(BatcherTest, ALargeRequestIsGivenUpOnceItCanNoLongerMakeItsDeadline) {
  encode_status_ = [this](const PackedBatch& batch) {
    clock_.Advance(1'000'000 * batch.token_count());  // 1 s a token.
    return absl::OkStatus();
  };
  Start({.max_batch_tokens = 4});
  Answer alone;
  batcher_->Submit(Marked(10, 5), Due(15'000'000), alone.callback());
  EXPECT_EQ(alone.Wait().status().code(), absl::StatusCode::kDeadlineExceeded) << "nobody else waits for the encoder";
  batcher_->Submit(Marked(9), RequestLimits(), occupied_.callback());
  ASSERT_TRUE(occupied_.Wait().ok());
  Close();
  const size_t before = batch_count();
  Answer first, good, late, last, begun, beside;
  batcher_->Submit(Marked(11), RequestLimits(), first.callback());
  WaitForBatches(before + 1);
  batcher_->Submit(Marked(12, 4), Due(4'000'000 + 15'000'000), late.callback());  // Takes 16 s.
  batcher_->Submit(Marked(13, 4), Due(4'000'000 + 17'000'000), good.callback());
  batcher_->Submit(Marked(14), RequestLimits(), last.callback());
  Open();
  const absl::Status given_up = late.Wait().status();
  EXPECT_EQ(GetErrorReason(given_up)->reason, "OVERLOADED") << given_up;
  EXPECT_TRUE(good.Wait().ok()) << good.Wait().status();
  EXPECT_TRUE(last.Wait().ok());
  for (const std::vector<int32_t>& marks : BatchMarks()) EXPECT_NE(marks.at(0), 12) << "no work was done for it";

  Close();
  const size_t between = batch_count();
  batcher_->Submit(Marked(15, 10), Due(30'000'000), begun.callback());  // Takes 40 s, and is alone.
  WaitForBatches(between + 1);
  batcher_->Submit(Marked(16), RequestLimits(), beside.callback());
  Open();
  EXPECT_EQ(begun.Wait().status().code(), absl::StatusCode::kResourceExhausted) << begun.Wait().status();
  EXPECT_TRUE(beside.Wait().ok());
  EXPECT_EQ(batch_count(), between + 2) << "one of its batches, and the other's";
}

TEST_F(BatcherTest, ReportsQueueAndEncodeTime) {
  Start({.max_batch_tokens = 4});
  Occupy();
  Answer answer;
  batcher_->Submit(Marked(10), RequestLimits(), answer.callback());
  clock_.Advance(300);
  encode_status_ = [this](const PackedBatch& batch) {
    if (batch.token_ids[0] == 10) clock_.Advance(70);
    return absl::OkStatus();
  };
  Open();
  EXPECT_EQ(answer.Wait()->queue_us, 300);
  EXPECT_EQ(answer.Wait()->encode_us, 70);
}

TEST_F(BatcherTest, AnErrorAnswersOnlyTheRequestsOfItsBatch) {
  encode_status_ = [](const PackedBatch& batch) {
    for (const int32_t id : batch.token_ids) {
      if (id == 11) return absl::InternalError("the device is gone");
    }
    return absl::OkStatus();
  };
  Start({.max_batch_tokens = 8});
  Occupy();
  Answer before, bad, with, after;
  batcher_->Submit(Marked(10, 2), RequestLimits(), before.callback());
  batcher_->Submit(Marked(11), RequestLimits(), bad.callback());
  batcher_->Submit(Marked(12, 3), RequestLimits(), with.callback());  // One sequence in the bad batch, two that are not encoded.
  batcher_->Submit(Marked(13), RequestLimits(), after.callback());
  Open();
  EXPECT_TRUE(before.Wait().ok());
  EXPECT_EQ(bad.Wait().status().message(), "the device is gone");
  EXPECT_EQ(with.Wait().status().code(), absl::StatusCode::kInternal);
  EXPECT_TRUE(after.Wait().ok());
  EXPECT_THAT(BatchMarks(), ElementsAre(ElementsAre(9), ElementsAre(10, 10), ElementsAre(11, 12), ElementsAre(13)));
  batcher_.reset();
  EXPECT_EQ(metrics_.value("loci_batcher_failed_batches_total", labels_), 1);
}

TEST_F(BatcherTest, WhatTheEncoderWouldRefuseNeverJoinsABatch) {
  Start({});
  Occupy();
  Answer good;
  batcher_->Submit(Marked(10), RequestLimits(), good.callback());
  PackedBatch torn = Marked(10, 2);
  torn.offsets.back() += 1;
  for (const PackedBatch& bad :
       {Sequences({{1, 2}, {}}), Marked(10, 1, 65), Sequences({{1, -1}}), Sequences({{FakeTokenizer::kVocabularySize}}), torn}) {
    Answer answer;
    batcher_->Submit(bad, RequestLimits(), answer.callback());
    ASSERT_EQ(answer.count(), 1);
    EXPECT_EQ(answer.Wait().status().code(), absl::StatusCode::kInvalidArgument) << answer.Wait().status();
  }
  Open();
  EXPECT_TRUE(good.Wait().ok());
}

TEST_F(BatcherTest, RefusesAboveTheQueueLimitAndTakesAgainBelowIt) {
  Start({.max_batch_tokens = 8, .max_queued_tokens = 20});
  Occupy();  // Holds 4.
  Answer first, refused, huge, later;
  batcher_->Submit(Marked(10, 4), RequestLimits(), first.callback());
  batcher_->Submit(Marked(11), RequestLimits(), refused.callback());
  ASSERT_EQ(refused.count(), 1);
  EXPECT_EQ(refused.Wait().status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(refused.Wait().status().message()),
              HasSubstr("holds 20 tokens and the request has 4, the limit is 20"));
  EXPECT_EQ(GetErrorReason(refused.Wait().status())->reason, "ENCODER_QUEUE_FULL");
  batcher_->Submit(Marked(12, 6), RequestLimits(), huge.callback());
  EXPECT_EQ(huge.Wait().status().code(), absl::StatusCode::kInvalidArgument) << "waiting would not help";
  Open();
  EXPECT_TRUE(first.Wait().ok());
  EXPECT_TRUE(occupied_.Wait().ok());
  batcher_->Submit(Marked(13, 5), RequestLimits(), later.callback());
  EXPECT_TRUE(later.Wait().ok());
  EXPECT_EQ(metrics_.value("loci_batcher_refused_requests_total", WithReason("queue_full")), 1);
}

TEST_F(BatcherTest, AFullQueueMakesRoomByDroppingTheCancelled) {
  Start({.max_batch_tokens = 12, .max_queued_tokens = 20});
  Occupy();
  Answer first, cancelled, next;
  const RequestLimits limits;
  batcher_->Submit(Marked(10), RequestLimits(), first.callback());
  batcher_->Submit(Marked(11, 3), limits, cancelled.callback());
  limits.Cancel();
  batcher_->Submit(Marked(12, 3), RequestLimits(), next.callback());
  EXPECT_EQ(cancelled.count(), 1) << "while the worker is still busy";
  Open();
  EXPECT_TRUE(first.Wait().ok());
  EXPECT_TRUE(next.Wait().ok());
}

TEST_F(BatcherTest, ALoneRequestWaitsForCompanyUntilTheBudgetIsFull) {
  Start({.max_batch_tokens = 8, .max_wait_us = 1'000'000});
  Answer a, b;
  batcher_->Submit(Marked(10), RequestLimits(), a.callback());
  clock_.Advance(999'999);
  EXPECT_EQ(batch_count(), 0u);
  batcher_->Submit(Marked(11), RequestLimits(), b.callback());
  EXPECT_TRUE(a.Wait().ok() && b.Wait().ok());
  EXPECT_THAT(BatchMarks(), ElementsAre(ElementsAre(10, 11)));
}

TEST_F(BatcherTest, ALoneRequestWaitsNoLongerThanMaxWait) {
  Start({.max_batch_tokens = 8, .max_wait_us = 2'000});
  Answer a;
  batcher_->Submit(Marked(10), RequestLimits(), a.callback());
  clock_.Advance(2'000);
  EXPECT_TRUE(a.Wait().ok());
  EXPECT_EQ(a.Wait()->queue_us, 2'000);
}

TEST_F(BatcherTest, DoesNotWaitPastADeadline) {
  Start({.max_batch_tokens = 8, .max_wait_us = 1'000'000});
  Answer a;
  batcher_->Submit(Marked(10), Due(500'000), a.callback());
  EXPECT_TRUE(a.Wait().ok()) << "the clock stands still: only starting at once can answer";
}

TEST_F(BatcherTest, EndingDoesNotWaitForCompany) {
  Start({.max_batch_tokens = 8, .max_wait_us = 1'000'000'000});
  Answer a;
  batcher_->Submit(Marked(10), RequestLimits(), a.callback());
  batcher_.reset();
  EXPECT_EQ(a.count(), 1);
  EXPECT_TRUE(a.Wait().ok());
}

TEST_F(BatcherTest, AnswersEveryRequestWhenDestroyedWithWorkQueued) {
  Start({.max_batch_tokens = 10, .worker_count = 2});
  Occupy();
  std::vector<Answer> answers(50);
  for (size_t i = 0; i < answers.size(); ++i) {
    batcher_->Submit(Marked(static_cast<int32_t>(100 + i), static_cast<int>(i % 4) + 1), RequestLimits(), answers[i].callback());
  }
  std::thread opener([this] { Open(); });
  batcher_.reset();
  opener.join();
  for (Answer& answer : answers) {
    ASSERT_EQ(answer.count(), 1);
    EXPECT_TRUE(answer.Wait().ok());
  }
}

TEST_F(BatcherTest, AShortRequestDoesNotWaitForAHugeOne) {
  Start({.max_batch_tokens = 8});
  Occupy();
  Answer huge, small;
  batcher_->Submit(Marked(10, 50), RequestLimits(), huge.callback());
  batcher_->Submit(Marked(11), RequestLimits(), small.callback());
  Open();
  EXPECT_TRUE(huge.Wait().ok() && small.Wait().ok());
  const auto marks = BatchMarks();
  EXPECT_THAT(marks[1], ElementsAre(10, 10));
  EXPECT_THAT(marks[2], ElementsAre(11, 10)) << "second in line after one turn";
}

// A worker meets a queue that always has urgent work in it; patient work must get its eighth, and no more.
TEST_F(BatcherTest, PatientWorkGetsItsShareOfAFloodOfDeadlines) {
  for (const int64_t due_us : {kNoDeadlineMicros, clock_.NowMicros() + 2 * Batcher::kPatientUs}) {
    constexpr int kUrgent = 400;
    Start({.max_batch_tokens = 4});
    Occupy();
    Answer patient;
    std::vector<Answer> urgent(kUrgent);
    batcher_->Submit(Marked(10, 1000), RequestLimits(due_us), patient.callback());
    for (Answer& answer : urgent) batcher_->Submit(Marked(11), Due(1'000'000), answer.callback());
    Open();
    for (Answer& answer : urgent) EXPECT_TRUE(answer.Wait().ok());
    EXPECT_TRUE(patient.Wait().ok());
    const auto marks = BatchMarks();
    int urgent_seen = 0;
    int patient_seen = 0;
    for (size_t i = 1; urgent_seen < kUrgent; ++i) {
      ASSERT_EQ(marks[i].size(), 1u);
      (marks[i][0] == 11 ? urgent_seen : patient_seen) += 1;
    }
    EXPECT_NEAR(patient_seen, (kUrgent + patient_seen) / Batcher::kPatientShare, 2);
  }
}

TEST_F(BatcherTest, ACallbackMaySubmit) {
  Start({});
  Answer second;
  batcher_->Submit(Marked(10), RequestLimits(), [&](absl::StatusOr<BatchedVectors> first) {
    EXPECT_TRUE(first.ok());
    batcher_->Submit(Marked(11), RequestLimits(), second.callback());
  });
  EXPECT_TRUE(second.Wait().ok());
}

TEST_F(BatcherTest, ManyThreadsWithDeadlinesAndCancellations) {
  constexpr int kThreads = 8;
  constexpr int kRequests = 250;
  encode_status_ = [](const PackedBatch& batch) {
    return batch.token_ids[0] % 97 == 5 ? absl::InternalError("now and then") : absl::OkStatus();
  };
  Start({.max_batch_tokens = 64, .max_wait_us = 50, .max_queued_tokens = 3000, .worker_count = 3});
  std::atomic<int> answered = 0;
  std::map<absl::StatusCode, std::atomic<int>> codes;
  for (int code = 0; code <= 16; ++code) codes[static_cast<absl::StatusCode>(code)] = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      std::mt19937 random(static_cast<uint32_t>(t));
      for (int r = 0; r < kRequests; ++r) {
        std::vector<std::vector<int32_t>> sequences(random() % 12);
        for (auto& ids : sequences) ids.assign(1 + random() % 30, static_cast<int32_t>(10 + random() % 1000));
        std::vector<float> expected(3 * sequences.size());
        for (size_t s = 0; s < sequences.size(); ++s) encoder_.EncodeSequence(sequences[s], expected.data() + 3 * s);
        const RequestLimits limits =
            random() % 3 == 0 ? RequestLimits() : RequestLimits(clock_.NowMicros() + static_cast<int64_t>(random() % 2000));
        auto count = std::make_shared<std::atomic<int>>(0);
        batcher_->Submit(Sequences(sequences), limits, [&, count, expected](absl::StatusOr<BatchedVectors> result) {
          EXPECT_EQ(count->fetch_add(1), 0);
          ++answered;
          ++codes.at(result.status().code());
          EXPECT_TRUE(!result.ok() || result->vectors == expected);
        });
        if (random() % 5 == 0) limits.Cancel();
        clock_.Advance(5);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  batcher_.reset();
  EXPECT_EQ(answered, kThreads * kRequests);
  for (const auto code : {absl::StatusCode::kOk, absl::StatusCode::kCancelled})
    EXPECT_GT(codes.at(code), 0) << static_cast<int>(code);
  EXPECT_EQ(metrics_.value("loci_batcher_queued_tokens", labels_), 0);
  EXPECT_EQ(metrics_.value("loci_batcher_queued_requests", labels_), 0);
}

// Holds up whoever tells of tokens until a request is answered, or for long enough that it would have been, were nothing in its way.
class SlowGauges : public FakeMetrics {
 public:
  explicit SlowGauges(Answer& answered) : answered_(answered) {}
  Gauge& gauge(const std::string& name, const std::string& help, const MetricLabels& labels) override {
    Gauge& base = FakeMetrics::gauge(name, help, labels);
    if (name != "loci_batcher_queued_tokens") return base;
    slow_ = std::make_unique<Slow>(base, answered_);
    return *slow_;
  }

 private:
  class Slow : public Gauge {
   public:
    Slow(Gauge& base, Answer& answered) : base_(base), answered_(answered) {}
    void Set(double value) override {
      for (int i = 0; value > 0 && i < 100 && answered_.count() == 0; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(1));
      base_.Set(value);
    }

   private:
    Gauge& base_;
    Answer& answered_;
  };
  Answer& answered_;
  std::unique_ptr<Slow> slow_;
};

TEST_F(BatcherTest, AGaugeThatIsToldLateIsNotWrongForGood) {
  Answer answer;
  SlowGauges metrics(answer);
  batcher_ = Batcher::Create(encoder_, {}, clock_, metrics);
  batcher_->Submit(Marked(1), RequestLimits(), answer.callback());
  EXPECT_TRUE(answer.Wait().ok());
  EXPECT_EQ(metrics.value("loci_batcher_queued_tokens", labels_), 0);
  EXPECT_EQ(metrics.value("loci_batcher_queued_requests", labels_), 0);
  batcher_.reset();
}

TEST_F(BatcherTest, SeveralWorkersShareWhatIsBeforeARequest) {
  encode_status_ = [this](const PackedBatch& batch) {
    clock_.Advance(1'000 * batch.token_count());  // 1 ms a token.
    return absl::OkStatus();
  };
  Start({.max_batch_tokens = 20, .worker_count = 2});
  Answer measured;
  batcher_->Submit(Marked(10), RequestLimits(), measured.callback());
  ASSERT_TRUE(measured.Wait().ok());
  const absl::StatusOr<EncodeBacklog::Share> soon = batcher_->Reserve(40, Due(100'000), 0);
  ASSERT_TRUE(soon.ok()) << soon.status();
  EXPECT_EQ(batcher_->BacklogMicros(), 20'000);
  // 40 ms of others for two workers, twice to be safe, and 20 ms of its own batch, which one of them encodes.
  EXPECT_TRUE(batcher_->Reserve(20, Due(60'000), 0).ok());
  const absl::Status refused = batcher_->Reserve(20, Due(59'000), 0).status();
  EXPECT_EQ(GetErrorReason(refused)->reason, "OVERLOADED");
  EXPECT_EQ(GetErrorReason(refused)->metadata.at("retry_after_ms"), "40");
}

TEST_F(BatcherTest, WorkAfterAnswersWaitsForTheBatchsLast) {
  Start({});
  Occupy();
  std::vector<std::string> order;  // Of the one worker.
  std::promise<void> last;
  for (int i = 0; i < 3; ++i) {
    batcher_->Submit(Marked(i + 1), RequestLimits(), [&, i](const absl::StatusOr<BatchedVectors>& result) {
      EXPECT_TRUE(result.ok()) << result.status();
      order.push_back("answer " + std::to_string(i));
      if (i == 1) {  // Refused at once, in the midst of the others' answers.
        batcher_->Submit(Marked(1, 1, 65), RequestLimits(), [&](const absl::StatusOr<BatchedVectors>& refused) {
          EXPECT_FALSE(refused.ok());
          Batcher::AfterAnswers([&] { order.push_back("after a refusal"); });
        });
      }
      Batcher::AfterAnswers([&, i] {
        order.push_back("after " + std::to_string(i));
        Batcher::AfterAnswers([&] { order.push_back("at once"); });
        if (i == 2) last.set_value();
      });
    });
  }
  Open();
  last.get_future().wait();
  EXPECT_THAT(order, ElementsAre("answer 0", "answer 1", "answer 2", "after 0", "at once", "after a refusal", "after 1", "at once", "after 2", "at once"));
  bool done = false;
  Batcher::AfterAnswers([&] { done = true; });
  EXPECT_TRUE(done) << "this thread answers nobody";
}

}  // namespace
}  // namespace loci
