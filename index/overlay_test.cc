#include "index/overlay.h"

#include <algorithm>
#include <atomic>
#include <map>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "index/exact_index.h"

namespace loci {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

loci::v1::Passage MakePassage(const std::string& id, const std::string& text = "") {
  loci::v1::Passage passage;
  passage.set_id(id);
  passage.set_text(text);
  return passage;
}

std::vector<std::string> IdsOf(const Overlay& overlay, const std::vector<RowHit>& hits) {
  std::vector<std::string> ids;
  for (const RowHit& hit : hits) ids.push_back(overlay.id(hit.row));
  return ids;
}

TEST(Overlay, FindsTheNewestWriteAtARevision) {
  Overlay overlay(1, ElementType::kFloat32);
  const float one = 1;
  const int64_t first = overlay.Append(3, MakePassage("a"), &one);
  overlay.Delete(5, "a");
  const int64_t second = overlay.Append(8, MakePassage("a"), &one);
  overlay.Delete(4, "b");
  EXPECT_FALSE(overlay.Find("a", 2).has_value());
  EXPECT_EQ(overlay.Find("a", 3)->row, first);
  EXPECT_EQ(overlay.Find("a", 4)->row, first);
  EXPECT_TRUE(overlay.Find("a", 5)->deleted());
  EXPECT_TRUE(overlay.Find("a", 7)->deleted());
  EXPECT_EQ(overlay.Find("a", 8)->row, second);
  EXPECT_EQ(overlay.Find("a", INT64_MAX)->row, second);
  EXPECT_FALSE(overlay.Find("b", 3).has_value());
  EXPECT_TRUE(overlay.Find("b", 4)->deleted());
  EXPECT_FALSE(overlay.Find("c", 9).has_value());
}

TEST(Overlay, KeepsVectorsAsTheBodyWould) {
  const std::vector<float> vector = {1.0f / 3, -2.0f / 7, 1e-7f, 3.0001f, 0};
  for (ElementType type : {ElementType::kFloat32, ElementType::kFloat16, ElementType::kBfloat16}) {
    Overlay overlay(5, type);
    overlay.Append(1, MakePassage("a"), vector.data());
    std::vector<float> expected = vector;
    std::vector<uint16_t> half(5);
    if (type == ElementType::kFloat16) {
      Float32ToFloat16(vector.data(), half.data(), 5);
      Float16ToFloat32(half.data(), expected.data(), 5);
    } else if (type == ElementType::kBfloat16) {
      Float32ToBfloat16(vector.data(), half.data(), 5);
      Bfloat16ToFloat32(half.data(), expected.data(), 5);
    }
    EXPECT_EQ(std::vector<float>(overlay.vector(0), overlay.vector(0) + 5), expected) << static_cast<int>(type);
    const float query[] = {0.3f, 0.1f, -9, 0.7f, 1};
    auto result = overlay.Search({query, 1, 5}, 1, 1, RowMask(), RequestLimits());
    ASSERT_TRUE(result.ok());
    const void* stored = type == ElementType::kFloat32 ? static_cast<const void*>(vector.data()) : half.data();
    EXPECT_EQ((*result)[0][0].score, ExactScore(query, stored, type, 5));
  }
}

TEST(Overlay, RowsStayWhereTheyAreOverManyChunks) {
  constexpr int64_t kRows = 20'000;
  Overlay overlay(3, ElementType::kFloat32);
  std::vector<const float*> places;
  for (int64_t row = 0; row < kRows; ++row) {
    const float vector[] = {static_cast<float>(row), 1, -static_cast<float>(row)};
    ASSERT_EQ(overlay.Append(row + 1, MakePassage("p" + std::to_string(row), "text " + std::to_string(row)), vector), row);
    places.push_back(overlay.vector(row));
  }
  EXPECT_EQ(overlay.row_count(), kRows);
  for (int64_t row = 0; row < kRows; ++row) {
    ASSERT_EQ(overlay.vector(row), places[row]);
    ASSERT_EQ(overlay.vector(row)[0], row);
    ASSERT_EQ(overlay.vector(row)[2], -row);
    ASSERT_EQ(overlay.id(row), "p" + std::to_string(row));
    loci::v1::Passage passage;
    ASSERT_TRUE(passage.ParseFromString(overlay.serialized_passage(row)));
    ASSERT_EQ(passage.text(), "text " + std::to_string(row));
  }
  EXPECT_GE(overlay.memory_bytes(), kRows * 3 * 4);
}

TEST(Overlay, DecidesTiesById) {
  Overlay overlay(1, ElementType::kFloat32);
  const float one = 1, two = 2;
  for (const char* id : {"d", "b", "\xff", "a", "c"}) overlay.Append(1, MakePassage(id), &one);
  overlay.Append(1, MakePassage("z"), &two);
  const float query = 1;
  const auto search = [&](int top_k, const RowMask& hidden) {
    return IdsOf(overlay, (*overlay.Search({&query, 1, 1}, top_k, overlay.row_count(), hidden, RequestLimits()))[0]);
  };
  EXPECT_THAT(search(3, RowMask()), ElementsAre("z", "a", "b"));
  EXPECT_THAT(search(9, RowMask()), ElementsAre("z", "a", "b", "c", "d", "\xff"));
  const std::vector<int64_t> hidden = {5, 3};
  EXPECT_THAT(search(2, RowMask().WithHidden(hidden)), ElementsAre("b", "c"));
  EXPECT_THAT((*overlay.Search({&query, 1, 1}, 2, 2, RowMask(), RequestLimits()))[0].size(), 2u);
  EXPECT_THAT(IdsOf(overlay, (*overlay.Search({&query, 1, 1}, 9, 2, RowMask(), RequestLimits()))[0]), ElementsAre("b", "d"));
}

TEST(Overlay, SearchEqualsSortingAllRows) {
  constexpr int kDim = 3;
  constexpr int64_t kRows = 5000, kQueries = 70;
  std::mt19937 random(7);
  Overlay overlay(kDim, ElementType::kFloat16);
  std::vector<int64_t> order(kRows), to_hide;
  for (int64_t row = 0; row < kRows; ++row) {
    // Few values, so that ties are common.
    float vector[kDim];
    for (float& x : vector) x = static_cast<float>(random() % 4) - 1.5f;
    overlay.Append(1, MakePassage("p" + std::to_string(random())), vector);
    if (random() % 3 == 0 || (row >= 512 && row < 1100)) to_hide.push_back(row);
  }
  const RowMask hidden = RowMask().WithHidden(to_hide);
  std::vector<float> queries(kQueries * kDim);
  for (float& x : queries) x = static_cast<float>(random() % 7) - 3;
  const int64_t rows = kRows - 13;
  for (int top_k : {1, 10, 700, 10'000}) {
    auto results = overlay.Search({queries.data(), kQueries, kDim}, top_k, rows, hidden, RequestLimits());
    ASSERT_TRUE(results.ok());
    for (int64_t query = 0; query < kQueries; query += 23) {
      std::vector<std::pair<float, std::string>> expected;
      for (int64_t row = 0; row < rows; ++row) {
        if (hidden.hidden(row)) continue;
        const float score = ExactScore(&queries[query * kDim], overlay.vector(row), ElementType::kFloat32, kDim);
        expected.emplace_back(-score, overlay.id(row));
      }
      std::sort(expected.begin(), expected.end());
      if (expected.size() > static_cast<size_t>(top_k)) expected.resize(top_k);
      std::vector<std::pair<float, std::string>> found;
      for (const RowHit& hit : (*results)[query]) found.emplace_back(-hit.score, overlay.id(hit.row));
      ASSERT_EQ(found, expected) << "top_k " << top_k << " query " << query;
    }
  }
}

TEST(Overlay, SearchStopsAtItsLimits) {
  Overlay overlay(1, ElementType::kFloat32);
  const float one = 1;
  overlay.Append(1, MakePassage("a"), &one);
  RequestLimits limits;
  limits.Cancel();
  EXPECT_EQ(overlay.Search({&one, 1, 1}, 1, 1, RowMask(), limits).status().code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(overlay.Search({&one, 1, 1}, 1, 1, RowMask(), RequestLimits(1)).status().code(), absl::StatusCode::kDeadlineExceeded);
}

TEST(Overlay, AnEmptyOneFindsNothing) {
  Overlay overlay(2, ElementType::kFloat32);
  const float query[] = {1, 1};
  EXPECT_THAT((*overlay.Search({query, 1, 2}, 5, 0, RowMask(), RequestLimits()))[0], IsEmpty());
}

// Readers see whole rows, and the same ones, while the writer goes on.
TEST(Overlay, ReadersSeeTheirRowsWhileTheWriterAppends) {
  constexpr int kDim = 5;
  constexpr int64_t kRows = 6000;
  Overlay overlay(kDim, ElementType::kFloat32);
  std::atomic<int64_t> published{0};
  std::atomic<bool> failed{false};
  const auto read = [&](uint32_t seed) {
    std::mt19937 random(seed);
    while (published.load(std::memory_order_relaxed) < kRows && !failed) {
      const int64_t rows = published.load(std::memory_order_acquire);
      if (rows == 0) continue;
      for (int i = 0; i < 20; ++i) {
        const int64_t row = static_cast<int64_t>(random() % rows);
        bool good = overlay.id(row) == "p" + std::to_string(row);
        for (int j = 0; j < kDim; ++j) good = good && overlay.vector(row)[j] == row + j;
        loci::v1::Passage passage;
        good = good && passage.ParseFromString(overlay.serialized_passage(row)) && passage.id() == overlay.id(row);
        // Row r was written in revision r + 1.
        const auto found = overlay.Find("p" + std::to_string(row), rows);
        good = good && found.has_value() && found->row == row;
        good = good && !overlay.Find("p" + std::to_string(row), row).has_value();
        if (!good) failed = true;
      }
      const float query[kDim] = {1, 0, 0, 0, 0};
      const auto best = overlay.Search({query, 1, kDim}, 3, rows, RowMask(), RequestLimits());
      if (!best.ok() || (*best)[0].front().row != rows - 1) failed = true;
    }
  };
  std::thread first(read, 1), second(read, 2);
  for (int64_t row = 0; row < kRows; ++row) {
    float vector[kDim];
    for (int j = 0; j < kDim; ++j) vector[j] = static_cast<float>(row + j);
    overlay.Append(row + 1, MakePassage("p" + std::to_string(row)), vector);
    published.store(row + 1, std::memory_order_release);
    if (row % 500 == 0) std::this_thread::yield();
  }
  first.join();
  second.join();
  EXPECT_FALSE(failed);
}

TEST(Overlay, CountsIdsWhoseNewestVersionIsADeletion) {
  Overlay overlay(2, ElementType::kFloat32);
  loci::v1::Passage passage;
  passage.set_id("a");
  const float vector[] = {1, 0};
  overlay.Delete(1, "a");
  overlay.Delete(2, "b");
  EXPECT_EQ(overlay.deleted_id_count(), 2);
  overlay.Delete(3, "a");
  EXPECT_EQ(overlay.deleted_id_count(), 2);
  overlay.Append(4, passage, vector);
  EXPECT_EQ(overlay.deleted_id_count(), 1);
  const auto compacted = overlay.Compacted(RowMask(), [](std::string_view) { return true; });
  ASSERT_TRUE(compacted.ok()) << compacted.status();
  EXPECT_EQ((*compacted)->deleted_id_count(), 1);
}

TEST(Overlay, KeepsWhatVectorsWereComputedIn) {
  Overlay overlay(2, ElementType::kFloat32);
  const float vector[] = {1, 0};
  loci::v1::Passage passage;
  passage.set_id("a");
  overlay.Append(1, passage, vector, VectorPrecision::kFloat16);
  overlay.Append(2, passage, vector, VectorPrecision::kInt8);
  passage.set_id("b");
  overlay.Append(3, passage, vector);
  EXPECT_EQ(overlay.precision(0), VectorPrecision::kFloat16);
  EXPECT_EQ(overlay.precision(1), VectorPrecision::kInt8);
  EXPECT_EQ(overlay.precision(2), VectorPrecision::kUnknown);
  const auto compacted = overlay.Compacted(RowMask().WithHidden(std::vector<int64_t>{0}), [](std::string_view) { return true; });
  ASSERT_TRUE(compacted.ok()) << compacted.status();
  EXPECT_EQ((*compacted)->precision(0), VectorPrecision::kInt8);
  EXPECT_EQ((*compacted)->precision(1), VectorPrecision::kUnknown);
}

}  // namespace
}  // namespace loci
