#include "index/softmax_merge.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

namespace loci {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

}  // namespace

void MergeSoftmax(double* max, double* sum, double* weighted, double other_max, double other_sum, const double* other_weighted,
                  int64_t dim, double temperature) {
  if (other_max == -kInfinity) return;
  const double new_max = std::max(*max, other_max);
  const double own = *max == -kInfinity ? 0 : std::exp((*max - new_max) / temperature);
  const double other = std::exp((other_max - new_max) / temperature);
  *max = new_max;
  *sum = *sum * own + other_sum * other;
  for (int64_t d = 0; d < dim; ++d) weighted[d] = weighted[d] * own + other_weighted[d] * other;
}

void SoftmaxPartial::Reset(int64_t query_count, int64_t weighted_count) {
  max.assign(static_cast<size_t>(query_count), -kInfinity);
  sum.assign(static_cast<size_t>(query_count), 0);
  weighted.assign(static_cast<size_t>(weighted_count), 0);
}

OrderedMerge::OrderedMerge(int64_t query_count, int64_t weighted_dim, double temperature, int64_t max_ahead)
    : weighted_dim_(weighted_dim), temperature_(temperature), max_ahead_(max_ahead) {
  total_.Reset(query_count, query_count * weighted_dim);
}

void OrderedMerge::Add(int64_t range, SoftmaxPartial* partial) {
  MutexLock lock(&mutex_);
  ++waiting_;
  while (failure_.ok() && range > next_ + max_ahead_) moved_.Wait(&mutex_);
  --waiting_;
  if (!failure_.ok()) return;
  parked_.emplace(range, std::move(*partial));
  *partial = SoftmaxPartial();
  const int64_t before = next_;
  while (!parked_.empty() && parked_.begin()->first == next_) {
    auto first = parked_.extract(parked_.begin());
    const SoftmaxPartial& done = first.mapped();
    for (size_t q = 0; q < total_.max.size(); ++q) {
      const int64_t offset = static_cast<int64_t>(q) * weighted_dim_;
      MergeSoftmax(&total_.max[q], &total_.sum[q], total_.weighted.data() + offset, done.max[q], done.sum[q],
                   done.weighted.data() + offset, weighted_dim_, temperature_);
    }
    *partial = std::move(first.mapped());
    ++next_;
  }
  if (next_ != before) moved_.NotifyAll();
}

void OrderedMerge::Fail(const absl::Status& status) {
  MutexLock lock(&mutex_);
  failure_.Update(status);
  moved_.NotifyAll();
}

void OrderedMerge::NoteLength(float max_squared_length) {
  MutexLock lock(&mutex_);
  max_squared_length_ = std::max(max_squared_length_, max_squared_length);
}

absl::Status OrderedMerge::Finish(SoftmaxPartial* total, float* max_squared_length) {
  MutexLock lock(&mutex_);
  *total = std::move(total_);
  *max_squared_length = std::max(*max_squared_length, max_squared_length_);
  return failure_;
}

int64_t OrderedMerge::parked_count() const {
  MutexLock lock(&mutex_);
  return static_cast<int64_t>(parked_.size());
}

int64_t OrderedMerge::waiting_count() const {
  MutexLock lock(&mutex_);
  return waiting_;
}

}  // namespace loci
