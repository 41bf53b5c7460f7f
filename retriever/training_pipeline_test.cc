#include "retriever/training_pipeline.h"

#include <atomic>
#include <cmath>
#include <functional>
#include <future>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "gmock/gmock.h"
#include "proto/loci/v1/training.pb.h"
#include "retriever/testing/retriever_fixture.h"

namespace loci {
namespace {

std::string ReasonOf(const absl::Status& status) { return GetErrorReason(status).value_or(ErrorReason()).reason; }

// Does something when it is asked for the so-manieth time. Thread-safe but for At.
class TellingClock final : public Clock {
 public:
  int64_t NowMicros() const override {
    if (++count_ == at_count_) action_();
    return RealClock().NowMicros();
  }
  int64_t UnixMicros() const override { return RealClock().UnixMicros(); }
  void At(int count, std::function<void()> action) {
    count_ = 0;
    at_count_ = count;
    action_ = std::move(action);
  }

 private:
  mutable std::atomic<int> count_{0};
  int at_count_ = 0;
  std::function<void()> action_;
};

class TrainingPipelineTest : public RetrieverFixture {
 protected:
  void SetUp() override {
    Start();
    ASSERT_TRUE(Ingest("s", {MakePassage("a", "the cat sat"), MakePassage("b", "a dog ran"), MakePassage("c", "an owl flew")}).ok());
    MakePipeline();
  }
  void TearDown() override { sessions_.reset(); }

  void MakePipeline(int64_t max_block_masses = TrainingPipeline::Options().max_block_masses) {
    sessions_ = std::make_unique<TrainingSessions>(TrainingSessions::Options{.max_handles = 1});
    pipeline_ = std::make_unique<TrainingPipeline>(TrainingPipeline::Options{.manager = manager_.get(),
                                                                             .sessions = sessions_.get(),
                                                                             .drifts = &drifts_,
                                                                             .pool = &work_pool_,
                                                                             .max_block_masses = max_block_masses,
                                                                             .clock = &clock_});
  }
  std::string OpenId() {
    const absl::StatusOr<TrainingSessionInfo> opened = pipeline_->Open("s", "", 0, {});
    EXPECT_TRUE(opened.ok()) << opened.status();
    return opened.ok() ? opened->session_id : "";
  }
  template <typename Reply, typename Call, typename Method>
  absl::StatusOr<Reply> Wait(Call call, Method method) {
    std::promise<absl::StatusOr<Reply>> promise;
    (pipeline_.get()->*method)(std::move(call), [&promise](absl::StatusOr<Reply> reply) { promise.set_value(std::move(reply)); });
    return promise.get_future().get();
  }
  absl::StatusOr<TrainingRetrieveReply> Retrieve(TrainingRetrieveCall call) {
    return Wait<TrainingRetrieveReply>(std::move(call), static_cast<void (TrainingPipeline::*)(
        TrainingRetrieveCall, std::function<void(absl::StatusOr<TrainingRetrieveReply>)>)>(&TrainingPipeline::Retrieve));
  }
  absl::StatusOr<TrainingBackwardReply> Backward(TrainingBackwardCall call) {
    return Wait<TrainingBackwardReply>(std::move(call), &TrainingPipeline::Backward);
  }
  static TrainingRetrieveCall CallOf(const std::string& session, int top_k) {
    TrainingRetrieveCall call;
    call.session_id = session;
    call.query_count = 1;
    call.query_dim = kDim;
    call.queries = std::vector<double>(kDim, 0.5);
    call.options.search.top_k = top_k;
    return call;
  }
  // One query of CallOf, of the store's three passages.
  static LargeWorkLine::Amount AmountOfQuery(LargeWorkKind kind) { return {.kind = kind, .queries = 1, .query_elements = 3 * kDim * kPasses}; }
  double SessionCount() const {
    for (const GaugeSample& sample : sessions_->Metrics()) {
      if (sample.name == "loci_training_sessions") return sample.value;
    }
    return -1;
  }

  static constexpr int64_t kPasses = 5;  // The head, log Z and the mean.

