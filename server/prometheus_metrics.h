// The MetricsSink that speaks Prometheus, and the HTTP port that it is read from.
#ifndef LOCI_SERVER_PROMETHEUS_METRICS_H_
#define LOCI_SERVER_PROMETHEUS_METRICS_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/gauge_sample.h"
#include "base/metrics.h"

namespace loci {

// Families of one name must be of one kind. Thread-safe.
class PrometheusMetrics : public MetricsSink {
 public:
  PrometheusMetrics();
  ~PrometheusMetrics() override;

  Counter& counter(const std::string& name, const std::string& help, const MetricLabels& labels) override;
  Gauge& gauge(const std::string& name, const std::string& help, const MetricLabels& labels) override;
  Histogram& histogram(const std::string& name, const std::string& help, const MetricLabels& labels,
                       const std::vector<double>& bucket_bounds) override;

  // Serves GET /metrics in the text format from now to this object's end. `address` is HOST:PORT, port 0 picks one; returns HOST:PORT
  // as it is. FAILED_PRECONDITION where it can't be listened on.
  absl::StatusOr<std::string> Listen(const std::string& address);

  // What Text adds to the series that were made: called once for each Text, one at a time. An empty function ends that; then, on return,
  // the one before is called no more.
  void SetSamples(std::function<std::vector<GaugeSample>()> samples);

  std::string Text() const;  // What /metrics answers.

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace loci

#endif  // LOCI_SERVER_PROMETHEUS_METRICS_H_
