#include "retriever/large_work_line.h"

#include <algorithm>
#include <array>
#include <map>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/mutex.h"
#include "encoder/batcher.h"

namespace loci {
namespace {

constexpr size_t kKindCount = static_cast<size_t>(LargeWorkKind::kDeviceTraining) + 1;
// What an older step counts against the next of its kind: about ten are remembered.
constexpr double kDecay = 0.9;

bool IsAlone(LargeWorkKind kind) { return kind != LargeWorkKind::kApproximateSearch; }

}  // namespace

struct LargeWorkLine::State {
  State(ThreadPool* pool, Clock* clock) : pool(pool), clock(clock), limit(std::max(pool->thread_count() / 2, 1)) {}

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
  };

  int64_t Turn(int64_t now_us, int64_t deadline_us) const { return std::min(deadline_us, now_us + kTurnUs); }
  int64_t OwnMicros(const Amount& amount) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    const Rate& rate = rates[static_cast<size_t>(amount.kind)];
    return rate.elements == 0 ? 0 : static_cast<int64_t>(static_cast<double>(amount.elements) * rate.us / rate.elements);
  }
  int64_t DelayMicros(int64_t turn_us) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    int64_t alone_us = 0, shared_us = 0;
    for (const auto& [id, held] : places) {
      if (held.turn_us <= turn_us) (IsAlone(held.left.kind) ? alone_us : shared_us) += OwnMicros(held.left);
    }
    return alone_us + shared_us / limit;
  }
  // The first whose turn it is and that may be done now.
  std::multimap<int64_t, Entry>::iterator Next() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    auto next = waiting.begin();
    while (next != waiting.end() && alone_runs && IsAlone(next->second.work.amount.kind)) ++next;
    return next;
  }

  // Takes out those that have not begun and can't be done in time after those before them; with the time they were seen to take.
  std::vector<std::pair<Entry, absl::Status>> TakeHopeless(int64_t now_us) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    std::vector<std::pair<Entry, absl::Status>> hopeless;
    int64_t before_us = 0;
    for (auto each = waiting.begin(); each != waiting.end();) {
      Entry& entry = each->second;
      if (entry.begun) {
        ++each;
        continue;
      }
      const int64_t own_us = OwnMicros(entry.work.amount);
      const int64_t left_us = entry.work.deadline_us - now_us;
      if (own_us > 0 && left_us > 0 && before_us + own_us > left_us) {
        hopeless.emplace_back(std::move(entry), Batcher::CheckDeadline(before_us, own_us, left_us));
        each = waiting.erase(each);
        continue;
      }
      before_us += IsAlone(entry.work.amount.kind) ? own_us : own_us / limit;
      ++each;
    }
    return hopeless;
  }

  ThreadPool* const pool;
  Clock* const clock;
  const int limit;  // Of runners.
  Mutex mutex;
  std::array<Rate, kKindCount> rates ABSL_GUARDED_BY(mutex);
  std::map<int64_t, Held> places ABSL_GUARDED_BY(mutex);  // By id; as many as are admitted.
  int64_t last_id ABSL_GUARDED_BY(mutex) = 0;
  std::multimap<int64_t, Entry> waiting ABSL_GUARDED_BY(mutex);  // By turn.
  bool alone_runs ABSL_GUARDED_BY(mutex) = false;                // Its runner takes the next that is to be alone.
  int runners ABSL_GUARDED_BY(mutex) = 0;                        // Of RunStep, begun or in the pool's queue.
};

void LargeWorkLine::Place::Release() {
  const std::shared_ptr<State> state = std::move(state_);
  if (state == nullptr) return;
  MutexLock lock(&state->mutex);
  state->places.erase(id_);
}

void LargeWorkLine::Place::Leaves(int64_t elements) {
  if (state_ == nullptr) return;
  MutexLock lock(&state_->mutex);
  state_->places[id_].left.elements = elements;
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
    before_us = pool_us + state_->DelayMicros(state_->Turn(now_us, deadline_us));
    own_us = state_->OwnMicros(amount);
  }
  return Batcher::CheckDeadline(before_us, own_us, deadline_us - now_us);
}

int64_t LargeWorkLine::DelayMicros(int64_t deadline_us) const {
  const int64_t turn_us = state_->Turn(state_->clock->NowMicros(), deadline_us);
  MutexLock lock(&state_->mutex);
  return state_->DelayMicros(turn_us);
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

int64_t LargeWorkLine::StepElements(LargeWorkKind kind) const {
  MutexLock lock(&state_->mutex);
  const State::Rate& rate = state_->rates[static_cast<size_t>(kind)];
  constexpr double kMost = 1e18;
  if (rate.elements == 0) return 0;
  return static_cast<int64_t>(std::min(kStepUs * rate.elements / std::max(rate.us, 1.0), kMost));
}

void LargeWorkLine::Measured(const Amount& step, int64_t took_us) {
  if (step.elements <= 0 || took_us < 0) return;
  MutexLock lock(&state_->mutex);
  State::Rate& rate = state_->rates[static_cast<size_t>(step.kind)];
  rate.elements = kDecay * rate.elements + static_cast<double>(step.elements);
  rate.us = kDecay * rate.us + static_cast<double>(took_us);
}

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
    const int64_t now_us = state->clock->NowMicros();
    int64_t turn_us = 0;
    State::Entry entry;
    std::vector<std::pair<State::Entry, absl::Status>> hopeless;
    bool found = false;
    {
      MutexLock lock(&state->mutex);
      // One that is there alone is done as far as it goes, and measured.
      if (state->waiting.size() > 1) hopeless = state->TakeHopeless(now_us);
      const auto next = state->Next();
      found = next != state->waiting.end();
      if (found) {
        turn_us = next->first;
        entry = std::move(next->second);
        state->waiting.erase(next);
        if (IsAlone(entry.work.amount.kind)) state->alone_runs = true;
      } else {  // What is left is for who does one alone.
        --state->runners;
      }
    }
    for (auto& [each, why] : hopeless) each.work.refuse(std::move(why));
    if (!found) return;
    const bool alone = IsAlone(entry.work.amount.kind);
    entry.begun = true;
    const bool unfinished = entry.work.step();
    {
      MutexLock lock(&state->mutex);
      if (alone) state->alone_runs = false;
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
