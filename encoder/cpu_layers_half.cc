#include <algorithm>
#include <cmath>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "base/strings.h"
#include "encoder/cpu_layers.h"
#include "encoder/kernels/aligned.h"
#include "encoder/kernels/half_attention.h"
#include "encoder/kernels/half_gemm.h"
#include "encoder/kernels/half_layer_norm.h"
#include "encoder/kernels/half_layout.h"
#include "encoder/packed_layers.h"

namespace loci {
namespace {

constexpr int64_t kMaxBlockTokens = 128;

constexpr double kLargestFloat16 = 65504;

// Largest magnitudes, whatever the text, for the proof that float16 can hold them: of what a layer normalisation puts out,
// x = gamma n + beta with |n|_2 <= sqrt(dim), and of what a dense layer makes of that. A bound that is handed on is one of the
// computed number, which may be kFloat16SumGrowth times the exact one; of computed numbers' sums the factors multiply.
class Float16Range {
 public:
  Float16Range(bool needed, int layer) : needed_(needed), layer_(layer) {}

  // Of |weight x + bias| of each row as computed, by Cauchy-Schwarz, which holds for the sum of magnitudes and so for every
  // partial sum too.
  std::vector<double> OfNormalized(std::string_view what, const DenseWeights& dense, const AlignedFloats& gamma,
                                   const AlignedFloats& beta) {
    const int64_t inputs = gamma.size(), outputs = dense.bias.size();
    std::vector<double> bounds(outputs);
    if (!needed_) return bounds;
    const double length = std::sqrt(static_cast<double>(inputs));
    for (int64_t i = 0; i < inputs; ++i) Limit(what, "an input", length * std::abs(gamma[i]) + std::abs(beta[i]));
    for (int64_t o = 0; o < outputs; ++o) {
      const float* row = dense.weight.data() + o * inputs;
      double square = 0, rest = std::abs(dense.bias[o]), largest = 0;
      for (int64_t i = 0; i < inputs; ++i) {
        const double scaled = static_cast<double>(row[i]) * gamma[i];
        square += scaled * scaled;
        rest += std::abs(static_cast<double>(row[i]) * beta[i]);
        largest = std::max(largest, static_cast<double>(std::abs(row[i])));
      }
      Limit(what, "a weight", largest);
      bounds[o] = kFloat16SumGrowth * (length * std::sqrt(square) + rest);
      Limit(what, "an output", bounds[o]);
    }
    return bounds;
  }

  // Sums of weight x for inputs of at most `bounds` as computed.
  void OfBounded(std::string_view what, const DenseWeights& dense, const std::vector<double>& bounds) {
    if (!needed_) return;
    const int64_t inputs = static_cast<int64_t>(bounds.size());
    for (int64_t o = 0; o < dense.bias.size(); ++o) {
      for (int64_t begin = 0; begin < inputs; begin += kFloat16SumProducts) {
        double sum = 0;
        for (int64_t i = begin; i < std::min(inputs, begin + kFloat16SumProducts); ++i) {
          const double weight = std::abs(dense.weight[o * inputs + i]);
          Limit(what, "a weight", weight);
          sum += weight * bounds[i];
        }
        Limit(what, "a sum", kFloat16SumGrowth * sum);
      }
    }
  }

  // Of contexts [hidden] as computed, which are means of values; `bounds` [3 * hidden] are OfNormalized's of query above key above
  // value.
  std::vector<double> OfAttention(const std::vector<double>& bounds, int64_t hidden, int64_t head_dim) {
    std::vector<double> contexts(hidden);
    if (!needed_) return contexts;
    for (int64_t h = 0; h < hidden; h += head_dim) {
      double score = 0;
      for (int64_t d = h; d < h + head_dim; ++d) {
        score += bounds[d] * bounds[hidden + d];
        contexts[d] = kFloat16SumGrowth * bounds[2 * hidden + d];
        Limit("attention", "a sum of values", kFloat16SumProducts * contexts[d]);
      }
      Limit("attention", "a score", kFloat16SumGrowth * score);
    }
    return contexts;
  }

  const absl::Status& status() const { return status_; }

 private:
  void Limit(std::string_view what, std::string_view kind, double bound) {
    if (bound <= kLargestFloat16 || !status_.ok()) return;
    status_ = absl::FailedPreconditionError(absl::StrCat("layer ", layer_, ", ", AbslView(what), ": ", AbslView(kind),
                                                         " may come to ", bound, ", float16 holds ", kLargestFloat16));
  }

  const bool needed_;
  const int layer_;
  absl::Status status_;
};

class HalfLayers : public CpuLayers {
 public:
  HalfLayers(HalfType type, const ModelConfig& config) : type_(type), config_(config) {}

