#include "index/current_file.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/checksum.h"
#include "base/error.h"
#include "base/status_macros.h"
#include "index/manifest.h"

namespace loci {
namespace {

constexpr int kFormatVersion = 1;

}  // namespace

std::string SerializeCurrent(const storage::Current& current) { return Sealed(current.SerializeAsString()); }

absl::StatusOr<storage::Current> ParseCurrent(std::string_view content) {
  const absl::StatusOr<std::string_view> body = Unsealed(content);
  if (!body.ok()) return Annotate(body.status(), "CURRENT");
  storage::Current current;
  if (!current.ParseFromArray(body->data(), static_cast<int>(body->size()))) return absl::DataLossError("CURRENT can't be parsed");
  if (current.format_version() > kFormatVersion) {
    return absl::FailedPreconditionError(
        absl::StrCat("CURRENT has format ", current.format_version(), ", this server reads up to ", kFormatVersion));
  }
  if (current.format_version() < 1 || current.floor_revision() < 0 || current.revision() < current.floor_revision() ||
      current.revision() > kMaxRevision ||
      current.generation().find('/') != std::string::npos || current.generation() == "." || current.generation() == "..") {
    return absl::DataLossError("CURRENT has impossible values");
  }
  for (const std::string& served : current.history()) {
    if (served.empty() || served.find('/') != std::string::npos || served == "." || served == "..") {
      return absl::DataLossError("CURRENT has an impossible history");
    }
  }
  for (const int64_t floor : current.history_floor()) {
    if (floor < 0 || floor > current.revision()) return absl::DataLossError("CURRENT has an impossible history");
  }
  return current;
}

CurrentFile::CurrentFile(FileSystem& fs, const std::string& store_directory)
    : fs_(fs), directory_(store_directory), path_(JoinPath(store_directory, kCurrentFile)) {
  value_.set_format_version(kFormatVersion);
}

absl::Status CurrentFile::Load() {
  absl::StatusOr<std::string> content = fs_.ReadFile(path_);
  if (absl::IsNotFound(content.status())) return absl::OkStatus();
  LOCI_RETURN_IF_ERROR(content.status());
  absl::StatusOr<storage::Current> parsed = ParseCurrent(*content);
  if (parsed.ok()) {
    value_ = *std::move(parsed);
  } else {
    damage_ = Annotate(parsed.status(), path_);
    if (!absl::IsDataLoss(damage_)) return damage_;
  }
  content_ = *std::move(content);
  exists_ = true;
  return absl::OkStatus();
}

absl::Status CurrentFile::Replace(const storage::Current& next) {
  LOCI_RETURN_IF_ERROR(Settle());
  storage::Current content = next;
  content.set_format_version(kFormatVersion);
  std::string serialized = SerializeCurrent(content);
  if (absl::Status status = WriteFileAtomically(fs_, path_, serialized); !status.ok()) {
    uncertain_ = true;
    (void)Settle();
    return status;
  }
  value_ = std::move(content);
  content_ = std::move(serialized);
  damage_ = absl::OkStatus();
  exists_ = true;
  return absl::OkStatus();
}

absl::Status CurrentFile::Settle() {
  if (!uncertain_) return absl::OkStatus();
  // Mostly the replacement failed before the rename, and the old file is in its place; a full disk does not keep us from seeing that.
  const absl::StatusOr<std::string> content = fs_.ReadFile(path_);
  if (exists_ ? content.ok() && *content == content_ : absl::IsNotFound(content.status())) {
    LOCI_RETURN_IF_ERROR(fs_.SyncDirectory(directory_));
  } else if (exists_) {
    LOCI_RETURN_IF_ERROR(WriteFileAtomically(fs_, path_, content_));
  } else {
    LOCI_RETURN_IF_ERROR(fs_.DeleteFile(path_));
    LOCI_RETURN_IF_ERROR(fs_.SyncDirectory(directory_));
  }
  uncertain_ = false;
  return absl::OkStatus();
}

}  // namespace loci
