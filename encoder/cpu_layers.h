// A transformer's layers on the CPU, in one precision: what CpuEncoder runs between the embeddings and the pooling.
//
//   LOCI_ASSIGN_OR_RETURN(std::unique_ptr<const CpuLayers> layers, ReadFloat32Layers(reader, config, isa));
//   std::unique_ptr<CpuLayers::Workspace> workspace = layers->MakeWorkspace(/*max_tokens=*/512);
//   layers->Run(hidden, offsets, sequence_count, *workspace);
#ifndef LOCI_ENCODER_CPU_LAYERS_H_
#define LOCI_ENCODER_CPU_LAYERS_H_

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "base/device.h"
#include "encoder/bert.h"
#include "encoder/kernels/op_types.h"
#include "encoder/model_config.h"

namespace loci {

// Immutable after construction.
class CpuLayers {
 public:
  // The matrices of one block. Used by one thread at a time.
  class Workspace {
   public:
    virtual ~Workspace() = default;
  };

  virtual ~CpuLayers() = default;

  virtual int64_t memory_bytes() const = 0;  // Weights as held.

  // Tokens that a block should have, unless one sequence has more. Larger blocks read the weights less often, smaller ones stay in the
  // L2 cache.
  virtual int64_t max_block_tokens() const = 0;

  // For blocks of up to `max_tokens` tokens.
  virtual std::unique_ptr<Workspace> MakeWorkspace(int64_t max_tokens) const = 0;

  // Runs whole sequences through all layers: `hidden` [offsets[sequence_count], hidden_size] holds the embeddings and then the last
  // layer's output. Sequence s has the rows offsets[s] .. offsets[s + 1] - 1, at least one and at most the configuration's
  // max_length. The bits of a sequence's rows depend on that sequence alone. `workspace` is one of this object's.
  virtual void Run(float* hidden, const int32_t* offsets, int64_t sequence_count, Workspace& workspace) const = 0;
};

// Each reads and packs all weights and keeps no argument. Errors are the reader's. The machine must have what the precision needs.
absl::StatusOr<std::unique_ptr<const CpuLayers>> ReadFloat32Layers(const BertReader& reader, const ModelConfig& config,
                                                                   CpuIsa isa);
// `extensions` count beside kAvx512 only. Runs some random tokens through the layers, to see which channels are wide.
absl::StatusOr<std::unique_ptr<const CpuLayers>> ReadInt8Layers(const BertReader& reader, const ModelConfig& config, CpuIsa isa,
                                                                const CpuExtensions& extensions,
                                                                const BertEmbeddings& embeddings);

// In bfloat16 or float16; residuals, layer normalisation and softmax stay float32, and so do sums, but for float16's short ones
// (kernels/half_gemm.h). FAILED_PRECONDITION, naming layer and tensor, where some text might bring a number that float16 can't hold.
absl::StatusOr<std::unique_ptr<const CpuLayers>> ReadHalfLayers(const BertReader& reader, const ModelConfig& config,
                                                                HalfType type, const BertEmbeddings& embeddings);

}  // namespace loci

#endif  // LOCI_ENCODER_CPU_LAYERS_H_
