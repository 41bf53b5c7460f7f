#include "retriever/large_work_line.h"

#include <algorithm>
#include <bit>
#include <map>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/mutex.h"
#include "encoder/batcher.h"

namespace loci {
namespace {

// What an older step counts against the next of its kind: about ten are remembered.
constexpr double kDecay = 0.9;
// Estimates go no further: sums of them fit.
constexpr double kMostMicros = 1e14;

double ElementsOf(const LargeWorkLine::Amount& amount) {
  return static_cast<double>(amount.queries) * static_cast<double>(std::max<int64_t>(amount.query_elements, 1));
}

}  // namespace

struct LargeWorkLine::State {
  State(ThreadPool* pool, Clock* clock) : pool(pool), clock(clock) {}

  struct Entry {
    Work work;
    bool begun = false;
  };
  struct Held {
    Amount left;
    int64_t turn_us = 0;
  };
  // Of late.
  struct Rate {
    double elements = 0;
    double us = 0;
    int64_t measured_us = 0;  // When.
  };
  using RateKey = std::pair<LargeWorkKind, int>;

  static RateKey KeyOf(const Amount& amount) {
    return {amount.kind, static_cast<int>(std::bit_width(static_cast<uint64_t>(std::max<int64_t>(amount.query_elements, 1))))};
  }
  int64_t Turn(int64_t now_us, int64_t deadline_us) const { return std::min(deadline_us, now_us + kTurnUs); }
  // Null: nothing like it was measured of late. So one that was too slow once does not keep others out for good.
  const Rate* Find(const Amount& amount, int64_t now_us) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    const auto found = rates.find(KeyOf(amount));
    return found == rates.end() || now_us - found->second.measured_us > kTurnUs ? nullptr : &found->second;
  }
  int64_t OwnMicros(const Amount& amount, int64_t now_us) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    const Rate* const rate = Find(amount, now_us);
    return rate == nullptr ? 0 : static_cast<int64_t>(std::min(ElementsOf(amount) * rate->us / rate->elements, kMostMicros));
  }
  int64_t DelayMicros(int64_t turn_us, int64_t now_us) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    int64_t delay_us = 0;
    for (const auto& [id, held] : places) {
      if (held.turn_us <= turn_us) delay_us += OwnMicros(held.left, now_us);
    }
    return delay_us;
  }
  void Measured(const Amount& step, int64_t took_us, int64_t now_us) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    Rate& rate = rates[KeyOf(step)];
    if (now_us - rate.measured_us > kTurnUs) rate = {};
    rate.elements = kDecay * rate.elements + ElementsOf(step);
    rate.us = kDecay * rate.us + static_cast<double>(took_us);
    rate.measured_us = now_us;
  }
  // Takes out those that have not begun and can't be done in time after those before them, each with what says so.
  std::vector<std::pair<Entry, absl::Status>> TakeHopeless(int64_t now_us) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    std::vector<std::pair<Entry, absl::Status>> hopeless;
    int64_t before_us = 0;
    for (auto each = waiting.begin(); each != waiting.end();) {
      Entry& entry = each->second;
      const int64_t left_us = entry.work.deadline_us - now_us;
      if (entry.begun || left_us <= 0) {  // What is late takes no time.
        ++each;
        continue;
      }
      const int64_t own_us = OwnMicros(entry.work.amount, now_us);
      if (own_us > 0 && before_us + own_us > left_us) {
        hopeless.emplace_back(std::move(entry), Batcher::CheckDeadline(before_us, own_us, left_us));
        each = waiting.erase(each);
        continue;
      }
      before_us += own_us;
      ++each;
    }
    return hopeless;
  }

  ThreadPool* const pool;
  Clock* const clock;
  Mutex mutex;
  std::map<RateKey, Rate> rates ABSL_GUARDED_BY(mutex);
  std::map<int64_t, Held> places ABSL_GUARDED_BY(mutex);  // By id; as many as are admitted.
  int64_t last_id ABSL_GUARDED_BY(mutex) = 0;
  std::multimap<int64_t, Entry> waiting ABSL_GUARDED_BY(mutex);  // By turn.
  int64_t others_us ABSL_GUARDED_BY(mutex) = -kOthersUs - 1;     // When something else was last seen to wait for a step.
  bool has_runner ABSL_GUARDED_BY(mutex) = false;  // RunStep is under way or in the pool's queue: so it is while something waits.
};

void LargeWorkLine::Place::Release() {
  const std::shared_ptr<State> state = std::move(state_);
  if (state == nullptr) return;
  MutexLock lock(&state->mutex);
  state->places.erase(id_);
}

void LargeWorkLine::Place::Leaves(int64_t queries) {
  if (state_ == nullptr) return;
  MutexLock lock(&state_->mutex);
  state_->places[id_].left.queries = queries;
}

LargeWorkLine::LargeWorkLine(ThreadPool* pool, Clock* clock) : state_(std::make_shared<State>(pool, clock)) {}

