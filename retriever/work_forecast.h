// How long the work that was admitted takes the pool that tokenizes and searches: whether a request can still make its deadline.
#ifndef LOCI_RETRIEVER_WORK_FORECAST_H_
#define LOCI_RETRIEVER_WORK_FORECAST_H_

#include <atomic>
#include <cstdint>
#include <utility>

namespace loci {

// Thread-safe.
class WorkForecast {
 public:
  // One piece of work that was admitted and has not begun. Movable; ends its waiting when it dies. Used by one thread at a time.
  class Waiting {
   public:
    Waiting() = default;
    explicit Waiting(std::atomic<int64_t>* count) : count_(count) { count_->fetch_add(1, std::memory_order_relaxed); }
    Waiting(Waiting&& other) noexcept : count_(std::exchange(other.count_, nullptr)) {}
    Waiting& operator=(Waiting&& other) noexcept {
      End();
      count_ = std::exchange(other.count_, nullptr);
      return *this;
    }
    ~Waiting() { End(); }
    void End() {
      if (std::atomic<int64_t>* const count = std::exchange(count_, nullptr); count != nullptr) count->fetch_sub(1, std::memory_order_relaxed);
    }

   private:
    std::atomic<int64_t>* count_ = nullptr;
  };

  explicit WorkForecast(int thread_count) : thread_count_(thread_count) {}

  // A search waits from its admission until it begins to search, its text until it is tokenized. May not outlive this object.
  Waiting AddText() { return Waiting(&texts_); }
  Waiting AddSearch() { return Waiting(&searches_); }
  void TokenizeTook(int64_t us) { Smooth(us, &tokenize_us_); }
  void SearchTook(int64_t us) { Smooth(us, &search_us_); }

  // Until what waits is done; 0 where nothing waits, or nothing was measured yet.
  int64_t DelayMicros() const {
    const double tokenize_us = tokenize_us_.load(std::memory_order_relaxed);
    const double search_us = search_us_.load(std::memory_order_relaxed);
    const double work_us =
        static_cast<double>(texts_.load(std::memory_order_relaxed)) * tokenize_us + static_cast<double>(searches_.load(std::memory_order_relaxed)) * search_us;
    return static_cast<int64_t>(work_us / thread_count_);
  }

 private:
  // Lately; an update that is lost to another thread's does no harm.
  static void Smooth(int64_t us, std::atomic<double>* mean_us) {
    const double before = mean_us->load(std::memory_order_relaxed);
    const double value = static_cast<double>(us);
    mean_us->store(before == 0 ? value : before + 0.05 * (value - before), std::memory_order_relaxed);
  }

  const int thread_count_;
  std::atomic<int64_t> texts_{0};
  std::atomic<int64_t> searches_{0};
  std::atomic<double> tokenize_us_{0};
  std::atomic<double> search_us_{0};
};

}  // namespace loci

#endif  // LOCI_RETRIEVER_WORK_FORECAST_H_
