// SplitMix64 (Steele et al. 2014): the same numbers everywhere, for draws that must be repeatable. Not for secrets.
#ifndef LOCI_BASE_SPLIT_MIX_H_
#define LOCI_BASE_SPLIT_MIX_H_

#include <cstdint>

namespace loci {

// Thread-compatible.
class SplitMix64 {
 public:
  static constexpr uint64_t kIncrement = 0x9E3779B97F4A7C15u;

  explicit SplitMix64(uint64_t state) : state_(state) {}

  uint64_t Next() { return Mix(state_ += kIncrement); }
  // In [0, 1), a multiple of 2^-53.
  double Uniform() { return static_cast<double>(Next() >> 11) * 0x1p-53; }
  // In [0, limit), limit > 0. The smaller numbers are likelier by limit / 2^64 at most.
  int64_t Below(int64_t limit) { return static_cast<int64_t>(Next() % static_cast<uint64_t>(limit)); }

  // A bijection whose every bit depends on all of `z`.
  static uint64_t Mix(uint64_t z) {
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
  }

 private:
  uint64_t state_;
};

}  // namespace loci

#endif  // LOCI_BASE_SPLIT_MIX_H_
