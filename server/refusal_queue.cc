#include "server/refusal_queue.h"

#include <utility>

namespace loci {
namespace {

void SendAll(std::vector<std::function<void()>>& answers) {
  for (const std::function<void()>& send : answers) send();
  answers.clear();
}

}  // namespace

RefusalQueue::RefusalQueue(Options options) : options_(options), thread_([this] { Run(); }) {}

RefusalQueue::~RefusalQueue() {
  {
    MutexLock lock(&mutex_);
    stopping_ = true;
  }
  changed_.NotifyAll();
  thread_.join();
}

void RefusalQueue::Add(std::function<void()> send) {
  std::vector<std::function<void()>> full;
  {
    MutexLock lock(&mutex_);
    held_.push_back(std::move(send));
    if (held_.size() == 1) changed_.NotifyAll();
    if (held_.size() >= options_.max_held) full.swap(held_);
  }
  SendAll(full);
}

void RefusalQueue::Run() {
  std::vector<std::function<void()>> answers;
  bool stopping = false;
  while (!stopping) {
    {
      MutexLock lock(&mutex_);
      while (held_.empty() && !stopping_) changed_.Wait(&mutex_);
    }
    {
      const auto until = std::chrono::steady_clock::now() + options_.hold;
      MutexLock lock(&mutex_);
      while (!stopping_) {
        const auto left = std::chrono::duration_cast<std::chrono::microseconds>(until - std::chrono::steady_clock::now());
        if (left.count() <= 0) break;
        changed_.WaitFor(&mutex_, left);
      }
      answers.swap(held_);
      stopping = stopping_;
    }
    SendAll(answers);
  }
}

}  // namespace loci
