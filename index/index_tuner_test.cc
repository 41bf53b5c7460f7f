#include "index/index_tuner.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "base/clock.h"
#include "gtest/gtest.h"
#include "index/build_forecast.h"
#include "index/exact_index.h"
#include "index/faiss_index.h"
#include "index/index_chooser.h"
#include "index/index_specification.h"
#include "index/quantized_vectors.h"

namespace loci {
namespace {

using v1::TuningPoint;

constexpr int kDim = 16;
constexpr int64_t kRows = 6000;
constexpr int64_t kQueries = 60;

// Around 40 centres; `seed` draws what lies around them, rows and queries apart.
std::vector<float> MakeVectors(int64_t count, uint64_t seed) {
  std::mt19937_64 fixed(7), random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> centres(40 * kDim), vectors(static_cast<size_t>(count * kDim));
  for (float& value : centres) value = normal(fixed);
  for (int64_t r = 0; r < count; ++r) {
    const float* centre = &centres[random() % 40 * kDim];
    double squares = 0;
    for (int d = 0; d < kDim; ++d) {
      const float value = centre[d] + 0.6f * normal(random);
      vectors[r * kDim + d] = value;
      squares += value * value;
    }
    for (int d = 0; d < kDim; ++d) vectors[r * kDim + d] /= static_cast<float>(std::sqrt(squares));
  }
  return vectors;
}

class IndexTunerTest : public testing::Test {
 protected:
  static std::string Path(const std::string& name) { return JoinPath(testing::TempDir(), "index_tuner_test_" + name); }

  static std::shared_ptr<const VectorFile> MakeFile(const std::vector<float>& vectors) {
    const int64_t rows = static_cast<int64_t>(vectors.size()) / kDim;
    auto writer = VectorFileWriter::Create(PosixFileSystem(), Path("vectors"), rows, kDim, ElementType::kFloat32).value();
    for (int64_t r = 0; r < rows; ++r) EXPECT_TRUE(writer->Append(&vectors[r * kDim]).ok());
    EXPECT_TRUE(writer->Finish().ok());
    return VectorFile::Open(PosixFileSystem(), Path("vectors")).value();
  }

  // The mean share of the ten largest inner products, by sorting all of them.
  double BruteForceRecall(const PassageIndex& index, IndexSearchOptions options) const {
    options.top_k = 10;
    int64_t found = 0;
    for (int64_t q = 0; q < kQueries; ++q) {
      std::vector<std::pair<double, int64_t>> scores;
      for (int64_t r = 0; r < kRows; ++r) {
        double score = 0;
        for (int d = 0; d < kDim; ++d) score += static_cast<double>(queries_[q * kDim + d]) * vectors_[r * kDim + d];
        scores.emplace_back(-score, r);
      }
      std::partial_sort(scores.begin(), scores.begin() + 10, scores.end());
      std::set<int64_t> right;
      for (int i = 0; i < 10; ++i) right.insert(scores[i].second);
      std::vector<RowHit> hits(10);
      EXPECT_TRUE(index.Search({&queries_[q * kDim], 1, kDim}, options, RowMask(), hits.data()).ok());
      for (const RowHit& hit : hits) found += right.count(hit.row);
    }
    return static_cast<double>(found) / (10.0 * kQueries);
  }

  MatrixView<const float> Queries() const { return {queries_.data(), kQueries, kDim}; }
  TunerOptions Options() const {
    TunerOptions options;
    options.recall_target = 0.9;
    options.exact_rows = 100;
    options.scratch_directory = Path("scratch");
    return options;
  }

  // In place of a clock: nothing is left out for being slow on a slow machine.
  static absl::StatusOr<double> EffortAsLatency(const PassageIndex& index, const RecallMeter&, const IndexSearchOptions& search,
                                                const RequestLimits&) {
    return index.name() == "exact" ? 1e6 : 1 + search.nprobe + search.ef_search;
  }

