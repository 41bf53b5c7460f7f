// The operations of exact search on a CUDA device, behind an interface: the device's own kernels, or the same bodies on a simulated grid.
#ifndef LOCI_INDEX_CUDA_KERNELS_H_
#define LOCI_INDEX_CUDA_KERNELS_H_

#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/cuda/runtime.h"
#include "base/vector_type.h"
#include "index/cuda/scan_body.h"
#include "index/cuda/select_bodies.h"
#include "index/cuda/softmax_bodies.h"

namespace loci::cuda {

// Rows on the device are padded to a multiple of this, queries too: of every tile.
inline constexpr int kMaxTileRows = 128;
inline constexpr int kMaxTileQueries = 256;

// What Scan takes at a time.
struct TileShape {
  int rows = 0;
  int queries = 0;
};

// All pointers in arguments are device memory. Calls put work on the stream and return; errors are CudaStatus's.
// Thread-safe, with one thread a stream.
class SearchKernels {
 public:
  virtual ~SearchKernels() = default;

  // The tiles by which Scan takes so many queries of this depth. FAILED_PRECONDITION where the device has too little shared memory for one.
  virtual absl::StatusOr<TileShape> ShapeOf(int query_count, int depth) const = 0;
  virtual absl::Status Scan(const ScanArgs& args, CudaHandle stream) = 0;
  virtual absl::Status Select(const SelectArgs& args, int query_count, CudaHandle stream) = 0;
  virtual absl::Status SelectExact(const SelectArgs& args, int query_count, CudaHandle stream) = 0;
  // `args.rows` are of the type.
  virtual absl::Status Rescore(ElementType type, const RescoreArgs<void>& args, int query_count, CudaHandle stream) = 0;

  // Parts that Softmax is best cut into. FAILED_PRECONDITION for a dimension above kMaxSoftmaxDim or more shared memory than there is.
  virtual absl::StatusOr<int> SoftmaxParts(ElementType type, int dim) const = 0;
  virtual absl::Status Softmax(ElementType type, const SoftmaxArgs<void>& args, int parts, int query_tiles,
                               CudaHandle stream) = 0;
  virtual absl::Status SoftmaxMerge(const SoftmaxMergeArgs& args, int query_count, CudaHandle stream) = 0;
};

// On the CUDA device `ordinal`. FAILED_PRECONDITION in a build without CUDA.
absl::StatusOr<std::unique_ptr<SearchKernels>> MakeCudaSearchKernels(int ordinal);

}  // namespace loci::cuda

#endif  // LOCI_INDEX_CUDA_KERNELS_H_
