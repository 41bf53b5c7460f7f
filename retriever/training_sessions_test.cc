#include "retriever/training_sessions.h"

#include <atomic>
#include <set>
#include <thread>

#include "base/error.h"
#include "base/fake_metrics.h"
#include "gmock/gmock.h"
#include "retriever/testing/retriever_fixture.h"

namespace loci {
namespace {

using ::testing::HasSubstr;

std::string ReasonOf(const absl::Status& status) { return GetErrorReason(status).value_or(ErrorReason()).reason; }

// Of `bytes`, about.
std::shared_ptr<const TrainingRetrieval> Retrieval(int64_t bytes = 800, std::vector<int64_t> rows = {}) {
  auto retrieval = std::make_shared<TrainingRetrieval>();
  retrieval->queries.assign(static_cast<size_t>(bytes) / sizeof(double), 0.5);
  if (!rows.empty()) {
    TrainingResult& result = retrieval->results.emplace_back();
    for (const int64_t row : rows) result.hits.push_back({.row = {.row = row}});
  }
  return retrieval;
}

class TrainingSessionsTest : public RetrieverFixture {
 protected:
  void SetUp() override {
    Start();
    ASSERT_TRUE(Ingest("s", {MakePassage("a", "the cat sat"), MakePassage("b", "a dog ran")}).ok());
  }
  void TearDown() override { sessions_.reset(); }

  void MakeSessions(TrainingSessions::Options options = {}) {
    options.clock = &clock_;
    options.metrics = &counted_;
    options.poll_ms = 1;
    sessions_ = std::make_unique<TrainingSessions>(options);
  }
  absl::StatusOr<TrainingLease> Open(int32_t lease_ms = 0) { return sessions_->Open(*manager_->Capture("s", ""), lease_ms); }
  std::string OpenId(int32_t lease_ms = 0) {
    const absl::StatusOr<TrainingLease> lease = Open(lease_ms);
    EXPECT_TRUE(lease.ok()) << lease.status();
    return lease.ok() ? lease->session_id : "";
  }
  // A session on a view of its own, which nothing else holds once the next write is made.
  std::string OpenOwnView(std::weak_ptr<const View>* view, int32_t lease_ms) {
    const std::shared_ptr<const ServingSet> set = *manager_->Capture("s", "");
    *view = set->view;
    const std::string id = sessions_->Open(set, lease_ms)->session_id;
    EXPECT_TRUE(manager_->Upsert("s", {MakePassage("c" + std::to_string(++written_), "an owl flew")}, {}).ok());
    return id;
  }
  // Waits for the sessions' own thread, for as long as it takes.
  static void AwaitFreed(const std::weak_ptr<const View>& view) {
    while (!view.expired()) std::this_thread::yield();
  }
  double Sample(const std::string& name) const {
    for (const GaugeSample& sample : sessions_->Metrics()) {
      if (sample.name == name) return sample.value;
    }
    return -1;
  }

