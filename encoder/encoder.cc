#include "encoder/encoder.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/checksum.h"
#include "base/status_macros.h"
#include "base/strings.h"
#include "encoder/bert.h"
#include "encoder/cpu_encoder.h"
#include "encoder/fingerprint.h"
#include "encoder/model_config.h"
#include "encoder/safetensors.h"
#include "encoder/towers.h"

namespace loci {
namespace {

// At most one row of word embeddings in so many has no piece.
constexpr int kUnusedRowShare = 8;

std::string FolderName(const std::string& path) {
  const size_t end = path.find_last_not_of('/');
  if (end == std::string::npos) return path;
  const size_t slash = path.rfind('/', end);
  const size_t begin = slash == std::string::npos ? 0 : slash + 1;
  return path.substr(begin, end + 1 - begin);
}

// Weights that are finite can be so large that no vector is, or all zero, so that every text has the same one.
absl::Status CheckVectorOfText(const Encoder& encoder, const std::string& weights_path) {
  PackedBatch batch;
  batch.token_ids = {encoder.tokenizer().cls_id()};
  encoder.tokenizer().Tokenize("A text.", &batch.token_ids);
  batch.token_ids.push_back(encoder.tokenizer().sep_id());
  batch.token_ids.resize(std::min(batch.token_ids.size(), static_cast<size_t>(encoder.spec().max_length)));
  batch.offsets.push_back(static_cast<int32_t>(batch.token_ids.size()));
  std::vector<float> vector(static_cast<size_t>(encoder.spec().dim));
  LOCI_RETURN_IF_ERROR(encoder.Encode(batch, vector.data()));
  if (!std::all_of(vector.begin(), vector.end(), [](float value) { return std::isfinite(value); })) {
    return absl::InvalidArgumentError(absl::StrCat(weights_path, ": the vector of a text has a value that is not finite; the weights are too large"));
  }
  if (std::all_of(vector.begin(), vector.end(), [](float value) { return value == 0; })) {
    return absl::InvalidArgumentError(absl::StrCat(weights_path, ": the vector of a text is zero; these are no trained weights"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::shared_ptr<const Encoder>> LoadEncoder(FileSystem& fs, const std::string& model_directory,
                                                           const EncoderOptions& options) {
  return LoadTower(fs, model_directory, kWeightsFile, /*served_passage_half=*/"", options);
}

absl::StatusOr<EncoderTowers> LoadEncoderTowers(FileSystem& fs, const std::string& model_directory, const EncoderOptions& options,
                                                std::shared_ptr<const Encoder> passage) {
  EncoderTowers towers{.passage = std::move(passage), .query = nullptr, .model_name = options.model_name};
  if (towers.passage == nullptr) {
    LOCI_ASSIGN_OR_RETURN(towers.passage, LoadEncoder(fs, model_directory, options));
  }
  if (fs.Exists(JoinPath(model_directory, kQueryWeightsFile))) {
    LOCI_ASSIGN_OR_RETURN(towers.query, LoadTower(fs, model_directory, kQueryWeightsFile, towers.passage->spec().fingerprint.passage, options));
  }
  return towers;
}

absl::StatusOr<std::shared_ptr<const Encoder>> LoadTower(FileSystem& fs, const std::string& model_directory, const std::string& weights_file,
                                                         std::string_view served_passage_half, const EncoderOptions& options) {
  LOCI_ASSIGN_OR_RETURN(const ModelConfig config, LoadModelConfig(fs, model_directory));
  const std::string weights_path = JoinPath(model_directory, weights_file);
  LOCI_ASSIGN_OR_RETURN(const std::unique_ptr<Safetensors> weights, Safetensors::Open(fs, weights_path));
  LOCI_ASSIGN_OR_RETURN(std::unique_ptr<Tokenizer> tokenizer, Tokenizer::Load(fs, model_directory));
  if (tokenizer->vocabulary_size() > config.vocabulary_size) {
    return absl::InvalidArgumentError(absl::StrCat(model_directory, ": the tokenizer's vocabulary has ",
                                                   tokenizer->vocabulary_size(), " pieces, but the weights have only ",
                                                   config.vocabulary_size, " rows of word embeddings"));
  }

  // Checkpoints pad their tables for alignment; a vocabulary far too small is another model's, or was cut off.
  if (config.vocabulary_size - tokenizer->vocabulary_size() > config.vocabulary_size / kUnusedRowShare) {
    return absl::InvalidArgumentError(absl::StrCat(model_directory, ": the tokenizer's vocabulary has only ", tokenizer->vocabulary_size(),
                                                   " pieces, but the weights have ", config.vocabulary_size, " rows of word embeddings"));
  }

  VectorSpace space;
  space.weights_sha256 = Sha256::Hex(weights->content());
  space.architecture =
      absl::StrCat("bert gelu heads=", config.head_count, " epsilon=", config.layer_norm_epsilon, " layers=", config.layer_count);
  space.tokenizer_digest = tokenizer->digest();
  space.pooling = config.pooling;
  space.normalize = config.normalize;
  space.query_prefix = config.query_prefix;
  space.passage_prefix = config.passage_prefix;
  space.max_length = config.max_length;
  space.dim = config.hidden_size;

  EncoderSpec spec;
  spec.model_name = options.model_name.empty() ? FolderName(model_directory) : options.model_name;
  spec.dim = config.hidden_size;
  spec.layer_count = config.layer_count;
  spec.head_count = config.head_count;
  spec.intermediate_size = config.intermediate_size;
  spec.max_length = config.max_length;
  spec.pooling = config.pooling;
  spec.normalize = config.normalize;
  spec.query_prefix = config.query_prefix;
  spec.passage_prefix = config.passage_prefix;
  spec.fingerprint = ComputeFingerprint(space, served_passage_half);
  if (!served_passage_half.empty()) spec.fingerprint.passage = served_passage_half;
  LOCI_ASSIGN_OR_RETURN(std::shared_ptr<const Encoder> encoder, CpuEncoder::Create(BertReader(*weights, config), config, std::move(spec),
                                                                              std::move(tokenizer), options));
  LOCI_RETURN_IF_ERROR(weights->Check());
  LOCI_RETURN_IF_ERROR(CheckVectorOfText(*encoder, weights_path));
  return encoder;
}

std::string PassageText(std::string_view title, std::string_view text) {
  if (title.empty()) return std::string(text);
  return absl::StrCat(AbslView(title), " ", AbslView(text));
}

}  // namespace loci
