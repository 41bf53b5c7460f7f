// EXACT_Z_TAIL is unbiased, and a test that says so must also refuse what is not.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "retriever/testing/training_world.h"
#include "retriever/training_estimator.h"

namespace loci {
namespace {

constexpr int kDim = 6;
constexpr int kTopK = 4;
constexpr double kTemperature = 0.8;

// One query over a world whose likelihoods are known for every passage.
class TrainingSamplingTest : public testing::Test {
 protected:
  TrainingSamplingTest()
      : world_({.dim = kDim, .body = 90, .written = 20, .deleted = 10, .scale = 1.2, .seed = 77}), query_(RandomVector(kDim, 78)) {
    uint64_t seed = 79;
    for (const auto& [id, z] : world_.vectors) likelihoods_[id] = -1 + 1.2 * RandomVector(1, seed++)[0] + 0.8 * z[0];
    const auto p = NaiveProbabilities(world_.vectors, query_, kTemperature);
    for (const auto& [id, probability] : p) {
      marginal_ += probability * std::exp(likelihoods_[id]);
      for (int d = 0; d < kDim; ++d) mean_[d] += probability * world_.vectors.at(id)[d];
    }
    for (const auto& [id, probability] : p) {
      for (int d = 0; d < kDim; ++d)
        gradient_[d] += probability * (std::exp(likelihoods_[id]) - marginal_) * world_.vectors.at(id)[d] / kTemperature;
    }
  }

  // `repeats` retrievals of the same query with `samples` draws each, and their gradients. Without draws: FULL.
  void Retrieve(int repeats, int samples, uint64_t seed) {
    options_ = {.estimator = Estimator::kExactZTail, .temperature = kTemperature, .tail_samples = samples, .seed = seed};
    options_.search.top_k = kTopK;
    if (samples == 0) {
      options_.estimator = Estimator::kFull;
      options_.search.top_k = static_cast<int>(world_.vectors.size());
    }
    std::vector<double> queries;
    for (int i = 0; i < repeats; ++i) queries.insert(queries.end(), query_.begin(), query_.end());
    const MatrixView<const double> matrix{queries.data(), repeats, kDim};
    auto results = RetrieveForTraining(*world_.view, matrix, options_, nullptr, {});
    ASSERT_TRUE(results.ok()) << results.status();
    results_ = *std::move(results);
    std::vector<double> likelihoods;
    for (const TrainingResult& result : results_) {
      for (const ViewHit& hit : result.hits) likelihoods.push_back(likelihoods_.at(hit.id));
      for (const ViewHit& hit : result.tail_hits) likelihoods.push_back(likelihoods_.at(hit.id));
    }
    auto gradients = BackwardForTraining(*world_.view, matrix, options_, results_,
                                         {.log_likelihoods = {likelihoods.data(), repeats, FeedbackColumns(options_)}});
    ASSERT_TRUE(gradients.ok()) << gradients.status();
    gradients_ = *std::move(gradients);
  }

  // What an estimator says p(y) and dp(y)/dq are, of one retrieval.
  struct Estimate {
    double marginal = 0;
    std::vector<double> gradient = std::vector<double>(kDim);
  };

  // The greatest |z| of p^ and of each coordinate of its gradient, and of two projections, against the truth.
  double LargestZ(const std::function<Estimate(int)>& estimate) const {
    const int count = static_cast<int>(results_.size());
    std::vector<double> sum(kDim + 3), squares(kDim + 3), truth(kDim + 3);
    const auto project = [&](const Estimate& one) {
      std::vector<double> values = {one.marginal};
      double ones = 0, mixed = 0;
      for (int d = 0; d < kDim; ++d) {
        values.push_back(one.gradient[d]);
        ones += one.gradient[d];
        mixed += (d % 2 == 0 ? 1 : -1.7) * one.gradient[d];
      }
      values.push_back(ones);
      values.push_back(mixed);
      return values;
    };
    truth = project({marginal_, gradient_});
    for (int i = 0; i < count; ++i) {
      const std::vector<double> values = project(estimate(i));
      for (size_t k = 0; k < values.size(); ++k) {
        sum[k] += values[k] - truth[k];
        squares[k] += (values[k] - truth[k]) * (values[k] - truth[k]);
      }
    }
    double largest = 0;
    for (size_t k = 0; k < sum.size(); ++k) {
      const double mean = sum[k] / count;
      // A constant has no variance, and is no better for it: it is wrong where it is off by more than rounding, four parts in 1e9.
      const double variance = std::max(squares[k] / count - mean * mean, std::pow(1e-9 * truth[k], 2) * count);
      largest = std::max(largest, std::abs(mean) / std::sqrt(variance / count));
    }
    return largest;
  }

