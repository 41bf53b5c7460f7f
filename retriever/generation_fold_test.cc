// Folds: what serves stays what it was, whatever happens meanwhile.
#include <atomic>
#include <chrono>
#include <cstring>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "index/store_testing.h"
#include "retriever/testing/retriever_fixture.h"

namespace loci {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Pair;
using ::testing::UnorderedElementsAre;

class GenerationFoldTest : public RetrieverFixture {
 protected:
  ~GenerationFoldTest() override { Stop(); }  // Before the disk and the metrics.
  // As Start, with these files and metrics of its own.
  void StartOn(FileSystem& fs) {
    Stop();
    Start();
    manager_.reset();
    auto manager = GenerationManager::Open({.data_directory = DataDirectory(),
                                            .fs = &fs,
                                            .metrics = &manager_metrics_,
                                            .encoders = registry_.get(),
                                            .search_pool = &pool_});
    ASSERT_TRUE(manager.ok()) << manager.status();
    manager_ = *std::move(manager);
  }
  std::string Add(std::vector<loci::v1::Passage> passages) {
    const auto ingested = Ingest("s", std::move(passages), {.writes_since = WritesPolicy::kReplay});
    EXPECT_TRUE(ingested.ok()) << ingested.status();
    return ingested.ok() ? ingested->generation : "";
  }
  void Upsert(const std::string& id, const std::string& text) {
    const auto upserted = manager_->Upsert("s", {MakePassage(id, text)}, {});
    ASSERT_TRUE(upserted.ok()) << upserted.status();
  }
  void Delete(const std::string& id) { ASSERT_TRUE(manager_->Delete("s", {id}).ok()); }
  std::vector<std::string> Generations() {
    std::vector<std::string> ids;
    const GenerationList list = *manager_->ListGenerations("s");
    for (const GenerationInfo& info : list.generations) ids.push_back(info.manifest.generation());
    return ids;
  }
  // What drains goes on a thread of its own.
  void WaitForGenerations(const std::vector<std::string>& ids) {
    for (int i = 0; i < 2'500 && Generations() != ids; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(2));
    EXPECT_EQ(Generations(), ids);
  }
  // Texts by id, of all that an exact search finds and GetPassages' Find confirms; and the bytes of the vectors.
  std::map<std::string, std::string> Contents(std::map<std::string, std::string>* vectors = nullptr) {
    std::map<std::string, std::string> texts;
    const auto set = manager_->Capture("s", "");
    EXPECT_TRUE(set.ok()) << set.status();
    if (!set.ok()) return texts;
    const View& view = *(*set)->view;
    const std::vector<float> query(static_cast<size_t>(view.dim()), 0.5f);
    const auto found = view.Search({query.data(), 1, view.dim()}, {.top_k = 1'000, .exact = true});
    EXPECT_TRUE(found.ok()) << found.status();
    for (const ViewHit& hit : found->hits[0]) {
      std::vector<loci::v1::Passage> passages;
      EXPECT_TRUE(view.Read(std::vector<ViewRow>{hit.row}, &passages).ok());
      EXPECT_EQ(passages[0].id(), hit.id);
      EXPECT_TRUE(view.Find(hit.id)->has_value());
      texts[hit.id] = passages[0].text();
      if (vectors == nullptr) continue;
      std::string& bytes = (*vectors)[hit.id];
      bytes.resize(sizeof(float) * static_cast<size_t>(view.dim()));
      EXPECT_TRUE(view.CopyVector(hit.row, reinterpret_cast<float*>(bytes.data())).ok());
    }
    EXPECT_EQ(view.passage_count(), static_cast<int64_t>(texts.size()));
    return texts;
  }
  static std::string ReasonOf(const absl::Status& status) {
    const auto reason = GetErrorReason(status);
    return reason.has_value() ? reason->reason : "";
  }
  double Folds(const std::string& result) { return manager_metrics_.value("loci_folds_total", {{"result", result}}); }

  FaultyFileSystem disk_;
  FakeMetrics manager_metrics_;
};

TEST_F(GenerationFoldTest, TakesPassagesAndVectorsOverAsTheyAre) {
  StartOn(fs_);
  const std::string before = Add({MakePassage("a", "one"), MakePassage("b", "two"), MakePassage("c", "three")});
  Upsert("b", "two again");
  Upsert("d", "four");
  Delete("c");
  std::map<std::string, std::string> vectors, folded_vectors;
  const auto texts = Contents(&vectors);
  const int64_t revision = manager_->GetStore("s")->revision;
  std::vector<std::string> phases;
  OperationControl control;
  control.progress = [&](std::string_view phase, int64_t, int64_t) {
    if (phases.empty() || phases.back() != phase) phases.emplace_back(phase);
  };
  const auto folded = manager_->Fold("s", control);
  ASSERT_TRUE(folded.ok()) << folded.status();
  EXPECT_NE(folded->generation, before);
  EXPECT_EQ(folded->previous_generation, before);
  EXPECT_EQ(folded->revision, revision);
  EXPECT_EQ(folded->base_revision, revision);
  EXPECT_EQ(folded->passage_count, 3);
  EXPECT_EQ(folded->folded_count, 2);
  EXPECT_EQ(folded->dropped_count, 2);
  EXPECT_EQ(phases.front(), "copy");
  EXPECT_EQ(phases.back(), "publishing");
  EXPECT_EQ(Contents(&folded_vectors), texts);
  EXPECT_EQ(folded_vectors, vectors);
  const StoreInfo info = *manager_->GetStore("s");
  EXPECT_EQ(info.generation, folded->generation);
  EXPECT_EQ(info.revision, revision);
  EXPECT_EQ(info.overlay_count, 0);

  // Nothing is left to fold; and what is written next lies over the new one.
  const auto again = manager_->Fold("s");
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->generation, folded->generation);
  EXPECT_EQ(again->previous_generation, "");
  Upsert("e", "five");
  EXPECT_EQ(Contents().size(), 4u);
  StartOn(fs_);
  EXPECT_EQ(Contents().size(), 4u) << "after a restart";
  EXPECT_EQ(Folds("succeeded"), 1);
  EXPECT_EQ(Folds("nothing"), 1);
}

TEST_F(GenerationFoldTest, AnApproximateIndexIsBuiltAsItWasSpecifiedAndMeasured) {
  StartOn(fs_);
  std::vector<loci::v1::Passage> passages;
  for (int i = 0; i < 300; ++i) passages.push_back(MakePassage(absl::StrCat("p", i), absl::StrCat("some words of the passage ", i)));
  ASSERT_TRUE(Ingest("s", passages, {.index = "IVF4,SQ8", .element_type = ElementType::kFloat16}).ok());
  Upsert("p7", "other words");
  const auto folded = manager_->Fold("s");
  ASSERT_TRUE(folded.ok()) << folded.status();
  const auto set = manager_->Capture("s", "");
  const storage::Manifest& manifest = (*set)->view->generation().manifest();
  EXPECT_EQ(manifest.index(), "IVF4,SQ8");
  EXPECT_EQ(manifest.vector_type(), loci::v1::VECTOR_TYPE_FLOAT16);
  EXPECT_GT(manifest.recall_query_count(), 100);
  EXPECT_GT(manifest.recall_at_10(), 0.5);
  EXPECT_EQ(manifest.folded_from(), folded->previous_generation);
  // One that cannot be built over what is left fails, and what served serves on.
  for (int i = 2; i < 300; ++i) Delete(absl::StrCat("p", i));
  EXPECT_EQ(manager_->Fold("s").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Contents().size(), 2u);
  EXPECT_EQ(Folds("failed"), 1);
}

// Each acknowledged write is visible at once and stays, while folds come and go.
TEST_F(GenerationFoldTest, LosesAndDelaysNoWrite) {
  StartOn(fs_);
  Add({MakePassage("a", "one")});
  std::atomic<bool> stop{false};
  std::atomic<int64_t> writes{0};
  constexpr int kWriters = 3;
  std::vector<std::map<std::string, std::string>> expected(kWriters);
  std::vector<std::thread> threads;
  for (int writer = 0; writer < kWriters; ++writer) {
    threads.emplace_back([&, writer] {
      std::map<std::string, std::string>& mine = expected[static_cast<size_t>(writer)];
      for (int i = 0; !stop; ++i) {
        const std::string id = absl::StrCat("w", writer, ".", i % 7);
        if (i % 5 == 4) {
          ASSERT_TRUE(manager_->Delete("s", {id}).ok());
          mine.erase(id);
        } else {
          const std::string text = absl::StrCat("text ", i);
          const auto upserted = manager_->Upsert("s", {MakePassage(id, text)}, {});
          ASSERT_TRUE(upserted.ok()) << upserted.status();
          mine[id] = text;
        }
        const auto set = manager_->Capture("s", "");
        const auto row = (*set)->view->Find(id);
        ASSERT_TRUE(row.ok());
        ASSERT_EQ(row->has_value(), mine.count(id) == 1);
        if (row->has_value()) {
          std::vector<loci::v1::Passage> passages;
          ASSERT_TRUE((*set)->view->Read(std::vector<ViewRow>{**row}, &passages).ok());
          ASSERT_EQ(passages[0].text(), mine[id]);
        }
        ++writes;
      }
    });
  }
  int done = 0;
  for (int round = 0; round < 6; ++round) {
    const int64_t at = writes;
    while (writes < at + 10) std::this_thread::yield();
    const auto folded = manager_->Fold("s");
    ASSERT_TRUE(folded.ok()) << folded.status();
    done += !folded->previous_generation.empty();
  }
  stop = true;
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(done, 6);
  std::map<std::string, std::string> all = {{"a", "one"}};
  for (const auto& mine : expected) all.insert(mine.begin(), mine.end());
  EXPECT_EQ(Contents(), all);
  StartOn(fs_);
  EXPECT_EQ(Contents(), all);
}

TEST_F(GenerationFoldTest, ARollBackGoesToWhatServedBeforeInContent) {
  StartOn(fs_);
  const std::string first = Add({MakePassage("a", "old")});
  const std::string second = Add({MakePassage("a", "new")});
  Upsert("b", "two");
  ASSERT_TRUE(manager_->Fold("s").ok());
  Upsert("c", "three");
  ASSERT_TRUE(manager_->Fold("s").ok());
  EXPECT_EQ(ReasonOf(manager_->Rollback("s", WritesPolicy::kRefuse, false).status()), "WRITES_SINCE");
  const auto back = manager_->Rollback("s", WritesPolicy::kReplay, false);
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(back->generation, first);
  EXPECT_EQ(back->writes_since_count, 2);
  EXPECT_THAT(Contents(), UnorderedElementsAre(Pair("a", "old"), Pair("b", "two"), Pair("c", "three")));
}

TEST_F(GenerationFoldTest, AFoldIsNoWriteToWhatIsActivatedLater) {
  StartOn(fs_);
  Add({MakePassage("a", "one")});
  Upsert("b", "two");
  const auto waiting = Ingest("s", {MakePassage("z", "next")}, {.activate = false});
  ASSERT_TRUE(waiting.ok());
  ASSERT_TRUE(manager_->Fold("s").ok());
  const auto activated = manager_->Activate("s", waiting->generation, WritesPolicy::kRefuse, false);
  ASSERT_TRUE(activated.ok()) << activated.status();
  EXPECT_EQ(activated->writes_since_count, 0);
  EXPECT_THAT(Contents(), UnorderedElementsAre(Pair("z", "next")));
}

TEST_F(GenerationFoldTest, WhatFoldsReplacedGoesAsRetentionSays) {
  StartOn(fs_);
  const std::string built = Add({MakePassage("a", "one")});
  Upsert("b", "two");
  const std::string fold1 = manager_->Fold("s")->generation;
  Upsert("c", "three");
  const std::string fold2 = manager_->Fold("s")->generation;
  WaitForGenerations({built, fold2});  // All are kept, but for what a fold made and a fold replaced.
  Upsert("d", "four");
  ASSERT_TRUE(manager_->PinGeneration("s", fold2, true).ok());
  const std::string fold3 = manager_->Fold("s")->generation;
  WaitForGenerations({built, fold2, fold3});
  (void)manager_->PinGeneration("s", fold2, false);  // It may be gone before it can be shown.
  ASSERT_TRUE(manager_->UpdateStore("s", 5).ok());
  WaitForGenerations({fold3});
  Upsert("e", "five");
  {
    const auto held = manager_->Capture("s", "");
    ASSERT_TRUE(manager_->Fold("s").ok());
    EXPECT_EQ(Generations().size(), 2u) << "a request reads it";
  }
  for (int i = 0; i < 2'500 && Generations().size() != 1; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(2));
  EXPECT_EQ(Generations().size(), 1u);
  EXPECT_EQ(Contents().size(), 5u);
}

TEST_F(GenerationFoldTest, AnActivationMeanwhileEndsIt) {
  StartOn(fs_);
  Add({MakePassage("a", "one")});
  Upsert("b", "two");
  const auto waiting = Ingest("s", {MakePassage("z", "next")}, {.activate = false});
  ASSERT_TRUE(waiting.ok());
  const size_t before = Generations().size();
  for (const std::string at : {"copy", "loading"}) {
    OperationControl control;
    control.progress = [&](std::string_view phase, int64_t, int64_t) {
      if (phase != at) return;
      ASSERT_TRUE(manager_->Activate("s", waiting->generation, WritesPolicy::kReplay, false).ok());
    };
    const auto folded = manager_->Fold("s", control);
    EXPECT_EQ(folded.status().code(), absl::StatusCode::kAborted) << folded.status();
    EXPECT_EQ(ReasonOf(folded.status()), "GENERATION_CHANGED");
    EXPECT_EQ(manager_->GetStore("s")->generation, waiting->generation);
    EXPECT_EQ(Generations().size(), before) << "nothing of it stays";
    ASSERT_TRUE(manager_->Rollback("s", WritesPolicy::kReplay, false).ok());
    Upsert("c", "three");
  }
  EXPECT_EQ(Folds("aborted"), 2);
}

TEST_F(GenerationFoldTest, CancelledItLeavesEverythingAsItWas) {
  StartOn(fs_);
  const std::string before = Add({MakePassage("a", "one"), MakePassage("b", "two")});
  Upsert("b", "again");
  const auto texts = Contents();
  for (const std::string at : {"copy", "write", "checksum", "loading", "verifying", "warming", "replay", "publishing"}) {
    OperationControl control;
    control.progress = [&](std::string_view phase, int64_t, int64_t) {
      if (phase == at) control.limits.Cancel();
    };
    const auto folded = manager_->Fold("s", control);
    EXPECT_TRUE(absl::IsCancelled(folded.status())) << at << ": " << folded.status();
    EXPECT_THAT(Generations(), ElementsAre(before)) << at;
    EXPECT_EQ(Contents(), texts) << at;
  }
  EXPECT_EQ(Folds("cancelled"), 8);
  EXPECT_TRUE(manager_->Fold("s").ok());
}

// A disk that takes no more, from each operation on: the fold fails or is done, the store serves what it did, and takes writes again
// once there is room.
TEST_F(GenerationFoldTest, AFullDiskLeavesWhatServes) {
  FaultyFileSystem& disk = disk_;
  StartOn(disk);
  Add({MakePassage("a", "one"), MakePassage("b", "two")});
  int failures = 0;
  for (int64_t at = 1; at < 200; ++at) {
    Upsert("b", absl::StrCat("text ", at));
    const auto texts = Contents();
    disk.fail_from = disk.operations + at;
    disk.fail_to = INT64_MAX;
    const auto folded = manager_->Fold("s");
    const bool reached = disk.operations >= disk.fail_from;
    disk.Heal();
    failures += !folded.ok();
    EXPECT_EQ(Contents(), texts) << at << ": " << folded.status();
    Upsert("c", absl::StrCat("after ", at));
    if (at % 8 == 0) {
      const auto now = Contents();
      StartOn(disk);
      EXPECT_EQ(Contents(), now) << at;
    }
    if (!reached) break;
    ASSERT_LT(at, 199) << "the fold never ends";
  }
  EXPECT_GT(failures, 5);
  EXPECT_TRUE(manager_->Fold("s").ok());
}

TEST_F(GenerationFoldTest, AStoreWithoutAGenerationIsToldSo) {
  StartOn(fs_);
  EXPECT_EQ(manager_->Fold("s").status().code(), absl::StatusCode::kNotFound);
  ASSERT_TRUE(manager_->CreateStore("s").ok());
  EXPECT_EQ(ReasonOf(manager_->Fold("s").status()), "NO_ACTIVE_GENERATION");
}

// All passages deleted: the new generation is empty, and takes writes.
TEST_F(GenerationFoldTest, AnEmptyStoreIsFoldedToo) {
  StartOn(fs_);
  Add({MakePassage("a", "one")});
  Delete("a");
  const auto folded = manager_->Fold("s");
  ASSERT_TRUE(folded.ok()) << folded.status();
  EXPECT_EQ(folded->passage_count, 0);
  EXPECT_THAT(Contents(), IsEmpty());
  Upsert("b", "two");
  EXPECT_THAT(Contents(), UnorderedElementsAre(Pair("b", "two")));
}

}  // namespace
}  // namespace loci