  absl::Status Read(const BertReader& reader, const BertEmbeddings& embeddings) {
    const int64_t hidden = config_.hidden_size;
    const int64_t head_dim = hidden / config_.head_count;
    for (int i = 0; i < config_.layer_count; ++i) {
      LOCI_ASSIGN_OR_RETURN(BertLayer from, reader.ReadLayer(i));
      // The attention kernel's scores are exponents of two.
      const float scale = static_cast<float>(1.4426950408889634 / std::sqrt(static_cast<double>(head_dim)));
      for (int64_t k = 0; k < hidden * hidden; ++k) from.query_key_value.weight[k] *= scale;
      for (int64_t k = 0; k < hidden; ++k) from.query_key_value.bias[k] *= scale;
      LOCI_RETURN_IF_ERROR(CheckRange(i, from, i == 0 ? embeddings.gamma : layers_.back().norms.output_gamma,
                                      i == 0 ? embeddings.beta : layers_.back().norms.output_beta));
      layers_.emplace_back(std::move(from), config_, [this](const float* weight, int64_t outputs, int64_t inputs) {
        return PackHalfWeight(type_, weight, outputs, inputs);
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
    matrices->rounded = AlignedArray<Half>(max_tokens * hidden);
    matrices->query_key_value = AlignedArray<Half>(max_tokens * 3 * hidden);
    matrices->context = AlignedArray<Half>(max_tokens * hidden);
    matrices->intermediate = AlignedArray<Half>(max_tokens * config_.intermediate_size);
    matrices->sum = AlignedFloats(max_tokens * hidden);
    matrices->scratch = AlignedFloats(HalfAttentionScratchSize(type_, config_.max_length, hidden / config_.head_count));
    return matrices;
  }

  void Run(float* hidden, const int32_t* offsets, int64_t sequence_count, Workspace& workspace) const override {
    auto& m = static_cast<Matrices&>(workspace);
    const int64_t rows = offsets[sequence_count];
    const int64_t dim = config_.hidden_size;
    const float epsilon = config_.layer_norm_epsilon;
    RoundToHalf(type_, m.rounded.data(), hidden, rows * dim);
    for (const Layer& layer : layers_) {
      RunDense(layer.query_key_value, m.rounded.data(), Activation::kNone, rows, m.query_key_value.data());
      HalfAttention(type_, m.context.data(), m.query_key_value.data(), offsets, sequence_count, config_.head_count,
                    dim / config_.head_count, m.scratch.data());
      RunDense(layer.attention_output, m.context.data(), Activation::kNone, rows, m.sum.data());
      HalfLayerNorm(type_, hidden, m.rounded.data(), m.sum.data(), layer.norms.attention_gamma.data(),
                    layer.norms.attention_beta.data(), epsilon, rows, dim);
      RunDense(layer.intermediate, m.rounded.data(), Activation::kGelu, rows, m.intermediate.data());
      RunDense(layer.output, m.intermediate.data(), Activation::kNone, rows, m.sum.data());
      HalfLayerNorm(type_, hidden, m.rounded.data(), m.sum.data(), layer.norms.output_gamma.data(),
                    layer.norms.output_beta.data(), epsilon, rows, dim);
    }
  }

 private:
  using Dense = PackedDense<Half>;
  using Layer = PackedLayer<Half>;

  // Each [tokens, its width].
  struct Matrices : Workspace {
    AlignedArray<Half> rounded, query_key_value, context, intermediate;
    AlignedFloats sum;
    AlignedFloats scratch;
  };

  // FAILED_PRECONDITION for weights whose numbers float16 might not hold. `gamma` and `beta` are those of the layer's input.
  absl::Status CheckRange(int index, const BertLayer& layer, const AlignedFloats& gamma, const AlignedFloats& beta) const {
    Float16Range range(type_ == HalfType::kFloat16, index);
    const int64_t hidden = config_.hidden_size;
    std::vector<double> bounds = range.OfNormalized("attention", layer.query_key_value, gamma, beta);
    bounds = range.OfAttention(bounds, hidden, hidden / config_.head_count);
    range.OfBounded("attention.output", layer.attention_output, bounds);
    bounds = range.OfNormalized("intermediate", layer.intermediate, layer.attention_gamma, layer.attention_beta);
    range.OfBounded("output", layer.output, bounds);
    return range.status();
  }

  template <typename Output>
  void RunDense(const Dense& dense, const Half* input, Activation activation, int64_t rows, Output* output) const {
    HalfGemm(type_, output, input, dense.packed.data(), dense.bias.data(), rows, dense.outputs, dense.inputs, activation);
  }

  const HalfType type_;
  const ModelConfig config_;
  std::vector<Layer> layers_;
  int64_t memory_bytes_ = 0;
};

}  // namespace

absl::StatusOr<std::unique_ptr<const CpuLayers>> ReadHalfLayers(const BertReader& reader, const ModelConfig& config,
                                                                HalfType type, const BertEmbeddings& embeddings) {
  auto layers = std::make_unique<HalfLayers>(type, config);
  LOCI_RETURN_IF_ERROR(layers->Read(reader, embeddings));
  return layers;
}

}  // namespace loci
