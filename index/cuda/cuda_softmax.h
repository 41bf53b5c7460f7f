// log Z and the mean vector of each query over all rows of a device: ScanSoftmax (index/softmax_scan.h) where the rows are resident.
//
//   LOCI_ASSIGN_OR_RETURN(auto softmax, CudaSoftmax::Create(device, index->resident(), vectors, {}));
//   LOCI_ASSIGN_OR_RETURN(const std::vector<SoftmaxSums> sums, softmax->Scan(queries, hidden, {.temperature = 0.05, .mean = true}));
//
// Scores are ExactIndex's, bit for bit; weights are summed in float32 within 32 rows and in float64 beyond, the weighted rows in float32 within a part of
// the grid. So log Z and the mean agree with the CPU's to about 1e-5, and have the same bits each time on one device. It serves the body of a view; what
// an overlay adds is scanned on the CPU and joined by SoftmaxSums::Merge.
#ifndef LOCI_INDEX_CUDA_CUDA_SOFTMAX_H_
#define LOCI_INDEX_CUDA_CUDA_SOFTMAX_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "base/matrix.h"
#include "base/mutex.h"
#include "index/cuda/resident_vectors.h"
#include "index/row_mask.h"
#include "index/softmax_scan.h"

namespace loci {

struct CudaSoftmaxOptions {
  int max_queries = 64;                    // Of a pass; a multiple of cuda::kSoftmaxTileQueries.
  int64_t part_bytes = int64_t{64} << 20;  // Of device memory for what the parts of the grid found; at least one part is held.
};

// Thread-safe: one Scan runs on the device at a time, others wait.
class CudaSoftmax {
 public:
  // `resident`: the rows of `vectors`. FAILED_PRECONDITION for a dimension above cuda::kMaxSoftmaxDim or one that the device has too little shared
  // memory for; INVALID_ARGUMENT for options out of their range; RESOURCE_EXHAUSTED without enough device memory; UNAVAILABLE where the device fails, which then is marked as failed.
  static absl::StatusOr<std::unique_ptr<CudaSoftmax>> Create(SearchDevice device, std::shared_ptr<const ResidentVectors> resident,
                                                             std::shared_ptr<const VectorFile> vectors,
                                                             const CudaSoftmaxOptions& options);
  ~CudaSoftmax();

  // `queries` [n, dim], finite. Of `options` the temperature, the mean and the limits count, which are looked at between passes; block masses and lengths
  // are not made. INVALID_ARGUMENT for shapes or a temperature that do not fit; UNAVAILABLE once the device failed; its other errors are
  // this scan's alone. Blocks.
  absl::StatusOr<std::vector<SoftmaxSums>> Scan(MatrixView<const float> queries, const RowMask& hidden,
                                                const SoftmaxScanOptions& options) const;

 private:
  struct Lane;

  CudaSoftmax(SearchDevice device, std::shared_ptr<const ResidentVectors> resident, std::shared_ptr<const VectorFile> vectors,
              const CudaSoftmaxOptions& options);
  absl::Status Init();
  absl::Status ScanInPasses(MatrixView<const float> queries, const RowMask& hidden, const SoftmaxScanOptions& options,
                            std::vector<SoftmaxSums>* sums) const;
  absl::Status RunPass(MatrixView<const float> queries, bool masked, const SoftmaxScanOptions& options, SoftmaxSums* sums) const;

  // Constant after construction.
  const SearchDevice device_;
  const std::shared_ptr<const ResidentVectors> resident_;
  const std::shared_ptr<const VectorFile> vectors_;
  const CudaSoftmaxOptions options_;
  int parts_ = 1;
  std::unique_ptr<Lane> lane_;  // Of who has set busy_.

  mutable Mutex mutex_;
  mutable CondVar is_free_;
  mutable bool busy_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace loci

#endif  // LOCI_INDEX_CUDA_CUDA_SOFTMAX_H_
