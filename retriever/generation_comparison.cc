#include "retriever/generation_comparison.h"

#include <algorithm>
#include <optional>
#include <set>
#include <utility>

#include "base/clock.h"
#include "base/status_macros.h"
#include "base/strings.h"
#include "retriever/query_vectors.h"

namespace loci {
namespace {

struct Side {
  std::shared_ptr<const View> body;
  std::shared_ptr<TextEncoder> encoder;
  std::string half;
};

absl::StatusOr<Side> Open(GenerationManager& manager, std::string_view store, std::string_view generation) {
  LOCI_ASSIGN_OR_RETURN(std::shared_ptr<const ServingSet> set, manager.Capture(store, generation));
  LOCI_ASSIGN_OR_RETURN(set, manager.WithEncoder(std::move(set)));
  return Side{View::Bare(set->view->shared_generation()), set->encoder, set->view->generation().manifest().passage_fingerprint()};
}

absl::StatusOr<std::vector<std::vector<std::string>>> Search(const View& body, const std::vector<float>& vectors, int top_k,
                                                             const RequestLimits& limits, bool exact = false) {
  const int64_t count = static_cast<int64_t>(vectors.size()) / body.dim();
  LOCI_ASSIGN_OR_RETURN(ViewSearchResult found,
                        body.Search({vectors.data(), count, body.dim()}, {.top_k = top_k, .exact = exact, .limits = limits}));
  std::vector<std::vector<std::string>> rankings(found.hits.size());
  for (size_t i = 0; i < rankings.size(); ++i) {
    for (ViewHit& hit : found.hits[i]) rankings[i].push_back(std::move(hit.id));
  }
  return rankings;
}

int RankOf(const std::vector<std::string>& ids, const std::string& id) {
  const auto place = std::find(ids.begin(), ids.end(), id);
  return place == ids.end() ? 0 : static_cast<int>(place - ids.begin()) + 1;
}

// What only needs to be known of queries whose rankings differ.
class ChangeFinder {
 public:
  ChangeFinder(const Side& a, const Side& b) : a_(a), b_(b) {}

  // `vectors_a` and `vectors_b` are those of all queries.
  absl::Status Find(const std::vector<float>& vectors_a, const std::vector<float>& vectors_b, int top_k, const RequestLimits& limits,
                    GenerationComparison* comparison) {
    for (size_t i = 0; i < comparison->queries.size(); ++i) {
      QueryDifference& query = comparison->queries[i];
      if (query.same_order) continue;
      LOCI_RETURN_IF_ERROR(limits.Check(RealClock().NowMicros()));
      std::optional<std::vector<std::string>> exact_a, exact_b;  // Where they were asked for.
      const auto missed = [&](const Side& side, const std::vector<float>& vectors, std::optional<std::vector<std::string>>* exact,
                              const std::string& id) -> absl::StatusOr<bool> {
        if (side.body->generation().index().IsExact({.top_k = top_k}, RowMask())) return false;
        if (!exact->has_value()) {
          const size_t dim = static_cast<size_t>(side.body->dim());
          const std::vector<float> vector(vectors.begin() + static_cast<std::ptrdiff_t>(i * dim),
                                          vectors.begin() + static_cast<std::ptrdiff_t>((i + 1) * dim));
          LOCI_ASSIGN_OR_RETURN(auto found, Search(*side.body, vector, top_k, limits, /*exact=*/true));
          *exact = std::move(found[0]);
        }
        return RankOf(**exact, id) > 0;
      };
      for (const std::string& id : query.ids_a) {
        HitChange change{.id = id, .rank_a = RankOf(query.ids_a, id), .rank_b = RankOf(query.ids_b, id)};
        if (change.rank_a == change.rank_b) continue;
        LOCI_ASSIGN_OR_RETURN(const std::optional<ViewRow> there, b_.body->Find(id));
        LOCI_ASSIGN_OR_RETURN(const bool same, SameVector(id));
        if (change.rank_b > 0 && same) continue;  // Others moved it.
        if (!there.has_value()) {
          change.reason = ChangeReason::kGonePassage;
        } else if (!same) {
          change.reason = ChangeReason::kOtherVector;
        } else {
          LOCI_ASSIGN_OR_RETURN(const bool approximation, missed(b_, vectors_b, &exact_b, id));
          change.reason = approximation ? ChangeReason::kApproximation : ChangeReason::kDisplaced;
        }
        Add(std::move(change), &query, comparison);
      }
      for (const std::string& id : query.ids_b) {
        HitChange change{.id = id, .rank_a = RankOf(query.ids_a, id), .rank_b = RankOf(query.ids_b, id)};
        if (change.rank_a > 0) continue;
        LOCI_ASSIGN_OR_RETURN(const std::optional<ViewRow> there, a_.body->Find(id));
        LOCI_ASSIGN_OR_RETURN(const bool same, SameVector(id));
        if (!there.has_value()) {
          change.reason = ChangeReason::kNewPassage;
        } else if (!same) {
          change.reason = ChangeReason::kOtherVector;
        } else {
          LOCI_ASSIGN_OR_RETURN(const bool approximation, missed(a_, vectors_a, &exact_a, id));
          change.reason = approximation ? ChangeReason::kApproximation : ChangeReason::kDisplaced;
        }
        Add(std::move(change), &query, comparison);
      }
    }
    return absl::OkStatus();
  }

