#include "base/ranking_metrics.h"

#include <algorithm>
#include <cmath>
#include <functional>

namespace loci {
namespace {

double Discount(size_t rank) { return std::log2(static_cast<double>(rank) + 1); }

}  // namespace

bool HasRelevant(const Grades& grades) {
  return std::any_of(grades.begin(), grades.end(), [](const auto& entry) { return entry.second > 0; });
}

RankingMetrics EvaluateRanking(const std::vector<std::string>& ranking, const Grades& grades) {
  std::vector<int> ideal;
  for (const auto& [document, grade] : grades) {
    if (grade > 0) ideal.push_back(grade);
  }
  RankingMetrics metrics;
  if (ideal.empty()) return metrics;
  std::sort(ideal.begin(), ideal.end(), std::greater<>());
  double ideal_gain = 0;
  for (size_t i = 0; i < ideal.size() && i < 10; ++i) ideal_gain += ideal[i] / Discount(i + 1);

  double gain = 0;
  int found_at_10 = 0, found_at_100 = 0;
  for (size_t rank = 1; rank <= ranking.size() && rank <= 100; ++rank) {
    const auto entry = grades.find(ranking[rank - 1]);
    if (entry == grades.end() || entry->second <= 0) continue;
    ++found_at_100;
    if (rank > 10) continue;
    if (++found_at_10 == 1) metrics.mrr_at_10 = 1.0 / static_cast<double>(rank);
    gain += entry->second / Discount(rank);
  }
  const double relevant_count = static_cast<double>(ideal.size());
  metrics.ndcg_at_10 = gain / ideal_gain;
  metrics.recall_at_10 = found_at_10 / relevant_count;
  metrics.recall_at_100 = found_at_100 / relevant_count;
  return metrics;
}

}  // namespace loci
