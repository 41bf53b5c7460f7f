// How far an approximate index looks, and what was measured of it.
#ifndef LOCI_INDEX_SEARCH_LADDER_H_
#define LOCI_INDEX_SEARCH_LADDER_H_

#include <vector>

namespace loci {

// Of one search. 0: the index's own default.
struct SearchParameters {
  int nprobe = 0;
  int ef_search = 0;
  int rescore_factor = 0;

  bool operator==(const SearchParameters&) const = default;
};

// Recalls of a ladder are of so many hits.
inline constexpr int kLadderTopK = 10;

// A step of a ladder.
struct MeasuredSearch {
  SearchParameters parameters;
  double recall_at_10 = 0;  // Against the exact index, of queries that are not passages.
  double recall_bound = 0;  // The lower end of its one-sided 95 % interval.
  double latency_us = 0;    // CPU time of one query.
};

// What a generation's index is searched with where a request says nothing, and what may be chosen from where it names a recall.
struct SearchLadder {
  SearchParameters defaults;
  std::vector<MeasuredSearch> steps;  // In any order; empty: nothing was measured.
};

// The step with the least latency among those whose recall_bound is at least `target`; null where there is none. Points into `ladder`.
inline const MeasuredSearch* CheapestStep(const SearchLadder& ladder, double target) {
  const MeasuredSearch* best = nullptr;
  for (const MeasuredSearch& step : ladder.steps) {
    if (step.recall_bound >= target && (best == nullptr || step.latency_us < best->latency_us)) best = &step;
  }
  return best;
}

}  // namespace loci

#endif  // LOCI_INDEX_SEARCH_LADDER_H_
