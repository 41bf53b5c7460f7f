// What shows whether a training job goes wrong: retrieval that collapses onto few passages, certificates that say nothing, gradients that grow.
//
//   monitor.Retrieved(results);        // after each Retrieve
//   monitor.Differentiated(gradients); // after each Backward
#ifndef LOCI_RETRIEVER_TRAINING_MONITOR_H_
#define LOCI_RETRIEVER_TRAINING_MONITOR_H_

#include <cstdint>
#include <deque>
#include <span>
#include <unordered_map>
#include <vector>

#include "base/gauge_sample.h"
#include "base/metrics.h"
#include "base/mutex.h"
#include "retriever/training_estimator.h"

namespace loci {

// Thread-safe.
class TrainingMonitor {
 public:
  static constexpr size_t kWindowHits = 4'096;    // Retrieved passages that entropy and share are of,
  static constexpr size_t kMaxHitsOfQuery = 64;   // the best of each query.
  static constexpr size_t kWindowQueries = 1'024;  // That the means are of.

  void Retrieved(std::span<const TrainingResult> results);
  void Differentiated(const TrainingGradients& gradients);

  // loci_training_* with `labels`; only what there were any figures of.
  std::vector<GaugeSample> Metrics(const MetricLabels& labels) const;

 private:
  // The last values that were finite. Used under `mutex_`.
  class Window {
   public:
    void Add(double value);
    bool empty() const { return values_.empty(); }
    double Mean() const;

   private:
    std::deque<double> values_;
  };

  mutable Mutex mutex_;
  std::deque<int64_t> hits_ ABSL_GUARDED_BY(mutex_);  // Rows, oldest first; see Key in the .cc.
  std::unordered_map<int64_t, int64_t> counts_ ABSL_GUARDED_BY(mutex_);  // How often each row is in `hits_`.
  Window head_mass_ ABSL_GUARDED_BY(mutex_);
  Window certificate_ ABSL_GUARDED_BY(mutex_);
  Window gradient_norm_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace loci

#endif  // LOCI_RETRIEVER_TRAINING_MONITOR_H_
