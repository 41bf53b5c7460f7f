// How much of the exact result approximate searches find, measured on what clients ask: a share of their queries is searched again, exactly,
// while nothing waits for the threads.
//
//   LiveRecall recall({.pool = &compute_pool, .share = 0.01});
//   recall.Offer(serving_set, queries, options);     // after a search whose reply was not exact
//   for (const GaugeSample& sample : recall.Metrics()) ...
#ifndef LOCI_RETRIEVER_LIVE_RECALL_H_
#define LOCI_RETRIEVER_LIVE_RECALL_H_

#include <atomic>
#include <cstdint>
#include <deque>
#include <list>
#include <memory>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/gauge_sample.h"
#include "base/matrix.h"
#include "base/metrics.h"
#include "base/mutex.h"
#include "base/thread_pool.h"
#include "index/passage_index.h"
#include "retriever/serving_set.h"

namespace loci {

// A mean of values in [0, 1] and the interval that holds the true one with 95 % confidence.
struct RecallEstimate {
  double mean = 0;
  double low = 0;
  double high = 1;
  int64_t query_count = 0;
};

// Wilson's score interval (1927, "Probable inference, the law of succession, and statistical inference"), taking each query's recall as one
// trial: a mean of values in [0, 1] varies no more than a proportion does, so that the interval is at least as wide as it must be, and
// not empty where every query found everything. [0, 1] around 0 for no query.
RecallEstimate EstimateRecall(double sum, int64_t query_count);

// Thread-safe.
class LiveRecall {
 public:
  struct Options {
    ThreadPool* pool = nullptr;        // Borrowed. Measures, one query at a time and only while nothing else waits for it.
    double share = 0.01;               // Of the queries; 0: none.
    int64_t window = 1'000;            // The newest queries of a generation that its estimate is made of.
    Clock* clock = &RealClock();
    MetricsSink* metrics = &NullMetrics();
  };
  explicit LiveRecall(Options options);

  // Of a search that was answered by `set` with these options, not exactly: draws some of its queries ([n, dim]) and has one of them searched
  // again. Cheap, and does not wait. This object must live until the pool has run what it was given.
  void Offer(const std::shared_ptr<const ServingSet>& set, MatrixView<const float> queries, const IndexSearchOptions& options);

  // Of each generation that is still held by something and was measured: loci_recall_at_10_estimate with `store`, `generation` and `bound`
  // (mean, low, high), and how many queries it is made of.
  std::vector<GaugeSample> Metrics() const;

 private:
  struct Measured {
    std::string store;
    std::weak_ptr<const Generation> generation;
    std::string id;
    std::deque<float> recalls;  // Oldest first.
    double sum = 0;
  };
  bool Draw();
  void Measure(const ServingSet& set, const std::vector<float>& query, IndexSearchOptions options);
  void Add(const ServingSet& set, double recall);

  const Options options_;
  Counter& measured_count_;
  Counter& skipped_count_;
  std::atomic<uint64_t> offered_{0};  // Decides which query is drawn, so that a run can be repeated.
  std::atomic<bool> measuring_{false};
  mutable Mutex mutex_;
  std::list<Measured> measured_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace loci

#endif  // LOCI_RETRIEVER_LIVE_RECALL_H_
