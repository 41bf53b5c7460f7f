// 128 bits that stand for a text: the first half of its SHA-256.
#ifndef LOCI_INDEX_CONTENT_HASH_H_
#define LOCI_INDEX_CONTENT_HASH_H_

#include <compare>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <utility>

namespace loci {

// Two texts have the same one only by an accident that nobody will see, nor, short of breaking SHA-256, bring about.
struct ContentHash {
  uint64_t high = 0;
  uint64_t low = 0;
  friend auto operator<=>(const ContentHash&, const ContentHash&) = default;
  template <typename H>
  friend H AbslHashValue(H state, const ContentHash& hash) {
    return H::combine(std::move(state), hash.low);
  }
};

ContentHash HashContent(std::string_view text);

}  // namespace loci

#endif  // LOCI_INDEX_CONTENT_HASH_H_
