#include "encoder/bert.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace loci {

BertReader::BertReader(const Safetensors& file, const ModelConfig& config) : file_(file), config_(config) {
  constexpr const char* kProbe = "embeddings.word_embeddings.weight";
  if (!file.Has(kProbe) && file.Has(absl::StrCat("bert.", kProbe))) prefix_ = "bert.";
}

absl::StatusOr<AlignedFloats> BertReader::Read(const std::string& name, const std::vector<int64_t>& shape) const {
  int64_t size = 1;  // The configuration's ranges keep it far from overflow.
  for (int64_t extent : shape) size *= extent;
  // Before memory is taken: what a hostile configuration asks for, no file that is shorter can fill.
  const auto found = file_.tensors().find(prefix_ + name);
  if (found == file_.tensors().end() || found->second.shape != shape) {
    return file_.ReadFloats(prefix_ + name, shape, nullptr);
  }
  AlignedFloats values(size);
  LOCI_RETURN_IF_ERROR(file_.ReadFloats(prefix_ + name, shape, values.data()));
  if (!std::all_of(values.data(), values.data() + size, [](float x) { return std::isfinite(x); })) {
    return absl::InvalidArgumentError(
        absl::StrCat(file_.name(), ": tensor \"", prefix_, name, "\" has a value that is not finite"));
  }
  return values;
}

absl::StatusOr<DenseWeights> BertReader::ReadDense(const std::vector<std::string>& names, int64_t outputs, int64_t inputs) const {
  DenseWeights dense;
  const int64_t count = static_cast<int64_t>(names.size());
  for (int64_t i = 0; i < count; ++i) {
    LOCI_ASSIGN_OR_RETURN(AlignedFloats weight, Read(names[i] + ".weight", {outputs, inputs}));
    LOCI_ASSIGN_OR_RETURN(AlignedFloats bias, Read(names[i] + ".bias", {outputs}));
    if (i == 0) {
      dense.weight = AlignedFloats(count * outputs * inputs);
      dense.bias = AlignedFloats(count * outputs);
    }
    std::copy_n(weight.data(), weight.size(), dense.weight.data() + i * outputs * inputs);
    std::copy_n(bias.data(), bias.size(), dense.bias.data() + i * outputs);
  }
  return dense;
}

absl::StatusOr<AlignedFloats> BertReader::ReadNorm(const std::string& name, const char* now, const char* once) const {
  const bool old = !file_.Has(absl::StrCat(prefix_, name, now)) && file_.Has(absl::StrCat(prefix_, name, once));
  return Read(absl::StrCat(name, old ? once : now), {config_.hidden_size});
}

absl::StatusOr<BertEmbeddings> BertReader::ReadEmbeddings() const {
  const int64_t hidden = config_.hidden_size;
  BertEmbeddings embeddings;
  LOCI_ASSIGN_OR_RETURN(embeddings.word, Read("embeddings.word_embeddings.weight", {config_.vocabulary_size, hidden}));
  LOCI_ASSIGN_OR_RETURN(embeddings.position, Read("embeddings.position_embeddings.weight", {config_.max_positions, hidden}));
  LOCI_ASSIGN_OR_RETURN(const AlignedFloats types,
                        Read("embeddings.token_type_embeddings.weight", {config_.type_vocabulary_size, hidden}));
  embeddings.type = AlignedFloats(hidden);
  std::copy_n(types.data(), hidden, embeddings.type.data());
  LOCI_ASSIGN_OR_RETURN(embeddings.gamma, ReadNorm("embeddings.LayerNorm", ".weight", ".gamma"));
  LOCI_ASSIGN_OR_RETURN(embeddings.beta, ReadNorm("embeddings.LayerNorm", ".bias", ".beta"));
  return embeddings;
}

absl::StatusOr<BertLayer> BertReader::ReadLayer(int index) const {
  const std::string at = absl::StrCat("encoder.layer.", index, ".");
  const int64_t hidden = config_.hidden_size;
  const int64_t intermediate = config_.intermediate_size;
  BertLayer layer;
  LOCI_ASSIGN_OR_RETURN(
      layer.query_key_value,
      ReadDense({at + "attention.self.query", at + "attention.self.key", at + "attention.self.value"}, hidden, hidden));
  LOCI_ASSIGN_OR_RETURN(layer.attention_output, ReadDense({at + "attention.output.dense"}, hidden, hidden));
  LOCI_ASSIGN_OR_RETURN(layer.attention_gamma, ReadNorm(at + "attention.output.LayerNorm", ".weight", ".gamma"));
  LOCI_ASSIGN_OR_RETURN(layer.attention_beta, ReadNorm(at + "attention.output.LayerNorm", ".bias", ".beta"));
  LOCI_ASSIGN_OR_RETURN(layer.intermediate, ReadDense({at + "intermediate.dense"}, intermediate, hidden));
  LOCI_ASSIGN_OR_RETURN(layer.output, ReadDense({at + "output.dense"}, hidden, intermediate));
  LOCI_ASSIGN_OR_RETURN(layer.output_gamma, ReadNorm(at + "output.LayerNorm", ".weight", ".gamma"));
  LOCI_ASSIGN_OR_RETURN(layer.output_beta, ReadNorm(at + "output.LayerNorm", ".bias", ".beta"));
  return layer;
}

}  // namespace loci
