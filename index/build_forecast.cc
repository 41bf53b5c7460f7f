#include "index/build_forecast.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "index/faiss_factory.h"
#include "index/index_specification.h"
#include "index/quantized_vectors.h"
#include "index/row_codes.h"

namespace loci {
namespace {

constexpr int64_t kStagedRowBytes = 48;   // Keys of a staged passage, beside its vector and itself.
constexpr int64_t kFiledRowBytes = 40;    // Keys, the id's entry and filters.
constexpr int64_t kListIdBytes = 8;       // Of a row in an inverted list.
constexpr int64_t kAutoLinkBytes = 300;   // Of a row in a graph that may be chosen.

// FAISS's index over so many rows.
int64_t FaissBytes(const FaissFactory& factory, int dim, int64_t rows) {
  const int64_t row_bytes = factory.CodeBytes(dim) + factory.LinkBytes() + (factory.list_count > 0 ? kListIdBytes : 0);
  return rows * row_bytes + factory.list_count * dim * static_cast<int64_t>(sizeof(float));
}

// What its build holds at most.
int64_t FaissBuildBytes(const FaissFactory& factory, int dim, int64_t rows) {
  constexpr int64_t kAddedRows = 16384;     // At once, in float32: as they are read and as they are coded.
  constexpr int64_t kGraphRowBytes = 16;    // Locks, and what was seen of a search for neighbours.
  constexpr int64_t kWorkBytes = 24 << 20;  // Products of rows with centres, and what is written at once.
  int64_t bytes = FaissBytes(factory, dim, rows);
  // Lists grow by doubling, one after the other.
  if (factory.list_count > 0) bytes += bytes / 2;
  if (factory.hnsw) bytes += rows * kGraphRowBytes;
  const int64_t vector_bytes = dim * static_cast<int64_t>(sizeof(float));
  const int64_t trained = factory.TrainingRowCount(dim, rows) * vector_bytes;
  // Product quantisers have residuals of what they are trained with.
  return std::max(bytes + 2 * std::min(rows, kAddedRows) * vector_bytes, 2 * trained) + kWorkBytes;
}

int64_t IndexBytes(const BuildSize& size) {
  if (IsExactIndex(size.index)) {
    const absl::StatusOr<ExactSpecification> exact = ParseExactIndex(size.index);
    return exact.ok() && exact->int8 ? QuantizedVectorsBytes(size.passage_count, size.dim) : 0;
  }
  if (IsAutoIndex(size.index)) {
    // The largest that it may come to, or what it is measured on before: an index over a sample, and the sample.
    const int64_t vector_bytes = size.dim * static_cast<int64_t>(sizeof(float)), indexed_bytes = vector_bytes + kAutoLinkBytes;
    const int64_t sample_rows = std::min(size.passage_count, kTuningSampleRows);
    const int64_t measured = sample_rows * (indexed_bytes + (sample_rows < size.passage_count ? vector_bytes : 0));
    int64_t most = size.passage_count * indexed_bytes;
    const absl::StatusOr<AutoIndex> wanted = ParseAutoIndex(size.index);
    if (wanted.ok() && wanted->memory_budget_bytes > 0) most = std::min(most, wanted->memory_budget_bytes);
    return std::max({most, measured, QuantizedVectorsBytes(size.passage_count, size.dim)});
  }
  const absl::StatusOr<FaissFactory> factory = ParseFaissFactory(size.index, size.dim, INT64_MAX);
  return factory.ok() ? FaissBytes(*factory, size.dim, size.passage_count) : 0;  // It is refused elsewhere.
}

int64_t MemoryBytes(const BuildSize& size) {
  if (IsExactIndex(size.index) || IsAutoIndex(size.index)) return 0;
  const absl::StatusOr<FaissFactory> factory = ParseFaissFactory(size.index, size.dim, INT64_MAX);
  return factory.ok() ? FaissBuildBytes(*factory, size.dim, size.passage_count) : 0;
}

int64_t OpenedBytes(const BuildSize& size) {
  if (IsExactIndex(size.index)) return 0;
  if (IsAutoIndex(size.index)) return IndexBytes(size);
  const absl::StatusOr<FaissFactory> factory = ParseFaissFactory(size.index, size.dim, INT64_MAX);
  if (!factory.ok()) return 0;
  const int64_t coded_bytes = RowCodes::StrideOf(size.dim) + static_cast<int64_t>(sizeof(int32_t));
  if (factory->hnsw) return size.passage_count * (coded_bytes + factory->LinkBytes());
  return FaissBytes(*factory, size.dim, size.passage_count) + (factory->hnsw_coarse ? 0 : factory->list_count * coded_bytes);
}

// RESOURCE_EXHAUSTED where `available_bytes` are too few of `resource`.
absl::Status CheckThere(const std::string& what, const std::string& resource, const std::string& reason, int64_t needed_bytes,
                        int64_t available_bytes) {
  if (available_bytes < 0 || needed_bytes <= available_bytes) return absl::OkStatus();
  return ErrorWithReason(absl::ResourceExhaustedError(absl::StrCat(what, " needs about ", needed_bytes, " bytes of ", resource,
                                                                   ", ", available_bytes, " are available; nothing was changed")),
                         reason,
                         {{"needed_bytes", absl::StrCat(needed_bytes)}, {"available_bytes", absl::StrCat(available_bytes)}});
}

}  // namespace

int64_t BuildForecast::peak_bytes() const { return files_bytes + std::max(staging_bytes, index_bytes); }

BuildForecast ForecastBuild(const BuildSize& size) {
  const int64_t vector_elements = size.passage_count * size.dim;
  return {.staging_bytes =
              size.passage_bytes + vector_elements * static_cast<int64_t>(sizeof(float)) + size.passage_count * kStagedRowBytes,
          .files_bytes = size.passage_bytes + vector_elements * static_cast<int64_t>(ElementSize(size.element_type)) +
                         size.passage_count * kFiledRowBytes,
          .index_bytes = IndexBytes(size),
          .memory_bytes = MemoryBytes(size),
          .opened_bytes = OpenedBytes(size)};
}

absl::Status CheckDisk(const std::string& what, int64_t needed_bytes, int64_t available_bytes) {
  return CheckThere(what, "disk", "DISK", needed_bytes, available_bytes);
}

absl::Status CheckMemory(const std::string& what, int64_t needed_bytes, int64_t available_bytes) {
  return CheckThere(what, "memory", "MEMORY", needed_bytes, available_bytes);
}

bool FitsMemory(const BuildSize& size, const std::function<int64_t()>& available_memory_bytes) {
  return available_memory_bytes == nullptr || CheckMemory(size.index, MemoryBytes(size), available_memory_bytes()).ok();
}

}  // namespace loci
