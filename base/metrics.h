// Metrics without a dependency on the exporter: modules take a MetricsSink, the server gives one that speaks Prometheus.
#ifndef LOCI_BASE_METRICS_H_
#define LOCI_BASE_METRICS_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace loci {

// Each is owned by its sink and lives as long. Thread-safe.
class Counter {
 public:
  virtual ~Counter() = default;
  virtual void Add(double amount) = 0;  // amount >= 0
};
class Gauge {
 public:
  virtual ~Gauge() = default;
  virtual void Set(double value) = 0;
};
class Histogram {
 public:
  virtual ~Histogram() = default;
  virtual void Observe(double value) = 0;
};

using MetricLabels = std::map<std::string, std::string>;

// Makes or finds a series. Names follow Prometheus: loci_<what>_<unit>[_total]; seconds and bytes. Thread-safe.
class MetricsSink {
 public:
  virtual ~MetricsSink() = default;
  virtual Counter& counter(const std::string& name, const std::string& help, const MetricLabels& labels) = 0;
  virtual Gauge& gauge(const std::string& name, const std::string& help, const MetricLabels& labels) = 0;
  virtual Histogram& histogram(const std::string& name, const std::string& help, const MetricLabels& labels,
                               const std::vector<double>& bucket_bounds) = 0;
};

// Takes everything and keeps nothing. Never destroyed.
MetricsSink& NullMetrics();

}  // namespace loci

#endif  // LOCI_BASE_METRICS_H_
