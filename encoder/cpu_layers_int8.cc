#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>
#include <vector>

#include "base/split_mix.h"
#include "base/status_macros.h"
#include "encoder/cpu_layers.h"
#include "encoder/kernels/aligned.h"
#include "encoder/kernels/attention_int8.h"
#include "encoder/kernels/embedding.h"
#include "encoder/kernels/gemm_int8.h"
#include "encoder/packed_layers.h"

namespace loci {
namespace {

constexpr int64_t kMaxBlockTokens = 144;
// Rows that go through a layer's second half together: few enough for their intermediate activations to stay in the L2 cache.
constexpr int64_t kChunkRows = 48;

// What is run through the layers as they are read, to see how far each channel of the hidden state reaches: random tokens show it as well as texts do.
constexpr int64_t kSampleTokens = 512;
constexpr int64_t kSampleLength = 64;
constexpr uint64_t kSampleSeed = 1;
// A channel is wide beyond so many times what kNarrowShare of the channels do not pass. With these all-MiniLM-L6-v2's error (1 - cosine to float32) fell
// by 34 % on covidfaq's texts, 17 % on medline's and 22 % on cranfield's.
constexpr float kWideRatio = 1.5f;
constexpr double kNarrowShare = 0.9;

// How a hidden state is quantised. A few channels of BERT's reach several times as far as the others, and as a token's values share one scale, they
// would take the precision of all: they are shrunk, and their weights enlarged (Xiao et al. 2022, SmoothQuant, do so with every channel). The
// normalisation's beta, about which a channel's values lie, is taken out and comes back with the bias.
class HiddenScaling {
 public:
  HiddenScaling() = default;  // As it is.
  // By a sample of it, [rows, dim], that a normalisation with `beta` [dim] gave.
  HiddenScaling(const float* sample, const float* beta, int64_t rows, int64_t dim) : factor_(dim), shift_(dim) {
    std::vector<float> reach(dim);
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t k = 0; k < dim; ++k) reach[k] = std::max(reach[k], std::abs(sample[r * dim + k] - beta[k]));
    }
    std::vector<float> sorted = reach;
    const auto narrow = sorted.begin() + static_cast<int64_t>(kNarrowShare * static_cast<double>(dim - 1));
    std::nth_element(sorted.begin(), narrow, sorted.end());
    const float wide = kWideRatio * *narrow;
    for (int64_t k = 0; k < dim; ++k) {
      factor_[k] = reach[k] > wide && wide > 0 ? wide / reach[k] : 1.0f;
      shift_[k] = -beta[k] * factor_[k];
    }
  }

  ChannelMap map() const { return {factor_.data(), shift_.data()}; }
  int64_t size_bytes() const { return factor_.size_bytes() + shift_.size_bytes(); }

  // A weight [outputs, dim] and its bias, changed to give the same of the mapped state.
  void Undo(float* weight, float* bias, int64_t outputs) const {
    const int64_t dim = factor_.size();
    for (int64_t c = 0; c < outputs; ++c) {
      double shifted = 0;
      for (int64_t k = 0; k < dim; ++k) {
        float& w = weight[c * dim + k];
        w /= factor_[k];
        shifted += static_cast<double>(w) * shift_[k];
      }
      bias[c] -= static_cast<float>(shifted);
    }
  }

 private:
  AlignedFloats factor_, shift_;  // [dim] or empty
};

// Every dense layer on bytes, activations quantised per token as they come, so that no text is needed to calibrate; attention on bytes too where
// the CPU has VNNI. The residual stream, LayerNorm and the sums of what is dequantised are float32.
class Int8Layers : public CpuLayers {
 public:
  Int8Layers(const ModelConfig& config, Int8Isa isa)
      : config_(config), isa_(isa), head_dim_(config.hidden_size / config.head_count) {}

