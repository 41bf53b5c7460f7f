#include "index/metadata_record.h"

#include <algorithm>
#include <cmath>
#include <tuple>
#include <type_traits>
#include <utility>

namespace loci {
namespace {

using Number = std::variant<int64_t, double>;

bool MatchesString(const FilterExpression::Node& node, std::string_view stored) {
  if (node.kind == FilterExpression::Kind::kCompare) {
    const std::string* const wanted = std::get_if<std::string>(&node.values[0]);
    return wanted != nullptr && Holds(node.op, stored.compare(*wanted));
  }
  // Strings come first among the values of a list.
  const auto end = std::partition_point(node.values.begin(), node.values.end(),
                                        [](const FilterValue& value) { return std::holds_alternative<std::string>(value); });
  const auto found = std::partition_point(node.values.begin(), end, [&](const FilterValue& value) { return std::get<std::string>(value) < stored; });
  return found != end && std::get<std::string>(*found) == stored;
}

bool MatchesNumber(const FilterExpression::Node& node, const Number& stored) {
  if (const double* const number = std::get_if<double>(&stored); number != nullptr && std::isnan(*number)) return false;
  const auto compare = [&](const FilterValue& wanted) -> int {
    const int64_t* const integer = std::get_if<int64_t>(&wanted);
    return CompareNumbers(stored, integer != nullptr ? Number(*integer) : Number(std::get<double>(wanted)));
  };
  if (node.kind == FilterExpression::Kind::kCompare) {
    const FilterValue& wanted = node.values[0];
    if (!std::holds_alternative<int64_t>(wanted) && !std::holds_alternative<double>(wanted)) return false;
    return Holds(node.op, compare(wanted));
  }
  // Integers, then doubles, each ascending.
  const auto among = [&](size_t type) {
    const auto begin = std::partition_point(node.values.begin(), node.values.end(), [&](const FilterValue& value) { return value.index() < type; });
    const auto end = std::partition_point(begin, node.values.end(), [&](const FilterValue& value) { return value.index() == type; });
    const auto found = std::partition_point(begin, end, [&](const FilterValue& value) { return compare(value) > 0; });
    return found != end && compare(*found) == 0;
  };
  return among(FilterValue(int64_t{0}).index()) || among(FilterValue(0.0).index());
}

bool MatchesBool(const FilterExpression::Node& node, bool stored) {
  return std::any_of(node.values.begin(), node.values.end(), [&](const FilterValue& value) {
    const bool* const wanted = std::get_if<bool>(&value);
    return wanted != nullptr && *wanted == stored;
  });
}

bool MatchesField(const FilterExpression::Node& node, const MetadataField& field) {
  return std::visit(
      [&](const auto& stored) {
        using T = std::decay_t<decltype(stored)>;
        if constexpr (std::is_same_v<T, std::string>) {
          return MatchesString(node, stored);
        } else if constexpr (std::is_same_v<T, bool>) {
          return MatchesBool(node, stored);
        } else if constexpr (std::is_same_v<T, std::vector<std::string>>) {
          return std::any_of(stored.begin(), stored.end(), [&](const std::string& item) { return MatchesString(node, item); });
        } else {
          return MatchesNumber(node, Number(stored));
        }
      },
      field);
}

// The depth of the tree is bounded by the parser.
bool MatchesNode(const FilterExpression& filter, int number, const MetadataRecord& record, std::string_view id) {
  const FilterExpression::Node& node = filter.node(number);
  const auto matches = [&](int child) { return MatchesNode(filter, child, record, id); };
  switch (node.kind) {
    case FilterExpression::Kind::kAnd: return std::all_of(node.children.begin(), node.children.end(), matches);
    case FilterExpression::Kind::kOr: return std::any_of(node.children.begin(), node.children.end(), matches);
    case FilterExpression::Kind::kNot: return !matches(node.children[0]);
    case FilterExpression::Kind::kHas: return node.field.source == FieldSource::kId || record.Find(node.field) != nullptr;
    case FilterExpression::Kind::kCompare:
    case FilterExpression::Kind::kIn: break;
  }
  if (node.field.source == FieldSource::kId) return MatchesString(node, id);
  const MetadataField* const field = record.Find(node.field);
  return field != nullptr && MatchesField(node, *field);
}

}  // namespace

int CompareNumbers(const Number& stored, const Number& wanted) {
  const int64_t* const a = std::get_if<int64_t>(&stored);
  const int64_t* const b = std::get_if<int64_t>(&wanted);
  if (a != nullptr && b != nullptr) return *a < *b ? -1 : *a > *b;
  if (a != nullptr) return CompareExactly(*a, std::get<double>(wanted));
  const double x = std::get<double>(stored);
  if (std::isnan(x)) return 1;
  if (b != nullptr) return -CompareExactly(*b, x);
  const double y = std::get<double>(wanted);
  return x < y ? -1 : x > y;
}

bool Holds(FilterOperator op, int comparison) {
  switch (op) {
    case FilterOperator::kEqual: return comparison == 0;
    case FilterOperator::kLess: return comparison < 0;
    case FilterOperator::kLessOrEqual: return comparison <= 0;
    case FilterOperator::kGreater: return comparison > 0;
    case FilterOperator::kGreaterOrEqual: return comparison >= 0;
  }
  return false;
}

MetadataRecord::MetadataRecord(const v1::Passage& passage) {
  entries_.reserve(static_cast<size_t>(passage.metadata_size()) + (passage.document_id().empty() ? 0 : 2));
  for (const auto& [key, value] : passage.metadata()) {
    switch (value.kind_case()) {
      case v1::MetadataValue::kStringValue: entries_.push_back({FieldSource::kMetadata, key, value.string_value()}); break;
      case v1::MetadataValue::kInt64Value: entries_.push_back({FieldSource::kMetadata, key, value.int64_value()}); break;
      case v1::MetadataValue::kDoubleValue: entries_.push_back({FieldSource::kMetadata, key, value.double_value()}); break;
      case v1::MetadataValue::kBoolValue: entries_.push_back({FieldSource::kMetadata, key, value.bool_value()}); break;
      case v1::MetadataValue::kStringListValue: {
        const auto& list = value.string_list_value().values();
        entries_.push_back({FieldSource::kMetadata, key, std::vector<std::string>(list.begin(), list.end())});
        break;
      }
      case v1::MetadataValue::KIND_NOT_SET: break;  // No value: as if the key were not there.
    }
  }
  if (!passage.document_id().empty()) {
    entries_.push_back({FieldSource::kDocumentId, "", passage.document_id()});
    entries_.push_back({FieldSource::kChunkIndex, "", int64_t{passage.chunk_index()}});
  }
  std::sort(entries_.begin(), entries_.end(),
            [](const Entry& a, const Entry& b) { return std::tie(a.source, a.name) < std::tie(b.source, b.name); });
}

const MetadataField* MetadataRecord::Find(const FilterField& field) const {
  // A few entries are looked through faster than they are halved.
  for (const Entry& entry : entries_) {
    if (entry.source == field.source && entry.name == field.name) return &entry.value;
  }
  return nullptr;
}

int64_t MetadataRecord::memory_bytes() const {
  const auto text_bytes = [](const std::string& text) { return text.capacity() > 15 ? static_cast<int64_t>(text.capacity()) + 1 : 0; };
  int64_t bytes = static_cast<int64_t>(entries_.capacity() * sizeof(Entry));
  for (const Entry& entry : entries_) {
    bytes += text_bytes(entry.name);
    if (const auto* text = std::get_if<std::string>(&entry.value)) bytes += text_bytes(*text);
    if (const auto* list = std::get_if<std::vector<std::string>>(&entry.value)) {
      for (const std::string& item : *list) bytes += static_cast<int64_t>(sizeof(item)) + text_bytes(item);
    }
  }
  return bytes;
}

bool Matches(const FilterExpression& filter, const MetadataRecord& record, std::string_view id) {
  return MatchesNode(filter, filter.root(), record, id);
}

}  // namespace loci
