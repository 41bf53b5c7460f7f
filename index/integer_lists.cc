#include "index/integer_lists.h"

#include <faiss/IndexScalarQuantizer.h>
#include <faiss/utils/Heap.h>
#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "index/faiss_limits.h"

namespace loci {
namespace {

using idx_t = faiss::Index::idx_t;

constexpr int kMaxWeight = 63;
constexpr int kBlock = 32;  // Dimensions that one register holds.
constexpr int kCodesAtOnce = 4;
constexpr float kMiddle = 127.5f;
constexpr size_t kCheckCodes = 8192;  // Between looks at the limits: some tenths of a millisecond.

int32_t Sum(__m256i values) {
  const __m128i half = _mm_add_epi32(_mm256_castsi256_si128(values), _mm256_extracti128_si256(values, 1));
  const __m128i quarter = _mm_add_epi32(half, _mm_unpackhi_epi64(half, half));
  return _mm_cvtsi128_si32(_mm_add_epi32(quarter, _mm_shuffle_epi32(quarter, 1)));
}

// sum[i] = codes[i * dim ..] . weights for kCount codes. `weights` [dim], each within kMaxWeight.
template <int kCount>
void Products(const uint8_t* codes, const int8_t* weights, size_t dim, int32_t* sums) {
  const __m256i ones = _mm256_set1_epi16(1);
  __m256i accumulators[kCount];
  for (__m256i& accumulator : accumulators) accumulator = _mm256_setzero_si256();
  size_t d = 0;
  for (; d + kBlock <= dim; d += kBlock) {
    const __m256i weight = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(weights + d));
#pragma GCC unroll 4
    for (int i = 0; i < kCount; ++i) {
      const __m256i code = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes + static_cast<size_t>(i) * dim + d));
      accumulators[i] = _mm256_add_epi32(accumulators[i], _mm256_madd_epi16(_mm256_maddubs_epi16(code, weight), ones));
    }
  }
  for (int i = 0; i < kCount; ++i) {
    sums[i] = Sum(accumulators[i]);
    for (size_t rest = d; rest < dim; ++rest) sums[i] += codes[static_cast<size_t>(i) * dim + rest] * weights[rest];
  }
}

// Used by one thread.
class IntegerScanner final : public faiss::InvertedListScanner {
 public:
  IntegerScanner(const faiss::IndexIVFScalarQuantizer& index, bool store_pairs, const faiss::IDSelector* sel)
      : faiss::InvertedListScanner(store_pairs, sel),
        dim_(static_cast<size_t>(index.d)),
        by_residual_(index.by_residual),
        low_(index.sq.trained.data()),
        range_(index.sq.trained.data() + index.d),
        weights_(static_cast<size_t>(index.d)) {
    keep_max = true;
    code_size = index.code_size;
  }

  void set_query(const float* query) override {
    double middle = 0;
    float largest = 0;
    for (size_t d = 0; d < dim_; ++d) largest = std::max(largest, std::abs(query[d] * range_[d]));
    // Where that overflows, or there is nothing to round, all codes of a list score alike.
    const float to_weight = largest > 0 && std::isfinite(largest) ? kMaxWeight / largest : 0;
    int32_t weight_sum = 0;
    for (size_t d = 0; d < dim_; ++d) {
      weights_[d] = to_weight > 0 ? static_cast<int8_t>(std::lround(query[d] * range_[d] * to_weight)) : int8_t{0};
      weight_sum += weights_[d];
      // (code + 0.5) / 255 of the range, at the middle code.
      middle += static_cast<double>(query[d]) * (low_[d] + static_cast<double>(range_[d]) * ((kMiddle + 0.5) / 255));
    }
    step_ = to_weight > 0 ? 1 / (to_weight * 255) : 0;
    offset_ = static_cast<float>(middle - static_cast<double>(step_) * kMiddle * weight_sum);
  }

  void set_list(idx_t list, float coarse_score) override {
    list_no = list;
    list_offset_ = offset_ + (by_residual_ ? coarse_score : 0);
  }

