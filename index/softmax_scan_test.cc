#include "index/softmax_scan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <type_traits>
#include <vector>

#include "index/exact_index.h"
#include "index/softmax_merge.h"

namespace loci {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// Segments with what they hold, written down a second time.
struct World {
  struct Row {
    ViewRow row;
    std::vector<float> vector;
    bool hidden = false;
  };
  int dim;
  std::vector<Row> rows;
  std::vector<std::vector<char>> stored;
  RowMask hidden_body, hidden_overlay;
  std::vector<ScanSegment> segments;
};

// A body of `type` and overlay pieces of float32, with one row of `hide` hidden at random (0: none).
std::unique_ptr<World> MakeWorld(int dim, ElementType type, int64_t body_rows, const std::vector<int64_t>& overlay, int hide, uint64_t seed,
                                 double scale = 1) {
  auto world = std::make_unique<World>();
  world->dim = dim;
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal(0, static_cast<float>(scale / std::sqrt(dim)));
  std::vector<int64_t> hidden[2];
  const auto add = [&](bool in_overlay, int64_t first_row, int64_t rows, ElementType element_type) {
    std::vector<char> bytes(rows * dim * ElementSize(element_type));
    for (int64_t r = 0; r < rows; ++r) {
      World::Row row{.row = {in_overlay, first_row + r}, .vector = std::vector<float>(dim)};
      for (float& x : row.vector) x = normal(random);
      char* const to = bytes.data() + r * dim * ElementSize(element_type);
      if (element_type == ElementType::kFloat16) {
        Float32ToFloat16(row.vector.data(), reinterpret_cast<uint16_t*>(to), dim);
        Float16ToFloat32(reinterpret_cast<uint16_t*>(to), row.vector.data(), dim);
      } else if (element_type == ElementType::kBfloat16) {
        Float32ToBfloat16(row.vector.data(), reinterpret_cast<uint16_t*>(to), dim);
        Bfloat16ToFloat32(reinterpret_cast<uint16_t*>(to), row.vector.data(), dim);
      } else {
        std::memcpy(to, row.vector.data(), dim * sizeof(float));
      }
      row.hidden = hide > 0 && static_cast<int>(random() % hide) == 0;
      if (row.hidden) hidden[in_overlay].push_back(first_row + r);
      world->rows.push_back(std::move(row));
    }
    world->stored.push_back(std::move(bytes));
    world->segments.push_back(
        {.data = world->stored.back().data(), .type = element_type, .in_overlay = in_overlay, .first_row = first_row, .rows = rows});
  };
  world->stored.reserve(overlay.size() + 1);
  if (body_rows > 0) add(false, 0, body_rows, type);
  int64_t first = 0;
  for (const int64_t rows : overlay) {
    add(true, first, rows, ElementType::kFloat32);
    first += (rows + 63) / 64 * 64;
  }
  world->hidden_body = world->hidden_body.WithHidden(hidden[0]);
  world->hidden_overlay = world->hidden_overlay.WithHidden(hidden[1]);
  for (ScanSegment& segment : world->segments) segment.hidden = segment.in_overlay ? &world->hidden_overlay : &world->hidden_body;
  return world;
}

template <typename T>
std::vector<T> MakeQueries(int64_t count, int dim, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<double> normal;
  std::vector<T> queries(count * dim);
  for (T& x : queries) x = static_cast<T>(normal(random));
  return queries;
}

struct Truth {
  double log_mass = -kInfinity;
  std::vector<double> mean;
  std::map<ViewRow, double> probability;
};

// Naive: every exponential in float64, twice over the rows.
template <typename T>
Truth NaiveSoftmax(const World& world, const T* query, double temperature, const std::vector<ViewRow>& skipped) {
  const std::set<ViewRow> skip(skipped.begin(), skipped.end());
  std::vector<double> scores(world.rows.size(), -kInfinity);
  double max = -kInfinity, sum = 0;
  for (size_t i = 0; i < world.rows.size(); ++i) {
    if (world.rows[i].hidden || skip.count(world.rows[i].row)) continue;
    double score = 0;
    for (int d = 0; d < world.dim; ++d) score += static_cast<double>(query[d]) * world.rows[i].vector[d];
    max = std::max(max, scores[i] = score / temperature);
  }
  Truth truth{.mean = std::vector<double>(world.dim)};
  if (max == -kInfinity) return truth;
  for (const double score : scores) sum += std::exp(score - max);
  for (size_t i = 0; i < world.rows.size(); ++i) {
    const double p = std::exp(scores[i] - max) / sum;
    if (p > 0) truth.probability[world.rows[i].row] = p;
    for (int d = 0; d < world.dim; ++d) truth.mean[d] += p * world.rows[i].vector[d];
  }
  truth.log_mass = max + std::log(sum);
  return truth;
}

double RelativeError(const SoftmaxSums& sums, const std::vector<double>& mean) {
  double error = 0, size = 0;
  for (size_t d = 0; d < mean.size(); ++d) {
    error += std::pow(sums.weighted[d] / sums.sum - mean[d], 2);
    size += mean[d] * mean[d];
  }
  return std::sqrt(error / size);
}

bool SameBits(const SoftmaxScan& a, const SoftmaxScan& b) {
  if (a.sums.size() != b.sums.size() || a.block_log_masses != b.block_log_masses || a.max_length != b.max_length) return false;
  for (size_t q = 0; q < a.sums.size(); ++q) {
    if (a.sums[q].max_score != b.sums[q].max_score || a.sums[q].sum != b.sums[q].sum || a.sums[q].weighted != b.sums[q].weighted)
      return false;
  }
  return true;
}

std::vector<std::vector<ViewRow>> RandomSkips(const World& world, int64_t query_count, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<std::vector<ViewRow>> skipped(query_count);
  for (int64_t q = 1; q < query_count; ++q) {  // The first query skips nothing.
    for (int64_t i = 0; i < 7 * q; ++i) skipped[q].push_back(world.rows[random() % world.rows.size()].row);
    skipped[q].push_back({true, 1'000'000});  // There is no such row.
  }
  return skipped;
}

template <typename T>
void CheckAgainstNaive(double tolerance) {
  ThreadPool pool("scan", 3, 16);
  for (const auto& [type, hide] :
       {std::pair(ElementType::kFloat32, 0), std::pair(ElementType::kFloat16, 9), std::pair(ElementType::kBfloat16, 2)}) {
    SCOPED_TRACE(std::string(ElementTypeName(type)) + " hide " + std::to_string(hide));
    const int dim = 31;  // So much work that threads take part.
    const int64_t query_count = 8;
    const auto world = MakeWorld(dim, type, 9001, {64, 128, 777}, hide, 5, 4);
    const std::vector<T> queries = MakeQueries<T>(query_count, dim, 6);
    const MatrixView<const T> matrix{queries.data(), query_count, dim};
    const auto skipped = RandomSkips(*world, query_count, 7);
    for (const double temperature : {1.0, 0.05}) {
      SoftmaxScanOptions options{.temperature = temperature, .mean = true, .block_masses = true, .max_length = true};
      const auto scan = ScanSoftmax(world->segments, matrix, skipped, options);
      ASSERT_TRUE(scan.ok()) << scan.status();
      for (const int64_t q : {0, 7}) {
        const Truth truth = NaiveSoftmax(*world, matrix.row(q), temperature, skipped[q]);
        EXPECT_NEAR(scan->sums[q].LogMass(temperature), truth.log_mass, tolerance * (1 + 10 / temperature));
        EXPECT_LE(RelativeError(scan->sums[q], truth.mean), tolerance * (5 + 10 / temperature)) << q << " at " << temperature;
        double blocks = 0;
        for (int64_t b = 0; b < scan->block_count; ++b)
          blocks += std::exp(scan->block_log_masses[q * scan->block_count + b] - truth.log_mass);
        EXPECT_NEAR(blocks, 1, 1e-4);
      }
      double longest = 0;
      for (const World::Row& row : world->rows) {
        double squared = 0;
        for (const float x : row.vector) squared += static_cast<double>(x) * x;
        if (!row.hidden) longest = std::max(longest, std::sqrt(squared));
      }
      EXPECT_GE(scan->max_length, longest);
      EXPECT_LE(scan->max_length, longest * 1.0001);
      // The same bits with threads, and on the other instruction set; and the mean changes nothing of the masses.
      options.pool = &pool;
      EXPECT_TRUE(SameBits(*scan, *ScanSoftmax(world->segments, matrix, skipped, options)));
      options.isa = CpuIsa::kAvx2;
      EXPECT_TRUE(SameBits(*scan, *ScanSoftmax(world->segments, matrix, skipped, options)));
      options.mean = false;
      const auto masses = ScanSoftmax(world->segments, matrix, skipped, options);
      for (int64_t q = 0; q < query_count; ++q) EXPECT_EQ(masses->sums[q].sum, scan->sums[q].sum);
    }
  }
}

TEST(SoftmaxScan, IsTheNaiveSoftmaxInFloat32) { CheckAgainstNaive<float>(1e-6); }
TEST(SoftmaxScan, IsTheNaiveSoftmaxInFloat64) { CheckAgainstNaive<double>(1e-13); }

TEST(SoftmaxScan, ScoresAreTheExactIndexs) {
  const auto world = MakeWorld(33, ElementType::kFloat16, 70, {}, 0, 3);
  const std::vector<float> queries = MakeQueries<float>(7, 33, 4);
  const auto scan = ScanSoftmax(world->segments, MatrixView<const float>{queries.data(), 7, 33}, {}, {});
  ASSERT_TRUE(scan.ok());
  for (int q = 0; q < 7; ++q) {
    float best = -1e30f;
    for (int64_t r = 0; r < 70; ++r) {
      best = std::max(best, ExactScore(&queries[q * 33], world->stored[0].data() + r * 33 * 2, ElementType::kFloat16, 33));
    }
    EXPECT_EQ(static_cast<float>(scan->sums[q].max_score), best);
  }
}

TEST(SoftmaxScan, ManyQueriesGoInSlices) {
  const int dim = 5000;  // Six queries a slice.
  const auto world = MakeWorld(dim, ElementType::kFloat16, 40, {3}, 5, 8, 2);
  const std::vector<float> queries = MakeQueries<float>(15, dim, 9);
  const auto skipped = RandomSkips(*world, 15, 10);
  const SoftmaxScanOptions options{.mean = true, .block_masses = true, .max_length = true};
  const auto all = ScanSoftmax(world->segments, MatrixView<const float>{queries.data(), 15, dim}, skipped, options);
  ASSERT_TRUE(all.ok());
  for (int64_t q = 0; q < 15; ++q) {
    const auto one =
        ScanSoftmax(world->segments, MatrixView<const float>{queries.data() + q * dim, 1, dim}, std::span(skipped).subspan(q, 1), options);
    EXPECT_EQ(one->sums[0].sum, all->sums[q].sum);
    EXPECT_EQ(one->sums[0].weighted, all->sums[q].weighted);
    EXPECT_EQ(one->max_length, all->max_length);
  }
}

TEST(SoftmaxScan, ShardsMerge) {
  const int dim = 7;
  const auto world = MakeWorld(dim, ElementType::kFloat32, 6400, {}, 4, 11, 8);
  const std::vector<double> query = MakeQueries<double>(1, dim, 12);
  const MatrixView<const double> matrix{query.data(), 1, dim};
  const SoftmaxScanOptions options{.temperature = 0.1, .mean = true};
  const auto whole = ScanSoftmax(world->segments, matrix, {}, options);
  SoftmaxSums merged;
  for (const auto& [first, rows] : std::vector<std::pair<int64_t, int64_t>>{{6336, 64}, {0, 64}, {64, 6272}}) {
    ScanSegment shard = world->segments[0];
    shard.data = static_cast<const float*>(shard.data) + first * dim;
    shard.first_row = first;
    shard.rows = rows;
    merged.Merge(ScanSoftmax(std::vector{shard}, matrix, {}, options)->sums[0], options.temperature);
    merged.Merge(SoftmaxSums(), options.temperature);  // Nothing.
  }
  EXPECT_NEAR(merged.LogMass(0.1), whole->sums[0].LogMass(0.1), 1e-12);
  for (int d = 0; d < dim; ++d) EXPECT_NEAR(merged.weighted[d] / merged.sum, whole->sums[0].weighted[d] / whole->sums[0].sum, 1e-12);
}

// Nobody runs further ahead of the one who is late than the bound, whatever the order; a failure frees those who wait.
TEST(SoftmaxScan, WorkersWaitForTheOneThatIsLate) {
  constexpr int kRanges = 40, kAhead = 4, kThreads = 3;
  for (const bool fails : {false, true}) {
    OrderedMerge merge(1, 1, 1, kAhead);
    std::atomic<int64_t> next{1};  // Range 0 is held back.
    std::vector<std::thread> threads;
    for (int t = 0; t < kThreads; ++t) {
      threads.emplace_back([&] {
        SoftmaxPartial partial;
        for (int64_t range = next++; range < kRanges; range = next++) {
          partial.Reset(1, 1);
          partial.max[0] = 0;
          partial.sum[0] = 1;
          partial.weighted[0] = static_cast<double>(range);
          merge.Add(range, &partial);
        }
      });
    }
    while (merge.waiting_count() < kThreads) std::this_thread::yield();
    EXPECT_EQ(merge.parked_count(), kAhead);
    if (fails) {
      merge.Fail(absl::CancelledError("enough"));
    } else {
      SoftmaxPartial first;
      first.Reset(1, 1);
      merge.Add(0, &first);
    }
    for (std::thread& thread : threads) thread.join();
    SoftmaxPartial total;
    float length = 0;
    EXPECT_EQ(merge.Finish(&total, &length).code(), fails ? absl::StatusCode::kCancelled : absl::StatusCode::kOk);
    if (fails) continue;
    EXPECT_EQ(merge.parked_count(), 0);
    EXPECT_EQ(total.sum[0], kRanges - 1);
    EXPECT_EQ(total.weighted[0], kRanges * (kRanges - 1) / 2);
  }
}

// Scores far below zero and far apart: nothing is lost to padding, overflow or a weight that vanishes beside an earlier one.
TEST(SoftmaxScan, HoldsForScoresFarBelowZero) {
  const int dim = 3;
  auto world = std::make_unique<World>();
  world->dim = dim;
  std::vector<float> stored;
  for (int r = 0; r < 300; ++r) {
    const float x = r < 256 ? -1.0f : -1.0f + 0.001f * static_cast<float>(r - 255);  // The later group is far more probable.
    world->rows.push_back({.row = {false, r}, .vector = {x, 0.5f, static_cast<float>(r)}});
    stored.insert(stored.end(), world->rows.back().vector.begin(), world->rows.back().vector.end());
  }
  world->segments = {{.data = stored.data(), .rows = 300}};
  const auto check = [&](auto query, double temperature) {
    using T = std::remove_cvref_t<decltype(query[0])>;
    const auto scan =
        ScanSoftmax(world->segments, MatrixView<const T>{query.data(), 1, dim}, {}, {.temperature = temperature, .mean = true});
    ASSERT_TRUE(scan.ok());
    const Truth truth = NaiveSoftmax(*world, query.data(), temperature, {});
    EXPECT_NEAR(scan->sums[0].LogMass(temperature), truth.log_mass, 1e-6 * std::abs(truth.log_mass));
    EXPECT_LE(RelativeError(scan->sums[0], truth.mean), 1e-3);
  };
  for (const double temperature : {1.0, 0.001, 100.0}) {
    check(std::vector<float>{1000, -1000, 0}, temperature);
    check(std::vector<double>{1000, -1000, 0}, temperature);
  }
}

TEST(SoftmaxScan, LengthsWhoseSquaresVanishAreBoundedToo) {
  const std::vector<float> stored = {1e-25f, -1e-25f, 1e-25f, 0, 0, 1e-21f};
  const std::vector<ScanSegment> segments = {{.data = stored.data(), .rows = 2}};
  const std::vector<float> query = {1, 1, 1};
  const auto scan = ScanSoftmax(segments, MatrixView<const float>{query.data(), 1, 3}, {}, {.max_length = true});
  ASSERT_TRUE(scan.ok());
  EXPECT_GE(scan->max_length, 1e-21);
  EXPECT_LE(scan->max_length, 1e-18);
}

TEST(SoftmaxScan, NothingHasNoMass) {
  const auto world = MakeWorld(4, ElementType::kFloat16, 100, {10}, 1, 13);  // All hidden.
  const std::vector<float> queries = MakeQueries<float>(2, 4, 14);
  const MatrixView<const float> matrix{queries.data(), 2, 4};
  const SoftmaxScanOptions options{.mean = true, .block_masses = true, .max_length = true};
  for (const std::span<const ScanSegment> segments : {std::span<const ScanSegment>(), std::span<const ScanSegment>(world->segments)}) {
    const auto scan = ScanSoftmax(segments, matrix, {}, options);
    ASSERT_TRUE(scan.ok());
    EXPECT_EQ(scan->sums[1].LogMass(1), -kInfinity);
    EXPECT_EQ(scan->sums[1].weighted, std::vector<double>(4));
    EXPECT_EQ(scan->max_length, 0);
    const std::vector<uint64_t> seeds = {1, 2};
    const auto draws = SampleSoftmax(segments, matrix, {}, options, *scan, seeds, 5);
    ASSERT_TRUE(draws.ok());
    EXPECT_TRUE((*draws)[0].empty());
  }
}

TEST(SoftmaxScan, DrawsFollowTheDistribution) {
  const int dim = 4, draws_count = 40'000;
  const auto world = MakeWorld(dim, ElementType::kFloat16, 2500, {130}, 3, 15, 3);
  const std::vector<float> queries = MakeQueries<float>(3, dim, 16);
  const MatrixView<const float> matrix{queries.data(), 3, dim};
  const auto skipped = RandomSkips(*world, 3, 17);
  SoftmaxScanOptions options{.temperature = 0.7, .block_masses = true};
  const auto scan = ScanSoftmax(world->segments, matrix, skipped, options);
  ASSERT_TRUE(scan.ok());
  const std::vector<uint64_t> seeds = {MixSeed(1, 0), MixSeed(1, 1), MixSeed(1, 2)};
  const auto draws = SampleSoftmax(world->segments, matrix, skipped, options, *scan, seeds, draws_count);
  ASSERT_TRUE(draws.ok()) << draws.status();
  ThreadPool pool("scan", 2, 16);
  options.pool = &pool;
  const auto again = SampleSoftmax(world->segments, matrix, skipped, options, *scan, seeds, draws_count);
  for (int q = 0; q < 3; ++q) {
    const Truth truth = NaiveSoftmax(*world, matrix.row(q), 0.7, skipped[q]);
    std::map<ViewRow, int> counts;
    for (int i = 0; i < draws_count; ++i) {
      const SampledRow& draw = (*draws)[q][i];
      ++counts[draw.row];
      ASSERT_TRUE(truth.probability.count(draw.row)) << "a row that is hidden or skipped";
      ASSERT_EQ(draw.row, (*again)[q][i].row);
    }
    // Cells that expect 20 draws or more; the others together.
    double chi_squared = 0, rest_expected = 0, rest = 0, serial = 0;
    int cells = 0;
    for (const auto& [row, p] : truth.probability) {
      const double expected = p * draws_count;
      const int count = counts.count(row) ? counts[row] : 0;
      if (expected < 20) {
        rest_expected += expected;
        rest += count;
        continue;
      }
      chi_squared += (count - expected) * (count - expected) / expected;
      ++cells;
    }
    if (rest_expected > 0) chi_squared += (rest - rest_expected) * (rest - rest_expected) / rest_expected;
    EXPECT_LT(chi_squared, cells + 4 * std::sqrt(2.0 * cells));
    EXPECT_GT(chi_squared, cells - 4 * std::sqrt(2.0 * cells));
    // Neighbouring draws are independent.
    double same = 0;
    for (const auto& [row, p] : truth.probability) same += p * p;
    for (int i = 1; i < draws_count; ++i) serial += (*draws)[q][i].row == (*draws)[q][i - 1].row;
    EXPECT_NEAR(serial / draws_count, same, 4 * std::sqrt(same / draws_count));
  }
}

TEST(SoftmaxScan, RefusesWhatItCantDo) {
  const auto world = MakeWorld(4, ElementType::kFloat32, 100, {}, 0, 18);
  const std::vector<float> query = MakeQueries<float>(1, 4, 19);
  const MatrixView<const float> matrix{query.data(), 1, 4};
  for (const double temperature : {0.0, -1.0, 1e-13, 1e13, kInfinity, std::nan("")}) {
    EXPECT_EQ(ScanSoftmax(world->segments, matrix, {}, {.temperature = temperature}).status().code(), absl::StatusCode::kInvalidArgument);
  }
  EXPECT_EQ(ScanSoftmax(world->segments, matrix, std::vector<std::vector<ViewRow>>(2), {}).status().code(),
            absl::StatusCode::kInvalidArgument);
  SoftmaxScanOptions cancelled;
  cancelled.limits.Cancel();
  EXPECT_EQ(ScanSoftmax(world->segments, matrix, {}, cancelled).status().code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(ScanSoftmax(world->segments, matrix, {}, {.limits = RequestLimits(1)}).status().code(), absl::StatusCode::kDeadlineExceeded);
  const std::vector<uint64_t> seeds = {1};
  EXPECT_EQ(SampleSoftmax(world->segments, matrix, {}, {}, *ScanSoftmax(world->segments, matrix, {}, {}), seeds, 1).status().code(),
            absl::StatusCode::kInvalidArgument);  // No masses were kept.
}

}  // namespace
}  // namespace loci
