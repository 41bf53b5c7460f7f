#include "base/thread_pool.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <deque>
#include <thread>
#include <utility>
#include <vector>

#include "base/logging.h"
#include "base/mutex.h"

namespace loci {
namespace {

// One ParallelFor. Lives on its caller's stack; a pool thread touches it only while it counts in `helper_count`.
struct Loop {
  Loop(int64_t count, const std::function<void(int64_t)>& body) : count(count), body(body) {}

  const int64_t count;
  const std::function<void(int64_t)>& body;
  std::atomic<int64_t> next{0};
  // Guarded by the pool's mutex.
  int helper_count = 0;
  CondVar helpers_done;

  void RunWhatIsLeft() {
    for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < count;) body(i);
  }
};

}  // namespace

struct ThreadPool::State {
  // Constant after construction.
  std::string name;
  int64_t queue_limit = 0;
  std::vector<std::thread> threads;

  // Guarded by `mutex`.
  mutable Mutex mutex;
  CondVar work;
  std::deque<std::function<void()>> tasks ABSL_GUARDED_BY(mutex);
  std::deque<Loop*> loops ABSL_GUARDED_BY(mutex);  // Those that may still have something to take.
  bool stopping ABSL_GUARDED_BY(mutex) = false;

  void RunThread();
};

void ThreadPool::State::RunThread() {
  pthread_setname_np(pthread_self(), name.substr(0, 15).c_str());
  mutex.Lock();
  while (true) {
    if (!loops.empty()) {
      // Loops before tasks: somebody is waiting for them.
      Loop* const loop = loops.front();
      ++loop->helper_count;
      mutex.Unlock();
      loop->RunWhatIsLeft();
      mutex.Lock();
      // Nothing is left of it; the first helper to notice takes it off the list.
      const auto position = std::find(loops.begin(), loops.end(), loop);
      if (position != loops.end()) loops.erase(position);
      if (--loop->helper_count == 0) loop->helpers_done.NotifyOne();
    } else if (!tasks.empty()) {
      std::function<void()> task = std::move(tasks.front());
      tasks.pop_front();
      mutex.Unlock();
      task();
      task = nullptr;  // What it captured dies before the lock is taken.
      mutex.Lock();
    } else if (stopping) {
      break;
    } else {
      work.Wait(&mutex);
    }
  }
  mutex.Unlock();
}

ThreadPool::ThreadPool(std::string name, int thread_count, int64_t queue_limit) : state_(std::make_unique<State>()) {
  LOCI_CHECK(thread_count >= 0 && queue_limit >= 0);
  State* const state = state_.get();
  state->name = std::move(name);
  state->queue_limit = queue_limit;
  state->threads.reserve(static_cast<size_t>(thread_count));
  for (int i = 0; i < thread_count; ++i) state->threads.emplace_back([state] { state->RunThread(); });
}

ThreadPool::~ThreadPool() {
  {
    MutexLock lock(&state_->mutex);
    state_->stopping = true;
  }
  state_->work.NotifyAll();
  for (std::thread& thread : state_->threads) thread.join();
}

bool ThreadPool::TrySubmit(std::function<void()> task) {
  {
    MutexLock lock(&state_->mutex);
    if (state_->threads.empty() || static_cast<int64_t>(state_->tasks.size()) >= state_->queue_limit) return false;
    state_->tasks.push_back(std::move(task));
  }
  state_->work.NotifyOne();
  return true;
}

void ThreadPool::ParallelFor(int64_t count, const std::function<void(int64_t)>& body) {
  if (count <= 0) return;
  if (count == 1 || state_->threads.empty()) {
    for (int64_t i = 0; i < count; ++i) body(i);
    return;
  }
  Loop loop(count, body);
  {
    MutexLock lock(&state_->mutex);
    state_->loops.push_back(&loop);
  }
  if (count > static_cast<int64_t>(state_->threads.size())) {
    state_->work.NotifyAll();
  } else {
    for (int64_t i = 1; i < count; ++i) state_->work.NotifyOne();
  }
  loop.RunWhatIsLeft();
  MutexLock lock(&state_->mutex);
  const auto position = std::find(state_->loops.begin(), state_->loops.end(), &loop);
  if (position != state_->loops.end()) state_->loops.erase(position);
  while (loop.helper_count > 0) loop.helpers_done.Wait(&state_->mutex);
}

int ThreadPool::thread_count() const { return static_cast<int>(state_->threads.size()); }

int64_t ThreadPool::queue_size() const {
  MutexLock lock(&state_->mutex);
  return static_cast<int64_t>(state_->tasks.size());
}

}  // namespace loci
