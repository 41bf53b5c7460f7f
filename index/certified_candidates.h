// Rows that may be among the best of one query, each with bounds of its score.
#ifndef LOCI_INDEX_CERTIFIED_CANDIDATES_H_
#define LOCI_INDEX_CERTIFIED_CANDIDATES_H_

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "index/certified_plan.h"

namespace loci {

// Rows that may be among the best top_k of one query.
// Used by one thread.
class CertifiedCandidates {
 public:
  struct Row {
    double lower;
    double upper;
    int64_t row;
  };

  explicit CertifiedCandidates(int top_k)
      : top_k_(static_cast<size_t>(top_k)),
        limit_(static_cast<size_t>(CandidateLimit(top_k))),
        max_size_(static_cast<size_t>(MaxCandidates(top_k))),
        shrink_size_(2 * top_k_ + 128) {}

  // What no row may be below, since top_k rows are not.
  double threshold() const { return threshold_; }
  void Raise(double threshold) { threshold_ = std::max(threshold_, threshold); }
  // More rows were left than are scored one by one: none are kept.
  bool given_up() const { return given_up_; }
  std::vector<Row>& rows() { return rows_; }

  // Whether the threshold may have risen.
  bool Add(const Row& row) {
    rows_.push_back(row);
    if (rows_.size() < shrink_size_ || !Shrink()) return false;
    shrink_size_ = std::max(shrink_size_, std::min(2 * rows_.size(), max_size_));
    rows_.reserve(shrink_size_);
    return true;
  }

  // Drops the rows below the threshold, which it raises first. False where the query is given up.
  bool Shrink() {
    if (given_up_) return false;
    if (rows_.size() >= top_k_) {
      const auto last = rows_.begin() + static_cast<int64_t>(top_k_) - 1;
      std::nth_element(rows_.begin(), last, rows_.end(), [](const Row& a, const Row& b) { return a.lower > b.lower; });
      Raise(last->lower);
    }
    std::erase_if(rows_, [this](const Row& row) { return row.upper < threshold_; });
    if (rows_.size() > limit_) {
      GiveUp();
      return false;
    }
    return true;
  }

  void Merge(CertifiedCandidates& other) {
    if (other.given_up_) GiveUp();
    if (given_up_) return;
    Raise(other.threshold_);
    rows_.insert(rows_.end(), other.rows_.begin(), other.rows_.end());
    Shrink();
  }

  void GiveUp() {
    given_up_ = true;
    std::vector<Row>().swap(rows_);
  }

 private:
  size_t top_k_;
  size_t limit_;
  size_t max_size_;
  size_t shrink_size_;
  std::vector<Row> rows_;
  double threshold_ = -std::numeric_limits<double>::infinity();
  bool given_up_ = false;
};

}  // namespace loci

#endif  // LOCI_INDEX_CERTIFIED_CANDIDATES_H_