  // EXACT_Z_TAIL written down here, in the terms that mutants change: of the i-th retrieval.
  struct Terms {
    double sign = 1, inverse_temperature = 1;
    bool head = true, tail = true, weights = true, renormalised = false;
  };
  Estimate Written(int i, const Terms& terms) const {
    const TrainingResult& result = results_[i];
    Estimate estimate;
    std::vector<double> mean = mean_;
    double scale = 1;
    if (terms.renormalised) {
      double head = 0;
      std::fill(mean.begin(), mean.end(), 0);
      for (size_t k = 0; k < result.hits.size(); ++k) head += std::exp(result.log_probs[k]);
      scale = 1 / head;
      for (size_t k = 0; k < result.hits.size(); ++k) {
        for (int d = 0; d < kDim; ++d) mean[d] += scale * std::exp(result.log_probs[k]) * world_.vectors.at(result.hits[k].id)[d];
      }
    }
    const auto add = [&](const std::string& id, double weight) {
      const double share = weight * std::exp(likelihoods_.at(id));
      estimate.marginal += share;
      for (int d = 0; d < kDim; ++d) {
        estimate.gradient[d] +=
            terms.sign * share * (world_.vectors.at(id)[d] - mean[d]) / (terms.inverse_temperature < 0 ? 1 / kTemperature : kTemperature);
      }
    };
    for (size_t k = 0; terms.head && k < result.hits.size(); ++k) add(result.hits[k].id, scale * std::exp(result.log_probs[k]));
    const double tail_weight = terms.weights ? std::exp(result.log_null_prob) / static_cast<double>(result.tail_hits.size())
                                             : 1.0 / static_cast<double>(result.tail_hits.size());
    for (size_t k = 0; terms.tail && k < result.tail_hits.size(); ++k) add(result.tail_hits[k].id, tail_weight);
    return estimate;
  }

