// Large pieces of work on a pool, done in steps, one step at a time, the earliest deadline first. What is short waits for a step, not for the whole.
//
//   const LargeWorkLine::Amount amount = {.kind = LargeWorkKind::kExactSearch, .queries = 1000, .query_elements = rows * dim};
//   LOCI_RETURN_IF_ERROR(line.Check(amount, deadline_us, 0));            // Refused before anything is done for it.
//   LargeWorkLine::Place place = line.Take(amount, deadline_us);         // Counted until it is answered.
//   line.Add({.amount = amount, .deadline_us = deadline_us, .step = ..., .refuse = ...});
//
// A step may spread over all threads of the pool, as exact, approximate and training's scans do: two at once would be no faster, and whoever
// came meanwhile would wait for both.
#ifndef LOCI_RETRIEVER_LARGE_WORK_LINE_H_
#define LOCI_RETRIEVER_LARGE_WORK_LINE_H_

#include <cstdint>
#include <functional>
#include <memory>

#include "absl/status/status.h"
#include "base/clock.h"
#include "base/thread_pool.h"

namespace loci {

enum class LargeWorkKind {
  kExactSearch,
  kFilteredSearch,
  kApproximateSearch,
  kDeviceSearch,
  kTraining,
  kFilteredTraining,
  kDoubleTraining,
  kDeviceTraining,
};

// How long an element takes is measured, for each kind and each power of two of a query's elements, and forgotten after kTurnUs. Deadlines are on
// Clock::NowMicros's scale. Thread-safe. May die before the pool, once everything that was added has ended.
class LargeWorkLine {
  struct State;

 public:
  struct Amount {
    LargeWorkKind kind = LargeWorkKind::kExactSearch;
    int64_t queries = 0;
    int64_t query_elements = 1;  // Of the vectors that one query is scored with; 1 or more.
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
    void Leaves(int64_t queries);  // So many are left of it.

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
    // what is before it by what is known by then. On the pool, or within Add.
    std::function<void(absl::Status)> refuse;
  };

  // What has no deadline, or one further away than this, is in its turn as if it had this one: it is not passed by for ever.
  static constexpr int64_t kTurnUs = 60'000'000;
  // A step is to be over in about so long: where others waited for one within kOthersUs, and where none did. Larger steps are cheaper in all.
  static constexpr int64_t kStepUs = 50'000;
  static constexpr int64_t kLongStepUs = 200'000;
  static constexpr int64_t kOthersUs = 2'000'000;

  // `pool` and `clock` are borrowed.
  LargeWorkLine(ThreadPool* pool, Clock* clock);
  ~LargeWorkLine();
  LargeWorkLine(const LargeWorkLine&) = delete;
  LargeWorkLine& operator=(const LargeWorkLine&) = delete;

  // RESOURCE_EXHAUSTED, reason OVERLOADED, where what is before it, and `pool_us` of other work, takes it past its deadline. One that comes alone is OK:
  // it is measured.
  absl::Status Check(const Amount& amount, int64_t deadline_us, int64_t pool_us) const;
  // Until what has a place, and its turn before one with this deadline, is done, as far as the like was measured.
  int64_t DelayMicros(int64_t deadline_us) const;
  Place Take(const Amount& amount, int64_t deadline_us);
  // Queues it and returns, or refuses it.
  void Add(Work work);
  // A step that did so much took so long; or was given up after so long, which tells something where it is more than was thought.
  void Measured(const Amount& step, int64_t took_us);
  void MeasuredAtLeast(const Amount& step, int64_t took_us);
  // How many queries like these a step is to do; 0 where none was measured of late.
  int64_t StepQueries(const Amount& amount) const;

 private:
  static void RunStep(const std::shared_ptr<State>& state);

  const std::shared_ptr<State> state_;  // Also of who is in the pool's queue.
};

}  // namespace loci

#endif  // LOCI_RETRIEVER_LARGE_WORK_LINE_H_
