// The files of one encoder of the registry, and whether they are what was put there. See encoder_registry.h.
#ifndef LOCI_RETRIEVER_ENCODER_FILES_H_
#define LOCI_RETRIEVER_ENCODER_FILES_H_

#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/file.h"
#include "encoder/types.h"
#include "proto/loci/storage/storage.pb.h"

namespace loci {

inline constexpr char kLineageFile[] = "LINEAGE";
inline constexpr int kLineageFormat = 2;  // 2: of two towers; what has one is written as 1, which older servers read.

// "QUERY-PASSAGE", the folder's name; and back: nothing for another name.
std::string EncoderFolder(const Fingerprint& fingerprint);
std::optional<Fingerprint> FingerprintOfFolder(const std::string& name);

// DATA_LOSS, reason ENCODER_DAMAGED; says how the files come back. `encoder`: its fingerprint or folder.
absl::Status DamagedEncoder(std::string_view encoder, std::string_view what);

// `directory`: the encoder's folder. NOT_FOUND; DATA_LOSS, reason ENCODER_DAMAGED; FAILED_PRECONDITION for that of a newer server.
absl::StatusOr<storage::EncoderLineage> ReadLineage(FileSystem& fs, const std::string& directory);
// Reads one file in pieces, appends them to `copy` (may be null), and describes it. Errors as FileSystem::Map.
absl::StatusOr<storage::FileEntry> ReadFileEntry(FileSystem& fs, const std::string& directory, const std::string& name, WritableFile* copy);
// Reads every byte of a folder. DATA_LOSS, reason ENCODER_DAMAGED, where its files are not those that its LINEAGE tells.
absl::Status CheckEncoderFiles(FileSystem& fs, const std::string& directory);

}  // namespace loci

#endif  // LOCI_RETRIEVER_ENCODER_FILES_H_
