// A set of byte strings with values, for longest-prefix look-ups: a double-array trie.
//
// Aoe 1989, "An efficient digital search algorithm by using a double-array structure". One load per byte of the key, no hashing.
#ifndef LOCI_ENCODER_TOKENIZER_TRIE_H_
#define LOCI_ENCODER_TOKENIZER_TRIE_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace loci {

// Immutable after construction.
class PieceTrie {
 public:
  using Node = int32_t;
  static constexpr Node kRoot = 0;
  static constexpr Node kNone = -1;

  struct Match {
    int32_t value = -1;  // -1: no key is a prefix.
    size_t length = 0;   // Of the key, from the node that the search began at.
  };

  // An empty set.
  PieceTrie();
  // Keys may be empty and hold any byte; values are >= 0. Of equal keys the first wins.
  explicit PieceTrie(std::vector<std::pair<std::string, int32_t>> keys);

  // The node that `key` leads to from `from`, or kNone: a search from it is one below that prefix.
  Node Descend(Node from, std::string_view key) const;

  // The longest key below `from` that `text` begins with. An empty key does not match.
  Match LongestPrefix(Node from, std::string_view text) const {
    Match best;
    Node node = from;
    for (size_t i = 0; i < text.size(); ++i) {
      const Node next = cells_[static_cast<size_t>(node)].base + static_cast<uint8_t>(text[i]);
      const Cell& cell = cells_[static_cast<size_t>(next)];
      if (cell.parent != node) break;
      node = next;
      if (cell.value >= 0) best = {cell.value, i + 1};
    }
    return best;
  }

 private:
  struct Cell {
    int32_t base = 0;     // The child for byte b is base + b. 0 where there is none: no inner node has base 0.
    int32_t parent = -1;  // -1: free.
    int32_t value = -1;
  };

  // The smallest base at which all of `labels` (rising) are free; grows cells_.
  int32_t FindBase(const std::vector<uint8_t>& labels);

  std::vector<Cell> cells_;
  size_t first_free_ = 1;  // Searches begin here. Used while building.
};

}  // namespace loci

#endif  // LOCI_ENCODER_TOKENIZER_TRIE_H_
