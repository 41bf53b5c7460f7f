#include "retriever/training_estimator.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>

#include "base/error.h"
#include "retriever/testing/training_world.h"

namespace loci {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

template <typename T>
struct Queries {
  Queries(int64_t count, int dim, uint64_t seed) : dim(dim) {
    for (const double x : RandomVector(static_cast<int>(count) * dim, seed)) values.push_back(static_cast<T>(x));
  }
  MatrixView<const T> matrix() const { return {values.data(), static_cast<int64_t>(values.size()) / dim, dim}; }
  std::vector<double> query(int64_t q) const { return {values.begin() + q * dim, values.begin() + (q + 1) * dim}; }
  int dim;
  std::vector<T> values;
};

TrainingOptions OptionsOf(Estimator estimator, int top_k, double temperature = 1) {
  TrainingOptions options{.estimator = estimator, .temperature = temperature, .seed = 3};
  options.search.top_k = top_k;
  if (estimator == Estimator::kExactZTail) options.tail_samples = 7;
  return options;
}

// What a result must be, by the definitions; `exact_head`: the head must hold the best.
void ExpectIsTheDefinition(const std::map<std::string, std::vector<double>>& vectors, const std::vector<double>& query,
                           const TrainingOptions& options, const std::set<std::string>& excluded, const TrainingResult& result,
                           double tolerance, bool exact_head = true) {
  const std::map<std::string, double> p = NaiveProbabilities(vectors, query, options.temperature, excluded);
  const size_t dim = query.size();
  ASSERT_EQ(result.hits.size(), std::min<size_t>(options.search.top_k, p.size()));
  ASSERT_EQ(result.log_probs.size(), result.hits.size());
  double head_mass = 0, tail_mass = 0, log_z = 0, least = 1;
  std::set<std::string> head;
  for (size_t i = 0; i < result.hits.size(); ++i) {
    const ViewHit& hit = result.hits[i];
    ASSERT_TRUE(p.count(hit.id)) << hit.id << " can't be drawn";
    EXPECT_TRUE(head.insert(hit.id).second);
    head_mass += p.at(hit.id);
    EXPECT_LE(p.at(hit.id), least * (1 + tolerance)) << "best first";
    least = p.at(hit.id);
  }
  std::vector<double> mean(dim), tail(dim);
  for (const auto& [id, probability] : p) {
    const bool in_head = head.count(id) > 0;
    if (!in_head) tail_mass += probability;
    if (!in_head && exact_head) {
      EXPECT_LE(probability, least * (1 + tolerance)) << id << " belongs to the head";
    }
    for (size_t d = 0; d < dim; ++d) {
      if (in_head || options.estimator != Estimator::kTopK) mean[d] += probability * vectors.at(id)[d];
      if (!in_head) tail[d] += probability * vectors.at(id)[d];
    }
  }
  const bool truncated = options.estimator == Estimator::kTopK;
  for (double& x : mean) x /= truncated ? head_mass : 1;
  for (double& x : tail) x /= tail_mass > 0 ? tail_mass : 1;
  const std::string best = result.hits[0].id;
  for (size_t d = 0; d < dim; ++d) log_z += query[d] * vectors.at(best)[d] / options.temperature;
  log_z -= std::log(p.at(best) / (truncated ? head_mass : 1));
  EXPECT_NEAR(result.log_z, log_z, tolerance);
  EXPECT_NEAR(result.head_mass, head_mass, tolerance);
  for (size_t i = 0; i < result.hits.size(); ++i)
    EXPECT_NEAR(result.log_probs[i], std::log(p.at(result.hits[i].id) / (truncated ? head_mass : 1)), tolerance);
  EXPECT_LE(RelativeError(result.mean_vector, mean), 10 * tolerance);
  if (truncated) {
    EXPECT_TRUE(std::isnan(result.log_null_prob));
    EXPECT_TRUE(result.tail_mean.empty());
  } else if (tail_mass == 0) {
    EXPECT_EQ(result.log_null_prob, -kInfinity);
    EXPECT_EQ(result.head_mass, 1);
    EXPECT_EQ(result.tail_mean, std::vector<double>(dim));
    EXPECT_TRUE(result.tail_hits.empty());
  } else {
    EXPECT_NEAR(result.log_null_prob, std::log(tail_mass), tolerance);
    EXPECT_LE(RelativeError(result.tail_mean, tail), 10 * tolerance);
    EXPECT_EQ(result.tail_hits.size(), static_cast<size_t>(options.tail_samples));
    for (const ViewHit& draw : result.tail_hits) EXPECT_TRUE(p.count(draw.id) && !head.count(draw.id)) << draw.id;
  }
  double longest = 0;
  for (const auto& [id, z] : vectors) {
    double squared = 0;
    for (const double x : z) squared += x * x;
    longest = std::max(longest, std::sqrt(squared));
  }
  EXPECT_GE(result.max_length, longest);
  EXPECT_GT(result.memory_bytes(), static_cast<int64_t>(sizeof(double) * dim));
}

template <typename T>
void CheckRetrieval(double tolerance) {
  for (uint64_t seed = 1; seed <= 3; ++seed) {
    const TrainingWorld world({.dim = 9,
                               .body = seed == 2 ? 0 : 70,
                               .written = 20,
                               .type = seed == 3 ? ElementType::kBfloat16 : ElementType::kFloat16,
                               .seed = seed});
    const Queries<T> queries(3, 9, seed + 50);
    // Query 0 sees all; the others must not see their best, an id twice, one that is deleted or was never there.
    std::vector<std::vector<std::string>> excluded(3);
    for (int64_t q = 1; q < 3; ++q) {
      const auto p = NaiveProbabilities(world.vectors, queries.query(q), 1);
      const auto best = std::max_element(p.begin(), p.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
      excluded[q] = {best->first, "nobody", p.begin()->first, p.begin()->first, "p100", "p101", "p102", "w1"};
    }
    for (const Estimator estimator :
         {Estimator::kTopK, Estimator::kExactZ, Estimator::kExactZNull, Estimator::kExactZTail, Estimator::kFull}) {
      for (const double temperature : {1.0, 0.05}) {
        for (const int top_k : {1, 8, 500}) {
          if (estimator == Estimator::kFull && top_k < 500) continue;
          SCOPED_TRACE(testing::Message() << "estimator " << static_cast<int>(estimator) << " temperature " << temperature << " top_k "
                                          << top_k << " seed " << seed);
          const TrainingOptions options = OptionsOf(estimator, top_k, temperature);
          const auto results = RetrieveForTraining(*world.view, queries.matrix(), options, nullptr, excluded);
          ASSERT_TRUE(results.ok()) << results.status();
          ASSERT_EQ(results->size(), 3u);
          for (int64_t q = 0; q < 3; ++q) {
            ExpectIsTheDefinition(world.vectors, queries.query(q), options, {excluded[q].begin(), excluded[q].end()}, results->at(q),
                                  tolerance / temperature);
          }
        }
      }
    }
  }
}

TEST(TrainingEstimator, IsTheDefinitionInFloat32) { CheckRetrieval<float>(2e-6); }
TEST(TrainingEstimator, IsTheDefinitionInFloat64) { CheckRetrieval<double>(1e-12); }

TEST(TrainingEstimator, HeadMassIsExactWithAnApproximateIndex) {
  const TrainingWorld world({.dim = 8, .body = 1200, .written = 60, .deleted = 40, .index = "IVF16,Flat", .seed = 5});
  const Queries<float> queries(6, 8, 60);
  TrainingOptions options = OptionsOf(Estimator::kExactZNull, 40);
  options.search.nprobe = 1;
  std::vector<std::vector<std::string>> excluded(6);
  const auto first = RetrieveForTraining(*world.view, queries.matrix(), options, nullptr, {});
  ASSERT_TRUE(first.ok()) << first.status();
  for (int q = 0; q < 6; ++q) excluded[q] = {first->at(q).hits[0].id, first->at(q).hits[7].id};
  const auto results = RetrieveForTraining(*world.view, queries.matrix(), options, nullptr, excluded);
  ASSERT_TRUE(results.ok()) << results.status();
  int differing = 0;
  for (int q = 0; q < 6; ++q) {
    ExpectIsTheDefinition(world.vectors, queries.query(q), options, {excluded[q].begin(), excluded[q].end()}, results->at(q), 2e-6,
                          /*exact_head=*/false);
    options.search.nprobe = 16;
    differing +=
        IdsOf(RetrieveForTraining(*world.view, queries.matrix(), options, nullptr, excluded)->at(q).hits) != IdsOf(results->at(q).hits);
    options.search.nprobe = 1;
  }
  EXPECT_GT(differing, 0) << "this world shows nothing: the index missed nobody";
}

// What one query excludes neither moves the heads of the others nor stays in memory.
TEST(TrainingEstimator, ExclusionsConcernTheirQueryAlone) {
  const TrainingWorld world({.dim = 8, .body = 1200, .index = "IVF16,Flat", .seed = 11});
  const Queries<float> queries(40, 8, 67);
  TrainingOptions options = OptionsOf(Estimator::kTopK, 40);
  options.search.nprobe = 1;
  const auto alone = RetrieveForTraining(*world.view, queries.matrix(), options, nullptr, {});
  ASSERT_TRUE(alone.ok()) << alone.status();
  std::vector<std::vector<std::string>> excluded(40);
  for (const auto& [id, z] : world.vectors) {
    if (excluded[0].size() < 900) excluded[0].push_back(id);
  }
  excluded[1] = {alone->at(1).hits[3].id};
  const auto beside = RetrieveForTraining(*world.view, queries.matrix(), options, nullptr, excluded);
  ASSERT_TRUE(beside.ok()) << beside.status();
  const std::set<std::string> hidden(excluded[0].begin(), excluded[0].end());
  EXPECT_EQ(beside->at(0).hits.size(), 40u);
  for (const ViewHit& hit : beside->at(0).hits) EXPECT_FALSE(hidden.count(hit.id));
  EXPECT_NE(IdsOf(beside->at(1).hits), IdsOf(alone->at(1).hits));
  for (int q = 2; q < 40; ++q) EXPECT_EQ(IdsOf(beside->at(q).hits), IdsOf(alone->at(q).hits));
  for (int q = 0; q < 40; ++q) EXPECT_LE(beside->at(q).memory_bytes(), static_cast<int64_t>(40 * (sizeof(ViewHit) + 8) + 1000));
  // The product of the rescored candidates is the caller's, not that of what is asked for inside.
  options.search.top_k = 100;
  options.search.rescore_factor = 1000;
  EXPECT_TRUE(RetrieveForTraining(*world.view, queries.matrix(), options, nullptr, excluded).ok());
  options.search.top_k = 101;
  const absl::Status refused = RetrieveForTraining(*world.view, queries.matrix(), options, nullptr, excluded).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kInvalidArgument) << refused;
}

// More slots than one search may have; what no hit took is given back.
TEST(TrainingEstimator, ManyHitsAreSearchedForInGroups) {
  constexpr int64_t kCount = 1100;
  const TrainingWorld world({.dim = 2, .body = 20, .written = 0, .deleted = 0, .type = ElementType::kFloat32, .seed = 12});
  const Queries<float> queries(kCount, 2, 68);
  std::vector<std::string> most;
  for (const auto& [id, z] : world.vectors) {
    if (most.size() + 1 < world.vectors.size()) most.push_back(id);
  }
  std::vector<std::vector<std::string>> excluded(kCount, most);
  excluded[1].clear();
  const auto results = RetrieveForTraining(*world.view, queries.matrix(), OptionsOf(Estimator::kTopK, 1000), nullptr, excluded);
  ASSERT_TRUE(results.ok()) << results.status();
  for (int64_t q = 0; q < kCount; ++q) {
    ASSERT_EQ(results->at(q).hits.size(), q == 1 ? 20u : 1u);
    EXPECT_EQ(results->at(q).hits.capacity(), results->at(q).hits.size());
    if (q == 1) continue;
    EXPECT_EQ(results->at(q).hits[0].id, world.vectors.rbegin()->first);
    const float* const query = queries.matrix().row(q);
    const std::vector<double>& z = world.vectors.rbegin()->second;
    EXPECT_NEAR(results->at(q).log_z, query[0] * z[0] + query[1] * z[1], 1e-5);
  }
}

TEST(TrainingEstimator, AFilterHidesAsDeletionsDo) {
  const TrainingWorld world({.seed = 6});
  const Queries<double> queries(2, 8, 61);
  std::map<std::string, std::vector<double>> visible;
  const FilteredRows filtered = FilterSome(*world.view);
  for (const auto& [id, z] : world.vectors) {
    const ViewRow row = **world.view->Find(id);
    if (!(row.in_overlay ? filtered.hidden_overlay : filtered.hidden_body).hidden(row.row)) visible[id] = z;
  }
  ASSERT_EQ(filtered.match_count, static_cast<int64_t>(visible.size()));
  ASSERT_LT(visible.size(), world.vectors.size());
  const std::string other =
      std::find_if(world.vectors.begin(), world.vectors.end(), [&](const auto& one) { return !visible.count(one.first); })->first;
  const std::vector<std::vector<std::string>> excluded = {{}, {visible.begin()->first, other}};
  for (const Estimator estimator : {Estimator::kTopK, Estimator::kExactZTail, Estimator::kFull}) {
    const TrainingOptions options = OptionsOf(estimator, estimator == Estimator::kFull ? static_cast<int>(visible.size()) : 5);
    const auto results = RetrieveForTraining(*world.view, queries.matrix(), options, &filtered, excluded);
    ASSERT_TRUE(results.ok()) << results.status();
    for (int q = 0; q < 2; ++q)
      ExpectIsTheDefinition(visible, queries.query(q), options, {excluded[q].begin(), excluded[q].end()}, results->at(q), 1e-12);
  }
}

// Passages with the same vector: their probabilities add, and the head takes them by id. A rebuilt store, with other rows, gives the same.
TEST(TrainingEstimator, DuplicatesAddUpAndTheOrderOfRowsDoesNotMatter) {
  TestDirectory directory("training_duplicates");
  auto store = *Store::Open(JoinPath(directory.path(), "s"), "s", {});
  BuildOptions build;
  build.dim = 3;
  build.base_revision = -1;
  build.passage_fingerprint = "0123456789abcdef";
  const TestContents contents = {
      {"a", {"x", {1, 0, 0}}}, {"b", {"x", {-1, 2, 0}}}, {"c", {"x", {1, 0, 0}}}, {"d", {"x", {0, 0, -1}}}, {"e", {"x", {1, 0, 0}}}};
  ASSERT_TRUE(
      store
          ->Activate(*store->OpenGeneration(*BuildGeneration(*store, {contents.begin(), std::next(contents.begin(), 2)}, build), true),
                     WritesPolicy::kRefuse)
          .ok());
  std::vector<PassageWrite> writes;
  for (const char* id : {"e", "d", "c"}) writes.push_back(Upsert(id, contents.at(id)));
  ASSERT_TRUE(store->Write(writes).ok());
  const auto written = store->view();
  const auto rebuilt = View::Bare(*store->OpenGeneration(*BuildGeneration(*store, contents, build), true));
  const Queries<double> queries(1, 3, 62);
  std::map<std::string, std::vector<double>> vectors;
  for (const auto& [id, passage] : contents) vectors[id].assign(passage.vector.begin(), passage.vector.end());
  for (const int top_k : {1, 2, 5}) {
    const TrainingOptions options = OptionsOf(Estimator::kExactZNull, top_k);
    const TrainingResult a = RetrieveForTraining(*written, queries.matrix(), options, nullptr, {})->at(0);
    const TrainingResult b = RetrieveForTraining(*rebuilt, queries.matrix(), options, nullptr, {})->at(0);
    ExpectIsTheDefinition(vectors, queries.query(0), options, {}, a, 1e-12);
    EXPECT_EQ(IdsOf(a.hits), IdsOf(b.hits));
    EXPECT_LE(RelativeError(a.mean_vector, b.mean_vector), 1e-14);
    EXPECT_NEAR(a.log_z, b.log_z, 1e-14);
  }
}

// Padding would win here with a score of 0.
TEST(TrainingEstimator, AllScoresMayBeFarBelowZero) {
  const TrainingWorld world({.dim = 4, .body = 20, .seed = 7});
  auto vectors = world.vectors;
  TestContents contents;
  for (auto& [id, z] : vectors) {
    z[0] = -3 - std::abs(z[0]);
    contents[id] = {"x", std::vector<float>(z.begin(), z.end())};
    z.assign(contents[id].vector.begin(), contents[id].vector.end());
  }
  BuildOptions build;
  build.dim = 4;
  build.base_revision = -1;
  build.passage_fingerprint = "0123456789abcdef";
  const auto view = View::Bare(*world.store->OpenGeneration(*BuildGeneration(*world.store, contents, build), true));
  const std::vector<double> query = {2000, 0.5, -1, 2};
  for (const int top_k : {2, 100}) {
    for (const Estimator estimator : {Estimator::kTopK, Estimator::kExactZTail}) {
      const TrainingOptions options = OptionsOf(estimator, top_k, 10);
      const auto results = RetrieveForTraining(*view, MatrixView<const double>{query.data(), 1, 4}, options, nullptr, {});
      ASSERT_TRUE(results.ok());
      ExpectIsTheDefinition(vectors, query, options, {}, results->at(0), 1e-11);
      EXPECT_LT(results->at(0).log_z, -500);
    }
  }
}

// Probabilities of e^(-1e13) have no float64; their logarithms do.
TEST(TrainingEstimator, HoldsAtExtremeTemperatures) {
  const TrainingWorld world({.dim = 8, .seed = 13});
  const Queries<double> queries(2, 8, 69);
  std::vector<float> rounded(queries.values.begin(), queries.values.end());
  for (const double temperature : {kMinTemperature, 1e-4, 1e4, kMaxTemperature}) {
    SCOPED_TRACE(temperature);
    const TrainingOptions options = OptionsOf(Estimator::kExactZTail, 5, temperature);
    const auto results = RetrieveForTraining(*world.view, queries.matrix(), options, nullptr, {});
    ASSERT_TRUE(results.ok()) << results.status();
    for (int64_t q = 0; q < 2; ++q) {
      const TrainingResult& result = results->at(q);
      std::map<std::string, double> scores;
      double max = -kInfinity;
      for (const auto& [id, z] : world.vectors) {
        for (int d = 0; d < 8; ++d) scores[id] += queries.query(q)[d] * z[d];
        max = std::max(max, scores[id]);
      }
      const std::vector<std::string> ids = IdsOf(result.hits);
      double tail_max = -kInfinity, sum = 0, tail_sum = 0;
      for (const auto& [id, score] : scores) {
        if (std::count(ids.begin(), ids.end(), id) == 0) tail_max = std::max(tail_max, score);
      }
      std::vector<double> mean(8), tail(8);
      for (const auto& [id, score] : scores) {
        const bool in_head = std::count(ids.begin(), ids.end(), id) > 0;
        const double weight = std::exp((score - max) / temperature);
        const double tail_weight = in_head ? 0 : std::exp((score - tail_max) / temperature);
        sum += weight;
        tail_sum += tail_weight;
        for (int d = 0; d < 8; ++d) {
          mean[d] += weight * world.vectors.at(id)[d];
          tail[d] += tail_weight * world.vectors.at(id)[d];
        }
      }
      for (double& x : mean) x /= sum;
      for (double& x : tail) x /= tail_sum;
      const auto expect_near = [](double got, double expected) { EXPECT_NEAR(got, expected, 1e-10 * (1 + std::abs(expected))); };
      expect_near(result.log_z, max / temperature + std::log(sum));
      expect_near(result.log_null_prob, (tail_max - max) / temperature + std::log(tail_sum / sum));
      for (int i = 0; i < 5; ++i) expect_near(result.log_probs[i], (scores.at(ids[i]) - max) / temperature - std::log(sum));
      EXPECT_LE(RelativeError(result.mean_vector, mean), 1e-10);
      EXPECT_LE(RelativeError(result.tail_mean, tail), 1e-10);
      EXPECT_EQ(result.tail_hits.size(), 7u);
    }
    // In float32 the scores are rounded before they are divided: numbers all the same, and of a distribution.
    const auto floats = RetrieveForTraining(*world.view, MatrixView<const float>{rounded.data(), 2, 8}, options, nullptr, {});
    ASSERT_TRUE(floats.ok()) << floats.status();
    for (const TrainingResult& result : *floats) {
      double total = std::exp(result.log_null_prob);
      for (const double log_prob : result.log_probs) total += std::exp(log_prob);
      EXPECT_NEAR(total, 1, 1e-6);
      for (const double x : result.tail_mean) EXPECT_TRUE(std::isfinite(x));
      EXPECT_EQ(result.tail_hits.size(), 7u);
    }
  }
}

TEST(TrainingEstimator, NothingToDrawIsNoError) {
  for (const bool excluded_away : {false, true}) {
    const TrainingWorld world({.body = excluded_away ? 2 : 0, .written = 0, .deleted = 0, .seed = 8});
    const Queries<float> queries(1, 8, 63);
    std::vector<std::vector<std::string>> excluded = {{}};
    for (const auto& [id, z] : world.vectors) excluded[0].push_back(id);
    for (const Estimator estimator :
         {Estimator::kTopK, Estimator::kExactZ, Estimator::kExactZNull, Estimator::kExactZTail, Estimator::kFull}) {
      const TrainingOptions options = OptionsOf(estimator, 3);
      const auto results = RetrieveForTraining(*world.view, queries.matrix(), options, nullptr, excluded);
      ASSERT_TRUE(results.ok()) << results.status();
      const TrainingResult& result = results->at(0);
      EXPECT_TRUE(result.hits.empty() && result.log_probs.empty() && result.tail_hits.empty());
      EXPECT_EQ(result.log_z, -kInfinity);
      EXPECT_EQ(result.head_mass, 0);
      EXPECT_EQ(result.mean_vector, std::vector<double>(8));
      const std::vector<double> query = queries.query(0), likelihoods(FeedbackColumns(options), -1.0);
      const auto gradients = BackwardForTraining(*world.view, {query.data(), 1, 8}, options, *results,
                                                 {.log_likelihoods = {likelihoods.data(), 1, FeedbackColumns(options)}});
      ASSERT_TRUE(gradients.ok()) << gradients.status();
      EXPECT_EQ(gradients->log_marginals[0], -kInfinity);
      EXPECT_EQ(gradients->query_gradients, std::vector<double>(8));
    }
  }
}

TEST(TrainingEstimator, ResultsDoNotDependOnThreadsOrOnHowABatchIsCut) {
  const TrainingWorld world({.dim = 16, .body = 20'000, .written = 100, .deleted = 50, .seed = 9});
  const Queries<float> queries(9, 16, 64);
  TrainingOptions options = OptionsOf(Estimator::kExactZTail, 6, 0.5);
  std::vector<std::vector<std::string>> excluded(9);
  for (const auto& [id, z] : world.vectors) {
    for (size_t q = 1; q < 9; ++q) {
      if (excluded[q].size() < 20 * q) excluded[q].push_back(id);
    }
  }
  const auto alone = RetrieveForTraining(*world.view, queries.matrix(), options, nullptr, excluded);
  ASSERT_TRUE(alone.ok());
  ThreadPool pool("training", 3, 16);
  options.pool = &pool;
  const auto same = [](const TrainingResult& a, const TrainingResult& b) {
    return a.log_z == b.log_z && a.log_null_prob == b.log_null_prob && a.mean_vector == b.mean_vector && a.tail_mean == b.tail_mean &&
           a.log_probs == b.log_probs && IdsOf(a.hits) == IdsOf(b.hits) && IdsOf(a.tail_hits) == IdsOf(b.tail_hits);
  };
  const auto threads = RetrieveForTraining(*world.view, queries.matrix(), options, nullptr, excluded);
  for (int64_t q = 0; q < 9; ++q) {
    EXPECT_TRUE(same(alone->at(q), threads->at(q)));
    TrainingOptions piece = options;
    piece.first_query = q;
    EXPECT_TRUE(same(alone->at(q),
                     RetrieveForTraining(*world.view, MatrixView<const float>{queries.matrix().row(q), 1, 16}, piece, nullptr,
                                         std::span(excluded).subspan(q, 1))
                         ->at(0)));
  }
  options.seed = 4;
  EXPECT_NE(IdsOf(RetrieveForTraining(*world.view, queries.matrix(), options, nullptr, {})->at(0).tail_hits),
            IdsOf(alone->at(0).tail_hits));
}

TEST(TrainingEstimator, RefusesWhatDoesNotFit) {
  const TrainingWorld world({.seed = 10});
  Queries<double> queries(2, 8, 65);
  const auto field_of = [&](const TrainingOptions& options, std::span<const std::vector<std::string>> excluded = {}) {
    const absl::Status status = RetrieveForTraining(*world.view, queries.matrix(), options, nullptr, excluded).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    const auto reason = GetErrorReason(status);
    return reason.has_value() ? reason->metadata.at("field") : "";
  };
  const TrainingOptions good = OptionsOf(Estimator::kExactZNull, 3);
  for (const int top_k : {0, -1, kMaxTopK + 1}) EXPECT_EQ(field_of(OptionsOf(Estimator::kTopK, top_k)), "top_k");
  for (const double temperature : {0.0, -1.0, std::nan(""), kInfinity, 1e-20, 1e20})
    EXPECT_EQ(field_of(OptionsOf(Estimator::kExactZ, 3, temperature)), "temperature");
  EXPECT_EQ(field_of(OptionsOf(static_cast<Estimator>(9), 3)), "estimator");
  EXPECT_EQ(field_of(OptionsOf(Estimator::kFull, static_cast<int>(world.vectors.size()) - 1)), "top_k");
  TrainingOptions options = good;
  options.tail_samples = 1;
  EXPECT_EQ(field_of(options), "tail_samples");
  for (const int samples : {0, -1, kMaxTailSamples + 1}) {
    options = OptionsOf(Estimator::kExactZTail, 3);
    options.tail_samples = samples;
    EXPECT_EQ(field_of(options), "tail_samples");
  }
  options = good;
  options.search.nprobe = 4;
  EXPECT_EQ(field_of(options), "options.nprobe");
  EXPECT_EQ(field_of(good, std::vector<std::vector<std::string>>(1)), "exclusions");
  for (const double bad : {std::nan(""), kInfinity, 1e200, 1e20}) {
    queries.values[11] = bad;
    EXPECT_EQ(field_of(good), "query_vectors");
  }
  const std::string too_long(RetrieveForTraining(*world.view, queries.matrix(), good, nullptr, {}).status().message());
  EXPECT_EQ(too_long.rfind("query_vectors, row 1: vector has the length 1e+20; the limit is 1e+15", 0), 0u) << too_long;
  queries = Queries<double>(2, 7, 66);
  EXPECT_EQ(field_of(good), "query_vectors");
  queries = Queries<double>(2, 8, 66);
  options = good;
  options.search.limits = RequestLimits(1);
  EXPECT_EQ(RetrieveForTraining(*world.view, queries.matrix(), options, nullptr, {}).status().code(), absl::StatusCode::kDeadlineExceeded);
  options.search.limits.Cancel();
  EXPECT_EQ(RetrieveForTraining(*world.view, queries.matrix(), options, nullptr, {}).status().code(), absl::StatusCode::kCancelled);
  EXPECT_TRUE(RetrieveForTraining(*world.view, MatrixView<const double>{nullptr, 0, 8}, good, nullptr, {})->empty());
}

}  // namespace
}  // namespace loci