  FakeClock clock_;
  FakeMetrics counted_;
  int written_ = 0;
  std::unique_ptr<TrainingSessions> sessions_;
};

TEST_F(TrainingSessionsTest, ASessionEndsWithItsLeaseAndFreesItsView) {
  MakeSessions();
  std::weak_ptr<const View> view;
  const std::string id = OpenOwnView(&view, 1'000);
  EXPECT_EQ(id.size(), 32u);
  clock_.Advance(999'999);
  EXPECT_TRUE(sessions_->Begin(id).ok()) << "which renews it, too";
  clock_.Advance(999'999);
  EXPECT_FALSE(view.expired());
  EXPECT_EQ(sessions_->Renew(id, 5'000)->lease_ms, 5'000);  // Which has the view, too: none is kept.
  clock_.Advance(4'999'999);
  EXPECT_EQ(sessions_->Renew(id, 0)->lease_ms, 5'000) << "0 keeps what it has";
  clock_.Advance(5'000'000);
  AwaitFreed(view);  // Nobody asked for it: a client that died does not.
  EXPECT_EQ(counted_.value("loci_training_leases_expired_total"), 1);
  const absl::Status gone = sessions_->Begin(id).status();
  EXPECT_TRUE(absl::IsNotFound(gone));
  EXPECT_EQ(ReasonOf(gone), "SESSION_NOT_FOUND");
  EXPECT_THAT(std::string(gone.message()), HasSubstr("expired"));
  EXPECT_TRUE(absl::IsNotFound(sessions_->Renew(id, 0).status()));
  EXPECT_TRUE(absl::IsNotFound(sessions_->Close(id)));
}

TEST_F(TrainingSessionsTest, ASessionThatHeldMuchGivesItsMemoryBack) {
  std::atomic<int> released = 0;
  MakeSessions({.release_memory = [&] { ++released; }});
  const std::string little = OpenId(), much = OpenId();
  ASSERT_TRUE(sessions_->Begin(little)->Keep(Retrieval()).ok());
  ASSERT_TRUE(sessions_->Begin(much)->Keep(Retrieval(TrainingSessions::kReleaseBytes)).ok());
  EXPECT_TRUE(sessions_->Close(little).ok());
  EXPECT_TRUE(sessions_->Close(much).ok());
  while (released == 0) std::this_thread::yield();
  sessions_.reset();
  EXPECT_EQ(released, 1);
}

TEST_F(TrainingSessionsTest, ClosingFreesAtOnceAndOnlyOnce) {
  MakeSessions();
  std::weak_ptr<const View> view;
  const std::string id = OpenOwnView(&view, 0);
  EXPECT_TRUE(sessions_->Close(id).ok());
  AwaitFreed(view);
  const absl::Status twice = sessions_->Close(id);
  EXPECT_EQ(ReasonOf(twice), "SESSION_NOT_FOUND");
  EXPECT_THAT(std::string(twice.message()), HasSubstr("was closed"));
  const absl::Status unknown = sessions_->Close(std::string(1000, 'x'));
  EXPECT_EQ(ReasonOf(unknown), "SESSION_NOT_FOUND");
  EXPECT_LT(unknown.message().size(), 200u);
  EXPECT_EQ(counted_.value("loci_training_leases_expired_total"), 0);
}

TEST_F(TrainingSessionsTest, ARequestInFlightKeepsItsSession) {
  MakeSessions();
  std::weak_ptr<const View> slow_view, closed_view;
  const std::string slow = OpenOwnView(&slow_view, 1'000), closed = OpenOwnView(&closed_view, 1'000);
  TrainingSessions::Use slow_use = *sessions_->Begin(slow), closed_use = *sessions_->Begin(closed);
  const std::string handle = *closed_use.Keep(Retrieval());
  clock_.Advance(3'600'000'000);
  ASSERT_TRUE(sessions_->Renew(slow, 0).ok()) << "the lease is not over while a request goes on";
  clock_.Advance(3'600'000'000);
  EXPECT_TRUE(sessions_->Close(closed).ok());
  EXPECT_EQ(closed_use.serving_set().view->passage_count(), 3) << "what it holds stays";
  EXPECT_EQ(ReasonOf(closed_use.Find(handle).status()), "HANDLE_NOT_FOUND") << "what was kept is gone";
  EXPECT_TRUE(closed_use.Keep(Retrieval()).ok()) << "and what comes is not kept";
  EXPECT_EQ(Sample("loci_training_handle_bytes"), 0);
  closed_use.Release();
  AwaitFreed(closed_view);
  slow_use.Release();
  clock_.Advance(999'999);
  EXPECT_TRUE(sessions_->Begin(slow).ok()) << "it had a whole lease after the request";
  clock_.Advance(1'000'000);
  AwaitFreed(slow_view);
}

TEST_F(TrainingSessionsTest, TheirNumberIsBounded) {
  MakeSessions({.max_sessions = 3});
  std::set<std::string> ids = {OpenId(60'000), OpenId(2'000), OpenId(60'000)};
  EXPECT_EQ(ids.size(), 3u);
  const absl::Status refused = Open().status();
  EXPECT_TRUE(absl::IsResourceExhausted(refused));
  EXPECT_EQ(ReasonOf(refused), "OVERLOADED");
  EXPECT_EQ(GetErrorReason(refused)->metadata["retry_after_ms"], "2000") << "when the first lease may be over";
  clock_.Advance(2'000'000);
  EXPECT_TRUE(Open().ok()) << "its place is free without the thread's help";
  EXPECT_FALSE(Open().ok());
  EXPECT_TRUE(sessions_->Close(*ids.begin()).ok() || sessions_->Close(*std::next(ids.begin())).ok());
  EXPECT_TRUE(Open().ok());
  EXPECT_EQ(Sample("loci_training_sessions"), 3);
  EXPECT_EQ(Sample("loci_training_leases"), 3);
  const std::string generation = manager_->GetStore("s")->generation;
  EXPECT_EQ(sessions_->LeaseCount("s", generation), 3);
  EXPECT_EQ(sessions_->LeaseCount("t", generation) + sessions_->LeaseCount("s", "other"), 0);
  clock_.Advance(60'000'000);
  EXPECT_EQ(sessions_->LeaseCount("s", generation), 0) << "whether the thread has looked or not";
  EXPECT_TRUE(Open().ok());
  sessions_->CloseAll();
  EXPECT_TRUE(absl::IsUnavailable(Open().status()));
  EXPECT_EQ(Sample("loci_training_sessions"), 0);
}

TEST_F(TrainingSessionsTest, TheOldestHandleGoes) {
  MakeSessions({.max_handles = 2});
  const TrainingSessions::Use use = *sessions_->Begin(OpenId());
  const std::shared_ptr<const TrainingRetrieval> kept[] = {Retrieval(), Retrieval(), Retrieval()};
  std::vector<std::string> names;
  for (const auto& retrieval : kept) names.push_back(*use.Keep(retrieval));
  const absl::Status gone = use.Find(names[0]).status();
  EXPECT_EQ(ReasonOf(gone), "HANDLE_NOT_FOUND");
  EXPECT_THAT(std::string(gone.message()), HasSubstr("not kept any more"));
  for (int again = 0; again < 2; ++again) {
    EXPECT_EQ(*use.Find(names[1]), kept[1]);
    EXPECT_EQ(*use.Find(names[2]), kept[2]);
  }
  for (const std::string_view bad : {"", "h", "h0", "h4", "h03", "3", "h-1", "h99999999999999999999", " h3"}) {
    const absl::Status status = use.Find(bad).status();
    EXPECT_EQ(ReasonOf(status), "HANDLE_NOT_FOUND") << bad;
    EXPECT_THAT(std::string(status.message()), HasSubstr("there is no handle")) << bad;
  }
  const TrainingSessions::Use other = *sessions_->Begin(OpenId());
  EXPECT_FALSE(other.Find(names[2]).ok()) << "another session's";
}

TEST_F(TrainingSessionsTest, HandlesAreBoundedInBytesAndNobodyLosesTheLast) {
  MakeSessions({.max_handle_bytes = 10'000});
  const TrainingSessions::Use small = *sessions_->Begin(OpenId()), large = *sessions_->Begin(OpenId());
  const std::string only = *small.Keep(Retrieval(1'000));
  const std::string first = *large.Keep(Retrieval(3'000)), second = *large.Keep(Retrieval(3'000));
  const std::string newer = *small.Keep(Retrieval(4'000));
  EXPECT_FALSE(large.Find(first).ok()) << "the oldest of the session that had most";
  EXPECT_TRUE(small.Find(only).ok());
  EXPECT_TRUE(large.Find(second).ok());
  ASSERT_TRUE(large.Keep(Retrieval(5'000)).ok()) << "one's own older ones make room, and others' that are not the last";
  EXPECT_FALSE(large.Find(second).ok());
  EXPECT_FALSE(small.Find(only).ok());
  EXPECT_TRUE(small.Find(newer).ok());
}

TEST_F(TrainingSessionsTest, WhatDoesNotFitIsRefused) {
  MakeSessions({.max_handle_bytes = 12'000});
  const TrainingSessions::Use one = *sessions_->Begin(OpenId()), two = *sessions_->Begin(OpenId()), three = *sessions_->Begin(OpenId());
  const std::string kept = *one.Keep(Retrieval(6'000));
  const absl::Status refused = two.Keep(Retrieval(6'000)).status();
  EXPECT_TRUE(absl::IsResourceExhausted(refused));
  EXPECT_EQ(ReasonOf(refused), "OVERLOADED");
  EXPECT_TRUE(one.Find(kept).ok());
  EXPECT_TRUE(two.Keep(Retrieval(3'000)).ok());
  const std::string others[] = {*three.Keep(Retrieval(200)), *three.Keep(Retrieval(200))};
  for (const int64_t bytes : {20'000, 11'500}) {  // More than the limit, and more than others' newest leave of it.
    EXPECT_TRUE(absl::IsResourceExhausted(one.Keep(Retrieval(bytes)).status())) << bytes;
    EXPECT_TRUE(one.Find(kept).ok()) << "who asked has lost nothing";
    for (const std::string& other : others) EXPECT_TRUE(three.Find(other).ok()) << "nor has anybody else";
  }
  EXPECT_EQ(counted_.value("loci_training_handles_dropped_total"), 0);
}

TEST_F(TrainingSessionsTest, CollapseShowsInTheMetrics) {
  MakeSessions();
  const TrainingSessions::Use use = *sessions_->Begin(OpenId());
  EXPECT_EQ(Sample("loci_training_retrieved_entropy_nats"), -1) << "nothing was retrieved yet";
  use.monitor().Retrieved(Retrieval(0, {1, 2, 3, 4})->results);
  EXPECT_NEAR(Sample("loci_training_retrieved_entropy_nats"), std::log(4), 1e-12);
  EXPECT_EQ(Sample("loci_training_retrieved_top_share"), 0.25);
  const std::shared_ptr<const TrainingRetrieval> collapsed = Retrieval(0, {7});
  for (size_t i = 0; i < TrainingMonitor::kWindowHits; ++i) use.monitor().Retrieved(collapsed->results);
  EXPECT_EQ(Sample("loci_training_retrieved_entropy_nats"), 0);
  EXPECT_EQ(Sample("loci_training_retrieved_top_share"), 1);
  use.monitor().Differentiated({.query_gradients = {3, 4, 0, 0}, .log_marginals = {}, .certificates = {std::nan(""), 0.5}, .passage_gradients = {}});
  EXPECT_EQ(Sample("loci_training_certificate"), 0.5) << "one without is left out";
  EXPECT_EQ(Sample("loci_training_gradient_norm"), 2.5);
}

TEST_F(TrainingSessionsTest, ManyThreadsAtOnce) {
  MakeSessions({.max_sessions = 16, .max_handles = 4, .max_handle_bytes = 20'000});
  constexpr int kRounds = 60;
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 6; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < kRounds; ++i) {
        const absl::StatusOr<TrainingLease> lease = Open(1'000);
        if (!lease.ok()) continue;  // Leases of threads that left theirs open.
        absl::StatusOr<TrainingSessions::Use> use = sessions_->Begin(lease->session_id);
        if (!use.ok()) continue;  // It expired.
        const auto retrieval = Retrieval(800);
        const absl::StatusOr<std::string> handle = use->Keep(retrieval);
        const bool found = handle.ok() && use->Find(*handle).ok() && *use->Find(*handle) == retrieval;
        if (!found || use->serving_set().view->passage_count() < 2) ++wrong;
        use->monitor().Retrieved(retrieval->results);
        if (i % 3 == 0) (void)sessions_->Close(lease->session_id);
        if (i % 3 == 1) use->Release();
        if (t == 0) clock_.Advance(200'000);
        if (t == 1) (void)sessions_->Metrics();
        if (t == 2) (void)manager_->Upsert("s", {MakePassage("w", "written " + std::to_string(i))}, {});
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
  clock_.Advance(10'000'000);
  EXPECT_EQ(Open().status(), absl::OkStatus());
  EXPECT_EQ(Sample("loci_training_sessions"), 1);
  EXPECT_EQ(Sample("loci_training_handle_bytes"), 0);
}

TEST_F(TrainingSessionsTest, TheDriftOfASessionIsAMetric) {
  EncoderDriftTable drifts;
  MakeSessions({.drifts = &drifts});
  const std::string id = OpenId();
  const auto drift = [&] {
    for (const GaugeSample& sample : sessions_->Metrics()) {
      if (sample.name == "loci_training_drift") return sample.value;
    }
    return -1.0;
  };
  EXPECT_EQ(drift(), -1) << "nothing was measured";
  drifts.Publish("s", "0123456789abcdef");
  drifts.Measured("s", (*registry_->Get(""))->spec().fingerprint.passage, {.drift = .25, .sample_count = 7});
  EXPECT_EQ(drift(), .25);
  sessions_.reset();  // Before the table.
}

}  // namespace
}  // namespace loci
