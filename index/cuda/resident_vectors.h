// A generation's vectors in the memory of a CUDA device: as they are stored, and as 8-bit codes.
//
//   LOCI_ASSIGN_OR_RETURN(SearchDevice device, OpenSearchDevice(0));
//   LOCI_ASSIGN_OR_RETURN(auto resident, ResidentVectors::Create(device, *vectors, codes.get(), {}, nullptr));
//
// 10 million rows of 384 bfloat16 take 7.7 GB, their codes 3.8 GB and 0.1 GB of figures.
#ifndef LOCI_INDEX_CUDA_RESIDENT_VECTORS_H_
#define LOCI_INDEX_CUDA_RESIDENT_VECTORS_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/cuda/health.h"
#include "base/cuda/runtime.h"
#include "base/vector_type.h"
#include "index/cuda/kernels.h"
#include "index/quantized_vectors.h"
#include "index/vector_file.h"

namespace loci {

// A device that is searched on. What it has may be shared with encoders of the same device. Copies share it.
struct SearchDevice {
  std::string name;  // "cuda:N"
  std::shared_ptr<CudaRuntime> runtime;
  std::shared_ptr<CudaHealth> health;
  std::shared_ptr<cuda::SearchKernels> kernels;
};

// FAILED_PRECONDITION, with the reason, where the device can't be used.
absl::StatusOr<SearchDevice> OpenSearchDevice(int ordinal);

struct ResidentLimits {
  int64_t reserved_bytes = int64_t{256} << 20;  // Of the device's memory, left alone.
  int64_t working_bytes = 0;                    // That will be wanted beside the vectors.
  int64_t upload_bytes = int64_t{8} << 20;      // Of pinned memory, twice, while vectors are uploaded.
};

struct ResidentPlan {
  int64_t padded_rows = 0;  // A multiple of cuda::kMaxTileRows.
  int depth = 0;            // Codes of a row: the dimension rounded up to 32.
  int64_t row_bytes = 0;    // Of all rows as they are stored, rounded up to 16.
  int64_t code_bytes = 0;
  int64_t figure_bytes = 0;  // Of PanelHeader's three figures, each.

  int64_t device_bytes() const { return row_bytes + code_bytes + 3 * figure_bytes; }
};

// FAILED_PRECONDITION for more than 2^31 - 129 rows; RESOURCE_EXHAUSTED, with figures, where the memory does not suffice.
absl::StatusOr<ResidentPlan> PlanResident(int64_t rows, int dim, ElementType type, int64_t free_bytes,
                                          const ResidentLimits& limits);

// Immutable after construction. May be freed on any thread, once nothing runs that reads it.
class ResidentVectors {
 public:
  // Uploads all rows in pieces. `codes`: those of `vectors`, or null: they are made of the rows. `progress(rows)` (may be null) is called after
  // each piece; what it returns, unless OK, ends the work. Errors: PlanResident's before anything is allocated; DATA_LOSS where rows or codes
  // can't be read; UNAVAILABLE where the device fails, which then is marked as failed. Blocks.
  static absl::StatusOr<std::unique_ptr<ResidentVectors>> Create(const SearchDevice& device, const VectorFile& vectors,
                                                                 const QuantizedVectors* codes, const ResidentLimits& limits,
                                                                 const std::function<absl::Status(int64_t done_rows)>& progress);

  const ResidentPlan& plan() const { return plan_; }
  // On the device: [rows, dim] in the stored type, signed codes [padded_rows, depth], figures [padded_rows]. Padded ones are zero.
  const void* rows() const { return rows_.get(); }
  const int8_t* codes() const { return static_cast<const int8_t*>(codes_.get()); }
  const float* inverse_scales() const { return static_cast<const float*>(inverse_scales_.get()); }
  const float* lengths() const { return static_cast<const float*>(lengths_.get()); }
  const float* errors() const { return static_cast<const float*>(errors_.get()); }

 private:
  explicit ResidentVectors(std::shared_ptr<CudaRuntime> runtime) : runtime_(std::move(runtime)) {}
  absl::Status Init(const VectorFile& vectors, const QuantizedVectors* codes, const ResidentLimits& limits,
                    const std::function<absl::Status(int64_t done_rows)>& progress);

  const std::shared_ptr<CudaRuntime> runtime_;  // Outlives the memory below.
  ResidentPlan plan_;
  DeviceMemory rows_, codes_, inverse_scales_, lengths_, errors_;
};

}  // namespace loci

#endif  // LOCI_INDEX_CUDA_RESIDENT_VECTORS_H_
