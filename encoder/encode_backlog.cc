#include "encoder/encode_backlog.h"

#include <algorithm>
#include <cmath>

#include "base/clock.h"

namespace loci {
namespace {

// What an older batch counts against the next one: about ten batches are remembered.
constexpr double kDecay = 0.9;

}  // namespace

int EncodeBacklog::BucketOf(int64_t now_us, int64_t deadline_us) {
  if (deadline_us == kNoDeadlineMicros) return kNeverBucket;
  if (deadline_us - now_us > kFarthestUs) return kLaterBucket;
  if (deadline_us - now_us > kFarUs) return kRing + static_cast<int>((deadline_us >> kFarBits) & (kRing - 1));
  return static_cast<int>((std::max(deadline_us, now_us) >> kNearBits) & (kRing - 1));
}

EncodeBacklog::Share EncodeBacklog::Take(std::shared_ptr<EncodeBacklog> backlog, int64_t now_us, int64_t deadline_us, int64_t tokens) {
  Share share;
  share.bucket_ = BucketOf(now_us, deadline_us);
  share.tokens_ = tokens;
  backlog->buckets_[static_cast<size_t>(share.bucket_)].fetch_add(tokens, std::memory_order_relaxed);
  backlog->tokens_.fetch_add(tokens, std::memory_order_relaxed);
  share.backlog_ = std::move(backlog);
  return share;
}

void EncodeBacklog::Share::Release() {
  const std::shared_ptr<EncodeBacklog> backlog = std::move(backlog_);
  if (backlog == nullptr) return;
  backlog->buckets_[static_cast<size_t>(bucket_)].fetch_sub(tokens_, std::memory_order_relaxed);
  backlog->tokens_.fetch_sub(tokens_, std::memory_order_relaxed);
}

void EncodeBacklog::Measured(int64_t tokens, int64_t duration_us) {
  if (tokens <= 0 || duration_us < 0) return;
  MutexLock lock(&mutex_);
  measured_tokens_ = kDecay * measured_tokens_ + static_cast<double>(tokens);
  measured_us_ = kDecay * measured_us_ + static_cast<double>(duration_us);
  micros_per_token_.store(measured_us_ / measured_tokens_, std::memory_order_relaxed);
}

int64_t EncodeBacklog::DelayMicros(int64_t now_us, int64_t deadline_us) const {
  const auto in = [this](int64_t bucket) { return buckets_[static_cast<size_t>(bucket)].load(std::memory_order_relaxed); };
  int64_t tokens = 0;
  if (const int bucket = BucketOf(now_us, deadline_us); bucket == kNeverBucket) {
    tokens = this->tokens();
  } else if (bucket == kLaterBucket) {
    tokens = this->tokens() - in(kNeverBucket);
  } else if (bucket >= kRing) {
    for (int64_t near = 0; near < kRing; ++near) tokens += in(near);
    for (int64_t step = now_us >> kFarBits; step <= deadline_us >> kFarBits; ++step) tokens += in(kRing + (step & (kRing - 1)));
  } else {
    const int64_t last = std::max(deadline_us, now_us) >> kNearBits;
    for (int64_t step = now_us >> kNearBits; step <= last; ++step) tokens += in(step & (kRing - 1));
  }
  return std::llround(static_cast<double>(std::max<int64_t>(tokens, 0)) * micros_per_token() / worker_count_);
}

}  // namespace loci
