#include "index/build_forecast.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "index/faiss_factory.h"
#include "index/index_specification.h"
#include "index/quantized_vectors.h"

namespace loci {
namespace {

constexpr int64_t kStagedRowBytes = 48;   // Keys of a staged passage, beside its vector and itself.
constexpr int64_t kFiledRowBytes = 40;    // Keys, the id's entry and filters.
constexpr int64_t kLinkBytes = 300;       // Of a graph, a row.
constexpr int64_t kProductShare = 8;      // Of a product quantiser's codes: a byte for so many elements, about.

int64_t IndexBytes(const BuildSize& size) {
  if (IsExactIndex(size.index)) {
    const absl::StatusOr<ExactSpecification> exact = ParseExactIndex(size.index);
    return exact.ok() && exact->int8 ? QuantizedVectorsBytes(size.passage_count, size.dim) : 0;
  }
  if (IsAutoIndex(size.index)) {
    // The largest that it may come to. What it is measured on before takes less.
    const int64_t most = size.passage_count * (size.dim * static_cast<int64_t>(sizeof(float)) + kLinkBytes);
    const absl::StatusOr<AutoIndex> wanted = ParseAutoIndex(size.index);
    return wanted.ok() && wanted->memory_budget_bytes > 0 ? std::min(most, wanted->memory_budget_bytes) : most;
  }
  const absl::StatusOr<FaissFactory> factory = ParseFaissFactory(size.index, size.dim, INT64_MAX);
  if (!factory.ok()) return 0;  // It is refused elsewhere.
  int64_t row_bytes = factory->list_count > 0 ? 8 : factory->hnsw ? kLinkBytes : 0;
  switch (factory->codec) {
    case FaissFactory::Codec::kFlat: row_bytes += size.dim * static_cast<int64_t>(sizeof(float)); break;
    case FaissFactory::Codec::kScalar: row_bytes += size.dim; break;
    case FaissFactory::Codec::kProduct: row_bytes += size.dim / kProductShare; break;
  }
  return size.passage_count * row_bytes + factory->list_count * size.dim * static_cast<int64_t>(sizeof(float));
}

}  // namespace

int64_t BuildForecast::peak_bytes() const { return files_bytes + std::max(staging_bytes, index_bytes); }

BuildForecast ForecastBuild(const BuildSize& size) {
  const int64_t vector_elements = size.passage_count * size.dim;
  return {.staging_bytes = size.passage_bytes + vector_elements * static_cast<int64_t>(sizeof(float)) + size.passage_count * kStagedRowBytes,
          .files_bytes = size.passage_bytes + vector_elements * static_cast<int64_t>(ElementSize(size.element_type)) +
                         size.passage_count * kFiledRowBytes,
          .index_bytes = IndexBytes(size)};
}

absl::Status CheckDisk(const std::string& what, int64_t needed_bytes, int64_t available_bytes) {
  if (available_bytes < 0 || needed_bytes <= available_bytes) return absl::OkStatus();
  return ErrorWithReason(absl::ResourceExhaustedError(absl::StrCat(what, " needs about ", needed_bytes, " bytes of disk, ", available_bytes,
                                                                   " are available; nothing was changed")),
                         "DISK", {{"needed_bytes", absl::StrCat(needed_bytes)}, {"available_bytes", absl::StrCat(available_bytes)}});
}

}  // namespace loci
