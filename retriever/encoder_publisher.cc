#include "retriever/encoder_publisher.h"

#include <algorithm>
#include <set>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "base/status_macros.h"
#include "base/strings.h"
#include "base/utf8.h"
#include "encoder/safetensors.h"
#include "encoder/towers.h"
#include "index/build_forecast.h"
#include "retriever/encoder_files.h"

namespace loci {
namespace {

constexpr size_t kShownDigits = 8;       // Of a fingerprint, in a model's name.
constexpr size_t kMaxBaseNameBytes = 48;
constexpr size_t kMaxShownBytes = 80;

// The parent's model name, without what a publication put behind it, as EncoderImporter takes names.
std::string BaseName(const EncoderSpec& parent) {
  std::string name = parent.model_name;
  if (const std::string suffix = absl::StrCat("-", parent.fingerprint.query.substr(0, kShownDigits)); name.ends_with(suffix)) {
    name.resize(name.size() - suffix.size());
  }
  name.resize(std::min(name.size(), kMaxBaseNameBytes));
  for (char& c : name) {
    if (!absl::ascii_isalnum(static_cast<unsigned char>(c)) && c != '.' && c != '_' && c != '-') c = '-';
  }
  if (name.empty() || name[0] == '.') name.insert(0, "model");
  return name;
}

// One tensor has several names: with and without the prefix of checkpoints with a head, and a norm's of older ones.
std::string PlainName(std::string_view tensor) {
  constexpr std::string_view kPrefix = "bert.", kGamma = "LayerNorm.gamma", kBeta = "LayerNorm.beta";
  std::string name(tensor.starts_with(kPrefix) ? tensor.substr(kPrefix.size()) : tensor);
  if (name.ends_with(kGamma)) name.replace(name.size() - 5, 5, "weight");
  if (name.ends_with(kBeta)) name.replace(name.size() - 4, 4, "bias");
  return name;
}

// What transformers writes of any such model and no encoder reads.
bool IsNeverRead(std::string_view plain_name) {
  return plain_name == "embeddings.position_ids" || plain_name == "pooler.dense.weight" || plain_name == "pooler.dense.bias";
}

absl::Status Mismatch(const std::string& field, const std::string& problem) {
  return ErrorWithReason(absl::InvalidArgumentError(absl::StrCat("the weights ", problem)), "WEIGHTS_MISMATCH", {{"field", field}});
}

absl::Status InvalidWeights(const absl::Status& status, const std::string& directory) {
  std::string what(StdView(status.message()));
  for (const std::string& path : {directory + "/", std::string(kQueryWeightsFile) + ": ", std::string(kWeightsFile) + ": "}) {
    for (size_t at; (at = what.find(path)) != std::string::npos;) what.erase(at, path.size());
  }
  return ErrorWithReason(absl::InvalidArgumentError(absl::StrCat("weights are none of this encoder: ", what)), "ENCODER_INVALID", {{"field", "weights"}});
}

}  // namespace

EncoderPublisher::EncoderPublisher(EncoderRegistry& registry, FileSystem& fs, EncoderPublication publication, std::unique_ptr<EncoderImporter> importer,
                                   std::function<int64_t(const std::string& path)> available_disk_bytes)
    : registry_(registry),
      fs_(fs),
      publication_(std::move(publication)),
      importer_(std::move(importer)),
      available_disk_bytes_(std::move(available_disk_bytes)),
      file_(publication_.halves == EncoderHalves::kQuery ? kQueryWeightsFile : kWeightsFile) {}

absl::StatusOr<std::unique_ptr<EncoderPublisher>> EncoderPublisher::Start(EncoderRegistry& registry, FileSystem& fs, EncoderPublication publication,
                                                                          std::function<int64_t(const std::string& path)> available_disk_bytes) {
  LOCI_ASSIGN_OR_RETURN(std::unique_ptr<EncoderImporter> importer,
                        EncoderImporter::Start(registry, fs, BaseName(publication.parent->spec()), available_disk_bytes));
  // A tower of passages is shared with the parent, one of queries can't be: it says in its fingerprint which passages it is for. Two are loaded then.
  const int64_t loaded_towers = publication.halves == EncoderHalves::kPassage ? 2 : 1;
  LOCI_RETURN_IF_ERROR(importer->CheckRoom(loaded_towers * publication.size_bytes));
  return std::unique_ptr<EncoderPublisher>(
      new EncoderPublisher(registry, fs, std::move(publication), std::move(importer), std::move(available_disk_bytes)));
}

absl::Status EncoderPublisher::Add(std::string_view data) {
  if (data.empty()) return absl::OkStatus();
  if (received_bytes() + static_cast<int64_t>(data.size()) > publication_.size_bytes) {
    return Mismatch("header.size_bytes", absl::StrCat("have more than the ", publication_.size_bytes, " bytes of header.size_bytes"));
  }
  sha256_.Update(data);
  return importer_->Add(file_, data);
}

absl::Status EncoderPublisher::CheckSum() {
  if (received_bytes() != publication_.size_bytes) {
    return Mismatch("header.size_bytes", absl::StrCat("ended after ", received_bytes(), " bytes; header.size_bytes is ", publication_.size_bytes));
  }
  if (const std::string sum = sha256_.HexDigest(); sum != publication_.sha256) {
    return Mismatch("header.sha256", absl::StrCat("have the SHA-256 ", sum, "; header.sha256 is ", publication_.sha256));
  }
  return absl::OkStatus();
}

absl::Status EncoderPublisher::CheckTensors() const {
  const std::string directory = registry_.Directory(publication_.parent->spec().fingerprint);
  const std::string folder = EncoderFolder(publication_.parent->spec().fingerprint);
  const absl::StatusOr<std::unique_ptr<Safetensors>> parent = Safetensors::Open(fs_, JoinPath(directory, kWeightsFile));
  if (absl::IsResourceExhausted(parent.status())) return parent.status();
  // It could be read when it was put there.
  if (!parent.ok()) return DamagedEncoder(folder, absl::StrCat("its ", kWeightsFile, absl::IsNotFound(parent.status()) ? " is gone" : " can't be read"));
  std::set<std::string> known;
  for (const auto& [name, info] : (*parent)->tensors()) known.insert(PlainName(name));
  const absl::StatusOr<std::unique_ptr<Safetensors>> weights = Safetensors::Open(fs_, JoinPath(importer_->directory(), file_));
  const std::string& staging = importer_->directory();
  if (absl::IsInvalidArgument(weights.status())) return InvalidWeights(weights.status(), staging);
  LOCI_RETURN_IF_ERROR(weights.status());
  std::map<std::string, std::string> came;  // By its plain name.
  for (const auto& [name, info] : (*weights)->tensors()) {
    const std::string shown = name.substr(0, Utf8Prefix(name, kMaxShownBytes)), plain = PlainName(name);
    if (!known.contains(plain) && !IsNeverRead(plain)) {
      LOCI_RETURN_IF_ERROR(CheckEncoderFiles(fs_, directory));  // Nobody is refused for a name that has rotted.
      return InvalidWeights(absl::InvalidArgumentError(absl::StrCat("tensor \"", shown, "\" is none of its parent's")), staging);
    }
    if (const auto [other, is_new] = came.emplace(plain, shown); !is_new) {
      return InvalidWeights(absl::InvalidArgumentError(absl::StrCat("tensors \"", other->second, "\" and \"", shown, "\" are one")), staging);
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<ImportedEncoder> EncoderPublisher::Finish() {
  LOCI_RETURN_IF_ERROR(CheckSum());
  LOCI_RETURN_IF_ERROR(importer_->CloseFile());
  LOCI_RETURN_IF_ERROR(CheckTensors());
  const TextEncoder& parent = *publication_.parent;
  const bool is_query = publication_.halves == EncoderHalves::kQuery;
  const TextRole kept = is_query ? TextRole::kPassage : TextRole::kQuery;
  std::string kept_file;
  if (publication_.halves != EncoderHalves::kBoth) kept_file = is_query ? kWeightsFile : kQueryWeightsFile;
  LOCI_RETURN_IF_ERROR(CheckDisk("an encoder", publication_.size_bytes + 2 * EncoderImporter::kRoomBytes, available_disk_bytes_(importer_->directory())));
  LOCI_ASSIGN_OR_RETURN(const std::string kept_sha256, registry_.CopyFiles(parent.spec().fingerprint, importer_->directory(), kept, kept_file));
  EncoderOrigin origin{.parent_fingerprint = parent.spec().fingerprint.ToString(),
                       .job = publication_.job,
                       .metrics = publication_.metrics,
                       .passage_tower = nullptr};
  if (is_query) origin.passage_tower = parent.passage_tower();
  if (kept_sha256 == publication_.sha256) {
    LOCI_RETURN_IF_ERROR(fs_.DeleteFile(JoinPath(importer_->directory(), kQueryWeightsFile)));
  }
  absl::StatusOr<ImportedEncoder> published = importer_->Finish(origin);
  const std::optional<ErrorReason> reason = GetErrorReason(published.status());
  if (reason.has_value() && reason->reason == "ENCODER_INVALID") return InvalidWeights(published.status(), importer_->directory());
  return published;
}

}  // namespace loci
