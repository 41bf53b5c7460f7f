#include "retriever/testing/training_world.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/logging.h"

namespace loci {

TrainingWorld::TrainingWorld(const TrainingWorldOptions& options) : directory(absl::StrCat("training_world_", options.seed)) {
  std::mt19937_64 random(options.seed);
  std::normal_distribution<float> normal(0, static_cast<float>(options.scale / std::sqrt(options.dim)));
  TestContents contents;
  const auto passage = [&](const std::string& text) {
    TestPassage made{text, std::vector<float>(options.dim)};
    for (float& x : made.vector) x = normal(random);
    return made;
  };
  for (int i = 0; i < options.body; ++i) contents[absl::StrCat("p", 100 + i)] = passage("body");
  auto opened = Store::Open(JoinPath(directory.path(), "s"), "s", {});
  LOCI_CHECK(opened.ok());
  store = *std::move(opened);
  BuildOptions build;
  build.dim = options.dim;
  build.index = options.index;
  build.element_type = options.type;
  build.base_revision = -1;
  build.passage_fingerprint = "0123456789abcdef";
  const auto generation = BuildGeneration(*store, contents, build);
  LOCI_CHECK(generation.ok());
  LOCI_CHECK(store->Activate(*store->OpenGeneration(*generation, true), WritesPolicy::kRefuse).ok());

  std::vector<PassageWrite> writes;
  for (int i = 0; i < options.written; ++i) {
    const std::string id = i % 2 == 0 && options.body > 0 ? absl::StrCat("p", 100 + random() % options.body) : absl::StrCat("w", i);
    contents[id] = passage("written");
    writes.push_back(Upsert(id, contents[id]));
  }
  for (int i = 0; i < options.deleted && !contents.empty(); ++i) {
    const std::string id = std::next(contents.begin(), static_cast<int64_t>(random() % contents.size()))->first;
    contents.erase(id);
    writes.push_back(Deletion(id));
  }
  if (!writes.empty()) LOCI_CHECK(store->Write(writes).ok());
  view = store->view();
  LOCI_CHECK(view->passage_count() == static_cast<int64_t>(contents.size()));
  for (const auto& [id, made] : contents) {
    std::vector<float> stored = made.vector;
    std::vector<uint16_t> halves(stored.size());
    if (options.type == ElementType::kFloat16) {
      Float32ToFloat16(stored.data(), halves.data(), stored.size());
      Float16ToFloat32(halves.data(), stored.data(), stored.size());
    } else if (options.type == ElementType::kBfloat16) {
      Float32ToBfloat16(stored.data(), halves.data(), stored.size());
      Bfloat16ToFloat32(halves.data(), stored.data(), stored.size());
    }
    vectors[id].assign(stored.begin(), stored.end());
  }
}

std::map<std::string, double> NaiveProbabilities(const std::map<std::string, std::vector<double>>& vectors,
                                                 const std::vector<double>& query, double temperature,
                                                 const std::set<std::string>& excluded) {
  std::map<std::string, double> values;
  double max = -1e300, sum = 0;
  for (const auto& [id, vector] : vectors) {
    if (excluded.count(id)) continue;
    double score = 0;
    for (size_t d = 0; d < vector.size(); ++d) score += query[d] * vector[d];
    max = std::max(max, values[id] = score / temperature);
  }
  for (auto& [id, value] : values) sum += value = std::exp(value - max);
  for (auto& [id, value] : values) value /= sum;
  return values;
}

std::vector<double> NaiveMarginal::LogWeights(const std::map<std::string, std::vector<double>>& vectors,
                                              const std::vector<double>& query) const {
  const std::map<std::string, double> p = NaiveProbabilities(vectors, query, temperature, excluded);
  double head_mass = 0, tail_mass = 0, held_tail = 0;
  const std::set<std::string> in_head(head.begin(), head.end());
  for (const auto& [id, probability] : p) (in_head.count(id) ? head_mass : tail_mass) += probability;
  for (const auto& [id, probability] : held) held_tail += in_head.count(id) ? 0 : probability;
  std::vector<double> weights;
  for (const std::string& id : head) weights.push_back(std::log(estimator == Estimator::kTopK ? p.at(id) / head_mass : p.at(id)));
  if (estimator == Estimator::kExactZNull) weights.push_back(std::log(tail_mass));
  for (const std::string& id : draws) weights.push_back(std::log(p.at(id) * held_tail / held.at(id) / static_cast<double>(draws.size())));
  return weights;
}

double NaiveMarginal::LogMarginal(const std::map<std::string, std::vector<double>>& vectors, const std::vector<double>& query) const {
  const std::vector<double> weights = LogWeights(vectors, query);
  double max = -1e300, sum = 0;
  for (size_t i = 0; i < weights.size(); ++i) max = std::max(max, weights[i] + log_likelihoods[i]);
  for (size_t i = 0; i < weights.size(); ++i) sum += std::exp(weights[i] + log_likelihoods[i] - max);
  return max + std::log(sum);
}

std::vector<double> FiniteDifferences(const std::function<double(const std::vector<double>&)>& f, std::vector<double> x, double step) {
  std::vector<double> slopes;
  for (double& value : x) {
    const double middle = value;
    const auto at = [&](double offset) {
      value = middle + offset;
      return f(x);
    };
    slopes.push_back((8 * (at(step) - at(-step)) - (at(2 * step) - at(-2 * step))) / (12 * step));
    value = middle;
  }
  return slopes;
}

double RelativeError(const std::vector<double>& a, const std::vector<double>& b) {
  LOCI_CHECK(a.size() == b.size());
  double error = 0, size = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    error += (a[i] - b[i]) * (a[i] - b[i]);
    size += b[i] * b[i];
  }
  return error == 0 ? 0 : std::sqrt(error / size);
}

std::vector<double> RandomVector(int dim, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<double> normal;
  std::vector<double> vector(static_cast<size_t>(dim));
  for (double& x : vector) x = normal(random);
  return vector;
}

FilteredRows FilterSome(const View& view) {
  std::vector<int64_t> hidden_body, hidden_overlay;
  for (int64_t row = 0; row < view.generation().row_count(); ++row) {
    if (!view.IsAlive({false, row}) || row % 3 == 0) hidden_body.push_back(row);
  }
  for (int64_t row = 0; row < view.overlay_row_count(); ++row) {
    if (!view.IsAlive({true, row}) || row % 2 == 0) hidden_overlay.push_back(row);
  }
  FilteredRows filtered;
  filtered.hidden_body = RowMask().WithHidden(hidden_body);
  filtered.hidden_overlay = RowMask().WithHidden(hidden_overlay);
  filtered.match_count =
      view.generation().row_count() + view.overlay_row_count() - static_cast<int64_t>(hidden_body.size() + hidden_overlay.size());
  return filtered;
}

std::vector<std::string> IdsOf(const std::vector<ViewHit>& hits) {
  std::vector<std::string> ids;
  for (const ViewHit& hit : hits) ids.push_back(hit.id);
  return ids;
}

}  // namespace loci
