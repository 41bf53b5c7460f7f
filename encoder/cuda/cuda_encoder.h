// The encoder on a CUDA device.
//
// A batch is cut into chunks of whole sequences. A chunk is staged in pinned memory as one block of integers, copied, run through all
// layers on a stream and its vectors copied back; the next chunk is staged meanwhile. Small chunks run as a captured graph for their
// bucket of rows. After the encoder is made nothing is allocated on the device but graphs that a full cache had dropped, and nothing
// waits for it but the event at a chunk's end.
//
// A row has the same bits in any batch: own kernels give each sequence what depends on it alone, and each dense layer's shape has one
// algorithm, pinned for all numbers of rows (dense_pinning.h).
#ifndef LOCI_ENCODER_CUDA_CUDA_ENCODER_H_
#define LOCI_ENCODER_CUDA_CUDA_ENCODER_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "base/cuda/graph_cache.h"
#include "base/mutex.h"
#include "encoder/bert.h"
#include "encoder/cuda/backend.h"
#include "encoder/cuda/batch_plan.h"
#include "encoder/encoder.h"
#include "encoder/model_config.h"

namespace loci {

struct CudaEncoderOptions {
  std::shared_ptr<CudaBackend> backend;
  ElementType type = ElementType::kBfloat16;  // float32, float16 or bfloat16
  cuda::MemoryLimits limits;
  // Chunks of so many rows at most run as graphs; each lane keeps so many graphs.
  int32_t max_graph_rows = 512;
  int graph_capacity = 10;
};

// Thread-safe: as many Encode calls run at once as there are lanes in the memory plan, others wait for one.
class CudaEncoder : public Encoder {
 public:
  // Uploads all weights in the type; `reader` is not kept. `spec` comes with everything, element_type_reason too, but memory_bytes, element_type
  // and device.
  // FAILED_PRECONDITION where the shape, the memory or cuBLASLt do not allow it, with figures; UNAVAILABLE where the device fails, which
  // then is marked as failed.
  static absl::StatusOr<std::shared_ptr<const Encoder>> Create(const BertReader& reader, const ModelConfig& config,
                                                               EncoderSpec spec, std::unique_ptr<Tokenizer> tokenizer,
                                                               CudaEncoderOptions options);
  ~CudaEncoder() override;

  const EncoderSpec& spec() const override { return spec_; }
  const Tokenizer& tokenizer() const override { return *tokenizer_; }

  // Beyond Encoder's errors: UNAVAILABLE once anything failed on the device, INTERNAL for a vector that is not finite (float16 holds no value
  // above 65504).
  absl::Status Encode(const PackedBatch& batch, float* vectors) const override;

  const cuda::MemoryPlan& memory_plan() const { return plan_; }

 private:
  struct Layer {
    int query_key_value = 0, attention_output = 0, intermediate = 0, output = 0;
    const float *attention_gamma = nullptr, *attention_beta = nullptr, *output_gamma = nullptr, *output_beta = nullptr;
  };
  struct Lane;
  class Uploader;

  CudaEncoder(const ModelConfig& config, EncoderSpec spec, std::unique_ptr<Tokenizer> tokenizer, CudaEncoderOptions options);

  absl::Status Init(const BertReader& reader);
  absl::Status UploadWeights(const BertReader& reader);
  absl::StatusOr<std::unique_ptr<Lane>> MakeLane() const;
  absl::Status WarmUp(Lane* lane) const;
  absl::Status RunBatch(Lane* lane, const PackedBatch& batch, float* vectors, int64_t* not_finite) const;
  absl::Status RunChunk(Lane* lane, int32_t rows, int32_t sequences, int32_t tiles) const;
  absl::Status RunLayers(Lane* lane, const cuda::Launch& launch) const;
  absl::StatusOr<CudaGraph> Capture(Lane* lane, int32_t rows) const;

  // Constant after construction.
  const ModelConfig config_;
  EncoderSpec spec_;
  const std::unique_ptr<Tokenizer> tokenizer_;
  const CudaEncoderOptions options_;
  cuda::EncoderShape shape_;
  cuda::MemoryPlan plan_;
  std::vector<int32_t> buckets_;
  DeviceMemory weights_;
  cuda::EmbeddingWeights embedding_;
  std::vector<Layer> layers_;
  std::unique_ptr<cuda::EncoderKernels> kernels_;

  std::vector<std::unique_ptr<Lane>> lanes_;
  mutable Mutex mutex_;
  mutable CondVar lane_is_free_;
  mutable std::vector<Lane*> free_lanes_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace loci

#endif  // LOCI_ENCODER_CUDA_CUDA_ENCODER_H_
