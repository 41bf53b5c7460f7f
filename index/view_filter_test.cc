// Filters over a view: body and overlay, exact and approximate indexes.
#include <algorithm>
#include <cstring>
#include <map>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "index/exact_index.h"
#include "index/filter_testing.h"
#include "index/store.h"
#include "index/store_testing.h"

namespace loci {
namespace {

using ::testing::HasSubstr;

constexpr int kDim = 16;

struct Item {
  v1::Passage passage;
  std::vector<float> vector;
};
using Model = std::map<std::string, Item>;

std::vector<float> RandomVector(std::mt19937_64& random) {
  std::normal_distribution<float> normal;
  std::vector<float> vector(kDim);
  for (float& x : vector) x = normal(random);
  return vector;
}

PassageWrite WriteOf(const Item& item) { return {.id = item.passage.id(), .deleted = false, .passage = item.passage, .vector = item.vector}; }

std::string Build(Store& store, const Model& model, const std::string& index) {
  BuildOptions options;
  options.dim = kDim;
  options.index = index;
  options.base_revision = -1;
  options.passage_fingerprint = "0123456789abcdef";
  auto builder = store.NewGeneration(options);
  EXPECT_TRUE(builder.ok()) << builder.status();
  for (const auto& [id, item] : model) EXPECT_TRUE((*builder)->Add({&item.passage, 1}, item.vector.data()).ok());
  auto manifest = (*builder)->Finish({}, nullptr);
  EXPECT_TRUE(manifest.ok()) << manifest.status();
  return manifest->generation();
}

void Activate(Store& store, const std::string& generation) {
  auto opened = store.OpenGeneration(generation, true);
  ASSERT_TRUE(opened.ok()) << opened.status();
  const auto activated = store.Activate(*opened, WritesPolicy::kDiscard);
  ASSERT_TRUE(activated.ok()) << activated.status();
}

using Ranked = std::vector<std::pair<std::string, float>>;

Ranked BruteForce(const Model& model, const NaiveFilter& filter, const float* query, int top_k) {
  std::vector<std::pair<float, std::string>> scored;
  for (const auto& [id, item] : model) {
    if (filter.matches(item.passage)) scored.emplace_back(-ExactScore(query, item.vector.data(), ElementType::kFloat32, kDim), id);
  }
  std::sort(scored.begin(), scored.end());
  scored.resize(std::min(scored.size(), static_cast<size_t>(top_k)));
  Ranked ranked;
  for (const auto& [score, id] : scored) ranked.emplace_back(id, -score);
  return ranked;
}

Ranked RankedOf(const std::vector<ViewHit>& hits) {
  Ranked ranked;
  for (const ViewHit& hit : hits) ranked.emplace_back(hit.id, hit.score);
  return ranked;
}

int64_t CountOf(const Model& model, const NaiveFilter& filter) {
  return std::count_if(model.begin(), model.end(), [&](const auto& entry) { return filter.matches(entry.second.passage); });
}

struct Found {
  int64_t match_count = 0;
  ViewSearchResult result;
};

Found Search(const View& view, const std::string& filter, const std::vector<float>& queries, IndexSearchOptions options) {
  const auto parsed = FilterExpression::Parse(filter);
  EXPECT_TRUE(parsed.ok()) << parsed.status();
  const auto filtered = view.Filter(**parsed, {});
  EXPECT_TRUE(filtered.ok()) << filtered.status();
  auto result = view.Search({queries.data(), static_cast<int64_t>(queries.size()) / kDim, kDim}, options, &*filtered);
  EXPECT_TRUE(result.ok()) << result.status();
  return {filtered->match_count, *std::move(result)};
}

class ViewFilterTest : public ::testing::Test {
 protected:
  void Open(StoreOptions options = {}) {
    auto opened = Store::Open(JoinPath(directory_.path(), "s"), "s", options);
    ASSERT_TRUE(opened.ok()) << opened.status();
    store_ = *std::move(opened);
  }

