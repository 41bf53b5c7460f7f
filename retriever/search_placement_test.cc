// Generations that a device searches: brought there, replaced, waiting for room, refused.
#include "retriever/search_placement.h"

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/mutex.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "retriever/testing/retriever_fixture.h"

namespace loci {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Room for so many indexes, each of which is the CPU's, counted. Thread-safe.
class FakePlacer : public ExactPlacer {
 public:
  static constexpr int64_t kHostBytes = 1 << 20;
  static constexpr int64_t kDeviceBytes = 5 << 20;

  const std::string& device() const override { return device_; }
  CudaHealth& health() const override { return health_; }
  bool IsFor(int64_t rows, int) const override { return rows >= 2; }
  int64_t host_bytes(int64_t, int) const override { return kHostBytes; }
  absl::StatusOr<std::shared_ptr<const DeviceExactIndex>> Place(std::shared_ptr<const VectorFile>, std::shared_ptr<const QuantizedVectors>,
                                                                std::shared_ptr<const PassageIndex> cpu,
                                                                const std::function<absl::Status(int64_t)>& progress) override {
    ++attempts;
    clock.Advance(upload_us);
    if (absl::Status failure = health_.Check(); !failure.ok()) return failure;
    if (refuses) return absl::FailedPreconditionError("it is too wide");
    if (damaged) return absl::DataLossError("its vectors can't be read");
    if (progress) {
      if (absl::Status status = progress(1); !status.ok()) return status;
    }
    // An upload that takes as long as it is not ended, but for ever.
    const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(30);
    for (uploading = slow.load(); slow && std::chrono::steady_clock::now() < until; std::this_thread::sleep_for(std::chrono::milliseconds(1))) {
      if (absl::Status status = progress(2); !status.ok()) {
        ended = true;
        return status;
      }
    }
    if (placed.fetch_add(1) >= room) {
      --placed;
      return absl::ResourceExhaustedError("no room");
    }
    return std::make_shared<const Index>(this, std::move(cpu));
  }

  FakeClock clock;
  std::atomic<int64_t> upload_us{0};
  std::atomic<int> room{1}, placed{0}, attempts{0}, searches{0};
  std::atomic<bool> refuses{false}, damaged{false}, slow{false}, uploading{false}, ended{false};
  std::atomic<bool> freed_by_test{false};
  std::thread::id test_thread = std::this_thread::get_id();
  // Searches that have begun wait while it is held.
  Mutex gate;

 private:
  class Index : public DeviceExactIndex {
   public:
    Index(FakePlacer* placer, std::shared_ptr<const PassageIndex> cpu) : placer_(placer), cpu_(std::move(cpu)) {}
    ~Index() override {
      if (std::this_thread::get_id() == placer_->test_thread) placer_->freed_by_test = true;
      --placer_->placed;
    }
    int64_t row_count() const override { return cpu_->row_count(); }
    int dim() const override { return cpu_->dim(); }
    std::string name() const override { return cpu_->name(); }
    int64_t memory_bytes() const override { return kHostBytes; }
    int64_t device_bytes() const override { return kDeviceBytes; }
    Counts counts() const override { return {.answered = answered_}; }
    bool IsExact(const IndexSearchOptions&, const RowMask&) const override { return true; }
    absl::Status Search(MatrixView<const float> queries, const IndexSearchOptions& options, const RowMask& hidden,
                        RowHit* hits) const override {
      ++placer_->searches;
      MutexLock gate(&placer_->gate);
      if (absl::Status failure = placer_->health_.Check(); !failure.ok()) return failure;
      answered_ += queries.rows;
      return cpu_->Search(queries, options, hidden, hits);
    }

   private:
    FakePlacer* const placer_;
    const std::shared_ptr<const PassageIndex> cpu_;
    mutable std::atomic<int64_t> answered_{0};
  };

  const std::string device_ = "cuda:0";
  mutable CudaHealth health_{"cuda:0"};
};

class SearchPlacementTest : public RetrieverFixture {
 protected:
  ~SearchPlacementTest() override { Stop(); }  // Before the placer.

