#include "index/passage_index.h"

#include <cmath>

#include "absl/strings/str_cat.h"

namespace loci {

absl::Status CheckSearchArguments(const PassageIndex& index, MatrixView<const float> queries, const IndexSearchOptions& options,
                                  int64_t list_count, bool is_hnsw) {
  constexpr int kMaxEfSearch = 100'000;
  if (queries.rows > 0 && queries.cols != index.dim()) {
    return absl::InvalidArgumentError(
        absl::StrCat("query vectors have dimension ", queries.cols, ", those of the passages have ", index.dim()));
  }
  if (options.top_k < 1 || options.top_k > kMaxTopK) {
    return absl::InvalidArgumentError(absl::StrCat("top_k is ", options.top_k, ", it must be in [1, ", kMaxTopK, "]"));
  }
  if (options.nprobe != 0 && list_count == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("nprobe is ", options.nprobe, ", but the index \"", index.name(), "\" has no inverted lists"));
  }
  if (options.nprobe < 0 || options.nprobe > list_count) {
    return absl::InvalidArgumentError(absl::StrCat("nprobe is ", options.nprobe, ", the index \"", index.name(),
                                                   "\" takes 1 to ", list_count));
  }
  if (options.ef_search != 0 && !is_hnsw) {
    return absl::InvalidArgumentError(
        absl::StrCat("ef_search is ", options.ef_search, ", but the index \"", index.name(), "\" is not HNSW"));
  }
  if (options.ef_search < 0 || options.ef_search > kMaxEfSearch) {
    return absl::InvalidArgumentError(absl::StrCat("ef_search is ", options.ef_search, ", the index \"", index.name(),
                                                   "\" takes 1 to ", kMaxEfSearch));
  }
  for (int64_t i = 0; i < queries.rows * queries.cols; ++i) {
    if (!std::isfinite(queries.data[i])) {
      return absl::InvalidArgumentError(
          absl::StrCat("query vector ", i / queries.cols, " has ", queries.data[i], " at position ", i % queries.cols));
    }
  }
  return absl::OkStatus();
}

}  // namespace loci
