// How long the parts of an activation took here lately: what a plan tells its time from.
//
//   rates.ObserveOpen(manifest, times);                       // each generation that is opened, those at the start too
//   rates.PredictUs(other_manifest, /*change_count=*/0);
#ifndef LOCI_RETRIEVER_LOAD_RATES_H_
#define LOCI_RETRIEVER_LOAD_RATES_H_

#include <cstdint>

#include "base/mutex.h"
#include "index/generation.h"
#include "proto/loci/storage/storage.pb.h"

namespace loci {

// A part's time is a fixed one and one by byte (or change). Before the first observation each is a guess: files from a SATA disk. Later ones count
// half, so that a first reading from disk is soon forgotten where the page cache has the files.
// Thread-safe.
class LoadRates {
 public:
  void ObserveOpen(const storage::Manifest& manifest, const OpenTimes& times);
  void ObserveVerify(int64_t size_bytes, int64_t duration_us);
  void ObserveWarm(const storage::Manifest& manifest, int64_t duration_us);  // Vectors, and their codes.
  // Bringing the vectors to a device that searches them.
  void ObservePlace(const storage::Manifest& manifest, int64_t duration_us);
  // Laying writes over the generation and writing CURRENT.
  void ObservePublish(int64_t change_count, int64_t duration_us);
  // All of an activation, from its request to its reply: what is left beside the parts, once they were observed, is the job's record and the calls'.
  void ObserveWhole(const storage::Manifest& manifest, int64_t change_count, bool placed, int64_t duration_us);

  // Of opening, verifying (unless it was `verified` before), warming, placing (where it is `placed`) and publishing with `change_count` passages written
  // or deleted since, and of the rest.
  int64_t PredictUs(const storage::Manifest& manifest, int64_t change_count, bool placed, bool verified = false) const;

 private:
  class Rate {
   public:
    Rate(double fixed_us, double unit_us, int64_t many) : fixed_us_(fixed_us), unit_us_(unit_us), many_(many) {}
    void Observe(int64_t units, int64_t duration_us);
    double PredictUs(int64_t units) const { return fixed_us_ + unit_us_ * static_cast<double>(units); }

   private:
    double fixed_us_, unit_us_;
    const int64_t many_;  // Below, a time says more about the fixed part than about the other.
    bool observed_fixed_ = false, observed_unit_ = false;
  };

  double PartsUs(const storage::Manifest& manifest, int64_t change_count, bool placed, bool verified) const ABSL_SHARED_LOCKS_REQUIRED(mutex_);

  mutable Mutex mutex_;
  Rate verify_ ABSL_GUARDED_BY(mutex_){2'000, 1e6 / 400e6, 1 << 20};
  Rate parse_ ABSL_GUARDED_BY(mutex_){3'000, 1e6 / 1e9, 1 << 20};
  Rate probe_ ABSL_GUARDED_BY(mutex_){2'000, 1e6 / 2e9, 1 << 20};
  Rate warm_ ABSL_GUARDED_BY(mutex_){100, 1e6 / 10e9, 1 << 20};
  Rate place_ ABSL_GUARDED_BY(mutex_){20'000, 1e6 / 2e9, 1 << 20};
  Rate publish_ ABSL_GUARDED_BY(mutex_){5'000, 20, 100};
  Rate rest_ ABSL_GUARDED_BY(mutex_){5'000, 0, 1};
};

}  // namespace loci

#endif  // LOCI_RETRIEVER_LOAD_RATES_H_
