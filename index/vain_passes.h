// Whether a first pass is worth trying that may turn out in vain, by how the last ones did.
#ifndef LOCI_INDEX_VAIN_PASSES_H_
#define LOCI_INDEX_VAIN_PASSES_H_

#include <algorithm>
#include <atomic>
#include <cstdint>

namespace loci {

// A search that leaves more than half of its queries to what comes after its pass was in vain. With n of them in a row, beyond the first `forgiven`
// (0 or 1), the next 2^n - 1 searches do without a pass, at most 63. One that was not in vain begins anew. Thread-safe.
class VainPasses {
 public:
  explicit VainPasses(int forgiven) : forgiven_(forgiven) {}

  // Whether this search is to try. Ask once a search: it counts.
  bool TakeTurn() {
    // Of two threads that take the last one at a time, one goes on to less than none.
    if (searches_without_.load(std::memory_order_relaxed) <= 0) return true;
    return searches_without_.fetch_sub(1, std::memory_order_relaxed) <= 0;
  }

  // What came of a search that tried.
  void EndTurn(int64_t queries, int64_t left) {
    if (2 * left <= queries) {
      vain_in_a_row_.store(0, std::memory_order_relaxed);
      return;
    }
    const int vain = std::min(vain_in_a_row_.load(std::memory_order_relaxed) + 1, kMaxExponent + forgiven_);
    vain_in_a_row_.store(vain, std::memory_order_relaxed);
    searches_without_.store((1 << (vain - forgiven_)) - 1, std::memory_order_relaxed);
  }

 private:
  static constexpr int kMaxExponent = 6;

  const int forgiven_;
  std::atomic<int> vain_in_a_row_{0};
  std::atomic<int> searches_without_{0};  // To come.
};

}  // namespace loci

#endif  // LOCI_INDEX_VAIN_PASSES_H_
