// Time behind an interface, so that tests need not sleep.
#ifndef LOCI_BASE_CLOCK_H_
#define LOCI_BASE_CLOCK_H_

#include <atomic>
#include <cstdint>

namespace loci {

// Thread-safe.
class Clock {
 public:
  virtual ~Clock() = default;
  // Microseconds since some fixed point; never goes back. All deadlines inside the server are on this clock.
  virtual int64_t NowMicros() const = 0;
  // Microseconds since 1970-01-01 UTC.
  virtual int64_t UnixMicros() const = 0;
};

// The operating system's clocks. Never destroyed.
Clock& RealClock();

// Moves only when told. Thread-safe.
class FakeClock : public Clock {
 public:
  explicit FakeClock(int64_t start_us = 1'000'000) : now_us_(start_us) {}
  int64_t NowMicros() const override { return now_us_.load(); }
  int64_t UnixMicros() const override { return now_us_.load(); }
  void Advance(int64_t us) { now_us_.fetch_add(us); }

 private:
  std::atomic<int64_t> now_us_;
};

// A deadline that never comes.
inline constexpr int64_t kNoDeadlineMicros = INT64_MAX;

}  // namespace loci

#endif  // LOCI_BASE_CLOCK_H_