  void SetUp() override { Restart(); }
  void Restart(Clock& clock = RealClock()) {
    Stop();
    Start();
    manager_.reset();
    auto manager = GenerationManager::Open({.data_directory = DataDirectory(),
                                            .clock = &clock,
                                            .encoders = registry_.get(),
                                            .search_pool = &pool_,
                                            .exact_placer = &placer_});
    ASSERT_TRUE(manager.ok()) << manager.status();
    manager_ = *std::move(manager);
  }
  // Of so many passages that they are the device's; returns the generation.
  std::string Build(const std::string& store, const std::string& text, IngestOptions options = {}) {
    const auto result = Ingest(store, {MakePassage("a", text + " one"), MakePassage("b", text + " two"), MakePassage("c", text)}, std::move(options));
    EXPECT_TRUE(result.ok()) << result.status();
    return result.ok() ? result->generation : "";
  }
  std::shared_ptr<const View> ViewOf(const std::string& store) { return (*manager_->Capture(store, ""))->view; }
  bool IsOnDevice(const std::string& store) { return ViewOf(store)->generation().exact_index().device() != nullptr; }
  std::string DetailOf(const std::string& store) {
    const GenerationList list = *manager_->ListGenerations(store);
    for (const GenerationInfo& info : list.generations) {
      if (info.manifest.generation() == list.active) return info.detail;
    }
    return "none is active";
  }
  double Metric(const std::string& name, const MetricLabels& labels) {
    for (const GaugeSample& sample : manager_->Metrics()) {
      if (sample.name == name && sample.labels == labels) return sample.value;
    }
    return -1;
  }
  static bool WaitUntil(const std::function<bool()>& holds) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::minutes(1);
    while (!holds()) {
      if (std::chrono::steady_clock::now() > deadline) return false;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return true;
  }
  // Writes over it are searched beside what the device finds.
  void ExpectServes(const std::string& store) {
    ASSERT_TRUE(manager_->Upsert(store, {MakePassage("w", "written later")}, {}).ok());
    ASSERT_TRUE(manager_->Delete(store, {"b"}).ok());
    EXPECT_THAT(SearchIds(store, "written later", 10), testing::UnorderedElementsAre("a", "c", "w"));
    EXPECT_EQ(SearchIds(store, "written later", 1), std::vector<std::string>{"w"});
  }

