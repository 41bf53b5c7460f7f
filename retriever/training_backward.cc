// The backward half of training_estimator.h.
#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/field_error.h"
#include "base/status_macros.h"
#include "retriever/training_estimator.h"

namespace loci {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

double LogSumExp(std::span<const double> values) {
  double max = -kInfinity, sum = 0;
  for (const double value : values) max = std::max(max, value);
  if (max == -kInfinity) return max;
  for (const double value : values) sum += std::exp(value - max);
  return max + std::log(sum);
}

// Whether the columns beyond the hits, of the null or the draws, have something behind them.
bool HasOutside(const TrainingOptions& options, const TrainingResult& result) {
  return options.estimator == Estimator::kExactZTail ? !result.tail_hits.empty() : result.log_null_prob > -kInfinity;
}

struct Checked {
  MatrixView<const double> rows;
  bool likelihoods = false;
};

absl::StatusOr<Checked> CheckFeedback(MatrixView<const double> queries, const TrainingOptions& options,
                                      std::span<const TrainingResult> results, int dim, const TrainingFeedback& feedback) {
  if (queries.rows != static_cast<int64_t>(results.size()) || (queries.rows > 0 && queries.cols != dim)) {
    return FieldError("query_vectors", absl::StrCat("[", queries.rows, ", ", queries.cols, "] query vectors for ", results.size(),
                                                 " results of dimension ", dim));
  }
  Checked checked;
  checked.likelihoods = feedback.log_likelihoods.rows > 0;
  if (checked.likelihoods == (feedback.grad_log_probs.rows > 0)) {
    return FieldError("log_likelihoods", checked.likelihoods ? "both log_likelihoods and grad_log_probs have rows; one of them must have none"
                                                          : "neither log_likelihoods nor grad_log_probs has rows");
  }
  checked.rows = checked.likelihoods ? feedback.log_likelihoods : feedback.grad_log_probs;
  const std::string field = checked.likelihoods ? "log_likelihoods" : "grad_log_probs";
  if (checked.rows.cols != FeedbackColumns(options)) {
    return FieldError(field, absl::StrCat(field, " has ", checked.rows.cols, " columns, what was retrieved has ", FeedbackColumns(options)));
  }
  if (feedback.row_query.empty() ? checked.rows.rows != queries.rows
                                 : static_cast<int64_t>(feedback.row_query.size()) != checked.rows.rows) {
    return FieldError(feedback.row_query.empty() ? field : "row_query",
                   absl::StrCat(field, " has ", checked.rows.rows, " rows for ", queries.rows, " queries and a row_query of ",
                                feedback.row_query.size()));
  }
  for (size_t row = 0; row < feedback.row_query.size(); ++row) {
    if (feedback.row_query[row] < 0 || feedback.row_query[row] >= queries.rows) {
      return FieldError("row_query",
                     absl::StrCat("row_query[", row, "] is ", feedback.row_query[row], ", it must be in [0, ", queries.rows, ")"));
    }
  }
  for (int64_t row = 0; row < checked.rows.rows; ++row) {
    if (row % 64 == 0) LOCI_RETURN_IF_ERROR(options.search.limits.Check(RealClock().NowMicros()));
    for (int64_t c = 0; c < checked.rows.cols; ++c) {
      const double value = checked.rows.row(row)[c];
      if (checked.likelihoods ? value < kInfinity : std::isfinite(value)) continue;  // False for NaN.
      return FieldError(field, absl::StrCat(field, " has ", value, " in row ", row, ", column ", c,
                                         checked.likelihoods ? "; it must be a number below +infinity" : "; it must be finite"));
    }
  }
  if (feedback.max_log_likelihood.has_value() && !(*feedback.max_log_likelihood < kInfinity)) {
    return FieldError("max_log_likelihood",
                   absl::StrCat("max_log_likelihood is ", *feedback.max_log_likelihood, "; it must be a number below +infinity"));
  }
  if (!checked.likelihoods || !feedback.max_log_likelihood.has_value()) return checked;
  for (int64_t row = 0; row < checked.rows.rows; ++row) {
    const TrainingResult& result = results[feedback.row_query.empty() ? row : feedback.row_query[row]];
    if (!HasOutside(options, result)) continue;
    for (int64_t c = options.search.top_k; c < checked.rows.cols; ++c) {
      const double value = checked.rows.row(row)[c];
      if (value <= *feedback.max_log_likelihood) continue;
      return FieldError("max_log_likelihood", absl::StrCat("max_log_likelihood is ", *feedback.max_log_likelihood, ", but row ", row,
                                                        ", column ", c, " of log_likelihoods, outside the head, is ", value));
    }
  }
  return checked;
}

bool AllFinite(std::span<const double> values) {
  return std::all_of(values.begin(), values.end(), [](double value) { return std::isfinite(value); });
}

// Of sums that leave float64: of finite numbers, but so large that what comes of them is none.
absl::Status TooLarge(const Checked& checked, int64_t query, const char* what) {
  const std::string field = checked.likelihoods ? "log_likelihoods" : "grad_log_probs";
  return FieldError(field, absl::StrCat("the ", what, " of query ", query, " is not finite: ", field, " is too large for the temperature"));
}

// What multiplies each vector in a query's gradient, summed over its rows.
struct Coefficients {
  std::vector<double> columns;  // Of the hits, then of the null or the draws.
  double mean = 0;              // Taken off: of E_p[z].
};

// Bounds the error of one row (training_estimator.h). `terms` holds log p_i + l_i of T, `outside` what the posterior has outside T.
double Certificate(const TrainingOptions& options, const TrainingResult& result, std::span<const double> terms, double outside,
                   double max_log_likelihood) {
  const double head_correction =
      options.estimator == Estimator::kTopK ? std::log1p(-std::exp(result.log_tail_mass)) : 0;  // To the exact p.
  const double log_head = LogSumExp(terms) + head_correction;
  const double log_tail = result.log_tail_mass + max_log_likelihood;
  double bound = log_tail == -kInfinity ? 0 : log_head == -kInfinity ? 1 : 1 / (1 + std::exp(log_head - log_tail));
  bound = std::max(bound, outside);
  if (std::isnan(result.log_tail_mass)) bound = kNan;
  if (options.estimator == Estimator::kTopK) bound += std::exp(result.log_tail_mass);
  return 2 * result.max_length / options.temperature * bound;
}

}  // namespace

