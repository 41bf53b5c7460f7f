#include "index/rounded_centroids.h"

#include <faiss/IndexFlat.h>

#include <algorithm>
#include <memory>
#include <numeric>
#include <typeinfo>
#include <utility>
#include <vector>

#include "base/status_macros.h"
#include "index/exact_kernels.h"
#include "index/row_codes.h"

namespace loci {
namespace {

using idx_t = faiss::Index::idx_t;

// More of the lists than one in so many are found as well from the centroids themselves.
constexpr idx_t kMaxShare = 4;

// Thread-safe.
class RoundedCentroids final : public faiss::IndexFlat {
 public:
  // Takes the centroids of `from`, whose codes `row_codes` are.
  RoundedCentroids(faiss::IndexFlat& from, RowCodes row_codes, CpuIsa isa)
      : faiss::IndexFlat(from.d, from.metric_type),
        gather_(GetExactKernels(isa).gather_float32),
        codes_(std::move(row_codes)),
        all_(static_cast<size_t>(from.ntotal)) {
    std::iota(all_.begin(), all_.end(), 0);
    codes.swap(from.codes);
    ntotal = from.ntotal;
  }

  void search(idx_t n, const float* x, idx_t k, float* distances, idx_t* labels,
              const faiss::SearchParameters* params) const override {
    if (params != nullptr || k > ntotal / kMaxShare) {
      faiss::IndexFlat::search(n, x, k, distances, labels, params);
      return;
    }
    const size_t count = static_cast<size_t>(k);
    std::vector<int32_t> products(all_.size()), rows = all_;
    std::vector<float> scores(all_.size()), padded(static_cast<size_t>(PaddedDim(d)));
    std::vector<const void*> centroids(count);
    std::vector<std::pair<float, int32_t>> found(count);
    for (idx_t q = 0; q < n; ++q) {
      std::copy_n(x + q * d, d, padded.data());
      const RoundedQuery query(x + q * d, d, codes_.stride(), codes_.isa());
      codes_.Score(query.codes(), all_.data(), ntotal, products.data(), scores.data());
      std::nth_element(rows.begin(), rows.begin() + k, rows.end(), [&](int32_t a, int32_t b) {
        const float score_a = scores[static_cast<size_t>(a)], score_b = scores[static_cast<size_t>(b)];
        return score_a != score_b ? score_a > score_b : a < b;
      });
      for (size_t i = 0; i < count; ++i) centroids[i] = get_xb() + int64_t{rows[i]} * d;
      gather_(padded.data(), 1, centroids.data(), k, d, distances + q * k, k, nullptr, 0);
      for (size_t i = 0; i < count; ++i) found[i] = {-distances[q * k + static_cast<idx_t>(i)], rows[i]};
      std::sort(found.begin(), found.end());
      for (size_t i = 0; i < count; ++i) {
        distances[q * k + static_cast<idx_t>(i)] = -found[i].first;
        labels[q * k + static_cast<idx_t>(i)] = found[i].second;
      }
    }
  }

 private:
  const ExactKernels::GatherTile gather_;
  const RowCodes codes_;
  std::vector<int32_t> all_;
};

}  // namespace

absl::StatusOr<int64_t> UseRoundedCentroids(faiss::IndexIVF& index, CpuIsa isa, ScanIsa scan_isa) {
  auto* const flat = dynamic_cast<faiss::IndexFlat*>(index.quantizer);
  if (flat == nullptr || !index.own_fields || flat->metric_type != faiss::METRIC_INNER_PRODUCT || flat->ntotal == 0) return 0;
  const float* const centroids = flat->get_xb();
  const auto copy_centroid = [&](int64_t list, float* out) { std::copy_n(centroids + list * flat->d, flat->d, out); };
  LOCI_ASSIGN_OR_RETURN(RowCodes codes, RowCodes::Create(flat->ntotal, flat->d, scan_isa, copy_centroid));
  const int64_t memory_bytes = codes.memory_bytes() + flat->ntotal * static_cast<int64_t>(sizeof(int32_t));
  auto rounded = std::make_unique<RoundedCentroids>(*flat, std::move(codes), isa);
  delete index.quantizer;
  index.quantizer = rounded.release();
  return memory_bytes;
}

}  // namespace loci