 private:
  static void Add(HitChange change, QueryDifference* query, GenerationComparison* comparison) {
    ++comparison->change_counts[static_cast<size_t>(change.reason)];
    query->changes.push_back(std::move(change));
  }

  // Whether both have the passage, with one vector.
  absl::StatusOr<bool> SameVector(const std::string& id) const {
    LOCI_ASSIGN_OR_RETURN(const std::optional<ViewRow> row_a, a_.body->Find(id));
    LOCI_ASSIGN_OR_RETURN(const std::optional<ViewRow> row_b, b_.body->Find(id));
    if (!row_a.has_value() || !row_b.has_value() || a_.half != b_.half || a_.body->dim() != b_.body->dim()) return false;
    std::vector<float> vector_a(static_cast<size_t>(a_.body->dim())), vector_b(vector_a.size());
    LOCI_RETURN_IF_ERROR(a_.body->CopyVector(*row_a, vector_a.data()));
    LOCI_RETURN_IF_ERROR(b_.body->CopyVector(*row_b, vector_b.data()));
    return vector_a == vector_b;
  }

  const Side& a_;
  const Side& b_;
};

}  // namespace

GenerationComparison CompareRankings(std::vector<std::vector<std::string>> a, std::vector<std::vector<std::string>> b) {
  GenerationComparison comparison;
  comparison.queries.resize(a.size());
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    QueryDifference& query = comparison.queries[i];
    const std::set<std::string_view> in_a(a[i].begin(), a[i].end());
    const int64_t common = std::count_if(b[i].begin(), b[i].end(), [&](const std::string& id) { return in_a.count(id) > 0; });
    const size_t larger = std::max(a[i].size(), b[i].size());
    query.overlap = larger == 0 ? 1 : static_cast<double>(common) / static_cast<double>(larger);
    query.same_order = a[i] == b[i];
    comparison.changed_count += query.same_order ? 0 : 1;
    const bool same_first = a[i].empty() || b[i].empty() ? a[i].empty() == b[i].empty() : a[i][0] == b[i][0];
    comparison.changed_first_count += same_first ? 0 : 1;
    sum += query.overlap;
    query.ids_a = std::move(a[i]);
    query.ids_b = std::move(b[i]);
  }
  if (!comparison.queries.empty()) comparison.mean_overlap = sum / static_cast<double>(comparison.queries.size());
  return comparison;
}

absl::StatusOr<GenerationComparison> CompareGenerations(GenerationManager& manager, std::string_view store, std::string_view generation_a,
                                                        std::string_view generation_b, const std::vector<std::string>& queries, int top_k,
                                                        const RequestLimits& limits) {
  LOCI_ASSIGN_OR_RETURN(const Side a, Open(manager, store, generation_a));
  LOCI_ASSIGN_OR_RETURN(const Side b, Open(manager, store, generation_b));
  LOCI_ASSIGN_OR_RETURN(const std::vector<float> vectors_a, EncodeQueries(*a.encoder, queries, limits));
  LOCI_ASSIGN_OR_RETURN(auto found_a, Search(*a.body, vectors_a, top_k, limits));
  std::vector<float> other_vectors;
  if (a.half != b.half) {
    LOCI_ASSIGN_OR_RETURN(other_vectors, EncodeQueries(*b.encoder, queries, limits));
  }
  const std::vector<float>& vectors_b = a.half != b.half ? other_vectors : vectors_a;
  LOCI_ASSIGN_OR_RETURN(auto found_b, Search(*b.body, vectors_b, top_k, limits));
  GenerationComparison comparison = CompareRankings(std::move(found_a), std::move(found_b));
  LOCI_RETURN_IF_ERROR(ChangeFinder(a, b).Find(vectors_a, vectors_b, top_k, limits, &comparison));
  comparison.generation_a = a.body->generation().id();
  comparison.generation_b = b.body->generation().id();
  LOCI_ASSIGN_OR_RETURN(const StoreInfo info, manager.GetStore(store));
  comparison.revision = info.revision;
  return comparison;
}

}  // namespace loci
