#include "retriever/training_monitor.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace loci {
namespace {

int64_t Key(const ViewRow& row) { return 2 * row.row + (row.in_overlay ? 1 : 0); }

}  // namespace

void TrainingMonitor::Window::Add(double value) {
  if (!std::isfinite(value)) return;
  values_.push_back(value);
  if (values_.size() > kWindowQueries) values_.pop_front();
}

double TrainingMonitor::Window::Mean() const {
  return std::accumulate(values_.begin(), values_.end(), 0.0) / static_cast<double>(values_.size());
}

void TrainingMonitor::Retrieved(std::span<const TrainingResult> results) {
  MutexLock lock(&mutex_);
  for (const TrainingResult& result : results) {
    head_mass_.Add(result.head_mass);
    for (size_t i = 0; i < std::min(result.hits.size(), kMaxHitsOfQuery); ++i) {
      const int64_t key = Key(result.hits[i].row);
      hits_.push_back(key);
      ++counts_[key];
    }
    while (hits_.size() > kWindowHits) {
      const auto oldest = counts_.find(hits_.front());
      if (--oldest->second == 0) counts_.erase(oldest);
      hits_.pop_front();
    }
  }
}

void TrainingMonitor::Differentiated(const TrainingGradients& gradients) {
  const size_t query_count = gradients.certificates.size();
  const size_t dim = query_count == 0 ? 0 : gradients.query_gradients.size() / query_count;
  MutexLock lock(&mutex_);
  for (size_t q = 0; q < query_count; ++q) {
    certificate_.Add(gradients.certificates[q]);
    const double* const gradient = gradients.query_gradients.data() + q * dim;
    gradient_norm_.Add(std::sqrt(std::inner_product(gradient, gradient + dim, gradient, 0.0)));
  }
}

std::vector<GaugeSample> TrainingMonitor::Metrics(const MetricLabels& labels) const {
  std::vector<GaugeSample> samples;
  MutexLock lock(&mutex_);
  if (!hits_.empty()) {
    const double total = static_cast<double>(hits_.size());
    double entropy = 0;
    int64_t most = 0;
    for (const auto& [key, count] : counts_) {
      const double share = static_cast<double>(count) / total;
      entropy -= share * std::log(share);
      most = std::max(most, count);
    }
    samples.push_back({"loci_training_retrieved_entropy_nats",
                       "Entropy of the passages that a training session retrieved of late; that it falls is retrieval that collapses.", labels, entropy});
    samples.push_back({"loci_training_retrieved_top_share", "Share of the passage that a training session retrieved most often of late.", labels,
                       static_cast<double>(most) / total});
  }
  const auto add = [&](const char* name, const char* help, const Window& window) {
    if (!window.empty()) samples.push_back({name, help, labels, window.Mean()});
  };
  add("loci_training_head_mass", "Mean probability of the passages that a training session was given, of its last queries.", head_mass_);
  add("loci_training_certificate", "Mean bound of the error of a query's gradient, of a training session's last queries with one.", certificate_);
  add("loci_training_gradient_norm", "Mean length of a query's gradient, of a training session's last queries.", gradient_norm_);
  return samples;
}

}  // namespace loci
