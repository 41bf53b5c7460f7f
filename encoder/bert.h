// BERT's weights as a checkpoint names and shapes them, read one part at a time, so that a device can pack or upload each part and
// forget it. (Devlin et al. 2018; post-norm layers.)
#ifndef LOCI_ENCODER_BERT_H_
#define LOCI_ENCODER_BERT_H_

#include <string>

#include "absl/status/statusor.h"
#include "encoder/kernels/aligned.h"
#include "encoder/kernels/op_types.h"
#include "encoder/model_config.h"
#include "encoder/safetensors.h"

namespace loci {

// Row-major float32 tables.
struct BertEmbeddings {
  AlignedFloats word;      // [vocabulary_size, hidden_size]
  AlignedFloats position;  // [max_positions, hidden_size]
  AlignedFloats type;      // [hidden_size]: segment 0's row
  AlignedFloats gamma;     // [hidden_size]
  AlignedFloats beta;      // [hidden_size]

  // `epsilon` is the layer normalisation's.
  EmbeddingTables tables(float epsilon) const {
    return {word.data(), position.data(), type.data(), gamma.data(), beta.data(), epsilon};
  }
};

// A dense layer as PyTorch keeps it.
struct DenseWeights {
  AlignedFloats weight;  // [outputs, inputs]
  AlignedFloats bias;    // [outputs]
};

struct BertLayer {
  DenseWeights query_key_value;  // [3 * hidden_size, hidden_size]: query above key above value
  DenseWeights attention_output;
  AlignedFloats attention_gamma, attention_beta;
  DenseWeights intermediate;  // [intermediate_size, hidden_size]
  DenseWeights output;        // [hidden_size, intermediate_size]
  AlignedFloats output_gamma, output_beta;
};

// Reads a BertModel's tensors, named as they are or under "bert.". The pooler and any heads are ignored.
// Immutable after construction; borrows both arguments.
class BertReader {
 public:
  BertReader(const Safetensors& file, const ModelConfig& config);

  // INVALID_ARGUMENT, naming file and tensor, for one that is missing or has another shape or type, or a value that is not finite.
  absl::StatusOr<BertEmbeddings> ReadEmbeddings() const;
  absl::StatusOr<BertLayer> ReadLayer(int layer) const;

 private:
  absl::StatusOr<AlignedFloats> Read(const std::string& name, const std::vector<int64_t>& shape) const;
  // Stacks the dense layers `names` of [outputs, inputs] each.
  absl::StatusOr<DenseWeights> ReadDense(const std::vector<std::string>& names, int64_t outputs, int64_t inputs) const;
  // Older checkpoints call a norm's weight and bias gamma and beta.
  absl::StatusOr<AlignedFloats> ReadNorm(const std::string& name, const char* now, const char* once) const;

  const Safetensors& file_;
  const ModelConfig& config_;
  std::string prefix_;
};

}  // namespace loci

#endif  // LOCI_ENCODER_BERT_H_
