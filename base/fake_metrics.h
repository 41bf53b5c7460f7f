// A MetricsSink for tests: remembers every series by name and labels.
//
//   FakeMetrics metrics;
//   ... EXPECT_EQ(metrics.value("loci_batcher_dropped_total", {{"reason", "cancelled"}}), 3);
#ifndef LOCI_BASE_FAKE_METRICS_H_
#define LOCI_BASE_FAKE_METRICS_H_

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/metrics.h"
#include "base/mutex.h"

namespace loci {

// Thread-safe.
class FakeMetrics : public MetricsSink {
 public:
  Counter& counter(const std::string& name, const std::string&, const MetricLabels& labels) override {
    return Find(name, labels);
  }
  Gauge& gauge(const std::string& name, const std::string&, const MetricLabels& labels) override { return Find(name, labels); }
  Histogram& histogram(const std::string& name, const std::string&, const MetricLabels& labels,
                       const std::vector<double>&) override {
    return Find(name, labels);
  }

  // A counter's sum, a gauge's last value, the sum of a histogram's observations; 0 for a series that nobody made.
  double value(const std::string& name, const MetricLabels& labels = {}) { return Find(name, labels).value(); }
  // How many times the series was added to, set or observed.
  int update_count(const std::string& name, const MetricLabels& labels = {}) { return Find(name, labels).update_count(); }

 private:
  // Thread-safe.
  class Series : public Counter, public Gauge, public Histogram {
   public:
    void Add(double amount) override { Update(amount, true); }
    void Set(double value) override { Update(value, false); }
    void Observe(double value) override { Update(value, true); }
    double value() const {
      MutexLock lock(&mutex_);
      return value_;
    }
    int update_count() const {
      MutexLock lock(&mutex_);
      return update_count_;
    }

   private:
    void Update(double value, bool add) {
      MutexLock lock(&mutex_);
      value_ = add ? value_ + value : value;
      ++update_count_;
    }

    mutable Mutex mutex_;
    double value_ ABSL_GUARDED_BY(mutex_) = 0;
    int update_count_ ABSL_GUARDED_BY(mutex_) = 0;
  };

  Series& Find(const std::string& name, const MetricLabels& labels) {
    MutexLock lock(&mutex_);
    std::unique_ptr<Series>& series = series_[{name, labels}];
    if (series == nullptr) series = std::make_unique<Series>();
    return *series;
  }

  Mutex mutex_;
  std::map<std::pair<std::string, MetricLabels>, std::unique_ptr<Series>> series_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace loci

#endif  // LOCI_BASE_FAKE_METRICS_H_
