// Small views for the tests of training, and what retrieval and gradients over them are, written down a second time: naive, in float64,
// from the definitions alone.
#ifndef LOCI_RETRIEVER_TESTING_TRAINING_WORLD_H_
#define LOCI_RETRIEVER_TESTING_TRAINING_WORLD_H_

#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "index/store.h"
#include "index/store_testing.h"
#include "retriever/training_estimator.h"

namespace loci {

struct TrainingWorldOptions {
  int dim = 8;
  int body = 60;     // Passages of the generation,
  int written = 12;  // upserted later, half of them over passages of the body,
  int deleted = 9;   // and deleted after that.
  ElementType type = ElementType::kFloat16;
  std::string index = "exact";
  double scale = 1;  // Length of a vector, about.
  uint64_t seed = 1;
};

// A view with a body, an overlay and deletions. Used by one thread.
struct TrainingWorld {
  explicit TrainingWorld(const TrainingWorldOptions& options);

  TestDirectory directory;
  std::unique_ptr<Store> store;
  std::shared_ptr<const View> view;
  std::map<std::string, std::vector<double>> vectors;  // As they are scored, of what is alive.
};

// A filter that takes away each third row of the body and each second one of the overlay.
FilteredRows FilterSome(const View& view);

// The probabilities of ids under softmax(q.z / temperature) over `vectors` without `excluded`.
std::map<std::string, double> NaiveProbabilities(const std::map<std::string, std::vector<double>>& vectors,
                                                 const std::vector<double>& query, double temperature,
                                                 const std::set<std::string>& excluded = {});

// The log p(y) of an estimator, as training_estimator.h defines it, for a fixed head and fixed draws.
struct NaiveMarginal {
  Estimator estimator = Estimator::kExactZNull;
  double temperature = 1;
  std::vector<std::string> head;
  std::vector<std::string> draws;
  std::vector<double> log_likelihoods;  // Of the head, then of the null or of the draws.
  std::map<std::string, double> held;   // p at the starting query, for the draws' pi.
  std::set<std::string> excluded;

  double LogMarginal(const std::map<std::string, std::vector<double>>& vectors, const std::vector<double>& query) const;
  // log p_i of the head (renormalised for kTopK), then log(1 - P_T) or the draws' log p_j / (pi_j m).
  std::vector<double> LogWeights(const std::map<std::string, std::vector<double>>& vectors, const std::vector<double>& query) const;
};

// df/dx[i] by central differences of fourth order.
std::vector<double> FiniteDifferences(const std::function<double(const std::vector<double>&)>& f, std::vector<double> x,
                                      double step = 1e-3);

// |a - b| / |b|, of vectors; 0 where both are zero.
double RelativeError(const std::vector<double>& a, const std::vector<double>& b);

std::vector<double> RandomVector(int dim, uint64_t seed);  // Normal deviates.
std::vector<std::string> IdsOf(const std::vector<ViewHit>& hits);

}  // namespace loci

#endif  // LOCI_RETRIEVER_TESTING_TRAINING_WORLD_H_
