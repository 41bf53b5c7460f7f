// How long it takes to search so many queries in one pass over all vectors: whether a search that is soon due can wait for that of others.
#ifndef LOCI_RETRIEVER_PASS_FORECAST_H_
#define LOCI_RETRIEVER_PASS_FORECAST_H_

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>

#include "base/mutex.h"

namespace loci {

// By passes of late with about as many queries (within a factor of two), each a share of its vectors' elements, so that a large store's say more
// than a small one's. Thread-safe.
class PassForecast {
 public:
  // A pass of `query_count` queries over `element_count` (rows times dim) took `us`.
  void Took(int64_t query_count, int64_t element_count, int64_t us) {
    if (query_count < 1 || element_count < 1) return;
    const double elements = static_cast<double>(element_count);
    const double us_per_element = static_cast<double>(us) / elements;
    MutexLock lock(&mutex_);
    Passes& passes = passes_[SizeOf(query_count)];
    if (elements > 2 * passes.elements) {  // The first, or one that is told apart from what small ones cost beside their vectors.
      passes = {.elements = elements, .us_per_element = us_per_element};
      return;
    }
    passes.elements = std::max(elements, 0.99 * passes.elements);
    passes.us_per_element += 0.5 * elements / passes.elements * (us_per_element - passes.us_per_element);
  }

  // 0: none of about so many queries was measured yet.
  int64_t Micros(int64_t query_count, int64_t element_count) const {
    MutexLock lock(&mutex_);
    return static_cast<int64_t>(passes_[SizeOf(query_count)].us_per_element * static_cast<double>(element_count));
  }

  // A pass of `query_count` queries was not made for its forecast's sake. What is not tried is not measured, so it is believed a little less each
  // time: one that was measured in a bad moment is tried again.
  void Avoided(int64_t query_count) {
    MutexLock lock(&mutex_);
    passes_[SizeOf(query_count)].us_per_element *= 1 - 1.0 / 64;
  }

 private:
  static constexpr size_t kSizes = 7;  // 1, 2 and 3, 4 to 7, ..., 64 and more.
  struct Passes {
    double elements = 0;  // Of the largest of late.
    double us_per_element = 0;
  };

  static size_t SizeOf(int64_t query_count) {
    return std::min<size_t>(static_cast<size_t>(std::bit_width(static_cast<uint64_t>(std::max<int64_t>(query_count, 1)))) - 1, kSizes - 1);
  }

  mutable Mutex mutex_;
  std::array<Passes, kSizes> passes_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace loci

#endif  // LOCI_RETRIEVER_PASS_FORECAST_H_
