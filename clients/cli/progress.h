// Progress of what takes long, on standard error.
#ifndef LOCI_CLIENTS_CLI_PROGRESS_H_
#define LOCI_CLIENTS_CLI_PROGRESS_H_

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <ostream>
#include <string>
#include <string_view>
#include <thread>

namespace loci {

// On a terminal one line that is rewritten five times a second; elsewhere a plain line every five seconds.
// Thread-safe.
class Progress {
 public:
  // What there is to tell. `total` 0: unknown. The remaining time is told from position/total.
  struct Numbers {
    int64_t count = 0;
    int64_t position = 0;
    int64_t total = 0;
  };

  // `numbers` is called on a thread of the Progress until Stop(). `width` is the terminal's, 0 where there is none. `noun` is what is
  // counted: "passage".
  Progress(std::ostream& err, int width, std::string noun, std::function<Numbers()> numbers);
  ~Progress();

  // Replaces counts by `text` and the time since the first such text: "indexing   0:12".
  void SetPhase(std::string text);
  // Prints a whole line without disturbing the progress line.
  void Print(std::string_view line);
  // Clears the line. Done by the destructor.
  void Stop();

  // "12,800 passages   1,234/s   25 %   ETA 0:31".
  static std::string Format(const Numbers& numbers, double elapsed_seconds, std::string_view noun);

 private:
  using Clock = std::chrono::steady_clock;
  void Run();
  void Show();   // With mutex_ held.
  void Clear();  // With mutex_ held.

  std::ostream& err_;
  const int width_;
  const std::string noun_;
  const std::function<Numbers()> numbers_;
  const Clock::time_point start_ = Clock::now();

  std::mutex mutex_;
  std::condition_variable wake_;
  bool stopped_ = false;  // Guarded by mutex_, as is what follows.
  bool line_is_shown_ = false;
  std::string phase_;
  Clock::time_point phase_start_;
  std::thread thread_;
};

}  // namespace loci

#endif  // LOCI_CLIENTS_CLI_PROGRESS_H_
