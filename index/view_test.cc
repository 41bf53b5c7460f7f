#include "index/view.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "index/exact_index.h"
#include "index/store.h"
#include "index/store_testing.h"

namespace loci {
namespace {

using ::testing::ElementsAre;
using ::testing::Pair;
using ::testing::UnorderedElementsAre;

// Values that every element type rounds in its own way, and few of them, so that equal vectors are common.
std::vector<float> RandomVector(std::mt19937& random, int dim) {
  static constexpr float kValues[] = {0.1f, -0.3f, 1.0f / 3, 0.5f, 0, 1.0001f};
  std::vector<float> vector(dim);
  for (float& x : vector) x = kValues[random() % std::size(kValues)];
  return vector;
}

uint32_t Bits(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  return bits;
}

using Ranked = std::vector<std::pair<std::string, uint32_t>>;  // Id and the bits of the score.

Ranked RankedOf(const std::vector<ViewHit>& hits) {
  Ranked ranked;
  for (const ViewHit& hit : hits) ranked.emplace_back(hit.id, Bits(hit.score));
  return ranked;
}

// As a vector file of `type` holds it.
std::string Stored(const std::vector<float>& vector, ElementType type) {
  std::string bytes(ElementSize(type) * vector.size(), '\0');
  if (type == ElementType::kFloat16) {
    Float32ToFloat16(vector.data(), reinterpret_cast<uint16_t*>(bytes.data()), vector.size());
  } else if (type == ElementType::kBfloat16) {
    Float32ToBfloat16(vector.data(), reinterpret_cast<uint16_t*>(bytes.data()), vector.size());
  } else {
    std::memcpy(bytes.data(), vector.data(), bytes.size());
  }
  return bytes;
}

Ranked BruteForce(const TestContents& contents, const float* query, int dim, ElementType type, int top_k) {
  std::vector<std::pair<float, std::string>> scored;
  for (const auto& [id, passage] : contents) {
    scored.emplace_back(-ExactScore(query, Stored(passage.vector, type).data(), type, dim), id);
  }
  std::sort(scored.begin(), scored.end());
  if (scored.size() > static_cast<size_t>(top_k)) scored.resize(top_k);
  Ranked ranked;
  for (const auto& [score, id] : scored) ranked.emplace_back(id, Bits(-score));
  return ranked;
}

class ViewPropertyTest : public ::testing::TestWithParam<ElementType> {};

// Random worlds: each view that is kept along the way goes on being what the model was then, bit for bit, and so is a rebuild.
TEST_P(ViewPropertyTest, EveryViewEqualsTheModelAndARebuild) {
  const ElementType type = GetParam();
  for (uint32_t seed = 1; seed <= 4; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937 random(seed);
    TestDirectory directory("view_property");
    const int dim = 1 + static_cast<int>(random() % 5);
    std::vector<std::string> ids;
    for (int i = 0; i < 150; ++i) ids.push_back("p" + std::to_string(random() % 100000));
    TestContents model;
    const auto random_passage = [&](const std::string& text) { return TestPassage{text, RandomVector(random, dim)}; };
    const int body = seed == 1 ? 0 : static_cast<int>(random() % 120);
    for (int i = 0; i < body; ++i) model[ids[random() % ids.size()]] = random_passage("body " + std::to_string(i));

    StoreOptions store_options;
    if (seed % 2 == 0) store_options.max_hidden_overlay_rows = 2 * seed;  // Compacts again and again.
    auto opened = Store::Open(JoinPath(directory.path(), "s"), "s", store_options);
    ASSERT_TRUE(opened.ok()) << opened.status();
    Store& store = **opened;
    BuildOptions options;
    options.dim = dim;
    options.element_type = type;
    options.base_revision = -1;
    options.passage_fingerprint = "0123456789abcdef";
    auto generation_id = BuildGeneration(store, model, options);
    ASSERT_TRUE(generation_id.ok()) << generation_id.status();
    ASSERT_TRUE(store.Activate(*store.OpenGeneration(*generation_id, true), WritesPolicy::kRefuse).ok());

    std::vector<std::pair<std::shared_ptr<const View>, TestContents>> kept = {{store.view(), model}};
    for (int step = 0; step < 14; ++step) {
      std::vector<PassageWrite> writes;
      int64_t deleted = 0;
      const TestContents before = model;
      const int count = 1 + static_cast<int>(random() % (step % 5 == 4 ? 90 : 8));
      for (int i = 0; i < count; ++i) {
        const std::string& id = ids[random() % ids.size()];
        if (random() % 3 == 0) {
          writes.push_back(Deletion(id));
          model.erase(id);
        } else {
          // Sometimes the very vector of another passage.
          TestPassage passage = random_passage("step " + std::to_string(step) + "." + std::to_string(i));
          if (random() % 4 == 0 && !model.empty()) passage.vector = model.begin()->second.vector;
          writes.push_back(Upsert(id, passage));
          model[id] = passage;
        }
      }
      for (const std::string& id : std::set<std::string>(ids.begin(), ids.end())) {
        const auto last = std::find_if(writes.rbegin(), writes.rend(), [&](const PassageWrite& write) { return write.id == id; });
        deleted += last != writes.rend() && last->deleted && before.count(id);
      }
      auto written = store.Write(writes);
      ASSERT_TRUE(written.ok()) << written.status();
      EXPECT_EQ(written->deleted_count, deleted);
      kept.emplace_back(written->view, model);
    }

    const int64_t query_count = 5;
    std::vector<float> queries;
    for (int64_t i = 0; i < query_count; ++i) {
      for (float x : RandomVector(random, dim)) queries.push_back(i == 0 ? 0 : x - 0.2f);
    }
    const MatrixView<const float> matrix{queries.data(), query_count, dim};
    for (size_t k = 0; k < kept.size(); ++k) {
      SCOPED_TRACE("view " + std::to_string(k));
      const auto& [view, contents] = kept[k];
      ASSERT_EQ(view->passage_count(), static_cast<int64_t>(contents.size()));
      std::shared_ptr<const View> rebuilt;
      if (k % 5 == 3) {
        auto rebuilt_id = BuildGeneration(store, contents, options);
        ASSERT_TRUE(rebuilt_id.ok()) << rebuilt_id.status();
        rebuilt = View::Bare(*store.OpenGeneration(*rebuilt_id, true));
      }
      for (int top_k : {1, 2, 7, 40, 1000}) {
        IndexSearchOptions search;
        search.top_k = top_k;
        auto result = view->Search(matrix, search);
        ASSERT_TRUE(result.ok()) << result.status();
        EXPECT_TRUE(result->exact);
        for (int64_t query = 0; query < query_count; ++query) {
          const Ranked expected = BruteForce(contents, matrix.row(query), dim, type, top_k);
          ASSERT_EQ(RankedOf(result->hits[query]), expected) << "top_k " << top_k << " query " << query;
          if (rebuilt == nullptr) continue;
          auto again = rebuilt->Search(matrix, search);
          ASSERT_TRUE(again.ok());
          ASSERT_EQ(RankedOf(again->hits[query]), expected) << "rebuilt, top_k " << top_k;
        }
      }
      for (const std::string& id : ids) {
        auto row = view->Find(id);
        ASSERT_TRUE(row.ok());
        const auto it = contents.find(id);
        ASSERT_EQ(row->has_value(), it != contents.end()) << id;
        if (!row->has_value()) continue;
        std::vector<loci::v1::Passage> passages;
        ASSERT_TRUE(view->Read(std::vector<ViewRow>{**row}, &passages).ok());
        ASSERT_EQ(passages[0].id(), id);
        ASSERT_EQ(passages[0].text(), it->second.text);
        std::vector<float> vector(dim);
        ASSERT_TRUE(view->CopyVector(**row, vector.data()).ok());
        ASSERT_EQ(Stored(vector, type), Stored(it->second.vector, type));
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Types, ViewPropertyTest,
                         ::testing::Values(ElementType::kFloat32, ElementType::kFloat16, ElementType::kBfloat16),
                         [](const auto& info) { return std::string(ElementTypeName(info.param)); });

class ViewTest : public ::testing::Test {
 protected:
  // A store of passages "a" to "h" whose vectors are [1, 0], [2, 0], ...
  void Make(const std::string& index, StoreOptions store_options = {}) {
    auto opened = Store::Open(JoinPath(directory_.path(), "s"), "s", store_options);
    ASSERT_TRUE(opened.ok()) << opened.status();
    store_ = *std::move(opened);
    TestContents contents;
    for (int i = 0; i < 8; ++i) contents[std::string(1, static_cast<char>('a' + i))] = {"text", {1.0f + i, 0}};
    BuildOptions options;
    options.dim = 2;
    options.index = index;
    auto id = BuildGeneration(*store_, contents, options);
    ASSERT_TRUE(id.ok()) << id.status();
    ASSERT_TRUE(store_->Activate(*store_->OpenGeneration(*id, true), WritesPolicy::kRefuse).ok());
  }
  std::vector<std::string> Ids(const View& view, IndexSearchOptions options) {
    const float query[] = {1, 0};
    auto result = view.Search({query, 1, 2}, options);
    EXPECT_TRUE(result.ok()) << result.status();
    std::vector<std::string> ids;
    if (result.ok()) {
      for (const ViewHit& hit : result->hits[0]) ids.push_back(hit.id);
    }
    return ids;
  }

  TestDirectory directory_{"view_test"};
  std::unique_ptr<Store> store_;
};

TEST_F(ViewTest, RefusesWhatTheIndexRefuses) {
  Make("exact");
  const float query[] = {1, 0, NAN};
  IndexSearchOptions options;
  for (int top_k : {0, -1, kMaxTopK + 1}) {
    options.top_k = top_k;
    EXPECT_EQ(store_->view()->Search({query, 1, 2}, options).status().code(), absl::StatusCode::kInvalidArgument) << top_k;
  }
  options.top_k = 1;
  EXPECT_EQ(store_->view()->Search({query, 1, 3}, options).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(store_->view()->Search({query + 1, 1, 2}, options).status().code(), absl::StatusCode::kInvalidArgument);
  options.nprobe = 4;
  EXPECT_EQ(store_->view()->Search({query, 1, 2}, options).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(ViewTest, BareBodyKnowsNoWrites) {
  Make("exact");
  ASSERT_TRUE(store_->Write({Deletion("h"), Upsert("z", {"new", {100, 0}})}).ok());
  IndexSearchOptions options;
  options.top_k = 2;
  EXPECT_THAT(Ids(*store_->view(), options), ElementsAre("z", "g"));
  const auto bare = View::Bare(store_->view()->shared_generation());
  EXPECT_THAT(Ids(*bare, options), ElementsAre("h", "g"));
  EXPECT_EQ(bare->revision(), 0);
  EXPECT_EQ(bare->passage_count(), 8);
  EXPECT_EQ(bare->overlay_count(), 0);
  EXPECT_EQ(store_->view()->overlay_count(), 1);
}

// Replacing, and adding and deleting, for ever takes no memory for ever; what views held goes on being what it was.
TEST_F(ViewTest, MemoryOfTheOverlayIsBounded) {
  StoreOptions options;
  options.max_hidden_overlay_rows = 100;
  Make("exact", options);
  const auto text = [](int i) { return std::to_string(i) + std::string(1000, 'x'); };
  std::vector<std::pair<int, std::shared_ptr<const View>>> kept;
  int64_t most = 0;
  for (int i = 0; i < 2000; ++i) {
    const std::string queued = "queue" + std::to_string(i);
    ASSERT_TRUE(store_->Write({Upsert("z", {text(i), {100, 0}}), Upsert(queued, {"q", {0, 1}}), Deletion("a"), Deletion("h")}).ok());
    ASSERT_TRUE(store_->Write({Deletion(queued), Upsert("a", {text(i), {50, 0}})}).ok());
    most = std::max(most, store_->view()->overlay_memory_bytes());
    if (i % 199 == 0) kept.emplace_back(i, store_->view());
  }
  EXPECT_LT(most, 1 << 20);
  kept.emplace_back(1999, store_->view());
  IndexSearchOptions search;
  search.top_k = 20;
  for (const auto& [i, view] : kept) {
    EXPECT_THAT(Ids(*view, search), ElementsAre("z", "a", "g", "f", "e", "d", "c", "b"));
    const auto contents = ReadContents(*view, {"a", "b", "h", "z", "queue" + std::to_string(i)});
    ASSERT_TRUE(contents.ok()) << contents.status();
    EXPECT_THAT(contents->texts, UnorderedElementsAre(Pair("a", text(i)), Pair("b", "text"), Pair("z", text(i))));
  }
}

TEST_F(ViewTest, CancelledSearchesStop) {
  Make("exact");
  ASSERT_TRUE(store_->Write({Upsert("z", {"new", {100, 0}})}).ok());
  IndexSearchOptions options;
  options.top_k = 2;
  options.limits.Cancel();
  const float query[] = {1, 0};
  EXPECT_EQ(store_->view()->Search({query, 1, 2}, options).status().code(), absl::StatusCode::kCancelled);
}

// An approximate body goes through the same merge; what is deleted or replaced never shows.
TEST_F(ViewTest, LaysWritesOverAnApproximateIndex) {
  Make("HNSW4");
  ASSERT_TRUE(store_->Write({Deletion("h"), Deletion("f"), Upsert("g", {"lower", {0.5, 0}}), Upsert("z", {"new", {5, 0}})}).ok());
  IndexSearchOptions options;
  options.top_k = 4;
  EXPECT_THAT(Ids(*store_->view(), options), ElementsAre("e", "z", "d", "c"));
  options.top_k = 100;
  EXPECT_THAT(Ids(*store_->view(), options), ElementsAre("e", "z", "d", "c", "b", "a", "g"));
  options.exact = true;
  EXPECT_THAT(Ids(*store_->view(), options), ElementsAre("e", "z", "d", "c", "b", "a", "g"));
  const float query[] = {1, 0};
  EXPECT_TRUE(store_->view()->Search({query, 1, 2}, options)->exact);
  options.exact = false;
  EXPECT_FALSE(store_->view()->Search({query, 1, 2}, options)->exact);
}

}  // namespace
}  // namespace loci
