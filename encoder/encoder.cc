#include "encoder/encoder.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/checksum.h"
#include "base/status_macros.h"
#include "base/strings.h"
#include "encoder/bert.h"
#include "encoder/cpu_encoder.h"
#include "encoder/cuda/cuda_encoder.h"
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

// Below it a device's vectors are not the CPU's with other rounding. bfloat16 gives 0.9995 and more.
constexpr double kLeastCosineOfDevices = 0.995;

// A device whose driver, library or kernels are at fault computes something else without an error: it is held to the CPU, and to itself, before it
// serves.
absl::Status CheckAgainstCpu(const Encoder& device, const Encoder& cpu) {
  PackedBatch batch;
  const EncoderSpec& spec = device.spec();
  // Around the sizes at which the kernels go another way.
  for (const int length : {1, 2, 7, 16, 17, 33, 64, 65, 129, spec.max_length}) {
    for (int i = 0; i < std::min(length, spec.max_length); ++i) {
      batch.token_ids.push_back(i == 0 ? device.tokenizer().cls_id() : (1 + 7919 * (i + 31 * length)) % device.tokenizer().vocabulary_size());
    }
    batch.offsets.push_back(static_cast<int32_t>(batch.token_ids.size()));
  }
  const size_t dim = static_cast<size_t>(spec.dim), count = static_cast<size_t>(batch.sequence_count());
  std::vector<float> actual(count * dim), expected(count * dim);
  LOCI_RETURN_IF_ERROR(device.Encode(batch, actual.data()));
  LOCI_RETURN_IF_ERROR(cpu.Encode(batch, expected.data()));
  for (size_t s = 0; s < count; ++s) {
    double dot = 0, squares = 0, expected_squares = 0;
    for (size_t i = s * dim; i < (s + 1) * dim; ++i) {
      dot += static_cast<double>(actual[i]) * expected[i];
      squares += static_cast<double>(actual[i]) * actual[i];
      expected_squares += static_cast<double>(expected[i]) * expected[i];
    }
    const double cosine = dot / std::sqrt(squares * expected_squares);
    // Written so that what is not a number fails.
    if (!(cosine >= kLeastCosineOfDevices)) {
      return absl::FailedPreconditionError(absl::StrCat("on ", spec.device, " in ", spec.element_type, " a text of ", batch.offsets[s + 1] - batch.offsets[s],
                                                        " tokens has a vector whose cosine to the CPU's is ", cosine, ", the least is ", kLeastCosineOfDevices));
    }
  }
  // Alone they go other ways, by graphs and products of fewer rows, to the same bits.
  std::vector<float> alone(dim);
  for (size_t s = 0; s < count; ++s) {
    const auto tokens = batch.token_ids.begin();
    const PackedBatch one = {.token_ids = {tokens + batch.offsets[s], tokens + batch.offsets[s + 1]}, .offsets = {0, batch.offsets[s + 1] - batch.offsets[s]}};
    LOCI_RETURN_IF_ERROR(device.Encode(one, alone.data()));
    if (std::memcmp(alone.data(), actual.data() + s * dim, dim * sizeof(float)) != 0) {
      return absl::FailedPreconditionError(absl::StrCat("on ", spec.device, " in ", spec.element_type, " a text of ", one.token_count(),
                                                        " tokens has another vector alone than in a batch"));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<ElementType> CudaElementType(Precision precision) {
  switch (precision) {
    case Precision::kAuto:
    case Precision::kBfloat16:
      return ElementType::kBfloat16;
    case Precision::kFloat16:
      return ElementType::kFloat16;
    case Precision::kFloat32:
      return ElementType::kFloat32;
    case Precision::kInt8:
      break;
  }
  return absl::FailedPreconditionError(absl::StrCat(AbslView(PrecisionName(precision)), " was asked for, but CUDA devices have no encoder in it"));
}

}  // namespace

absl::StatusOr<std::shared_ptr<const Encoder>> LoadEncoder(FileSystem& fs, const std::string& model_directory,
                                                           const EncoderOptions& options) {
  return LoadTower(fs, model_directory, kWeightsFile, /*served_passage_half=*/"", options);
}

absl::StatusOr<EncoderTowers> LoadEncoderTowers(FileSystem& fs, const std::string& model_directory, const EncoderOptions& options,
                                                std::shared_ptr<const Encoder> passage) {
  EncoderTowers towers{.passage = std::move(passage), .query = nullptr, .model_name = options.model_name, .element_type_reason = ""};
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
  const BertReader reader(*weights, config);
  std::shared_ptr<const Encoder> on_device;
  EncoderOptions cpu_options = options;
  if (options.cuda != nullptr) {
    LOCI_ASSIGN_OR_RETURN(std::unique_ptr<Tokenizer> own_tokenizer, Tokenizer::Load(fs, model_directory));
    CudaEncoderOptions cuda_options;
    cuda_options.backend = options.cuda;
    LOCI_ASSIGN_OR_RETURN(cuda_options.type, CudaElementType(options.precision));
    EncoderSpec device_spec = spec;
    const absl::string_view type = AbslView(ElementTypeName(cuda_options.type));
    device_spec.element_type_reason = options.precision == Precision::kAuto
                                          ? absl::StrCat("auto takes ", type, ": the encoder runs on a CUDA device")
                                          : absl::StrCat(type, " was asked for");
    LOCI_ASSIGN_OR_RETURN(on_device, CudaEncoder::Create(reader, config, std::move(device_spec), std::move(own_tokenizer),
                                                         std::move(cuda_options)));
    cpu_options.precision = Precision::kFloat32;  // What the device is compared with.
  }
  LOCI_ASSIGN_OR_RETURN(std::shared_ptr<const Encoder> encoder,
                        CpuEncoder::Create(reader, config, std::move(spec), std::move(tokenizer), cpu_options));
  LOCI_RETURN_IF_ERROR(weights->Check());
  LOCI_RETURN_IF_ERROR(CheckVectorOfText(*encoder, weights_path));
  if (on_device == nullptr) return encoder;
  LOCI_RETURN_IF_ERROR(CheckAgainstCpu(*on_device, *encoder));
  return on_device;
}

std::string PassageText(std::string_view title, std::string_view text) {
  if (title.empty()) return std::string(text);
  return absl::StrCat(AbslView(title), " ", AbslView(text));
}

}  // namespace loci
