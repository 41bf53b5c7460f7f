#include "clients/cli/latency_histogram.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace loci {
namespace {

constexpr int kExactBits = 8;  // Values below 2^8 have a bucket each; each further power of two has 128.
constexpr int64_t kHalf = 1 << (kExactBits - 1);
constexpr int kMaxBits = 40;
constexpr int64_t kMaxUs = int64_t{1} << kMaxBits;

size_t BucketOf(int64_t value) {
  const int shift = std::max(0, static_cast<int>(std::bit_width(static_cast<uint64_t>(value))) - kExactBits);
  return static_cast<size_t>(shift * kHalf + (value >> shift));
}

// The largest value of a bucket.
int64_t UpperBound(size_t bucket) {
  const int64_t index = static_cast<int64_t>(bucket);
  if (index < 2 * kHalf) return index;
  const int64_t shift = index / kHalf - 1;
  return ((index - shift * kHalf + 1) << shift) - 1;
}

}  // namespace

LatencyHistogram::LatencyHistogram() : buckets_(BucketOf(kMaxUs) + 1) {}

void LatencyHistogram::Add(int64_t microseconds) {
  const int64_t value = std::clamp<int64_t>(microseconds, 0, kMaxUs);
  ++buckets_[BucketOf(value)];
  ++count_;
  max_us_ = std::max(max_us_, value);
  sum_us_ += static_cast<double>(value);
}

void LatencyHistogram::Merge(const LatencyHistogram& other) {
  for (size_t i = 0; i < buckets_.size(); ++i) buckets_[i] += other.buckets_[i];
  count_ += other.count_;
  max_us_ = std::max(max_us_, other.max_us_);
  sum_us_ += other.sum_us_;
}

int64_t LatencyHistogram::PercentileUs(double fraction) const {
  const int64_t wanted = std::max<int64_t>(1, static_cast<int64_t>(std::ceil(fraction * static_cast<double>(count_))));
  int64_t seen = 0;
  for (size_t i = 0; i < buckets_.size(); ++i) {
    seen += buckets_[i];
    if (seen >= wanted) return std::min(UpperBound(i), max_us_);
  }
  return max_us_;
}

}  // namespace loci
