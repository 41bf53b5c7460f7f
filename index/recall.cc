#include "index/recall.h"

#include <algorithm>
#include <cmath>
#include <random>

#include "base/status_macros.h"

namespace loci {

constexpr int64_t kBatch = 32;  // Between looks at the limits.

absl::StatusOr<RecallMeter> RecallMeter::Create(const PassageIndex& exact, MatrixView<const float> queries, int top_k,
                                                const RequestLimits& limits) {
  RecallMeter meter(queries, top_k);
  meter.possible_ = std::min<int64_t>(top_k, exact.row_count());
  if (meter.possible_ == 0) return meter;
  IndexSearchOptions options;
  options.top_k = top_k;
  options.exact = true;
  options.limits = limits;
  std::vector<RowHit> truth(static_cast<size_t>(kBatch * top_k));
  for (int64_t first = 0; first < queries.rows; first += kBatch) {
    const MatrixView<const float> batch = {queries.row(first), std::min(kBatch, queries.rows - first), queries.cols};
    LOCI_RETURN_IF_ERROR(exact.Search(batch, options, RowMask(), truth.data()));
    for (int64_t q = 0; q < batch.rows; ++q) meter.least_.push_back(truth[static_cast<size_t>(q * top_k + meter.possible_ - 1)].score);
  }
  return meter;
}

absl::StatusOr<std::vector<double>> RecallMeter::Measure(const PassageIndex& index, IndexSearchOptions options, const RequestLimits& limits) const {
  std::vector<double> recalls(static_cast<size_t>(queries_.rows), 1.0);
  if (possible_ == 0) return recalls;
  options.top_k = top_k_;
  options.limits = limits;
  std::vector<RowHit> found(static_cast<size_t>(kBatch * top_k_));
  for (int64_t first = 0; first < queries_.rows; first += kBatch) {
    const MatrixView<const float> batch = {queries_.row(first), std::min(kBatch, queries_.rows - first), queries_.cols};
    LOCI_RETURN_IF_ERROR(index.Search(batch, options, RowMask(), found.data()));
    for (int64_t q = 0; q < batch.rows; ++q) {
      int64_t right = 0;
      for (int64_t i = 0; i < possible_; ++i) {
        const RowHit& hit = found[static_cast<size_t>(q * top_k_ + i)];
        right += hit.row >= 0 && hit.score >= least_[static_cast<size_t>(first + q)] ? 1 : 0;
      }
      recalls[static_cast<size_t>(first + q)] = static_cast<double>(right) / static_cast<double>(possible_);
    }
  }
  return recalls;
}

double MeanRecall(const std::vector<double>& recalls) {
  if (recalls.empty()) return 1;
  long double sum = 0;  // So that the mean of equal recalls is that recall.
  for (const double recall : recalls) sum += recall;
  return static_cast<double>(sum / static_cast<long double>(recalls.size()));
}

absl::StatusOr<double> MeasureRecall(const PassageIndex& index, const PassageIndex& exact, MatrixView<const float> queries, int top_k,
                                     const RequestLimits& limits) {
  LOCI_ASSIGN_OR_RETURN(const RecallMeter meter, RecallMeter::Create(exact, queries, top_k, limits));
  LOCI_ASSIGN_OR_RETURN(const std::vector<double> recalls, meter.Measure(index, {}, limits));
  return MeanRecall(recalls);
}

std::vector<float> MakeMidpointQueries(const VectorFile& vectors, int64_t count) {
  if (vectors.rows() < 2) return {};
  const int dim = vectors.dim();
  // Only the engine's raw output is the same with every standard library.
  std::mt19937_64 random(0x10c1);
  const auto uniform = [&] { return static_cast<double>(random() >> 11) * 0x1p-53; };
  const auto normal = [&] { return std::sqrt(-2 * std::log(1 - uniform())) * std::cos(2 * M_PI * uniform()); };
  std::vector<float> queries(count * dim), other(dim);
  for (int64_t q = 0; q < count; ++q) {
    float* query = queries.data() + q * dim;
    const int64_t a = static_cast<int64_t>(random() % static_cast<uint64_t>(vectors.rows()));
    const int64_t b = (a + 1 + static_cast<int64_t>(random() % static_cast<uint64_t>(vectors.rows() - 1))) % vectors.rows();
    vectors.CopyRow(a, query);
    vectors.CopyRow(b, other.data());
    double squares = 0;
    for (int d = 0; d < dim; ++d) {
      query[d] = 0.5f * query[d] + 0.5f * other[d];
      squares += static_cast<double>(query[d]) * query[d];
    }
    const double noise = 0.25 * std::sqrt(squares / dim);
    for (int d = 0; d < dim; ++d) {
      const float perturbed = query[d] + static_cast<float>(noise * normal());
      if (std::isfinite(perturbed)) query[d] = perturbed;
    }
  }
  return queries;
}

}  // namespace loci