  FakePlacer placer_;
};

TEST_F(SearchPlacementTest, WhatServesIsSearchedOnTheDeviceOverRestartsToo) {
  Build("s", "fox");
  EXPECT_TRUE(IsOnDevice("s"));
  EXPECT_EQ(DetailOf("s"), "");
  const int before = placer_.searches;
  ExpectServes("s");
  EXPECT_EQ(placer_.searches, before + 2);
  EXPECT_TRUE(IsOnDevice("s")) << "a write is no other generation";
  EXPECT_EQ(Metric("loci_store_device_search", {{"store", "s"}}), 1);
  EXPECT_EQ(Metric("loci_store_device_search_refused", {{"store", "s"}}), 0);
  EXPECT_EQ(Metric("loci_store_device_search_queries", {{"store", "s"}, {"result", "answered"}}), 2);
  EXPECT_EQ(Metric("loci_memory_bytes", {{"owner", "search"}, {"kind", "device"}, {"store", "s"}}), FakePlacer::kDeviceBytes);
  EXPECT_EQ(Metric("loci_memory_bytes", {{"owner", "search"}, {"kind", "pinned"}, {"store", "s"}}), FakePlacer::kHostBytes);
  EXPECT_EQ(Metric("loci_memory_bytes", {{"owner", "index"}, {"kind", "resident"}, {"store", "s"}}), 0) << "counted once";
  EXPECT_GE(ViewOf("s")->generation().memory_bytes(), FakePlacer::kHostBytes);
  EXPECT_TRUE(manager_->CheckPlacements().ok());
  Restart();
  EXPECT_TRUE(IsOnDevice("s"));
  EXPECT_EQ(placer_.placed, 1);
}

TEST_F(SearchPlacementTest, WhereThereIsRoomForTwoNoneIsServedByTheCpu) {
  placer_.room = 2;
  Build("s", "fox");
  bool placing = false;
  const std::string second = Build("s", "whale", {.activate = false});
  EXPECT_EQ(placer_.placed, 1) << "what is only built takes no room";
  ASSERT_TRUE(manager_->Activate("s", second, WritesPolicy::kRefuse, /*dry_run=*/true).ok());
  EXPECT_EQ(placer_.placed, 1);
  const OperationControl control{.progress = [&](std::string_view phase, int64_t, int64_t total) {
    placing |= phase == "placing" && total == 3;
    if (phase == "publishing") {
      EXPECT_EQ(placer_.placed, 2);
    }
  }};
  ASSERT_TRUE(manager_->Activate("s", second, WritesPolicy::kRefuse, false, control).ok());
  EXPECT_TRUE(placing);
  EXPECT_TRUE(IsOnDevice("s"));
  EXPECT_EQ(placer_.attempts, 2);
  EXPECT_TRUE(WaitUntil([&] { return placer_.placed == 1; }));
  EXPECT_FALSE(placer_.freed_by_test) << "device memory is freed on a thread of the manager's";
}

TEST_F(SearchPlacementTest, WithoutRoomForTwoTheCpuSearchesUntilTheOlderOneIsFreed) {
  Build("s", "fox");
  const std::shared_ptr<const ServingSet> old = *manager_->Capture("s", "");
  const auto vectors = (*registry_->Get(""))->EncodeAndWait({"fox"}, {.role = TextRole::kQuery});
  ASSERT_TRUE(vectors.ok());
  placer_.gate.Lock();
  const int before = placer_.searches;
  std::thread reader([&] {
    EXPECT_TRUE(old->view->Search({vectors->vectors.data(), 1, old->view->dim()}, {.top_k = 2}).ok());
  });
  EXPECT_TRUE(WaitUntil([&] { return placer_.searches > before; }));
  // The search that is under way keeps the old one's memory.
  Build("s", "whale");
  EXPECT_FALSE(IsOnDevice("s"));
  EXPECT_THAT(DetailOf("s"), HasSubstr("exact search runs on the CPU, not on cuda:0, until there is room: no room"));
  EXPECT_EQ(Metric("loci_store_device_search", {{"store", "s"}}), 0);
  EXPECT_EQ(Metric("loci_store_device_search_refused", {{"store", "s"}}), 1);
  EXPECT_EQ(manager_->CheckPlacements().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(manager_->CheckPlacements().message()), testing::EndsWith(" of store s can't be searched on cuda:0: no room"));
  ExpectServes("s");
  EXPECT_EQ(placer_.searches, before + 1);
  EXPECT_EQ(placer_.placed, 1);
  placer_.gate.Unlock();
  reader.join();
  EXPECT_TRUE(WaitUntil([&] { return IsOnDevice("s"); }));
  EXPECT_EQ(DetailOf("s"), "");
  EXPECT_EQ(placer_.placed, 1);
  EXPECT_FALSE(placer_.freed_by_test);
  EXPECT_THAT(SearchIds("s", "written later", 1), ElementsAre("w"));
  EXPECT_EQ(placer_.searches, before + 2);
  // Who holds the old one still is answered by the CPU.
  EXPECT_TRUE(old->view->Search({vectors->vectors.data(), 1, old->view->dim()}, {.top_k = 2}).ok());
  EXPECT_EQ(placer_.searches, before + 2);
}

TEST_F(SearchPlacementTest, WhatWaitsIsBroughtWhenAnotherStoreGoes) {
  Build("one", "fox");
  Build("two", "whale");
  EXPECT_TRUE(IsOnDevice("one"));
  EXPECT_FALSE(IsOnDevice("two"));
  ASSERT_TRUE(manager_->DeleteStore("one").ok());
  EXPECT_TRUE(WaitUntil([&] { return IsOnDevice("two"); }));
}

TEST_F(SearchPlacementTest, TheCpuHasWhatIsNotMeantForTheDevice) {
  placer_.room = 10;
  ASSERT_TRUE(Ingest("small", {MakePassage("a", "one")}).ok());
  Build("graph", "fox", {.index = "HNSW8"});
  const std::string bare = Build("s", "fox");
  Build("s", "whale");
  EXPECT_TRUE(WaitUntil([&] { return placer_.placed == 1; }));
  ASSERT_TRUE(manager_->Capture("s", bare).ok());
  EXPECT_EQ(placer_.placed, 1) << "one that a request names is searched by the CPU";
  EXPECT_FALSE(IsOnDevice("small"));
  EXPECT_FALSE(IsOnDevice("graph"));
  EXPECT_TRUE(manager_->CheckPlacements().ok());
  EXPECT_EQ(manager_->PlanActivation("graph", manager_->GetStore("graph")->generation)->need.pinned_bytes, 0);
  EXPECT_EQ(manager_->PlanActivation("s", bare)->need.pinned_bytes, FakePlacer::kHostBytes);
}

TEST_F(SearchPlacementTest, WhatTheDeviceCanNeverSearchIsNotTriedAgain) {
  placer_.refuses = true;
  Build("s", "fox");
  EXPECT_THAT(DetailOf("s"), HasSubstr("exact search runs on the CPU, not on cuda:0: it is too wide"));
  EXPECT_EQ(manager_->CheckPlacements().code(), absl::StatusCode::kFailedPrecondition);
  ExpectServes("s");
  EXPECT_EQ(placer_.attempts, 1);
  Build("other", "whale");  // Which wakes what waits.
  EXPECT_EQ(placer_.attempts, 2);
  manager_.reset();
  EXPECT_EQ(placer_.attempts, 2);
}

TEST_F(SearchPlacementTest, DamageFoundOnTheWayToTheDeviceLeavesTheStoreOpen) {
  const std::string first = Build("s", "fox"), second = Build("s", "whale");
  placer_.damaged = true;
  Restart();
  EXPECT_EQ(manager_->Capture("s", "").status().code(), absl::StatusCode::kDataLoss);
  const absl::StatusOr<StoreInfo> info = manager_->GetStore("s");
  ASSERT_TRUE(info.ok()) << info.status();
  EXPECT_THAT(info->error, HasSubstr("can't be read"));
  placer_.damaged = false;
  ASSERT_TRUE(manager_->Activate("s", first, WritesPolicy::kRefuse, false).ok());
  EXPECT_TRUE(IsOnDevice("s"));
  EXPECT_EQ(manager_->GetStore("s")->error, "");
  ExpectServes("s");
  // The same one again, once it can be read.
  placer_.damaged = true;
  Restart();
  placer_.damaged = false;
  ASSERT_TRUE(manager_->Activate("s", first, WritesPolicy::kRefuse, false).ok());
  EXPECT_EQ(SearchIds("s", "written later", 1), std::vector<std::string>{"w"});
}

TEST_F(SearchPlacementTest, DamageFoundWhileItServesIsToldAndNotLookedForAgain) {
  Build("one", "fox");
  Build("two", "whale");
  placer_.damaged = true;
  ASSERT_TRUE(manager_->DeleteStore("one").ok());
  EXPECT_TRUE(WaitUntil([&] { return DetailOf("two").find("can't be read") != std::string::npos; })) << DetailOf("two");
  EXPECT_THAT(DetailOf("two"), HasSubstr("exact search runs on the CPU, not on cuda:0: its vectors"));
  EXPECT_EQ(Metric("loci_store_device_search_refused", {{"store", "two"}}), 1);
  placer_.damaged = false;
  placer_.room = 0;
  Build("zebra", "fox");
  placer_.room = 1;
  ASSERT_TRUE(Ingest("small", {MakePassage("a", "one")}).ok());  // Which wakes what waits, in the order of names.
  EXPECT_TRUE(WaitUntil([&] { return IsOnDevice("zebra"); }));
  EXPECT_FALSE(IsOnDevice("two"));
  ExpectServes("two");
}

TEST_F(SearchPlacementTest, ADeviceThatFailedIsNotReplacedByTheCpu) {
  placer_.room = 2;
  const std::string first = Build("s", "fox");
  const std::string second = Build("s", "whale", {.activate = false});
  (void)placer_.health().Fail(absl::UnavailableError("an illegal memory access"));
  EXPECT_EQ(manager_->Activate("s", second, WritesPolicy::kRefuse, false).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(manager_->GetStore("s")->generation, first);
  const std::shared_ptr<const View> view = ViewOf("s");
  const std::vector<float> query(static_cast<size_t>(view->dim()), 0.1f);
  EXPECT_EQ(view->Search({query.data(), 1, view->dim()}, {.top_k = 1}).status().code(), absl::StatusCode::kUnavailable);
  // Nor does it for who holds what was replaced since.
  ASSERT_TRUE(manager_->DeleteStore("s").ok());
  EXPECT_EQ(view->Search({query.data(), 1, view->dim()}, {.top_k = 1}).status().code(), absl::StatusCode::kUnavailable);
  // What is small was never the device's.
  ASSERT_TRUE(Ingest("small", {MakePassage("a", "one")}).ok());
  EXPECT_EQ(SearchIds("small", "one", 1), std::vector<std::string>{"a"});
}

TEST_F(SearchPlacementTest, WhatIsNotPublishedGivesItsRoomBack) {
  placer_.room = 2;
  Build("s", "fox");
  const std::string second = Build("s", "whale", {.activate = false});
  const OperationControl refuse{.approve = [](const auto&, TextEncoder&, const ServingSet*) { return absl::FailedPreconditionError("worse"); }};
  EXPECT_FALSE(manager_->Activate("s", second, WritesPolicy::kRefuse, false, refuse).ok());
  EXPECT_EQ(placer_.attempts, 1);
  // A request holds what the activation took over.
  const std::shared_ptr<const ServingSet> bare = *manager_->Capture("s", second);
  OperationControl given_up;
  given_up.progress = [&](std::string_view phase, int64_t, int64_t) {
    if (phase == "publishing") given_up.limits.Cancel();
  };
  EXPECT_EQ(manager_->Activate("s", second, WritesPolicy::kRefuse, false, given_up).status().code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(placer_.attempts, 2);
  EXPECT_EQ(bare->view->generation().exact_index().device(), nullptr);
  EXPECT_TRUE(WaitUntil([&] { return placer_.placed == 1; }));
  OperationControl early;
  early.progress = [&](std::string_view phase, int64_t, int64_t) {
    if (phase == "placing") early.limits.Cancel();
  };
  EXPECT_EQ(manager_->Activate("s", second, WritesPolicy::kRefuse, false, early).status().code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(placer_.placed, 1);
}

TEST_F(SearchPlacementTest, AnUploadEndsWhenTheServerStopsAndWhatWantedItIsDone) {
  placer_.room = 2;
  Build("s", "fox");
  const std::string second = Build("s", "whale", {.activate = false});
  placer_.slow = true;
  std::thread activation([&] {
    const auto activated = manager_->Activate("s", second, WritesPolicy::kRefuse, false);
    EXPECT_TRUE(activated.ok()) << activated.status();
  });
  EXPECT_TRUE(WaitUntil([&] { return placer_.uploading.load(); }));
  manager_->StopPlacing();
  activation.join();
  EXPECT_TRUE(placer_.ended);
  EXPECT_EQ(manager_->GetStore("s")->generation, second);
  EXPECT_FALSE(IsOnDevice("s"));
  EXPECT_EQ(DetailOf("s"), "");
  // None begins after it.
  const int attempts = placer_.attempts;
  Build("other", "fox");
  EXPECT_EQ(placer_.attempts, attempts);
  placer_.slow = false;
  Restart();
  EXPECT_TRUE(IsOnDevice("s"));
}

TEST_F(SearchPlacementTest, AnUploadInTheBackgroundDoesNotKeepTheManager) {
  Build("one", "fox");
  Build("two", "whale");
  placer_.slow = true;
  ASSERT_TRUE(manager_->DeleteStore("one").ok());
  EXPECT_TRUE(WaitUntil([&] { return placer_.uploading.load(); }));
  manager_.reset();
  EXPECT_TRUE(placer_.ended);
  placer_.slow = false;
}

TEST_F(SearchPlacementTest, APlanCountsTheUploadOfWhatComesToTheDeviceAlone) {
  constexpr int64_t kUploadMs = 10'000;
  Restart(placer_.clock);
  placer_.upload_us = 1000 * kUploadMs;
  placer_.room = 10;
  for (int i = 0; i < 3; ++i) {
    const int64_t start_us = placer_.clock.NowMicros();
    Build("s", "fox");
    manager_->ObserveActivation("s", placer_.clock.NowMicros() - start_us);
  }
  const std::string next = Build("s", "whale", {.activate = false});
  const int64_t planned_ms = manager_->PlanActivation("s", next)->estimated_load_ms;
  EXPECT_GE(planned_ms, kUploadMs);
  EXPECT_LT(planned_ms, kUploadMs * 3 / 2) << "once";
  const auto small = Ingest("small", {MakePassage("a", "one")}, {.activate = false});
  ASSERT_TRUE(small.ok()) << small.status();
  EXPECT_LT(manager_->PlanActivation("small", small->generation)->estimated_load_ms, kUploadMs / 2);
}

TEST_F(SearchPlacementTest, InPlaceTheDeviceIsFreedBeforeItIsWantedAgain) {
  Build("s", "fox");
  const std::string second = Build("s", "whale", {.activate = false});
  const auto activated = manager_->Activate("s", second, WritesPolicy::kRefuse, false, {}, ActivationStrategy::kInPlace);
  ASSERT_TRUE(activated.ok()) << activated.status();
  EXPECT_TRUE(IsOnDevice("s"));
  EXPECT_EQ(placer_.attempts, 2);
  EXPECT_EQ(placer_.placed, 1);
}

TEST_F(SearchPlacementTest, AFoldIsBroughtToTheDevice) {
  Build("s", "fox");
  ASSERT_TRUE(manager_->Upsert("s", {MakePassage("w", "written")}, {}).ok());
  ASSERT_TRUE(manager_->Fold("s").ok());
  EXPECT_TRUE(WaitUntil([&] { return IsOnDevice("s"); }));
  EXPECT_EQ(ViewOf("s")->generation().row_count(), 4);
  EXPECT_TRUE(WaitUntil([&] { return placer_.placed == 1; }));
}

}  // namespace
}  // namespace loci
