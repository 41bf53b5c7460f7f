// Which encoder a store's texts are encoded by: what was published to it, over restarts, roll-backs and damage.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <functional>
#include <future>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/cancellation.h"
#include "base/checksum.h"
#include "base/error.h"
#include "encoder/towers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "index/forwarding_file_system.h"
#include "retriever/archive_exporter.h"
#include "retriever/archive_importer.h"
#include "retriever/encoder_publisher.h"
#include "retriever/generation_manager.h"
#include "retriever/query_halves.h"
#include "retriever/reembedder.h"
#include "retriever/testing/retriever_fixture.h"

namespace loci {
namespace {

// Does something once the file that says what was published has been read.
class HookedFileSystem : public ForwardingFileSystem {
 public:
  absl::StatusOr<std::string> ReadFile(const std::string& path) override {
    absl::StatusOr<std::string> content = base_.ReadFile(path);
    if (path.ends_with(kQueryHalvesFile)) {
      if (const std::function<void()> hook = std::exchange(after_query_halves, nullptr)) hook();
    }
    return content;
  }
  absl::StatusOr<std::unique_ptr<MappedFile>> Map(const std::string& path) override {
    if (before_weights != nullptr && path.ends_with(".safetensors")) before_weights();
    return base_.Map(path);
  }
  std::function<void()> after_query_halves;
  std::function<void()> before_weights;  // Are read.
};

class GenerationEncoderTest : public RetrieverFixture {
 protected:
  ~GenerationEncoderTest() override { Stop(); }
  // The weights of checkpoint `seed` for these halves of the parent.
  std::shared_ptr<TextEncoder> Publish(int seed, EncoderHalves halves, std::shared_ptr<TextEncoder> parent) {
    EXPECT_TRUE(WriteTinyCheckpoint(fs_, CheckpointDirectory(seed), {.seed = static_cast<uint64_t>(seed)}).ok());
    const std::string weights = *fs_.ReadFile(JoinPath(CheckpointDirectory(seed), kWeightsFile));
    auto publisher = EncoderPublisher::Start(*registry_, fs_,
                                             {.parent = std::move(parent),
                                              .halves = halves,
                                              .job = "test",
                                              .metrics = {},
                                              .size_bytes = static_cast<int64_t>(weights.size()),
                                              .sha256 = Sha256::Hex(weights)});
    EXPECT_TRUE(publisher.ok()) << publisher.status();
    EXPECT_TRUE((*publisher)->Add(weights).ok());
    absl::StatusOr<ImportedEncoder> published = (*publisher)->Finish();
    EXPECT_TRUE(published.ok()) << published.status();
    return published->encoder;
  }
  std::shared_ptr<TextEncoder> Default() { return *registry_->Get(""); }
  // Of what encodes the store's texts; the error where nothing can.
  std::string Serves(const std::string& store = "s", const std::string& generation = "") {
    absl::StatusOr<std::shared_ptr<const ServingSet>> set = manager_->Capture(store, generation);
    if (set.ok()) set = manager_->WithEncoder(*std::move(set));
    return set.ok() ? (*set)->encoder->spec().fingerprint.ToString() : set.status().ToString(absl::StatusToStringMode::kWithNoExtraData);
  }
  HookedFileSystem hooked_;
  static std::string Name(const std::shared_ptr<TextEncoder>& encoder) { return encoder->spec().fingerprint.ToString(); }
  std::string Active(const std::string& store = "s") { return manager_->GetStore(store)->generation; }
  void FillStore(const std::string& store = "s") {
    ASSERT_TRUE(Ingest(store, {MakePassage("a", "the cat in the house"), MakePassage("b", "a river to the north"), MakePassage("c", "red fish blue fish")}).ok());
  }
};

TEST_F(GenerationEncoderTest, AQueryHalfIsLiveAtOnceForLaterRequests) {
  Start();
  FillStore();
  FillStore("other");
  const std::shared_ptr<TextEncoder> parent = Default();
  const std::shared_ptr<TextEncoder> child = Publish(2, EncoderHalves::kQuery, parent);
  const std::shared_ptr<const ServingSet> in_flight = *manager_->Capture("s", "");
  const int64_t revision = in_flight->view->revision();
  const auto set = manager_->SetEncoder("s", child);
  ASSERT_TRUE(set.ok()) << set.status();
  EXPECT_EQ((*set)->encoder, child);
  EXPECT_EQ((*set)->view, in_flight->view) << "no generation, no revision";
  EXPECT_EQ((*set)->view->revision(), revision);
  EXPECT_EQ(in_flight->encoder, parent);
  EXPECT_EQ(Serves(), Name(child));
  EXPECT_EQ(manager_->GetStore("s")->encoder_fingerprint, Name(child));
  EXPECT_EQ(Serves("other"), Name(parent)) << "another store";
  // What is written has the vectors that it would have had.
  ASSERT_TRUE(manager_->Upsert("s", {MakePassage("d", "one tree")}, {}).ok());
  ASSERT_TRUE(manager_->Upsert("other", {MakePassage("d", "one tree")}, {}).ok());
  EXPECT_EQ(Serves(), Name(child));
  const auto query = child->EncodeAndWait({"one tree"}, {.role = TextRole::kPassage});
  const auto same = parent->EncodeAndWait({"one tree"}, {.role = TextRole::kPassage});
  EXPECT_EQ(query->vectors, same->vectors);
  // Folding and activating again change nothing of that.
  ASSERT_TRUE(manager_->Fold("s").ok());
  EXPECT_EQ(Serves(), Name(child));
  ASSERT_TRUE(manager_->Activate("s", Active(), WritesPolicy::kReplay, false).ok());
  EXPECT_EQ(Serves(), Name(child));
  Stop();
  Start();
  EXPECT_EQ(Serves(), Name(child));
  EXPECT_EQ(Serves("other"), Name(parent));
  // And back.
  ASSERT_TRUE(manager_->SetEncoder("s", Default()).ok());
  EXPECT_EQ(Serves(), Name(Default()));
  Stop();
  Start();
  EXPECT_EQ(Serves(), Name(Default()));
}

TEST_F(GenerationEncoderTest, EachPassageHalfComesBackToItsOwnQueryHalf) {
  Start();
  FillStore();
  const std::string first = Active();
  const std::shared_ptr<TextEncoder> parent = Default(), child = Publish(2, EncoderHalves::kQuery, parent);
  ASSERT_TRUE(manager_->SetEncoder("s", child).ok());
  // Another passage half: told before it serves, and after.
  const std::shared_ptr<TextEncoder> both = Publish(3, EncoderHalves::kBoth, parent);
  const auto later = manager_->SetEncoder("s", both);
  ASSERT_TRUE(later.ok());
  EXPECT_EQ((*later)->encoder, child);
  EXPECT_EQ(Serves(), Name(child));
  ASSERT_TRUE(Reembed(*manager_, {.store = "s", .encoder = both}).ok());
  const std::string second = Active();
  EXPECT_NE(second, first);
  EXPECT_EQ(Serves(), Name(both));
  const std::shared_ptr<TextEncoder> further = Publish(4, EncoderHalves::kQuery, both);
  ASSERT_TRUE(manager_->SetEncoder("s", further).ok());
  EXPECT_EQ(Serves(), Name(further));
  EXPECT_EQ(Serves("s", first), Name(child)) << "an inactive generation that is named";
  for (int restart = 0; restart < 2; ++restart) {
    ASSERT_TRUE(manager_->Rollback("s", WritesPolicy::kReplay, false).ok());
    EXPECT_EQ(Active(), first);
    EXPECT_EQ(Serves(), Name(child));
    EXPECT_EQ(Serves("s", second), Name(further));
    ASSERT_TRUE(manager_->Activate("s", second, WritesPolicy::kReplay, false).ok());
    EXPECT_EQ(Serves(), Name(further));
    Stop();
    Start();
    EXPECT_EQ(Serves(), Name(further));
  }
  // In place, too.
  ASSERT_TRUE(manager_->Activate("s", first, WritesPolicy::kReplay, false, {}, ActivationStrategy::kInPlace).ok());
  EXPECT_EQ(Serves(), Name(child));
}

TEST_F(GenerationEncoderTest, ANamedGenerationThatIsOpenChangesWithTheActiveOne) {
  Start();
  FillStore();
  const std::string first = Active();
  FillStore();
  EXPECT_EQ(Serves("s", first), Name(Default()));
  const std::shared_ptr<TextEncoder> child = Publish(2, EncoderHalves::kQuery, Default());
  ASSERT_TRUE(manager_->SetEncoder("s", child).ok());
  EXPECT_EQ(Serves("s", first), Name(child));
}

TEST_F(GenerationEncoderTest, AnEncoderThatIsGoneOrDamagedIsTold) {
  Start();
  FillStore();
  const std::shared_ptr<TextEncoder> parent = Default(), child = Publish(2, EncoderHalves::kQuery, parent);
  const std::string folder = registry_->Directory(child->spec().fingerprint), name = Name(child);
  ASSERT_TRUE(manager_->SetEncoder("s", child).ok());
  Stop();
  const std::string path = JoinPath(folder, kQueryWeightsFile);
  const std::string content = *fs_.ReadFile(path);
  ASSERT_TRUE(WriteFileAtomically(fs_, path, "{").ok());
  Start();
  EXPECT_THAT(Serves(), ::testing::HasSubstr("DATA_LOSS")) << "never another encoder without a word";
  EXPECT_EQ(manager_->GetStore("s")->passage_count, 3);
  ASSERT_TRUE(WriteFileAtomically(fs_, path, content).ok());
  EXPECT_EQ(Serves(), name) << "found when it is there again";
  Stop();
  ASSERT_TRUE(fs_.DeleteRecursively(folder).ok());
  Start();
  EXPECT_THAT(Serves(), ::testing::HasSubstr("DATA_LOSS")) << "nor where it is gone";
  ASSERT_TRUE(manager_->SetEncoder("s", Default()).ok());
  EXPECT_EQ(Serves(), Name(Default()));
  Stop();
  const std::string halves = JoinPath(DataDirectory(), absl::StrCat("stores/s/", kQueryHalvesFile));
  ASSERT_TRUE(WriteFileAtomically(fs_, halves, "{").ok());
  Start();
  EXPECT_THAT(Serves(), ::testing::HasSubstr("DATA_LOSS"));
  ASSERT_TRUE(manager_->SetEncoder("s", Default()).ok());
  EXPECT_EQ(Serves(), Name(Default()));
}

TEST_F(GenerationEncoderTest, WhatIsUsedIsOfGenerationsAndOfWhatWasSet) {
  Start();
  EXPECT_TRUE(manager_->UsedEncoders()->empty());
  FillStore();
  FillStore("other");
  EXPECT_THAT(*manager_->UsedEncoders(), ::testing::ElementsAre(Name(Default())));
  const std::shared_ptr<TextEncoder> child = Publish(2, EncoderHalves::kQuery, Default()), both = Publish(3, EncoderHalves::kBoth, Default());
  ASSERT_TRUE(manager_->SetEncoder("other", child).ok());
  ASSERT_TRUE(Reembed(*manager_, {.store = "s", .encoder = both, .index = "", .activate = false}).ok());
  EXPECT_THAT(*manager_->UsedEncoders(), ::testing::UnorderedElementsAre(Name(Default()), Name(child), Name(both)));
  ASSERT_TRUE(WriteFileAtomically(fs_, JoinPath(DataDirectory(), absl::StrCat("stores/s/", kQueryHalvesFile)), "{").ok());
  // What was set is not known any more; it was of the halves of the store's generations.
  EXPECT_THAT(*manager_->UsedEncoders(), ::testing::UnorderedElementsAre(Name(Default()), Name(child), Name(both), Default()->spec().fingerprint.passage,
                                                                         both->spec().fingerprint.passage));
}

TEST_F(GenerationEncoderTest, PassageWeightsThatNeverServeLeaveTheQueryHalfThatDoes) {
  Start();
  FillStore();
  const std::string child = Name(Publish(2, EncoderHalves::kQuery, Default()));
  ASSERT_TRUE(manager_->SetEncoder("s", *registry_->Get(child)).ok());
  std::string last;
  for (int seed = 3; seed < 15; ++seed) {
    const std::shared_ptr<TextEncoder> passage = Publish(seed, EncoderHalves::kPassage, Default());
    ASSERT_TRUE(manager_->SetEncoder("s", passage).ok());
    last = Name(passage);
  }
  const std::set<std::string> used = *manager_->UsedEncoders();
  EXPECT_THAT(used, ::testing::IsSupersetOf({Name(Default()), child, last}));
  EXPECT_EQ(used.size(), 2 + kKeptUnbuilt);
  Stop();
  Start();
  EXPECT_EQ(Serves(), child);
}

// Two encoders of one passage half: the one that is named, not the one whose name is first.
TEST_F(GenerationEncoderTest, IngestsAndImportsTakeTheQueryHalfThatTheyName) {
  Start();
  const std::shared_ptr<TextEncoder> passage = Publish(2, EncoderHalves::kPassage, Default());
  std::vector<std::shared_ptr<TextEncoder>> encoders = {passage};
  for (int seed = 3; seed < 6; ++seed) encoders.push_back(Publish(seed, EncoderHalves::kQuery, passage));
  for (const std::shared_ptr<TextEncoder>& encoder : encoders) {
    const Fingerprint& fingerprint = encoder->spec().fingerprint;
    const std::string store = fingerprint.query, copy = absl::StrCat("copy-", store);
    ASSERT_TRUE(Ingest(store, {MakePassage("a", "the cat in the house")}, {.encoder_fingerprint = fingerprint.ToString()}).ok());
    const auto set = manager_->Capture(store, "");
    ASSERT_TRUE(set.ok()) << set.status();
    EXPECT_EQ((*set)->view->generation().manifest().query_fingerprint(), fingerprint.query);
    EXPECT_EQ(Serves(store), Name(encoder));
#ifdef __SANITIZE_THREAD__
    continue;  // The system's libprotobuf lays a map out otherwise than instrumented code does, which an import's SpaceUsedLong meets.
#endif
    ArchiveExporter exporter((*set)->view, 1);
    ImportOptions options;
    options.store = copy;
    ArchiveImporter importer(*manager_, std::move(options));
    for (std::string bytes = *exporter.Next(RequestLimits()); !bytes.empty(); bytes = *exporter.Next(RequestLimits())) {
      ASSERT_TRUE(importer.Add(bytes).ok());
    }
    ASSERT_TRUE(importer.Finish().ok());
    EXPECT_EQ(Serves(copy), Name(encoder));
  }
  const auto unknown = Ingester::Start(*manager_, {.store = "s", .encoder_fingerprint = "../..:../x"});
  EXPECT_EQ(unknown.status().code(), absl::StatusCode::kFailedPrecondition) << unknown.status();
}

TEST_F(GenerationEncoderTest, OneThatIsSetWhileANamedGenerationIsOpenedIsNotMissed) {
  Start();
  FillStore();
  const std::string first = Active();
  FillStore();
  const std::shared_ptr<TextEncoder> child = Publish(2, EncoderHalves::kQuery, Default());
  manager_.reset();
  auto manager = GenerationManager::Open({.data_directory = DataDirectory(), .fs = &hooked_, .encoders = registry_.get(), .search_pool = &pool_});
  ASSERT_TRUE(manager.ok()) << manager.status();
  manager_ = *std::move(manager);
  hooked_.after_query_halves = [&] { EXPECT_TRUE(manager_->SetEncoder("s", child).ok()); };
  EXPECT_EQ(Serves("s", first), Name(child));
  EXPECT_EQ(hooked_.after_query_halves, nullptr) << "it came between";
  EXPECT_EQ(Serves("s", first), Name(child));
}

// What is loaded, which takes seconds, holds up no write.
TEST_F(GenerationEncoderTest, WritesGoOnWhileAnEncoderIsLoadedInInt8) {
  auto registry = EncoderRegistry::Open({.directory = JoinPath(DataDirectory(), "encoders"), .fs = &hooked_});
  ASSERT_TRUE(registry.ok()) << registry.status();
  registry_ = *std::move(registry);
  ASSERT_TRUE(registry_->Import(CheckpointDirectory(1)).ok());
  auto manager = GenerationManager::Open({.data_directory = DataDirectory(), .encoders = registry_.get(), .search_pool = &pool_});
  ASSERT_TRUE(manager.ok()) << manager.status();
  manager_ = *std::move(manager);
  FillStore();
  const std::string first = Active();
  FillStore();
  ASSERT_TRUE(manager_->SetEncoder("s", Publish(2, EncoderHalves::kQuery, Default())).ok());
  const std::shared_ptr<TextEncoder> next = Publish(3, EncoderHalves::kQuery, Default());
  ASSERT_TRUE(manager_->UpdateStore("s", std::nullopt, true).ok());
  int loads = 0;
  std::vector<std::future<absl::Status>> writes;
  hooked_.before_weights = [&] {
    ++loads;
    writes.push_back(std::async(std::launch::async, [&] { return manager_->Upsert("s", {MakePassage("w", "two birds")}, {}).status(); }));
    EXPECT_EQ(writes.back().wait_for(std::chrono::seconds(20)), std::future_status::ready) << "a write waits for load " << loads;
  };
  const auto set = manager_->SetEncoder("s", next);
  ASSERT_TRUE(set.ok()) << set.status();
  EXPECT_EQ((*set)->encoder->precision(), VectorPrecision::kInt8);
  EXPECT_EQ(loads, 2) << "each tower once";
  // Published for another half, and that of a generation that a request named: they change with what serves.
  const std::shared_ptr<TextEncoder> both = Publish(4, EncoderHalves::kBoth, Default());
  ASSERT_TRUE(manager_->SetEncoder("s", both).ok());
  EXPECT_EQ(Serves("s", first), Name(next));
  for (const bool int8 : {false, true}) {
    ASSERT_TRUE(manager_->UpdateStore("s", std::nullopt, int8).ok());
    for (const std::string& generation : {std::string(), first}) {
      EXPECT_EQ((*manager_->Capture("s", generation))->encoder->precision() == VectorPrecision::kInt8, int8);
    }
  }
  EXPECT_GT(loads, 4);
  hooked_.before_weights = nullptr;
  for (std::future<absl::Status>& write : writes) EXPECT_TRUE(write.get().ok());
}

TEST_F(GenerationEncoderTest, AStoreThatServesNothingTakesNone) {
  Start();
  EXPECT_EQ(manager_->SetEncoder("s", Default()).status().code(), absl::StatusCode::kNotFound);
  ASSERT_TRUE(manager_->CreateStore("s").ok());
  const absl::Status status = manager_->SetEncoder("s", Default()).status();
  EXPECT_EQ(GetErrorReason(status)->reason, "NO_ACTIVE_GENERATION") << status;
}

// Searches, writes and publications at once: every request has one encoder that was current, and the last one that was published stays.
TEST_F(GenerationEncoderTest, PublishesUnderWritesAndRequests) {
  Start();
  FillStore();
  std::vector<std::shared_ptr<TextEncoder>> encoders = {Default(), Publish(2, EncoderHalves::kQuery, Default()), Publish(3, EncoderHalves::kQuery, Default())};
  std::atomic<bool> done{false};
  std::atomic<int> strange{0};
  std::thread reader([&] {
    while (!done) {
      const auto set = manager_->Capture("s", "");
      const bool known = set.ok() && std::find(encoders.begin(), encoders.end(), (*set)->encoder) != encoders.end();
      if (!known) ++strange;
    }
  });
  std::thread writer([&] {
    for (int i = 0; !done; ++i) {
      if (!manager_->Upsert("s", {MakePassage(absl::StrCat("w", i % 5), "two birds")}, {}).ok()) ++strange;
    }
  });
  for (int i = 0; i < 60; ++i) ASSERT_TRUE(manager_->SetEncoder("s", encoders[static_cast<size_t>(i) % 3]).ok());
  done = true;
  reader.join();
  writer.join();
  EXPECT_EQ(strange, 0);
  EXPECT_EQ(Serves(), Name(encoders[59 % 3]));
}

}  // namespace
}  // namespace loci
