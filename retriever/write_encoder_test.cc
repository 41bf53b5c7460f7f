// Replays onto a generation of another passage half, in both directions: nothing acknowledged is lost.
#include "retriever/write_encoder.h"

#include <atomic>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "index/forwarding_file_system.h"
#include "retriever/testing/retriever_fixture.h"

namespace loci {
namespace {

using ::testing::ElementsAre;

class WriteEncoderTest : public RetrieverFixture {
 protected:
  ~WriteEncoderTest() override { Stop(); }
  std::shared_ptr<TextEncoder> ImportOther(uint64_t seed = 2) {
    EXPECT_TRUE(WriteTinyCheckpoint(fs_, CheckpointDirectory(static_cast<int>(seed)), {.seed = seed}).ok());
    const auto imported = registry_->Import(CheckpointDirectory(static_cast<int>(seed)), /*make_default=*/false);
    EXPECT_TRUE(imported.ok()) << imported.status();
    return *imported;
  }
  std::string BuildWith(const TextEncoder& encoder, std::vector<loci::v1::Passage> passages) {
    const auto built = Ingest("s", std::move(passages), {.activate = false, .encoder_fingerprint = encoder.spec().fingerprint.passage});
    EXPECT_TRUE(built.ok()) << built.status();
    return built->generation;
  }
  void Upsert(const std::string& id, const std::string& text) {
    const auto upserted = manager_->Upsert("s", {MakePassage(id, text)}, {});
    ASSERT_TRUE(upserted.ok()) << upserted.status();
  }
  // Text and vector of each passage, by id.
  using Contents = std::map<std::string, std::pair<std::string, std::vector<float>>>;
  Contents ContentsOf(const std::string& store) {
    Contents contents;
    const auto set = manager_->Capture(store, "");
    EXPECT_TRUE(set.ok()) << set.status();
    if (!set.ok()) return contents;
    const View& view = *(*set)->view;
    const std::vector<float> query(static_cast<size_t>(view.dim()), 0.5f);
    const auto found = view.Search({query.data(), 1, view.dim()}, {.top_k = 1'000, .exact = true});
    EXPECT_TRUE(found.ok()) << found.status();
    for (const ViewHit& hit : found->hits[0]) {
      std::vector<loci::v1::Passage> passages;
      EXPECT_TRUE(view.Read(std::vector<ViewRow>{hit.row}, &passages).ok());
      auto& [text, vector] = contents[hit.id];
      text = passages[0].text();
      vector.resize(static_cast<size_t>(view.dim()));
      EXPECT_TRUE(view.CopyVector(hit.row, vector.data()).ok());
    }
    EXPECT_EQ(view.passage_count(), static_cast<int64_t>(contents.size()));
    return contents;
  }
  // What the encoder makes of these texts, by id.
  static Contents EncodedBy(TextEncoder& encoder, const std::map<std::string, std::string>& texts) {
    Contents contents;
    for (const auto& [id, text] : texts) {
      auto encoded = encoder.EncodeAndWait({text}, {.role = TextRole::kPassage});
      EXPECT_TRUE(encoded.ok()) << encoded.status();
      contents[id] = {text, std::move(encoded->vectors)};
    }
    return contents;
  }
};

TEST_F(WriteEncoderTest, ReplayedWritesGetVectorsOfTheGenerationsHalfAndKeepThem) {
  Start();
  const std::shared_ptr<TextEncoder> other = ImportOther();
  ASSERT_TRUE(Ingest("s", {MakePassage("a", "one"), MakePassage("b", "two"), MakePassage("c", "three")}).ok());
  const std::string built = BuildWith(*other, {MakePassage("a", "one"), MakePassage("b", "two"), MakePassage("c", "three")});
  Upsert("b", "two again");
  Upsert("d", "four");
  Upsert("d", "four again");  // Which the first need not be encoded for.
  ASSERT_TRUE(manager_->Delete("s", {"c"}).ok());
  std::vector<std::string> phases;
  OperationControl control;
  control.progress = [&](std::string_view phase, int64_t, int64_t) {
    if (phases.empty() || phases.back() != phase) phases.emplace_back(phase);
  };
  const auto activated = manager_->Activate("s", built, WritesPolicy::kReplay, /*dry_run=*/false, control);
  ASSERT_TRUE(activated.ok()) << activated.status();
  EXPECT_EQ(activated->encoded_count, 2);
  EXPECT_EQ(activated->writes_since_count, 4);
  EXPECT_THAT(phases, ElementsAre("encoding", "loading", "verifying", "warming", "publishing"));
  const Contents expected = EncodedBy(*other, {{"a", "one"}, {"b", "two again"}, {"d", "four again"}});
  EXPECT_EQ(ContentsOf("s"), expected);
  EXPECT_EQ((*manager_->Capture("s", ""))->encoder, other);
  EXPECT_EQ(SearchIds("s", "two again", 1), std::vector<std::string>{"b"});

  // A start needs no encoder for it, nor has one.
  Stop();
  ASSERT_TRUE(fs_.DeleteRecursively(JoinPath(DataDirectory(), "encoders")).ok());
  Start(/*import_encoder=*/false);
  EXPECT_EQ((*manager_->Capture("s", ""))->encoder, nullptr);
  EXPECT_EQ(ContentsOf("s"), expected);
}

TEST_F(WriteEncoderTest, ARollBackEncodesWhatWasWrittenUnderTheOtherEncoder) {
  Start();
  const std::shared_ptr<TextEncoder> other = ImportOther(), first = *registry_->Get("");
  const std::string a = Ingest("s", {MakePassage("a", "one"), MakePassage("b", "two")})->generation;
  const std::string b = BuildWith(*other, {MakePassage("a", "one"), MakePassage("b", "two")});
  Upsert("b", "two again");
  ASSERT_TRUE(manager_->Activate("s", b, WritesPolicy::kReplay, false).ok());
  Upsert("c", "three");
  ASSERT_TRUE(manager_->Delete("s", {"a"}).ok());
  const auto dry_run = manager_->Rollback("s", WritesPolicy::kReplay, /*dry_run=*/true);
  ASSERT_TRUE(dry_run.ok()) << dry_run.status();
  EXPECT_EQ(dry_run->encoded_count, 1);
  const auto rolled_back = manager_->Rollback("s", WritesPolicy::kReplay, /*dry_run=*/false);
  ASSERT_TRUE(rolled_back.ok()) << rolled_back.status();
  EXPECT_EQ(rolled_back->generation, a);
  EXPECT_EQ(rolled_back->encoded_count, 1);
  EXPECT_EQ(ContentsOf("s"), EncodedBy(*first, {{"b", "two again"}, {"c", "three"}}));
  // And forth again: by now each write has both.
  const auto again = manager_->Activate("s", b, WritesPolicy::kReplay, false);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->encoded_count, 0);
  EXPECT_EQ(ContentsOf("s"), EncodedBy(*other, {{"b", "two again"}, {"c", "three"}}));
}

TEST_F(WriteEncoderTest, WhatIsWrittenMeanwhileIsLaidToo) {
  Start();
  const std::shared_ptr<TextEncoder> other = ImportOther(), first = *registry_->Get("");
  const std::string a = Ingest("s", {MakePassage("a", "one")})->generation;
  const std::string b = BuildWith(*other, {MakePassage("a", "one")});
  constexpr int kWriters = 3;
  std::atomic<bool> stop{false};
  std::atomic<int> written{0};
  std::vector<std::map<std::string, std::string>> texts(kWriters);
  std::vector<std::thread> writers;
  for (int w = 0; w < kWriters; ++w) {
    writers.emplace_back([&, w] {
      for (int i = 0; !stop; ++i, ++written) {
        const std::string id = absl::StrCat("w", w, "-", i % 7), text = absl::StrCat("number ", i, " of writer ", w);
        if (i % 5 == 4) {
          EXPECT_TRUE(manager_->Delete("s", {id}).ok());
          texts[static_cast<size_t>(w)].erase(id);
        } else {
          const auto upserted = manager_->Upsert("s", {MakePassage(id, text)}, {});
          EXPECT_TRUE(upserted.ok()) << upserted.status();
          texts[static_cast<size_t>(w)][id] = text;
        }
      }
    });
  }
  std::string active = a;
  for (int swap = 0; swap < 8; ++swap) {
    for (const int before = written; written < before + 5;) std::this_thread::yield();
    active = active == a ? b : a;
    const auto activated = manager_->Activate("s", active, WritesPolicy::kReplay, false);
    ASSERT_TRUE(activated.ok()) << activated.status();
  }
  active = b;
  ASSERT_TRUE(manager_->Activate("s", b, WritesPolicy::kReplay, false).ok());
  stop = true;
  for (std::thread& writer : writers) writer.join();
  std::map<std::string, std::string> all = {{"a", "one"}};
  for (const auto& mine : texts) all.insert(mine.begin(), mine.end());
  EXPECT_EQ(ContentsOf("s"), EncodedBy(*other, all));
  Stop();
  Start();
  EXPECT_EQ(ContentsOf("s"), EncodedBy(**registry_->Get(other->spec().fingerprint.passage), all)) << "after a restart";
  EXPECT_EQ(first->spec().fingerprint.passage, (*registry_->Get(""))->spec().fingerprint.passage);
}

// Whoever writes while the switch is near encodes for both, so that nothing of it is left to the switch.
TEST_F(WriteEncoderTest, WhatIsWrittenJustBeforeTheSwitchBringsBothVectors) {
  Start();
  const std::shared_ptr<TextEncoder> other = ImportOther(), first = *registry_->Get("");
  ASSERT_TRUE(Ingest("s", {MakePassage("a", "one")}).ok());
  const std::string built = BuildWith(*other, {MakePassage("a", "one")});
  Upsert("b", "two");
  OperationControl control;
  int publishing = 0;
  control.progress = [&](std::string_view phase, int64_t, int64_t) {
    if (phase != "publishing" || ++publishing > 1) return;
    Upsert("c", "three");
    const auto encoded = first->EncodeAndWait({"four"}, {.role = TextRole::kPassage});
    ASSERT_TRUE(manager_->UpsertVectors("s", {MakePassage("d", "four")}, encoded->vectors.data(), kDim, first->spec().fingerprint.passage).ok());
    // What was cancelled is not encoded for it, and not written.
    const MetricLabels next = {{"encoder", other->spec().model_name}, {"fingerprint", other->spec().fingerprint.ToString()}};
    const double sequences = metrics_.value("loci_batcher_batch_sequences", next);
    EXPECT_GT(sequences, 0);
    RequestLimits cancelled;
    cancelled.Cancel();
    EXPECT_TRUE(absl::IsCancelled(
        manager_->UpsertVectors("s", {MakePassage("e", "four")}, encoded->vectors.data(), kDim, first->spec().fingerprint.passage, cancelled).status()));
    EXPECT_EQ(metrics_.value("loci_batcher_batch_sequences", next), sequences);
  };
  const auto activated = manager_->Activate("s", built, WritesPolicy::kReplay, false, control);
  ASSERT_TRUE(activated.ok()) << activated.status();
  EXPECT_EQ(publishing, 1);
  EXPECT_EQ(activated->encoded_count, 1) << "by the switch: c and d came with both";
  EXPECT_EQ(ContentsOf("s"), EncodedBy(*other, {{"a", "one"}, {"b", "two"}, {"c", "three"}, {"d", "four"}}));
}

TEST_F(WriteEncoderTest, WithoutAnEncoderOfTheHalfItIsRefusedAndTheGenerationStaysAsItWas) {
  Start();
  const std::shared_ptr<TextEncoder> other = ImportOther();
  const std::string half = other->spec().fingerprint.passage;
  ASSERT_TRUE(Ingest("s", {MakePassage("a", "one")}).ok());
  const std::string built = BuildWith(*other, {MakePassage("a", "one")});
  Upsert("b", "two");
  Stop();
  ASSERT_TRUE(fs_.DeleteRecursively(JoinPath(DataDirectory(), "encoders")).ok());
  Start();
  for (const bool dry_run : {true, false}) {
    const absl::Status refused = manager_->Activate("s", built, WritesPolicy::kReplay, dry_run).status();
    EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_EQ(GetErrorReason(refused)->reason, "ENCODER_MISMATCH");
    EXPECT_EQ(GetErrorReason(refused)->metadata.at("passage_fingerprint"), half);
  }
  const GenerationList list = *manager_->ListGenerations("s");
  for (const GenerationInfo& info : list.generations) {
    EXPECT_EQ(info.state, info.manifest.generation() == built ? GenerationState::kReady : GenerationState::kServing) << info.detail;
  }
  ImportOther();
  ASSERT_TRUE(manager_->Activate("s", built, WritesPolicy::kReplay, false).ok());
  EXPECT_EQ(ContentsOf("s").size(), 2u);
}

class CountingFiles : public ForwardingFileSystem {
 public:
  std::atomic<int> index_count{0}, vectors_count{0};

