#include "retriever/load_rates.h"

#include <algorithm>

#include "index/manifest.h"

namespace loci {
namespace {

struct Sizes {
  int64_t all_bytes = 0;
  int64_t vector_bytes = 0;
  int64_t warm_bytes = 0;
  int64_t parsed_bytes = 0;
};

Sizes SizesOf(const storage::Manifest& manifest) {
  Sizes sizes;
  for (const storage::FileEntry& file : manifest.files()) {
    sizes.all_bytes += file.size_bytes();
    if (file.path() == kVectorsFile) sizes.vector_bytes = file.size_bytes();
    if (file.path() == kVectorsFile || file.path() == kCodesFile) sizes.warm_bytes += file.size_bytes();
    if (file.path() == kIndexFile || file.path() == kColumnsFile) sizes.parsed_bytes += file.size_bytes();
  }
  return sizes;
}

}  // namespace

void LoadRates::Rate::Observe(int64_t units, int64_t duration_us) {
  const double time_us = static_cast<double>(duration_us);
  const auto take = [](double value, bool* observed, double* known) {
    *known = *observed ? (*known + value) / 2 : value;
    *observed = true;
  };
  if (units < many_) {
    take(time_us, &observed_fixed_, &fixed_us_);
  } else {
    // Where all of it took less than the fixed part was thought to, that part is the less known one.
    if (time_us < 2 * fixed_us_ && !observed_fixed_) fixed_us_ = time_us / 2;
    take(std::max(0.0, time_us - fixed_us_) / static_cast<double>(units), &observed_unit_, &unit_us_);
  }
}

void LoadRates::ObserveOpen(const storage::Manifest& manifest, const OpenTimes& times) {
  const Sizes sizes = SizesOf(manifest);
  MutexLock lock(&mutex_);
  verify_.Observe(sizes.all_bytes, times.verify_us);
  parse_.Observe(sizes.parsed_bytes, times.parse_us);
  probe_.Observe(sizes.vector_bytes, times.probe_us);
}

void LoadRates::ObserveVerify(int64_t size_bytes, int64_t duration_us) {
  MutexLock lock(&mutex_);
  verify_.Observe(size_bytes, duration_us);
}

void LoadRates::ObserveWarm(const storage::Manifest& manifest, int64_t duration_us) {
  const Sizes sizes = SizesOf(manifest);
  MutexLock lock(&mutex_);
  warm_.Observe(sizes.warm_bytes, duration_us);
}

void LoadRates::ObservePlace(const storage::Manifest& manifest, int64_t duration_us) {
  const Sizes sizes = SizesOf(manifest);
  MutexLock lock(&mutex_);
  place_.Observe(sizes.vector_bytes, duration_us);
}

void LoadRates::ObservePublish(int64_t change_count, int64_t duration_us) {
  MutexLock lock(&mutex_);
  publish_.Observe(change_count, duration_us);
}

void LoadRates::ObserveWhole(const storage::Manifest& manifest, int64_t change_count, bool placed, int64_t duration_us) {
  MutexLock lock(&mutex_);
  rest_.Observe(0, std::max<int64_t>(0, duration_us - static_cast<int64_t>(PartsUs(manifest, change_count, placed, /*verified=*/false))));
}

double LoadRates::PartsUs(const storage::Manifest& manifest, int64_t change_count, bool placed, bool verified) const {
  const Sizes sizes = SizesOf(manifest);
  return (verified ? 0 : verify_.PredictUs(sizes.all_bytes)) + parse_.PredictUs(sizes.parsed_bytes) + probe_.PredictUs(sizes.vector_bytes) +
         warm_.PredictUs(sizes.warm_bytes) + (placed ? place_.PredictUs(sizes.vector_bytes) : 0) + publish_.PredictUs(change_count);
}

int64_t LoadRates::PredictUs(const storage::Manifest& manifest, int64_t change_count, bool placed, bool verified) const {
  MutexLock lock(&mutex_);
  return static_cast<int64_t>(PartsUs(manifest, change_count, placed, verified) + rest_.PredictUs(0));
}

}  // namespace loci
