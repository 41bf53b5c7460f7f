// Limits that FAISS's long loops keep: k-means, the linking of graphs and the search of inverted lists, once a query, ask whether to go on.
#ifndef LOCI_INDEX_FAISS_LIMITS_H_
#define LOCI_INDEX_FAISS_LIMITS_H_

#include "base/cancellation.h"

namespace loci {

// What a thread calls before it uses FAISS in any way: FAISS reads what this sets without a lock. The first call counts. Thread-safe.
void InstallFaissLimits();

// While one lives, what FAISS computes on this thread ends with a faiss::FaissException soon after `limits` (borrowed) end. Other threads, and
// those that OpenMP starts, are not concerned. Scopes may be nested: the inner one counts. Used by one thread.
class ScopedFaissLimits {
 public:
  explicit ScopedFaissLimits(const RequestLimits& limits);
  ~ScopedFaissLimits();
  ScopedFaissLimits(const ScopedFaissLimits&) = delete;
  ScopedFaissLimits& operator=(const ScopedFaissLimits&) = delete;

 private:
  const RequestLimits* const outer_;
};

// Whether the limits of this thread's scope have ended, for our own loops inside of FAISS's; false where it has none. About 30 ns.
bool FaissLimitsEnded();

}  // namespace loci

#endif  // LOCI_INDEX_FAISS_LIMITS_H_
