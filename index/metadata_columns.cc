#include "index/metadata_columns.h"

#include <algorithm>
#include <cmath>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace loci {
namespace {

constexpr char kMagic[] = "LOCICOL1";
constexpr uint32_t kFormatVersion = 1;
constexpr int64_t kHeaderBytes = 64;
constexpr int64_t kColumnBytes = 32;
// A value of fewer rows is made a bitmap when it is asked for. One of more takes two bytes a row in memory at most, half of what it takes in the file.
constexpr int64_t kBitmapRows = 4096;

}  // namespace

absl::StatusOr<std::unique_ptr<MetadataColumns>> MetadataColumns::Open(FileSystem& fs, const std::string& path, int64_t row_count) {
  auto columns = std::unique_ptr<MetadataColumns>(new MetadataColumns());
  LOCI_ASSIGN_OR_RETURN(columns->file_, fs.Map(path));
  columns->row_count_ = row_count;
  LOCI_RETURN_IF_ERROR(columns->Parse(path));
  columns->MakeBitmaps();
  return columns;
}

absl::Status MetadataColumns::Parse(const std::string& path) {
  const auto damaged = [&](int64_t offset, const std::string& what) {
    return absl::DataLossError(absl::StrCat(path, ": offset ", offset, ": ", what));
  };
  const std::string_view data = file_->data();
  const int64_t size = static_cast<int64_t>(data.size());
  if (size < kHeaderBytes) return damaged(0, absl::StrCat("the file has ", size, " bytes, the header alone has ", kHeaderBytes));
  if (data.substr(0, 8) != kMagic) return damaged(0, "not a column file (magic)");
  uint32_t version, zero;
  std::memcpy(&version, data.data() + 8, 4);
  std::memcpy(&zero, data.data() + 12, 4);
  if (version > kFormatVersion) {
    return absl::FailedPreconditionError(
        absl::StrCat(path, ": format version ", version, " is newer than ", kFormatVersion, ", the newest this build reads"));
  }
  if (version != kFormatVersion || zero != 0) return damaged(8, absl::StrCat("format version ", version));
  uint64_t counts[6];
  std::memcpy(counts, data.data() + 16, sizeof(counts));
  const auto [rows, column_count, value_count, posting_count, byte_count, reserved] =
      std::tuple(counts[0], counts[1], counts[2], counts[3], counts[4], counts[5]);
  if (reserved != 0) return damaged(56, "a reserved byte is not zero");
  if (rows != static_cast<uint64_t>(row_count_) || row_count_ > kMaxRowSetRows) {
    return damaged(16, absl::StrCat("the header says ", rows, " rows, the generation has ", row_count_));
  }
  // None is larger than the file, so that the sum below does not overflow.
  const uint64_t limit = static_cast<uint64_t>(size);
  if (column_count > limit || value_count > limit || posting_count > limit || byte_count > limit) {
    return damaged(24, "the header's counts do not fit the size of the file");
  }
  column_count_ = static_cast<int64_t>(column_count);
  value_count_ = static_cast<int64_t>(value_count);
  posting_count_ = static_cast<int64_t>(posting_count);
  const int64_t values_at = kHeaderBytes + 8 * (value_count_ + 1);
  const int64_t columns_at = values_at + 8 * value_count_;
  const int64_t rows_at = columns_at + kColumnBytes * column_count_;
  const int64_t bytes_at = rows_at + 4 * posting_count_;
  if (bytes_at + static_cast<int64_t>(byte_count) != size) return damaged(24, "the header's counts do not fit the size of the file");
  starts_ = data.data() + kHeaderBytes;
  values_ = data.data() + values_at;
  columns_ = data.data() + columns_at;
  rows_ = reinterpret_cast<const uint32_t*>(data.data() + rows_at);
  bytes_ = data.substr(static_cast<size_t>(bytes_at));

  if (start(0) != 0 || start(value_count_) != posting_count_) return damaged(kHeaderBytes, "the postings do not begin and end where they must");
  for (int64_t value = 0; value < value_count_; ++value) {
    // Ascending from 0 to posting_count, so that none in between is outside.
    if (Load64(starts_, value) >= Load64(starts_, value + 1)) return damaged(kHeaderBytes + 8 * value, "the postings of a value end before they begin");
  }
  for (int64_t value = 0; value < value_count_; ++value) {
    if (absl::Status status = CheckPostings(value); !status.ok()) return damaged(rows_at + 4 * start(value), std::string(status.message()));
  }
  if ((column_count_ == 0) != (value_count_ == 0)) return damaged(columns_at, "values without a column");
  for (int64_t column = 0; column < column_count_; ++column) {
    if (absl::Status status = CheckColumn(column); !status.ok()) return damaged(columns_at + kColumnBytes * column, std::string(status.message()));
  }
  return absl::OkStatus();
}

absl::Status MetadataColumns::CheckText(uint64_t place) const {
  uint32_t length;
  if (place > bytes_.size() || bytes_.size() - place < sizeof(length)) return absl::DataLossError("a string begins outside of the file");
  std::memcpy(&length, bytes_.data() + place, sizeof(length));
  if (bytes_.size() - place - sizeof(length) < length) return absl::DataLossError("a string ends outside of the file");
  return absl::OkStatus();
}

