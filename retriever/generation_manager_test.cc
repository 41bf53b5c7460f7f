#include "retriever/generation_manager.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <functional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/error.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "index/forwarding_file_system.h"
#include "retriever/store_entry.h"
#include "retriever/testing/retriever_fixture.h"

namespace loci {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class GenerationManagerTest : public RetrieverFixture {
 protected:
  GenerationState StateOf(const std::string& store, const std::string& generation) {
    const GenerationList list = manager_->ListGenerations(store).value();
    for (const GenerationInfo& info : list.generations) {
      if (info.manifest.generation() == generation) return info.state;
    }
    return GenerationState::kFailed;
  }
  // As a first upsert leaves it that ends before the activation.
  std::string MakeEmptyGeneration(const std::string& store) {
    const EncoderSpec& spec = (*registry_->Get(""))->spec();
    auto builder = manager_->NewGeneration(store, {.dim = spec.dim,
                                                   .query_fingerprint = spec.fingerprint.query,
                                                   .passage_fingerprint = spec.fingerprint.passage,
                                                   .base_revision = -1});
    EXPECT_TRUE(builder.ok()) << builder.status();
    return (*builder)->Finish({}, nullptr)->generation();
  }
  // False where it does not come to hold in a minute.
  static bool WaitUntil(const std::function<bool()>& holds) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::minutes(1);
    while (!holds()) {
      if (std::chrono::steady_clock::now() > deadline) return false;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return true;
  }
  void WaitForState(const std::string& store, const std::string& generation, GenerationState state) {
    while (StateOf(store, generation) != state) std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
};

TEST_F(GenerationManagerTest, ServesWhatWasIngestedAndAgainAfterARestart) {
  Start();
  const auto ingested = Ingest("s", {MakePassage("a", "the red fox"), MakePassage("b", "a blue whale"), MakePassage("c", "green tea")});
  ASSERT_TRUE(ingested.ok()) << ingested.status();
  EXPECT_EQ(ingested->accepted_count, 3);
  EXPECT_EQ(SearchIds("s", "a blue whale", 1), std::vector<std::string>{"b"});
  const auto upserted = manager_->Upsert("s", {MakePassage("d", "a yellow submarine")}, {});
  ASSERT_TRUE(upserted.ok()) << upserted.status();
  EXPECT_GT(upserted->revision, ingested->revision);
  ASSERT_TRUE(manager_->Delete("s", {"b", "unknown"}).ok());
  const StoreInfo before = *manager_->GetStore("s");
  Stop();
  Start();
  const StoreInfo after = *manager_->GetStore("s");
  EXPECT_EQ(after.generation, before.generation);
  EXPECT_EQ(after.revision, before.revision);
  EXPECT_EQ(after.passage_count, 3);
  EXPECT_EQ(SearchIds("s", "a yellow submarine", 1), std::vector<std::string>{"d"});
  for (const std::string& id : SearchIds("s", "a blue whale", 10)) EXPECT_NE(id, "b");
}

TEST_F(GenerationManagerTest, ServesStoresWhoseEncoderIsNotTheDefault) {
  Start();
  ASSERT_TRUE(Ingest("s", {MakePassage("a", "the red fox")}).ok());
  Stop();
  Start(/*import_encoder=*/false);
  EXPECT_EQ(SearchIds("s", "fox", 1), std::vector<std::string>{"a"});
}

TEST_F(GenerationManagerTest, FirstUpsertMakesAnEmptyGeneration) {
  Start();
  ASSERT_TRUE(manager_->CreateStore("s").ok());
  EXPECT_EQ(GetErrorReason(manager_->Capture("s", "").status())->reason, "NO_ACTIVE_GENERATION");
  const auto upserted = manager_->Upsert("s", {MakePassage("a", "one")}, {});
  ASSERT_TRUE(upserted.ok()) << upserted.status();
  EXPECT_EQ(manager_->GetStore("s")->passage_count, 1);
  EXPECT_EQ(SearchIds("s", "one", 5), std::vector<std::string>{"a"});
}

TEST_F(GenerationManagerTest, FirstUpsertsAtOnceLoseNothing) {
  Start();
  ASSERT_TRUE(manager_->CreateStore("s").ok());
  std::vector<std::thread> threads;
  std::atomic<int> failures{0};
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 5; ++i) {
        if (!manager_->Upsert("s", {MakePassage(absl::StrCat(t, "-", i), "text")}, {}).ok()) failures.fetch_add(1);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(failures.load(), 0);
  EXPECT_EQ(manager_->GetStore("s")->passage_count, 20);
}

TEST_F(GenerationManagerTest, AFirstUpsertThatEndedBeforeItsActivationIsTakenUpAgain) {
  Start();
  ASSERT_TRUE(manager_->CreateStore("s").ok());
  const std::string left = MakeEmptyGeneration("s");
  ASSERT_TRUE(manager_->Upsert("s", {MakePassage("a", "one")}, {}).ok());
  EXPECT_EQ(manager_->GetStore("s")->generation, left);
  // A corpus that waits for its activation is another matter.
  ASSERT_TRUE(Ingest("t", {MakePassage("a", "one")}, {.activate = false}).ok());
  EXPECT_EQ(GetErrorReason(manager_->Upsert("t", {MakePassage("b", "two")}, {}).status())->reason, "NO_ACTIVE_GENERATION");
}

TEST_F(GenerationManagerTest, AFirstUpsertNeverReplacesAnIngestedCorpus) {
  Start();
  for (int round = 0; round < 8; ++round) {
    const std::string store = absl::StrCat("s", round);
    ASSERT_TRUE(manager_->CreateStore(store).ok());
    std::thread upsert([&] { (void)manager_->Upsert(store, {MakePassage("u", "upserted")}, {}); });
    const auto ingested = Ingest(store, {MakePassage("a", "one")}, {.writes_since = WritesPolicy::kReplay});
    upsert.join();
    ASSERT_TRUE(ingested.ok()) << ingested.status();
    EXPECT_EQ(manager_->GetStore(store)->generation, ingested->generation);
    EXPECT_TRUE((*manager_->Capture(store, ""))->view->Find("a")->has_value());
  }
}

TEST_F(GenerationManagerTest, RefusesToDropWritesUnlessTold) {
  Start();
  const std::string first = Ingest("s", {MakePassage("a", "one")})->generation;
  const std::string second = Ingest("s", {MakePassage("b", "two")}, {.activate = false})->generation;
  ASSERT_TRUE(manager_->Upsert("s", {MakePassage("c", "three")}, {}).ok());
  const auto refused = manager_->Activate("s", second, WritesPolicy::kRefuse, false);
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(GetErrorReason(refused.status())->reason, "WRITES_SINCE");
  EXPECT_EQ(GetErrorReason(refused.status())->metadata["count"], "1");
  EXPECT_EQ(manager_->GetStore("s")->generation, first);

  EXPECT_EQ(GetErrorReason(manager_->Activate("s", second, WritesPolicy::kRefuse, /*dry_run=*/true).status())->reason, "WRITES_SINCE");
  const auto dry = manager_->Activate("s", second, WritesPolicy::kReplay, /*dry_run=*/true);
  ASSERT_TRUE(dry.ok()) << dry.status();
  EXPECT_EQ(dry->writes_since_count, 1);
  EXPECT_EQ(manager_->GetStore("s")->generation, first);

  const auto replayed = manager_->Activate("s", second, WritesPolicy::kReplay, false);
  ASSERT_TRUE(replayed.ok()) << replayed.status();
  EXPECT_EQ(replayed->previous_generation, first);
  EXPECT_EQ(manager_->GetStore("s")->passage_count, 2);  // b and c
  ASSERT_TRUE(manager_->Activate("s", first, WritesPolicy::kDiscard, false).ok());
  EXPECT_EQ(SearchIds("s", "three", 10), std::vector<std::string>{"a"});
}

TEST_F(GenerationManagerTest, KeepsServingWhenALoadFails) {
  Start();
  const std::string first = Ingest("s", {MakePassage("a", "one")})->generation;
  const std::string second = Ingest("s", {MakePassage("b", "two")}, {.activate = false})->generation;
  const std::string vectors = JoinPath(DataDirectory(), absl::StrCat("stores/s/", second, "/vectors.bin"));
  std::string content = *fs_.ReadFile(vectors);
  content.back() ^= 1;
  auto file = fs_.NewWritableFile(vectors);
  ASSERT_TRUE(file.ok() && (*file)->Append(content).ok() && (*file)->Close().ok());
  const auto activated = manager_->Activate("s", second, WritesPolicy::kRefuse, false);
  EXPECT_EQ(activated.status().code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(activated.status().message()), HasSubstr("vectors.bin"));
  EXPECT_EQ(manager_->Verify("s", second).status().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(StateOf("s", second), GenerationState::kFailed);
  EXPECT_EQ(manager_->GetStore("s")->generation, first);
  EXPECT_EQ(SearchIds("s", "one", 1), std::vector<std::string>{"a"});
  EXPECT_TRUE(manager_->Verify("s", "").ok());
}

TEST_F(GenerationManagerTest, ARequestKeepsItsViewAndTheOldGenerationDrains) {
  Start();
  const std::string first = Ingest("s", {MakePassage("a", "one")})->generation;
  auto held = *manager_->Capture("s", "");
  const std::string second = Ingest("s", {MakePassage("b", "two")})->generation;
  EXPECT_EQ(StateOf("s", second), GenerationState::kServing);
  EXPECT_EQ(StateOf("s", first), GenerationState::kDraining);
  std::vector<loci::v1::Passage> passages;
  ASSERT_TRUE(held->view->Read(std::vector<ViewRow>{**held->view->Find("a")}, &passages).ok());
  EXPECT_EQ(passages[0].text(), "one");
  EXPECT_EQ(held->view->generation().id(), first);
  held.reset();
  WaitForState("s", first, GenerationState::kRetired);
}

TEST_F(GenerationManagerTest, PinsAnInactiveGenerationAsItsBareBody) {
  Start();
  const std::string first = Ingest("s", {MakePassage("a", "one")})->generation;
  ASSERT_TRUE(manager_->Upsert("s", {MakePassage("x", "ex")}, {}).ok());
  ASSERT_TRUE(Ingest("s", {MakePassage("b", "two")}, {.writes_since = WritesPolicy::kDiscard}).ok());
  EXPECT_EQ(manager_->TryCapture("s", first).value(), nullptr);
  const auto pinned = manager_->Capture("s", first);
  ASSERT_TRUE(pinned.ok()) << pinned.status();
  EXPECT_EQ((*pinned)->view->generation().id(), first);
  EXPECT_EQ((*pinned)->view->passage_count(), 1);
  EXPECT_EQ(manager_->TryCapture("s", first).value(), *pinned);
  EXPECT_EQ(manager_->Capture("s", "20000101-000000-0000").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(manager_->Capture("s", "../../etc").status().code(), absl::StatusCode::kNotFound);
}

TEST_F(GenerationManagerTest, StoresComeAndGo) {
  Start();
  ASSERT_TRUE(manager_->CreateStore("one").ok());
  EXPECT_EQ(manager_->CreateStore("one").status().code(), absl::StatusCode::kAlreadyExists);
  for (const char* bad : {"", ".", "..", "a/b", "A", "-a", "a.b", "\xff"}) {
    EXPECT_EQ(manager_->CreateStore(bad).status().code(), absl::StatusCode::kInvalidArgument) << bad;
  }
  EXPECT_EQ(manager_->CreateStore(std::string(10'000, 'a')).status().code(), absl::StatusCode::kInvalidArgument);
  ASSERT_TRUE(Ingest("two", {MakePassage("a", "x")}).ok());
  std::vector<std::string> names;
  for (const StoreInfo& info : manager_->ListStores()) names.push_back(info.name);
  EXPECT_THAT(names, ElementsAre("one", "two"));
  const auto held = *manager_->Capture("two", "");
  ASSERT_TRUE(manager_->DeleteStore("two").ok());
  EXPECT_EQ(manager_->Capture("two", "").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(held->view->passage_count(), 1);  // Requests in flight end on what they hold.
  EXPECT_EQ(manager_->DeleteStore("two").code(), absl::StatusCode::kNotFound);
  ASSERT_TRUE(Ingest("two", {MakePassage("b", "y")}).ok());
  EXPECT_EQ(SearchIds("two", "y", 5), std::vector<std::string>{"b"});
  const std::vector<std::string> folders = fs_.List(JoinPath(DataDirectory(), "stores")).value();
  EXPECT_THAT(folders, ElementsAre("one", "two"));
}

TEST_F(GenerationManagerTest, DoesNotDeleteAStoreUnderAnIngest) {
  Start();
  auto ingester = Ingester::Start(*manager_, {.store = "s"});
  ASSERT_TRUE(ingester.ok()) << ingester.status();
  EXPECT_EQ(manager_->DeleteStore("s").code(), absl::StatusCode::kAborted);
  ingester->reset();
  EXPECT_TRUE(manager_->DeleteStore("s").ok());
}

TEST_F(GenerationManagerTest, OneServerADirectory) {
  Start();
  const auto second = GenerationManager::Open({.data_directory = DataDirectory(), .encoders = registry_.get(), .search_pool = &pool_});
  EXPECT_EQ(second.status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(GenerationManagerTest, ADamagedStoreDoesNotKeepTheOthersFromServing) {
  Start();
  ASSERT_TRUE(Ingest("good", {MakePassage("a", "one")}).ok());
  ASSERT_TRUE(Ingest("bad", {MakePassage("a", "one")}).ok());
  Stop();
  ASSERT_TRUE(WriteFileAtomically(fs_, JoinPath(DataDirectory(), "stores/bad/CURRENT"), "nonsense").ok());
  Start();
  EXPECT_EQ(SearchIds("good", "one", 1), std::vector<std::string>{"a"});
  EXPECT_EQ(manager_->Capture("bad", "").status().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(manager_->Upsert("bad", {MakePassage("b", "two")}, {}).status().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(manager_->ListStores().size(), 2u);
}

// No room, while `full`, to open, and, while `fail_renames`, to delete the stores whose names begin with "shut".
class FullDisk : public ForwardingFileSystem {
 public:
  std::atomic<bool> full{true}, fail_renames{false}, blocked{false};
  std::atomic<int> refused_count{0}, waiting_count{0};

  absl::StatusOr<std::string> ReadFile(const std::string& path) override {
    if (path.find("/stores/shut") == std::string::npos) return ForwardingFileSystem::ReadFile(path);
    if (full) {
      ++refused_count;
      return absl::ResourceExhaustedError(path + ": No space left on device");
    }
    if (blocked) ++waiting_count;
    while (blocked) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    return ForwardingFileSystem::ReadFile(path);
  }
  absl::Status Rename(const std::string& from, const std::string& to) override {
    if (fail_renames && from.ends_with("/stores/shut")) return absl::ResourceExhaustedError(from + ": No space left on device");
    return ForwardingFileSystem::Rename(from, to);
  }
};

TEST_F(GenerationManagerTest, AStoreThatFoundNoRoomToOpenIsOpenedOnceThereIsSome) {
  Start();
  ASSERT_TRUE(Ingest("shut", {MakePassage("a", "one")}).ok());
  ASSERT_TRUE(manager_->Upsert("shut", {MakePassage("b", "two")}, {}).ok());
  ASSERT_TRUE(Ingest("open", {MakePassage("a", "one")}).ok());
  manager_.reset();
  FullDisk disk;
  FakeClock clock;
  const auto open = [&] {
    manager_ = GenerationManager::Open({.data_directory = DataDirectory(), .fs = &disk, .clock = &clock, .encoders = registry_.get(), .search_pool = &pool_}).value();
  };
  open();
  EXPECT_EQ(SearchIds("open", "one", 1), std::vector<std::string>{"a"});
  // Nobody is told anything else while it is tried again and again in vain.
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(manager_->Capture("shut", "").status().code(), absl::StatusCode::kResourceExhausted);
    clock.Advance(StoreEntry::kReopenPauseUs);
  }
  disk.full = false;
  ASSERT_TRUE(WaitUntil([&] {
    clock.Advance(StoreEntry::kReopenPauseUs);
    return manager_->Capture("shut", "").ok();
  }));
  EXPECT_EQ(SearchIds("shut", "two", 2).front(), "b");
  EXPECT_TRUE(manager_->Upsert("shut", {MakePassage("c", "three")}, {}).ok());
  // One that can't be opened can be deleted; it stays so.
  disk.full = true;
  manager_.reset();
  open();
  ASSERT_TRUE(manager_->DeleteStore("shut").ok());
  disk.full = false;
  clock.Advance(StoreEntry::kReopenPauseUs);
  EXPECT_EQ(manager_->Capture("shut", "").status().code(), absl::StatusCode::kNotFound);
  manager_.reset();  // Before the disk.
}

TEST_F(GenerationManagerTest, AStoreThatIsBeingOpenedAgainIsNotOpenedOnceMore) {
  Start();
  ASSERT_TRUE(Ingest("shut", {MakePassage("a", "one")}).ok());
  ASSERT_TRUE(Ingest("shut-too", {MakePassage("a", "one")}).ok());
  manager_.reset();
  FullDisk disk;
  FakeClock clock;
  manager_ = GenerationManager::Open({.data_directory = DataDirectory(), .fs = &disk, .clock = &clock, .encoders = registry_.get(), .search_pool = &pool_}).value();
  disk.blocked = true;
  disk.full = false;
  EXPECT_FALSE(manager_->Capture("shut", "").ok());
  ASSERT_TRUE(WaitUntil([&] { return disk.waiting_count == 1; }));
  // That takes so long that it is due again; the other store's turn comes after both.
  clock.Advance(StoreEntry::kReopenPauseUs);
  EXPECT_FALSE(manager_->Capture("shut", "").ok());
  EXPECT_FALSE(manager_->Capture("shut-too", "").ok());
  disk.blocked = false;
  ASSERT_TRUE(WaitUntil([&] { return manager_->Capture("shut-too", "").ok(); }));
  EXPECT_EQ(SearchIds("shut", "one", 1), std::vector<std::string>{"a"});
  const auto upserted = manager_->Upsert("shut", {MakePassage("b", "two")}, {});
  EXPECT_TRUE(upserted.ok()) << upserted.status();
  manager_.reset();  // Before the disk.
}

TEST_F(GenerationManagerTest, AStoreThatCouldNotBeDeletedServesOn) {
  Start();
  ASSERT_TRUE(Ingest("shut", {MakePassage("a", "one")}).ok());
  manager_.reset();
  FullDisk disk;
  FakeClock clock;
  manager_ = GenerationManager::Open({.data_directory = DataDirectory(), .fs = &disk, .clock = &clock, .encoders = registry_.get(), .search_pool = &pool_}).value();
  // It has been tried again, in vain, and is not due soon.
  const int refused_count = disk.refused_count;
  EXPECT_FALSE(manager_->Capture("shut", "").ok());
  ASSERT_TRUE(WaitUntil([&] { return disk.refused_count > refused_count; }));
  disk.full = false;
  disk.fail_renames = true;
  EXPECT_EQ(manager_->DeleteStore("shut").code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(SearchIds("shut", "one", 1), std::vector<std::string>{"a"});
  // And once more where it served.
  EXPECT_EQ(manager_->DeleteStore("shut").code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(manager_->Upsert("shut", {MakePassage("b", "two")}, {}).ok());
  EXPECT_EQ(SearchIds("shut", "two", 2).size(), 2u);
  disk.fail_renames = false;
  EXPECT_TRUE(manager_->DeleteStore("shut").ok());
  manager_.reset();  // Before the disk.
}

TEST(StoreEntryTest, IsDueToReopenOnceInAWhileAndForWantOfRoomAlone) {
  StoreEntry entry("s");
  constexpr int64_t kNowUs = 5'000'000;
  EXPECT_FALSE(entry.IsDueToReopen(kNowUs)) << "it was deleted";
  entry.SetStore(nullptr, absl::DataLossError("torn"));
  EXPECT_FALSE(entry.IsShutForNow());
  EXPECT_FALSE(entry.IsDueToReopen(kNowUs));
  entry.SetStore(nullptr, absl::ResourceExhaustedError("full"));
  EXPECT_TRUE(entry.IsShutForNow());
  EXPECT_TRUE(entry.IsDueToReopen(kNowUs));
  EXPECT_FALSE(entry.IsDueToReopen(kNowUs + StoreEntry::kReopenPauseUs - 1));
  EXPECT_TRUE(entry.IsDueToReopen(kNowUs + StoreEntry::kReopenPauseUs));
}

TEST_F(GenerationManagerTest, AnEncoderThatComesLaterServesWhatIsThere) {
  Start();
  ASSERT_TRUE(Ingest("s", {MakePassage("a", "one")}).ok());
  const std::string inactive = Ingest("s", {MakePassage("c", "three")}, {.activate = false})->generation;
  Stop();
  ASSERT_TRUE(fs_.DeleteRecursively(JoinPath(DataDirectory(), "encoders")).ok());
  Start(/*import_encoder=*/false);
  EXPECT_EQ(manager_->Upsert("s", {MakePassage("b", "two")}, {}).status().code(), absl::StatusCode::kFailedPrecondition);
  const auto set = manager_->Capture("s", "");
  ASSERT_TRUE(set.ok()) << set.status();
  EXPECT_EQ(GetErrorReason(manager_->WithEncoder(*set).status())->reason, "ENCODER_MISMATCH");
  EXPECT_EQ((*manager_->Capture("s", inactive))->encoder, nullptr);
  const auto send = [&](uint64_t seed) {
    const std::string staging = registry_->MakeStagingDirectory().value();
    EXPECT_TRUE(WriteTinyCheckpoint(fs_, staging, {.seed = seed}).ok());
    return registry_->Adopt(staging, absl::StrCat("sent-", seed)).value().encoder->spec().fingerprint.ToString();
  };
  const std::string fingerprint = send(1);
  {
    const auto with_encoder = manager_->WithEncoder(*set);
    ASSERT_TRUE(with_encoder.ok()) << with_encoder.status();
    EXPECT_EQ((*with_encoder)->view, (*set)->view);
    EXPECT_EQ(*manager_->Capture("s", ""), *with_encoder) << "the next request has it at once";
    const auto named = *manager_->WithEncoder(*manager_->Capture("s", inactive));
    EXPECT_EQ(*manager_->Capture("s", inactive), named);
  }
  const auto upserted = manager_->Upsert("s", {MakePassage("b", "two")}, {});
  ASSERT_TRUE(upserted.ok()) << upserted.status();
  EXPECT_EQ(manager_->GetStore("s")->passage_count, 2);
  // What serves keeps it loaded.
  send(2);
  send(3);
  const std::vector<std::shared_ptr<TextEncoder>> loaded = registry_->Loaded();
  EXPECT_EQ(loaded.size(), 2u) << "but for the second, which nobody uses";
  EXPECT_NE(std::find(loaded.begin(), loaded.end(), (*manager_->Capture("s", ""))->encoder), loaded.end());
  EXPECT_EQ((*manager_->Capture("s", ""))->encoder, *registry_->Get(fingerprint));
}

TEST_F(GenerationManagerTest, RefusesVectorsOfAnotherEncoder) {
  Start();
  ASSERT_TRUE(Ingest("s", {MakePassage("a", "one")}).ok());
  const std::vector<float> vector(kDim, 0.5f);
  const auto refused = manager_->UpsertVectors("s", {MakePassage("b", "two")}, vector.data(), kDim, "0123456789abcdef");
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(GetErrorReason(refused.status())->reason, "ENCODER_MISMATCH");
}

TEST_F(GenerationManagerTest, NoSearchSeesTwoGenerationsWhileTheySwap) {
  Start();
  std::vector<loci::v1::Passage> even, odd;
  for (int i = 0; i < 50; ++i) {
    even.push_back(MakePassage(absl::StrCat("even-", i), absl::StrCat("word ", i)));
    odd.push_back(MakePassage(absl::StrCat("odd-", i), absl::StrCat("word ", i)));
  }
  const std::string first = Ingest("s", even)->generation;
  const std::string second = Ingest("s", odd)->generation;
  std::atomic<bool> stop{false};
  std::atomic<int> mixed{0}, searches{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      std::vector<float> query(kDim, 0.1f);
      while (!stop.load()) {
        const auto set = manager_->Capture("s", "");
        const auto found = (*set)->view->Search({query.data(), 1, kDim}, {.top_k = 50});
        if (!found.ok()) mixed.fetch_add(1);
        const std::string expected = (*set)->view->generation().id() == first ? "even" : "odd";
        for (const ViewHit& hit : found->hits[0]) {
          if (hit.id.rfind(expected, 0) != 0) mixed.fetch_add(1);
        }
        searches.fetch_add(1);
      }
    });
  }
  for (int i = 0; i < 20; ++i) {
    const auto activated = manager_->Activate("s", i % 2 == 0 ? first : second, WritesPolicy::kRefuse, false);
    EXPECT_TRUE(activated.ok()) << activated.status();
  }
  stop.store(true);
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(mixed.load(), 0);
  EXPECT_GT(searches.load(), 20);
}

}  // namespace
}  // namespace loci
