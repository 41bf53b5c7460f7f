#include "index/cuda/cuda_exact_placer.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/logging.h"
#include "base/mutex.h"
#include "base/status_macros.h"

namespace loci {

// Thread-safe.
class CudaExactPlacer::Budget {
 public:
  explicit Budget(int64_t limit_bytes) : limit_bytes_(limit_bytes) {}

  absl::Status Take(int64_t bytes, int64_t rows) {
    MutexLock lock(&mutex_);
    if (limit_bytes_ > 0 && bytes > limit_bytes_ - taken_bytes_) {
      return absl::ResourceExhaustedError(absl::StrCat(rows, " rows take ", bytes, " bytes on the device; the limit of ", limit_bytes_,
                                                       " bytes leaves ", limit_bytes_ - taken_bytes_));
    }
    taken_bytes_ += bytes;
    return absl::OkStatus();
  }
  void GiveBack(int64_t bytes) {
    MutexLock lock(&mutex_);
    taken_bytes_ -= bytes;
  }

 private:
  const int64_t limit_bytes_;
  Mutex mutex_;
  int64_t taken_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
};

CudaExactPlacer::CudaExactPlacer(SearchDevice device, CudaSearchOptions options, int64_t memory_limit_bytes)
    : device_(std::move(device)), options_(options), budget_(std::make_shared<Budget>(memory_limit_bytes)) {}

bool CudaExactPlacer::IsFor(int64_t rows, int) const { return rows >= std::max<int64_t>(options_.min_visible_rows, 1); }

int64_t CudaExactPlacer::host_bytes(int64_t rows, int dim) const {
  const int64_t softmax_bytes = options_.softmax.has_value() ? PlanCudaSoftmax(rows, dim, *options_.softmax).pinned_bytes : 0;
  return PlanCudaSearch(rows, dim, options_).pinned_bytes + softmax_bytes + 2 * options_.limits.upload_bytes;
}

absl::StatusOr<std::shared_ptr<const DeviceExactIndex>> CudaExactPlacer::Place(
    std::shared_ptr<const VectorFile> vectors, std::shared_ptr<const QuantizedVectors> codes, std::shared_ptr<const PassageIndex> cpu,
    const std::function<absl::Status(int64_t done_rows)>& progress) {
  LOCI_RETURN_IF_ERROR(device_.health->Check());
  LOCI_ASSIGN_OR_RETURN(const ResidentPlan plan, PlanResident(vectors->rows(), vectors->dim(), vectors->element_type(),
                                                              std::numeric_limits<int64_t>::max(), options_.limits));
  const int64_t rows = vectors->rows();
  CudaSearchOptions options = options_;
  int64_t bytes = plan.device_bytes() + PlanCudaSearch(rows, vectors->dim(), options).working_bytes;
  const int64_t softmax_bytes = options.softmax.has_value() ? PlanCudaSoftmax(rows, vectors->dim(), *options.softmax).device_bytes : 0;
  if (const absl::Status both = budget_->Take(bytes + softmax_bytes, rows); both.ok()) {
    bytes += softmax_bytes;
  } else {
    LOCI_RETURN_IF_ERROR(budget_->Take(bytes, rows));
    options.softmax.reset();
    Log(LogLevel::kWarning, "cuda_exact_placer", absl::StrCat("log Z and mean vectors are the CPU's: ", both.message()),
        {{"device", device_.name}});
  }
  absl::StatusOr<std::unique_ptr<CudaExactIndex>> index =
      CudaExactIndex::Create(device_, std::move(vectors), std::move(codes), std::move(cpu), options, progress);
  // What it did without.
  const int64_t unused_bytes = index.ok() ? bytes - (*index)->device_bytes() : bytes;
  budget_->GiveBack(unused_bytes);
  bytes -= unused_bytes;
  LOCI_RETURN_IF_ERROR(index.status());
  return std::shared_ptr<const DeviceExactIndex>(index->release(), [budget = budget_, bytes](const CudaExactIndex* freed) {
    delete freed;
    budget->GiveBack(bytes);
  });
}

}  // namespace loci
