#include "base/cuda/health.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace loci {

absl::Status CudaHealth::Check() const {
  MutexLock lock(&mutex_);
  return failure_;
}

absl::Status CudaHealth::Fail(const absl::Status& error) {
  std::function<void(const absl::Status&)> listener;
  absl::Status failure;
  {
    MutexLock lock(&mutex_);
    if (failure_.ok()) {
      failure_ = absl::UnavailableError(
          absl::StrCat("device ", device_, " failed and can't be used until the server is restarted: ", error.message()));
      listener = std::exchange(listener_, nullptr);
    }
    failure = failure_;
  }
  if (listener) listener(failure);
  return failure;
}

void CudaHealth::SetListener(std::function<void(const absl::Status&)> listener) {
  absl::Status failure;
  {
    MutexLock lock(&mutex_);
    failure = failure_;
    if (failure.ok()) listener_ = std::exchange(listener, nullptr);
  }
  if (!failure.ok() && listener) listener(failure);
}

}  // namespace loci
