// columns.bin: the metadata of a generation by field and value, so that a filter reads no passage. Mapped read-only.
//
// Format, little-endian, every part behind the one before it without a gap:
//   file    := header starts values columns rows bytes
//   header  := magic "LOCICOL1" u32(format_version = 1) u32(0) u64(row_count) u64(column_count) u64(value_count) u64(posting_count)
//              u64(byte_count) u64(0)                                                                                    ; 64 bytes
//   starts  := u64[value_count + 1]    ; which postings are value v's: rows[starts[v]] to rows[starts[v + 1]], at least one
//   values  := u64[value_count]        ; int64, double, bool (0, 1): as they are; string: its place in bytes; empty list: 0
//   columns := (u64(first value) u64(place of the name in bytes) u32(source) u32(type) u64(0))[column_count]      ; at least one value each
//   rows    := u32[posting_count]      ; ascending for each value
//   bytes   := u8[byte_count]          ; a name or string is u32(length) and that many bytes
// A column is one field (FieldSource, name) with one type (ColumnType); columns are in the order of these three, the values of one ascending:
// strings bytewise, -0.0 as 0.0, NaN last and once. The strings of a list are values of their row, each once.
#ifndef LOCI_INDEX_METADATA_COLUMNS_H_
#define LOCI_INDEX_METADATA_COLUMNS_H_

#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/cancellation.h"
#include "base/file.h"
#include "index/filter_expression.h"
#include "index/row_set.h"
#include "proto/loci/v1/common.pb.h"

namespace loci {

enum class ColumnType : uint32_t { kString = 1, kInt64 = 2, kDouble = 3, kBool = 4, kEmptyList = 5 };
inline constexpr ColumnType kColumnTypes[] = {ColumnType::kString, ColumnType::kInt64, ColumnType::kDouble, ColumnType::kBool,
                                              ColumnType::kEmptyList};

// Thread-safe.
class MetadataColumns {
 public:
  // Checks all of it, so that what follows can trust it. DATA_LOSS names the place where it is damaged, or is of another number of rows;
  // FAILED_PRECONDITION for a newer format.
  static absl::StatusOr<std::unique_ptr<MetadataColumns>> Open(FileSystem& fs, const std::string& path, int64_t row_count);

  // Values by number, over all columns: [begin, end).
  struct Values {
    int64_t begin = 0;
    int64_t end = 0;
  };

  int64_t row_count() const { return row_count_; }
  int64_t column_count() const { return column_count_; }
  absl::Status Check() const { return file_->Check(); }  // MappedFile's, once columns were read.
  int64_t memory_bytes() const { return memory_bytes_; }  // Of bitmaps, beside the mapped file.

  Values Find(const FilterField& field, ColumnType type) const;  // Empty: there is no such column.
  std::string_view string_value(int64_t value) const { return Text(Load64(values_, value)); }
  int64_t int64_value(int64_t value) const { return static_cast<int64_t>(Load64(values_, value)); }
  double double_value(int64_t value) const;

  // The rows that have any of these values.
  RowSet RowsOf(std::span<const Values> ranges) const;

 private:
  MetadataColumns() = default;
  static uint64_t Load64(const char* array, int64_t i) {
    uint64_t value;
    std::memcpy(&value, array + 8 * i, sizeof(value));
    return value;
  }
  std::string_view Text(uint64_t place) const {
    uint32_t size;
    std::memcpy(&size, bytes_.data() + place, sizeof(size));
    return bytes_.substr(place + sizeof(size), size);
  }
  int64_t start(int64_t value) const { return static_cast<int64_t>(Load64(starts_, value)); }
  uint32_t source(int64_t column) const { return static_cast<uint32_t>(Load64(columns_, 4 * column + 2)); }
  uint32_t type(int64_t column) const { return static_cast<uint32_t>(Load64(columns_, 4 * column + 2) >> 32); }
  std::string_view name(int64_t column) const { return Text(Load64(columns_, 4 * column + 1)); }
  int64_t first_value(int64_t column) const { return column == column_count_ ? value_count_ : static_cast<int64_t>(Load64(columns_, 4 * column)); }
  std::span<const uint32_t> Postings(int64_t value) const {
    return {rows_ + start(value), static_cast<size_t>(start(value + 1) - start(value))};
  }

  absl::Status Parse(const std::string& path);
  absl::Status CheckText(uint64_t place) const;
  absl::Status CheckColumn(int64_t column) const;
  absl::Status CheckPostings(int64_t value) const;
  void MakeBitmaps();

  std::unique_ptr<MappedFile> file_;
  int64_t row_count_ = 0, column_count_ = 0, value_count_ = 0, posting_count_ = 0;
  const char* starts_ = nullptr;
  const char* values_ = nullptr;
  const char* columns_ = nullptr;
  const uint32_t* rows_ = nullptr;
  std::string_view bytes_;
  // Of the values that many rows have, by value.
  std::vector<std::pair<int64_t, RowSet>> bitmaps_;
  int64_t memory_bytes_ = 0;
};

// Writes a column file. Memory is bounded: what is added is sorted on disk.
// Used by one thread: the builder's.
class MetadataColumnsBuilder {
 public:
  // `staging_directory` may not exist; it is removed by Finish.
  static std::unique_ptr<MetadataColumnsBuilder> Create(FileSystem& fs, const std::string& path, const std::string& staging_directory,
                                                        int64_t memory_bytes = 32 << 20);
  virtual ~MetadataColumnsBuilder() = default;
  // `row` in [0, kMaxRowSetRows), each once, in any order.
  virtual absl::Status Add(int64_t row, const loci::v1::Passage& passage) = 0;
  // All rows are below `row_count`. Syncs and closes.
  virtual absl::Status Finish(int64_t row_count, const RequestLimits& limits) = 0;
};

// Ids are no column: they are the order of the rows, and are looked up in the passage file.
struct IdLookup {
  std::function<absl::StatusOr<std::optional<int64_t>>(std::string_view id)> find_row;
  std::function<absl::StatusOr<std::string>(int64_t row)> read_id;
};

// The rows that the filter lets through. CANCELLED or DEADLINE_EXCEEDED by `limits`.
absl::StatusOr<RowSet> EvaluateFilter(const FilterExpression& filter, const MetadataColumns& columns, const IdLookup& ids,
                                      const RequestLimits& limits);

}  // namespace loci

#endif  // LOCI_INDEX_METADATA_COLUMNS_H_
