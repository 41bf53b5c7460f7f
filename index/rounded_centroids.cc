#include "index/rounded_centroids.h"

#include <faiss/IndexFlat.h>

#include <algorithm>
#include <memory>
#include <numeric>
#include <typeinfo>
#include <utility>
#include <vector>

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
  RoundedCentroids(const faiss::IndexFlat& from, CpuIsa isa, ScanIsa scan_isa)
      : faiss::IndexFlat(from),
        gather_(GetExactKernels(isa).gather_float32),
        codes_(ntotal, d, nullptr, scan_isa, [this](int64_t row, float* out) { std::copy_n(get_xb() + row * d, d, out); }),
        all_(static_cast<size_t>(ntotal)) {
    std::iota(all_.begin(), all_.end(), 0);
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

void UseRoundedCentroids(faiss::IndexIVF& index, CpuIsa isa, ScanIsa scan_isa) {
  auto* const flat = dynamic_cast<faiss::IndexFlat*>(index.quantizer);
  if (flat == nullptr || !index.own_fields || flat->metric_type != faiss::METRIC_INNER_PRODUCT || flat->ntotal == 0) return;
  auto rounded = std::make_unique<RoundedCentroids>(*flat, isa, scan_isa);
  delete index.quantizer;
  index.quantizer = rounded.release();
}

}  // namespace loci
