#include "retriever/fidelity_file.h"

#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/checksum.h"
#include "base/error.h"
#include "base/status_macros.h"
#include "base/strings.h"

namespace loci {
namespace {

constexpr int kFormatVersion = 1;

absl::Status Damaged(const std::string& path, std::string_view what) {
  return ErrorWithReason(absl::DataLossError(absl::StrCat(path, " is damaged: ", AbslView(what), "; measure again (loci quantize)")), "FILE_DAMAGED",
                         {{"file", path}});
}

}  // namespace

absl::StatusOr<std::optional<storage::EncoderFidelity>> ReadInt8Fidelity(FileSystem& fs, const std::string& store_directory) {
  const std::string path = JoinPath(store_directory, kInt8FidelityRecord);
  const absl::StatusOr<std::string> content = fs.ReadFile(path);
  if (absl::IsNotFound(content.status())) return std::nullopt;
  LOCI_RETURN_IF_ERROR(content.status());
  const absl::StatusOr<std::string_view> body = Unsealed(*content);
  if (!body.ok()) return Damaged(path, StdView(body.status().message()));
  storage::EncoderFidelity fidelity;
  if (!fidelity.ParseFromArray(body->data(), static_cast<int>(body->size())) || fidelity.format_version() < 1) return Damaged(path, "it can't be parsed");
  if (fidelity.format_version() > kFormatVersion) return absl::FailedPreconditionError(absl::StrCat(path, " is of a newer server"));
  return fidelity;
}

absl::Status WriteInt8Fidelity(FileSystem& fs, const std::string& store_directory, storage::EncoderFidelity fidelity) {
  fidelity.set_format_version(kFormatVersion);
  return WriteFileAtomically(fs, JoinPath(store_directory, kInt8FidelityRecord), Sealed(fidelity.SerializeAsString()));
}

}  // namespace loci
