#include "encoder/tokenizer_trie.h"

#include <algorithm>
#include <deque>

namespace loci {
namespace {

// A base is at most this far behind the last cell, so that a search never leaves the array.
constexpr size_t kAlphabet = 256;
// After so many failed bases the front of the array is taken as full: building stays linear, at the cost of a few cells.
constexpr int kMaxTries = 512;

}  // namespace

PieceTrie::PieceTrie() : PieceTrie(std::vector<std::pair<std::string, int32_t>>()) {}

PieceTrie::PieceTrie(std::vector<std::pair<std::string, int32_t>> keys) {
  std::stable_sort(keys.begin(), keys.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  cells_.resize(2 * kAlphabet);
  cells_[0].parent = -2;  // Taken, and nobody's child: a leaf has base 0, so byte 0 leads from it to here.

  struct Range {
    Node node;
    size_t depth, begin, end;
  };
  std::deque<Range> queue = {{kRoot, 0, 0, keys.size()}};
  std::vector<uint8_t> labels;
  std::vector<size_t> starts;
  while (!queue.empty()) {
    const Range range = queue.front();
    queue.pop_front();
    size_t i = range.begin;
    for (; i < range.end && keys[i].first.size() == range.depth; ++i) {
      int32_t& value = cells_[static_cast<size_t>(range.node)].value;
      if (value < 0) value = keys[i].second;
    }
    labels.clear();
    starts.clear();
    for (; i < range.end; ++i) {
      const auto label = static_cast<uint8_t>(keys[i].first[range.depth]);
      if (labels.empty() || labels.back() != label) {
        labels.push_back(label);
        starts.push_back(i);
      }
    }
    if (labels.empty()) continue;
    const int32_t base = FindBase(labels);
    cells_[static_cast<size_t>(range.node)].base = base;
    for (size_t k = 0; k < labels.size(); ++k) {
      const Node child = base + labels[k];
      cells_[static_cast<size_t>(child)].parent = range.node;
      queue.push_back({child, range.depth + 1, starts[k], k + 1 < labels.size() ? starts[k + 1] : range.end});
    }
  }
  cells_.shrink_to_fit();
}

int32_t PieceTrie::FindBase(const std::vector<uint8_t>& labels) {
  while (first_free_ < cells_.size() && cells_[first_free_].parent != -1) ++first_free_;
  int tries = 0;
  size_t candidate = first_free_ > labels[0] ? first_free_ - labels[0] : 1;
  for (;; ++candidate) {
    if (candidate + 2 * kAlphabet > cells_.size()) cells_.resize(cells_.size() * 2);
    if (cells_[candidate + labels[0]].parent != -1) continue;
    const bool fits =
        std::all_of(labels.begin(), labels.end(), [&](uint8_t label) { return cells_[candidate + label].parent == -1; });
    if (fits) return static_cast<int32_t>(candidate);
    if (++tries == kMaxTries) first_free_ = candidate + labels[0];  // Cells before it stay unused.
  }
}

PieceTrie::Node PieceTrie::Descend(Node from, std::string_view key) const {
  Node node = from;
  for (const char c : key) {
    const Node next = cells_[static_cast<size_t>(node)].base + static_cast<uint8_t>(c);
    if (cells_[static_cast<size_t>(next)].parent != node) return kNone;
    node = next;
  }
  return node;
}

}  // namespace loci
