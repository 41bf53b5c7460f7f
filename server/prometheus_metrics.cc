#include "server/prometheus_metrics.h"

#include <prometheus/counter.h>
#include <prometheus/client_metric.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/metric_family.h>
#include <prometheus/metric_type.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <map>
#include <utility>

#include "base/mutex.h"
#include "base/status_macros.h"
#include "server/address.h"
#include "server/metrics_http.h"

namespace loci {
namespace {

class PrometheusCounter : public Counter {
 public:
  explicit PrometheusCounter(prometheus::Counter& counter) : counter_(counter) {}
  void Add(double amount) override { counter_.Increment(amount); }

 private:
  prometheus::Counter& counter_;
};

class PrometheusGauge : public Gauge {
 public:
  explicit PrometheusGauge(prometheus::Gauge& gauge) : gauge_(gauge) {}
  void Set(double value) override { gauge_.Set(value); }

 private:
  prometheus::Gauge& gauge_;
};

class PrometheusHistogram : public Histogram {
 public:
  explicit PrometheusHistogram(prometheus::Histogram& histogram) : histogram_(histogram) {}
  void Observe(double value) override { histogram_.Observe(value); }

 private:
  prometheus::Histogram& histogram_;
};

template <typename Wrapper>
using SeriesMap = std::map<std::pair<std::string, MetricLabels>, std::unique_ptr<Wrapper>>;

}  // namespace

struct PrometheusMetrics::State {
  // Merge: the same family is registered for each of its series.
  const std::shared_ptr<prometheus::Registry> registry =
      std::make_shared<prometheus::Registry>(prometheus::Registry::InsertBehavior::Merge);
  Mutex mutex;
  SeriesMap<PrometheusCounter> counters ABSL_GUARDED_BY(mutex);
  SeriesMap<PrometheusGauge> gauges ABSL_GUARDED_BY(mutex);
  SeriesMap<PrometheusHistogram> histograms ABSL_GUARDED_BY(mutex);
  Mutex samples_mutex;  // Held while `samples` is called, which takes no lock that its callers hold.
  std::function<std::vector<GaugeSample>()> samples ABSL_GUARDED_BY(samples_mutex);
  std::unique_ptr<MetricsHttp> http;  // Set once, by Listen. The last member: it reads the others until it ends.
};

PrometheusMetrics::PrometheusMetrics() : state_(std::make_unique<State>()) {}
PrometheusMetrics::~PrometheusMetrics() { state_->http.reset(); }  // Its thread reads `state_`.

Counter& PrometheusMetrics::counter(const std::string& name, const std::string& help, const MetricLabels& labels) {
  MutexLock lock(&state_->mutex);
  std::unique_ptr<PrometheusCounter>& series = state_->counters[{name, labels}];
  if (series == nullptr) {
    series = std::make_unique<PrometheusCounter>(prometheus::BuildCounter().Name(name).Help(help).Register(*state_->registry).Add(labels));
  }
  return *series;
}

Gauge& PrometheusMetrics::gauge(const std::string& name, const std::string& help, const MetricLabels& labels) {
  MutexLock lock(&state_->mutex);
  std::unique_ptr<PrometheusGauge>& series = state_->gauges[{name, labels}];
  if (series == nullptr) {
    series = std::make_unique<PrometheusGauge>(prometheus::BuildGauge().Name(name).Help(help).Register(*state_->registry).Add(labels));
  }
  return *series;
}

Histogram& PrometheusMetrics::histogram(const std::string& name, const std::string& help, const MetricLabels& labels,
                                        const std::vector<double>& bucket_bounds) {
  MutexLock lock(&state_->mutex);
  std::unique_ptr<PrometheusHistogram>& series = state_->histograms[{name, labels}];
  if (series == nullptr) {
    series = std::make_unique<PrometheusHistogram>(
        prometheus::BuildHistogram().Name(name).Help(help).Register(*state_->registry).Add(labels, bucket_bounds));
  }
  return *series;
}

absl::StatusOr<std::string> PrometheusMetrics::Listen(const std::string& address) {
  LOCI_ASSIGN_OR_RETURN(const HostPort host_port, ParseHostPort(address));
  LOCI_ASSIGN_OR_RETURN(state_->http, MetricsHttp::Listen(host_port, [this] { return Text(); }));
  return state_->http->address().ToString();
}

void PrometheusMetrics::SetSamples(std::function<std::vector<GaugeSample>()> samples) {
  MutexLock lock(&state_->samples_mutex);
  state_->samples = std::move(samples);
}

std::string PrometheusMetrics::Text() const {
  std::vector<prometheus::MetricFamily> families = state_->registry->Collect();
  std::vector<GaugeSample> samples;
  {
    MutexLock lock(&state_->samples_mutex);
    if (state_->samples) samples = state_->samples();
  }
  std::map<std::string, prometheus::MetricFamily> added;
  for (const GaugeSample& sample : samples) {
    prometheus::MetricFamily& family = added[sample.name];
    family.name = sample.name;
    family.help = sample.help;
    family.type = prometheus::MetricType::Gauge;
    prometheus::ClientMetric& metric = family.metric.emplace_back();
    for (const auto& [name, value] : sample.labels) metric.label.push_back({name, value});
    metric.gauge.value = sample.value;
  }
  for (auto& [name, family] : added) families.push_back(std::move(family));
  return prometheus::TextSerializer().Serialize(families);
}

}  // namespace loci