  absl::Status Read(const BertReader& reader, const BertEmbeddings& embeddings, CpuIsa isa) {
    const int64_t length = std::min<int64_t>(kSampleLength, config_.max_length);
    const int64_t sequences = kSampleTokens / length;
    std::vector<int32_t> offsets, ids;
    SplitMix64 random(kSampleSeed);
    for (int64_t s = 0; s <= sequences; ++s) offsets.push_back(static_cast<int32_t>(s * length));
    for (int64_t t = 0; t < sequences * length; ++t) {
      ids.push_back(static_cast<int32_t>(random.Next() % static_cast<uint64_t>(config_.vocabulary_size)));
    }
    AlignedFloats hidden(sequences * length * config_.hidden_size);
    Embedding(isa, hidden.data(), ids.data(), offsets.data(), sequences, embeddings.tables(config_.layer_norm_epsilon),
              config_.hidden_size);
    const std::unique_ptr<Workspace> workspace = MakeWorkspace(sequences * length);
    for (int i = 0; i < config_.layer_count; ++i) {
      LOCI_ASSIGN_OR_RETURN(BertLayer from, reader.ReadLayer(i));
      AddLayer(from, i == 0 ? embeddings.beta.data() : layers_.back().norms.output_beta.data(), hidden.data(), offsets,
               static_cast<Matrices&>(*workspace));
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
    QuantizeRows(isa_, m.quantized.from(0), hidden, layers_[0].attention_scaling.map(), rows, dim);
    for (size_t i = 0; i < layers_.size(); ++i) {
      const Layer& layer = layers_[i];
      const ChannelMap next = i + 1 < layers_.size() ? layers_[i + 1].attention_scaling.map() : ChannelMap();
      RunAttention(layer, offsets, sequence_count, m);
      ForEachChunk(rows, [&](int64_t row, int64_t count) {
        RunAttentionOutput(layer, hidden + row * dim, row, count, m);
        RunFeedForward(layer, next, hidden + row * dim, row, count, m);
      });
    }
  }

 private:
  struct Layer {
    explicit Layer(BertLayer& from) : norms(from) {}

    HiddenScaling attention_scaling;     // Of what comes into the layer,
    HiddenScaling feed_forward_scaling;  // and of what its first normalisation gives.
    std::vector<Int8Weight> heads;       // [3 * head_dim, hidden] each
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

  // Packs a layer and takes the sample through it: `hidden` [offsets.back(), hidden_size] is what comes in, by a normalisation with `beta`, and
  // then what goes out.
  void AddLayer(BertLayer& from, const float* beta, float* hidden, const std::vector<int32_t>& offsets, Matrices& m) {
    const int64_t dim = config_.hidden_size;
    const int64_t rows = offsets.back();
    Layer layer(from);
    layer.attention_scaling = HiddenScaling(hidden, beta, rows, dim);
    layer.attention_scaling.Undo(from.query_key_value.weight.data(), from.query_key_value.bias.data(), 3 * dim);
    // A head at a time, so that its queries, keys and values are used while they are in the cache.
    const int64_t size = head_dim_ * dim;
    AlignedFloats weight(3 * size), bias(3 * head_dim_);
    for (int64_t head = 0; head < config_.head_count; ++head) {
      for (int64_t part = 0; part < 3; ++part) {
        const int64_t row = part * dim + head * head_dim_;
        std::copy_n(from.query_key_value.weight.data() + row * dim, size, weight.data() + part * size);
        std::copy_n(from.query_key_value.bias.data() + row, head_dim_, bias.data() + part * head_dim_);
      }
      layer.heads.push_back(Pack(weight.data(), bias.data(), 3 * head_dim_, dim));
    }
    layer.attention_output = Pack(from.attention_output.weight.data(), from.attention_output.bias.data(), dim, dim);
    QuantizeRows(isa_, m.quantized.from(0), hidden, layer.attention_scaling.map(), rows, dim);
    RunAttention(layer, offsets.data(), static_cast<int64_t>(offsets.size()) - 1, m);
    ForEachChunk(rows, [&](int64_t row, int64_t count) { RunAttentionOutput(layer, hidden + row * dim, row, count, m); });

    layer.feed_forward_scaling = HiddenScaling(hidden, layer.norms.attention_beta.data(), rows, dim);
    layer.feed_forward_scaling.Undo(from.intermediate.weight.data(), from.intermediate.bias.data(), config_.intermediate_size);
    layer.intermediate = Pack(from.intermediate.weight.data(), from.intermediate.bias.data(), config_.intermediate_size, dim);
    layer.output = Pack(from.output.weight.data(), from.output.bias.data(), dim, config_.intermediate_size);
    ForEachChunk(rows, [&](int64_t row, int64_t count) {
      QuantizeRows(isa_, m.quantized_chunk.from(0), hidden + row * dim, layer.feed_forward_scaling.map(), count, dim);
      RunFeedForward(layer, ChannelMap(), hidden + row * dim, row, count, m);
    });
    memory_bytes_ += layer.norms.size_bytes() + layer.attention_scaling.size_bytes() + layer.feed_forward_scaling.size_bytes();
    layers_.push_back(std::move(layer));
  }

  // `run(row, count)` for chunks of at most kChunkRows rows that make `rows` together.
  template <typename Run>
  static void ForEachChunk(int64_t rows, const Run& run) {
    const int64_t chunks = (rows + kChunkRows - 1) / kChunkRows;
    for (int64_t c = 0, row = 0; c < chunks; ++c) {
      const int64_t count = rows / chunks + (c < rows % chunks ? 1 : 0);
      run(row, count);
      row += count;
    }
  }

  // From the quantised hidden state to the context, of all rows.
  void RunAttention(const Layer& layer, const int32_t* offsets, int64_t sequence_count, Matrices& m) const {
    for (int64_t head = 0; head < config_.head_count; ++head) {
      GemmInt8(isa_, m.head.data(), 3 * head_dim_, m.quantized.from(0), layer.heads[head].panels(), nullptr,
               offsets[sequence_count], Activation::kNone);
      AttentionInt8(isa_, m.context.data() + head * head_dim_, config_.hidden_size, m.head.data(), offsets, sequence_count,
                    head_dim_, m.scratch.data());
    }
  }

  // From the context of `count` rows from `row` on to the first normalisation's output, in `hidden`, which is at that row, and quantised.
  void RunAttentionOutput(const Layer& layer, float* hidden, int64_t row, int64_t count, Matrices& m) const {
    const int64_t dim = config_.hidden_size;
    const QuantizedRows chunk = m.quantized_chunk.from(0);
    QuantizeRows(isa_, chunk, m.context.data() + row * dim, ChannelMap(), count, dim);
    GemmInt8(isa_, hidden, dim, chunk, layer.attention_output.panels(), hidden, count, Activation::kNone);
    LayerNormQuantize(isa_, hidden, chunk, layer.feed_forward_scaling.map(), layer.norms.attention_gamma.data(),
                      layer.norms.attention_beta.data(), config_.layer_norm_epsilon, count, dim);
  }

  // From there to the layer's output, quantised as `next` maps it.
  void RunFeedForward(const Layer& layer, const ChannelMap& next, float* hidden, int64_t row, int64_t count, Matrices& m) const {
    const int64_t dim = config_.hidden_size;
    GemmInt8(isa_, m.intermediate.data(), config_.intermediate_size, m.quantized_chunk.from(0), layer.intermediate.panels(),
             nullptr, count, Activation::kGelu);
    const QuantizedRows intermediate = m.quantized_intermediate.from(0);
    QuantizeRows(isa_, intermediate, m.intermediate.data(), ChannelMap(), count, config_.intermediate_size);
    GemmInt8(isa_, hidden, dim, intermediate, layer.output.panels(), hidden, count, Activation::kNone);
    LayerNormQuantize(isa_, hidden, m.quantized.from(row), next, layer.norms.output_gamma.data(), layer.norms.output_beta.data(),
                      config_.layer_norm_epsilon, count, dim);
  }

  const ModelConfig config_;
  const Int8Isa isa_;
  const int64_t head_dim_;
  std::vector<Layer> layers_;
  int64_t memory_bytes_ = 0;
};

}  // namespace

absl::StatusOr<std::unique_ptr<const CpuLayers>> ReadInt8Layers(const BertReader& reader, const ModelConfig& config, CpuIsa isa,
                                                                const CpuExtensions& extensions,
                                                                const BertEmbeddings& embeddings) {
  auto layers = std::make_unique<Int8Layers>(config, ChooseInt8Isa(isa, extensions));
  LOCI_RETURN_IF_ERROR(layers->Read(reader, embeddings, isa));
  return layers;
}

}  // namespace loci
