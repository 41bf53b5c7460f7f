// log Z and the mean vector of each query over all rows of a device: ScanSoftmax (index/softmax_scan.h) where the rows are resident.
//
//   LOCI_ASSIGN_OR_RETURN(auto softmax, CudaSoftmax::Create(device, index->resident(), vectors, {}));
//   LOCI_ASSIGN_OR_RETURN(const SoftmaxScan scan, softmax->Scan(queries, hidden, skipped, {.temperature = 0.05, .mean = true}));
//
// Scores are ExactIndex's, bit for bit; weights are summed in float32 within 32 rows and in float64 beyond, the weighted rows in float32 within a part of
// the grid. So log Z and the mean agree with the CPU's to about 1e-5 (a mean to 3e-4 of a row's length where a part has 25,000 equal rows of equal weight,
// whose roundings all go one way), and have the same bits each time on one device, whatever other queries a scan has.
#ifndef LOCI_INDEX_CUDA_CUDA_SOFTMAX_H_
#define LOCI_INDEX_CUDA_CUDA_SOFTMAX_H_

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "base/matrix.h"
#include "base/mutex.h"
#include "index/cuda/resident_vectors.h"
#include "index/device_softmax.h"
#include "index/row_mask.h"
#include "index/softmax_scan.h"

namespace loci {

struct CudaSoftmaxOptions {
  int max_queries = 64;                    // Of a pass; a multiple of cuda::kSoftmaxTileQueries.
  int64_t part_bytes = int64_t{64} << 20;  // Of device memory for what the parts of the grid found; at least one part is held.
  // A pass has room for so many tiles (of cuda::kSoftmaxTileRows rows) a query in which it skips some, and for what one query can have at most: it takes
  // fewer queries where theirs are more.
  int skipped_tiles = 1024;
  int64_t reserved_bytes = int64_t{256} << 20;  // Of the device's memory, left alone.
  // Before it is used it has found, for a few queries over some thousand rows, what the CPU finds to a part in 10,000.
  bool self_check = true;
};

// The most that one takes besides the resident vectors.
struct CudaSoftmaxMemory {
  int64_t device_bytes = 0;
  int64_t pinned_bytes = 0;  // On the host.
};
CudaSoftmaxMemory PlanCudaSoftmax(int64_t rows, int dim, const CudaSoftmaxOptions& options);

// Thread-safe: one Scan runs on the device at a time, others wait.
class CudaSoftmax : public DeviceSoftmax {
 public:
  // `resident`: the rows of `vectors`. FAILED_PRECONDITION for a dimension above cuda::kMaxSoftmaxDim, one that the device has too little shared memory
  // for, or where it does not find what the CPU finds; INVALID_ARGUMENT for options out of their range; RESOURCE_EXHAUSTED, with figures, without enough
  // device memory; DATA_LOSS where rows can't be read; UNAVAILABLE where the device fails, which then is marked as failed. Blocks.
  static absl::StatusOr<std::unique_ptr<CudaSoftmax>> Create(SearchDevice device, std::shared_ptr<const ResidentVectors> resident,
                                                             std::shared_ptr<const VectorFile> vectors,
                                                             const CudaSoftmaxOptions& options);
  ~CudaSoftmax() override;

  absl::StatusOr<SoftmaxScan> Scan(MatrixView<const float> queries, const RowMask& hidden, std::span<const std::vector<ViewRow>> skipped,
                                   const SoftmaxScanOptions& options) const override;

  CudaSoftmaxMemory memory() const { return PlanCudaSoftmax(vectors_->rows(), vectors_->dim(), options_); }

 private:
  struct Lane;
  struct Pass;

  CudaSoftmax(SearchDevice device, std::shared_ptr<const ResidentVectors> resident, std::shared_ptr<const VectorFile> vectors,
              const CudaSoftmaxOptions& options);
  absl::Status Init();
  absl::Status CheckItself() const;
  absl::Status ScanInPasses(MatrixView<const float> queries, const RowMask& hidden, std::span<const std::vector<ViewRow>> skipped,
                            const SoftmaxScanOptions& options, SoftmaxScan* scan) const;
  Pass ListPass(int64_t first, int64_t query_count, std::span<const std::vector<ViewRow>> skipped) const;
  absl::Status RunPass(MatrixView<const float> queries, const Pass& pass, bool masked, const SoftmaxScanOptions& options,
                       SoftmaxScan* scan) const;

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
