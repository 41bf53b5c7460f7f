#include "base/metrics.h"

namespace loci {
namespace {

class NullCounter : public Counter {
 public:
  void Add(double) override {}
};
class NullGauge : public Gauge {
 public:
  void Set(double) override {}
};
class NullHistogram : public Histogram {
 public:
  void Observe(double) override {}
};

class NullSink : public MetricsSink {
 public:
  Counter& counter(const std::string&, const std::string&, const MetricLabels&) override { return counter_; }
  Gauge& gauge(const std::string&, const std::string&, const MetricLabels&) override { return gauge_; }
  Histogram& histogram(const std::string&, const std::string&, const MetricLabels&, const std::vector<double>&) override {
    return histogram_;
  }

 private:
  NullCounter counter_;
  NullGauge gauge_;
  NullHistogram histogram_;
};

}  // namespace

MetricsSink& NullMetrics() {
  static MetricsSink* const sink = new NullSink();
  return *sink;
}

}  // namespace loci
