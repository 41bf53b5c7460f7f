// Which results change from one generation of a store to another.
#ifndef LOCI_RETRIEVER_GENERATION_COMPARISON_H_
#define LOCI_RETRIEVER_GENERATION_COMPARISON_H_

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "base/cancellation.h"
#include "retriever/generation_manager.h"

namespace loci {

// As loci.v1.ChangeReason, by the same numbers.
enum class ChangeReason { kNewPassage = 1, kGonePassage, kOtherVector, kApproximation, kDisplaced };
inline constexpr int kChangeReasonCount = 6;  // With 0, which is none.

// As loci.v1.HitChange.
struct HitChange {
  std::string id;
  ChangeReason reason = ChangeReason::kDisplaced;
  int rank_a = 0;  // From 1; 0: not among the hits.
  int rank_b = 0;
};

struct QueryDifference {
  double overlap = 1;  // Ids found by both, of the larger number found; 1 where neither finds any.
  bool same_order = true;
  std::vector<std::string> ids_a, ids_b;  // Best first.
  // Of each passage that only one found, and of each that both found at different places by different vectors: as in ids_a, then ids_b.
  std::vector<HitChange> changes;
};

struct GenerationComparison {
  std::string generation_a, generation_b;
  int64_t revision = 0;  // Of the store.
  double mean_overlap = 1;
  int64_t changed_count = 0;        // Queries whose ranked ids differ.
  int64_t changed_first_count = 0;  // Queries whose first hit differs.
  std::array<int64_t, kChangeReasonCount> change_counts{};  // Of all queries, by reason.
  std::vector<QueryDifference> queries;
};

// The figures (not the changes) for two lists of rankings, one ranking a query: as many in both, ids distinct within each.
GenerationComparison CompareRankings(std::vector<std::vector<std::string>> a, std::vector<std::vector<std::string>> b);

// Encodes `queries` (once where both generations are of the same passage half) and searches the bare bodies of both with their indexes'
// defaults; where rankings differ by an approximate index, exactly as well. Generation empty: the active one. NOT_FOUND names a generation; FAILED_PRECONDITION, reason ENCODER_MISMATCH, where no
// encoder serves one. Blocks.
absl::StatusOr<GenerationComparison> CompareGenerations(GenerationManager& manager, std::string_view store, std::string_view generation_a,
                                                        std::string_view generation_b, const std::vector<std::string>& queries, int top_k,
                                                        const RequestLimits& limits);

}  // namespace loci

#endif  // LOCI_RETRIEVER_GENERATION_COMPARISON_H_
