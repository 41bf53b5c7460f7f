#include "encoder/encode_backlog.h"

#include <algorithm>
#include <cmath>

namespace loci {
namespace {

// What an older batch counts against the next one: about ten batches are remembered.
constexpr double kDecay = 0.9;

}  // namespace

EncodeBacklog::Share EncodeBacklog::Take(std::shared_ptr<EncodeBacklog> backlog, int64_t now_us, int64_t deadline_us, int64_t tokens) {
  Share share;
  share.bucket_ = deadline_us - now_us > kFarUs ? kFarBucket : RingIndex(std::max(deadline_us, now_us));
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
  int64_t tokens = 0;
  if (deadline_us - now_us > kFarUs) {
    tokens = this->tokens();
  } else {
    const int64_t last = std::max(deadline_us, now_us) >> kBucketBits;
    for (int64_t bucket = now_us >> kBucketBits; bucket <= last; ++bucket) {
      tokens += buckets_[static_cast<size_t>(bucket & (kRing - 1))].load(std::memory_order_relaxed);
    }
  }
  return std::llround(static_cast<double>(std::max<int64_t>(tokens, 0)) * micros_per_token() / worker_count_);
}

}  // namespace loci
