// What a generation's index is asked for with: see loci.v1.IndexSpec.
//
//   specification := exact | a FAISS factory string (faiss_factory.h) | automatic
//   exact         := "exact" [ ":int8" ]                             int8: beside the vectors their 8-bit codes (quantized_vectors.h)
//   automatic     := "auto" [ ":" option ( "," option )* ]          each option at most once
//   option        := "recall=" number                               above 0, to 1; default 0.95
//                  | "memory=" digits [ "KiB" | "MiB" | "GiB" | "TiB" | "KB" | "MB" | "GB" | "TB" ]     at least 1 MiB; default: any
#ifndef LOCI_INDEX_INDEX_SPECIFICATION_H_
#define LOCI_INDEX_INDEX_SPECIFICATION_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace loci {

// Names of the indexes that score every passage.
inline constexpr char kExactIndex[] = "exact";
inline constexpr char kExactInt8Index[] = "exact:int8";

// An automatic one of at most so many rows is exact; one of more is measured on a sample of so many.
inline constexpr int64_t kAutoExactRows = 20'000;
inline constexpr int64_t kTuningSampleRows = 50'000;

inline constexpr double kDefaultRecallTarget = 0.95;
inline constexpr int64_t kMinMemoryBudgetBytes = int64_t{1} << 20;

// An index that is chosen by measuring.
struct AutoIndex {
  double recall_target = kDefaultRecallTarget;
  int64_t memory_budget_bytes = 0;  // 0: any.

  bool operator==(const AutoIndex&) const = default;
};

// An index that scores every passage.
struct ExactSpecification {
  bool int8 = false;  // With 8-bit codes, for a first pass that leaves few rows to score. Hits are the same.

  bool operator==(const ExactSpecification&) const = default;
};

// Whether it is one of the exact form, well-formed or not.
bool IsExactIndex(std::string_view specification);

// INVALID_ARGUMENT (its reason with `field` "index.factory") naming what is wrong.
absl::StatusOr<ExactSpecification> ParseExactIndex(std::string_view specification);

// Whether it is one of the automatic form, well-formed or not.
bool IsAutoIndex(std::string_view specification);

// INVALID_ARGUMENT (its reason with `field` "index.factory") naming what is wrong.
absl::StatusOr<AutoIndex> ParseAutoIndex(std::string_view specification);

}  // namespace loci

#endif  // LOCI_INDEX_INDEX_SPECIFICATION_H_