LargeWorkLine::~LargeWorkLine() = default;

absl::Status LargeWorkLine::Check(const Amount& amount, int64_t deadline_us, int64_t pool_us) const {
  const int64_t now_us = state_->clock->NowMicros();
  int64_t before_us, own_us;
  {
    MutexLock lock(&state_->mutex);
    // As with an encoder's empty queue, one that comes alone is taken, and measured.
    if (deadline_us == kNoDeadlineMicros || (pool_us == 0 && state_->places.empty())) return absl::OkStatus();
    before_us = pool_us + state_->DelayMicros(state_->Turn(now_us, deadline_us), now_us);
    own_us = state_->OwnMicros(amount, now_us);
  }
  return Batcher::CheckDeadline(before_us, own_us, deadline_us - now_us);
}

int64_t LargeWorkLine::DelayMicros(int64_t deadline_us) const {
  const int64_t now_us = state_->clock->NowMicros();
  MutexLock lock(&state_->mutex);
  return state_->DelayMicros(state_->Turn(now_us, deadline_us), now_us);
}

LargeWorkLine::Place LargeWorkLine::Take(const Amount& amount, int64_t deadline_us) {
  const int64_t turn_us = state_->Turn(state_->clock->NowMicros(), deadline_us);
  Place place;
  MutexLock lock(&state_->mutex);
  place.id_ = ++state_->last_id;
  state_->places[place.id_] = {amount, turn_us};
  place.state_ = state_;
  return place;
}

int64_t LargeWorkLine::StepQueries(const Amount& amount) const {
  const int64_t now_us = state_->clock->NowMicros();
  MutexLock lock(&state_->mutex);
  const State::Rate* const rate = state_->Find(amount, now_us);
  if (rate == nullptr) return 0;
  constexpr double kMost = 1e9;
  const int64_t step_us = now_us - state_->others_us <= kOthersUs ? kStepUs : kLongStepUs;
  const double elements = static_cast<double>(step_us) * rate->elements / std::max(rate->us, 1.0);
  return static_cast<int64_t>(std::min(elements / ElementsOf({amount.kind, 1, amount.query_elements}), kMost));
}

void LargeWorkLine::Measured(const Amount& step, int64_t took_us) {
  if (step.queries <= 0 || took_us < 0) return;
  const int64_t now_us = state_->clock->NowMicros();
  MutexLock lock(&state_->mutex);
  state_->Measured(step, took_us, now_us);
}

void LargeWorkLine::MeasuredAtLeast(const Amount& step, int64_t took_us) {
  if (step.queries <= 0) return;
  const int64_t now_us = state_->clock->NowMicros();
  MutexLock lock(&state_->mutex);
  if (took_us > std::max(state_->OwnMicros(step, now_us), kStepUs)) state_->Measured(step, took_us, now_us);
}

void LargeWorkLine::Add(Work work) {
  const std::shared_ptr<State> state = state_;  // This may be gone once others can take it.
  const int64_t turn_us = state->Turn(state->clock->NowMicros(), work.deadline_us);
  {
    MutexLock lock(&state->mutex);
    // Before its entry can be answered, which may take the pool down.
    if (!state->has_runner) state->has_runner = state->pool->TrySubmit([state] { RunStep(state); });
    if (state->has_runner) {
      state->waiting.emplace(turn_us, State::Entry{std::move(work)});
      return;
    }
  }
  work.refuse(ErrorWithReason(absl::ResourceExhaustedError("the server's work queue is full"), "OVERLOADED"));
}

// One step, then what waited meanwhile for the pool goes first.
void LargeWorkLine::RunStep(const std::shared_ptr<State>& state) {
  while (true) {
    int64_t turn_us = 0;
    State::Entry entry;
    std::vector<std::pair<State::Entry, absl::Status>> hopeless;
    bool found = false;
    {
      MutexLock lock(&state->mutex);
      // One that is there alone is done as far as it goes, and measured.
      if (state->waiting.size() > 1) hopeless = state->TakeHopeless(state->clock->NowMicros());
      found = !state->waiting.empty();
      state->has_runner = found;
      if (found) {
        const auto first = state->waiting.begin();
        turn_us = first->first;
        entry = std::move(first->second);
        state->waiting.erase(first);
      }
    }
    for (auto& [each, why] : hopeless) each.work.refuse(std::move(why));
    if (!found) return;
    entry.begun = true;
    const bool unfinished = entry.work.step();
    {
      MutexLock lock(&state->mutex);
      if (unfinished) {
        if (state->pool->queue_size() > 0) state->others_us = state->clock->NowMicros();
        state->waiting.emplace(turn_us, std::move(entry));
      }
      state->has_runner = !state->waiting.empty();
      if (!state->has_runner) return;
    }
    if (state->pool->TrySubmit([state] { RunStep(state); })) return;
  }
}

}  // namespace loci