  EncoderDriftTable drifts_;
  TellingClock clock_;
  ThreadPool work_pool_{"work", 2, 64};
  std::unique_ptr<TrainingSessions> sessions_;
  std::unique_ptr<TrainingPipeline> pipeline_;
};

TEST_F(TrainingPipelineTest, AClientThatGaveUpLeavesNoSession) {
  for (const int look : {1, 2}) {  // Once the view is there, and once its encoder is.
    const RequestLimits limits;
    clock_.At(look, [&limits] { limits.Cancel(); });
    EXPECT_TRUE(absl::IsCancelled(pipeline_->Open("s", "", 0, limits).status())) << look;
    EXPECT_EQ(SessionCount(), 0);
  }
  EXPECT_TRUE(absl::IsDeadlineExceeded(pipeline_->Open("s", "", 0, RequestLimits(0)).status()));
  EXPECT_EQ(SessionCount(), 0);
  OpenId();
  EXPECT_EQ(SessionCount(), 1);
}

// The reply as it is sent.
int64_t SizeOnTheWire(const TrainingRetrieveReply& reply) {
  loci::v1::RetrieveResponse out;
  out.set_handle(reply.handle);
  for (size_t q = 0; q < reply.hits.size(); ++q) {
    const TrainingResult& found = reply.retrieval->results[q];
    loci::v1::TrainingResult& result = *out.add_results();
    for (const SearchHit& hit : reply.hits[q]) {
      loci::v1::Hit& sent = *result.add_hits();
      sent.set_id(hit.id);
      sent.set_score(hit.score);
      *sent.mutable_passage() = hit.passage;
      sent.mutable_vector()->set_rows(1);
      sent.mutable_vector()->set_cols(static_cast<int64_t>(hit.vector.size()));
      sent.mutable_vector()->set_type(loci::v1::VECTOR_TYPE_FLOAT32);
      sent.mutable_vector()->set_data(std::string(hit.vector.size() * sizeof(float), 'x'));
    }
    result.mutable_log_probs()->Add(found.log_probs.begin(), found.log_probs.end());
    result.set_log_z(found.log_z);
    result.set_head_mass(found.head_mass);
    result.set_log_null_prob(found.log_null_prob);
  }
  out.set_generation(reply.generation);
  out.set_revision(reply.revision);
  out.set_encoder_fingerprint(reply.encoder_fingerprint);
  return static_cast<int64_t>(out.ByteSizeLong());
}

TEST_F(TrainingPipelineTest, AReplyThatCanNotBeSentPushesNoHandleOut) {
  const std::string session = OpenId();
  TrainingRetrieveCall call = CallOf(session, 3);
  call.query_count = 100;  // Then what each hit has counts, not what the reply has once.
  call.queries = std::vector<double>(100 * kDim, 0.5);
  call.include_text = call.include_vectors = true;
  const absl::StatusOr<TrainingRetrieveReply> kept = Retrieve(call);
  ASSERT_TRUE(kept.ok()) << kept.status();
  ASSERT_EQ(kept->hits[99].size(), 3u);
  for (const int64_t limit : {int64_t{1'000}, SizeOnTheWire(*kept) - 1}) {
    call.max_reply_bytes = limit;
    const absl::Status refused = Retrieve(call).status();
    EXPECT_TRUE(absl::IsInvalidArgument(refused)) << refused;
    EXPECT_EQ(ReasonOf(refused), "REPLY_TOO_LARGE");
    EXPECT_TRUE(sessions_->Begin(session)->Find(kept->handle).ok()) << "the one that there is room for";
  }
}

TEST_F(TrainingPipelineTest, ABackwardWhoseReplyCanNotBeSentIsNotWorkedFor) {
  const std::string session = OpenId();
  TrainingRetrieveCall retrieve = CallOf(session, 1);
  retrieve.options.estimator = Estimator::kTopK;
  const absl::StatusOr<TrainingRetrieveReply> kept = Retrieve(retrieve);
  ASSERT_TRUE(kept.ok()) << kept.status();
  constexpr int64_t kRows = 1'000;
  const TrainingBackwardCall call{.session_id = session,
                                  .handle = kept->handle,
                                  .log_likelihoods = std::vector<double>(kRows, -1),
                                  .grad_log_probs = {},
                                  .rows = kRows,
                                  .cols = 1,
                                  .row_query = std::vector<int32_t>(kRows, 0),
                                  .max_log_likelihood = {}};
  EXPECT_TRUE(Backward(call).ok());
  TrainingBackwardCall bounded = call;
  bounded.max_reply_bytes = 8 * kRows + 8 + 4 * kDim;
  const absl::StatusOr<TrainingBackwardReply> fits = Backward(bounded);
  ASSERT_TRUE(fits.ok()) << fits.status();
  EXPECT_EQ(fits->gradients.log_marginals.size(), static_cast<size_t>(kRows));
  --bounded.max_reply_bytes;
  const absl::Status refused = Backward(bounded).status();
  EXPECT_EQ(ReasonOf(refused), "REPLY_TOO_LARGE");
  EXPECT_EQ(GetErrorReason(refused)->metadata["field"], "log_likelihoods");
  // They have no marginals; and what is no number a row is refused as what it is.
  bounded.grad_log_probs = std::exchange(bounded.log_likelihoods, {});
  EXPECT_TRUE(Backward(bounded).ok());
}

TEST_F(TrainingPipelineTest, WhatIsFoundDoesNotDependOnThePieces) {
  std::vector<std::string> found;
  for (const int64_t masses : {100, 3, 1}) {  // Seven queries at once; three and a rest; one by one.
    pipeline_.reset();
    MakePipeline(masses);
    TrainingRetrieveCall call = CallOf(OpenId(), 1);
    call.query_count = 7;
    std::vector<double> queries;
    for (int i = 0; i < 7 * kDim; ++i) queries.push_back(std::sin(i * i));
    call.queries = queries;
    call.options.estimator = Estimator::kExactZTail;
    call.options.tail_samples = 16;
    call.options.seed = 3;
    call.excluded.resize(7);
    call.excluded[4] = {"b"};
    const absl::StatusOr<TrainingRetrieveReply> reply = Retrieve(call);
    ASSERT_TRUE(reply.ok()) << reply.status();
    ASSERT_EQ(reply->hits.size(), 7u);
    std::string all;
    for (size_t q = 0; q < 7; ++q) {
      absl::StrAppend(&all, reply->hits[q][0].id, " ", reply->retrieval->results[q].log_z, ":");
      for (const SearchHit& hit : reply->tail_hits[q]) {
        absl::StrAppend(&all, " ", hit.id);
        EXPECT_FALSE(q == 4 && hit.id == "b");
      }
      absl::StrAppend(&all, "\n");
    }
    found.push_back(all);
  }
  EXPECT_EQ(found[1], found[0]);
  EXPECT_EQ(found[2], found[0]);
}

TEST_F(TrainingPipelineTest, EachOfManyQueriesIsAnsweredAsOneAlone) {
  const std::string session = OpenId();
  constexpr int kCount = 2 * TrainingPipeline::kPieceQueries + 2;
  TrainingRetrieveCall call = CallOf(session, 2);
  std::vector<double> queries;
  for (int i = 0; i < kCount * kDim; ++i) queries.push_back(std::sin(i * i));
  call.query_count = kCount;
  call.queries = queries;
  call.excluded.resize(kCount);
  call.excluded[TrainingPipeline::kPieceQueries] = {"b"};
  const absl::StatusOr<TrainingRetrieveReply> all = Retrieve(call);
  ASSERT_TRUE(all.ok()) << all.status();
  ASSERT_EQ(all->retrieval->results.size(), static_cast<size_t>(kCount));
  EXPECT_EQ(all->retrieval->queries, queries);
  for (const int64_t q : {int64_t{0}, TrainingPipeline::kPieceQueries - 1, TrainingPipeline::kPieceQueries, int64_t{kCount - 1}}) {
    TrainingRetrieveCall one = CallOf(session, 2);
    one.queries = std::vector<double>(queries.begin() + q * kDim, queries.begin() + (q + 1) * kDim);
    one.excluded = {call.excluded[static_cast<size_t>(q)]};
    const absl::StatusOr<TrainingRetrieveReply> alone = Retrieve(one);
    ASSERT_TRUE(alone.ok()) << alone.status();
    const size_t i = static_cast<size_t>(q);
    EXPECT_EQ(all->retrieval->results[i].log_z, alone->retrieval->results[0].log_z) << q;
    ASSERT_EQ(all->hits[i].size(), 2u);
    for (size_t k = 0; k < 2; ++k) {
      EXPECT_EQ(all->hits[i][k].id, alone->hits[0][k].id) << q;
      EXPECT_EQ(all->hits[i][k].score, alone->hits[0][k].score) << q;
    }
  }
  call.excluded.pop_back();
  EXPECT_TRUE(absl::IsInvalidArgument(Retrieve(call).status()));
  call.excluded.clear();
  std::get<std::vector<double>>(call.queries)[70 * kDim + 1] = 1e300;
  EXPECT_THAT(std::string(Retrieve(call).status().message()), testing::HasSubstr("1e+300 in row 70, column 1;")) << "not that of its piece";
}

TEST_F(TrainingPipelineTest, OthersHaveTheirTurnBetweenPieces) {
  ThreadPool one("one", 1, 64);
  pipeline_ = std::make_unique<TrainingPipeline>(
      TrainingPipeline::Options{.manager = manager_.get(), .sessions = sessions_.get(), .pool = &one, .clock = &clock_});
  TrainingRetrieveCall call = CallOf(OpenId(), 1);
  call.query_count = TrainingPipeline::kPieceQueries + 1;
  call.queries = std::vector<double>(static_cast<size_t>(call.query_count * kDim), 0.5);
  std::promise<void> gate, answered;
  ASSERT_TRUE(one.TrySubmit([open = gate.get_future().share()] { open.wait(); }));
  std::vector<std::string> order;  // By the pool's one thread.
  pipeline_->Retrieve(std::move(call), [&](const absl::StatusOr<TrainingRetrieveReply>& reply) {
    EXPECT_TRUE(reply.ok()) << reply.status();
    order.push_back("answered");
    answered.set_value();
  });
  ASSERT_TRUE(one.TrySubmit([&order] { order.push_back("between"); }));
  gate.set_value();
  answered.get_future().wait();
  EXPECT_THAT(order, testing::ElementsAre("between", "answered"));
}

TEST_F(TrainingPipelineTest, PiecesOfWhatTakesLongAreSmall) {
  ThreadPool one("one", 1, 64);
  const auto line = std::make_shared<LargeWorkLine>(&one, &clock_);
  const LargeWorkLine::Amount query = AmountOfQuery(LargeWorkKind::kDoubleTraining);
  line->Measured(query, LargeWorkLine::kLongStepUs);
  pipeline_ = std::make_unique<TrainingPipeline>(TrainingPipeline::Options{
      .manager = manager_.get(), .sessions = sessions_.get(), .pool = &one, .large_line = line, .clock = &clock_});
  TrainingRetrieveCall call = CallOf(OpenId(), 1);
  call.query_count = 8;
  call.queries = std::vector<double>(static_cast<size_t>(8 * kDim), 0.5);
  std::promise<void> gate, answered;
  ASSERT_TRUE(one.TrySubmit([open = gate.get_future().share()] { open.wait(); }));
  int turns = -1, others = 0;  // On the pool's one thread.
  pipeline_->Retrieve(std::move(call), [&](const absl::StatusOr<TrainingRetrieveReply>& reply) {
    EXPECT_TRUE(reply.ok()) << reply.status();
    turns = others;
    answered.set_value();
  });
  ASSERT_TRUE(one.TrySubmit([&others] { ++others; }));
  gate.set_value();
  answered.get_future().wait();
  EXPECT_EQ(turns, 1) << "between the two";
}

TEST_F(TrainingPipelineTest, IsRefusedWhereItCanNotMakeItsDeadline) {
  const auto line = std::make_shared<LargeWorkLine>(&work_pool_, &clock_);
  pipeline_ = std::make_unique<TrainingPipeline>(TrainingPipeline::Options{
      .manager = manager_.get(), .sessions = sessions_.get(), .pool = &work_pool_, .large_line = line, .clock = &clock_});
  constexpr int64_t kHourUs = 3'600'000'000;
  line->Measured(AmountOfQuery(LargeWorkKind::kDoubleTraining), kHourUs);
  line->Measured(AmountOfQuery(LargeWorkKind::kTraining), kHourUs);
  TrainingRetrieveCall call = CallOf(OpenId(), 1);
  call.options.search.limits = RequestLimits(clock_.NowMicros() + kHourUs);
  {
    const LargeWorkLine::Place before = line->Take(AmountOfQuery(LargeWorkKind::kTraining), clock_.NowMicros());
    for (const bool texts : {false, true}) {
      if (texts) call.queries = std::vector<std::string>{"the red fox"};
      const absl::Status refused = Retrieve(call).status();
      EXPECT_TRUE(absl::IsResourceExhausted(refused)) << refused;
      EXPECT_EQ(ReasonOf(refused), "OVERLOADED");
    }
  }
  {
    const LargeWorkLine::Place before = line->Take(AmountOfQuery(LargeWorkKind::kTraining), clock_.NowMicros());
    TrainingRetrieveCall late = call;
    late.options.search.limits = RequestLimits(clock_.NowMicros() - 1);
    EXPECT_TRUE(absl::IsDeadlineExceeded(Retrieve(late).status())) << "it is late whatever is before it";
    late.options.search.limits.Cancel();
    EXPECT_TRUE(absl::IsCancelled(Retrieve(late).status()));
  }
  EXPECT_TRUE(Retrieve(call).ok()) << "it comes alone";
  EXPECT_LT(line->DelayMicros(kNoDeadlineMicros), 1) << "its place is given up";
}

TEST_F(TrainingPipelineTest, AnEncoderThatComesLaterEncodesASessionsTexts) {
  pipeline_.reset();
  sessions_.reset();
  Stop();
  ASSERT_TRUE(fs_.DeleteRecursively(JoinPath(DataDirectory(), "encoders")).ok());
  Start(/*import_encoder=*/false);
  MakePipeline();
  const absl::StatusOr<TrainingSessionInfo> opened = pipeline_->Open("s", "", 0, {});
  ASSERT_TRUE(opened.ok()) << "vectors are good without one: " << opened.status();
  EXPECT_EQ(opened->encoder_fingerprint, "");
  EXPECT_EQ(Retrieve(CallOf(opened->session_id, 1))->encoder_fingerprint, "");
  TrainingRetrieveCall texts = CallOf(opened->session_id, 1);
  texts.queries = std::vector<std::string>{"the red fox"};
  EXPECT_TRUE(absl::IsFailedPrecondition(Retrieve(texts).status()));
  ASSERT_TRUE(registry_->Import(CheckpointDirectory(1)).ok());
  for (int again = 0; again < 2; ++again) {
    const absl::StatusOr<TrainingRetrieveReply> reply = Retrieve(texts);
    ASSERT_TRUE(reply.ok()) << reply.status();
    EXPECT_EQ(reply->usage.size(), 1u);
    EXPECT_NE(reply->encoder_fingerprint, "");
  }
  EXPECT_NE(pipeline_->Renew(opened->session_id, 0)->encoder_fingerprint, "");
}

TEST_F(TrainingPipelineTest, TellsHowFarThePublishedEncoderIs) {
  const std::string id = OpenId();
  const std::string half = (*registry_->Get(""))->spec().fingerprint.passage;
  const auto drift = [&] {
    const auto reply = Retrieve(CallOf(id, 2));
    EXPECT_TRUE(reply.ok()) << reply.status();
    return reply.ok() ? reply->drift : EncoderDrift();
  };
  EXPECT_EQ(drift().sample_count, 0) << "none was published";
  drifts_.Publish("s", "0123456789abcdef");
  drifts_.Measured("s", half, {.drift = .25, .sample_count = 7});
  EXPECT_EQ(drift().drift, .25);
  EXPECT_EQ(drift().sample_count, 7);
  drifts_.Publish("s", half);
  EXPECT_EQ(drift().drift, 0) << "that is the session's own";
  EXPECT_EQ(drift().sample_count, 0);
}

}  // namespace
}  // namespace loci
