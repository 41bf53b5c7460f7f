#include "retriever/encoder_importer.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "base/field_error.h"
#include "base/logging.h"
#include "base/memory_info.h"
#include "base/status_macros.h"
#include "base/strings.h"
#include "base/utf8.h"
#include "encoder/towers.h"
#include "index/build_forecast.h"

namespace loci {
namespace {

constexpr size_t kMaxNameBytes = 64;
// Weights are kept as they are and packed for the kernels.
constexpr int64_t kMemoryPerWeightByte = 2;

int64_t LimitOf(std::string_view path) {
  if (path == kWeightsFile || path == kQueryWeightsFile) return EncoderImporter::kMaxWeightBytes;
  return path == "tokenizer.json" || path == "vocab.txt" ? EncoderImporter::kMaxTokenizerBytes : EncoderImporter::kMaxConfigBytes;
}

}  // namespace

absl::StatusOr<std::unique_ptr<EncoderImporter>> EncoderImporter::Start(EncoderRegistry& registry, FileSystem& fs, std::string_view name,
                                                                        std::function<int64_t(const std::string& path)> available_disk_bytes) {
  const auto is_allowed = [](char c) { return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '.' || c == '_' || c == '-'; };
  if (name.empty() || name.size() > kMaxNameBytes || name[0] == '.' || !std::all_of(name.begin(), name.end(), is_allowed)) {
    return InvalidField("header.name", absl::StrCat("is \"", AbslView(name.substr(0, Utf8Prefix(name, 80))), "\"; it must be 1 to ", kMaxNameBytes,
                                                    " of [A-Za-z0-9._-] and not begin with a dot"));
  }
  LOCI_ASSIGN_OR_RETURN(std::string directory, registry.MakeStagingDirectory());
  return std::unique_ptr<EncoderImporter>(new EncoderImporter(registry, fs, std::string(name), std::move(directory), std::move(available_disk_bytes)));
}

EncoderImporter::~EncoderImporter() {
  file_.reset();
  if (const absl::Status deleted = fs_.DeleteRecursively(directory_); !deleted.ok()) {
    LogWarning("encoder_importer", absl::StrCat(directory_, " stays until the next start: ", deleted.message()));
  }
}

absl::Status EncoderImporter::Add(std::string_view path, std::string_view data) {
  if (file_ == nullptr || path != path_) {
    if (!IsCheckpointFile(path)) {
      return InvalidField("piece.path", absl::StrCat("is \"", AbslView(path.substr(0, Utf8Prefix(path, 80))), "\", which is no file that an encoder is read from"));
    }
    if (!came_.insert(std::string(path)).second) return InvalidField("piece.path", absl::StrCat("is ", AbslView(path), ", which came before"));
    LOCI_RETURN_IF_ERROR(CloseFile());
    path_ = std::string(path);
    file_bytes_ = 0;
    LOCI_ASSIGN_OR_RETURN(file_, fs_.NewWritableFile(JoinPath(directory_, path_)));
  }
  const int64_t limit = LimitOf(path_);
  file_bytes_ += static_cast<int64_t>(data.size());
  received_bytes_ += static_cast<int64_t>(data.size());
  if (file_bytes_ > limit) {
    return ErrorWithReason(absl::ResourceExhaustedError(absl::StrCat(path_, " has ", file_bytes_, " bytes or more, the limit is ", limit)),
                           "ENCODER_TOO_LARGE", {{"path", path_}, {"limit_bytes", absl::StrCat(limit)}});
  }
  if (path_ == kWeightsFile || path_ == kQueryWeightsFile) weight_bytes_ += static_cast<int64_t>(data.size());
  LOCI_RETURN_IF_ERROR(CheckMemory(weight_bytes_));
  if (received_bytes_ > next_look_bytes_) {
    next_look_bytes_ = received_bytes_ + kRoomBytes;
    LOCI_RETURN_IF_ERROR(CheckDisk("an encoder", static_cast<int64_t>(data.size()) + 2 * kRoomBytes, available_disk_bytes_(directory_)));
  }
  return file_->Append(data);
}

absl::Status EncoderImporter::CheckMemory(int64_t weight_bytes) const {
  const int64_t available = AvailableMemoryBytes(fs_), needed = kMemoryPerWeightByte * weight_bytes;
  if (available < 0 || needed <= available) return absl::OkStatus();
  return ErrorWithReason(absl::ResourceExhaustedError(absl::StrCat("the encoder needs ", needed, " bytes of memory or more, ", available, " are available")),
                         "MEMORY", {{"needed_bytes", absl::StrCat(needed)}, {"available_bytes", absl::StrCat(available)}});
}

absl::Status EncoderImporter::CheckRoom(int64_t weight_bytes) const {
  LOCI_RETURN_IF_ERROR(CheckMemory(weight_bytes));
  return CheckDisk("an encoder", weight_bytes + 2 * kRoomBytes, available_disk_bytes_(directory_));
}

absl::Status EncoderImporter::CloseFile() {
  if (file_ == nullptr) return absl::OkStatus();
  LOCI_RETURN_IF_ERROR(file_->Sync());
  LOCI_RETURN_IF_ERROR(file_->Close());
  file_.reset();
  return absl::OkStatus();
}

absl::StatusOr<ImportedEncoder> EncoderImporter::Finish(const EncoderOrigin& origin) {
  LOCI_RETURN_IF_ERROR(CloseFile());
  absl::StatusOr<ImportedEncoder> imported = registry_.Adopt(directory_, name_, origin);
  if (!absl::IsNotFound(imported.status()) && !absl::IsInvalidArgument(imported.status())) return imported;
  // Which file is missing, or wrong, without where it lies here.
  std::string what(StdView(imported.status().message()));
  for (size_t at; (at = what.find(directory_ + "/")) != std::string::npos;) what.erase(at, directory_.size() + 1);
  return ErrorWithReason(absl::InvalidArgumentError(absl::StrCat("these files are no encoder: ", what)), "ENCODER_INVALID", {{"name", name_}});
}

}  // namespace loci
