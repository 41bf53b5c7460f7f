#include "index/manifest.h"

#include <cmath>
#include <filesystem>
#include <set>

#include "absl/strings/str_cat.h"
#include "base/checksum.h"
#include "base/error.h"
#include "base/hex.h"
#include "base/status_macros.h"
#include "base/strings.h"
#include "index/file_sums.h"
#include "index/quantized_vectors.h"

namespace loci {
namespace {

constexpr int64_t kMaxRows = int64_t{1} << 40;
constexpr int64_t kMaxMemoryBytes = int64_t{1} << 50;
constexpr int64_t kVectorHeaderBytes = 64;
constexpr int kMaxPrecisions = 64;

absl::Status Damaged(std::string_view what) { return absl::DataLossError(absl::StrCat("MANIFEST: ", AbslView(what))); }

bool IsNameCharacter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '_' || c == '-';
}

// vectors.bin, vectors.int8, index.faiss, columns.bin or passages/<name>.
bool IsAllowedPath(std::string_view path) {
  if (path == kVectorsFile || path == kCodesFile || path == kIndexFile || path == kColumnsFile) return true;
  const std::string folder = std::string(kPassagesDirectory) + "/";
  if (path.substr(0, folder.size()) != folder) return false;
  path.remove_prefix(folder.size());
  if (path.empty() || path.size() > 128 || path.front() == '.') return false;
  for (const char c : path) {
    if (!IsNameCharacter(c)) return false;
  }
  return true;
}

// A name of a folder or of a fingerprint: at most `limit` characters, none that leaves a folder. Empty is allowed.
bool IsPlainName(std::string_view text, size_t limit) {
  if (text.size() > limit || (!text.empty() && text.front() == '.')) return false;
  for (const char c : text) {
    if (!IsNameCharacter(c)) return false;
  }
  return true;
}

absl::Status CheckFiles(const storage::Manifest& manifest) {
  std::set<std::string> paths;
  for (const storage::FileEntry& file : manifest.files()) {
    if (!IsAllowedPath(file.path())) return Damaged("a file has a path that does not belong in a generation");
    if (!paths.insert(file.path()).second) return Damaged(absl::StrCat(file.path(), " is listed twice"));
    if (file.size_bytes() < 0) return Damaged(absl::StrCat(file.path(), " has the size ", file.size_bytes()));
    if (!IsHex(file.sha256(), 64)) return Damaged(absl::StrCat(file.path(), " has no SHA-256"));
    if (file.block_bytes() != 0 || file.block_xxh3_size() != 0) {
      const int64_t block = file.block_bytes();
      if (block != 4 << 10 && block != 64 << 10 && block != 1 << 20) return Damaged(absl::StrCat(file.path(), " has blocks of ", block, " bytes"));
      if (file.block_xxh3_size() != file.size_bytes() / block + (file.size_bytes() % block != 0)) {
        return Damaged(absl::StrCat(file.path(), " has ", file.block_xxh3_size(), " sums of blocks for ", file.size_bytes(), " bytes"));
      }
    }
    if (file.path() == kVectorsFile) {
      const int64_t row_bytes = manifest.dim() * static_cast<int64_t>(ElementSize(StoredType(manifest)));
      const int64_t expected = kVectorHeaderBytes + manifest.vector_count() * row_bytes;
      if (file.size_bytes() != expected) {
        return Damaged(absl::StrCat(file.path(), " has ", file.size_bytes(), " bytes, its vectors need ", expected));
      }
    }
    if (file.path() == kCodesFile && file.size_bytes() != QuantizedVectorsBytes(manifest.vector_count(), manifest.dim())) {
      return Damaged(absl::StrCat(file.path(), " has ", file.size_bytes(), " bytes, its codes need ",
                                  QuantizedVectorsBytes(manifest.vector_count(), manifest.dim())));
    }
  }
  if (paths.count(kVectorsFile) == 0) return Damaged("vectors.bin is not listed");
  if (paths.count(std::string(kPassagesDirectory) + "/CURRENT") == 0) return Damaged("passages/CURRENT is not listed");
  const bool has_codes = paths.count(kCodesFile) == 1;
  if (has_codes != (manifest.format_version() > kManifestFormatWithoutCodes)) {
    return Damaged(absl::StrCat(kCodesFile, has_codes ? " is listed" : " is not listed", " in format version ", manifest.format_version()));
  }
  const bool has_index = paths.count(kIndexFile) == 1;
  if (has_index && manifest.index() == "exact") return Damaged("index.faiss is listed, but the index is exact");
  if (!has_index && manifest.index() != "exact") return Damaged("index.faiss is not listed");
  return absl::OkStatus();
}

absl::Status CheckPoints(const google::protobuf::RepeatedPtrField<v1::TuningPoint>& points) {
  constexpr int kMaxPoints = 10'000;
  const auto is_share = [](double value) { return value >= 0 && value <= 1; };
  if (points.size() > kMaxPoints) return Damaged(absl::StrCat(points.size(), " measured search parameters"));
  for (const v1::TuningPoint& point : points) {
    if (point.index().empty() || point.index().size() > 256 || !is_share(point.recall_at_10()) || !is_share(point.recall_bound()) ||
        !std::isfinite(point.latency_us()) || point.latency_us() < 0 || point.memory_bytes() < 0 || point.build_ms() < 0 || point.nprobe() < 0 ||
        point.ef_search() < 0 || point.rescore_factor() < 0) {
      return Damaged("a measured search parameter is out of its range");
    }
  }
  return absl::OkStatus();
}

absl::Status CheckFields(const storage::Manifest& manifest) {
  if (manifest.format_version() > kManifestFormatVersion) {
    return absl::FailedPreconditionError(absl::StrCat("MANIFEST: format version ", manifest.format_version(), " is newer than ",
                                                      kManifestFormatVersion, ", the newest this build reads"));
  }
  if (manifest.format_version() < 1) return Damaged(absl::StrCat("format version ", manifest.format_version()));
  if (manifest.generation().empty() || !IsPlainName(manifest.generation(), 128)) return Damaged("the generation's name");
  if (!IsPlainName(manifest.store(), 128)) return Damaged("the store's name");
  if (!IsPlainName(manifest.query_fingerprint(), 64)) return Damaged("the query fingerprint");
  if (!IsPlainName(manifest.passage_fingerprint(), 64)) return Damaged("the passage fingerprint");
  if (manifest.base_revision() < 0 || manifest.base_revision() > kMaxRevision) {
    return Damaged(absl::StrCat("base revision ", manifest.base_revision(), " is not in [0, ", kMaxRevision, "]"));
  }
  if (manifest.passage_count() < 0 || manifest.passage_count() > kMaxRows) {
    return Damaged(absl::StrCat("passage count ", manifest.passage_count()));
  }
  if (manifest.vector_count() < manifest.passage_count() || manifest.vector_count() > kMaxRows) {
    return Damaged(absl::StrCat("vector count ", manifest.vector_count(), " for ", manifest.passage_count(), " passages"));
  }
  if (manifest.dim() < 1 || manifest.dim() > kMaxDim) {
    return Damaged(absl::StrCat("dimension ", manifest.dim(), " is not in [1, ", kMaxDim, "]"));
  }
  if (manifest.vector_type() != v1::VECTOR_TYPE_FLOAT32 && manifest.vector_type() != v1::VECTOR_TYPE_FLOAT16 &&
      manifest.vector_type() != v1::VECTOR_TYPE_BFLOAT16) {
    return Damaged(absl::StrCat("vector type ", static_cast<int>(manifest.vector_type())));
  }
  if (manifest.metric() != "inner_product") return Damaged("the metric is not inner_product");
  if (manifest.index().empty() || manifest.index().size() > 256) return Damaged("the index's name");
  if (manifest.index_specification().size() > 256) return Damaged("the index's specification");
  if (manifest.ladder_size() > 0 && manifest.index() == "exact") return Damaged("search parameters are listed, but the index is exact");
  LOCI_RETURN_IF_ERROR(CheckPoints(manifest.ladder()));
  LOCI_RETURN_IF_ERROR(CheckPoints(manifest.tuning().front()));
  if (!(manifest.recall_at_10() >= 0 && manifest.recall_at_10() <= 1)) {
    return Damaged(absl::StrCat("recall ", manifest.recall_at_10(), " is not in [0, 1]"));
  }
  if (manifest.recall_query_count() < 0) return Damaged(absl::StrCat("recall query count ", manifest.recall_query_count()));
  const storage::MemoryFigures& memory = manifest.memory();
  for (const int64_t bytes : {memory.passages_bytes(), memory.passage_ids_bytes(), memory.passages_most_bytes(), memory.columns_bytes(), memory.index_bytes()}) {
    if (bytes < 0 || bytes > kMaxMemoryBytes) return Damaged(absl::StrCat("a memory figure of ", bytes, " bytes"));
  }
  if (manifest.encoder_precisions_size() > kMaxPrecisions) return Damaged(absl::StrCat(manifest.encoder_precisions_size(), " precisions"));
  for (const storage::Probe& probe : manifest.probes()) {
    if (probe.row() < 0 || probe.row() >= manifest.vector_count()) return Damaged(absl::StrCat("probe of row ", probe.row()));
    if (probe.id().empty()) return Damaged("a probe without an id");
  }
  return CheckFiles(manifest);
}

}  // namespace

