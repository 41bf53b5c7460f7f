// Large pieces of work on a pool: half its threads do them in steps, the earliest deadline first. What is short waits for a step, not for the whole.
//
//   LOCI_RETURN_IF_ERROR(line.Check(elements, deadline_us, 0));                        // Refused before anything is done for it.
//   LargeWorkLine::Place place = line.Take(elements, deadline_us);                     // Counted until it is answered.
//   line.Add({.elements = elements, .deadline_us = deadline_us, .step = ..., .refuse = ...});
#ifndef LOCI_RETRIEVER_LARGE_WORK_LINE_H_
#define LOCI_RETRIEVER_LARGE_WORK_LINE_H_

#include <cstdint>
#include <functional>
#include <memory>

#include "absl/status/status.h"
#include "base/clock.h"
#include "base/thread_pool.h"
#include "encoder/encode_backlog.h"

namespace loci {

// Work is counted in *elements* of the vectors that are scored with it; what one takes is measured. Deadlines are on Clock::NowMicros's scale.
// Thread-safe. May die before the pool, once everything that was added has ended.
class LargeWorkLine {
 public:
  using Place = EncodeBacklog::Share;

  struct Work {
    int64_t elements = 0;
    int64_t deadline_us = kNoDeadlineMicros;
    std::function<bool()> step;  // True: there is more to do. Called by one thread at a time, on the pool.
    // Instead of `step`, before the first one: RESOURCE_EXHAUSTED, reason OVERLOADED, where the pool's queue is full, or what was before it has taken so
    // long that it can't make its deadline. On the pool, or within Add.
    std::function<void(absl::Status)> refuse;
  };

  // What has no deadline, or one further away than this, is in its turn as if it had this one: it is not passed by for ever.
  static constexpr int64_t kTurnUs = 60'000'000;

  // `pool` and `clock` are borrowed.
  LargeWorkLine(ThreadPool* pool, Clock* clock);
  ~LargeWorkLine();
  LargeWorkLine(const LargeWorkLine&) = delete;
  LargeWorkLine& operator=(const LargeWorkLine&) = delete;

  // RESOURCE_EXHAUSTED, reason OVERLOADED, where what is before it, and `pool_us` of other work, takes it past its deadline. One that comes alone is OK:
  // it is measured.
  absl::Status Check(int64_t elements, int64_t deadline_us, int64_t pool_us) const;
  int64_t DelayMicros(int64_t deadline_us) const;  // Until what is before it is done.
  Place Take(int64_t elements, int64_t deadline_us);
  void Add(Work work);
  void Measured(int64_t elements, int64_t took_us);  // Of a thread, where it ended well.

 private:
  struct State;
  static void RunStep(const std::shared_ptr<State>& state);

  const std::shared_ptr<State> state_;  // Also of those that are in the pool's queue.
};

}  // namespace loci

#endif  // LOCI_RETRIEVER_LARGE_WORK_LINE_H_
