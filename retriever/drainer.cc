#include "retriever/drainer.h"

#include <chrono>
#include <cstdint>
#include <utility>

#include "base/memory_info.h"

namespace loci {
namespace {

// The last holder lets go without telling anyone, so that requests pay nothing; the drainer looks this often.
constexpr std::chrono::milliseconds kPollInterval(20);

}  // namespace

Drainer::Drainer() : thread_([this] { Run(); }) {}

Drainer::~Drainer() { Stop(); }

void Drainer::Stop() {
  {
    MutexLock lock(&mutex_);
    stopping_ = true;
  }
  changed_.NotifyAll();
  if (thread_.joinable()) thread_.join();
}

void Drainer::Add(std::shared_ptr<const void> object, std::function<void()> retired) {
  {
    MutexLock lock(&mutex_);
    for (const Entry& entry : entries_) {
      if (entry.object == object) return;  // Two references of ours would wait for each other.
    }
    entries_.push_back({std::move(object), std::move(retired)});
  }
  changed_.NotifyAll();
}

int64_t Drainer::draining_count() const {
  MutexLock lock(&mutex_);
  return static_cast<int64_t>(entries_.size());
}

void Drainer::Run() {
  mutex_.Lock();
  while (!stopping_) {
    std::vector<Entry> free;
    for (auto it = entries_.begin(); it != entries_.end();) {
      // Nobody can take a new reference, so that a count of one is final.
      if (it->object.use_count() == 1) {
        free.push_back(std::move(*it));
        it = entries_.erase(it);
      } else {
        ++it;
      }
    }
    if (!free.empty()) {
      mutex_.Unlock();
      for (Entry& entry : free) {
        entry.object.reset();
        if (entry.retired) entry.retired();
      }
      free.clear();
      ReleaseFreeMemory();  // After hundreds of swaps, else, what each left would be the process's still.
      mutex_.Lock();
      continue;
    }
    if (entries_.empty()) {
      changed_.Wait(&mutex_);
    } else {
      changed_.WaitFor(&mutex_, kPollInterval);
    }
  }
  mutex_.Unlock();
}

}  // namespace loci
