// Exact search on a CUDA device: the hits of ExactIndex, bit for bit.
//
// Queries go in passes of up to 512. A pass scans the 8-bit codes of all rows in a few launches, each of which sees several times as many rows as
// all before it, in an order that samples the file evenly; between them each query's threshold is raised to its top_k-th largest lower bound, so
// that few rows survive and no score is ever written. What is left is scored on the device in the CPU's order of summation, and the top_k best
// come back. A query that more rows survive for than its list holds is scanned again with the threshold that the list gave; one that still has too
// many (rows too much alike for 8 bits, or too large) is left to the CPU's index. Where that happens to most queries of one search after another, the
// device is tried less often. Nothing waits for the device but the end of a pass.
#ifndef LOCI_INDEX_CUDA_CUDA_EXACT_INDEX_H_
#define LOCI_INDEX_CUDA_CUDA_EXACT_INDEX_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/mutex.h"
#include "index/cuda/cuda_softmax.h"
#include "index/cuda/resident_vectors.h"
#include "index/passage_index.h"
#include "index/placed_exact_index.h"
#include "index/vain_passes.h"

namespace loci {

// Searches for more go to the CPU's index.
inline constexpr int kMaxCudaTopK = 1024;

struct CudaSearchOptions {
  ResidentLimits limits;  // working_bytes is set by the index.
  int lanes = 1;          // Passes at once; each has its working memory.
  int max_queries = 512;  // Of a pass; a multiple of cuda::kMaxTileQueries.
  // Candidates that are kept for a query: so many, or so many times top_k if that is more; and in a pass for all queries together.
  int min_capacity = 16384;
  int capacity_factor = 64;
  int64_t pass_candidates = int64_t{512} * 16384;
  // Of each launch, how many times the rows before it.
  int growth = 3;
  // Where fewer rows are visible, the CPU is faster.
  int64_t min_visible_rows = 65536;
  // Before an index is served, each kernel has found, for a few of its rows, what the CPU finds: on the thread that makes it, which scores every row
  // for that.
  bool self_check = true;
  // Log Z and means too, where there is room for that besides; none: they are the CPU's.
  std::optional<CudaSoftmaxOptions> softmax = CudaSoftmaxOptions();
};

// What an index takes besides its vectors, whose device memory PlanResident knows, and besides what PlanCudaSoftmax says.
struct CudaSearchMemory {
  int64_t working_bytes = 0;  // On the device.
  int64_t pinned_bytes = 0;   // On the host.
};
CudaSearchMemory PlanCudaSearch(int64_t rows, int dim, const CudaSearchOptions& options);

// Thread-safe: as many Search calls run on the device at once as there are lanes, others wait for one.
class CudaExactIndex : public DeviceExactIndex {
 public:
  // Uploads all rows. `cpu` is the exact index of the same `vectors`; `codes` those of `vectors`, or null. `progress` is asked while it checks itself
  // too, with all rows done. Errors as ResidentVectors::Create, and FAILED_PRECONDITION for a dimension that the device has too little shared memory
  // for, or where it does not find what the CPU finds; INVALID_ARGUMENT for options out of their range. Blocks.
  static absl::StatusOr<std::unique_ptr<CudaExactIndex>> Create(SearchDevice device, std::shared_ptr<const VectorFile> vectors,
                                                                std::shared_ptr<const QuantizedVectors> codes,
                                                                std::shared_ptr<const PassageIndex> cpu,
                                                                CudaSearchOptions options,
                                                                const std::function<absl::Status(int64_t done_rows)>& progress);
  ~CudaExactIndex() override;

  int64_t row_count() const override { return vectors_->rows(); }
  int dim() const override { return vectors_->dim(); }
  std::string name() const override { return "exact"; }
  int64_t memory_bytes() const override { return pinned_bytes_; }
  int64_t device_bytes() const override { return device_bytes_; }
  bool IsExact(const IndexSearchOptions&, const RowMask&) const override { return true; }
  // Beyond PassageIndex's errors: UNAVAILABLE once the device failed, for good; the CPU does not step in for it. RESOURCE_EXHAUSTED and
  // FAILED_PRECONDITION of a call to the device are this search's alone. The limits are looked at between passes, and while it
  // waits for a lane.
  absl::Status Search(MatrixView<const float> queries, const IndexSearchOptions& options, const RowMask& hidden,
                      RowHit* hits) const override;

  Counts counts() const override;
  const DeviceSoftmax* softmax(const RowMask& hidden) const override;
  std::shared_ptr<const ResidentVectors> resident() const { return resident_; }

 private:
  struct Lane;
  // A query of a search that is to be scanned for, and what no row below is wanted of.
  struct Pending {
    int64_t position;
    float threshold;
    float last_threshold;  // That of the scan before.
  };

  CudaExactIndex(SearchDevice device, std::shared_ptr<const VectorFile> vectors, std::shared_ptr<const PassageIndex> cpu,
                 const CudaSearchOptions& options);
  absl::StatusOr<std::unique_ptr<Lane>> MakeLane() const;
  absl::Status CheckItself(const std::function<absl::Status()>& go_on) const;
  absl::Status MakeSoftmax();
  int Capacity(int top_k) const;
  absl::Status SearchOnDevice(Lane* lane, MatrixView<const float> queries, const IndexSearchOptions& options,
                              const RowMask& hidden, RowHit* hits, std::vector<int64_t>* left) const;
  absl::Status SearchInPasses(Lane* lane, MatrixView<const float> queries, const IndexSearchOptions& options,
                              const RowMask& hidden, RowHit* hits, std::vector<int64_t>* left) const;
  absl::Status UploadMask(Lane* lane, const RowMask& hidden) const;
  absl::Status RunPass(Lane* lane, MatrixView<const float> queries, std::span<const Pending> pass, int top_k, bool masked,
                       bool sample, RowHit* hits, std::vector<Pending>* overflowed) const;

  // Constant after construction.
  const SearchDevice device_;
  const std::shared_ptr<const VectorFile> vectors_;
  const std::shared_ptr<const PassageIndex> cpu_;
  const CudaSearchOptions options_;
  std::shared_ptr<const ResidentVectors> resident_;
  std::vector<std::unique_ptr<Lane>> lanes_;
  std::unique_ptr<CudaSoftmax> softmax_;  // Null: the CPU's.
  int64_t device_bytes_ = 0;
  int64_t pinned_bytes_ = 0;

  mutable std::atomic<int64_t> answered_{0}, repeated_{0}, left_{0};
  mutable VainPasses vain_passes_{1};  // On the device.
  mutable Mutex mutex_;
  mutable CondVar lane_is_free_;
  mutable std::vector<Lane*> free_lanes_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace loci

#endif  // LOCI_INDEX_CUDA_CUDA_EXACT_INDEX_H_
