// Chooses the algorithm of a dense layer's shape, once, so that a row has the same bits in every batch.
#ifndef LOCI_ENCODER_CUDA_DENSE_PINNING_H_
#define LOCI_ENCODER_CUDA_DENSE_PINNING_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "base/cuda/runtime.h"
#include "encoder/cuda/kernels.h"

namespace loci::cuda {

struct DenseShape {
  int layer = 0;  // Any layer of this shape.
  int cols = 0;
  int depth = 0;
};

// Device memory that is free to be written while a shape is pinned: `input` holds row_counts.back() rows of its depth, `output` of its cols.
struct PinningBuffers {
  void* input = nullptr;
  void* output = nullptr;
};

// Tries the algorithms in their order with random rows and pins the first whose results do not depend, in any bit, on the number of rows
// or on the place of a row in the batch; one that does not run (FAILED_PRECONDITION) is passed over. One algorithm for all numbers of rows:
// that it splits no depth is asked for, that nothing else in it depends on the batch is not promised by anybody, so it is measured.
// FAILED_PRECONDITION where none holds. Blocks.
absl::Status PinDenseShape(CudaRuntime& runtime, EncoderKernels& kernels, const DenseShape& shape,
                           const std::vector<int32_t>& row_counts, ElementType type, const PinningBuffers& buffers,
                           CudaHandle stream);

}  // namespace loci::cuda

#endif  // LOCI_ENCODER_CUDA_DENSE_PINNING_H_
