// Retrieval for training where the view's body is resident on a device, simulated: held to what the CPU alone finds.
#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "index/cuda/cuda_exact_placer.h"
#include "index/cuda/testing/search_devices.h"
#include "index/cuda/testing/small_search.h"
#include "index/placed_exact_index.h"
#include "retriever/testing/training_world.h"
#include "retriever/training_estimator.h"

namespace loci {
namespace {

constexpr int kDim = 9;

TrainingWorldOptions WorldOf(int written = 40, int deleted = 15) {
  return {.dim = kDim, .body = 130, .written = written, .deleted = deleted, .type = ElementType::kBfloat16, .seed = 21};
}

class TrainingDeviceTest : public testing::Test {
 protected:
  // Brings the world's body to the device.
  void Place(const TrainingWorld& world, int64_t min_visible_rows = 0) {
    CudaSearchOptions options = SmallSearch();
    options.softmax = SmallSoftmax();
    options.min_visible_rows = min_visible_rows;
    CudaExactPlacer placer(device_.device, options);
    const Generation& generation = world.view->generation();
    auto placed = placer.Place(generation.shared_vectors(), generation.shared_codes(), generation.exact_index().cpu(), nullptr);
    ASSERT_TRUE(placed.ok()) << placed.status();
    generation.exact_index().SetDevice(*std::move(placed));
  }

  static TrainingOptions OptionsOf(Estimator estimator, int top_k, double temperature = 0.3) {
    TrainingOptions options{.estimator = estimator, .temperature = temperature, .seed = 3};
    options.search.top_k = top_k;
    if (estimator == Estimator::kExactZTail) options.tail_samples = 7;
    return options;
  }

  // Each query's own: nothing; passages of the body and of the overlay, twice; all.
  static std::vector<std::vector<std::string>> Excluded(const TrainingWorld& world) {
    std::vector<std::vector<std::string>> excluded(3);
    size_t i = 0;
    for (const auto& [id, z] : world.vectors) {
      if (i++ % 3 == 0) excluded[1].insert(excluded[1].begin(), 2, id);
      excluded[2].push_back(id);
    }
    return excluded;
  }

  // That the device was waited for so often.
  template <typename T>
  absl::StatusOr<std::vector<TrainingResult>> Retrieve(const TrainingWorld& world, const std::vector<T>& queries, const TrainingOptions& options,
                                                       int64_t waits, const FilteredRows* filtered = nullptr,
                                                       const std::vector<std::vector<std::string>>& excluded = {}) {
    const int64_t before = device_.fake->waits();
    auto results = RetrieveForTraining(*world.view, MatrixView<const T>{queries.data(), static_cast<int64_t>(queries.size()) / kDim, kDim},
                                       options, filtered, excluded);
    EXPECT_EQ(device_.fake->waits() - before, waits);
    return results;
  }

  static void ExpectSame(const TrainingResult& mine, const TrainingResult& theirs, double tolerance) {
    const auto expect_near = [&](double a, double b) {
      if (std::isfinite(b)) {
        EXPECT_NEAR(a, b, tolerance);
      } else {
        EXPECT_TRUE(a == b || (std::isnan(a) && std::isnan(b))) << a << " " << b;
      }
    };
    const auto expect_all_near = [&](const std::vector<double>& a, const std::vector<double>& b) {
      ASSERT_EQ(a.size(), b.size());
      for (size_t i = 0; i < a.size(); ++i) expect_near(a[i], b[i]);
    };
    ASSERT_EQ(IdsOf(mine.hits), IdsOf(theirs.hits));
    for (size_t i = 0; i < mine.hits.size(); ++i) EXPECT_EQ(mine.hits[i].score, theirs.hits[i].score);
    EXPECT_EQ(IdsOf(mine.tail_hits), IdsOf(theirs.tail_hits));
    expect_all_near(mine.log_probs, theirs.log_probs);
    expect_all_near(mine.mean_vector, theirs.mean_vector);
    expect_all_near(mine.tail_mean, theirs.tail_mean);
    expect_near(mine.log_z, theirs.log_z);
    expect_near(mine.head_mass, theirs.head_mass);
    expect_near(mine.log_null_prob, theirs.log_null_prob);
    expect_near(mine.log_tail_mass, theirs.log_tail_mass);
    if (std::isnan(theirs.max_length)) {
      EXPECT_TRUE(std::isnan(mine.max_length));
    } else {
      EXPECT_NEAR(mine.max_length, theirs.max_length, 1e-4 * theirs.max_length);
    }
  }