int64_t FeedbackColumns(const TrainingOptions& options) {
  return options.search.top_k + (options.estimator == Estimator::kExactZNull ? 1 : options.tail_samples);
}

absl::StatusOr<TrainingGradients> BackwardForTraining(const View& view, MatrixView<const double> queries, const TrainingOptions& options,
                                                      std::span<const TrainingResult> results, const TrainingFeedback& feedback) {
  const int dim = view.dim();
  const RequestLimits& limits = options.search.limits;
  LOCI_ASSIGN_OR_RETURN(const Checked checked, CheckFeedback(queries, options, results, dim, feedback));
  const int64_t query_count = queries.rows;
  const int64_t columns = checked.rows.cols;
  const int64_t top_k = options.search.top_k;

  TrainingGradients gradients;
  gradients.certificates.assign(static_cast<size_t>(query_count),
                                checked.likelihoods && feedback.max_log_likelihood.has_value() ? 0 : kNan);
  const bool keeps_posteriors = checked.likelihoods && feedback.include_likelihood_gradients;
  if (keeps_posteriors) gradients.likelihood_gradients.assign(static_cast<size_t>(checked.rows.rows * columns), 0);
  std::vector<Coefficients> coefficients(static_cast<size_t>(query_count));
  for (Coefficients& own : coefficients) own.columns.assign(static_cast<size_t>(columns), 0);

  std::vector<double> terms;
  for (int64_t row = 0; row < checked.rows.rows; ++row) {
    if (row % 64 == 0) LOCI_RETURN_IF_ERROR(limits.Check(RealClock().NowMicros()));
    const int64_t query = feedback.row_query.empty() ? row : feedback.row_query[row];
    const TrainingResult& result = results[query];
    Coefficients& own = coefficients[query];
    const double* const values = checked.rows.row(row);
    const int64_t hit_count = static_cast<int64_t>(result.hits.size());
    // log of the prior weight of each column; -infinity where nothing stands behind it.
    const bool draws = options.estimator == Estimator::kExactZTail;
    const double log_outside = draws ? result.log_null_prob - std::log(static_cast<double>(options.tail_samples)) : result.log_null_prob;
    const bool outside_present = HasOutside(options, result);
    const auto log_weight = [&](int64_t c) {
      return c < hit_count ? result.log_probs[c] : c >= top_k && outside_present ? log_outside : -kInfinity;
    };
    if (!checked.likelihoods) {
      for (int64_t c = 0; c < columns; ++c) {
        if (log_weight(c) == -kInfinity && !(c < hit_count)) continue;
        own.columns[c] += values[c];
        own.mean += values[c];
      }
      continue;
    }
    terms.assign(static_cast<size_t>(columns), -kInfinity);
    for (int64_t c = 0; c < columns; ++c) terms[c] = log_weight(c) + values[c];
    const double log_marginal = LogSumExp(terms);
    gradients.log_marginals.push_back(log_marginal);
    double outside = 0;
    if (log_marginal > -kInfinity) {
      for (int64_t c = 0; c < columns; ++c) {
        const double posterior = std::exp(terms[c] - log_marginal);
        if (keeps_posteriors) gradients.likelihood_gradients[row * columns + c] = posterior;
        own.columns[c] += posterior;
        if (c >= top_k) outside += posterior;
      }
      own.mean += 1;
    }
    if (feedback.max_log_likelihood.has_value()) {
      gradients.certificates[query] +=
          Certificate(options, result, std::span(terms).first(static_cast<size_t>(hit_count)), outside, *feedback.max_log_likelihood);
    }
  }

  gradients.query_gradients.assign(static_cast<size_t>(query_count * dim), 0);
  if (feedback.include_passage_gradients) gradients.passage_gradients.assign(static_cast<size_t>(query_count * top_k * dim), 0);
  std::vector<float> vector(static_cast<size_t>(dim));
  for (int64_t query = 0; query < query_count; ++query) {
    LOCI_RETURN_IF_ERROR(limits.Check(RealClock().NowMicros()));
    const TrainingResult& result = results[query];
    const Coefficients& own = coefficients[query];
    double* const gradient = gradients.query_gradients.data() + query * dim;
    const auto add = [&](ViewRow row, double coefficient) -> absl::Status {
      if (coefficient == 0) return absl::OkStatus();
      LOCI_RETURN_IF_ERROR(view.CopyVector(row, vector.data()));
      for (int d = 0; d < dim; ++d) gradient[d] += coefficient * vector[d];
      return absl::OkStatus();
    };
    for (size_t i = 0; i < result.hits.size(); ++i) LOCI_RETURN_IF_ERROR(add(result.hits[i].row, own.columns[i]));
    for (size_t j = 0; j < result.tail_hits.size(); ++j) {
      if (j % 1024 == 1023) LOCI_RETURN_IF_ERROR(limits.Check(RealClock().NowMicros()));
      LOCI_RETURN_IF_ERROR(add(result.tail_hits[j].row, own.columns[top_k + static_cast<int64_t>(j)]));
    }
    const double null = options.estimator == Estimator::kExactZNull ? own.columns[top_k] : 0;
    for (int d = 0; d < dim; ++d) {
      const double tail = null == 0 ? 0 : null * result.tail_mean[d];
      gradient[d] = (gradient[d] + tail - own.mean * result.mean_vector[d]) / options.temperature;
    }
    if (!AllFinite({gradient, static_cast<size_t>(dim)})) return TooLarge(checked, query, "gradient");
    if (!feedback.include_passage_gradients) continue;
    for (size_t i = 0; i < result.hits.size(); ++i) {
      const double factor = (own.columns[i] - own.mean * std::exp(result.log_probs[i])) / options.temperature;
      double* const out = gradients.passage_gradients.data() + (query * top_k + static_cast<int64_t>(i)) * dim;
      for (int d = 0; d < dim; ++d) out[d] = factor * queries.row(query)[d];
      if (!AllFinite({out, static_cast<size_t>(dim)})) return TooLarge(checked, query, "passage gradient");
    }
  }
  return gradients;
}

}  // namespace loci
