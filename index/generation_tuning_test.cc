// Generations whose index is chosen, or whose searches name a recall.
#include <algorithm>
#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_format.h"
#include "base/file.h"
#include "gtest/gtest.h"
#include "index/exact_index.h"
#include "index/generation.h"
#include "index/manifest.h"
#include "index/view.h"

namespace loci {
namespace {

constexpr int kDim = 16;
constexpr int64_t kRows = 3000;

class GenerationTuningTest : public testing::Test {
 protected:
  void SetUp() override {
    root_ = JoinPath(testing::TempDir(), std::string("generation_tuning_test_") + testing::UnitTest::GetInstance()->current_test_info()->name());
    ASSERT_TRUE(fs_.DeleteRecursively(root_).ok());
    ASSERT_TRUE(fs_.CreateDirectories(root_).ok());
  }
  void TearDown() override { EXPECT_TRUE(fs_.DeleteRecursively(root_).ok()); }

  static std::vector<float> MakeVector(uint64_t seed) {
    std::mt19937_64 centres(seed % 30), random(seed + 1000);
    std::normal_distribution<float> normal;
    std::vector<float> vector(kDim);
    double squares = 0;
    for (float& value : vector) value = normal(centres);
    for (float& value : vector) {
      value += 0.5f * normal(random);
      squares += value * value;
    }
    for (float& value : vector) value /= static_cast<float>(std::sqrt(squares));
    return vector;
  }

  static BuildOptions Options(const std::string& index) {
    BuildOptions options;
    options.index = index;
    options.dim = kDim;
    options.base_revision = 1;
    options.tuner.exact_rows = 500;
    // What a machine under load would change, told.
    options.tuner.latency = [](const PassageIndex& index, const RecallMeter&, const IndexSearchOptions& search, const RequestLimits&) {
      return absl::StatusOr<double>(index.name() == "exact" ? 1e6 : 1 + search.nprobe + search.ef_search);
    };
    return options;
  }

  absl::StatusOr<storage::Manifest> Build(const std::string& name, BuildOptions options, int64_t rows = kRows, const RequestLimits& limits = {},
                                          const GenerationBuilder::Progress& progress = nullptr) {
    auto builder = GenerationBuilder::Create(fs_, JoinPath(root_, name), "s", name, std::move(options));
    if (!builder.ok()) return builder.status();
    for (int64_t i = 0; i < rows; ++i) {
      v1::Passage passage;
      passage.set_id(absl::StrFormat("p%05d", i));
      const std::vector<float> vector = MakeVector(static_cast<uint64_t>(i));
      const absl::Status added = (*builder)->Add({&passage, 1}, vector.data());
      if (!added.ok()) return added;
    }
    return (*builder)->Finish(limits, progress);
  }

  std::shared_ptr<const Generation> Open(const std::string& name) {
    auto generation = Generation::Open(fs_, JoinPath(root_, name), {});
    EXPECT_TRUE(generation.ok()) << generation.status();
    return generation.ok() ? *generation : nullptr;
  }

  // Against the view's own exact search, by other queries than the build's.
  static double Recall(const View& view, IndexSearchOptions options, bool* exact = nullptr) {
    options.top_k = 10;
    int found = 0;
    for (uint64_t q = 0; q < 100; ++q) {
      const std::vector<float> query = MakeVector(1'000'000 + q);
      const auto truth = view.Search({query.data(), 1, kDim}, {.top_k = 10, .exact = true});
      const auto hits = view.Search({query.data(), 1, kDim}, options);
      EXPECT_TRUE(truth.ok() && hits.ok()) << hits.status();
      if (exact != nullptr) *exact = hits->exact;
      for (const ViewHit& hit : hits->hits[0]) found += hit.score >= truth->hits[0].back().score;
    }
    return found / 1000.0;
  }

