#include "retriever/generation_comparison.h"

#include <algorithm>
#include <set>
#include <utility>

#include "base/status_macros.h"
#include "base/strings.h"

namespace loci {
namespace {

// Texts that are encoded at once.
constexpr size_t kEncodedTexts = 64;

struct Side {
  std::shared_ptr<const View> body;
  std::shared_ptr<TextEncoder> encoder;
  std::string half;
};

absl::StatusOr<Side> Open(GenerationManager& manager, std::string_view store, std::string_view generation) {
  LOCI_ASSIGN_OR_RETURN(const std::shared_ptr<const ServingSet> set, manager.Capture(store, generation));
  Side side{View::Bare(set->view->shared_generation()), set->encoder, set->view->generation().manifest().passage_fingerprint()};
  if (side.encoder == nullptr) {
    LOCI_ASSIGN_OR_RETURN(side.encoder, manager.encoders().ForPassageHalf(side.half));
  }
  return side;
}

absl::StatusOr<std::vector<float>> Encode(TextEncoder& encoder, const std::vector<std::string>& queries, const RequestLimits& limits) {
  std::vector<float> vectors;
  for (size_t begin = 0; begin < queries.size(); begin += kEncodedTexts) {
    const std::vector<std::string> part(queries.begin() + begin, queries.begin() + std::min(queries.size(), begin + kEncodedTexts));
    LOCI_ASSIGN_OR_RETURN(const EncodedTexts encoded, encoder.EncodeAndWait(part, {.role = TextRole::kQuery, .limits = limits}));
    vectors.insert(vectors.end(), encoded.vectors.begin(), encoded.vectors.end());
  }
  return vectors;
}

absl::StatusOr<std::vector<std::vector<std::string>>> Search(const View& body, const std::vector<float>& vectors, int top_k,
                                                             const RequestLimits& limits) {
  const int64_t count = static_cast<int64_t>(vectors.size()) / body.dim();
  LOCI_ASSIGN_OR_RETURN(ViewSearchResult found, body.Search({vectors.data(), count, body.dim()}, {.top_k = top_k, .limits = limits}));
  std::vector<std::vector<std::string>> rankings(found.hits.size());
  for (size_t i = 0; i < rankings.size(); ++i) {
    for (ViewHit& hit : found.hits[i]) rankings[i].push_back(std::move(hit.id));
  }
  return rankings;
}

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
  LOCI_ASSIGN_OR_RETURN(std::vector<float> vectors, Encode(*a.encoder, queries, limits));
  LOCI_ASSIGN_OR_RETURN(auto found_a, Search(*a.body, vectors, top_k, limits));
  if (a.half != b.half) {
    LOCI_ASSIGN_OR_RETURN(vectors, Encode(*b.encoder, queries, limits));
  }
  LOCI_ASSIGN_OR_RETURN(auto found_b, Search(*b.body, vectors, top_k, limits));
  GenerationComparison comparison = CompareRankings(std::move(found_a), std::move(found_b));
  comparison.generation_a = a.body->generation().id();
  comparison.generation_b = b.body->generation().id();
  LOCI_ASSIGN_OR_RETURN(const StoreInfo info, manager.GetStore(store));
  comparison.revision = info.revision;
  return comparison;
}

}  // namespace loci
