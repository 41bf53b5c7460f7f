#include <algorithm>
#include <cmath>
#include <utility>

#include "base/clock.h"
#include "base/status_macros.h"
#include "index/metadata_columns.h"
#include "index/metadata_record.h"

namespace loci {
namespace {

constexpr int64_t kCheckLookups = 256;  // Between looks at the limits.

using Kind = FilterExpression::Kind;
using Node = FilterExpression::Node;
using Number = std::variant<int64_t, double>;
using Values = MetadataColumns::Values;

// Those of ascending `values` for which `op` holds. `compare(value)` is -1, 0 or 1 as a value is less than, equal to or greater than what is wanted.
template <typename Compare>
Values Holding(FilterOperator op, Values values, const Compare& compare) {
  const auto first = [&](const auto& is_before) {
    int64_t begin = values.begin, end = values.end;
    while (begin < end) {
      const int64_t middle = begin + (end - begin) / 2;
      if (is_before(middle)) {
        begin = middle + 1;
      } else {
        end = middle;
      }
    }
    return begin;
  };
  const auto not_less = [&] { return first([&](int64_t value) { return compare(value) < 0; }); };
  const auto greater = [&] { return first([&](int64_t value) { return compare(value) <= 0; }); };
  switch (op) {
    case FilterOperator::kEqual: return {not_less(), greater()};
    case FilterOperator::kLess: return {values.begin, not_less()};
    case FilterOperator::kLessOrEqual: return {values.begin, greater()};
    case FilterOperator::kGreater: return {greater(), values.end};
    case FilterOperator::kGreaterOrEqual: return {not_less(), values.end};
  }
  return {};
}

class Evaluator {
 public:
  Evaluator(const FilterExpression& filter, const MetadataColumns& columns, const IdLookup& ids, const RequestLimits& limits)
      : filter_(filter), columns_(columns), ids_(ids), limits_(limits) {}

  // The depth of the tree is bounded by the parser.
  absl::StatusOr<RowSet> Evaluate(int number) {
    LOCI_RETURN_IF_ERROR(limits_.Check(RealClock().NowMicros()));
    const Node& node = filter_.node(number);
    switch (node.kind) {
      case Kind::kNot: {
        LOCI_ASSIGN_OR_RETURN(const RowSet inner, Evaluate(node.children[0]));
        return inner.Complement(columns_.row_count());
      }
      case Kind::kAnd:
      case Kind::kOr: {
        LOCI_ASSIGN_OR_RETURN(RowSet rows, Evaluate(node.children[0]));
        for (size_t i = 1; i < node.children.size(); ++i) {
          if (node.kind == Kind::kAnd && rows.empty()) break;
          LOCI_ASSIGN_OR_RETURN(const RowSet other, Evaluate(node.children[i]));
          if (node.kind == Kind::kAnd) {
            rows.IntersectWith(other);
          } else {
            rows.UniteWith(other);
          }
        }
        return rows;
      }
      case Kind::kHas: {
        if (node.field.source == FieldSource::kId) return RowSet::Range(0, columns_.row_count());
        std::vector<Values> ranges;
        for (const ColumnType type : kColumnTypes) ranges.push_back(columns_.Find(node.field, type));
        return columns_.RowsOf(ranges);
      }
      case Kind::kCompare:
      case Kind::kIn: break;
    }
    if (node.field.source == FieldSource::kId) return EvaluateId(node);
    std::vector<Values> ranges;
    for (const FilterValue& wanted : node.values) AddRanges(node, wanted, &ranges);
    return columns_.RowsOf(ranges);
  }

 private:
  void AddRanges(const Node& node, const FilterValue& wanted, std::vector<Values>* ranges) const {
    const auto add = [&](ColumnType type, const auto& compare) {
      const Values holding = Holding(node.op, columns_.Find(node.field, type), compare);
      if (holding.begin < holding.end) ranges->push_back(holding);
    };
    if (const auto* text = std::get_if<std::string>(&wanted)) {
      add(ColumnType::kString, [&](int64_t value) { return columns_.string_value(value).compare(*text); });
    } else if (const auto* truth = std::get_if<bool>(&wanted)) {
      add(ColumnType::kBool, [&](int64_t value) { return static_cast<int>(columns_.int64_value(value)) - *truth; });
    } else {
      const auto* integer = std::get_if<int64_t>(&wanted);
      const Number number = integer != nullptr ? Number(*integer) : Number(std::get<double>(wanted));
      add(ColumnType::kInt64, [&](int64_t value) { return CompareNumbers(columns_.int64_value(value), number); });
      // NaN is a value's last, and fits no comparison.
      Values doubles = columns_.Find(node.field, ColumnType::kDouble);
      if (doubles.begin < doubles.end && std::isnan(columns_.double_value(doubles.end - 1))) --doubles.end;
      const Values holding = Holding(node.op, doubles, [&](int64_t value) { return CompareNumbers(columns_.double_value(value), number); });
      if (holding.begin < holding.end) ranges->push_back(holding);
    }
  }

  absl::StatusOr<RowSet> EvaluateId(const Node& node) {
    std::vector<uint32_t> rows;
    for (const FilterValue& value : node.values) {
      const std::string* const wanted = std::get_if<std::string>(&value);
      if (wanted == nullptr) continue;
      if (node.op != FilterOperator::kEqual) return RowsByIdOrder(node.op, *wanted);
      if (++lookup_count_ % kCheckLookups == 0) LOCI_RETURN_IF_ERROR(limits_.Check(RealClock().NowMicros()));
      LOCI_ASSIGN_OR_RETURN(const std::optional<int64_t> row, ids_.find_row(*wanted));
      if (row.has_value()) rows.push_back(static_cast<uint32_t>(*row));
    }
    return RowSet::FromRows(std::move(rows), columns_.row_count());
  }

  // Rows are in the order of ids.
  absl::StatusOr<RowSet> RowsByIdOrder(FilterOperator op, const std::string& wanted) const {
    absl::Status failure;
    const Values rows = Holding(op, {0, columns_.row_count()}, [&](int64_t row) {
      if (!failure.ok()) return 0;
      const absl::StatusOr<std::string> id = ids_.read_id(row);
      failure = id.status();
      return id.ok() ? id->compare(wanted) : 0;
    });
    LOCI_RETURN_IF_ERROR(failure);
    return RowSet::Range(rows.begin, rows.end);
  }

  const FilterExpression& filter_;
  const MetadataColumns& columns_;
  const IdLookup& ids_;
  const RequestLimits& limits_;
  int64_t lookup_count_ = 0;
};

}  // namespace

absl::StatusOr<RowSet> EvaluateFilter(const FilterExpression& filter, const MetadataColumns& columns, const IdLookup& ids,
                                      const RequestLimits& limits) {
  LOCI_ASSIGN_OR_RETURN(RowSet rows, Evaluator(filter, columns, ids, limits).Evaluate(filter.root()));
  LOCI_RETURN_IF_ERROR(columns.Check());
  return rows;
}

}  // namespace loci
