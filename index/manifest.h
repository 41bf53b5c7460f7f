// stores/<store>/<generation>/MANIFEST: what a generation is made of, with the checksum of each of its files.
//
// Content: a serialised storage.Manifest followed by its XXH3 as 16 lower-case hex digits.
#ifndef LOCI_INDEX_MANIFEST_H_
#define LOCI_INDEX_MANIFEST_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "base/file.h"
#include "base/vector_precision.h"
#include "base/vector_type.h"
#include "proto/loci/storage/storage.pb.h"

namespace loci {

// 2: columns.bin may be listed. 3: vectors.int8 may be; only a manifest that lists it says 3, so that the versions before read the others.
inline constexpr int kManifestFormatVersion = 3;
inline constexpr int kManifestFormatWithoutCodes = 2;
// Revisions in files are in [0, kMaxRevision], so that counting on from them does not overflow.
inline constexpr int64_t kMaxRevision = int64_t{1} << 62;
inline constexpr char kManifestFile[] = "MANIFEST";
inline constexpr char kVectorsFile[] = "vectors.bin";
inline constexpr char kIndexFile[] = "index.faiss";
inline constexpr char kColumnsFile[] = "columns.bin";
inline constexpr char kCodesFile[] = "vectors.int8";
inline constexpr char kPassagesDirectory[] = "passages";

// Reads and checks a manifest: DATA_LOSS where its checksum or its fields are wrong (paths with "..", negative counts, ...),
// FAILED_PRECONDITION for a newer format. Parses hostile bytes safely: what is returned can be trusted not to name a file outside
// the generation's folder, nor sizes that overflow; that the files are there and fit is not checked here.
absl::StatusOr<storage::Manifest> ParseManifest(std::string_view content);
std::string SerializeManifest(const storage::Manifest& manifest);

// FAILED_PRECONDITION where the manifest is missing: an unfinished build. DATA_LOSS also where it names another generation than its
// folder does, or, unless `store` is empty, another store than that.
absl::StatusOr<storage::Manifest> ReadManifest(FileSystem& fs, const std::string& generation_directory, std::string_view store = "");

// VectorType and ElementType have the same values; int8 and float64 are not stored.
inline ElementType StoredType(const storage::Manifest& manifest) { return static_cast<ElementType>(manifest.vector_type()); }

// What its vectors were computed in: {kUnknown} for those of an older server.
inline PrecisionSet PrecisionsOf(const storage::Manifest& manifest) {
  if (manifest.encoder_precisions().empty() && manifest.vector_count() > 0) return VectorPrecision::kUnknown;
  return PrecisionSet::Parse(manifest.encoder_precisions());
}

// Of all files that it lists.
inline int64_t FileBytes(const storage::Manifest& manifest) {
  int64_t bytes = 0;
  for (const storage::FileEntry& file : manifest.files()) bytes += file.size_bytes();
  return bytes;
}

// Whether it lists 8-bit codes.
inline bool HasCodes(const storage::Manifest& manifest) {
  for (const storage::FileEntry& file : manifest.files()) {
    if (file.path() == kCodesFile) return true;
  }
  return false;
}

// What the index was asked for with, for builds that are to have one of the same sort.
inline const std::string& AskedIndex(const storage::Manifest& manifest) {
  return manifest.index_specification().empty() ? manifest.index() : manifest.index_specification();
}

}  // namespace loci

#endif  // LOCI_INDEX_MANIFEST_H_
