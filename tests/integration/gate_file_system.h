// A disk whose files can be held back.
#ifndef LOCI_TESTS_INTEGRATION_GATE_FILE_SYSTEM_H_
#define LOCI_TESTS_INTEGRATION_GATE_FILE_SYSTEM_H_

#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>

#include "gtest/gtest.h"
#include "index/forwarding_file_system.h"

namespace loci {

// Holds back whoever maps a file with `pattern` in its path, from Hold to Release. Thread-safe.
class GateFileSystem : public ForwardingFileSystem {
 public:
  absl::StatusOr<std::unique_ptr<MappedFile>> Map(const std::string& path) override {
    {
      std::unique_lock<std::mutex> lock(mutex_);
      if (!pattern_.empty() && path.find(pattern_) != std::string::npos) {
        ++waiting_;
        changed_.notify_all();
        changed_.wait(lock, [&] { return pattern_.empty(); });
        --waiting_;
      }
    }
    return ForwardingFileSystem::Map(path);
  }
  void Hold(const std::string& pattern) {
    std::unique_lock<std::mutex> lock(mutex_);
    pattern_ = pattern;
  }
  // Until so many are held back.
  void AwaitHeld(int count = 1) {
    std::unique_lock<std::mutex> lock(mutex_);
    EXPECT_TRUE(changed_.wait_for(lock, std::chrono::seconds(60), [&] { return waiting_ >= count; })) << waiting_ << " of " << count;
  }
  void Release() {
    std::unique_lock<std::mutex> lock(mutex_);
    pattern_.clear();
    changed_.notify_all();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::string pattern_;
  int waiting_ = 0;
};

}  // namespace loci

#endif  // LOCI_TESTS_INTEGRATION_GATE_FILE_SYSTEM_H_