  // Whether a search goes by 8-bit codes.
  bool IsByCodes(const PassageIndex& index) const {
    const auto* const exact = dynamic_cast<const ExactIndex*>(&index);
    if (exact == nullptr) return false;
    const int64_t before = exact->certified_scan().answered_count();
    std::vector<RowHit> hits(10);
    EXPECT_TRUE(exact->Search({queries_.data(), 1, kDim}, {.top_k = 10}, RowMask(), hits.data()).ok());
    return exact->certified_scan().answered_count() > before;
  }
  // The same, and how long codes take.
  LatencyMeter EffortAndCodes(double by_codes_us) const {
    return [this, by_codes_us](const PassageIndex& index, const RecallMeter& meter, const IndexSearchOptions& search,
                               const RequestLimits& limits) {
      return IsByCodes(index) ? absl::StatusOr<double>(by_codes_us) : EffortAsLatency(index, meter, search, limits);
    };
  }
  static const TuningPoint* Find(const v1::IndexTuning& tuning, const std::string& index) {
    const auto found = std::find_if(tuning.front().begin(), tuning.front().end(),
                                    [&](const TuningPoint& point) { return point.index() == index; });
    return found == tuning.front().end() ? nullptr : &*found;
  }

  const std::vector<float> vectors_ = MakeVectors(kRows, 1);
  const std::vector<float> queries_ = MakeVectors(kQueries, 2);
  const std::shared_ptr<const VectorFile> file_ = MakeFile(vectors_);
};

TEST_F(IndexTunerTest, MeasuresTheRecallThatBruteForceFinds) {
  const ExactIndex exact(file_, nullptr);
  const auto meter = RecallMeter::Create(exact, Queries(), 10, {});
  ASSERT_TRUE(meter.ok()) << meter.status();
  for (const std::string factory : {"IVF64,Flat", "IVF64,PQ4", "HNSW8"}) {
    ASSERT_TRUE(BuildFaissIndex(PosixFileSystem(), factory, *file_, Path("index"), {}).ok());
    const auto index = OpenFaissIndex(PosixFileSystem(), Path("index"), factory, file_, nullptr);
    ASSERT_TRUE(index.ok()) << index.status();
    // Whatever the machine does meanwhile: no step is left out for being slow.
    const auto ladder = MeasureLadder(**index, factory, *meter, std::numeric_limits<double>::infinity(), 5, {});
    ASSERT_TRUE(ladder.ok()) << ladder.status();
    ASSERT_GE(ladder->size(), 3u) << factory;
    double least = 1, most = 0, most_of_run = -1;
    int factor = 0, fruitless_count = 0;
    for (const TuningPoint& point : *ladder) {
      if (point.rescore_factor() != factor) {
        most_of_run = -1;
        fruitless_count = 0;
      }
      factor = point.rescore_factor();
      EXPECT_LT(fruitless_count, 2) << "a run ends where two steps found nothing more: " << point.ShortDebugString();
      fruitless_count = point.recall_at_10() <= most_of_run ? fruitless_count + 1 : 0;
      most_of_run = std::max(most_of_run, point.recall_at_10());
      IndexSearchOptions options;
      options.nprobe = point.nprobe();
      options.ef_search = point.ef_search();
      options.rescore_factor = point.rescore_factor();
      EXPECT_NEAR(point.recall_at_10(), BruteForceRecall(**index, options), 1e-9) << point.ShortDebugString();
      EXPECT_LT(point.recall_bound(), point.recall_at_10());
      EXPECT_GT(point.latency_us(), 0);
      EXPECT_EQ(point.memory_bytes(), (*index)->memory_bytes());
      EXPECT_EQ(point.build_ms(), 5);
      least = std::min(least, point.recall_at_10());
      most = std::max(most, point.recall_at_10());
    }
    EXPECT_LT(least, most) << factory;
    EXPECT_GT(most, 0.95) << factory;
  }
}

TEST_F(IndexTunerTest, MeasuresExactSearchByCodes) {
  TunerOptions options = Options();
  options.recall_target = 1;
  options.latency = EffortAndCodes(1e5);
  auto tuning = TuneIndex(file_, Queries(), options);
  ASSERT_TRUE(tuning.ok()) << tuning.status();
  const TuningPoint* by_codes = Find(*tuning, "exact:int8");
  ASSERT_NE(by_codes, nullptr) << tuning->ShortDebugString();
  EXPECT_TRUE(by_codes->chosen()) << "nothing approximate is sure to find everything";
  EXPECT_EQ(by_codes->recall_at_10(), 1);
  EXPECT_EQ(by_codes->recall_bound(), 1);
  EXPECT_EQ(by_codes->memory_bytes(), 0);
  EXPECT_GE(by_codes->build_ms(), 1);
  ASSERT_NE(Find(*tuning, "exact"), nullptr) << "it needs no build";
  EXPECT_NE(tuning->reason().find("8-bit codes"), std::string::npos) << tuning->reason();

  options.sample_rows = 5000;
  tuning = TuneIndex(file_, Queries(), options);
  ASSERT_TRUE(tuning.ok()) << tuning.status();
  EXPECT_NEAR(Find(*tuning, "exact:int8")->latency_us(), 1e5 * 6 / 5, 1) << "of all";

  options.latency = EffortAndCodes(1.5e6);
  tuning = TuneIndex(file_, Queries(), options);
  ASSERT_TRUE(tuning.ok()) << tuning.status();
  EXPECT_EQ(Find(*tuning, "exact:int8"), nullptr) << "slower, and to be built";
  EXPECT_TRUE(Find(*tuning, "exact")->chosen());
}

TEST_F(IndexTunerTest, MeasuresNothingThatThereIsNoMemoryToBuild) {
  TunerOptions options = Options();
  options.latency = EffortAsLatency;
  options.available_memory_bytes = [] { return int64_t{1000}; };
  const auto tuning = TuneIndex(file_, Queries(), options);
  ASSERT_TRUE(tuning.ok()) << tuning.status();
  EXPECT_EQ(tuning->front_size(), 1);
  EXPECT_TRUE(Find(*tuning, "exact")->chosen());
}

TEST_F(IndexTunerTest, MeasuresCodesOfFewVectorsWhereTheseServe) {
  TunerOptions options = Options();
  options.exact_rows = kRows;
  options.latency = EffortAndCodes(1e5);
  auto tuning = TuneIndex(file_, Queries(), options);
  ASSERT_TRUE(tuning.ok()) << tuning.status();
  EXPECT_EQ(tuning->front_size(), 1);
  options.exact_codes = true;
  tuning = TuneIndex(file_, Queries(), options);
  ASSERT_TRUE(tuning.ok()) << tuning.status();
  EXPECT_EQ(tuning->front_size(), 2);
  EXPECT_TRUE(Find(*tuning, "exact")->chosen()) << "what auto would take";
}

TEST_F(IndexTunerTest, GivesAFrontWithOneThatIsChosen) {
  std::vector<std::pair<int64_t, int64_t>> told;
  TunerOptions options = Options();
  options.progress = [&](int64_t done, int64_t total) { told.emplace_back(done, total); };
  const auto tuning = TuneIndex(file_, Queries(), options);
  ASSERT_TRUE(tuning.ok()) << tuning.status();
  EXPECT_EQ(tuning->row_count(), kRows);
  EXPECT_EQ(tuning->sample_row_count(), kRows);
  EXPECT_EQ(tuning->query_count(), kQueries);
  int chosen_count = 0, exact_count = 0;
  for (int i = 0; i < tuning->front_size(); ++i) {
    const TuningPoint& point = tuning->front(i);
    EXPECT_LE(tuning->front(std::max(i - 1, 0)).latency_us(), point.latency_us());
    exact_count += point.index() == "exact";
    chosen_count += point.chosen();
    EXPECT_TRUE(!point.chosen() || point.recall_bound() >= 0.9) << point.ShortDebugString();
  }
  EXPECT_EQ(exact_count, 1);
  EXPECT_EQ(chosen_count, 1);
  EXPECT_FALSE(tuning->reason().empty());
  ASSERT_EQ(told.size(), 5u);
  EXPECT_EQ(told.front(), std::pair(int64_t{0}, int64_t{4}));
  EXPECT_EQ(told.back(), std::pair(int64_t{4}, int64_t{4}));
  EXPECT_FALSE(PosixFileSystem().Exists(Path("scratch")));
  const auto few = TuneIndex(file_, {queries_.data(), 49, kDim}, Options());
  ASSERT_TRUE(few.ok()) << few.status();
  EXPECT_NE(few->reason().find("too few"), std::string::npos) << few->reason();
  for (const TuningPoint& point : few->front()) EXPECT_TRUE(!point.chosen() || IsExactIndex(point.index()));
}

TEST_F(IndexTunerTest, MeasuresOnASampleForTheWhole) {
  TunerOptions options = Options();
  options.sample_rows = 1500;
  options.latency = EffortAsLatency;
  const auto tuning = TuneIndex(file_, Queries(), options);
  ASSERT_TRUE(tuning.ok()) << tuning.status();
  EXPECT_EQ(tuning->sample_row_count(), 1500);
  ASSERT_GE(tuning->front_size(), 3) << tuning->ShortDebugString();
  const std::vector<std::string> of_all = CandidateFactories(kDim, kRows, kRows, 100);
  for (const TuningPoint& point : tuning->front()) {
    if (IsExactIndex(point.index())) continue;
    EXPECT_TRUE(std::find(of_all.begin(), of_all.end(), point.index()) != of_all.end()) << point.index();
    ASSERT_TRUE(BuildFaissIndex(PosixFileSystem(), point.index(), *file_, Path("index"), {}).ok());
    const auto index = OpenFaissIndex(PosixFileSystem(), Path("index"), point.index(), file_, nullptr);
    ASSERT_TRUE(index.ok());
    const double measured = static_cast<double>((*index)->memory_bytes());
    EXPECT_NEAR(static_cast<double>(point.memory_bytes()), measured, 0.03 * measured) << point.index();
  }
}

TEST_F(IndexTunerTest, NamesOneFactoryAFamily) {
  EXPECT_TRUE(CandidateFactories(384, 20'000, 20'000).empty());
  EXPECT_EQ(CandidateFactories(384, 54'846, 54'846),
            (std::vector<std::string>{"IVF1024,Flat", "IVF1024,SQ8", "IVF1024,PQ96", "HNSW32,SQ8"}));
  EXPECT_EQ(CandidateFactories(384, 1'000'000, 1'000'000)[0], "IVF4096,Flat");
  EXPECT_EQ(CandidateFactories(384, 50'000, 40'000'000), (std::vector<std::string>{"IVF1024_HNSW32,Flat", "IVF1024_HNSW32,SQ8", "IVF1024_HNSW32,PQ96"}));
  EXPECT_EQ(CandidateFactories(11, 50'000, 50'000).size(), 3u) << "no product quantiser of a dimension that nothing divides";
  for (const int dim : {1, 2, 3, 11, 64, 384, 1000}) {
    for (const int64_t rows : {101, 1000, 30'000}) {
      for (const std::string& factory : CandidateFactories(dim, rows, rows, 100)) EXPECT_TRUE(ValidateFaissFactory(factory, dim, rows).ok()) << factory;
    }
  }
}

TEST_F(IndexTunerTest, SearchesASmallCorpusExactly) {
  TunerOptions options = Options();
  options.exact_rows = kRows;
  const auto tuning = TuneIndex(file_, Queries(), options);
  ASSERT_TRUE(tuning.ok()) << tuning.status();
  ASSERT_EQ(tuning->front_size(), 1);
  EXPECT_EQ(tuning->front(0).index(), "exact");
  EXPECT_TRUE(tuning->front(0).chosen());
  EXPECT_NE(tuning->reason().find("6000"), std::string::npos) << tuning->reason();
  EXPECT_TRUE(TuneIndex(MakeFile({}), {queries_.data(), 0, kDim}, options).ok()) << "no vectors, no queries";
}

TEST_F(IndexTunerTest, RefusesATargetThatIsNone) {
  for (const double target : {0.0, -0.5, 1.5, std::nan("")}) {
    TunerOptions options = Options();
    options.recall_target = target;
    EXPECT_EQ(TuneIndex(file_, Queries(), options).status().code(), absl::StatusCode::kInvalidArgument) << target;
  }
  EXPECT_EQ(TuneIndex(file_, {queries_.data(), 1, kDim - 1}, Options()).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(IndexTunerTest, EndsWhenCancelledAndLeavesNothing) {
  TunerOptions options = Options();
  options.progress = [&](int64_t done, int64_t) {
    if (done == 1) options.limits.Cancel();
  };
  EXPECT_EQ(TuneIndex(file_, Queries(), options).status().code(), absl::StatusCode::kCancelled);
  EXPECT_FALSE(PosixFileSystem().Exists(Path("scratch")));
  options.limits = RequestLimits(RealClock().NowMicros());
  EXPECT_EQ(TuneIndex(file_, Queries(), options).status().code(), absl::StatusCode::kDeadlineExceeded);
}

class IndexChooserTest : public IndexTunerTest {
 protected:
  void SetUp() override {
    for (const char* const name : {"chosen", "codes"}) PosixFileSystem().DeleteRecursively(Path(name)).IgnoreError();
  }

  static TuningPoint Point(const std::string& index, double bound, double latency_us) {
    TuningPoint point;
    point.set_index(index);
    point.set_recall_bound(bound);
    point.set_latency_us(latency_us);
    return point;
  }

  // A front as an earlier generation may have had it: nothing is timed then, so that a test knows which index is tried.
  static v1::IndexTuning Earlier(const std::vector<TuningPoint>& points, double target) {
    v1::IndexTuning tuning;
    tuning.set_recall_target(target);
    tuning.set_row_count(kRows);
    for (const TuningPoint& point : points) *tuning.add_front() = point;
    tuning.mutable_front(0)->set_chosen(true);
    return tuning;
  }

  absl::StatusOr<ChosenIndex> Choose(const v1::IndexTuning& earlier, AutoIndex wanted) {
    ChooserOptions options;
    options.wanted = wanted;
    options.codes_path = Path("codes");
    options.tuner = Options();
    if (available_bytes_ >= 0) options.tuner.available_memory_bytes = [this] { return available_bytes_; };
    options.tuner.latency = [this](const PassageIndex& index, const RecallMeter& meter, const IndexSearchOptions& search,
                                   const RequestLimits& limits) {
      return index.name() == slow_ ? absl::StatusOr<double>(slow_us_)
                                   : EffortAndCodes(by_codes_us_)(index, meter, search, limits);
    };
    options.earlier = &earlier;
    options.progress = [this](std::string_view phase, int64_t, int64_t) { phases_.insert(std::string(phase)); };
    return BuildChosenIndex(file_, Queries(), Path("chosen"), options, {});
  }

  std::set<std::string> phases_;
  std::string slow_;  // An index that is slower than exact search.
  double slow_us_ = 2e6, by_codes_us_ = 1e6;
  int64_t available_bytes_ = -1;
};

TEST_F(IndexChooserTest, WidensTheSearchUntilItMeetsTheTarget) {
  // The front says that little effort is enough, which is not so.
  const auto chosen = Choose(Earlier({Point("IVF64,Flat", 0.99, 1), Point("exact", 1, 1000)}, 0.9), {.recall_target = 0.9});
  ASSERT_TRUE(chosen.ok()) << chosen.status();
  EXPECT_EQ(phases_.count("tune"), 0u) << "the earlier choice was taken over";
  ASSERT_EQ(chosen->factory, "IVF64,Flat");
  EXPECT_GE(chosen->recall_at_10, 0.9);
  EXPECT_EQ(chosen->recall_query_count, kQueries / 2);
  const auto step = std::find_if(chosen->ladder.begin(), chosen->ladder.end(), [](const TuningPoint& point) { return point.chosen(); });
  ASSERT_NE(step, chosen->ladder.end());
  EXPECT_GE(step->recall_bound(), 0.9);
  EXPECT_GT(step->nprobe(), 1);
  EXPECT_TRUE(chosen->tuning.front(0).chosen());
  const auto index = OpenFaissIndex(PosixFileSystem(), Path("chosen"), chosen->factory, file_, nullptr);
  EXPECT_TRUE(index.ok()) << index.status();
}

TEST_F(IndexChooserTest, TakesTheNextIndexAndThenExactSearch) {
  slow_ = "IVF64,Flat";
  auto chosen = Choose(Earlier({Point("IVF64,Flat", 0.99, 1), Point("HNSW16", 0.99, 2), Point("exact", 1, 1000)}, 0.9), {.recall_target = 0.9});
  ASSERT_TRUE(chosen.ok()) << chosen.status();
  EXPECT_EQ(chosen->factory, "HNSW16");
  EXPECT_FALSE(chosen->tuning.front(0).chosen());
  EXPECT_TRUE(chosen->tuning.front(1).chosen());
  // No approximate index is sure to find everything.
  chosen = Choose(Earlier({Point("IVF64,Flat", 1, 1), Point("HNSW16", 1, 2), Point("exact", 1, 1000)}, 1), {.recall_target = 1});
  ASSERT_TRUE(chosen.ok()) << chosen.status();
  EXPECT_EQ(chosen->factory, "exact");
  EXPECT_EQ(chosen->recall_at_10, 1);
  EXPECT_TRUE(chosen->ladder.empty());
  EXPECT_FALSE(chosen->tuning.front(0).chosen());
  EXPECT_TRUE(chosen->tuning.front(2).chosen());
  EXPECT_NE(chosen->tuning.reason().find("searched exactly"), std::string::npos);
  EXPECT_FALSE(PosixFileSystem().Exists(Path("chosen")));
}

TEST_F(IndexChooserTest, TakesNothingThatHoldsMoreThanTheBudget) {
  v1::IndexTuning earlier = Earlier({Point("HNSW32", 0.99, 1), Point("exact", 1, 1000)}, 0.9);
  earlier.set_memory_budget_bytes(1 << 20);
  const auto chosen = Choose(earlier, {.recall_target = 0.9, .memory_budget_bytes = 1 << 20});  // The graph holds about two.
  ASSERT_TRUE(chosen.ok()) << chosen.status();
  EXPECT_EQ(chosen->factory, "exact");
  EXPECT_FALSE(PosixFileSystem().Exists(Path("chosen")));
}

TEST_F(IndexChooserTest, KeepsCodesOfAllVectorsWhereTheyMakeExactSearchFaster) {
  const v1::IndexTuning earlier = Earlier({Point("exact:int8", 1, 100), Point("exact", 1, 1000)}, 0.9);
  by_codes_us_ = 5e5;
  auto chosen = Choose(earlier, {.recall_target = 0.9});
  ASSERT_TRUE(chosen.ok()) << chosen.status();
  EXPECT_EQ(chosen->factory, "exact:int8");
  EXPECT_EQ(chosen->recall_at_10, 1);
  EXPECT_TRUE(chosen->ladder.empty());
  EXPECT_TRUE(Find(chosen->tuning, "exact:int8")->chosen());
  const auto codes = QuantizedVectors::Open(PosixFileSystem(), Path("codes"));
  ASSERT_TRUE(codes.ok()) << codes.status();
  EXPECT_EQ((*codes)->rows(), kRows);
  EXPECT_FALSE(PosixFileSystem().Exists(Path("chosen")));

  // As it was on the sample, but not on all.
  by_codes_us_ = 9.9e5;
  chosen = Choose(earlier, {.recall_target = 0.9});
  ASSERT_TRUE(chosen.ok()) << chosen.status();
  EXPECT_EQ(chosen->factory, "exact");
  EXPECT_TRUE(Find(chosen->tuning, "exact")->chosen());
  EXPECT_FALSE(Find(chosen->tuning, "exact:int8")->chosen());
  EXPECT_NE(chosen->tuning.reason().find("not so of all vectors"), std::string::npos) << chosen->tuning.reason();
  EXPECT_FALSE(PosixFileSystem().Exists(Path("codes")));
}

TEST_F(IndexChooserTest, TakesNothingApproximateThatIsSlowerThanCodes) {
  const v1::IndexTuning earlier =
      Earlier({Point("IVF64,Flat", 0.99, 1), Point("exact:int8", 1, 100), Point("exact", 1, 1000)}, 0.9);
  slow_ = "IVF64,Flat";
  slow_us_ = 2e5;
  by_codes_us_ = 1e5;
  auto chosen = Choose(earlier, {.recall_target = 0.9});
  ASSERT_TRUE(chosen.ok()) << chosen.status();
  EXPECT_EQ(chosen->factory, "exact:int8");
  EXPECT_NE(chosen->tuning.reason().find("8-bit codes"), std::string::npos) << chosen->tuning.reason();
  EXPECT_FALSE(PosixFileSystem().Exists(Path("chosen")));
  by_codes_us_ = 3e5;
  chosen = Choose(earlier, {.recall_target = 0.9});
  ASSERT_TRUE(chosen.ok()) << chosen.status();
  EXPECT_EQ(chosen->factory, "IVF64,Flat") << "what codes promised on the sample was not so of all vectors";
  EXPECT_FALSE(PosixFileSystem().Exists(Path("codes")));
}

TEST_F(IndexChooserTest, SaysThatThereWereNoQueries) {
  ChooserOptions options;
  options.wanted = {.recall_target = 0.9};
  options.codes_path = Path("codes");
  options.tuner = Options();
  options.tuner.query_source = "words of passages";
  const auto chosen = BuildChosenIndex(file_, {nullptr, 0, kDim}, Path("chosen"), options, {});
  ASSERT_TRUE(chosen.ok()) << chosen.status();
  EXPECT_EQ(chosen->factory, "exact");
  EXPECT_EQ(chosen->tuning.reason(), "0 queries (words of passages) are too few to choose by, there must be 50: searched exactly");
}

TEST_F(IndexChooserTest, PassesOverWhatThereIsNoMemoryToBuild) {
  const v1::IndexTuning earlier = Earlier({Point("HNSW32", 0.99, 1), Point("IVF64,PQ4", 0.99, 2), Point("exact", 1, 1000)}, 0.5);
  const auto needed = [](const std::string& index) {
    return ForecastBuild({.passage_count = kRows, .dim = kDim, .index = index}).memory_bytes;
  };
  ASSERT_LT(needed("IVF64,PQ4"), needed("HNSW32"));
  available_bytes_ = needed("HNSW32") - 1;
  auto chosen = Choose(earlier, {.recall_target = 0.5});
  ASSERT_TRUE(chosen.ok()) << chosen.status();
  EXPECT_EQ(chosen->factory, "IVF64,PQ4");
  available_bytes_ = 1000;
  chosen = Choose(earlier, {.recall_target = 0.5});
  ASSERT_TRUE(chosen.ok()) << chosen.status();
  EXPECT_EQ(chosen->factory, "exact");
  EXPECT_NE(chosen->tuning.reason().find("no memory"), std::string::npos) << chosen->tuning.reason();
}

TEST_F(IndexChooserTest, MeasuresAgainForAnotherTargetOrSize) {
  v1::IndexTuning earlier = Earlier({Point("IVF64,Flat", 0.99, 1), Point("exact", 1, 1000)}, 0.9);
  ASSERT_TRUE(Choose(earlier, {.recall_target = 0.8}).ok());
  EXPECT_EQ(phases_.count("tune"), 1u);
  for (const auto& [rows, count] : {std::pair(kRows / 2, 0u), std::pair(kRows / 2 - 1, 1u), std::pair(2 * kRows, 0u), std::pair(2 * kRows + 1, 1u)}) {
    phases_.clear();
    earlier.set_row_count(rows);
    ASSERT_TRUE(Choose(earlier, {.recall_target = 0.9}).ok());
    EXPECT_EQ(phases_.count("tune"), count) << rows;
  }
}

}  // namespace
}  // namespace loci
