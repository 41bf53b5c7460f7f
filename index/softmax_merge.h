// What the workers of a softmax scan bring, merged in the order of the ranges whatever the order of their coming.
#ifndef LOCI_INDEX_SOFTMAX_MERGE_H_
#define LOCI_INDEX_SOFTMAX_MERGE_H_

#include <cstdint>
#include <map>
#include <vector>

#include "absl/status/status.h"
#include "base/mutex.h"

namespace loci {

// (max, sum, weighted) += (other_max, other_sum, other_weighted), both [dim] or neither there (softmax_scan.h).
void MergeSoftmax(double* max, double* sum, double* weighted, double other_max, double other_sum, const double* other_weighted,
                  int64_t dim, double temperature);

// The triples of a slice of queries over some rows.
struct SoftmaxPartial {
  std::vector<double> max, sum, weighted;  // [queries], [queries], [queries, dim] or empty.

  void Reset(int64_t query_count, int64_t weighted_count);  // To those of no rows.
};

// Memory is bounded by `max_ahead` partials that came early, and one for each thread that waits. Thread-safe.
class OrderedMerge {
 public:
  OrderedMerge(int64_t query_count, int64_t weighted_dim, double temperature, int64_t max_ahead);

  // Takes the partial of range 0, 1, ..., each once, and leaves in `partial` a buffer for the next. Blocks while the range is more than
  // max_ahead beyond the first that is missing: whoever takes ranges in their order and adds or fails each that was taken is never held up
  // for ever, since the thread of the first missing one does not wait.
  void Add(int64_t range, SoftmaxPartial* partial);
  // Nobody waits any more: the total is of no use.
  void Fail(const absl::Status& status);
  void NoteLength(float max_squared_length);
  // Once all threads are done. The first failure, else OK.
  absl::Status Finish(SoftmaxPartial* total, float* max_squared_length);

  int64_t parked_count() const;   // Partials that came early,
  int64_t waiting_count() const;  // and threads that wait, for tests.

 private:
  const int64_t weighted_dim_;
  const double temperature_;
  const int64_t max_ahead_;
  mutable Mutex mutex_;
  CondVar moved_;  // next_ or failure_ changed.
  SoftmaxPartial total_ ABSL_GUARDED_BY(mutex_);
  int64_t next_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t waiting_ ABSL_GUARDED_BY(mutex_) = 0;
  std::map<int64_t, SoftmaxPartial> parked_ ABSL_GUARDED_BY(mutex_);
  float max_squared_length_ ABSL_GUARDED_BY(mutex_) = -1;  // Of no row.
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace loci

#endif  // LOCI_INDEX_SOFTMAX_MERGE_H_
