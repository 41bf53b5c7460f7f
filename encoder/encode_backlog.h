// What waits for an encoder and how fast it goes: whether a request can still make its deadline is known before work is spent on it.
//
//   const int64_t wait_us = backlog->DelayMicros(now_us, deadline_us);
//   EncodeBacklog::Share share = EncodeBacklog::Take(backlog, now_us, deadline_us, tokens);  // Counted until it dies.
#ifndef LOCI_ENCODER_ENCODE_BACKLOG_H_
#define LOCI_ENCODER_ENCODE_BACKLOG_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <utility>

#include "base/mutex.h"

namespace loci {

// Deadlines are on Clock::NowMicros's scale. Thread-safe.
class EncodeBacklog {
 public:
  // `worker_count` batches, 1 or more, are encoded side by side.
  explicit EncodeBacklog(int worker_count = 1) : worker_count_(worker_count) {}

  // Tokens of one request, from its admission to its end. Movable. Used by one thread at a time.
  class Share {
   public:
    Share() = default;
    Share(Share&& other) noexcept { *this = std::move(other); }
    Share& operator=(Share&& other) noexcept {
      Release();
      backlog_ = std::move(other.backlog_);
      bucket_ = other.bucket_;
      tokens_ = other.tokens_;
      return *this;
    }
    ~Share() { Release(); }
    void Release();

   private:
    friend class EncodeBacklog;
    std::shared_ptr<EncodeBacklog> backlog_;  // Null: nothing is held.
    int bucket_ = 0;
    int64_t tokens_ = 0;
  };

  // Those with a deadline further away than this, when they came, are worked on beside those that are due sooner and stand in none of their ways.
  static constexpr int64_t kFarUs = 10'000'000;

  static Share Take(std::shared_ptr<EncodeBacklog> backlog, int64_t now_us, int64_t deadline_us, int64_t tokens);

  // A batch was encoded, by one of the workers.
  void Measured(int64_t tokens, int64_t duration_us);

  int64_t tokens() const { return tokens_.load(std::memory_order_relaxed); }  // Of all shares.
  // About how long until what is due before `deadline_us` is encoded, by all workers. 0 where no batch was measured yet. To within a second of a
  // deadline that is far away; without one, all there is.
  int64_t DelayMicros(int64_t now_us, int64_t deadline_us) const;
  // Of a batch, whatever goes on beside it.
  double micros_per_token() const { return micros_per_token_.load(std::memory_order_relaxed); }

 private:
  // Shares by deadline: those that are due within kFarUs in steps of 65 ms, others in steps of a second; rings that are longer than what they hold,
  // and a bucket each for what is due later still, and never.
  static constexpr int kNearBits = 16;
  static constexpr int kFarBits = 20;
  static constexpr int kRing = 256;
  static constexpr int64_t kFarthestUs = int64_t{kRing - 1} << kFarBits;
  static constexpr int kLaterBucket = 2 * kRing;
  static constexpr int kNeverBucket = kLaterBucket + 1;
  static int BucketOf(int64_t now_us, int64_t deadline_us);

  const int worker_count_;
  std::array<std::atomic<int64_t>, kNeverBucket + 1> buckets_{};
  std::atomic<int64_t> tokens_{0};
  std::atomic<double> micros_per_token_{0};
  Mutex mutex_;
  double measured_tokens_ ABSL_GUARDED_BY(mutex_) = 0;  // Of late, old batches counting less.
  double measured_us_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace loci

#endif  // LOCI_ENCODER_ENCODE_BACKLOG_H_
