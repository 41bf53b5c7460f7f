// A store encoded anew: what it answers is what a fresh ingest by that encoder would, whatever happened on the way.
#include "retriever/reembedder.h"

#include <atomic>
#include <bit>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "retriever/testing/retriever_fixture.h"

namespace loci {
namespace {

using ::testing::IsEmpty;

class ReembedderTest : public RetrieverFixture {
 protected:
  ~ReembedderTest() override { Stop(); }
  void Start() {
    RetrieverFixture::Start();
    other_ = Import({.seed = 2});
  }
  std::shared_ptr<TextEncoder> Import(const TinyCheckpointOptions& options) {
    const std::string directory = CheckpointDirectory(static_cast<int>(options.seed));
    EXPECT_TRUE(WriteTinyCheckpoint(fs_, directory, options).ok());
    const auto imported = registry_->Import(directory, /*make_default=*/false);
    EXPECT_TRUE(imported.ok()) << imported.status();
    return *imported;
  }
  static std::vector<loci::v1::Passage> Corpus(int count) {
    std::vector<loci::v1::Passage> passages;
    for (int i = 0; i < count; ++i) {
      passages.push_back(MakePassage(absl::StrCat("p", i), absl::StrCat("passage number ", i, " about thing ", i % 13)));
      if (i % 3 == 0) passages.back().set_title(absl::StrCat("title ", i));
    }
    return passages;
  }
  void Upsert(const std::string& store, const std::string& id, const std::string& text) {
    const auto upserted = manager_->Upsert(store, {MakePassage(id, text)}, {});
    ASSERT_TRUE(upserted.ok()) << upserted.status();
  }
  absl::StatusOr<ReembedResult> Run(const OperationControl& control = {}, ReembedOptions options = {}) {
    options.store = "s";
    if (options.encoder == nullptr) options.encoder = other_;
    return Reembed(*manager_, options, control);
  }
  // All that a store has, in words: each hit of exact searches by texts and by vectors, with the bits of its score and vector, and its passage.
  std::vector<std::string> Everything(const std::string& store) {
    std::vector<std::string> lines;
    const auto set = manager_->Capture(store, "");
    EXPECT_TRUE(set.ok()) << set.status();
    if (!set.ok()) return lines;
    const View& view = *(*set)->view;
    for (const std::string text : {"passage about thing 7", "number 5", "title"}) {
      const auto query = (*set)->encoder->EncodeAndWait({text}, {.role = TextRole::kQuery});
      EXPECT_TRUE(query.ok()) << query.status();
      const auto found = view.Search({query->vectors.data(), 1, view.dim()}, {.top_k = 1'000, .exact = true});
      EXPECT_TRUE(found.ok()) << found.status();
      EXPECT_EQ(static_cast<int64_t>(found->hits[0].size()), view.passage_count());
      for (const ViewHit& hit : found->hits[0]) {
        std::vector<loci::v1::Passage> passages;
        EXPECT_TRUE(view.Read(std::vector<ViewRow>{hit.row}, &passages).ok());
        std::vector<float> vector(static_cast<size_t>(view.dim()));
        EXPECT_TRUE(view.CopyVector(hit.row, vector.data()).ok());
        lines.push_back(absl::StrCat(text, " ", hit.id, " ", std::bit_cast<uint32_t>(hit.score), " ", passages[0].title(), "|", passages[0].text()));
        for (const float value : vector) absl::StrAppend(&lines.back(), " ", std::bit_cast<uint32_t>(value));
      }
    }
    return lines;
  }
  // The same of what the store has now, ingested afresh by `encoder`.
  std::vector<std::string> Fresh(const TextEncoder& encoder) {
    std::vector<loci::v1::Passage> passages;
    const auto set = manager_->Capture("s", "");
    EXPECT_TRUE(set.ok()) << set.status();
    const View& view = *(*set)->view;
    const std::vector<float> query(static_cast<size_t>(view.dim()), 0.5f);
    const auto found = view.Search({query.data(), 1, view.dim()}, {.top_k = 1'000, .exact = true});
    std::vector<ViewRow> rows;
    for (const ViewHit& hit : found->hits[0]) rows.push_back(hit.row);
    EXPECT_TRUE(view.Read(rows, &passages).ok());
    const auto ingested = Ingest("fresh", passages,
                                 {.element_type = view.generation().vectors().element_type(),
                                  .encoder_fingerprint = encoder.spec().fingerprint.passage,
                                  .reencode = true});
    EXPECT_TRUE(ingested.ok()) << ingested.status();
    return Everything("fresh");
  }
  std::vector<std::string> Generations() {
    std::vector<std::string> ids;
    const GenerationList list = *manager_->ListGenerations("s");
    for (const GenerationInfo& info : list.generations) ids.push_back(info.manifest.generation());
    return ids;
  }
  std::string JournalDirectory() const { return JoinPath(DataDirectory(), "stores/s/encoded"); }
  static std::string ReasonOf(const absl::Status& status) {
    const auto reason = GetErrorReason(status);
    return reason.has_value() ? reason->reason : "";
  }

  std::shared_ptr<TextEncoder> other_;
};

TEST_F(ReembedderTest, AnswersAsAFreshIngestWouldBitForBitAndGoesBack) {
  Start();
  const std::string before = Ingest("s", Corpus(300), {.element_type = ElementType::kFloat16})->generation;
  Upsert("s", "p7", "other words");
  Upsert("s", "new", "a new one");
  ASSERT_TRUE(manager_->Delete("s", {"p9"}).ok());
  const std::vector<std::string> old_answers = Everything("s");
  const int64_t revision = manager_->GetStore("s")->revision;
  std::vector<std::string> phases;
  OperationControl control;
  control.progress = [&](std::string_view phase, int64_t, int64_t) {
    if (phases.empty() || phases.back() != phase) phases.emplace_back(phase);
  };
  const auto result = Run(control);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->previous_generation, before);
  EXPECT_EQ(result->passage_count, 300);
  EXPECT_EQ(result->encoded_count, 300);
  EXPECT_EQ(result->reused_count, 0);
  EXPECT_EQ(result->written_count, 0);
  EXPECT_EQ(result->base_revision, revision);
  EXPECT_EQ(result->revision, revision + 1);
  EXPECT_GT(result->size_bytes, 0);
  EXPECT_EQ(result->encoder_fingerprint, other_->spec().fingerprint.ToString());
  EXPECT_EQ(result->previous_encoder_fingerprint, (*registry_->Get(""))->spec().fingerprint.ToString());
  EXPECT_EQ(phases.front(), "encoding");
  EXPECT_EQ(phases.back(), "publishing");
  EXPECT_FALSE(fs_.Exists(JournalDirectory()));
  const StoreInfo info = *manager_->GetStore("s");
  EXPECT_EQ(info.generation, result->generation);
  EXPECT_EQ(info.encoder_fingerprint, result->encoder_fingerprint);
  EXPECT_EQ(info.overlay_count, 0);
  const std::vector<std::string> answers = Everything("s");
  EXPECT_NE(answers, old_answers);
  EXPECT_EQ(answers, Fresh(*other_));

  Upsert("s", "later", "written under the new encoder");
  EXPECT_EQ(Everything("s"), Fresh(*other_));
  RetrieverFixture::Stop();
  RetrieverFixture::Start();  // Which has the other encoder in its folder.
  EXPECT_EQ(Everything("s"), Fresh(**registry_->Get(info.encoder_fingerprint)));
  const auto back = manager_->Rollback("s", WritesPolicy::kReplay, false);
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(back->generation, before);
  EXPECT_EQ(back->encoded_count, 1);
  EXPECT_EQ(Everything("s"), Fresh(**registry_->Get("")));
}

TEST_F(ReembedderTest, AnEncoderOfAnotherDimensionAndAnApproximateIndexWillDo) {
  Start();
  const std::shared_ptr<TextEncoder> wide = Import({.hidden_size = 64, .seed = 5});
  ASSERT_NE(wide->spec().dim, other_->spec().dim);
  ASSERT_TRUE(Ingest("s", Corpus(300), {.index = "IVF4,Flat"}).ok());
  const auto result = Run({}, {.encoder = wide});
  ASSERT_TRUE(result.ok()) << result.status();
  const auto set = manager_->Capture("s", "");
  EXPECT_EQ((*set)->view->dim(), wide->spec().dim);
  EXPECT_EQ((*set)->view->generation().manifest().index(), "IVF4,Flat");
  EXPECT_GT((*set)->view->generation().manifest().recall_at_10(), 0);
  EXPECT_EQ(Everything("s"), Fresh(*wide));
  const auto exact = Run({}, {.encoder = other_, .index = "exact"});
  ASSERT_TRUE(exact.ok()) << exact.status();
  EXPECT_EQ((*manager_->Capture("s", ""))->view->generation().manifest().index(), "exact");
  const std::string serving = manager_->GetStore("s")->generation;
  EXPECT_EQ(Run({}, {.encoder = wide, .index = "nonsense"}).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(manager_->GetStore("s")->generation, serving);
}

TEST_F(ReembedderTest, WritesMeanwhileAreThereThroughoutAndAfter) {
  Start();
  ASSERT_TRUE(Ingest("s", Corpus(400)).ok());
  std::atomic<bool> stop{false};
  std::atomic<int> written{0};
  std::vector<std::thread> writers;
  for (int w = 0; w < 2; ++w) {
    writers.emplace_back([&, w] {
      for (int i = 0; !stop; ++i, ++written) {
        const std::string id = absl::StrCat("p", w * 200 + i % 50);
        if (i % 4 == 3) {
          EXPECT_TRUE(manager_->Delete("s", {id}).ok());
        } else {
          Upsert("s", id, absl::StrCat("written ", i, " by ", w));
        }
        const auto set = manager_->Capture("s", "");
        EXPECT_TRUE(set.ok());
        EXPECT_EQ((*set)->view->Find(id)->has_value(), i % 4 != 3) << "what was acknowledged is visible";
      }
    });
  }
  std::shared_ptr<TextEncoder> first = *registry_->Get("");
  for (const std::shared_ptr<TextEncoder>& encoder : {other_, first, other_}) {
    for (const int before = written; written < before + 10;) std::this_thread::yield();
    const auto result = Run({}, {.encoder = encoder});
    EXPECT_TRUE(result.ok()) << result.status();
  }
  stop = true;
  for (std::thread& writer : writers) writer.join();
  EXPECT_EQ(Everything("s"), Fresh(*other_));
  RetrieverFixture::Stop();
  RetrieverFixture::Start();
  EXPECT_EQ(Everything("s"), Fresh(*(*manager_->Capture("s", ""))->encoder)) << "after a restart";
}

TEST_F(ReembedderTest, ACancelledOneLeavesOnlyWhatIsNotEncodedAgain) {
  Start();
  const std::string serving = Ingest("s", Corpus(1'000))->generation;
  OperationControl control;
  control.progress = [&](std::string_view phase, int64_t done, int64_t) {
    if (phase == "encoding" && done >= 300) control.limits.Cancel();
  };
  EXPECT_TRUE(absl::IsCancelled(Run(control).status()));
  EXPECT_EQ(manager_->GetStore("s")->generation, serving);
  EXPECT_THAT(Generations(), testing::ElementsAre(serving));
  EXPECT_TRUE(fs_.Exists(JournalDirectory()));
  // Also over a restart; and at each later phase.
  for (const std::string at : {"write", "checksum", "loading", "verifying", "replay"}) {
    RetrieverFixture::Stop();
    Start();
    OperationControl late;
    late.progress = [&](std::string_view phase, int64_t, int64_t) {
      if (phase == at) late.limits.Cancel();
    };
    EXPECT_TRUE(absl::IsCancelled(Run(late).status())) << at;
    EXPECT_EQ(manager_->GetStore("s")->generation, serving);
    EXPECT_THAT(Generations(), testing::ElementsAre(serving)) << at;
  }
  Upsert("s", "p3", "changed since");
  const auto result = Run();
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->encoded_count, 1);
  EXPECT_EQ(result->reused_count, 999);
  EXPECT_FALSE(fs_.Exists(JournalDirectory()));
  EXPECT_EQ(Everything("s"), Fresh(*other_));
}

TEST_F(ReembedderTest, WhatBecomesActiveMeanwhileStays) {
  Start();
  ASSERT_TRUE(Ingest("s", Corpus(200)).ok());
  for (const std::string at : {"encoding", "checksum"}) {
    OperationControl control;
    bool done = false;
    std::string replacement;
    control.progress = [&](std::string_view phase, int64_t, int64_t) {
      if (phase != at || std::exchange(done, true)) return;
      replacement = Ingest("s", {MakePassage("x", at)}, {.writes_since = WritesPolicy::kReplay})->generation;
    };
    const absl::Status status = Run(control).status();
    EXPECT_EQ(ReasonOf(status), "GENERATION_CHANGED") << status;
    EXPECT_EQ(status.code(), absl::StatusCode::kAborted);
    EXPECT_EQ(manager_->GetStore("s")->generation, replacement);
  }
  // Writes that are discarded meanwhile do not come back.
  Upsert("s", "y", "to be discarded");
  OperationControl control;
  bool done = false;
  control.progress = [&](std::string_view phase, int64_t, int64_t) {
    if (phase != "encoding" || std::exchange(done, true)) return;
    const std::string active = manager_->GetStore("s")->generation;
    ASSERT_TRUE(manager_->Activate("s", active, WritesPolicy::kDiscard, false).ok());
  };
  EXPECT_EQ(ReasonOf(Run(control).status()), "GENERATION_CHANGED");
  EXPECT_FALSE((*manager_->Capture("s", ""))->view->Find("y")->has_value());
}

TEST_F(ReembedderTest, AnEncoderChangedUnderWayIsEncodedWithAfresh) {
  Start();
  const std::shared_ptr<TextEncoder> third = Import({.seed = 3});
  ASSERT_TRUE(Ingest("s", Corpus(400)).ok());
  OperationControl control;
  control.progress = [&](std::string_view phase, int64_t done, int64_t) {
    if (phase == "encoding" && done >= 200) control.limits.Cancel();
  };
  EXPECT_TRUE(absl::IsCancelled(Run(control).status()));
  const auto result = Run({}, {.encoder = third});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->reused_count, 0) << "those are vectors of another half";
  EXPECT_EQ(Everything("s"), Fresh(*third));
}

TEST_F(ReembedderTest, OneThatIsNotActivatedWaits) {
  Start();
  const std::string serving = Ingest("s", Corpus(100))->generation;
  const auto result = Run({}, {.activate = false, .max_encoder_share = 0.5});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(manager_->GetStore("s")->generation, serving);
  EXPECT_EQ(result->revision, result->base_revision);
  Upsert("s", "p4", "changed");
  ASSERT_TRUE(manager_->Activate("s", result->generation, WritesPolicy::kReplay, false).ok());
  EXPECT_EQ(Everything("s"), Fresh(*other_));
}

TEST_F(ReembedderTest, RefusesWhatIsInVain) {
  Start();
  EXPECT_TRUE(absl::IsNotFound(Run().status()));
  ASSERT_TRUE(manager_->CreateStore("s").ok());
  EXPECT_EQ(ReasonOf(Run().status()), "NO_ACTIVE_GENERATION");
  ASSERT_TRUE(Ingest("s", Corpus(10)).ok());
  const std::shared_ptr<TextEncoder> first = *registry_->Get("");
  EXPECT_EQ(ReasonOf(Run({}, {.encoder = first}).status()), "SAME_ENCODER");
  EXPECT_EQ(ReasonOf(EstimateReembedding(*manager_, {.store = "s", .encoder = first}, {}).status()), "SAME_ENCODER");
  // A store of nothing is no special case.
  for (int i = 0; i < 10; ++i) ASSERT_TRUE(manager_->Delete("s", {absl::StrCat("p", i)}).ok());
  EXPECT_EQ(EstimateReembedding(*manager_, {.store = "s", .encoder = other_}, {})->passage_count, 0);
  const auto empty = Run();
  ASSERT_TRUE(empty.ok()) << empty.status();
  EXPECT_EQ(empty->passage_count, 0);
  EXPECT_THAT(Everything("s"), IsEmpty());
}

TEST_F(ReembedderTest, AnEstimateSaysWhatItTakesAndChangesNothing) {
  Start();
  ASSERT_TRUE(Ingest("s", Corpus(1'500)).ok());
  Upsert("s", "more", "one more");
  const StoreInfo before = *manager_->GetStore("s");
  const auto estimate = EstimateReembedding(*manager_, {.store = "s", .encoder = other_}, {});
  ASSERT_TRUE(estimate.ok()) << estimate.status();
  EXPECT_EQ(estimate->passage_count, 1'501);
  EXPECT_GT(estimate->token_count, 1'501 * 4);
  EXPECT_GT(estimate->tokens_per_second, 0);
  EXPECT_GT(estimate->duration_ms, 0);
  EXPECT_GT(estimate->peak_disk_bytes, estimate->size_bytes);
  EXPECT_GE(estimate->memory_bytes, other_->spec().memory_bytes);
  EXPECT_EQ(manager_->GetStore("s")->revision, before.revision);
  EXPECT_EQ(Generations().size(), 1u);
  const auto with_codes = EstimateReembedding(*manager_, {.store = "s", .encoder = other_, .index = "exact:int8"}, {});
  ASSERT_TRUE(with_codes.ok()) << with_codes.status();
  EXPECT_GE(with_codes->size_bytes - estimate->size_bytes, 1'501 * other_->spec().dim);
  EXPECT_LT(with_codes->size_bytes - estimate->size_bytes, 1'600 * (other_->spec().dim + 16));
  EXPECT_GT(with_codes->peak_disk_bytes, with_codes->size_bytes);
  EXPECT_EQ(with_codes->memory_bytes, estimate->memory_bytes) << "codes are mapped";
  const auto result = Run();
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_GT(static_cast<double>(estimate->size_bytes), 0.8 * static_cast<double>(result->size_bytes));
  EXPECT_LT(static_cast<double>(estimate->size_bytes), 1.2 * static_cast<double>(result->size_bytes));
}

TEST_F(ReembedderTest, AnEstimateCountsTheCodesThatAreAskedFor) {
  Start();
  ASSERT_TRUE(Ingest("s", Corpus(1'500), {.index = "exact:int8"}).ok());
  const auto same = EstimateReembedding(*manager_, {.store = "s", .encoder = other_}, {});
  const auto without = EstimateReembedding(*manager_, {.store = "s", .encoder = other_, .index = "exact"}, {});
  ASSERT_TRUE(same.ok() && without.ok());
  EXPECT_GE(same->size_bytes - without->size_bytes, 1'500 * other_->spec().dim);
  EXPECT_EQ(same->memory_bytes, without->memory_bytes);
}

}  // namespace
}  // namespace loci
