// What a Hugging Face checkpoint's small files say: config.json and sentence-transformers' modules.json, pooling configuration,
// sentence_bert_config.json and config_sentence_transformers.json.
#ifndef LOCI_ENCODER_MODEL_CONFIG_H_
#define LOCI_ENCODER_MODEL_CONFIG_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "base/file.h"
#include "encoder/kernels/op_types.h"

namespace loci {

struct ModelConfig {
  // config.json
  int hidden_size = 0;
  int layer_count = 0;
  int head_count = 0;
  int intermediate_size = 0;
  int vocabulary_size = 0;
  int max_positions = 0;
  int type_vocabulary_size = 0;
  float layer_norm_epsilon = 0;
  // sentence-transformers. Without modules.json: mean pooling, not normalised, as it does itself.
  int max_length = 0;  // Tokens, special ones counted; at least 3, at most max_positions.
  Pooling pooling = Pooling::kMean;
  bool normalize = false;
  std::string query_prefix;
  std::string passage_prefix;
};

// NOT_FOUND without config.json; INVALID_ARGUMENT, naming file and key, for a file that is not JSON or larger than 1 MiB, a value of
// the wrong type or out of range, and for what is not implemented: a model_type other than bert, a hidden_act other than gelu, a
// position_embedding_type other than absolute, a decoder, a module other than Transformer, Pooling and Normalize, a pooling mode
// other than mean, CLS and max, a similarity other than cosine and dot.
absl::StatusOr<ModelConfig> LoadModelConfig(FileSystem& fs, const std::string& model_directory);

}  // namespace loci

#endif  // LOCI_ENCODER_MODEL_CONFIG_H_
