#include "retriever/large_work_line.h"

#include <algorithm>
#include <map>
#include <utility>

#include "base/error.h"
#include "base/mutex.h"
#include "encoder/batcher.h"

namespace loci {

struct LargeWorkLine::State {
  State(ThreadPool* pool, Clock* clock)
      : pool(pool), clock(clock), limit(std::max(pool->thread_count() / 2, 1)), backlog(std::make_shared<EncodeBacklog>(limit)) {}

  struct Entry {
    Work work;
    bool begun = false;
  };

  int64_t Turn(int64_t now_us, int64_t deadline_us) const { return std::min(deadline_us, now_us + kTurnUs); }
  int64_t OwnMicros(int64_t elements) const { return static_cast<int64_t>(static_cast<double>(elements) * backlog->micros_per_token()); }

  ThreadPool* const pool;
  Clock* const clock;
  const int limit;  // Of runners.
  const std::shared_ptr<EncodeBacklog> backlog;  // In elements.
  Mutex mutex;
  std::multimap<int64_t, Entry> waiting ABSL_GUARDED_BY(mutex);  // By turn.
  int runners ABSL_GUARDED_BY(mutex) = 0;                        // Of RunStep, begun or in the pool's queue.
};

LargeWorkLine::LargeWorkLine(ThreadPool* pool, Clock* clock) : state_(std::make_shared<State>(pool, clock)) {}

LargeWorkLine::~LargeWorkLine() = default;

absl::Status LargeWorkLine::Check(int64_t elements, int64_t deadline_us, int64_t pool_us) const {
  // As with an encoder's empty queue, one that comes alone is taken, and measured.
  if (deadline_us == kNoDeadlineMicros || (pool_us == 0 && state_->backlog->tokens() == 0)) return absl::OkStatus();
  return Batcher::CheckDeadline(pool_us + DelayMicros(deadline_us), state_->OwnMicros(elements), deadline_us - state_->clock->NowMicros());
}

int64_t LargeWorkLine::DelayMicros(int64_t deadline_us) const {
  const int64_t now_us = state_->clock->NowMicros();
  return state_->backlog->DelayMicros(now_us, state_->Turn(now_us, deadline_us));
}

LargeWorkLine::Place LargeWorkLine::Take(int64_t elements, int64_t deadline_us) {
  const int64_t now_us = state_->clock->NowMicros();
  return EncodeBacklog::Take(state_->backlog, now_us, state_->Turn(now_us, deadline_us), elements);
}

void LargeWorkLine::Measured(int64_t elements, int64_t took_us) { state_->backlog->Measured(elements, took_us); }

void LargeWorkLine::Add(Work work) {
  const int64_t turn_us = state_->Turn(state_->clock->NowMicros(), work.deadline_us);
  {
    MutexLock lock(&state_->mutex);
    state_->waiting.emplace(turn_us, State::Entry{std::move(work)});
    if (state_->runners == state_->limit) return;
    ++state_->runners;
  }
  if (state_->pool->TrySubmit([state = state_] { RunStep(state); })) return;
  std::multimap<int64_t, State::Entry> refused;
  {
    MutexLock lock(&state_->mutex);
    if (--state_->runners == 0) refused.swap(state_->waiting);  // Else another takes them.
  }
  for (auto& [turn, entry] : refused) {
    entry.work.refuse(ErrorWithReason(absl::ResourceExhaustedError("the server's work queue is full"), "OVERLOADED"));
  }
}

// One step, then what waited meanwhile for the pool goes first.
void LargeWorkLine::RunStep(const std::shared_ptr<State>& state) {
  while (true) {
    int64_t turn_us = 0;
    State::Entry entry;
    bool alone = true;
    {
      MutexLock lock(&state->mutex);
      if (state->waiting.empty()) {
        --state->runners;
        return;
      }
      const auto first = state->waiting.begin();
      turn_us = first->first;
      entry = std::move(first->second);
      state->waiting.erase(first);
      alone = state->waiting.empty();
    }
    if (!std::exchange(entry.begun, true)) {
      const int64_t own_us = state->OwnMicros(entry.work.elements);
      const int64_t left_us = entry.work.deadline_us - state->clock->NowMicros();
      if (!alone && left_us > 0 && own_us > left_us) {
        entry.work.refuse(Batcher::CheckDeadline(0, own_us, left_us));
        continue;
      }
    }
    const bool unfinished = entry.work.step();
    {
      MutexLock lock(&state->mutex);
      if (unfinished) state->waiting.emplace(turn_us, std::move(entry));
      if (state->waiting.empty()) {
        --state->runners;
        return;
      }
    }
    if (state->pool->TrySubmit([state] { RunStep(state); })) return;
  }
}

}  // namespace loci
