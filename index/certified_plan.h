// How much a certified scan holds: the rows that may be among a query's best, one by one, in each thread.
#ifndef LOCI_INDEX_CERTIFIED_PLAN_H_
#define LOCI_INDEX_CERTIFIED_PLAN_H_

#include <algorithm>
#include <cstdint>

namespace loci {

// Of `count` things, where the i-th of so many nearly equal parts begins.
inline int64_t PartBegin(int64_t count, int64_t parts, int64_t i) { return count / parts * i + std::min(i, count % parts); }

// Of all queries of a pass in all threads together: 192 MiB, where every row is like the others.
inline constexpr int64_t kMaxPassCandidates = int64_t{1} << 23;

// More rows than that are not scored one by one.
inline int64_t CandidateLimit(int top_k) { return 4 * int64_t{top_k} + 4096; }
// That one thread holds of one query. Half a limit more: so many come, at least, between a look at all of them and the next.
inline int64_t MaxCandidates(int top_k) { return CandidateLimit(top_k) / 2 * 3; }

struct CertifiedPlan {
  int64_t workers = 1;
  int64_t queries = 1;  // Of one pass.

  // Who holds candidates: what several workers found comes together beside them.
  int64_t holders() const { return workers == 1 ? 1 : workers + 1; }
};

// The most workers, up to `workers` (at least 1), and then the most queries, up to `queries` (at least 1), that hold no more than
// kMaxPassCandidates. top_k in [1, kMaxTopK].
inline CertifiedPlan MakeCertifiedPlan(int64_t workers, int64_t queries, int top_k) {
  const int64_t candidates = MaxCandidates(top_k);
  CertifiedPlan plan;
  plan.workers = std::min(workers, kMaxPassCandidates / candidates - 1);
  plan.queries = std::min(queries, kMaxPassCandidates / (candidates * plan.holders()));
  return plan;
}

}  // namespace loci

#endif  // LOCI_INDEX_CERTIFIED_PLAN_H_