  float distance_to_code(const uint8_t* code) const override {
    int32_t sum;
    Products<1>(code, weights_.data(), dim_, &sum);
    return list_offset_ + step_ * static_cast<float>(sum);
  }

  size_t scan_codes(size_t count, const uint8_t* codes, const idx_t* ids, float* scores, idx_t* labels, size_t k) const override {
    size_t updates = 0;
    for (size_t begin = 0; begin < count; begin += kCheckCodes) {
      const size_t end = std::min(count, begin + kCheckCodes);
      unchecked_codes_ += end - begin;
      if (unchecked_codes_ >= kCheckCodes) {
        unchecked_codes_ = 0;
        ended_ = ended_ || FaissLimitsEnded();
      }
      if (ended_) break;  // FAISS asks too, once the lists are through.
      updates += ScanPart(begin, end, codes, ids, scores, labels, k);
    }
    return updates;
  }

 private:
  // Codes [begin, end) of a list.
  size_t ScanPart(size_t begin, size_t end, const uint8_t* codes, const idx_t* ids, float* scores, idx_t* labels, size_t k) const {
    size_t updates = 0;
    int32_t sums[kCodesAtOnce];
    for (size_t first = begin; first < end; first += kCodesAtOnce) {
      const size_t some = std::min<size_t>(kCodesAtOnce, end - first);
      const uint8_t* const code = codes + first * dim_;
      if (some == kCodesAtOnce) {
        Products<kCodesAtOnce>(code, weights_.data(), dim_, sums);
      } else {
        for (size_t i = 0; i < some; ++i) Products<1>(code + i * dim_, weights_.data(), dim_, sums + i);
      }
      for (size_t i = 0; i < some; ++i) {
        const float score = list_offset_ + step_ * static_cast<float>(sums[i]);
        if (!(score > scores[0])) continue;
        const idx_t at = static_cast<idx_t>(first + i);
        if (sel != nullptr && !sel->is_member(store_pairs ? at : ids[at])) continue;
        faiss::minheap_replace_top(k, scores, labels, score, store_pairs ? list_no << 32 | at : ids[at]);
        ++updates;
      }
    }
    return updates;
  }

  // Constant after construction.
  const size_t dim_;
  const bool by_residual_;
  const float* const low_;    // [dim_], of the index.
  const float* const range_;  // [dim_]

  // Of the query.
  std::vector<int8_t> weights_;
  float step_ = 0;
  float offset_ = 0;
  // And of the list.
  float list_offset_ = 0;

  // Of all lists of the search.
  mutable size_t unchecked_codes_ = 0;
  mutable bool ended_ = false;
};

class IntegerLists final : public faiss::IndexIVFScalarQuantizer {
 public:
  // Takes over what `from` owns. Copying may throw; until it is done nothing has two owners.
  explicit IntegerLists(faiss::IndexIVFScalarQuantizer& from) try : faiss::IndexIVFScalarQuantizer(Disowned(from)) {
    own_fields = own_invlists = true;
  } catch (...) {
    from.own_fields = from.own_invlists = true;
  }
  faiss::InvertedListScanner* get_InvertedListScanner(bool store_pairs, const faiss::IDSelector* sel) const override {
    return new IntegerScanner(*this, store_pairs, sel);
  }

 private:
  static faiss::IndexIVFScalarQuantizer& Disowned(faiss::IndexIVFScalarQuantizer& from) {
    from.own_fields = from.own_invlists = false;
    return from;
  }
};

}  // namespace

std::unique_ptr<faiss::Index> WithIntegerLists(std::unique_ptr<faiss::Index> index) {
  auto* const lists = dynamic_cast<faiss::IndexIVFScalarQuantizer*>(index.get());
  const bool fits = lists != nullptr && lists->own_fields && lists->own_invlists && lists->metric_type == faiss::METRIC_INNER_PRODUCT &&
                    lists->sq.qtype == faiss::ScalarQuantizer::QT_8bit && lists->code_size == static_cast<size_t>(lists->d) &&
                    lists->sq.trained.size() == 2 * static_cast<size_t>(lists->d);
  if (!fits) return index;
  return std::make_unique<IntegerLists>(*lists);
}

}  // namespace loci
