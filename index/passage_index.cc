#include "index/passage_index.h"

#include <cmath>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "base/field_error.h"
#include "base/strings.h"
#include "index/index_specification.h"

namespace loci {
namespace {

// `problem` follows the field's name in the message.
absl::Status InvalidOption(std::string_view option, std::string_view problem) {
  return FieldError(absl::StrCat("options.", AbslView(option)), absl::StrCat(AbslView(option), " ", AbslView(problem)));
}

// "exact search", with 8-bit codes or without, or "the index \"IVF64,Flat\"".
std::string Named(const PassageIndex& index) { return index.name() == kExactIndex ? "exact search" : absl::StrCat("the index \"", index.name(), "\""); }

}  // namespace

absl::Status CheckSearchArguments(const PassageIndex& index, MatrixView<const float> queries, const IndexSearchOptions& options,
                                  const SearchAbilities& abilities) {
  constexpr int kMaxEfSearch = 100'000;
  if (queries.rows > 0 && queries.cols != index.dim()) {
    return FieldError("queries[0].vector", absl::StrCat("query vectors have dimension ", queries.cols, ", those of the passages have ", index.dim()));
  }
  if (options.top_k < 1 || options.top_k > kMaxTopK) {
    return FieldError("top_k", absl::StrCat("top_k is ", options.top_k, ", it must be in [1, ", kMaxTopK, "]"));
  }
  const int64_t list_count = abilities.list_count;
  if (options.nprobe != 0 && list_count == 0) {
    return InvalidOption("nprobe", absl::StrCat("is ", options.nprobe, ", but ", Named(index), " has no inverted lists"));
  }
  if (options.nprobe < 0 || options.nprobe > list_count) {
    return InvalidOption("nprobe", absl::StrCat("is ", options.nprobe, ", ", Named(index), " takes 1 to ", list_count));
  }
  if (options.ef_search != 0 && !abilities.is_hnsw) {
    return InvalidOption("ef_search", absl::StrCat("is ", options.ef_search, ", but ", Named(index), " is not HNSW"));
  }
  if (options.ef_search < 0 || options.ef_search > kMaxEfSearch) {
    return InvalidOption("ef_search",
                         absl::StrCat("is ", options.ef_search, ", ", Named(index), " takes 1 to ", kMaxEfSearch));
  }
  if (options.rescore_factor != 0 && !abilities.rescores) {
    return InvalidOption("rescore_factor", absl::StrCat("is ", options.rescore_factor, ", but ", Named(index), " rescores nothing"));
  }
  if (options.rescore_factor < 0 || options.rescore_factor > kMaxRescoreFactor) {
    return InvalidOption("rescore_factor", absl::StrCat("is ", options.rescore_factor, ", ", Named(index), " takes 1 to ",
                                                        kMaxRescoreFactor));
  }
  if (int64_t{options.rescore_factor} * options.top_k > kMaxCandidates) {
    return InvalidOption("rescore_factor", absl::StrCat("is ", options.rescore_factor, " for a top_k of ", options.top_k,
                                                        "; their product must be at most ", kMaxCandidates));
  }
  if (!(options.recall_target >= 0 && options.recall_target <= 1)) {
    return InvalidOption("recall_target", absl::StrCat("is ", options.recall_target, "; it must be above 0 and at most 1"));
  }
  if (options.recall_target > 0 && (options.nprobe != 0 || options.ef_search != 0 || options.rescore_factor != 0)) {
    return InvalidOption("recall_target", "does not go with nprobe, ef_search or rescore_factor: it chooses them");
  }
  for (int64_t q = 0; q < queries.rows; ++q) {
    if (absl::Status valid = CheckVector(queries.row(q), static_cast<int>(queries.cols)); !valid.ok()) {
      return FieldError(absl::StrCat("queries[", q, "].vector"), absl::StrCat("queries[", q, "].", valid.message()));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckVector(const float* vector, int dim) {
  double squared_length = 0;
  for (int i = 0; i < dim; ++i) {
    if (!std::isfinite(vector[i])) return InvalidField("vector", absl::StrCat("has ", vector[i], " at position ", i, "; it must be finite"));
    squared_length += static_cast<double>(vector[i]) * vector[i];
  }
  if (squared_length <= kMaxSquaredLength) return absl::OkStatus();
  return InvalidField("vector", absl::StrCat("has the length ", std::sqrt(squared_length), "; the limit is ", std::sqrt(kMaxSquaredLength)));
}

}  // namespace loci