  const SimulatedSearchDevice device_ = Simulated();
};

std::vector<float> FloatQueries(int64_t count, uint64_t seed) {
  std::vector<float> queries;
  for (const double x : RandomVector(static_cast<int>(count) * kDim, seed)) queries.push_back(static_cast<float>(x));
  return queries;
}

TEST_F(TrainingDeviceTest, FindsWhatTheCpuFindsWithAnOverlayExclusionsAndAFilter) {
  const TrainingWorld world(WorldOf());
  const std::vector<float> queries = FloatQueries(3, 51);
  const std::vector<std::vector<std::string>> excluded = Excluded(world);
  const FilteredRows filtered = FilterSome(*world.view);
  const FilteredRows* const filters[] = {nullptr, &filtered};
  struct Case {
    Estimator estimator;
    int top_k;
    bool measures = true;
  };
  const std::vector<Case> cases = {{Estimator::kTopK, 5}, {Estimator::kTopK, 5, false}, {Estimator::kExactZ, 1}, {Estimator::kExactZNull, 8},
                                   {Estimator::kExactZTail, 8}, {Estimator::kFull, 500}};
  std::vector<std::vector<TrainingResult>> by_cpu;
  for (const bool on_device : {false, true}) {
    if (on_device) Place(world);
    size_t at = 0;
    for (const Case& each : cases) {
      for (const FilteredRows* const filter : filters) {
        SCOPED_TRACE(testing::Message() << "estimator " << static_cast<int>(each.estimator) << (filter == nullptr ? "" : " filtered")
                                        << (on_device ? " on the device" : ""));
        TrainingOptions options = OptionsOf(each.estimator, each.top_k);
        options.measure_head_mass = each.measures;
        // Queries with as many exclusions are searched for together: three searches, and the scan where the estimator has the device's.
        const bool scans = each.measures && each.estimator != Estimator::kExactZTail;
        auto results = Retrieve(world, queries, options, on_device ? 3 + scans : 0, filter, excluded);
        ASSERT_TRUE(results.ok()) << results.status();
        if (on_device) {
          for (size_t q = 0; q < 3; ++q) ExpectSame(results->at(q), by_cpu.at(at)[q], 2e-5);
          EXPECT_TRUE(results->at(2).hits.empty()) << "all is excluded";
        } else {
          by_cpu.push_back(*std::move(results));
        }
        ++at;
      }
    }
  }
}

TEST_F(TrainingDeviceTest, OverManyQueriesAndPasses) {
  for (const int written : {0, 40}) {
    const TrainingWorld world(WorldOf(written, written / 3));
    const std::vector<float> queries = FloatQueries(40, 52);  // Three passes of the scan.
    const TrainingOptions options = OptionsOf(Estimator::kExactZNull, 6);
    const auto by_cpu = Retrieve(world, queries, options, 0);
    Place(world);
    const auto by_device = Retrieve(world, queries, options, 1 + 3);
    ASSERT_TRUE(by_cpu.ok() && by_device.ok()) << by_device.status();
    const auto again = Retrieve(world, queries, options, 1 + 3);
    for (size_t q = 0; q < 40; ++q) {
      ExpectSame(by_device->at(q), by_cpu->at(q), 2e-5);
      EXPECT_EQ(by_device->at(q).log_z, again->at(q).log_z);  // To the last bit.
      EXPECT_EQ(by_device->at(q).mean_vector, again->at(q).mean_vector);
      EXPECT_EQ(by_device->at(q).max_length, again->at(q).max_length);
    }
  }
}

TEST_F(TrainingDeviceTest, TheLongestPassageMayLieInTheBodyOrInTheOverlay) {
  int in_overlay = 0, in_body = 0;
  for (uint64_t seed = 1; seed <= 8; ++seed) {
    const TrainingWorld world({.dim = kDim, .body = 20, .written = 20, .deleted = 5, .seed = seed});
    double longest = 0;
    ViewRow row;
    for (const auto& [id, z] : world.vectors) {
      double squares = 0;
      for (const double x : z) squares += x * x;
      if (squares <= longest * longest) continue;
      longest = std::sqrt(squares);
      row = **world.view->Find(id);
    }
    (row.in_overlay ? in_overlay : in_body) += 1;
    Place(world);
    const auto results = Retrieve(world, FloatQueries(1, 58), OptionsOf(Estimator::kExactZ, 3), 2);
    ASSERT_TRUE(results.ok()) << results.status();
    EXPECT_GE(results->at(0).max_length, longest);
    EXPECT_LE(results->at(0).max_length, longest * (1 + 1e-4));
  }
  EXPECT_GT(in_overlay, 0);
  EXPECT_GT(in_body, 0);
}

TEST_F(TrainingDeviceTest, Float64AndFewRowsAreTheCpus) {
  const TrainingWorld world(WorldOf());
  const std::vector<double> queries = RandomVector(2 * kDim, 53);
  const TrainingOptions options = OptionsOf(Estimator::kExactZNull, 6);
  const auto by_cpu = Retrieve(world, queries, options, 0);
  Place(world, 130 - world.view->hidden_body_count());
  const auto by_device = Retrieve(world, queries, options, 1);  // The head.
  ASSERT_TRUE(by_cpu.ok() && by_device.ok()) << by_device.status();
  EXPECT_EQ(by_device->at(1).log_z, by_cpu->at(1).log_z);
  EXPECT_EQ(by_device->at(1).mean_vector, by_cpu->at(1).mean_vector);
  (void)Retrieve(world, FloatQueries(2, 54), options, 2);
  world.view->generation().exact_index().SetDevice(nullptr);
  Place(world, 131 - world.view->hidden_body_count());
  (void)Retrieve(world, FloatQueries(2, 54), options, 0);
}

TEST_F(TrainingDeviceTest, AFailureOfTheDeviceIsNotHiddenByTheCpu) {
  const TrainingWorld world(WorldOf());
  Place(world);
  const std::vector<float> queries = FloatQueries(1, 55);
  int waited = 0;
  device_.fake->SetFault([&](const std::string& call) {  // After the search, in the scan.
    return call == "Wait" && ++waited == 2 ? absl::UnavailableError("an illegal memory access was encountered") : absl::OkStatus();
  });
  const TrainingOptions options = OptionsOf(Estimator::kExactZNull, 6);
  EXPECT_EQ(Retrieve(world, queries, options, 1).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(waited, 2);
  device_.fake->SetFault(nullptr);
  EXPECT_EQ(Retrieve(world, queries, options, 0).status(), device_.device.health->Check());
  EXPECT_FALSE(device_.device.health->Check().ok());
}

TEST_F(TrainingDeviceTest, CanBeCancelledBetweenPasses) {
  const TrainingWorld world(WorldOf());
  Place(world);
  const std::vector<float> queries = FloatQueries(40, 56);
  const TrainingOptions options = OptionsOf(Estimator::kExactZNull, 6);
  int waited = 0;
  device_.fake->SetFault([&](const std::string& call) {
    if (call == "Wait" && ++waited == 3) options.search.limits.Cancel();  // In the second of three.
    return absl::OkStatus();
  });
  // One more, for what is under way to end.
  EXPECT_EQ(Retrieve(world, queries, options, 1 + 2 + 1).status().code(), absl::StatusCode::kCancelled);
  device_.fake->SetFault(nullptr);
  EXPECT_TRUE(Retrieve(world, queries, OptionsOf(Estimator::kExactZNull, 6), 1 + 3).ok());
}

TEST_F(TrainingDeviceTest, AScanEndsWhereItBegan) {
  const TrainingWorld world(WorldOf());
  const std::vector<float> queries = FloatQueries(20, 57);
  const TrainingOptions options = OptionsOf(Estimator::kExactZNull, 6);
  const auto by_cpu = Retrieve(world, queries, options, 0);
  Place(world);
  const auto undisturbed = Retrieve(world, queries, options, 1 + 2);
  const PlacedExactIndex& exact = world.view->generation().exact_index();
  int waited = 0;
  int64_t bytes_then = 0;
  device_.fake->SetFault([&](const std::string& call) {
    if (call == "Wait" && ++waited == 2) {  // In the first pass of the scan.
      (void)exact.SetDevice(nullptr);
      bytes_then = device_.fake->device_bytes();
    }
    return absl::OkStatus();
  });
  const auto moved = Retrieve(world, queries, options, 1 + 2);
  ASSERT_TRUE(moved.ok()) << moved.status();
  for (size_t q = 0; q < 20; ++q) EXPECT_EQ(moved->at(q).mean_vector, undisturbed->at(q).mean_vector);
  EXPECT_GT(bytes_then, 0);
  EXPECT_EQ(device_.fake->device_bytes(), 0);
  const auto after = Retrieve(world, queries, options, 0);
  ASSERT_TRUE(after.ok());
  for (size_t q = 0; q < 20; ++q) EXPECT_EQ(after->at(q).mean_vector, by_cpu->at(q).mean_vector);
}

}  // namespace
}  // namespace loci
