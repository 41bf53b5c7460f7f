#include <algorithm>
#include <atomic>
#include <cstring>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/mutex.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "index/store.h"
#include "index/store_testing.h"
#include "index/view_copy.h"

namespace loci {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Pair;
using ::testing::UnorderedElementsAre;

constexpr char kHalf[] = "0123456789abcdef";

BuildOptions OptionsOf(int dim, ElementType type = ElementType::kFloat32) {
  BuildOptions options;
  options.dim = dim;
  options.element_type = type;
  options.passage_fingerprint = kHalf;
  options.base_revision = -1;
  return options;
}

// The generation of a fold, opened but not switched to.
absl::StatusOr<std::shared_ptr<const Generation>> BuildFold(const Store& store_const, Store& store, const FoldSource& source) {
  const storage::Manifest& manifest = source.view->generation().manifest();
  BuildOptions options = OptionsOf(source.view->dim(), source.view->generation().vectors().element_type());
  options.index = manifest.index();
  options.base_revision = source.view->revision();
  options.folded_from = manifest.generation();
  auto builder = store.NewGeneration(options);
  if (!builder.ok()) return builder.status();
  if (absl::Status copied = CopyView(*source.view, **builder, [](int64_t) { return absl::OkStatus(); }); !copied.ok()) return copied;
  auto built = (*builder)->Finish({}, nullptr);
  if (!built.ok()) return built.status();
  return store_const.OpenGeneration(built->generation(), true);
}

absl::StatusOr<ActivationResult> Fold(Store& store) {
  auto source = store.BeginFold();
  if (!source.ok()) return source.status();
  auto generation = BuildFold(store, store, *source);
  if (!generation.ok()) return generation.status();
  auto fold = store.PrepareFold(*source, *generation);
  if (!fold.ok()) return fold.status();
  return store.SwitchToFold(**fold);
}

// Values that every element type rounds in its own way, and few of them, so that equal vectors are common.
std::vector<float> RandomVector(std::mt19937& random, int dim) {
  static constexpr float kValues[] = {0.1f, -0.3f, 1.0f / 3, 0.5f, 0, 1.0001f};
  std::vector<float> vector(dim);
  for (float& x : vector) x = kValues[random() % std::size(kValues)];
  return vector;
}

using Ranked = std::vector<std::pair<std::string, uint32_t>>;  // Id and the bits of the score.

std::vector<Ranked> SearchExactly(const View& view, uint32_t seed, int top_k) {
  std::mt19937 random(seed);
  constexpr int kQueries = 5;
  std::vector<float> queries;
  for (int i = 0; i < kQueries; ++i) {
    const std::vector<float> query = RandomVector(random, view.dim());
    queries.insert(queries.end(), query.begin(), query.end());
  }
  IndexSearchOptions options;
  options.top_k = top_k;
  options.exact = true;
  const auto result = view.Search({queries.data(), kQueries, view.dim()}, options);
  EXPECT_TRUE(result.ok()) << result.status();
  std::vector<Ranked> ranked;
  if (!result.ok()) return ranked;
  for (const std::vector<ViewHit>& hits : result->hits) {
    Ranked& of_query = ranked.emplace_back();
    for (const ViewHit& hit : hits) {
      uint32_t bits;
      std::memcpy(&bits, &hit.score, sizeof(bits));
      of_query.emplace_back(hit.id, bits);
    }
  }
  return ranked;
}

class FoldPropertyTest : public ::testing::TestWithParam<std::pair<ElementType, const char*>> {};

// Random worlds, folded again and again with writes between the steps of each fold: views before and after, and a generation that is built
// of the model alone, find the same passages with the same bits, in the same order. So does what a restart finds.
TEST_P(FoldPropertyTest, EveryViewEqualsTheModelAndARebuild) {
  const auto& [type, index] = GetParam();
  for (uint32_t seed = 1; seed <= 4; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937 random(seed);
    TestDirectory directory("fold_property");
    const std::string path = JoinPath(directory.path(), "s");
    const int dim = 1 + static_cast<int>(random() % 5);
    std::vector<std::string> ids;
    for (int i = 0; i < 150; ++i) ids.push_back("p" + std::to_string(random() % 100000));
    TestContents model;
    const int body = seed == 1 ? 0 : 20 + static_cast<int>(random() % 100);
    for (int i = 0; i < body; ++i) model[ids[random() % ids.size()]] = {"body " + std::to_string(i), RandomVector(random, dim)};

    StoreOptions store_options;
    if (seed % 2 == 0) store_options.max_hidden_overlay_rows = 2 * seed;  // Compacts again and again.
    auto opened = Store::Open(path, "s", store_options);
    ASSERT_TRUE(opened.ok()) << opened.status();
    std::unique_ptr<Store> store = *std::move(opened);
    BuildOptions options = OptionsOf(dim, type);
    options.index = index;
    const auto first = BuildGeneration(*store, model, options);
    ASSERT_TRUE(first.ok()) << first.status();
    ASSERT_TRUE(store->Activate(*store->OpenGeneration(*first, true), WritesPolicy::kRefuse).ok());

    const auto write_some = [&](int most) {
      const int requests = static_cast<int>(random() % 40);
      for (int request = 0; request < requests; ++request) {
        std::vector<PassageWrite> writes;
        const int count = 1 + static_cast<int>(random() % most);
        for (int i = 0; i < count; ++i) {
          const std::string& id = ids[random() % ids.size()];
          if (random() % 3 == 0) {
            writes.push_back(Deletion(id));
            model.erase(id);
          } else {
            TestPassage passage{"text " + std::to_string(random()), RandomVector(random, dim)};
            if (random() % 4 == 0 && !model.empty()) passage.vector = model.begin()->second.vector;
            writes.push_back(Upsert(id, passage));
            model[id] = passage;
          }
        }
        const auto written = store->Write(std::move(writes));
        ASSERT_TRUE(written.ok()) << written.status();
      }
    };
    const auto expect_model = [&](const View& view) {
      const auto contents = ReadContents(view, ids);
      ASSERT_TRUE(contents.ok()) << contents.status();
      std::map<std::string, std::string> texts;
      for (const auto& [id, passage] : model) texts[id] = passage.text;
      EXPECT_EQ(contents->texts, texts);
      EXPECT_EQ(contents->passage_count, static_cast<int64_t>(model.size()));
    };
    for (int round = 0; round < 4; ++round) {
      SCOPED_TRACE("round " + std::to_string(round));
      write_some(6);
      const auto source = store->BeginFold();
      ASSERT_TRUE(source.ok()) << source.status();
      const TestContents captured = model;
      write_some(4);
      const auto folded = BuildFold(*store, *store, *source);
      ASSERT_TRUE(folded.ok()) << folded.status();
      EXPECT_EQ((*folded)->row_count(), static_cast<int64_t>(captured.size()));
      write_some(4);
      const auto fold = store->PrepareFold(*source, *folded);
      ASSERT_TRUE(fold.ok()) << fold.status();
      write_some(4);
      const std::shared_ptr<const View> before = store->view();
      const auto switched = store->SwitchToFold(**fold);
      ASSERT_TRUE(switched.ok()) << switched.status();
      const std::shared_ptr<const View> after = store->view();
      EXPECT_EQ(after, switched->view);
      EXPECT_EQ(after->revision(), before->revision()) << "a fold takes no revision";
      EXPECT_EQ(after->generation().id(), (*folded)->id());
      expect_model(*before);
      expect_model(*after);

      const auto rebuilt_id = BuildGeneration(*store, model, OptionsOf(dim, type));
      ASSERT_TRUE(rebuilt_id.ok()) << rebuilt_id.status();
      const auto rebuilt = store->OpenGeneration(*rebuilt_id, true);
      ASSERT_TRUE(rebuilt.ok()) << rebuilt.status();
      for (const int top_k : {1, 7, 200}) {
        const std::vector<Ranked> expected = SearchExactly(*View::Bare(*rebuilt), seed, top_k);
        EXPECT_EQ(SearchExactly(*before, seed, top_k), expected);
        EXPECT_EQ(SearchExactly(*after, seed, top_k), expected);
      }
      write_some(4);
      expect_model(*store->view());
      if (round % 2 == 1) {
        const std::vector<Ranked> expected = SearchExactly(*store->view(), seed, 20);
        const int64_t revision = store->revision();
        store.reset();
        auto reopened = Store::Open(path, "s", store_options);
        ASSERT_TRUE(reopened.ok()) << reopened.status();
        store = *std::move(reopened);
        EXPECT_EQ(store->revision(), revision);
        EXPECT_EQ(store->view()->generation().id(), (*folded)->id());
        expect_model(*store->view());
        EXPECT_EQ(SearchExactly(*store->view(), seed, 20), expected);
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Types, FoldPropertyTest,
                         ::testing::Values(std::pair(ElementType::kFloat32, "exact"), std::pair(ElementType::kFloat16, "exact"),
                                           std::pair(ElementType::kBfloat16, "exact"), std::pair(ElementType::kFloat32, "HNSW8")));

TestPassage P(const std::string& text) { return {text, {1, static_cast<float>(text.size())}}; }

class StoreFoldTest : public ::testing::Test {
 protected:
  void SetUp() override { Open(); }
  void Open() {
    store_.reset();
    auto opened = Store::Open(path_, "s", {});
    ASSERT_TRUE(opened.ok()) << opened.status();
    store_ = *std::move(opened);
  }
  std::string Serve(const TestContents& contents, WritesPolicy policy = WritesPolicy::kRefuse) {
    auto id = BuildGeneration(*store_, contents, OptionsOf(2));
    EXPECT_TRUE(id.ok()) << id.status();
    if (!id.ok()) return "";
    const auto activated = store_->Activate(*store_->OpenGeneration(*id, true), policy);
    EXPECT_TRUE(activated.ok()) << activated.status();
    return *id;
  }
  absl::StatusOr<ActivationResult> Activate(const std::string& id, WritesPolicy policy, bool roll_back = false) {
    auto generation = store_->OpenGeneration(id, true);
    if (!generation.ok()) return generation.status();
    return store_->Activate(*generation, policy, roll_back);
  }
  void Write(std::vector<PassageWrite> writes) {
    const auto written = store_->Write(std::move(writes));
    ASSERT_TRUE(written.ok()) << written.status();
  }
  std::map<std::string, std::string> Texts() {
    auto contents = ReadContents(*store_->view(), {"a", "b", "c", "d"});
    EXPECT_TRUE(contents.ok()) << contents.status();
    return contents->texts;
  }
  static std::string ReasonOf(const absl::Status& status) {
    const auto reason = GetErrorReason(status);
    return reason ? reason->reason : "";
  }

  TestDirectory directory_{"store_fold_test"};
  std::string path_ = JoinPath(directory_.path(), "s");
  std::unique_ptr<Store> store_;
};

TEST_F(StoreFoldTest, StandsInTheHistoryForWhatItReplaced) {
  const std::string old = Serve({{"a", P("old")}});
  const std::string serving = Serve({{"a", P("a1")}});
  Write({Upsert("b", P("b1"))});
  auto folded = Fold(*store_);
  ASSERT_TRUE(folded.ok()) << folded.status();
  EXPECT_EQ(folded->previous_generation, serving);
  EXPECT_EQ(store_->PreviousGeneration(), old);
  EXPECT_THAT(store_->folded_generations(), ElementsAre(serving));
  Open();
  EXPECT_EQ(store_->active_generation(), folded->generation);
  EXPECT_EQ(store_->PreviousGeneration(), old);
  EXPECT_THAT(store_->folded_generations(), ElementsAre(serving));

  // Rolled back: the fold is one that served, and the writes in it are writes since the base of what is rolled back to.
  EXPECT_EQ(ReasonOf(Activate(old, WritesPolicy::kRefuse, true).status()), "WRITES_SINCE");
  auto rolled_back = Activate(old, WritesPolicy::kReplay, true);
  ASSERT_TRUE(rolled_back.ok()) << rolled_back.status();
  EXPECT_THAT(Texts(), UnorderedElementsAre(Pair("a", "old"), Pair("b", "b1")));
  // And forth again: nothing was written since the fold's base.
  auto again = Activate(folded->generation, WritesPolicy::kRefuse);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->writes_since_count, 0);
  EXPECT_THAT(Texts(), UnorderedElementsAre(Pair("a", "a1"), Pair("b", "b1")));
  Open();
  EXPECT_THAT(Texts(), UnorderedElementsAre(Pair("a", "a1"), Pair("b", "b1")));

  // What it replaced can go: no roll-back asks for it. Activated again it is one that serves like any other.
  ASSERT_TRUE(Activate(serving, WritesPolicy::kReplay).ok());
  EXPECT_THAT(store_->folded_generations(), IsEmpty());
  EXPECT_EQ(store_->PreviousGeneration(), folded->generation);
  ASSERT_TRUE(Activate(folded->generation, WritesPolicy::kReplay).ok());
  ASSERT_TRUE(store_->DeleteGeneration(serving).ok());
}

TEST_F(StoreFoldTest, StandsInTheHistoryAlsoWhereThatServedBefore) {
  const std::string first = Serve({{"a", P("one")}});
  const std::string second = Serve({{"a", P("two")}});
  ASSERT_TRUE(Activate(first, WritesPolicy::kReplay).ok());
  Write({Upsert("b", P("b1"))});
  auto folded = Fold(*store_);
  ASSERT_TRUE(folded.ok()) << folded.status();
  ASSERT_TRUE(store_->DeleteGeneration(first).ok());
  EXPECT_EQ(store_->PreviousGeneration(), second);
  ASSERT_TRUE(Activate(second, WritesPolicy::kReplay, true).ok());
  EXPECT_EQ(store_->PreviousGeneration(), folded->generation);
  ASSERT_TRUE(Activate(folded->generation, WritesPolicy::kReplay, true).ok());
  EXPECT_THAT(Texts(), UnorderedElementsAre(Pair("a", "one"), Pair("b", "b1")));
}

TEST_F(StoreFoldTest, DeletingWhatItReplacedTrimsTheLogToItsBase) {
  const std::string first = Serve({{"a", P("a1")}});
  Write({Upsert("b", P("b1"))});
  auto folded = Fold(*store_);
  ASSERT_TRUE(folded.ok()) << folded.status();
  Write({Deletion("a")});
  ASSERT_TRUE(store_->DeleteGeneration(first).ok());
  EXPECT_THAT(store_->folded_generations(), IsEmpty());
  Open();
  EXPECT_THAT(Texts(), UnorderedElementsAre(Pair("b", "b1")));
  storage::Manifest old_base = store_->view()->generation().manifest();
  EXPECT_EQ(old_base.folded_from(), first);
  old_base.set_base_revision(old_base.base_revision() - 1);
  EXPECT_EQ(store_->CheckWritesSince(old_base, WritesPolicy::kReplay).status().code(), absl::StatusCode::kOutOfRange);
}

TEST_F(StoreFoldTest, IsRefusedWhereSomethingElseServesNow) {
  Serve({{"a", P("a1")}});
  Write({Upsert("b", P("b1"))});
  const auto source = store_->BeginFold();
  ASSERT_TRUE(source.ok());
  const auto built = BuildFold(*store_, *store_, *source);
  ASSERT_TRUE(built.ok()) << built.status();
  const auto fold = store_->PrepareFold(*source, *built);
  ASSERT_TRUE(fold.ok());
  const std::string other = Serve({{"c", P("c1")}});
  const auto switched = store_->SwitchToFold(**fold);
  EXPECT_EQ(switched.status().code(), absl::StatusCode::kAborted);
  EXPECT_EQ(ReasonOf(switched.status()), "GENERATION_CHANGED");
  EXPECT_EQ(store_->active_generation(), other);
}

TEST_F(StoreFoldTest, ActivatedBeforeItsSwitchItIsAGenerationLikeAnyOther) {
  const std::string first = Serve({{"a", P("a1")}});
  Write({Upsert("b", P("b1"))});
  const auto source = store_->BeginFold();
  ASSERT_TRUE(source.ok());
  const auto built = BuildFold(*store_, *store_, *source);
  ASSERT_TRUE(built.ok()) << built.status();
  EXPECT_TRUE(store_->IsUnusedFold((*built)->id()));
  ASSERT_TRUE(Activate((*built)->id(), WritesPolicy::kReplay).ok());
  EXPECT_FALSE(store_->IsUnusedFold((*built)->id()));
  ASSERT_TRUE(Activate(first, WritesPolicy::kReplay).ok());
  Open();
  EXPECT_EQ(store_->ListGenerations()->size(), 2u);
  EXPECT_EQ(store_->PreviousGeneration(), (*built)->id());
}

TEST_F(StoreFoldTest, BringsNothingBackThatWasDiscardedMeanwhile) {
  const std::string first = Serve({{"a", P("a1")}});
  Write({Upsert("b", P("b1"))});
  const auto source = store_->BeginFold();
  ASSERT_TRUE(source.ok());
  const auto built = BuildFold(*store_, *store_, *source);
  ASSERT_TRUE(built.ok()) << built.status();
  const auto fold = store_->PrepareFold(*source, *built);
  ASSERT_TRUE(fold.ok());
  ASSERT_TRUE(Activate(first, WritesPolicy::kDiscard).ok());
  const auto switched = store_->SwitchToFold(**fold);
  EXPECT_EQ(ReasonOf(switched.status()), "GENERATION_CHANGED") << switched.status();
  EXPECT_THAT(Texts(), UnorderedElementsAre(Pair("a", "a1")));
}

TEST_F(StoreFoldTest, WhatNeverCameToItsSwitchIsGoneAfterARestart) {
  const std::string first = Serve({{"a", P("a1")}});
  Write({Upsert("b", P("b1"))});
  const auto source = store_->BeginFold();
  ASSERT_TRUE(source.ok());
  const auto built = BuildFold(*store_, *store_, *source);
  ASSERT_TRUE(built.ok()) << built.status();
  EXPECT_EQ(store_->ListGenerations()->size(), 2u);
  Open();
  ASSERT_EQ(store_->ListGenerations()->size(), 1u);
  EXPECT_EQ(store_->active_generation(), first);
  EXPECT_THAT(Texts(), UnorderedElementsAre(Pair("a", "a1"), Pair("b", "b1")));

  // One that did stays, also when another serves.
  auto folded = Fold(*store_);
  ASSERT_TRUE(folded.ok()) << folded.status();
  ASSERT_TRUE(Activate(first, WritesPolicy::kReplay).ok());
  Open();
  EXPECT_EQ(store_->ListGenerations()->size(), 2u);
  ASSERT_TRUE(Activate(folded->generation, WritesPolicy::kReplay).ok());
}

TEST_F(StoreFoldTest, AMarkerThatTheSwitchLeftIsPassedOver) {
  Serve({{"a", P("a1")}});
  Write({Upsert("b", P("b1"))});
  auto folded = Fold(*store_);
  ASSERT_TRUE(folded.ok()) << folded.status();
  const std::string marker = JoinPath(JoinPath(path_, folded->generation), kFoldMarkerFile);
  EXPECT_FALSE(PosixFileSystem().Exists(marker));
  store_.reset();
  ASSERT_TRUE((*PosixFileSystem().NewWritableFile(marker))->Close().ok());
  Open();
  EXPECT_EQ(store_->active_generation(), folded->generation);
  EXPECT_FALSE(PosixFileSystem().Exists(marker));
  EXPECT_THAT(Texts(), UnorderedElementsAre(Pair("a", "a1"), Pair("b", "b1")));
}

TEST_F(StoreFoldTest, AStoreThatServesNothingHasNothingToFold) {
  EXPECT_EQ(ReasonOf(store_->BeginFold().status()), "NO_ACTIVE_GENERATION");
}

// Writers and readers beside a fold's long steps: the writer's calls take turns, as the manager orders them.
TEST_F(StoreFoldTest, WritesGoOnWhileItIsPrepared) {
  Serve({{"a", P("a0")}});
  Mutex writer;
  std::atomic<bool> stop{false};
  std::atomic<int> written{0};
  std::thread writing([&] {
    for (int i = 1; !stop; ++i) {
      MutexLock lock(&writer);
      ASSERT_TRUE(store_->Write({Upsert("a", P("a" + std::to_string(i))), i % 2 ? Upsert("b", P("b" + std::to_string(i))) : Deletion("b")}).ok());
      written = i;
    }
  });
  for (int round = 0; round < 5; ++round) {
    const auto at_least = written + 20;
    while (written < at_least) std::this_thread::yield();
    FoldSource source;
    {
      MutexLock lock(&writer);
      source = *store_->BeginFold();
    }
    const auto built = BuildFold(*store_, *store_, source);
    ASSERT_TRUE(built.ok()) << built.status();
    const auto fold = store_->PrepareFold(source, *built);
    ASSERT_TRUE(fold.ok()) << fold.status();
    MutexLock lock(&writer);
    const auto switched = store_->SwitchToFold(**fold);
    ASSERT_TRUE(switched.ok()) << switched.status();
    const std::string now = std::to_string(written);
    if (written % 2) {
      EXPECT_THAT(Texts(), UnorderedElementsAre(Pair("a", "a" + now), Pair("b", "b" + now)));
    } else {
      EXPECT_THAT(Texts(), UnorderedElementsAre(Pair("a", "a" + now)));
    }
  }
  stop = true;
  writing.join();
}

}  // namespace
}  // namespace loci
