#include "index/flat_lists.h"

#include <faiss/IndexIVFFlat.h>
#include <faiss/utils/Heap.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <typeinfo>
#include <vector>

#include "index/exact_kernels.h"
#include "index/faiss_limits.h"

namespace loci {
namespace {

using idx_t = faiss::Index::idx_t;

// Rows of a tile, while which as many are asked for ahead: 24 KiB of 384 elements.
constexpr size_t kBlockRows = 16;

constexpr size_t kCheckRows = 1024;  // Between looks at the limits: about a tenth of a millisecond.

// The vectors of a list.
struct ListRows {
  const uint8_t* codes = nullptr;
  size_t count = 0;
};

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
    return Scan({codes, count}, {}, ids, scores, labels, k);
  }

  // scan_codes of `rows`, which asks for the first rows of `then` while it scores its last.
  size_t Scan(ListRows rows, ListRows then, const idx_t* ids, float* scores, idx_t* labels, size_t k) const {
    size_t updates = 0;
    float block[kBlockRows];
    const auto [codes, count] = rows;
    for (size_t first = 0; first < count; first += kBlockRows) {
      if (first % kCheckRows == 0 && FaissLimitsEnded()) break;  // Whoever asked for the search looks at them too.
      const size_t some = std::min(kBlockRows, count - first);
      const bool last = first + some == count;
      const uint8_t* const next = last ? then.codes : codes + (first + some) * code_size;
      const size_t ahead = std::min(kBlockRows, last ? then.count : count - first - some);
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

  // The search of one query on its thread knows which list comes next; the rest is FAISS's.
  void search_preassigned(idx_t n, const float* x, idx_t k, const idx_t* keys, const float* coarse_dis, float* distances, idx_t* labels,
                          bool store_pairs, const faiss::IVFSearchParameters* params, faiss::IndexIVFStats* stats) const override {
    const bool plain = parallel_mode == 0 && !store_pairs && (params != nullptr ? params->max_codes : max_codes) == 0;
    if (!plain || k <= 0) {
      return faiss::IndexIVFFlat::search_preassigned(n, x, k, keys, coarse_dis, distances, labels, store_pairs, params, stats);
    }
    const size_t probes = std::min(params != nullptr ? params->nprobe : nprobe, nlist);
    FlatScanner scanner(*this, kernels_, false, params != nullptr ? params->sel : nullptr);
    for (idx_t i = 0; i < n; ++i, distances += k, labels += k, keys += probes) {
      scanner.set_query(x + i * d);
      faiss::minheap_heapify(static_cast<size_t>(k), distances, labels);
      for (size_t probe = 0; probe < probes && keys[probe] >= 0; ++probe) {
        const idx_t list = keys[probe];
        const bool more = probe + 1 < probes && keys[probe + 1] >= 0;
        scanner.Scan(RowsOf(list), more ? RowsOf(keys[probe + 1]) : ListRows{}, invlists->get_ids(static_cast<size_t>(list)), distances, labels,
                     static_cast<size_t>(k));
      }
      faiss::minheap_reorder(static_cast<size_t>(k), distances, labels);
    }
  }

 private:
  ListRows RowsOf(idx_t list) const {
    return {invlists->get_codes(static_cast<size_t>(list)), invlists->list_size(static_cast<size_t>(list))};
  }

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
