// Large pieces of work on a pool, done in steps, the earliest deadline first. What is short waits for a step, not for the whole.
//
//   const LargeWorkLine::Amount amount = {.kind = LargeWorkKind::kExactSearch, .elements = queries * rows * dim};
//   LOCI_RETURN_IF_ERROR(line.Check(amount, deadline_us, 0));            // Refused before anything is done for it.
//   LargeWorkLine::Place place = line.Take(amount, deadline_us);         // Counted until it is answered.
//   line.Add({.amount = amount, .deadline_us = deadline_us, .step = ..., .refuse = ...});
#ifndef LOCI_RETRIEVER_LARGE_WORK_LINE_H_
#define LOCI_RETRIEVER_LARGE_WORK_LINE_H_

#include <cstdint>
#include <functional>
#include <memory>

#include "absl/status/status.h"
#include "base/clock.h"
#include "base/thread_pool.h"

namespace loci {

// Work of one kind takes about as long an element. All but approximate searches spread over the whole pool by themselves, or wait for one device: of them
// one step is done at a time. The others share up to half the pool's threads.
enum class LargeWorkKind { kExactSearch, kFilteredSearch, kApproximateSearch, kDeviceSearch, kTraining, kDoubleTraining, kDeviceTraining };

// How long an element of each kind takes is measured. Deadlines are on Clock::NowMicros's scale. Thread-safe. May die before the pool, once everything that
// was added has ended.
class LargeWorkLine {
  struct State;

 public:
  struct Amount {
    LargeWorkKind kind = LargeWorkKind::kExactSearch;
    int64_t elements = 0;  // Of the vectors that are scored with it.
  };

  // Of what waits or is done. Movable; given up when it dies, which is to be before who waits for it is answered. Used by one thread at a time.
  class Place {
   public:
    Place() = default;
    Place(Place&& other) noexcept = default;
    Place& operator=(Place&& other) noexcept {
      Release();
      state_ = std::move(other.state_);
      id_ = other.id_;
      return *this;
    }
    ~Place() { Release(); }
    void Release();
    void Leaves(int64_t elements);  // So much is left of it.

   private:
    friend class LargeWorkLine;
    std::shared_ptr<State> state_;  // Null: nothing is held.
    int64_t id_ = 0;
  };

  struct Work {
    Amount amount;  // As Check and Take had it.
    int64_t deadline_us = kNoDeadlineMicros;
    std::function<bool()> step;  // True: there is more to do. Called by one thread at a time, on the pool.
    // Instead of `step`, before the first one: RESOURCE_EXHAUSTED, reason OVERLOADED, where the pool's queue is full, or it can't make its deadline with
    // what is before it by what is known by then. On the pool, or within somebody's Add.
    std::function<void(absl::Status)> refuse;
  };

  // What has no deadline, or one further away than this, is in its turn as if it had this one: it is not passed by for ever.
  static constexpr int64_t kTurnUs = 60'000'000;
  // A step is to be over in about so long: others wait for it.
  static constexpr int64_t kStepUs = 50'000;

  // `pool` and `clock` are borrowed.
  LargeWorkLine(ThreadPool* pool, Clock* clock);
  ~LargeWorkLine();
  LargeWorkLine(const LargeWorkLine&) = delete;
  LargeWorkLine& operator=(const LargeWorkLine&) = delete;

  // RESOURCE_EXHAUSTED, reason OVERLOADED, where what is before it, and `pool_us` of other work, takes it past its deadline. One that comes alone is OK:
  // it is measured.
  absl::Status Check(const Amount& amount, int64_t deadline_us, int64_t pool_us) const;
  // Until what has a place, and its turn before one with this deadline, is done; 0 where nothing of its kind was measured yet.
  int64_t DelayMicros(int64_t deadline_us) const;
  Place Take(const Amount& amount, int64_t deadline_us);
  // Queues it and returns. May refuse it, and others that came with it, before that.
  void Add(Work work);
  // A step that did so much took so long.
  void Measured(const Amount& step, int64_t took_us);
  // What a step of this kind is over with in about kStepUs; 0 where nothing of it was measured yet.
  int64_t StepElements(LargeWorkKind kind) const;

 private:
  static void RunStep(const std::shared_ptr<State>& state);

  const std::shared_ptr<State> state_;  // Also of those that are in the pool's queue.
};

}  // namespace loci

#endif  // LOCI_RETRIEVER_LARGE_WORK_LINE_H_
