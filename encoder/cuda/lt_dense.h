// Dense layers by cuBLASLt, which is opened when it is first wanted: a build with CUDA starts on machines that have no cuBLAS.
#ifndef LOCI_ENCODER_CUDA_LT_DENSE_H_
#define LOCI_ENCODER_CUDA_LT_DENSE_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/vector_type.h"

namespace loci::cuda {

// See EncoderKernels for the functions. No algorithm here splits the depth or wants a workspace. Products of float32 are summed in float32
// (no TF32), those of 16 bits too; the bias is added before the result is rounded.
class LtDense {
 public:
  // Looks for cuBLASLt of the version this was compiled with: by the dynamic linker, then in $LOCI_CUDA_LIBRARY_DIR, then in
  // /usr/local/cuda/lib64. FAILED_PRECONDITION where there is none.
  static absl::Status CheckLibrary();

  // The calling thread's device is the one that is meant.
  static absl::StatusOr<std::unique_ptr<LtDense>> Create(ElementType type, std::vector<int32_t> row_counts);
  virtual ~LtDense() = default;

  virtual absl::StatusOr<int> Add(const void* weight, const void* bias, int cols, int depth) = 0;
  virtual absl::StatusOr<int> Candidates(int cols, int depth) = 0;
  virtual void Pin(int cols, int depth, int candidate) = 0;
  virtual absl::Status Run(int layer, void* output, const void* input, int32_t rows, void* stream) = 0;
};

}  // namespace loci::cuda

#endif  // LOCI_ENCODER_CUDA_LT_DENSE_H_