  absl::StatusOr<std::unique_ptr<MappedFile>> Map(const std::string& path) override {
    index_count += absl::EndsWith(path, "/index.faiss");
    vectors_count += absl::EndsWith(path, "/vectors.bin");
    return ForwardingFileSystem::Map(path);
  }
};

TEST_F(WriteEncoderTest, AnIndexThatDoesNotFitBesideWhatServesIsNotOpenedToEncodeFor) {
  Start();
  const std::shared_ptr<TextEncoder> other = ImportOther();
  std::vector<loci::v1::Passage> passages;
  for (int i = 0; i < 300; ++i) passages.push_back(MakePassage(absl::StrCat("p", i), absl::StrCat("number ", i)));
  ASSERT_TRUE(Ingest("s", {MakePassage("a", "one")}).ok());
  const auto built = Ingest("s", passages, {.index = "HNSW16", .activate = false, .encoder_fingerprint = other->spec().fingerprint.passage});
  ASSERT_TRUE(built.ok()) << built.status();
  Upsert("b", "two");
  const int64_t needed = manager_->PlanActivation("s", built->generation, WritesPolicy::kReplay)->need.most_bytes();
  int64_t taken = 0;
  {
    const auto serving = *manager_->Capture("s", "");
    taken = serving->view->generation().most_memory_bytes() + serving->view->overlay_memory_bytes();
  }
  // Half of what is needed to either side: what RocksDB's tables hold differs a little from one opening to the next.
  const int64_t half = needed / 2;
  CountingFiles files;
  for (const int64_t missing : {half, -half}) {
    manager_.reset();
    manager_ = *GenerationManager::Open({.data_directory = DataDirectory(),
                                         .fs = &files,
                                         .encoders = registry_.get(),
                                         .search_pool = &pool_,
                                         .memory_budget_bytes = taken + needed - missing,
                                         .memory_wait_us = 0});
    const auto activated = manager_->Activate("s", built->generation, WritesPolicy::kReplay, false);
    if (missing > 0) {
      ASSERT_TRUE(GetErrorReason(activated.status()).has_value()) << activated.status();
      EXPECT_EQ(GetErrorReason(activated.status())->reason, "MEMORY");
      EXPECT_EQ(files.index_count, 0);
    } else {
      ASSERT_TRUE(activated.ok()) << activated.status();
      EXPECT_EQ(activated->encoded_count, 1);
      EXPECT_GT(files.index_count, 0);
    }
  }
  manager_.reset();  // Before the files.
}

TEST_F(WriteEncoderTest, ADamagedEncoderRefusesTheActivationBeforeTheGenerationIsRead) {
  Start();
  const std::string staging = registry_->MakeStagingDirectory().value();
  ASSERT_TRUE(WriteTinyCheckpoint(fs_, staging, {.seed = 2}).ok());
  std::shared_ptr<TextEncoder> other = registry_->Adopt(staging, "other").value().encoder;
  const Fingerprint fingerprint = other->spec().fingerprint;
  ASSERT_TRUE(Ingest("s", {MakePassage("a", "one")}).ok());
  const std::string built = BuildWith(*other, {MakePassage("a", "one")});
  other.reset();
  Stop();
  const std::string damaged = JoinPath(DataDirectory(), absl::StrCat("encoders/", fingerprint.query, "-", fingerprint.passage, "/config.json"));
  ASSERT_TRUE(WriteFileAtomically(fs_, damaged, "{").ok());
  Start();
  manager_.reset();
  CountingFiles files;
  manager_ = *GenerationManager::Open({.data_directory = DataDirectory(), .fs = &files, .encoders = registry_.get(), .search_pool = &pool_});
  const int before = files.vectors_count;
  for (const bool dry_run : {true, false}) {
    const absl::Status refused = manager_->Activate("s", built, WritesPolicy::kDiscard, dry_run).status();
    EXPECT_EQ(refused.code(), absl::StatusCode::kDataLoss) << refused;
    EXPECT_EQ(GetErrorReason(refused)->reason, "ENCODER_DAMAGED");
  }
  EXPECT_EQ(files.vectors_count, before);
  const GenerationList list = *manager_->ListGenerations("s");
  EXPECT_EQ(list.generations.back().manifest.generation(), built);
  EXPECT_EQ(list.generations.back().state, GenerationState::kReady) << "it is as good as before";
  manager_.reset();  // Before the files.
}

TEST_F(WriteEncoderTest, AnActivationThatIsCancelledWhileItEncodesChangesNothing) {
  Start();
  const std::shared_ptr<TextEncoder> other = ImportOther();
  const std::string a = Ingest("s", {MakePassage("a", "one")})->generation;
  const std::string built = BuildWith(*other, {MakePassage("a", "one")});
  for (int i = 0; i < 200; ++i) Upsert(absl::StrCat("p", i), absl::StrCat("number ", i));
  const auto before = ContentsOf("s");
  OperationControl control;
  control.progress = [&](std::string_view phase, int64_t done, int64_t) {
    if (phase == "encoding" && done > 0) control.limits.Cancel();
  };
  EXPECT_TRUE(absl::IsCancelled(manager_->Activate("s", built, WritesPolicy::kReplay, false, control).status()));
  EXPECT_EQ(manager_->GetStore("s")->generation, a);
  EXPECT_EQ(ContentsOf("s"), before);
  // What was encoded is not encoded again.
  const auto activated = manager_->Activate("s", built, WritesPolicy::kReplay, false);
  ASSERT_TRUE(activated.ok()) << activated.status();
  EXPECT_GT(activated->encoded_count, 0);
  EXPECT_LT(activated->encoded_count, 200);
  EXPECT_EQ(ContentsOf("s").size(), 201u);
}

}  // namespace
}  // namespace loci
