#include "index/flat_lists.h"

#include <faiss/IndexIVFFlat.h>
#include <faiss/utils/Heap.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <typeinfo>
#include <vector>

#include "index/exact_kernels.h"

namespace loci {
namespace {

using idx_t = faiss::Index::idx_t;

constexpr size_t kBlockRows = 64;

// Used by one thread.
class FlatScanner final : public faiss::InvertedListScanner {
 public:
  FlatScanner(const faiss::IndexIVFFlat& index, const ExactKernels& kernels, bool store_pairs, const faiss::IDSelector* sel)
      : faiss::InvertedListScanner(store_pairs, sel),
        kernels_(kernels),
        dim_(index.d),
        query_(static_cast<size_t>(PaddedDim(index.d))) {
    keep_max = true;
    code_size = index.code_size;
  }

  void set_query(const float* query) override { std::copy_n(query, dim_, query_.data()); }
  void set_list(idx_t list, float) override { list_no = list; }

  float distance_to_code(const uint8_t* code) const override {
    float score;
    kernels_.tile_float32(query_.data(), 1, code, 1, dim_, &score, 1, nullptr, 0);
    return score;
  }

  size_t scan_codes(size_t count, const uint8_t* codes, const idx_t* ids, float* scores, idx_t* labels, size_t k) const override {
    size_t updates = 0;
    float block[kBlockRows];
    for (size_t first = 0; first < count; first += kBlockRows) {
      const size_t some = std::min(kBlockRows, count - first);
      const size_t ahead = std::min(kBlockRows, count - first - some);
      const uint8_t* const next = codes + (first + some) * code_size;
      kernels_.tile_float32(query_.data(), 1, codes + first * code_size, static_cast<int64_t>(some), dim_, block, kBlockRows,
                            reinterpret_cast<const char*>(next), static_cast<int64_t>(ahead * code_size));
      for (uint64_t bits = kernels_.not_below(block, static_cast<int>(some), scores[0]); bits != 0; bits &= bits - 1) {
        const size_t i = static_cast<size_t>(std::countr_zero(bits));
        if (!(block[i] > scores[0])) continue;
        const idx_t at = static_cast<idx_t>(first + i);
        if (sel != nullptr && !sel->is_member(store_pairs ? at : ids[at])) continue;
        faiss::minheap_replace_top(k, scores, labels, block[i], store_pairs ? list_no << 32 | at : ids[at]);
        ++updates;
      }
    }
    return updates;
  }

 private:
  const ExactKernels& kernels_;
  const int dim_;
  std::vector<float> query_;  // [PaddedDim(dim_)]
};

class FlatLists final : public faiss::IndexIVFFlat {
 public:
  // Takes over what `from` owns. Copying may throw; until it is done nothing has two owners.
  FlatLists(faiss::IndexIVFFlat& from, CpuIsa isa) try : faiss::IndexIVFFlat(Disowned(from)), kernels_(GetExactKernels(isa)) {
    own_fields = own_invlists = true;
  } catch (...) {
    from.own_fields = from.own_invlists = true;
  }
  faiss::InvertedListScanner* get_InvertedListScanner(bool store_pairs, const faiss::IDSelector* sel) const override {
    return new FlatScanner(*this, kernels_, store_pairs, sel);
  }

 private:
  static faiss::IndexIVFFlat& Disowned(faiss::IndexIVFFlat& from) {
    from.own_fields = from.own_invlists = false;
    return from;
  }
  const ExactKernels& kernels_;
};

}  // namespace

std::unique_ptr<faiss::Index> WithFlatLists(std::unique_ptr<faiss::Index> index, CpuIsa isa) {
  auto* const lists = dynamic_cast<faiss::IndexIVFFlat*>(index.get());
  const bool fits = lists != nullptr && lists->own_fields && lists->own_invlists && typeid(*lists) == typeid(faiss::IndexIVFFlat) &&
                    lists->metric_type == faiss::METRIC_INNER_PRODUCT &&
                    lists->code_size == sizeof(float) * static_cast<size_t>(lists->d);
  if (!fits) return index;
  return std::make_unique<FlatLists>(*lists, isa);
}

}  // namespace loci
