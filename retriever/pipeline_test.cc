#include "retriever/pipeline.h"

#include <unistd.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/fake_metrics.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "retriever/hit_fetcher.h"
#include "retriever/testing/retriever_fixture.h"

namespace loci {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Answers with the first passage.
class FirstPassageReader : public Reader {
 public:
  std::string name() const override { return "first"; }
  void Read(ReadRequest request, TextEncoder&, Done done) const override {
    EXPECT_EQ(request.question_vector.size(), 32u);
    EXPECT_EQ(request.passages.size(), request.passage_scores.size());
    ReadResult result;
    if (request.passages.empty()) {
      result.abstained = true;
    } else {
      const std::string& text = request.passages[0].text();
      result.answers.push_back({.text = text, .score = 1.0, .end_byte = static_cast<int32_t>(text.size())});
    }
    done(std::move(result));
  }
};

// Goes on by a tick whenever it is looked at.
class TickingClock : public Clock {
 public:
  static constexpr int64_t kTickUs = 10'000;
  explicit TickingClock(int64_t start_us = 1'000'000) : now_us_(start_us) {}
  int64_t NowMicros() const override { return now_us_.fetch_add(tick_us_.load()); }
  int64_t UnixMicros() const override { return now_us_.load(); }
  void Advance(int64_t us) { now_us_.fetch_add(us); }
  void SetTick(int64_t us) { tick_us_ = us; }

 private:
  mutable std::atomic<int64_t> now_us_;
  std::atomic<int64_t> tick_us_{kTickUs};
};

class PipelineTest : public RetrieverFixture {
 protected:
  void SetUp() override {
    Start();
    ASSERT_TRUE(Ingest("s", {MakePassage("a", "the red fox", "Fox"), MakePassage("b", "a blue whale"), MakePassage("c", "green tea")}).ok());
    pipeline_ = std::make_unique<Pipeline>(
        Pipeline::Options{.manager = manager_.get(), .pool = &work_pool_, .metrics = &metrics_, .readers = {std::make_shared<FirstPassageReader>()}});
  }
  absl::StatusOr<SearchReply> Search(SearchCall call) {
    std::promise<absl::StatusOr<SearchReply>> promise;
    pipeline_->Search(std::move(call), [&](absl::StatusOr<SearchReply> reply) { promise.set_value(std::move(reply)); });
    return promise.get_future().get();
  }
  absl::StatusOr<AnswerReply> Answer(AnswerCall call) {
    std::promise<absl::StatusOr<AnswerReply>> promise;
    pipeline_->Answer(std::move(call), [&](absl::StatusOr<AnswerReply> reply) { promise.set_value(std::move(reply)); });
    return promise.get_future().get();
  }
  absl::StatusOr<EncodeReply> Encode(EncodeCall call) {
    std::promise<absl::StatusOr<EncodeReply>> promise;
    pipeline_->Encode(std::move(call), [&](absl::StatusOr<EncodeReply> reply) { promise.set_value(std::move(reply)); });
    return promise.get_future().get();
  }

  double Wasted(const std::string& phase) { return metrics_.value("loci_wasted_work_total", {{"phase", phase}}); }
  double Avoided(const std::string& phase) { return metrics_.value("loci_avoided_work_total", {{"phase", phase}}); }

