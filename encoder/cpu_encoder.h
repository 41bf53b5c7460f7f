// The encoder on the CPU.
//
// A batch is cut into blocks of whole sequences, of some hundred tokens, and each block runs through all layers on one thread with a
// workspace of its own: nothing is synchronised inside a block, and its rows stay in the cache. The kernels give every row the same
// bits in any block (kernels/gemm.h), so how a batch is cut shows only in its time.
#ifndef LOCI_ENCODER_CPU_ENCODER_H_
#define LOCI_ENCODER_CPU_ENCODER_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "base/device.h"
#include "base/mutex.h"
#include "base/thread_pool.h"
#include "encoder/bert.h"
#include "encoder/cpu_layers.h"
#include "encoder/encoder.h"
#include "encoder/model_config.h"

namespace loci {

// Thread-safe.
class CpuEncoder : public Encoder {
 public:
  // Reads and packs all weights; `reader` is not kept. `spec` comes with everything but memory_bytes, element_type and its reason.
  // Errors as LoadEncoder.
  static absl::StatusOr<std::shared_ptr<const Encoder>> Create(const BertReader& reader, const ModelConfig& config,
                                                               EncoderSpec spec, std::unique_ptr<Tokenizer> tokenizer,
                                                               const EncoderOptions& options);
  ~CpuEncoder() override;

  const EncoderSpec& spec() const override { return spec_; }
  const Tokenizer& tokenizer() const override { return *tokenizer_; }
  absl::Status Encode(const PackedBatch& batch, float* vectors) const override;

 private:
  struct Workspace;
  struct Plan;

  CpuEncoder(const ModelConfig& config, EncoderSpec spec, std::unique_ptr<Tokenizer> tokenizer, ThreadPool* pool, CpuIsa isa);

  void MakePlan(const PackedBatch& batch, Plan* plan) const;
  void RunBlock(const PackedBatch& batch, const Plan& plan, int64_t block, Workspace* workspace, float* vectors) const;
  std::unique_ptr<Workspace> TakeWorkspace(int64_t tokens) const;
  std::unique_ptr<Plan> TakePlan() const;

  // Constant after construction.
  const ModelConfig config_;
  EncoderSpec spec_;
  const std::unique_ptr<Tokenizer> tokenizer_;
  ThreadPool* const pool_;
  const CpuIsa isa_;
  BertEmbeddings embeddings_;
  std::unique_ptr<const CpuLayers> layers_;

  // Kept for the next request: as many as were ever in use at once.
  mutable Mutex mutex_;
  mutable std::vector<std::unique_ptr<Workspace>> free_workspaces_ ABSL_GUARDED_BY(mutex_);
  mutable std::vector<std::unique_ptr<Plan>> free_plans_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace loci

#endif  // LOCI_ENCODER_CPU_ENCODER_H_
