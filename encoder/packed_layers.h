// What the CPU's layers hold, whatever they compute in (cpu_layers.h).
#ifndef LOCI_ENCODER_PACKED_LAYERS_H_
#define LOCI_ENCODER_PACKED_LAYERS_H_

#include <cstdint>
#include <utility>

#include "encoder/bert.h"
#include "encoder/kernels/aligned.h"
#include "encoder/model_config.h"

namespace loci {

// The layer normalisations of a layer, [hidden_size] each.
struct LayerNorms {
  explicit LayerNorms(BertLayer& from)
      : attention_gamma(std::move(from.attention_gamma)),
        attention_beta(std::move(from.attention_beta)),
        output_gamma(std::move(from.output_gamma)),
        output_beta(std::move(from.output_beta)) {}

  int64_t size_bytes() const { return 4 * output_beta.size_bytes(); }

  AlignedFloats attention_gamma, attention_beta, output_gamma, output_beta;
};

// A dense layer whose weight, as the kernels want it, has values of T.
template <typename T>
struct PackedDense {
  AlignedArray<T> packed;
  AlignedFloats bias;  // [outputs]
  int64_t outputs = 0;
  int64_t inputs = 0;
};

template <typename T>
struct PackedLayer {
  // `pack(weight, outputs, inputs)` packs a weight [outputs, inputs].
  template <typename Pack>
  PackedLayer(BertLayer from, const ModelConfig& config, const Pack& pack) : norms(from) {
    const auto dense = [&pack](DenseWeights& weights, int64_t outputs, int64_t inputs) {
      return PackedDense<T>{pack(weights.weight.data(), outputs, inputs), std::move(weights.bias), outputs, inputs};
    };
    const int64_t hidden = config.hidden_size;
    query_key_value = dense(from.query_key_value, 3 * hidden, hidden);
    attention_output = dense(from.attention_output, hidden, hidden);
    intermediate = dense(from.intermediate, config.intermediate_size, hidden);
    output = dense(from.output, hidden, config.intermediate_size);
  }

  int64_t size_bytes() const {
    int64_t bytes = norms.size_bytes();
    for (const PackedDense<T>* dense : {&query_key_value, &attention_output, &intermediate, &output}) {
      bytes += dense->packed.size_bytes() + dense->bias.size_bytes();
    }
    return bytes;
  }

  PackedDense<T> query_key_value, attention_output, intermediate, output;
  LayerNorms norms;
};

}  // namespace loci

#endif  // LOCI_ENCODER_PACKED_LAYERS_H_
