// Whether a device still works. The first error of its work is kept: from then on everything that wants the device is refused with it.
#ifndef LOCI_BASE_CUDA_HEALTH_H_
#define LOCI_BASE_CUDA_HEALTH_H_

#include <functional>
#include <string>

#include "absl/status/status.h"
#include "base/mutex.h"

namespace loci {

// healthy -> failed; there is no way back but a restart, since a CUDA context is lost for its whole process. Thread-safe.
class CudaHealth {
 public:
  explicit CudaHealth(std::string device) : device_(std::move(device)) {}

  // OK while healthy; UNAVAILABLE with the first error afterwards.
  absl::Status Check() const;

  // Keeps `error` if it is the first, and tells the listener. Returns what Check says from now on.
  absl::Status Fail(const absl::Status& error);

  // `listener` is called once with what Check says, on the thread that failed, holding no lock; at once if that has been.
  void SetListener(std::function<void(const absl::Status&)> listener);

 private:
  const std::string device_;
  mutable Mutex mutex_;
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);
  std::function<void(const absl::Status&)> listener_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace loci

#endif  // LOCI_BASE_CUDA_HEALTH_H_
