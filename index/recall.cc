#include "index/recall.h"

#include <algorithm>
#include <cmath>
#include <random>

#include "base/status_macros.h"

namespace loci {

absl::StatusOr<double> MeasureRecall(const PassageIndex& index, const PassageIndex& exact, MatrixView<const float> queries, int top_k,
                                     const RequestLimits& limits) {
  if (queries.rows == 0 || exact.row_count() == 0) return 1.0;
  constexpr int64_t kBatch = 32;  // Between looks at the limits.
  IndexSearchOptions options;
  options.top_k = top_k;
  options.limits = limits;
  IndexSearchOptions exact_options = options;
  exact_options.exact = true;
  std::vector<RowHit> truth(kBatch * top_k), found(kBatch * top_k);
  const int64_t possible = std::min<int64_t>(top_k, exact.row_count());
  int64_t found_count = 0;
  for (int64_t first = 0; first < queries.rows; first += kBatch) {
    const MatrixView<const float> batch = {queries.row(first), std::min(kBatch, queries.rows - first), queries.cols};
    LOCI_RETURN_IF_ERROR(exact.Search(batch, exact_options, RowMask(), truth.data()));
    LOCI_RETURN_IF_ERROR(index.Search(batch, options, RowMask(), found.data()));
    for (int64_t q = 0; q < batch.rows; ++q) {
      const float last = truth[q * top_k + possible - 1].score;
      for (int64_t i = 0; i < possible; ++i) {
        const RowHit& hit = found[q * top_k + i];
        found_count += hit.row >= 0 && hit.score >= last ? 1 : 0;
      }
    }
  }
  return static_cast<double>(found_count) / static_cast<double>(queries.rows * possible);
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