  TestDirectory directory_{"view_filter"};
  std::unique_ptr<Store> store_;
};

// The same passages in the body, in the overlay and in both mean the same to a filter: what a naive reading of it says.
TEST_F(ViewFilterTest, BodyAndOverlayAgreeWithANaiveReading) {
  const uint64_t seed = 4711;
  SCOPED_TRACE(absl::StrCat("seed ", seed));
  std::mt19937_64 random(seed);
  StoreOptions options;
  options.max_hidden_overlay_rows = 40;  // Compacts now and then.
  Open(options);
  Model model;
  const auto make = [&](int number) {
    const std::string id = absl::StrCat("p", 100 + number);
    return Item{RandomPassage(id, random), RandomVector(random)};
  };
  for (int i = 0; i < 200; ++i) {
    Item item = make(static_cast<int>(random() % 260));
    model[item.passage.id()] = item;
  }
  Activate(*store_, Build(*store_, model, "exact"));
  const std::vector<float> queries = [&] {
    std::vector<float> all = RandomVector(random);
    const std::vector<float> more = RandomVector(random);
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }();
  const auto check = [&](int filters) {
    const std::shared_ptr<const View> view = store_->view();
    for (int i = 0; i < filters; ++i) {
      const NaiveFilter filter = RandomFilter(static_cast<int>(random() % 4), random);
      SCOPED_TRACE(filter.text);
      const int top_k = 1 + static_cast<int>(random() % 30);
      const Found found = Search(*view, filter.text, queries, {.top_k = top_k, .limits = {}});
      ASSERT_EQ(found.match_count, CountOf(model, filter));
      ASSERT_TRUE(found.result.exact);
      for (int q = 0; q < 2; ++q) {
        ASSERT_EQ(RankedOf(found.result.hits[static_cast<size_t>(q)]), BruteForce(model, filter, queries.data() + q * kDim, top_k));
      }
    }
  };
  check(150);
  for (int step = 0; step < 12; ++step) {
    std::vector<PassageWrite> writes;
    for (int i = 0; i < 25; ++i) {
      if (random() % 4 == 0 && !model.empty()) {
        const std::string id = std::next(model.begin(), static_cast<std::ptrdiff_t>(random() % model.size()))->first;
        writes.push_back(Deletion(id));
        model.erase(id);
      } else {
        const Item item = make(static_cast<int>(random() % 260));
        writes.push_back(WriteOf(item));
        model[item.passage.id()] = item;
      }
    }
    ASSERT_TRUE(store_->Write(std::move(writes)).ok());
    check(60);
  }
  EXPECT_GT(store_->view()->overlay_count(), 50);
  // And after a restart, when the overlay is made of the log.
  store_.reset();
  Open(options);
  check(60);
}

TEST_F(ViewFilterTest, AStoreThatWasEmptyWhenItWasBuiltIsFiltered) {
  Open();
  Activate(*store_, Build(*store_, {}, "exact"));
  std::mt19937_64 random(1);
  Item item{RandomPassage("x", random), RandomVector(random)};
  (*item.passage.mutable_metadata())["lang"].set_string_value("en");
  ASSERT_TRUE(store_->Write({WriteOf(item)}).ok());
  EXPECT_EQ(Search(*store_->view(), "lang = 'en'", item.vector, {.top_k = 3, .limits = {}}).result.hits[0].size(), 1u);
  EXPECT_EQ(Search(*store_->view(), "lang = 'de'", item.vector, {.top_k = 3, .limits = {}}).result.hits[0].size(), 0u);
}

// A deleted passage stays away where no row of the overlay is left that a filter could look at.
TEST_F(ViewFilterTest, WhatWasDeletedDoesNotComeBackWithAFilter) {
  Open();
  std::mt19937_64 random(2);
  const Item kept{RandomPassage("kept", random), RandomVector(random)};
  const Item gone{RandomPassage("gone", random), RandomVector(random)};
  Activate(*store_, Build(*store_, {{"kept", kept}}, "exact"));
  ASSERT_TRUE(store_->Write({WriteOf(gone)}).ok());
  ASSERT_TRUE(store_->Write({{.id = "gone", .deleted = true}}).ok());
  const Found found = Search(*store_->view(), "has(id)", gone.vector, {.top_k = 3, .limits = {}});
  EXPECT_EQ(found.match_count, 1);
  ASSERT_EQ(found.result.hits[0].size(), 1u);
  EXPECT_EQ(found.result.hits[0][0].id, "kept");
  ASSERT_TRUE(store_->Write({{.id = "kept", .deleted = true}}).ok());
  EXPECT_TRUE(Search(*store_->view(), "has(id)", gone.vector, {.top_k = 3, .limits = {}}).result.hits[0].empty());
}

class ApproximateFilterTest : public ViewFilterTest, public ::testing::WithParamInterface<std::string> {};

// A selective filter is exact and says so; no filter has fewer than top_k hits where so many passages match.
TEST_P(ApproximateFilterTest, GoesExactWhereFewMatchAndNeverHasTooFew) {
  constexpr int kRows = 10'000;
  constexpr int kQueries = 5;
  Open();
  std::mt19937_64 random(5);
  Model model;
  for (int i = 0; i < kRows; ++i) {
    Item item{{}, RandomVector(random)};
    item.passage.set_id(absl::StrCat("p", 100'000 + i));
    item.passage.set_text("t");
    (*item.passage.mutable_metadata())["n"].set_int64_value(static_cast<int64_t>(random() % 1000));
    // What lies far from the queries, so that a walk from them does not come across it by chance.
    (*item.passage.mutable_metadata())["far"].set_bool_value(item.vector[0] < 0);
    model[item.passage.id()] = item;
  }
  Activate(*store_, Build(*store_, model, GetParam()));
  std::vector<PassageWrite> writes;
  for (int i = 0; i < 40; ++i) writes.push_back(Deletion(absl::StrCat("p", 100'000 + 7 * i)));
  for (int i = 0; i < 40; ++i) model.erase(absl::StrCat("p", 100'000 + 7 * i));
  ASSERT_TRUE(store_->Write(std::move(writes)).ok());
  std::vector<float> queries;
  for (int q = 0; q < kQueries; ++q) {
    std::vector<float> query = RandomVector(random);
    query[0] = 4;
    queries.insert(queries.end(), query.begin(), query.end());
  }
  const auto number_below = [](int64_t limit) {
    return NaiveFilter{absl::StrCat("n < ", limit), [limit](const v1::Passage& passage) { return passage.metadata().at("n").int64_value() < limit; }};
  };
  const NaiveFilter everything{"has(id)", [](const v1::Passage&) { return true; }};
  const NaiveFilter far{"far", [](const v1::Passage& passage) { return passage.metadata().at("far").bool_value(); }};
  std::map<int, int> right_without;  // By top_k.
  for (const int top_k : {10, 100}) {
    const auto without = store_->view()->Search({queries.data(), kQueries, kDim}, {.top_k = top_k, .limits = {}});
    ASSERT_TRUE(without.ok());
    for (int q = 0; q < kQueries; ++q) {
      const Ranked expected = BruteForce(model, everything, queries.data() + q * kDim, top_k);
      for (const auto& hit : RankedOf(without->hits[static_cast<size_t>(q)])) right_without[top_k] += std::find(expected.begin(), expected.end(), hit) != expected.end();
    }
  }
  for (const auto& [filter, exact] : std::vector<std::pair<NaiveFilter, bool>>{
           {number_below(0), true}, {number_below(1), true}, {number_below(100), true}, {number_below(500), false}, {number_below(1000), false}, {far, false}}) {
    SCOPED_TRACE(filter.text);
    const int64_t count = CountOf(model, filter);
    for (const int top_k : {10, 100}) {
      const Found found = Search(*store_->view(), filter.text, queries, {.top_k = top_k, .limits = {}});
      EXPECT_EQ(found.match_count, count);
      EXPECT_EQ(found.result.exact, exact);
      int right = 0;
      for (int q = 0; q < kQueries; ++q) {
        const Ranked expected = BruteForce(model, filter, queries.data() + q * kDim, top_k);
        const Ranked ranked = RankedOf(found.result.hits[static_cast<size_t>(q)]);
        ASSERT_EQ(static_cast<int64_t>(ranked.size()), std::min<int64_t>(top_k, count));
        for (const auto& hit : ranked) {
          ASSERT_TRUE(filter.matches(model.at(hit.first).passage));
          right += std::find(expected.begin(), expected.end(), hit) != expected.end();
        }
        if (exact) {
          ASSERT_EQ(ranked, expected);
        }
      }
      // A filter costs little recall.
      if (count >= top_k) {
        EXPECT_GT(right, 0.7 * right_without[top_k]) << "top_k " << top_k;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, ApproximateFilterTest, ::testing::Values("HNSW16", "IVF64,Flat", "PQ8"));

TEST_F(ViewFilterTest, AGenerationWithoutColumnsSaysSo) {
  Open();
  std::mt19937_64 random(1);
  Model model;
  for (int i = 0; i < 5; ++i) model[absl::StrCat("p", i)] = {RandomPassage(absl::StrCat("p", i), random), RandomVector(random)};
  const std::string generation = Build(*store_, model, "exact");
  // As a version before columns wrote it.
  const std::string folder = JoinPath(store_->directory(), generation);
  auto manifest = ReadManifest(PosixFileSystem(), folder);
  ASSERT_TRUE(manifest.ok());
  manifest->set_format_version(1);
  for (int i = 0; i < manifest->files_size(); ++i) {
    if (manifest->files(i).path() == kColumnsFile) manifest->mutable_files()->DeleteSubrange(i--, 1);
  }
  ASSERT_TRUE(PosixFileSystem().DeleteFile(JoinPath(folder, kColumnsFile)).ok());
  ASSERT_TRUE(WriteFileAtomically(PosixFileSystem(), JoinPath(folder, kManifestFile), SerializeManifest(*manifest)).ok());
  Activate(*store_, generation);
  const auto filter = FilterExpression::Parse("a = 1");
  const auto filtered = store_->view()->Filter(**filter, {});
  EXPECT_EQ(filtered.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(GetErrorReason(filtered.status())->reason, "NO_METADATA_COLUMNS");
  EXPECT_EQ(GetErrorReason(filtered.status())->metadata.at("generation"), generation);
  EXPECT_EQ(store_->view()->CheckFilter(), filtered.status());
}

TEST_F(ViewFilterTest, DamagedColumnsAreDataLossWhenTheGenerationIsOpened) {
  Open();
  std::mt19937_64 random(1);
  Model model;
  for (int i = 0; i < 50; ++i) model[absl::StrCat("p", i)] = {RandomPassage(absl::StrCat("p", i), random), RandomVector(random)};
  const std::string generation = Build(*store_, model, "exact");
  const std::string path = JoinPath(JoinPath(store_->directory(), generation), kColumnsFile);
  std::string content = PosixFileSystem().ReadFile(path).value();
  content[100] = static_cast<char>(content[100] ^ 1);
  ASSERT_TRUE(WriteFileAtomically(PosixFileSystem(), path, content).ok());
  for (const bool verify : {true, false}) {
    const absl::Status status = store_->OpenGeneration(generation, verify).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
    EXPECT_THAT(std::string(status.message()), HasSubstr("columns.bin"));
  }
}

TEST_F(ViewFilterTest, AnEvaluationEndsWithItsRequest) {
  Open();
  Activate(*store_, Build(*store_, {}, "exact"));
  std::mt19937_64 random(1);
  ASSERT_TRUE(store_->Write({WriteOf({RandomPassage("x", random), RandomVector(random)})}).ok());
  const RequestLimits limits;
  limits.Cancel();
  EXPECT_EQ(store_->view()->Filter(**FilterExpression::Parse("a"), limits).status().code(), absl::StatusCode::kCancelled);
}

}  // namespace
}  // namespace loci
