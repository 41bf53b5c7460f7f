#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

#include "base/error.h"
#include "retriever/testing/training_world.h"
#include "retriever/training_estimator.h"

namespace loci {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr Estimator kEstimators[] = {Estimator::kTopK, Estimator::kExactZ, Estimator::kExactZNull, Estimator::kExactZTail,
                                     Estimator::kFull};

TrainingOptions OptionsOf(const TrainingWorld& world, Estimator estimator, int top_k, double temperature) {
  TrainingOptions options{.estimator = estimator, .temperature = temperature, .seed = 5};
  options.search.top_k = estimator == Estimator::kFull ? static_cast<int>(world.vectors.size()) : top_k;
  if (estimator == Estimator::kExactZTail) options.tail_samples = 5;
  return options;
}

MatrixView<const double> RowOf(const std::vector<double>& values) { return {values.data(), 1, static_cast<int64_t>(values.size())}; }

std::vector<double> RandomLikelihoods(int64_t columns, double offset, double spread, uint64_t seed) {
  std::vector<double> values = RandomVector(static_cast<int>(columns), seed);
  for (double& value : values) value = offset + spread * value;
  return values;
}

// The marginal that a result and its likelihoods stand for.
NaiveMarginal MarginalOf(const TrainingWorld& world, const TrainingOptions& options, const std::vector<double>& query,
                         const TrainingResult& result, const std::vector<double>& likelihoods) {
  return {.estimator = options.estimator,
          .temperature = options.temperature,
          .head = IdsOf(result.hits),
          .draws = IdsOf(result.tail_hits),
          .log_likelihoods = likelihoods,
          .held = NaiveProbabilities(world.vectors, query, options.temperature)};
}

TEST(TrainingBackward, GradientsAreFiniteDifferences) {
  for (uint64_t seed = 1; seed <= 2; ++seed) {
    const TrainingWorld world({.type = seed == 1 ? ElementType::kFloat16 : ElementType::kFloat32, .scale = 1.5, .seed = seed});
    const int dim = world.view->dim();
    const std::vector<double> query = RandomVector(dim, 40 + seed);
    for (const Estimator estimator : kEstimators) {
      for (const double temperature : {0.3, 2.0}) {
        for (const double offset : {0.0, -1e4}) {
          SCOPED_TRACE(testing::Message() << "estimator " << static_cast<int>(estimator) << " temperature " << temperature << " offset "
                                          << offset << " seed " << seed);
          const TrainingOptions options = OptionsOf(world, estimator, 4, temperature);
          const auto results = RetrieveForTraining(*world.view, RowOf(query), options, nullptr, {});
          ASSERT_TRUE(results.ok()) << results.status();
          const TrainingResult& result = results->at(0);
          const std::vector<double> likelihoods = RandomLikelihoods(FeedbackColumns(options), offset, 2, 60 + seed);
          const auto gradients = BackwardForTraining(*world.view, RowOf(query), options, *results,
                                                     {.log_likelihoods = RowOf(likelihoods),
                                                      .include_passage_gradients = true,
                                                      .include_likelihood_gradients = true});
          ASSERT_TRUE(gradients.ok()) << gradients.status();

          // The offset is taken out of the reference, where it would cost its digits; it moves nothing but J.
          std::vector<double> shifted = likelihoods;
          for (double& l : shifted) l -= offset;
          const NaiveMarginal marginal = MarginalOf(world, options, query, result, shifted);
          EXPECT_NEAR(gradients->log_marginals[0], marginal.LogMarginal(world.vectors, query) + offset, 1e-9 + std::abs(offset) * 1e-14);
          const auto of_query = [&](const std::vector<double>& q) { return marginal.LogMarginal(world.vectors, q); };
          EXPECT_LE(RelativeError(gradients->query_gradients, FiniteDifferences(of_query, query)), 1e-6);
          for (const int64_t i : {0, 3}) {
            auto vectors = world.vectors;
            std::vector<double>& z = vectors[result.hits[i].id];
            const auto of_passage = [&](const std::vector<double>& moved) {
              z = moved;
              return marginal.LogMarginal(vectors, query);
            };
            const std::vector<double> got(gradients->passage_gradients.begin() + i * dim,
                                          gradients->passage_gradients.begin() + (i + 1) * dim);
            const std::vector<double> slopes = FiniteDifferences(of_passage, world.vectors.at(result.hits[i].id));
            EXPECT_LE(RelativeError(got, slopes), 1e-6) << "passage " << i;
          }
          NaiveMarginal moved = marginal;
          const auto of_likelihoods = [&](const std::vector<double>& l) {
            moved.log_likelihoods = l;
            return moved.LogMarginal(world.vectors, query);
          };
          EXPECT_LE(RelativeError(gradients->likelihood_gradients, FiniteDifferences(of_likelihoods, shifted)), 1e-6);
        }
      }
    }
  }
}

TEST(TrainingBackward, TheProductIsFiniteDifferencesOfLogProbabilities) {
  const TrainingWorld world({.scale = 1.5, .seed = 3});
  const int dim = world.view->dim();
  const std::vector<double> query = RandomVector(dim, 41);
  for (const Estimator estimator : kEstimators) {
    SCOPED_TRACE(static_cast<int>(estimator));
    const TrainingOptions options = OptionsOf(world, estimator, 6, 0.5);
    const auto results = RetrieveForTraining(*world.view, RowOf(query), options, nullptr, {});
    ASSERT_TRUE(results.ok()) << results.status();
    const std::vector<double> given = RandomVector(static_cast<int>(FeedbackColumns(options)), 42);
    const auto gradients = BackwardForTraining(*world.view, RowOf(query), options, *results,
                                               {.grad_log_probs = RowOf(given), .include_passage_gradients = true});
    ASSERT_TRUE(gradients.ok()) << gradients.status();
    EXPECT_TRUE(gradients->log_marginals.empty());
    EXPECT_TRUE(std::isnan(gradients->certificates[0]));
    const NaiveMarginal marginal = MarginalOf(world, options, query, results->at(0), {});
    const auto product = [&](const std::map<std::string, std::vector<double>>& vectors, const std::vector<double>& q) {
      const std::vector<double> weights = marginal.LogWeights(vectors, q);
      double sum = 0;
      for (size_t i = 0; i < weights.size(); ++i) sum += given[i] * weights[i];
      return sum;
    };
    EXPECT_LE(RelativeError(gradients->query_gradients, FiniteDifferences([&](const auto& q) { return product(world.vectors, q); }, query)),
              1e-6);
    auto vectors = world.vectors;
    const std::string& id = results->at(0).hits[2].id;
    const std::vector<double> slopes = FiniteDifferences(
        [&](const std::vector<double>& z) {
          vectors[id] = z;
          return product(vectors, query);
        },
        world.vectors.at(id));
    EXPECT_LE(RelativeError({gradients->passage_gradients.begin() + 2 * dim, gradients->passage_gradients.begin() + 3 * dim}, slopes),
              1e-6);
  }
}

TEST(TrainingBackward, RowsOfOneQueryAddUp) {
  const TrainingWorld world({.seed = 4});
  const int dim = world.view->dim();
  std::vector<double> queries = RandomVector(3 * dim, 43);
  const MatrixView<const double> matrix{queries.data(), 3, dim};
  for (const Estimator estimator : {Estimator::kTopK, Estimator::kExactZNull, Estimator::kExactZTail}) {
    const TrainingOptions options = OptionsOf(world, estimator, 5, 0.7);
    const int64_t columns = FeedbackColumns(options);
    const auto results = RetrieveForTraining(*world.view, matrix, options, nullptr, {});
    ASSERT_TRUE(results.ok());
    const std::vector<int32_t> row_query = {2, 0, 2, 2};  // Query 1 has no row.
    std::vector<double> likelihoods = RandomLikelihoods(4 * columns, -3, 1, 44);
    likelihoods[columns + 1] = -kInfinity;
    const auto all = BackwardForTraining(*world.view, matrix, options, *results,
                                         {.log_likelihoods = {likelihoods.data(), 4, columns},
                                          .row_query = row_query,
                                          .max_log_likelihood = 0,
                                          .include_passage_gradients = true});
    ASSERT_TRUE(all.ok()) << all.status();
    std::vector<double> query_sums(3 * dim), passage_sums(3 * 5 * dim), certificate_sums(3);
    for (int row = 0; row < 4; ++row) {
      const std::vector<int32_t> own = {row_query[row]};
      const auto one = BackwardForTraining(*world.view, matrix, options, *results,
                                           {.log_likelihoods = {likelihoods.data() + row * columns, 1, columns},
                                            .row_query = own,
                                            .max_log_likelihood = 0,
                                            .include_passage_gradients = true});
      ASSERT_TRUE(one.ok()) << one.status();
      EXPECT_EQ(one->log_marginals[0], all->log_marginals[row]);
      for (size_t i = 0; i < query_sums.size(); ++i) query_sums[i] += one->query_gradients[i];
      for (size_t i = 0; i < passage_sums.size(); ++i) passage_sums[i] += one->passage_gradients[i];
      for (int q = 0; q < 3; ++q) certificate_sums[q] += one->certificates[q];
    }
    EXPECT_LE(RelativeError(all->query_gradients, query_sums), 1e-13);
    EXPECT_LE(RelativeError(all->passage_gradients, passage_sums), 1e-13);
    EXPECT_LE(RelativeError(all->certificates, certificate_sums), 1e-13);
    EXPECT_EQ(all->certificates[1], 0);
    EXPECT_EQ(all->query_gradients[dim], 0);
  }
}

// With the likelihoods of all passages known, the truth is FULL's.
TEST(TrainingBackward, CertificatesAreNeverBelowTheErrorAndErrorsVanish) {
  int compared = 0;
  for (uint64_t seed = 10; seed < 22; ++seed) {
    std::mt19937_64 random(seed);
    const TrainingWorld world({.dim = 2 + static_cast<int>(seed % 6),
                               .body = 20 + static_cast<int>(seed),
                               .written = 6,
                               .deleted = 3,
                               .scale = 0.3 + 0.3 * (seed % 4),
                               .seed = seed});
    const int dim = world.view->dim(), total = static_cast<int>(world.vectors.size());
    const std::vector<double> query = RandomVector(dim, seed);
    const double temperature = seed % 3 == 0 ? 0.1 : 1;
    // Likelihoods that depend on the vectors, as a reader's do; in places adversarial: what lies outside the head is far likelier.
    std::map<std::string, double> likelihoods;
    const std::vector<double> direction = RandomVector(dim, seed + 100);
    double max = -1e300;
    for (const auto& [id, z] : world.vectors) {
      double l = -2 + 0.3 * std::normal_distribution<double>()(random);
      for (int d = 0; d < dim; ++d) l += (seed % 2 == 0 ? 2 * direction[d] : -query[d]) * z[d];
      max = std::max(max, likelihoods[id] = l);
    }
    const auto gradient = [&](Estimator estimator, int top_k, double null, std::optional<double> bound) {
      TrainingOptions options = OptionsOf(world, estimator, top_k, temperature);
      const auto results = RetrieveForTraining(*world.view, RowOf(query), options, nullptr, {});
      EXPECT_TRUE(results.ok()) << results.status();
      std::vector<double> row;
      for (const ViewHit& hit : results->at(0).hits) row.push_back(likelihoods.at(hit.id));
      row.resize(options.search.top_k, -kInfinity);
      if (estimator == Estimator::kExactZNull) row.push_back(null);
      for (const ViewHit& hit : results->at(0).tail_hits) row.push_back(likelihoods.at(hit.id));
      row.resize(FeedbackColumns(options), -1);
      const auto gradients =
          BackwardForTraining(*world.view, RowOf(query), options, *results, {.log_likelihoods = RowOf(row), .max_log_likelihood = bound});
      EXPECT_TRUE(gradients.ok()) << gradients.status();
      return *gradients;
    };
    const std::vector<double> truth = gradient(Estimator::kFull, total, 0, max).query_gradients;
    EXPECT_EQ(gradient(Estimator::kFull, total, 0, max).certificates[0], 0);
    for (const Estimator estimator : {Estimator::kTopK, Estimator::kExactZ, Estimator::kExactZNull, Estimator::kExactZTail}) {
      double first_error = 0, error = 0;
      for (const int top_k : {1, 3, 8, total - 2, total, total + 5}) {
        for (const double null : {max, max - 3, -50.0}) {
          const TrainingGradients got = gradient(estimator, top_k, null, max);
          error = 0;
          for (int d = 0; d < dim; ++d) error += std::pow(got.query_gradients[d] - truth[d], 2);
          error = std::sqrt(error);
          EXPECT_LE(error, got.certificates[0] + 1e-12)
              << "estimator " << static_cast<int>(estimator) << " top_k " << top_k << " null " << null << " seed " << seed;
          ++compared;
          if (top_k == 1 && null == max) first_error = error;
          EXPECT_TRUE(std::isnan(gradient(estimator, top_k, null, std::nullopt).certificates[0]));
        }
      }
      EXPECT_LE(error, 1e-12 + 1e-10 * first_error) << "of all passages";
      EXPECT_EQ(gradient(estimator, total, 0, max).certificates[0], 0);
    }
  }
  EXPECT_GT(compared, 500);
}

TEST(TrainingBackward, CertificatesAreTheFormula) {
  const TrainingWorld world({.seed = 23});
  const std::vector<double> query = RandomVector(world.view->dim(), 47);
  const auto p = NaiveProbabilities(world.vectors, query, 0.5);
  for (const Estimator estimator : {Estimator::kTopK, Estimator::kExactZ, Estimator::kExactZNull}) {
    TrainingOptions options = OptionsOf(world, estimator, 3, 0.5);
    auto results = RetrieveForTraining(*world.view, RowOf(query), options, nullptr, {});
    ASSERT_TRUE(results.ok());
    const std::vector<double> likelihoods = {-1, -0.5, -2, -9};
    double mass = 0, head = 0;
    for (int i = 0; i < 3; ++i) {
      mass += p.at(results->at(0).hits[i].id);
      head += p.at(results->at(0).hits[i].id) * std::exp(likelihoods[i]);
    }
    const double outside = (1 - mass) * std::exp(-0.25);
    const double expected =
        2 * results->at(0).max_length / 0.5 * (outside / (head + outside) + (estimator == Estimator::kTopK ? 1 - mass : 0));
    const TrainingFeedback feedback{.log_likelihoods = {likelihoods.data(), 1, FeedbackColumns(options)}, .max_log_likelihood = -0.25};
    EXPECT_NEAR(BackwardForTraining(*world.view, RowOf(query), options, *results, feedback)->certificates[0], expected, 1e-12 * expected);
    if (estimator != Estimator::kTopK) continue;
    // Without a scan nothing is known of what is outside.
    options.measure_head_mass = false;
    results = RetrieveForTraining(*world.view, RowOf(query), options, nullptr, {});
    ASSERT_TRUE(results.ok());
    EXPECT_TRUE(std::isnan(results->at(0).head_mass));
    EXPECT_TRUE(std::isnan(BackwardForTraining(*world.view, RowOf(query), options, *results, feedback)->certificates[0]));
  }
}

// A draw's likelihood above the bound proves that it bounds nothing; what has nothing behind it proves nothing.
TEST(TrainingBackward, ABoundThatTheFeedbackRefutesIsRefused) {
  const TrainingWorld world({.seed = 24});
  const int dim = world.view->dim(), total = static_cast<int>(world.vectors.size());
  const std::vector<double> queries = RandomVector(2 * dim, 48);
  const MatrixView<const double> matrix{queries.data(), 2, dim};
  for (const Estimator estimator : {Estimator::kExactZNull, Estimator::kExactZTail}) {
    for (const int top_k : {3, total}) {
      const TrainingOptions options = OptionsOf(world, estimator, top_k, 0.5);
      const auto results = RetrieveForTraining(*world.view, matrix, options, nullptr, {});
      ASSERT_TRUE(results.ok());
      std::vector<double> likelihoods(2 * FeedbackColumns(options), -1.0);  // Above the bound in the head: no harm.
      for (int64_t c = top_k; c < FeedbackColumns(options); ++c) {
        likelihoods[c] = likelihoods[FeedbackColumns(options) + c] = -20;
      }
      const TrainingFeedback feedback{.log_likelihoods = {likelihoods.data(), 2, FeedbackColumns(options)}, .max_log_likelihood = -20};
      EXPECT_TRUE(BackwardForTraining(*world.view, matrix, options, *results, feedback).ok());
      likelihoods.back() = -19.5;
      const auto refused = BackwardForTraining(*world.view, matrix, options, *results, feedback);
      ASSERT_EQ(refused.ok(), top_k == total) << refused.status();
      if (refused.ok()) continue;
      EXPECT_EQ(GetErrorReason(refused.status())->metadata.at("field"), "max_log_likelihood");
    }
  }
}

TEST(TrainingBackward, MissingHitsAndLostRowsAddNothing) {
  const TrainingWorld world({.body = 4, .written = 0, .deleted = 1, .seed = 30});
  const std::vector<double> query = RandomVector(world.view->dim(), 45);
  for (const Estimator estimator : kEstimators) {
    TrainingOptions options = OptionsOf(world, estimator, 6, 1);
    options.search.top_k = 6;  // Three are there.
    const auto results = RetrieveForTraining(*world.view, RowOf(query), options, nullptr, {});
    ASSERT_TRUE(results.ok()) << results.status();
    ASSERT_EQ(results->at(0).hits.size(), 3u);
    std::vector<double> likelihoods(FeedbackColumns(options), -1.0);
    likelihoods[1] = -3;
    const auto padded = BackwardForTraining(*world.view, RowOf(query), options, *results,
                                            {.log_likelihoods = RowOf(likelihoods),
                                             .include_passage_gradients = true,
                                             .include_likelihood_gradients = true});
    for (size_t c = 3; c < likelihoods.size(); ++c) likelihoods[c] = -kInfinity;
    const auto missing = BackwardForTraining(*world.view, RowOf(query), options, *results, {.log_likelihoods = RowOf(likelihoods)});
    EXPECT_EQ(padded->query_gradients, missing->query_gradients);
    EXPECT_EQ(padded->log_marginals, missing->log_marginals);
    EXPECT_TRUE(missing->likelihood_gradients.empty()) << "nobody asked";
    EXPECT_EQ(padded->likelihood_gradients[4], 0);
    EXPECT_EQ(std::vector<double>(padded->passage_gradients.begin() + 3 * 8, padded->passage_gradients.end()), std::vector<double>(3 * 8));
    // Nothing is possible: no gradient.
    std::fill(likelihoods.begin(), likelihoods.end(), -kInfinity);
    const auto lost = BackwardForTraining(*world.view, RowOf(query), options, *results,
                                          {.log_likelihoods = RowOf(likelihoods), .max_log_likelihood = -kInfinity});
    ASSERT_TRUE(lost.ok());
    EXPECT_EQ(lost->log_marginals[0], -kInfinity);
    EXPECT_EQ(lost->query_gradients, std::vector<double>(8));
    // The product passes columns of nothing over as well.
    std::vector<double> given(FeedbackColumns(options), 0.5), cut = given;
    for (size_t c = 3; c < cut.size(); ++c) cut[c] = 0;
    EXPECT_EQ(BackwardForTraining(*world.view, RowOf(query), options, *results, {.grad_log_probs = RowOf(given)})->query_gradients,
              BackwardForTraining(*world.view, RowOf(query), options, *results, {.grad_log_probs = RowOf(cut)})->query_gradients);
  }
}

TEST(TrainingBackward, RefusesWhatDoesNotFit) {
  const TrainingWorld world({.seed = 31});
  const int dim = world.view->dim();
  const std::vector<double> queries = RandomVector(2 * dim, 46);
  const MatrixView<const double> matrix{queries.data(), 2, dim};
  TrainingOptions options = OptionsOf(world, Estimator::kExactZNull, 3, 1);
  const auto results = RetrieveForTraining(*world.view, matrix, options, nullptr, {});
  ASSERT_TRUE(results.ok());
  const std::vector<double> good(2 * 4, -1.0);
  const auto field_of = [&](const TrainingFeedback& feedback) {
    const absl::Status status = BackwardForTraining(*world.view, matrix, options, *results, feedback).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    const auto reason = GetErrorReason(status);
    return reason.has_value() ? reason->metadata.at("field") : "";
  };
  EXPECT_EQ(field_of({}), "log_likelihoods");
  EXPECT_EQ(field_of({.log_likelihoods = {good.data(), 2, 4}, .grad_log_probs = {good.data(), 2, 4}}), "log_likelihoods");
  EXPECT_EQ(field_of({.log_likelihoods = {good.data(), 2, 3}}), "log_likelihoods");
  EXPECT_EQ(field_of({.log_likelihoods = {good.data(), 1, 4}}), "log_likelihoods");
  EXPECT_EQ(field_of({.grad_log_probs = {good.data(), 1, 8}}), "grad_log_probs");
  for (const std::vector<int32_t>& rows :
       {std::vector<int32_t>{0}, std::vector<int32_t>{0, 2}, std::vector<int32_t>{-1, 0}, std::vector<int32_t>{0, 1, 1}}) {
    EXPECT_EQ(field_of({.log_likelihoods = {good.data(), 2, 4}, .row_query = rows}), "row_query");
  }
  for (const double bad : {std::nan(""), kInfinity}) {
    std::vector<double> values = good;
    values[5] = bad;
    EXPECT_EQ(field_of({.log_likelihoods = {values.data(), 2, 4}}), "log_likelihoods");
    EXPECT_EQ(field_of({.grad_log_probs = {values.data(), 2, 4}}), "grad_log_probs");
    EXPECT_EQ(field_of({.log_likelihoods = {good.data(), 2, 4}, .max_log_likelihood = bad}), "max_log_likelihood");
  }
  const std::vector<double> huge(2 * 4, 1e308);  // Finite, and their sums are not.
  EXPECT_EQ(field_of({.grad_log_probs = {huge.data(), 2, 4}}), "grad_log_probs");
  EXPECT_EQ(field_of({.row_query = std::vector<int32_t>{1, 1}, .grad_log_probs = {huge.data(), 2, 4}}), "grad_log_probs");
  std::vector<double> lost = good;
  lost[5] = -kInfinity;
  EXPECT_EQ(field_of({.grad_log_probs = {lost.data(), 2, 4}}), "grad_log_probs");
  options.search.limits.Cancel();
  EXPECT_EQ(BackwardForTraining(*world.view, matrix, options, *results, {.log_likelihoods = {good.data(), 2, 4}}).status().code(),
            absl::StatusCode::kCancelled);
}

}  // namespace
}  // namespace loci
