#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "base/status_macros.h"
#include "encoder/cpu_layers.h"
#include "encoder/kernels/aligned.h"
#include "encoder/kernels/attention_int8.h"
#include "encoder/kernels/gemm_int8.h"
#include "encoder/packed_layers.h"

namespace loci {
namespace {

constexpr int64_t kMaxBlockTokens = 144;
// Rows that go through a layer's second half together: few enough for their intermediate activations to stay in the L2 cache.
constexpr int64_t kChunkRows = 48;

// Every dense layer on bytes, activations quantised per token as they come, so that nothing is calibrated; attention on bytes too where
// the CPU has VNNI. The residual stream, LayerNorm and the sums of what is dequantised are float32.
class Int8Layers : public CpuLayers {
 public:
  Int8Layers(const ModelConfig& config, Int8Isa isa)
      : config_(config), isa_(isa), head_dim_(config.hidden_size / config.head_count) {}

  absl::Status Read(const BertReader& reader) {
    const int64_t hidden = config_.hidden_size;
    for (int i = 0; i < config_.layer_count; ++i) {
      LOCI_ASSIGN_OR_RETURN(BertLayer from, reader.ReadLayer(i));
      Layer layer(from);
      // A head at a time, so that its queries, keys and values are used while they are in the cache.
      const int64_t size = head_dim_ * hidden;
      AlignedFloats weight(3 * size), bias(3 * head_dim_);
      for (int64_t head = 0; head < config_.head_count; ++head) {
        for (int64_t part = 0; part < 3; ++part) {
          const int64_t row = part * hidden + head * head_dim_;
          std::copy_n(from.query_key_value.weight.data() + row * hidden, size, weight.data() + part * size);
          std::copy_n(from.query_key_value.bias.data() + row, head_dim_, bias.data() + part * head_dim_);
        }
        layer.heads.push_back(Pack(weight.data(), bias.data(), 3 * head_dim_, hidden));
      }
      layer.attention_output = Pack(from.attention_output.weight.data(), from.attention_output.bias.data(), hidden, hidden);
      layer.intermediate =
          Pack(from.intermediate.weight.data(), from.intermediate.bias.data(), config_.intermediate_size, hidden);
      layer.output = Pack(from.output.weight.data(), from.output.bias.data(), hidden, config_.intermediate_size);
      memory_bytes_ += layer.norms.size_bytes();
      layers_.push_back(std::move(layer));
    }
    return absl::OkStatus();
  }

  int64_t memory_bytes() const override { return memory_bytes_; }
  int64_t max_block_tokens() const override { return kMaxBlockTokens; }

  std::unique_ptr<Workspace> MakeWorkspace(int64_t max_tokens) const override {
    const int64_t hidden = config_.hidden_size;
    auto matrices = std::make_unique<Matrices>();
    matrices->quantized = Int8Rows(isa_, max_tokens, hidden);
    matrices->head = AlignedFloats(max_tokens * 3 * head_dim_);
    matrices->context = AlignedFloats(max_tokens * hidden);
    const int64_t chunk = std::min(max_tokens, 2 * kChunkRows);
    matrices->quantized_chunk = Int8Rows(isa_, chunk, hidden);
    matrices->intermediate = AlignedFloats(chunk * config_.intermediate_size);
    matrices->quantized_intermediate = Int8Rows(isa_, chunk, config_.intermediate_size);
    matrices->scratch = AlignedArray<uint8_t>(AttentionInt8ScratchBytes(isa_, config_.max_length, head_dim_));
    return matrices;
  }

  void Run(float* hidden, const int32_t* offsets, int64_t sequence_count, Workspace& workspace) const override {
    auto& m = static_cast<Matrices&>(workspace);
    const int64_t rows = offsets[sequence_count];
    const int64_t dim = config_.hidden_size;
    const int64_t chunks = (rows + kChunkRows - 1) / kChunkRows;
    QuantizeRows(isa_, m.quantized.from(0), hidden, rows, dim);
    for (const Layer& layer : layers_) {
      for (int64_t head = 0; head < config_.head_count; ++head) {
        GemmInt8(isa_, m.head.data(), 3 * head_dim_, m.quantized.from(0), layer.heads[head].panels(), nullptr, rows,
                 Activation::kNone);
        AttentionInt8(isa_, m.context.data() + head * head_dim_, dim, m.head.data(), offsets, sequence_count, head_dim_,
                      m.scratch.data());
      }
      for (int64_t c = 0, r = 0; c < chunks; ++c) {
        const int64_t count = rows / chunks + (c < rows % chunks ? 1 : 0);
        RunSecondHalf(layer, hidden + r * dim, r, count, m);
        r += count;
      }
    }
  }

 private:
  struct Layer {
    explicit Layer(BertLayer& from) : norms(from) {}

    std::vector<Int8Weight> heads;  // [3 * head_dim, hidden] each
    Int8Weight attention_output, intermediate, output;
    LayerNorms norms;
  };
  struct Matrices : Workspace {
    Int8Rows quantized;     // The block's hidden state.
    AlignedFloats head;     // [tokens, 3 * head_dim]
    AlignedFloats context;  // [tokens, hidden]
    Int8Rows quantized_chunk;
    AlignedFloats intermediate;
    Int8Rows quantized_intermediate;
    AlignedArray<uint8_t> scratch;
  };

  Int8Weight Pack(const float* weight, const float* bias, int64_t outputs, int64_t inputs) {
    Int8Weight packed = PackWeightInt8(isa_, weight, bias, outputs, inputs);
    memory_bytes_ += packed.size_bytes();
    return packed;
  }

  // From the attention's context to the layer's output, `count` rows from `row` on; `hidden` is at that row.
  void RunSecondHalf(const Layer& layer, float* hidden, int64_t row, int64_t count, Matrices& m) const {
    const int64_t dim = config_.hidden_size;
    const float epsilon = config_.layer_norm_epsilon;
    const QuantizedRows chunk = m.quantized_chunk.from(0);
    QuantizeRows(isa_, chunk, m.context.data() + row * dim, count, dim);
    GemmInt8(isa_, hidden, dim, chunk, layer.attention_output.panels(), hidden, count, Activation::kNone);
    LayerNormQuantize(isa_, hidden, chunk, layer.norms.attention_gamma.data(), layer.norms.attention_beta.data(), epsilon, count,
                      dim);
    GemmInt8(isa_, m.intermediate.data(), config_.intermediate_size, chunk, layer.intermediate.panels(), nullptr, count,
             Activation::kGelu);
    const QuantizedRows intermediate = m.quantized_intermediate.from(0);
    QuantizeRows(isa_, intermediate, m.intermediate.data(), count, config_.intermediate_size);
    GemmInt8(isa_, hidden, dim, intermediate, layer.output.panels(), hidden, count, Activation::kNone);
    LayerNormQuantize(isa_, hidden, m.quantized.from(row), layer.norms.output_gamma.data(), layer.norms.output_beta.data(),
                      epsilon, count, dim);
  }

  const ModelConfig config_;
  const Int8Isa isa_;
  const int64_t head_dim_;
  std::vector<Layer> layers_;
  int64_t memory_bytes_ = 0;
};

}  // namespace

absl::StatusOr<std::unique_ptr<const CpuLayers>> ReadInt8Layers(const BertReader& reader, const ModelConfig& config, CpuIsa isa,
                                                                const CpuExtensions& extensions) {
  auto layers = std::make_unique<Int8Layers>(config, ChooseInt8Isa(isa, extensions));
  LOCI_RETURN_IF_ERROR(layers->Read(reader));
  return layers;
}

}  // namespace loci