absl::StatusOr<storage::Manifest> ParseManifest(std::string_view content) {
  const absl::StatusOr<std::string_view> body = Unsealed(content);
  if (!body.ok()) return Damaged(StdView(body.status().message()));
  storage::Manifest manifest;
  if (body->size() > INT32_MAX || !manifest.ParseFromArray(body->data(), static_cast<int>(body->size()))) {
    return Damaged("it is not a storage.Manifest");
  }
  LOCI_RETURN_IF_ERROR(CheckFields(manifest));
  return manifest;
}

std::string SerializeManifest(const storage::Manifest& manifest) {
  return Sealed(manifest.SerializeAsString());
}

absl::StatusOr<storage::Manifest> ReadManifest(FileSystem& fs, const std::string& generation_directory, std::string_view store) {
  const std::string path = JoinPath(generation_directory, kManifestFile);
  absl::StatusOr<std::string> content = fs.ReadFile(path);
  if (absl::IsNotFound(content.status())) {
    return absl::FailedPreconditionError(absl::StrCat(generation_directory, " has no MANIFEST: its build did not finish"));
  }
  LOCI_RETURN_IF_ERROR(content.status());
  absl::StatusOr<storage::Manifest> manifest = ParseManifest(*content);
  if (manifest.ok()) {
    const std::string folder = std::filesystem::path(JoinPath(generation_directory, "")).filename().string();
    if (manifest->generation() != folder) {
      return absl::DataLossError(absl::StrCat(generation_directory, ": MANIFEST is of generation ", manifest->generation()));
    }
    if (!store.empty() && manifest->store() != store) {
      return absl::DataLossError(
          absl::StrCat(generation_directory, ": MANIFEST is of store \"", manifest->store(), "\", not ", AbslView(store)));
    }
    return manifest;
  }
  // Its one checksum does not say where.
  if (absl::IsDataLoss(manifest.status())) {
    return FileDamaged(generation_directory, kManifestFile, 0, static_cast<int64_t>(content->size()),
                       std::string(StdView(manifest.status().message())));
  }
  return Annotate(manifest.status(), generation_directory);
}

}  // namespace loci
