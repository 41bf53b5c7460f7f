// The operations of an encoder on a CUDA device, behind an interface: the device's own kernels, or the same bodies on a simulated grid.
#ifndef LOCI_ENCODER_CUDA_KERNELS_H_
#define LOCI_ENCODER_CUDA_KERNELS_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/cuda/runtime.h"
#include "base/vector_type.h"
#include "encoder/kernels/op_types.h"

namespace loci::cuda {

// What is the same for every call.
struct EncoderKernelsConfig {
  ElementType type = ElementType::kBfloat16;  // Of weights and of what lies between operations: float32, float16 or bfloat16.
  int dim = 0;                                // A multiple of 8, at most 1024.
  int head_count = 0;
  int intermediate_size = 0;  // A multiple of 8.
  float epsilon = 0;
  Pooling pooling = Pooling::kMean;
  bool normalize = true;
  int multiprocessor_count = 1;
  std::vector<int32_t> row_counts;  // Those that Dense is called with, ascending.
};

// For one packed batch. The counts are bounds where a graph is captured that is to serve any batch of its bucket.
struct Launch {
  const int32_t* batch = nullptr;  // Device: DeviceBatchHeader and what follows.
  int32_t rows = 0;                // Of the bucket: matrices have so many, of which the batch fills the first.
  int32_t sequences = 0;
  int32_t tiles = 0;
  bool exact = true;  // `sequences` and `tiles` are the batch's own.
  CudaHandle stream = nullptr;
};

struct EmbeddingWeights {
  const void* word = nullptr;
  const void* position = nullptr;
  const void* type = nullptr;
  const float* gamma = nullptr;
  const float* beta = nullptr;
};

// All pointers are device memory, aligned to 256 bytes. Calls put work on the stream and return; errors are CudaStatus's.
// Thread-safe once every layer is added and every shape pinned, with one thread a stream.
class EncoderKernels {
 public:
  virtual ~EncoderKernels() = default;

  // output [rows, dim] = LayerNorm(word[id] + type + position).
  virtual absl::Status Embedding(const Launch& launch, void* output, const EmbeddingWeights& weights) = 0;
  // output [rows, dim] = LayerNorm(input + residual); may be in place.
  virtual absl::Status ResidualNorm(const Launch& launch, void* output, const void* input, const void* residual,
                                    const float* gamma, const float* beta) = 0;
  // values [rows, intermediate_size] in place.
  virtual absl::Status Gelu(const Launch& launch, void* values) = 0;
  // context [rows, dim] of qkv [rows, 3 dim].
  virtual absl::Status Attention(const Launch& launch, void* context, const void* qkv) = 0;
  // output [sequences, dim], float32.
  virtual absl::Status Pool(const Launch& launch, float* output, const void* input) = 0;

  // A dense layer: weight [cols, depth], bias [cols], both in the type. Returns its number.
  virtual absl::StatusOr<int> AddDense(const void* weight, const void* bias, int cols, int depth) = 0;
  // output [rows, cols] = input [rows, depth] weight^T + bias, by the algorithm pinned for (cols, depth). `rows` is one of row_counts.
  virtual absl::Status Dense(int layer, void* output, const void* input, int32_t rows, CudaHandle stream) = 0;
  // How many algorithms there are for layers of this shape that run at each of row_counts, the one that is thought best first; Pin chooses.
  virtual absl::StatusOr<int> DenseCandidates(int cols, int depth) = 0;
  virtual void PinDense(int cols, int depth, int candidate) = 0;
};

// On the CUDA device `ordinal`; cuBLASLt is opened at run time. FAILED_PRECONDITION without it, or in a build without CUDA.
absl::StatusOr<std::unique_ptr<EncoderKernels>> MakeCudaEncoderKernels(int ordinal, const EncoderKernelsConfig& config);

// OK where MakeCudaEncoderKernels can work here: CUDA is built in and cuBLASLt found. FAILED_PRECONDITION otherwise, with the reason.
absl::Status CheckCudaLibraries();

}  // namespace loci::cuda

#endif  // LOCI_ENCODER_CUDA_KERNELS_H_
