// Groups token sequences from many requests into packed batches.
//
// A request's sequences may be spread over several batches; its callback runs once, when all are encoded or one failed. Batches
// are formed when a worker is free: earliest deadline first, then order of arrival, up to `max_batch_tokens`. A lone request
// waits at most `max_wait_us` for company. Work that was cancelled or whose deadline passed is dropped before it is encoded, and what can no
// longer make its deadline, begun or not, is refused (RESOURCE_EXHAUSTED, reason OVERLOADED) while its client still waits.
//
// Fairness. (1) Among requests of one deadline, and so among all without one, a request that has taken `max_batch_tokens` goes to
// the end of the line: a short request waits for at most one batch of each that is before it, however large they are. (2) Work
// with deadlines comes first, but not for ever: *patient* requests (no deadline, or one more than kPatientUs after their arrival)
// get at least 1/kPatientShare of the tokens while some wait, the one whose turn is longest due first. So a flood of queries
// slows bulk work to an eighth, and bulk work takes at most an eighth from a flood of queries. (3) Patient requests of more than a batch leave a
// quarter of max_queued_tokens to others; where less than a quarter is queued, one that is larger than the rest may take it all.
#ifndef LOCI_ENCODER_BATCHER_H_
#define LOCI_ENCODER_BATCHER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "base/cancellation.h"
#include "base/clock.h"
#include "base/metrics.h"
#include "encoder/encode_backlog.h"
#include "encoder/encoder.h"

namespace loci {

struct BatcherOptions {
  int64_t max_batch_tokens = 1024;      // A single sequence may be longer; it then makes a batch alone.
  int64_t max_wait_us = 0;              // 0: a free worker starts at once with what there is.
  int64_t max_queued_tokens = 1 << 22;  // Of requests not yet answered. Above it Submit answers RESOURCE_EXHAUSTED.
  int worker_count = 1;
};

struct BatchedVectors {
  std::vector<float> vectors;  // [sequence_count, dim]
  int64_t queue_us = 0;        // From Submit to the start of the first batch that held a sequence of it.
  int64_t encode_us = 0;       // From there to the end of the last.
};

// Thread-safe.
class Batcher {
 public:
  using Done = std::function<void(absl::StatusOr<BatchedVectors>)>;

  static constexpr int64_t kPatientUs = 10'000'000;
  static constexpr int64_t kPatientShare = 8;

  // `encoder` and `clock` are borrowed and outlive the batcher, as the series of `metrics` do, which is asked for them here and not later.
  static std::unique_ptr<Batcher> Create(const Encoder& encoder, BatcherOptions options, Clock& clock, MetricsSink& metrics);

  // Answers every request that was submitted, then ends. No Submit may run beside it or come after.
  virtual ~Batcher() = default;

  // `done` is called exactly once, without a lock held: on a worker's thread, or on the calling one where the request is refused
  // (RESOURCE_EXHAUSTED, CANCELLED, DEADLINE_EXCEEDED, INVALID_ARGUMENT). An empty batch is answered at once with no vectors.
  // INVALID_ARGUMENT: a sequence that Encoder::Encode would refuse, so that it can't spoil the batch of others, or more tokens
  // than max_queued_tokens, which no wait can make room for. An error of the encoder answers the requests that had a sequence in
  // that batch, and no others. `done` holds up the worker, so it should be short; it may call Submit, and may not destroy the
  // batcher.
  virtual void Submit(PackedBatch sequences, const RequestLimits& limits, Done done) = 0;

  // For a request that is still to be tokenized, so before any work on it: a share of the queue for about so many tokens, to be dropped once
  // it was submitted. RESOURCE_EXHAUSTED, with `retry_after_ms` in the details: reason ENCODER_QUEUE_FULL where they do not fit under
  // max_queued_tokens, with what it leaves to others, beside what is queued or has a share; OVERLOADED as CheckDeadline says, at the rate measured of
  // late, for what is due before it and `other_work_us` of other work before its answer. What comes to an empty queue is taken whatever its
  // deadline: a rate that was measured in a bad moment is measured again. Does not wait.
  virtual absl::StatusOr<EncodeBacklog::Share> Reserve(int64_t tokens, const RequestLimits& limits, int64_t other_work_us) = 0;

  // OVERLOADED, with `delay_ms` and `retry_after_ms`, for a request that is due in `left_us` where the work before it and its own take longer. What is
  // before it counts kHeadroom times where it is due within kPatientUs: it is an estimate, and there is no time to make up for it.
  static absl::Status CheckDeadline(int64_t before_us, int64_t own_us, int64_t left_us);
  static constexpr int64_t kHeadroom = 2;

  // For a `done`: `work` is called once, by this thread, when the last request whose answer came of the same batch was answered. At once on a
  // thread that is not about to answer others.
  static void AfterAnswers(std::function<void()> work);

  // Tokens of the requests that are not answered yet: what max_queued_tokens bounds.
  virtual int64_t queued_tokens() const = 0;
  // About how long what is queued or has a share takes.
  virtual int64_t BacklogMicros() const = 0;
};

}  // namespace loci

#endif  // LOCI_ENCODER_BATCHER_H_
