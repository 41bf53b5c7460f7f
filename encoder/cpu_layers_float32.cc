#include <utility>
#include <vector>

#include "base/status_macros.h"
#include "encoder/cpu_layers.h"
#include "encoder/kernels/aligned.h"
#include "encoder/kernels/attention.h"
#include "encoder/kernels/gemm.h"
#include "encoder/kernels/layer_norm.h"
#include "encoder/packed_layers.h"

namespace loci {
namespace {

constexpr int64_t kMaxBlockTokens = 144;

class Float32Layers : public CpuLayers {
 public:
  Float32Layers(const ModelConfig& config, CpuIsa isa) : config_(config), isa_(isa) {}

  absl::Status Read(const BertReader& reader) {
    for (int i = 0; i < config_.layer_count; ++i) {
      LOCI_ASSIGN_OR_RETURN(BertLayer from, reader.ReadLayer(i));
      layers_.emplace_back(std::move(from), config_, [this](const float* weight, int64_t outputs, int64_t inputs) {
        return PackWeight(isa_, weight, outputs, inputs);
      });
      memory_bytes_ += layers_.back().size_bytes();
    }
    return absl::OkStatus();
  }

  int64_t memory_bytes() const override { return memory_bytes_; }
  int64_t max_block_tokens() const override { return kMaxBlockTokens; }

  std::unique_ptr<Workspace> MakeWorkspace(int64_t max_tokens) const override {
    const int64_t hidden = config_.hidden_size;
    auto matrices = std::make_unique<Matrices>();
    matrices->query_key_value = AlignedFloats(max_tokens * 3 * hidden);
    matrices->context = AlignedFloats(max_tokens * hidden);
    matrices->sum = AlignedFloats(max_tokens * hidden);
    matrices->intermediate = AlignedFloats(max_tokens * config_.intermediate_size);
    matrices->scratch = AlignedFloats(AttentionScratchSize(isa_, config_.max_length, hidden / config_.head_count));
    return matrices;
  }

  void Run(float* hidden, const int32_t* offsets, int64_t sequence_count, Workspace& workspace) const override {
    auto& m = static_cast<Matrices&>(workspace);
    const int64_t rows = offsets[sequence_count];
    const int64_t dim = config_.hidden_size;
    const float epsilon = config_.layer_norm_epsilon;
    for (const Layer& layer : layers_) {
      RunDense(layer.query_key_value, hidden, nullptr, Activation::kNone, rows, m.query_key_value.data());
      Attention(isa_, m.context.data(), m.query_key_value.data(), offsets, sequence_count, config_.head_count,
                dim / config_.head_count, m.scratch.data());
      RunDense(layer.attention_output, m.context.data(), hidden, Activation::kNone, rows, m.sum.data());
      LayerNorm(isa_, hidden, m.sum.data(), nullptr, layer.norms.attention_gamma.data(), layer.norms.attention_beta.data(),
                epsilon, rows, dim);
      RunDense(layer.intermediate, hidden, nullptr, Activation::kGelu, rows, m.intermediate.data());
      RunDense(layer.output, m.intermediate.data(), hidden, Activation::kNone, rows, m.sum.data());
      LayerNorm(isa_, hidden, m.sum.data(), nullptr, layer.norms.output_gamma.data(), layer.norms.output_beta.data(), epsilon,
                rows, dim);
    }
  }

 private:
  using Dense = PackedDense<float>;
  using Layer = PackedLayer<float>;

  struct Matrices : Workspace {
    AlignedFloats query_key_value, context, sum, intermediate;  // Each [tokens, its width].
    AlignedFloats scratch;
  };

  void RunDense(const Dense& dense, const float* input, const float* residual, Activation activation, int64_t rows,
                float* output) const {
    Gemm(isa_, output, input, dense.packed.data(), dense.bias.data(), residual, rows, dense.outputs, dense.inputs, activation);
  }

  const ModelConfig config_;
  const CpuIsa isa_;
  std::vector<Layer> layers_;
  int64_t memory_bytes_ = 0;
};

}  // namespace

absl::StatusOr<std::unique_ptr<const CpuLayers>> ReadFloat32Layers(const BertReader& reader, const ModelConfig& config,
                                                                   CpuIsa isa) {
  auto layers = std::make_unique<Float32Layers>(config, isa);
  LOCI_RETURN_IF_ERROR(layers->Read(reader));
  return layers;
}

}  // namespace loci
