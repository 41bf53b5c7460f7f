// Folds stores by itself, in the background, once what lies over their generations is past a limit.
//
//   AutoFolder folder({.manager = &manager, .jobs = &jobs, .limits = {.max_overlay_passages = 100'000}});
#ifndef LOCI_RETRIEVER_AUTO_FOLDER_H_
#define LOCI_RETRIEVER_AUTO_FOLDER_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <thread>

#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "retriever/fold_limits.h"
#include "retriever/generation_manager.h"
#include "retriever/job_registry.h"

namespace loci {

bool IsPastLimits(const OverlayInfo& overlay, const FoldLimits& limits);

// One fold at a time, as a job that yields. Not while an ingest, an import, an activation or a roll-back of the store runs; after a failure
// (a fold that gave way is none) it leaves the store alone for a minute, after each further one twice as long, up to an hour.
// Works on a thread of its own; its end cancels what runs, and waits for that. Thread-safe.
class AutoFolder {
 public:
  struct Options {
    GenerationManager* manager = nullptr;  // Borrowed, as `jobs`.
    JobRegistry* jobs = nullptr;
    Clock* clock = &RealClock();  // Of the pauses after failures.
    FoldLimits limits;
    int64_t poll_ms = 500;  // Between two looks.
  };

  explicit AutoFolder(Options options);
  ~AutoFolder();

 private:
  static constexpr int64_t kFirstPauseUs = 60'000'000;
  static constexpr int64_t kLongestPauseUs = 3'600'000'000;
  struct Failures {
    int64_t pause_us = 0;
    int64_t until_us = 0;
  };

  void Run();
  void Look();
  void Fold(const std::string& store);
  bool stopping() const;

  const Options options_;
  std::map<std::string, Failures> failures_;  // The thread's.
  mutable Mutex mutex_;
  CondVar stopped_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace loci

#endif  // LOCI_RETRIEVER_AUTO_FOLDER_H_
