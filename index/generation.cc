#include "index/generation.h"

#include <algorithm>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/device.h"
#include "base/error.h"
#include "base/status_macros.h"
#include "base/strings.h"
#include "index/exact_index.h"
#include "index/faiss_index.h"
#include "index/file_sums.h"
#include "index/generation_memory.h"
#include "index/tuning_choice.h"

namespace loci {
namespace {

constexpr int kProbeTopK = 10;

// The sizes of all files and, with `checksums`, their contents; index.faiss is always read, since FAISS trusts what it parses.
absl::Status VerifyFiles(FileSystem& fs, const std::string& directory, const storage::Manifest& manifest, bool checksums,
                         const VerifyControl& control) {
  const auto summed = [&](const storage::FileEntry& entry) { return checksums || entry.path() == kIndexFile; };
  int64_t done_bytes = 0, total_bytes = 0;
  for (const storage::FileEntry& entry : manifest.files()) total_bytes += summed(entry) ? entry.size_bytes() : 0;
  const auto on_read = [&](int64_t bytes) {
    done_bytes += bytes;
    if (control.progress) control.progress(done_bytes, total_bytes);
    return control.limits.Check(control.clock->NowMicros());
  };
  LOCI_RETURN_IF_ERROR(on_read(0));
  std::set<std::string> listed;
  for (const storage::FileEntry& entry : manifest.files()) {
    LOCI_RETURN_IF_ERROR(CheckFile(fs, directory, entry, summed(entry), on_read));
    listed.insert(entry.path());
  }
  // A further file in the RocksDB could change what is read.
  LOCI_ASSIGN_OR_RETURN(const std::vector<std::string> names, fs.List(JoinPath(directory, kPassagesDirectory)));
  for (const std::string& name : names) {
    if (listed.count(absl::StrCat(kPassagesDirectory, "/", name)) == 0) {
      return FileDamaged(directory, absl::StrCat(kPassagesDirectory, "/", name), 0, 0, "it is there, but not in the manifest");
    }
  }
  return absl::OkStatus();
}

// Each probe's own vector, searched exactly, must find it, and its passage must have its id.
absl::Status RunProbes(const storage::Manifest& manifest, const VectorFile& vectors, const PassageFile& passages,
                       const PassageIndex& exact) {
  const int64_t count = manifest.probes_size();
  if (count == 0) return absl::OkStatus();
  const int dim = vectors.dim();
  std::vector<float> queries(count * dim);
  for (int64_t i = 0; i < count; ++i) vectors.CopyRow(manifest.probes(static_cast<int>(i)).row(), queries.data() + i * dim);
  IndexSearchOptions options;
  options.top_k = kProbeTopK;
  options.exact = true;
  std::vector<RowHit> hits(count * kProbeTopK);
  LOCI_RETURN_IF_ERROR(exact.Search({queries.data(), count, dim}, options, RowMask(), hits.data()));
  for (int64_t i = 0; i < count; ++i) {
    const storage::Probe& probe = manifest.probes(static_cast<int>(i));
    const auto begin = hits.begin() + i * kProbeTopK;
    if (std::none_of(begin, begin + kProbeTopK, [&](const RowHit& hit) { return hit.row == probe.row(); })) {
      return absl::DataLossError(absl::StrCat("the vector of row ", probe.row(), " does not find its own passage"));
    }
    LOCI_ASSIGN_OR_RETURN(const std::string id, passages.ReadId(probe.row()));
    LOCI_ASSIGN_OR_RETURN(const std::optional<int64_t> row, passages.FindRow(probe.id()));
    if (id != probe.id() || row != probe.row()) {
      return absl::DataLossError(absl::StrCat("passage ", probe.id(), " is not at row ", probe.row()));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status Generation::Verify(FileSystem& fs, const std::string& directory, const VerifyControl& control) {
  LOCI_ASSIGN_OR_RETURN(const storage::Manifest manifest, ReadManifest(fs, directory));
  return VerifyFiles(fs, directory, manifest, /*checksums=*/true, control);
}

absl::StatusOr<std::shared_ptr<const Generation>> Generation::Open(FileSystem& fs, const std::string& directory,
                                                                   const OpenOptions& options) {
  auto generation = std::shared_ptr<Generation>(new Generation());
  LOCI_ASSIGN_OR_RETURN(generation->manifest_, ReadManifest(fs, directory, options.store));
  const storage::Manifest& manifest = generation->manifest_;
  if (manifest.vector_count() != manifest.passage_count()) {
    return absl::FailedPreconditionError(absl::StrCat(directory, ": ", manifest.vector_count(), " vectors for ",
                                                      manifest.passage_count(), " passages; this build serves one each"));
  }
  OpenTimes times;
  int64_t step_us = options.control.clock->NowMicros();
  const auto take_time = [&](int64_t* time_us) {
    const int64_t now_us = options.control.clock->NowMicros();
    *time_us = now_us - std::exchange(step_us, now_us);
  };
  LOCI_RETURN_IF_ERROR(VerifyFiles(fs, directory, manifest, options.verify_checksums, options.control));
  take_time(&times.verify_us);

  const std::string vectors_path = JoinPath(directory, kVectorsFile);
  LOCI_ASSIGN_OR_RETURN(generation->vectors_, VectorFile::Open(fs, vectors_path));
  const VectorFile& vectors = *generation->vectors_;
  if (vectors.rows() != manifest.vector_count() || vectors.dim() != manifest.dim() ||
      vectors.element_type() != StoredType(manifest)) {
    return absl::DataLossError(absl::StrCat(vectors_path, ": ", vectors.rows(), " rows of ", vectors.dim(),
                                            " elements are not what the manifest says"));
  }
  LOCI_ASSIGN_OR_RETURN(generation->passages_,
                        PassageFile::Open(JoinPath(directory, kPassagesDirectory), manifest.passage_count()));
  if (std::any_of(manifest.files().begin(), manifest.files().end(), [](const auto& file) { return file.path() == kColumnsFile; })) {
    LOCI_ASSIGN_OR_RETURN(generation->columns_, MetadataColumns::Open(fs, JoinPath(directory, kColumnsFile), manifest.passage_count()));
  }
  if (HasCodes(manifest)) {
    const std::string codes_path = JoinPath(directory, kCodesFile);
    LOCI_ASSIGN_OR_RETURN(generation->codes_, QuantizedVectors::Open(fs, codes_path));
    if (generation->codes_->rows() != vectors.rows() || generation->codes_->dim() != vectors.dim()) {
      return absl::DataLossError(absl::StrCat(codes_path, ": ", generation->codes_->rows(), " rows of ", generation->codes_->dim(),
                                              " elements are not those of ", kVectorsFile));
    }
  }
  generation->exact_ = std::make_unique<PlacedExactIndex>(
      std::make_shared<ExactIndex>(generation->vectors_, options.search_pool, DetectCpuIsa(), generation->codes_));
  generation->index_ = generation->exact_.get();
  if (manifest.index() != generation->exact_->name()) {
    const auto check = [&] { return options.control.limits.Check(options.control.clock->NowMicros()); };
    LOCI_ASSIGN_OR_RETURN(generation->approximate_,
                          OpenFaissIndex(fs, JoinPath(directory, kIndexFile), manifest.index(), generation->vectors_,
                                         options.search_pool, LadderOf(manifest.ladder()), check, generation->exact_->cpu().get()));
    generation->index_ = generation->approximate_.get();
  }
  take_time(&times.parse_us);
  if (options.run_probes) {
    // On this thread alone, which may have a lower priority than those of the pool.
    const absl::Status status = RunProbes(manifest, vectors, *generation->passages_, ExactIndex(generation->vectors_, nullptr));
    if (!status.ok()) return Annotate(status, directory);
  }
  take_time(&times.probe_us);
  if (options.times != nullptr) *options.times = times;
  return generation;
}

int64_t Generation::memory_bytes() const {
  return passages_->memory_bytes() + exact_->memory_bytes() + (approximate_ == nullptr ? 0 : approximate_->memory_bytes()) +
         (columns_ == nullptr ? 0 : columns_->memory_bytes()) +
         static_cast<int64_t>(manifest_.SpaceUsedLong());
}

int64_t Generation::most_memory_bytes() const {
  const int64_t searched = exact_->memory_bytes();  // No manifest knows it.
  return std::max(memory_bytes(), PlannedMemory(manifest_).most_bytes() + searched);
}

void Generation::Warm() const {
  vectors_->Warm();
  if (codes_ != nullptr) codes_->Warm();
}

}  // namespace loci
