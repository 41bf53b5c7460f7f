#include "retriever/encoder_files.h"

#include <memory>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/checksum.h"
#include "base/error.h"
#include "base/hex.h"
#include "base/status_macros.h"
#include "base/strings.h"
#include "google/protobuf/util/json_util.h"

namespace loci {

std::string EncoderFolder(const Fingerprint& fingerprint) { return absl::StrCat(fingerprint.query, "-", fingerprint.passage); }

std::optional<Fingerprint> FingerprintOfFolder(const std::string& name) {
  const std::vector<std::string> halves = absl::StrSplit(name, '-');
  if (halves.size() != 2) return std::nullopt;
  return Fingerprint{.query = halves[0], .passage = halves[1]};
}

absl::Status DamagedEncoder(std::string_view encoder, std::string_view what) {
  return ErrorWithReason(absl::DataLossError(absl::StrCat("encoder ", AbslView(encoder), " of this server is damaged: ", AbslView(what),
                                                          "; send its files again, as by loci reembed --model, or publish its weights again where a "
                                                          "training job made them")),
                         "ENCODER_DAMAGED", {{"encoder", std::string(encoder)}});
}

absl::StatusOr<storage::EncoderLineage> ReadLineage(FileSystem& fs, const std::string& directory) {
  LOCI_ASSIGN_OR_RETURN(std::string json, fs.ReadFile(JoinPath(directory, kLineageFile)));
  storage::EncoderLineage lineage;
  if (!google::protobuf::util::JsonStringToMessage(json, &lineage).ok()) {
    return DamagedEncoder(directory.substr(directory.rfind('/') + 1), absl::StrCat(JoinPath(directory, kLineageFile), " is not a lineage record"));
  }
  if (lineage.format_version() > kLineageFormat) {
    return absl::FailedPreconditionError(absl::StrCat(JoinPath(directory, kLineageFile), " has format ", lineage.format_version(),
                                                      "; this server reads up to ", kLineageFormat));
  }
  return lineage;
}

absl::StatusOr<storage::FileEntry> ReadFileEntry(FileSystem& fs, const std::string& directory, const std::string& name, WritableFile* copy) {
  constexpr size_t kPieceBytes = 1 << 20;
  LOCI_ASSIGN_OR_RETURN(const std::unique_ptr<MappedFile> source, fs.Map(JoinPath(directory, name)));
  Sha256 sha256;
  const std::string_view data = source->data();
  for (size_t offset = 0; offset < data.size(); offset += kPieceBytes) {
    const std::string_view piece = data.substr(offset, kPieceBytes);
    sha256.Update(piece);
    if (copy != nullptr) LOCI_RETURN_IF_ERROR(copy->Append(piece));
  }
  LOCI_RETURN_IF_ERROR(source->Check());
  storage::FileEntry entry;
  entry.set_path(name);
  entry.set_size_bytes(static_cast<int64_t>(data.size()));
  entry.set_sha256(sha256.HexDigest());
  return entry;
}

absl::Status CheckEncoderFiles(FileSystem& fs, const std::string& path) {
  const std::string name = path.substr(path.rfind('/') + 1);
  const absl::StatusOr<storage::EncoderLineage> lineage = ReadLineage(fs, path);
  if (absl::IsNotFound(lineage.status())) return DamagedEncoder(name, "its LINEAGE is gone");
  LOCI_RETURN_IF_ERROR(lineage.status());
  for (const storage::FileEntry& file : lineage->files()) {
    const absl::StatusOr<storage::FileEntry> there = ReadFileEntry(fs, path, file.path(), nullptr);
    if (absl::IsNotFound(there.status())) return DamagedEncoder(name, absl::StrCat("its ", file.path(), " is gone"));
    LOCI_RETURN_IF_ERROR(there.status());
    if (there->sha256() != file.sha256()) return DamagedEncoder(name, absl::StrCat("its ", file.path(), " is not what it was"));
  }
  return absl::OkStatus();
}

}  // namespace loci