  const TrainingWorld world_;
  const std::vector<double> query_;
  std::map<std::string, double> likelihoods_;
  double marginal_ = 0;                                       // The true p(y),
  std::vector<double> mean_ = std::vector<double>(kDim);      // E_p[z],
  std::vector<double> gradient_ = std::vector<double>(kDim);  // and dp(y)/dq.
  TrainingOptions options_;
  std::vector<TrainingResult> results_;
  TrainingGradients gradients_;
};

TEST_F(TrainingSamplingTest, TheSampledMarginalAndItsGradientAreUnbiased) {
  for (const int samples : {3, 1, 0}) {
    SCOPED_TRACE(samples);
    Retrieve(samples == 0 ? 10 : 10'000, samples, 80 + samples);
    // What Backward says: p^ = e^J and p^ dlog p^/dq.
    const auto ours = [&](int i) {
      Estimate estimate{.marginal = std::exp(gradients_.log_marginals[i])};
      for (int d = 0; d < kDim; ++d) estimate.gradient[d] = estimate.marginal * gradients_.query_gradients[i * kDim + d];
      return estimate;
    };
    EXPECT_LT(LargestZ(ours), 4);
    if (samples == 0) continue;  // The truth itself passes, which has no variance either.
    EXPECT_LT(LargestZ([&](int i) { return Written(i, {}); }), 4) << "the mutants' stem";

    EXPECT_GT(LargestZ([](int) { return Estimate(); }), 4) << "the constant zero";
    EXPECT_GT(LargestZ([&](int i) { return Written(i, {.tail = false, .renormalised = true}); }), 4) << "plain top-k";
    EXPECT_GT(LargestZ([&](int i) { return Written(i, {.tail = false}); }), 4) << "no tail";
    EXPECT_GT(LargestZ([&](int i) { return Written(i, {.sign = -1}); }), 4) << "a wrong sign";
    EXPECT_GT(LargestZ([&](int i) { return Written(i, {.weights = false}); }), 4) << "missing weights";
    EXPECT_GT(LargestZ([&](int i) { return Written(i, {.head = false}); }), 4) << "a deleted head";
    EXPECT_GT(LargestZ([&](int i) { return Written(i, {.inverse_temperature = -1}); }), 4) << "an inverted temperature";
    // The same of what Backward gave, so that the code itself and not its twin above is what they are tried on.
    EXPECT_GT(LargestZ([&](int i) {
                Estimate wrong = ours(i);
                for (double& g : wrong.gradient) g *= -1;
                return wrong;
              }),
              4);
    EXPECT_GT(LargestZ([&](int i) {
                Estimate wrong = ours(i);
                for (double& g : wrong.gradient) g *= kTemperature * kTemperature;
                return wrong;
              }),
              4);
  }
}

// The gradient of log p^ is a ratio N / D of unbiased sums: to first order its bias is (E[N] var(D) / p^3 - cov(N, D) / p^2) / m, with the
// moments of one draw.
TEST_F(TrainingSamplingTest, TheBiasOfTheLogarithmsGradientFallsAsOneByM) {
  Retrieve(1, 1, 1);
  const std::vector<std::string> ids = IdsOf(results_[0].hits);
  const std::set<std::string> head(ids.begin(), ids.end());
  double tail_mass = 0, likelihood = 0, squared = 0;  // Of the tail: mass, E[e^l], E[e^2l]; and of (z - E_p[z]) / tau times e^l and e^2l.
  std::vector<double> slope(kDim), squared_slope(kDim);
  for (const auto& [id, p] : NaiveProbabilities(world_.vectors, query_, kTemperature)) {
    if (head.count(id)) continue;
    const double e = std::exp(likelihoods_.at(id));
    tail_mass += p;
    likelihood += p * e;
    squared += p * e * e;
    for (int d = 0; d < kDim; ++d) {
      slope[d] += p * e * (world_.vectors.at(id)[d] - mean_[d]) / kTemperature;
      squared_slope[d] += p * e * e * (world_.vectors.at(id)[d] - mean_[d]) / kTemperature;
    }
  }
  // E over pi is the sum over the tail by its mass; each draw comes with the factor 1 - P_T.
  const double variance = tail_mass * squared - likelihood * likelihood;
  std::vector<double> first_order(kDim);
  double length = 0;
  for (int d = 0; d < kDim; ++d) {
    const double covariance = tail_mass * squared_slope[d] - slope[d] * likelihood;
    first_order[d] = gradient_[d] * variance / std::pow(marginal_, 3) - covariance / std::pow(marginal_, 2);
    length += first_order[d] * first_order[d];
  }
  length = std::sqrt(length);

  for (const int samples : {8, 32}) {
    const int repeats = 8000;
    Retrieve(repeats, samples, 90 + samples);
    double sum = 0, squares = 0;
    for (int i = 0; i < repeats; ++i) {
      double along = 0;
      for (int d = 0; d < kDim; ++d)
        along += (gradients_.query_gradients[i * kDim + d] - gradient_[d] / marginal_) * first_order[d] / length;
      sum += along;
      squares += along * along;
    }
    const double bias = sum / repeats;
    const double deviation = std::sqrt((squares / repeats - bias * bias) / repeats);
    // Beside the noise, the terms of higher order are allowed: they fall as 1/m^2.
    EXPECT_NEAR(bias * samples / length, 1, 4 * deviation * samples / length + 1.5 / samples) << samples;
    EXPECT_GT(bias, 4 * deviation) << samples << ": a bias that is not seen shows nothing";
  }
}

}  // namespace
}  // namespace loci
