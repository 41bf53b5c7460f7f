// Percentiles of many latencies in little memory.
#ifndef LOCI_CLIENTS_CLI_LATENCY_HISTOGRAM_H_
#define LOCI_CLIENTS_CLI_LATENCY_HISTOGRAM_H_

#include <cstdint>
#include <vector>

namespace loci {

// Counts microseconds in buckets that are exact below 256 and at most 1/128 of their value wide above (an HDR histogram).
// Thread-compatible.
class LatencyHistogram {
 public:
  LatencyHistogram();

  void Add(int64_t microseconds);  // Negative counts as 0, more than 2^40 as that.
  void Merge(const LatencyHistogram& other);

  int64_t count() const { return count_; }
  int64_t max_us() const { return max_us_; }  // Exact.
  double mean_us() const { return count_ == 0 ? 0 : sum_us_ / static_cast<double>(count_); }
  // The smallest latency that at least `fraction` of all do not exceed, at most 1/128 too high and never above max_us(); 0 where
  // there is none. `fraction` in (0, 1].
  int64_t PercentileUs(double fraction) const;

 private:
  std::vector<int64_t> buckets_;
  int64_t count_ = 0;
  int64_t max_us_ = 0;
  double sum_us_ = 0;
};

}  // namespace loci

#endif  // LOCI_CLIENTS_CLI_LATENCY_HISTOGRAM_H_