absl::Status MetadataColumns::CheckPostings(int64_t value) const {
  int64_t last = -1;
  for (const uint32_t row : Postings(value)) {
    if (row <= last || row >= row_count_) return absl::DataLossError(absl::StrCat("row ", row, " after ", last, " of ", row_count_));
    last = row;
  }
  return absl::OkStatus();
}

absl::Status MetadataColumns::CheckColumn(int64_t column) const {
  const int64_t begin = first_value(column);
  // A place beyond int64 is negative, and below the one before it.
  const int64_t end = first_value(column + 1);
  if ((column == 0 && begin != 0) || begin < 0 || begin >= end || end > value_count_) return absl::DataLossError("a column's values are not in their place");
  if (source(column) > static_cast<uint32_t>(FieldSource::kChunkIndex) || source(column) == static_cast<uint32_t>(FieldSource::kId)) {
    return absl::DataLossError(absl::StrCat("a column of source ", source(column)));
  }
  if (type(column) < 1 || type(column) > 5) return absl::DataLossError(absl::StrCat("a column of type ", type(column)));
  if (Load64(columns_, 4 * column + 3) != 0) return absl::DataLossError("a reserved byte is not zero");
  if (absl::Status status = CheckText(Load64(columns_, 4 * column + 1)); !status.ok()) return status;
  if (column > 0) {
    const auto before = std::tuple(source(column - 1), name(column - 1), type(column - 1));
    if (!(before < std::tuple(source(column), name(column), type(column)))) return absl::DataLossError("columns are not in their order");
  }
  const ColumnType column_type = static_cast<ColumnType>(type(column));
  for (int64_t value = begin; value < end; ++value) {
    bool ascends = true;
    const int64_t before = value - 1;
    switch (column_type) {
      case ColumnType::kString:
        if (absl::Status status = CheckText(Load64(values_, value)); !status.ok()) return status;
        ascends = value == begin || string_value(before) < string_value(value);
        break;
      case ColumnType::kInt64: ascends = value == begin || int64_value(before) < int64_value(value); break;
      case ColumnType::kDouble:
        ascends = value == begin || double_value(before) < double_value(value) || (std::isnan(double_value(value)) && !std::isnan(double_value(before)));
        break;
      case ColumnType::kBool: ascends = Load64(values_, value) <= 1 && (value == begin || int64_value(before) < int64_value(value)); break;
      case ColumnType::kEmptyList: ascends = value == begin && Load64(values_, value) == 0; break;
    }
    if (!ascends) return absl::DataLossError(absl::StrCat("value ", value - begin, " of a column is not one that may follow the one before it"));
  }
  return absl::OkStatus();
}

void MetadataColumns::MakeBitmaps() {
  for (int64_t value = 0; value < value_count_; ++value) {
    if (start(value + 1) - start(value) < kBitmapRows) continue;
    bitmaps_.emplace_back(value, RowSet::FromSorted(Postings(value)));
    memory_bytes_ += static_cast<int64_t>(sizeof(bitmaps_[0])) + bitmaps_.back().second.memory_bytes();
  }
}

double MetadataColumns::double_value(int64_t value) const {
  double number;
  std::memcpy(&number, values_ + 8 * value, sizeof(number));
  return number;
}

MetadataColumns::Values MetadataColumns::Find(const FilterField& field, ColumnType wanted) const {
  const auto key = std::tuple(static_cast<uint32_t>(field.source), std::string_view(field.name), static_cast<uint32_t>(wanted));
  int64_t first = 0, last = column_count_;
  while (first < last) {
    const int64_t middle = first + (last - first) / 2;
    if (std::tuple(source(middle), name(middle), type(middle)) < key) {
      first = middle + 1;
    } else {
      last = middle;
    }
  }
  if (first == column_count_ || std::tuple(source(first), name(first), type(first)) != key) return {};
  return {first_value(first), first_value(first + 1)};
}

RowSet MetadataColumns::RowsOf(std::span<const Values> ranges) const {
  std::vector<const RowSet*> sets;
  std::vector<uint32_t> rows;
  for (const Values& range : ranges) {
    auto bitmap = std::lower_bound(bitmaps_.begin(), bitmaps_.end(), range.begin, [](const auto& entry, int64_t value) { return entry.first < value; });
    for (int64_t value = range.begin; value < range.end;) {
      // Values without bitmaps lie together, and so do their rows.
      const int64_t stop = bitmap == bitmaps_.end() ? range.end : std::min(range.end, bitmap->first);
      rows.insert(rows.end(), rows_ + start(value), rows_ + start(stop));
      value = stop;
      if (value == range.end) break;
      sets.push_back(&bitmap->second);
      ++bitmap;
      ++value;
    }
  }
  if (rows.empty()) return RowSet::Union(sets);
  const RowSet rest = RowSet::FromRows(std::move(rows), row_count_);
  sets.push_back(&rest);
  return RowSet::Union(sets);
}

}  // namespace loci
