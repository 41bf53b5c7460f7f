// What filters see of one passage, taken apart once: for passages that lie in no columns.
//
//   const MetadataRecord record(passage);
//   if (Matches(*filter, record, passage.id())) ...
#ifndef LOCI_INDEX_METADATA_RECORD_H_
#define LOCI_INDEX_METADATA_RECORD_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "index/filter_expression.h"
#include "proto/loci/v1/common.pb.h"

namespace loci {

// A field's value. A list of strings may be empty.
using MetadataField = std::variant<std::string, int64_t, double, bool, std::vector<std::string>>;

// Immutable after construction.
class MetadataRecord {
 public:
  MetadataRecord() = default;
  explicit MetadataRecord(const loci::v1::Passage& passage);

  struct Entry {
    FieldSource source;
    std::string name;
    MetadataField value;
  };
  // By (source, name). All fields but the id, which the passage's holder has.
  const std::vector<Entry>& entries() const { return entries_; }
  const MetadataField* Find(const FilterField& field) const;  // Null: not there.
  int64_t memory_bytes() const;

 private:
  std::vector<Entry> entries_;
};

// Whether the filter lets the passage `id` through: the meaning of every condition, as the proto states it.
bool Matches(const FilterExpression& filter, const MetadataRecord& record, std::string_view id);

// -1, 0 or 1 as a number that is stored is less than, equal to or greater than one of a filter; a stored NaN is greater than any.
int CompareNumbers(const std::variant<int64_t, double>& stored, const std::variant<int64_t, double>& wanted);

// Whether `op` holds for a stored value that compares so with the filter's.
bool Holds(FilterOperator op, int comparison);

}  // namespace loci

#endif  // LOCI_INDEX_METADATA_RECORD_H_