  FakeMetrics metrics_;
  ThreadPool work_pool_{"work", 2, 64};
  std::unique_ptr<Pipeline> pipeline_;
};

TEST_F(PipelineTest, TextsAndVectorsFindTheSame) {
  const auto encoded = Encode({.texts = {"a blue whale"}, .options = {.role = TextRole::kQuery}});
  ASSERT_TRUE(encoded.ok()) << encoded.status();
  EXPECT_EQ(encoded->dim, kDim);
  const auto reply = Search({.store = "s",
                             .queries = {std::string("a blue whale"), encoded->vectors},
                             .options = {.top_k = 2},
                             .include_text = true,
                             .include_vectors = true});
  ASSERT_TRUE(reply.ok()) << reply.status();
  ASSERT_EQ(reply->results.size(), 2u);
  for (const std::vector<SearchHit>& hits : reply->results) {
    ASSERT_EQ(hits.size(), 2u);
    EXPECT_EQ(hits[0].id, "b");
    EXPECT_EQ(hits[0].passage.text(), "a blue whale");
    EXPECT_EQ(hits[0].vector.size(), static_cast<size_t>(kDim));
    EXPECT_GE(hits[0].score, hits[1].score);
  }
  EXPECT_EQ(reply->results[0][0].score, reply->results[1][0].score);
  EXPECT_TRUE(reply->usage[0].has_value());
  EXPECT_FALSE(reply->usage[1].has_value());
  EXPECT_TRUE(reply->exact);
  EXPECT_EQ(reply->serving_set->view->generation().id(), manager_->GetStore("s")->generation);
  EXPECT_GT(reply->times.total_us, 0);
}

TEST_F(PipelineTest, EachQueryGetsItsOwnHits) {
  const std::string whale = "a blue whale", fox = "the red fox";
  const auto vectors = Encode({.texts = {whale, fox}, .options = {.role = TextRole::kQuery}});
  ASSERT_TRUE(vectors.ok()) << vectors.status();
  const std::vector<float> whale_vector(vectors->vectors.begin(), vectors->vectors.begin() + kDim);
  const std::vector<float> fox_vector(vectors->vectors.begin() + kDim, vectors->vectors.end());
  const auto best = [&](decltype(SearchCall::queries) queries) {
    const auto reply = Search({.store = "s", .queries = std::move(queries), .options = {.top_k = 1}});
    std::string ids;
    for (const std::vector<SearchHit>& hits : reply.value().results) ids += hits.at(0).id + " ";
    return ids;
  };
  const std::string whale_id = best({whale}), fox_id = best({fox});
  ASSERT_NE(whale_id, fox_id);
  EXPECT_EQ(best({fox_vector}), fox_id);
  EXPECT_EQ(best({fox, whale}), fox_id + whale_id);
  EXPECT_EQ(best({fox_vector, whale_vector}), fox_id + whale_id);
  EXPECT_EQ(best({fox_vector, whale}), fox_id + whale_id);
  EXPECT_EQ(best({whale, fox_vector, fox, whale_vector}), whale_id + fox_id + fox_id + whale_id);
}

TEST_F(PipelineTest, AnEncoderThatComesLaterEncodesTheQueries) {
  pipeline_.reset();
  Stop();
  ASSERT_TRUE(fs_.DeleteRecursively(JoinPath(DataDirectory(), "encoders")).ok());
  Start(/*import_encoder=*/false);
  pipeline_ = std::make_unique<Pipeline>(Pipeline::Options{.manager = manager_.get(), .pool = &work_pool_, .metrics = &metrics_});
  SearchCall call{.store = "s", .queries = {std::string("the red fox")}, .options = {.top_k = 1}};
  EXPECT_EQ(Search(call).status().code(), absl::StatusCode::kFailedPrecondition);
  ASSERT_TRUE(registry_->Import(CheckpointDirectory(1)).ok());
  const auto reply = Search(call);
  ASSERT_TRUE(reply.ok()) << reply.status();
  ASSERT_EQ(reply->results.size(), 1u);
  EXPECT_EQ(reply->results[0].size(), 1u);
}

TEST_F(PipelineTest, NeverMoreThanThereIs) {
  const auto reply = Search({.store = "s", .queries = {std::string("tea")}, .options = {.top_k = 10'000}});
  ASSERT_TRUE(reply.ok()) << reply.status();
  EXPECT_EQ(reply->results[0].size(), 3u);
  EXPECT_TRUE(reply->results[0][0].passage.text().empty());  // Not asked for.
}

TEST_F(PipelineTest, GathersNoReplyThatCanNotBeSent) {
  SearchCall call{.store = "s", .queries = {std::string("tea")}, .options = {.top_k = 3}, .include_vectors = true};
  call.max_reply_bytes = 3 * (kDim * 4 + 1 + 4 + kHitFramingBytes + kVectorFramingBytes);
  EXPECT_TRUE(Search(call).ok());
  --call.max_reply_bytes;
  const auto refused = Search(call);
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(GetErrorReason(refused.status())->reason, "REPLY_TOO_LARGE");
}

TEST_F(PipelineTest, OpensAnInactiveGenerationThatIsNamed) {
  const std::string first = manager_->GetStore("s")->generation;
  ASSERT_TRUE(Ingest("s", {MakePassage("new", "green tea")}).ok());
  for (int i = 0; i < 2; ++i) {
    const auto reply = Search({.store = "s", .generation = first, .queries = {std::string("green tea")}, .options = {.top_k = 1}});
    ASSERT_TRUE(reply.ok()) << reply.status();
    EXPECT_EQ(reply->results[0][0].id, "c");
    EXPECT_EQ(reply->serving_set->view->generation().id(), first);
  }
}

TEST_F(PipelineTest, NamesTheBadQuery) {
  const auto wrong_dim = Search({.store = "s", .queries = {std::string("x"), std::vector<float>(7)}, .options = {.top_k = 1}});
  EXPECT_EQ(wrong_dim.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(wrong_dim.status().message()), HasSubstr("queries[1].vector has dimension 7"));
  const auto empty = Search({.store = "s", .queries = {std::string()}, .options = {.top_k = 1}});
  EXPECT_EQ(empty.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Search({.store = "nobody", .queries = {std::string("x")}, .options = {.top_k = 1}}).status().code(),
            absl::StatusCode::kNotFound);
  EXPECT_EQ(Search({.store = "s", .generation = "g", .queries = {std::string("x")}, .options = {.top_k = 1}}).status().code(),
            absl::StatusCode::kNotFound);
  EXPECT_EQ(Encode({.encoder = "0123456789abcdef", .texts = {"x"}}).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(PipelineTest, ReadsAnAnswerOutOfTheView) {
  const auto reply = Answer({.store = "s", .question = "the red fox", .top_k = 2, .reader = "first"});
  ASSERT_TRUE(reply.ok()) << reply.status();
  ASSERT_EQ(reply->read.answers.size(), 1u);
  EXPECT_EQ(reply->passages.size(), 2u);
  EXPECT_EQ(reply->read.answers[0].text, reply->passages[0].passage.text());
  EXPECT_EQ(Answer({.store = "s", .question = "x", .reader = "none"}).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(PipelineTest, MeasuresTheRecallOfAnAnswersSearch) {
  std::vector<loci::v1::Passage> passages;
  for (int i = 0; i < 200; ++i) passages.push_back(MakePassage("p" + std::to_string(i), "passage " + std::to_string(i * 7919)));
  ASSERT_TRUE(Ingest("approximate", std::move(passages), {.index = "IVF4,Flat"}).ok());
  ThreadPool measuring("measuring", 1, 16);
  LiveRecall recall({.pool = &measuring, .share = 1, .metrics = &metrics_});
  Pipeline pipeline({.manager = manager_.get(), .pool = &work_pool_, .metrics = &metrics_, .live_recall = &recall,
                     .readers = {std::make_shared<FirstPassageReader>()}});
  std::promise<absl::StatusOr<AnswerReply>> promise;
  pipeline.Answer({.store = "approximate", .question = "passage", .reader = "first"},
                  [&](absl::StatusOr<AnswerReply> reply) { promise.set_value(std::move(reply)); });
  ASSERT_TRUE(promise.get_future().get().ok());
  while (metrics_.value("loci_live_recall_queries_total", {{"result", "measured"}}) < 1) std::this_thread::yield();
  // Nothing of the pipeline's runs any more once these have.
  std::promise<void> idle;
  ASSERT_TRUE(measuring.TrySubmit([&] { idle.set_value(); }));
  idle.get_future().wait();
}

TEST_F(PipelineTest, DoesNoWorkForWhoIsGone) {
  RequestLimits cancelled;
  cancelled.Cancel();
  EXPECT_EQ(Search({.store = "s", .queries = {std::string("x")}, .options = {.top_k = 1, .limits = cancelled}}).status().code(),
            absl::StatusCode::kCancelled);
  EXPECT_EQ(Search({.store = "s", .queries = {std::string("x")}, .options = {.top_k = 1, .limits = RequestLimits(1)}}).status().code(),
            absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(Encode({.texts = {"x"}, .options = {.limits = cancelled}}).status().code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(Answer({.store = "s", .question = "x", .reader = "first", .limits = cancelled}).status().code(), absl::StatusCode::kCancelled);
}

TEST_F(PipelineTest, CountsWorkThatIsWastedAndWorkThatIsAvoided) {
  RequestLimits cancelled;
  cancelled.Cancel();
  EXPECT_FALSE(Search({.store = "s", .queries = {std::string("x")}, .options = {.top_k = 1, .limits = cancelled}}).ok());
  EXPECT_FALSE(Encode({.texts = {"x"}, .options = {.limits = cancelled}}).ok());
  EXPECT_EQ(Avoided("tokenize"), 2);
  EXPECT_EQ(Wasted("tokenize") + Wasted("encode") + Wasted("search"), 0);

  // One that is cancelled while it waits to be searched.
  ThreadPool one("one", 1, 8);
  Pipeline pipeline({.manager = manager_.get(), .pool = &one, .metrics = &metrics_});
  std::promise<void> release;
  ASSERT_TRUE(one.TrySubmit([&] { release.get_future().wait(); }));
  while (one.queue_size() > 0) std::this_thread::yield();
  const RequestLimits limits;
  std::promise<absl::Status> answered;
  pipeline.Search({.store = "s", .queries = {std::string("x")}, .options = {.top_k = 1, .limits = limits}},
                  [&](absl::StatusOr<SearchReply> reply) { answered.set_value(reply.status()); });
  while (one.queue_size() != 1) std::this_thread::yield();  // It has been encoded.
  limits.Cancel();
  release.set_value();
  EXPECT_EQ(answered.get_future().get().code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(Wasted("encode"), 1);
  EXPECT_EQ(Avoided("search"), 1);
}

TEST_F(PipelineTest, RefusesASearchThatCanNotMakeItsDeadline) {
  TickingClock clock;
  ThreadPool one("one", 1, 8);
  Pipeline pipeline({.manager = manager_.get(), .pool = &one, .clock = &clock, .metrics = &metrics_});
  const auto search = [&](const RequestLimits& limits) {
    auto answered = std::make_shared<std::promise<absl::Status>>();
    pipeline.Search({.store = "s", .queries = {std::vector<float>(kDim, 0.1f)}, .options = {.top_k = 1, .limits = limits}},
                    [answered](absl::StatusOr<SearchReply> reply) { answered->set_value(reply.status()); });
    return answered->get_future();
  };
  ASSERT_TRUE(search(RequestLimits()).get().ok());  // Takes some ticks.
  EXPECT_EQ(search(RequestLimits(clock.NowMicros() + 40'000)).get().code(), absl::StatusCode::kDeadlineExceeded) << "nothing is before it";

  std::promise<void> release;
  ASSERT_TRUE(one.TrySubmit([&] { release.get_future().wait(); }));
  std::future<absl::Status> before = search(RequestLimits());
  const double avoided = Avoided("tokenize") + Avoided("search");
  const absl::Status refused = search(RequestLimits(clock.NowMicros() + 40'000)).get();
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted) << refused;
  EXPECT_EQ(GetErrorReason(refused)->reason, "OVERLOADED");
  EXPECT_EQ(GetErrorReason(refused)->metadata.count("retry_after_ms"), 1u);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("which counts twice to be safe"));
  EXPECT_EQ(Avoided("tokenize") + Avoided("search"), avoided) << "it was not even admitted";
  EXPECT_GT(pipeline.BacklogMicros(), 0);
  release.set_value();
  EXPECT_TRUE(before.get().ok());
}

TEST_F(PipelineTest, AFullQueueRefuses) {
  std::promise<void> release, running;  // Outlive the thread that looks at them.
  ThreadPool small("small", 1, 1);
  Pipeline pipeline({.manager = manager_.get(), .pool = &small});
  ASSERT_TRUE(small.TrySubmit([&] {
    running.set_value();
    release.get_future().wait();
  }));
  running.get_future().wait();
  ASSERT_TRUE(small.TrySubmit([] {}));
  const std::vector<decltype(SearchCall::queries)> sorts = {
      {std::string("short")}, {std::string(10'000, 'x')}, {std::vector<float>(kDim, 0.1f)}, {std::vector<float>(kDim, 0.1f), std::string("x")}};
  for (const auto& queries : sorts) {
    std::promise<absl::Status> answered;
    pipeline.Search({.store = "s", .queries = queries, .options = {.top_k = 1}},
                    [&](absl::StatusOr<SearchReply> reply) { answered.set_value(reply.status()); });
    const absl::Status status = answered.get_future().get();
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
    EXPECT_EQ(GetErrorReason(status)->reason, "OVERLOADED");
  }
  release.set_value();
}

// Searches that wait while the pool's one thread is held up. Their deadlines pass when the test says so.
class SearchesTogetherTest : public PipelineTest {
 protected:
  void SetUp() override {
    PipelineTest::SetUp();
    std::vector<loci::v1::Passage> passages;
    for (int i = 0; i < 300; ++i) passages.push_back(MakePassage("p" + std::to_string(i), "passage " + std::to_string(i * 7919)));
    ASSERT_TRUE(Ingest("many", passages).ok());
    ASSERT_TRUE(Ingest("approximate", std::move(passages), {.index = "IVF4,Flat"}).ok());
    one_ = std::make_unique<ThreadPool>("one", 1, 256);
    line_ = std::make_shared<LargeWorkLine>(one_.get(), &clock_);
    waiting_ = std::make_unique<Pipeline>(
        Pipeline::Options{.manager = manager_.get(), .pool = one_.get(), .large_line = line_, .clock = &clock_, .metrics = &metrics_});
    Hold();
  }
  void TearDown() override {
    if (held_) release_.set_value();
    one_.reset();  // Before what its tasks use.
    waiting_.reset();
    line_.reset();
    PipelineTest::TearDown();
  }
  void Hold() {
    held_ = true;
    release_ = std::promise<void>();
    ASSERT_TRUE(one_->TrySubmit([this] { release_.get_future().wait(); }));
    while (one_->queue_size() > 0) std::this_thread::yield();
  }
  void Release() {
    held_ = false;
    release_.set_value();
  }
  std::future<absl::StatusOr<SearchReply>> Ask(SearchCall call, std::function<void()> then = [] {}) {
    auto answered = std::make_shared<std::promise<absl::StatusOr<SearchReply>>>();
    waiting_->Search(std::move(call), [answered, then = std::move(then)](absl::StatusOr<SearchReply> reply) {
      then();
      answered->set_value(std::move(reply));
    });
    return answered->get_future();
  }
  std::vector<float> VectorOf(const std::string& text) {
    return Encode({.texts = {text}, .options = {.role = TextRole::kQuery}}).value().vectors;
  }

  TickingClock clock_{RealClock().NowMicros()};  // Ahead of what the index looks at.
  std::unique_ptr<ThreadPool> one_;
  std::shared_ptr<LargeWorkLine> line_;
  std::unique_ptr<Pipeline> waiting_;
  std::promise<void> release_;
  bool held_ = true;
};

void ExpectSame(const SearchReply& reply, const SearchReply& expected) {
  ASSERT_EQ(reply.results.size(), expected.results.size());
  for (size_t q = 0; q < reply.results.size(); ++q) {
    ASSERT_EQ(reply.results[q].size(), expected.results[q].size());
    for (size_t i = 0; i < reply.results[q].size(); ++i) {
      EXPECT_EQ(reply.results[q][i].id, expected.results[q][i].id) << "query " << q << ", hit " << i;
      EXPECT_EQ(reply.results[q][i].score, expected.results[q][i].score);
      EXPECT_EQ(reply.results[q][i].passage.text(), expected.results[q][i].passage.text());
      EXPECT_EQ(reply.results[q][i].vector, expected.results[q][i].vector);
    }
  }
  EXPECT_EQ(reply.exact, expected.exact);
  EXPECT_EQ(reply.match_count, expected.match_count);
}

// 0 to 149 of them: in all sizes of groups, of several kinds.
TEST_F(SearchesTogetherTest, FindWhatEachFindsAlone) {
  std::vector<SearchCall> calls;
  for (int i = 0; i < 150; ++i) {
    SearchCall& call = calls.emplace_back();
    call.store = i % 7 == 6 ? "approximate" : i % 11 == 10 ? "s" : "many";
    for (int q = 0; q <= i % 3; ++q) call.queries.emplace_back(VectorOf("query " + std::to_string(i * 3 + q)));
    call.options.top_k = i % 5 == 4 ? 7 : 3;
    call.options.exact = i % 2 == 0;
    call.include_text = i % 13 == 12;
    call.include_vectors = i % 17 == 16;
  }
  std::vector<std::future<absl::StatusOr<SearchReply>>> replies;
  for (const SearchCall& call : calls) replies.push_back(Ask(call));
  EXPECT_LT(one_->queue_size(), 60) << "most wait together";
  Release();
  for (size_t i = 0; i < calls.size(); ++i) {
    const auto reply = replies[i].get();
    const auto expected = Search(calls[i]);
    ASSERT_TRUE(reply.ok()) << i << ": " << reply.status();
    ASSERT_TRUE(expected.ok()) << expected.status();
    SCOPED_TRACE(i);
    ExpectSame(*reply, *expected);
  }
}

TEST_F(SearchesTogetherTest, ThoseThatAreGoneLeaveTheOthersAlone) {
  const std::vector<float> vector = VectorOf("query");
  std::vector<RequestLimits> limits(8);
  constexpr int64_t kHourUs = 3'600'000'000;
  limits[5] = RequestLimits(clock_.NowMicros() + kHourUs);
  std::vector<std::future<absl::StatusOr<SearchReply>>> replies;
  for (const RequestLimits& own : limits) replies.push_back(Ask({.store = "many", .queries = {vector}, .options = {.top_k = 2, .limits = own}}));
  limits[0].Cancel();
  limits[3].Cancel();
  clock_.Advance(kHourUs);
  Release();
  for (size_t i = 0; i < limits.size(); ++i) {
    const auto reply = replies[i].get();
    const absl::StatusCode expected = i == 0 || i == 3 ? absl::StatusCode::kCancelled : i == 5 ? absl::StatusCode::kDeadlineExceeded : absl::StatusCode::kOk;
    EXPECT_EQ(reply.status().code(), expected) << i;
    if (reply.ok()) {
      EXPECT_EQ(reply->results.at(0).size(), 2u);
    }
  }
  EXPECT_EQ(Avoided("search"), 3);
  EXPECT_EQ(Wasted("encode"), 0) << "they brought their vectors";
}

TEST_F(SearchesTogetherTest, OneThatIsRefusedLeavesTheOthersTogether) {
  const std::vector<float> vector = VectorOf("query");
  const std::vector<float> too_long(vector.size(), 1e16f);
  std::vector<std::future<absl::StatusOr<SearchReply>>> replies;
  for (int i = 0; i < 5; ++i) replies.push_back(Ask({.store = "many", .queries = {vector, i == 2 ? too_long : vector}, .options = {.top_k = 2}}));
  ASSERT_EQ(replies[2].wait_for(std::chrono::seconds(0)), std::future_status::ready) << "it does not wait to be searched";
  Release();
  const absl::Status refused = replies[2].get().status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kInvalidArgument) << refused;
  EXPECT_THAT(std::string(refused.message()), HasSubstr("queries[1].vector has the length "));
  EXPECT_EQ(GetErrorReason(refused)->metadata.at("field"), "queries[1].vector");
  int64_t search_us = 0;
  for (const int i : {0, 1, 3, 4}) {
    const auto reply = replies[static_cast<size_t>(i)].get();
    ASSERT_TRUE(reply.ok()) << i << reply.status();
    EXPECT_EQ(reply->results.at(1).size(), 2u);
    if (i > 0) {
      EXPECT_EQ(reply->times.search_us, search_us) << "one pass";
    }
    search_us = reply->times.search_us;
  }
}

TEST_F(SearchesTogetherTest, OneThatIsSoonDueIsNotHeldUpByTheOthers) {
  constexpr int64_t kPassUs = 1'000'000'000;
  const std::vector<float> vector = VectorOf("query");
  // Passes with 8 queries are known to take one tick, and those with fewer are not known.
  clock_.SetTick(kPassUs);
  std::vector<std::future<absl::StatusOr<SearchReply>>> replies;
  for (int i = 0; i < 8; ++i) replies.push_back(Ask({.store = "many", .queries = {vector}, .options = {.top_k = 2}}));
  Release();
  for (auto& reply : replies) EXPECT_TRUE(reply.get().ok());
  clock_.SetTick(0);

  for (const int64_t left_us : {kPassUs / 2, 2 * kPassUs}) {
    Hold();
    replies.clear();
    for (int i = 0; i < 8; ++i) {
      SearchCall call{.store = "many", .queries = {vector}, .options = {.top_k = 2}};
      const bool soon_due = i == 5 || i == 6;
      if (soon_due) call.options.limits = RequestLimits(clock_.NowMicros() + left_us);
      replies.push_back(Ask(std::move(call), [this, soon_due] {
        if (soon_due) clock_.Advance(1'000);
      }));
    }
    Release();
    std::vector<int64_t> queue_us;
    for (auto& reply : replies) queue_us.push_back(reply.get().value().times.queue_us);
    if (left_us < kPassUs) {
      EXPECT_THAT(queue_us, ElementsAre(2'000, 2'000, 2'000, 2'000, 2'000, 0, 0, 2'000)) << "the two are answered before";
    } else {
      EXPECT_THAT(queue_us, ElementsAre(0, 0, 0, 0, 0, 0, 0, 0)) << "there is time for all";
    }
  }
}

// Of more queries than are searched together, all for what `tick` makes of a look at the clock.
class LargeSearchesTest : public SearchesTogetherTest {
 protected:
  void SetUp() override {
    SearchesTogetherTest::SetUp();
    vector_ = VectorOf("query");
    clock_.SetTick(0);
    // Nine of them are more than Batcher::kPatientUs, and less than LargeWorkLine::kTurnUs.
    line_->Measured({LargeWorkKind::kExactSearch, 65, 300 * static_cast<int64_t>(vector_.size())}, 2'000'000);
    never_ = Ask(Large(RequestLimits()), [this] { order_.push_back("never due"); });
    const absl::Status refused = Ask(Large(Due(1'000))).get().status();
    ASSERT_EQ(refused.code(), absl::StatusCode::kResourceExhausted) << refused;
    own_us_ = std::stoll(GetErrorReason(refused)->metadata.at("delay_ms")) * 1'000;
    ASSERT_EQ(own_us_, 2'000'000);
  }
  RequestLimits Due(int64_t in_us) { return RequestLimits(clock_.NowMicros() + in_us); }
  SearchCall Large(RequestLimits limits) {
    SearchCall call{.store = "many", .options = {.top_k = 2, .limits = std::move(limits)}};
    for (int i = 0; i < 65; ++i) call.queries.emplace_back(vector_);
    return call;
  }

  std::vector<float> vector_;
  int64_t own_us_ = 0;              // What one of them takes.
  std::vector<std::string> order_;  // Of answers, by the pool's one thread.
  std::future<absl::StatusOr<SearchReply>> never_;
};

TEST_F(LargeSearchesTest, AreTakenAsFarAsTheyCanEndAndStandInNobodysWay) {
  std::vector<std::future<absl::StatusOr<SearchReply>>> replies;
  const auto ask_small = [this] {
    return Ask({.store = "s", .queries = {vector_}, .options = {.top_k = 1, .limits = Due(1'000'000)}}, [this] { order_.push_back("small"); });
  };
  std::future<absl::StatusOr<SearchReply>> between;
  for (int i = 0; i < 12; ++i) {
    replies.push_back(Ask(Large(Due(own_us_ * 19 / 2)), [&] {
      order_.push_back("large");
      if (!held_ && order_.size() == 2) between = ask_small();  // While the others of them wait to be searched.
    }));
  }
  auto small = ask_small();
  for (size_t i = 9; i < 12; ++i) {
    const absl::Status refused = replies[i].get().status();
    EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted) << i << refused;
    EXPECT_EQ(GetErrorReason(refused)->reason, "OVERLOADED");
  }
  order_.clear();  // Of those that were refused.
  Release();
  EXPECT_TRUE(small.get().ok());
  for (size_t i = 0; i < 9; ++i) EXPECT_TRUE(replies[i].get().ok()) << i;
  ASSERT_TRUE(never_.get().ok());
  EXPECT_TRUE(between.get().ok());
  std::vector<std::string> expected(12, "large");
  expected[0] = expected[2] = "small";
  expected[11] = "never due";
  EXPECT_EQ(order_, expected);
  EXPECT_TRUE(Ask(Large(Due(own_us_ / 2))).get().ok()) << "nothing is before it: it is measured again";
}

TEST_F(LargeSearchesTest, OneThatIsOutOfReachGivesWayToTheNext) {
  auto late = Ask(Large(Due(own_us_ * 19 / 2)));
  clock_.Advance(own_us_ * 9);
  Release();
  const absl::Status refused = late.get().status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted) << refused;
  EXPECT_TRUE(never_.get().ok());
  EXPECT_EQ(Avoided("search"), 1);
}

TEST_F(SearchesTogetherTest, PiecesOfALargeSearchFindWhatTheWholeDoes) {
  constexpr size_t kCount = 530;  // Two whole pieces, and some.
  const std::vector<float> base = VectorOf("query");
  for (const char* const store : {"many", "approximate"}) {
    SearchCall call{.store = store, .options = {.top_k = 3}};
    for (size_t q = 0; q < kCount; ++q) {
      std::vector<float> vector = base;
      vector[q % vector.size()] += static_cast<float>(q) / 500;
      call.queries.emplace_back(std::move(vector));
    }
    std::vector<std::string> order;  // By the pool's one thread.
    if (!held_) Hold();
    auto large = Ask(call, [&order] { order.push_back("large"); });
    auto small = Ask({.store = "s", .queries = {base}, .options = {.top_k = 1}}, [&order] { order.push_back("small"); });
    Release();
    const auto reply = large.get();
    ASSERT_TRUE(reply.ok()) << reply.status();
    EXPECT_TRUE(small.get().ok());
    EXPECT_THAT(order, ElementsAre("small", "large")) << store;
    ASSERT_EQ(reply->results.size(), kCount);
    EXPECT_EQ(reply->exact, std::string(store) == "many");
    for (const size_t q : {size_t{0}, size_t{255}, size_t{256}, size_t{511}, size_t{512}, kCount - 1}) {
      const auto alone = Search({.store = store, .queries = {call.queries[q]}, .options = {.top_k = 3}});
      ASSERT_TRUE(alone.ok()) << alone.status();
      ASSERT_EQ(reply->results[q].size(), 3u);
      for (size_t k = 0; k < 3; ++k) {
        EXPECT_EQ(reply->results[q][k].id, alone->results[0][k].id) << q;
        EXPECT_EQ(reply->results[q][k].score, alone->results[0][k].score) << q;
      }
    }
  }
}

TEST_F(SearchesTogetherTest, AnErrorOfThePassIsEachOnes) {
  constexpr int kCount = 20;
  const std::vector<float> vector = VectorOf("query");
  std::vector<std::future<absl::StatusOr<SearchReply>>> replies;
  for (int i = 0; i < kCount; ++i) replies.push_back(Ask({.store = "many", .queries = {vector}, .options = {.top_k = 2}}));
  const std::string file = JoinPath(DataDirectory(), "stores/many/" + manager_->GetStore("many")->generation + "/vectors.bin");
  ASSERT_EQ(truncate(file.c_str(), 0), 0);
  const int64_t before_us = clock_.NowMicros();
  Release();
  for (auto& reply : replies) EXPECT_EQ(reply.get().status().code(), absl::StatusCode::kDataLoss);
  EXPECT_LT(clock_.NowMicros() - before_us, kCount * TickingClock::kTickUs) << "vectors that are gone are not asked for again for each";
}

TEST_F(SearchesTogetherTest, EachAnswersOutOfTheViewThatItSaw) {
  std::vector<std::future<absl::StatusOr<SearchReply>>> before, after;
  const std::vector<float> vector = VectorOf("new");
  const SearchCall call{.store = "many", .queries = {vector}, .options = {.top_k = 1}};
  for (int i = 0; i < 3; ++i) before.push_back(Ask(call));
  ASSERT_TRUE(Ingest("many", {MakePassage("new", "new")}).ok());
  for (int i = 0; i < 3; ++i) after.push_back(Ask(call));
  Release();
  for (auto& reply : before) EXPECT_NE(reply.get().value().results.at(0).at(0).id, "new");
  for (auto& reply : after) EXPECT_EQ(reply.get().value().results.at(0).at(0).id, "new");
}

TEST_F(SearchesTogetherTest, AFullQueueRefusesAllOfThem) {
  for (int i = 0; i < 256; ++i) ASSERT_TRUE(one_->TrySubmit([] {}));
  std::vector<std::future<absl::StatusOr<SearchReply>>> replies;
  for (int i = 0; i < 20; ++i) {
    replies.push_back(Ask({.store = "many", .queries = {std::string("a"), std::string("b")}, .options = {.top_k = 1}}));
  }
  for (auto& reply : replies) EXPECT_EQ(reply.get().status().code(), absl::StatusCode::kResourceExhausted);
}

}  // namespace
}  // namespace loci
