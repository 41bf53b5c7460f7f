// The filter language: text to syntax tree. The grammar, and what each condition means, are SearchRequest's in proto/loci/v1/retrieval.proto.
//
//   LOCI_ASSIGN_OR_RETURN(auto filter, FilterExpression::Parse("lang = \"en\" and year >= 2020"));
//   filter->node(filter->root()).kind;      // kAnd
#ifndef LOCI_INDEX_FILTER_EXPRESSION_H_
#define LOCI_INDEX_FILTER_EXPRESSION_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"

namespace loci {

inline constexpr int64_t kMaxFilterBytes = 256 << 10;
inline constexpr int kMaxFilterDepth = 64;           // Of parentheses and `not`.
inline constexpr int kMaxFilterConditions = 1'000;
inline constexpr int kMaxFilterListValues = 10'000;  // Of all lists together.

// Where a field is looked for. The numbers are those of columns.bin.
enum class FieldSource : uint32_t { kMetadata = 0, kId = 1, kDocumentId = 2, kChunkIndex = 3 };

struct FilterField {
  FieldSource source = FieldSource::kMetadata;
  std::string name;  // The key, of metadata; else empty.
};

// What a condition compares with. Doubles are finite.
using FilterValue = std::variant<std::string, int64_t, double, bool>;

enum class FilterOperator { kEqual, kLess, kLessOrEqual, kGreater, kGreaterOrEqual };

// -1, 0 or 1 as `a` is less than, equal to or greater than `b`, by their exact values; `b` is no NaN.
int CompareExactly(int64_t a, double b);

// Immutable after construction.
class FilterExpression {
 public:
  enum class Kind { kAnd, kOr, kNot, kCompare, kIn, kHas };

  struct Node {
    Kind kind = Kind::kHas;
    std::vector<int> children = {};  // kAnd, kOr: at least two; kNot: one.
    FilterField field = {};          // Of a condition.
    FilterOperator op = FilterOperator::kEqual;  // kCompare; only kEqual with a bool.
    std::vector<FilterValue> values = {};  // kCompare: one. kIn: at least one, sorted (by type, then value), each once.
  };

  // `text` is not empty. INVALID_ARGUMENT: its ErrorInfo has `field` "filter", `position` (the byte where it goes wrong) and `expected`.
  // Takes time in proportion to the length of `text`, whatever it holds.
  static absl::StatusOr<std::shared_ptr<const FilterExpression>> Parse(std::string_view text);

  int root() const { return root_; }
  const Node& node(int number) const { return nodes_[static_cast<size_t>(number)]; }
  int node_count() const { return static_cast<int>(nodes_.size()); }
  // The same filter in the language, fully parenthesised; parsing it gives the same tree.
  std::string ToString() const;

 private:
  friend class FilterParser;
  std::vector<Node> nodes_;
  int root_ = 0;
};

}  // namespace loci

#endif  // LOCI_INDEX_FILTER_EXPRESSION_H_