  FileSystem& fs_ = PosixFileSystem();
  std::string root_;
};

TEST_F(GenerationTuningTest, WritesWhatWasChosenAndSearchesWithIt) {
  std::vector<std::string> phases;
  const auto manifest = Build("g", Options("auto:recall=0.9"), kRows, {}, [&](std::string_view phase, int64_t, int64_t) {
    if (phases.empty() || phases.back() != phase) phases.push_back(std::string(phase));
  });
  ASSERT_TRUE(manifest.ok()) << manifest.status();
  EXPECT_EQ(manifest->index_specification(), "auto:recall=0.9");
  ASSERT_NE(manifest->index(), "exact") << manifest->tuning().reason();
  EXPECT_NE(manifest->index().substr(0, 4), "auto");
  EXPECT_EQ(manifest->tuning().recall_target(), 0.9);
  EXPECT_EQ(manifest->tuning().row_count(), kRows);
  EXPECT_EQ(manifest->tuning().query_source(), "perturbed midpoints of pairs of stored vectors");
  EXPECT_GE(manifest->recall_at_10(), 0.9);
  EXPECT_EQ(manifest->recall_query_count(), 300);
  EXPECT_EQ(std::count_if(manifest->ladder().begin(), manifest->ladder().end(), [](const auto& point) { return point.chosen(); }), 1);
  EXPECT_NE(std::find(phases.begin(), phases.end(), "tune"), phases.end());
  EXPECT_FALSE(fs_.Exists(JoinPath(root_, "g/tuning")));

  const std::shared_ptr<const Generation> generation = Open("g");
  ASSERT_NE(generation, nullptr);
  EXPECT_EQ(generation->index().name(), manifest->index());
  const std::shared_ptr<const View> view = View::Bare(generation);
  bool exact = true;
  EXPECT_GE(Recall(*view, {}, &exact), 0.88) << "other queries than those that it was tuned with, which are harder";
  EXPECT_FALSE(exact);
  EXPECT_GE(Recall(*view, {.recall_target = 0.9}, &exact), 0.88);
  EXPECT_FALSE(exact);
  EXPECT_EQ(Recall(*view, {.recall_target = 1}, &exact), 1);
  EXPECT_TRUE(exact) << "nothing but exact search is sure to find everything";
}

TEST_F(GenerationTuningTest, IsExactWhereThatIsAsGood) {
  const auto small = Build("small", Options("auto"), 500);
  ASSERT_TRUE(small.ok()) << small.status();
  EXPECT_EQ(small->index(), "exact");
  EXPECT_EQ(small->tuning().front_size(), 1);
  EXPECT_TRUE(small->ladder().empty());
  EXPECT_EQ(small->recall_at_10(), 1);
  EXPECT_EQ(Open("small")->index().name(), "exact");
  const auto all = Build("all", Options("auto:recall=1"), 1000);
  ASSERT_TRUE(all.ok()) << all.status();
  EXPECT_EQ(all->index(), "exact");
  EXPECT_GT(all->tuning().front_size(), 1);
  EXPECT_TRUE(Open("all") != nullptr);
  for (const int64_t rows : {0, 1}) {
    const auto tiny = Build(absl::StrFormat("tiny%d", rows), Options("auto"), rows);
    ASSERT_TRUE(tiny.ok()) << tiny.status();
    EXPECT_EQ(tiny->index(), "exact");
  }
}

TEST_F(GenerationTuningTest, KeepsCodesWhereTheyAreChosen) {
  BuildOptions options = Options("auto:recall=1");
  options.tuner.latency = [](const PassageIndex& index, const RecallMeter& meter, const IndexSearchOptions& search,
                             const RequestLimits& limits) {
    const auto* const exact = dynamic_cast<const ExactIndex*>(&index);
    if (exact == nullptr) return absl::StatusOr<double>(1 + search.nprobe + search.ef_search);
    const int64_t before = exact->certified_scan().answered_count();
    const auto searched = MeasureLatency(index, meter, search, limits);
    if (!searched.ok()) return searched;
    return absl::StatusOr<double>(exact->certified_scan().answered_count() > before ? 1e5 : 1e6);
  };
  constexpr int64_t kManyRows = 5000;  // Fewer than 4,096 are all scored at once.
  const auto manifest = Build("g", options, kManyRows);
  ASSERT_TRUE(manifest.ok()) << manifest.status();
  EXPECT_EQ(manifest->index(), "exact");
  EXPECT_TRUE(HasCodes(*manifest)) << manifest->tuning().reason();
  EXPECT_EQ(manifest->index_specification(), "auto:recall=1");
  EXPECT_EQ(manifest->recall_at_10(), 1);
  const auto& front = manifest->tuning().front();
  EXPECT_TRUE(
      std::any_of(front.begin(), front.end(), [](const auto& point) { return point.index() == "exact:int8" && point.chosen(); }));
  EXPECT_FALSE(fs_.Exists(JoinPath(root_, "g/index.faiss")));
  EXPECT_TRUE(Generation::Verify(fs_, JoinPath(root_, "g")).ok());
  const std::shared_ptr<const Generation> generation = Open("g");
  ASSERT_NE(generation, nullptr);
  const ExactIndex& exact = *generation->exact_index().cpu();
  const std::vector<float> query = MakeVector(1'000'000);
  const auto hits = View::Bare(generation)->Search({query.data(), 1, kDim}, {.top_k = 10});
  ASSERT_TRUE(hits.ok()) << hits.status();
  EXPECT_TRUE(hits->exact);
  EXPECT_EQ(exact.certified_scan().answered_count(), 1);

  options.earlier_tuning = manifest->tuning();
  const auto again = Build("g2", options, kManyRows);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_TRUE(HasCodes(*again)) << "a choice that is taken over";
}

TEST_F(GenerationTuningTest, TakesAnEarlierChoiceOver) {
  const auto first = Build("g1", Options("auto:recall=0.9"));
  ASSERT_TRUE(first.ok()) << first.status();
  BuildOptions options = Options("auto:recall=0.9");
  options.earlier_tuning = first->tuning();
  bool tuned = false;
  const auto second = Build("g2", options, kRows + 100, {}, [&](std::string_view phase, int64_t, int64_t) { tuned = tuned || phase == "tune"; });
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_FALSE(tuned);
  EXPECT_EQ(second->index(), first->index());
  EXPECT_GE(second->recall_at_10(), 0.9);
}

TEST_F(GenerationTuningTest, MeasuresTheLadderOfAnIndexThatWasNamed) {
  const auto manifest = Build("g", Options("IVF64,SQ8"));
  ASSERT_TRUE(manifest.ok()) << manifest.status();
  EXPECT_FALSE(manifest->has_tuning());
  EXPECT_TRUE(manifest->index_specification().empty());
  for (const v1::TuningPoint& point : manifest->ladder()) {
    EXPECT_EQ(point.index(), "IVF64,SQ8");
    EXPECT_FALSE(point.chosen()) << "its own default stays";
  }
  const std::shared_ptr<const View> view = View::Bare(Open("g"));
  for (const double target : {0.3, 0.9}) {
    bool exact = true;
    EXPECT_GE(Recall(*view, {.recall_target = target}, &exact), target - 0.05) << target;
    EXPECT_FALSE(exact);
  }
}

TEST_F(GenerationTuningTest, ACancelledChoiceLeavesNothing) {
  const RequestLimits limits;
  const auto cancelled = Build("g", Options("auto"), kRows, limits, [&](std::string_view phase, int64_t done, int64_t) {
    if (phase == "tune" && done == 1) limits.Cancel();
  });
  EXPECT_EQ(cancelled.status().code(), absl::StatusCode::kCancelled);
  EXPECT_FALSE(fs_.Exists(JoinPath(root_, "g")));
  EXPECT_EQ(Build("bad", Options("auto:recall=7")).status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace loci
