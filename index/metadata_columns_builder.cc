#include <bit>
#include <cmath>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/status_macros.h"
#include "index/external_sorter.h"
#include "index/metadata_columns.h"
#include "index/metadata_record.h"
#include "index/raw_bytes.h"

namespace loci {
namespace {

constexpr size_t kFlushBytes = 1 << 20;
constexpr int64_t kCheckRecords = 1 << 16;  // Between looks at the limits.

void AppendBigEndian(uint64_t value, int bytes, std::string* out) {
  for (int i = bytes - 1; i >= 0; --i) out->push_back(static_cast<char>(value >> (8 * i)));
}

uint64_t LoadBigEndian(std::string_view bytes) {
  uint64_t value = 0;
  for (const char c : bytes) value = value << 8 | static_cast<uint8_t>(c);
  return value;
}

// In an order of bytes that is the strings' own, with an end of its own: 0 is written as 0 255, the end as 0 0.
void AppendOrdered(std::string_view text, std::string* out) {
  for (const char c : text) {
    out->push_back(c);
    if (c == '\0') out->push_back('\xff');
  }
  out->append(2, '\0');
}

std::string TakeOrdered(std::string_view* bytes) {
  std::string text;
  size_t at = 0;
  for (;;) {
    const size_t zero = bytes->find('\0', at);
    text.append(bytes->substr(at, zero - at));
    at = zero + 2;
    if ((*bytes)[zero + 1] == '\0') break;
    text.push_back('\0');
  }
  bytes->remove_prefix(at);
  return text;
}

constexpr uint64_t kSign = uint64_t{1} << 63;

uint64_t OrderedDouble(double value) {
  if (std::isnan(value)) value = std::numeric_limits<double>::quiet_NaN();  // Positive: beyond infinity.
  if (value == 0) value = 0;
  const uint64_t bits = std::bit_cast<uint64_t>(value);
  return bits & kSign ? ~bits : bits | kSign;
}

// A part of the file on its way: in memory while it is small.
class Spool {
 public:
  Spool(FileSystem& fs, std::string path) : fs_(fs), path_(std::move(path)) {}
  std::string& buffer() { return buffer_; }
  int64_t size_bytes() const { return written_bytes_ + static_cast<int64_t>(buffer_.size()); }
  absl::Status FlushIfLarge() { return buffer_.size() < kFlushBytes ? absl::OkStatus() : Flush(); }
  absl::Status AppendTo(WritableFile& out) {
    if (file_ != nullptr) {
      LOCI_RETURN_IF_ERROR(Flush());
      LOCI_RETURN_IF_ERROR(file_->Close());
      LOCI_ASSIGN_OR_RETURN(const std::unique_ptr<MappedFile> mapped, fs_.Map(path_));
      std::string_view rest = mapped->data();
      for (; !rest.empty(); rest.remove_prefix(std::min(rest.size(), kFlushBytes))) {
        LOCI_RETURN_IF_ERROR(out.Append(rest.substr(0, kFlushBytes)));
      }
      LOCI_RETURN_IF_ERROR(mapped->Check());
    }
    return out.Append(buffer_);
  }

 private:
  absl::Status Flush() {
    if (file_ == nullptr) {
      LOCI_RETURN_IF_ERROR(fs_.CreateDirectories(ParentPath(path_)));
      LOCI_ASSIGN_OR_RETURN(file_, fs_.NewWritableFile(path_));
    }
    LOCI_RETURN_IF_ERROR(file_->Append(buffer_));
    written_bytes_ += static_cast<int64_t>(buffer_.size());
    buffer_.clear();
    return absl::OkStatus();
  }

  FileSystem& fs_;
  const std::string path_;
  std::unique_ptr<WritableFile> file_;
  std::string buffer_;
  int64_t written_bytes_ = 0;
};

class Builder : public MetadataColumnsBuilder {
 public:
  Builder(FileSystem& fs, const std::string& path, const std::string& staging, int64_t memory_bytes)
      : fs_(fs),
        path_(path),
        staging_(staging),
        sorter_(fs, staging, memory_bytes),
        starts_(fs, JoinPath(staging, "starts")),
        values_(fs, JoinPath(staging, "values")),
        columns_(fs, JoinPath(staging, "columns")),
        rows_(fs, JoinPath(staging, "rows")),
        bytes_(fs, JoinPath(staging, "bytes")) {}

  absl::Status Add(int64_t row, const v1::Passage& passage) override {
    const MetadataRecord metadata(passage);
    for (const MetadataRecord::Entry& entry : metadata.entries()) {
      const auto add = [&](ColumnType type, uint64_t number, const std::string* text) {
        record_.clear();
        record_.push_back(static_cast<char>(entry.source));
        AppendOrdered(entry.name, &record_);
        record_.push_back(static_cast<char>(type));
        if (text != nullptr) {
          AppendOrdered(*text, &record_);
        } else {
          AppendBigEndian(number, 8, &record_);
        }
        AppendBigEndian(static_cast<uint64_t>(row), 4, &record_);
        return sorter_.Add(record_);
      };
      if (const auto* text = std::get_if<std::string>(&entry.value)) {
        LOCI_RETURN_IF_ERROR(add(ColumnType::kString, 0, text));
      } else if (const auto* integer = std::get_if<int64_t>(&entry.value)) {
        LOCI_RETURN_IF_ERROR(add(ColumnType::kInt64, static_cast<uint64_t>(*integer) ^ kSign, nullptr));
      } else if (const auto* number = std::get_if<double>(&entry.value)) {
        LOCI_RETURN_IF_ERROR(add(ColumnType::kDouble, OrderedDouble(*number), nullptr));
      } else if (const auto* truth = std::get_if<bool>(&entry.value)) {
        LOCI_RETURN_IF_ERROR(add(ColumnType::kBool, *truth ? 1 : 0, nullptr));
      } else {
        const auto& list = std::get<std::vector<std::string>>(entry.value);
        if (list.empty()) LOCI_RETURN_IF_ERROR(add(ColumnType::kEmptyList, 0, nullptr));
        for (const std::string& item : list) LOCI_RETURN_IF_ERROR(add(ColumnType::kString, 0, &item));
      }
    }
    return absl::OkStatus();
  }

  absl::Status Finish(int64_t row_count, const RequestLimits& limits) override {
    LOCI_RETURN_IF_ERROR(sorter_.ForEachSorted([&](std::string_view record) -> absl::Status {
      if (++record_count_ % kCheckRecords == 0) LOCI_RETURN_IF_ERROR(limits.Check(RealClock().NowMicros()));
      return Take(record);
    }));
    AppendRaw<uint64_t>(posting_count_, &starts_.buffer());

    LOCI_ASSIGN_OR_RETURN(const std::unique_ptr<WritableFile> file, fs_.NewWritableFile(path_));
    std::string header = "LOCICOL1";
    AppendRaw<uint32_t>(1, &header);
    AppendRaw<uint32_t>(0, &header);
    const int64_t counts[] = {row_count, column_count_, value_count_, posting_count_, bytes_.size_bytes(), 0};
    for (const int64_t count : counts) AppendRaw<int64_t>(count, &header);
    LOCI_RETURN_IF_ERROR(file->Append(header));
    for (Spool* const part : {&starts_, &values_, &columns_, &rows_, &bytes_}) LOCI_RETURN_IF_ERROR(part->AppendTo(*file));
    LOCI_RETURN_IF_ERROR(file->Sync());
    LOCI_RETURN_IF_ERROR(file->Close());
    return fs_.DeleteRecursively(staging_);
  }

 private:
  // The next record: what it shares with the one before it is not written again.
  absl::Status Take(std::string_view record) {
    if (record == last_) return absl::OkStatus();  // A string that is in a list twice.
    std::string_view rest = record;
    const char source = rest[0];
    rest.remove_prefix(1);
    const std::string name = TakeOrdered(&rest);
    const ColumnType type = static_cast<ColumnType>(rest[0]);
    rest.remove_prefix(1);
    const size_t key_bytes = record.size() - rest.size();
    const size_t value_bytes = record.size() - 4;
    const bool new_column = key_bytes_ != key_bytes || std::string_view(last_).substr(0, key_bytes) != record.substr(0, key_bytes);
    const bool new_value = new_column || last_.size() != record.size() || std::string_view(last_).substr(0, value_bytes) != record.substr(0, value_bytes);
    if (new_column) {
      AppendRaw<uint64_t>(value_count_, &columns_.buffer());
      AppendRaw<uint64_t>(bytes_.size_bytes(), &columns_.buffer());
      AppendRaw<uint32_t>(static_cast<uint8_t>(source), &columns_.buffer());
      AppendRaw<uint32_t>(static_cast<uint32_t>(type), &columns_.buffer());
      AppendRaw<uint64_t>(0, &columns_.buffer());
      AppendText(name);
      ++column_count_;
    }
    if (new_value) {
      AppendRaw<uint64_t>(posting_count_, &starts_.buffer());
      uint64_t value = 0;
      if (type == ColumnType::kString) {
        value = static_cast<uint64_t>(bytes_.size_bytes());
        AppendText(TakeOrdered(&rest));
      } else {
        value = LoadBigEndian(rest.substr(0, 8));
        if (type == ColumnType::kInt64) value ^= kSign;
        if (type == ColumnType::kDouble) value = value & kSign ? value ^ kSign : ~value;
      }
      AppendRaw<uint64_t>(value, &values_.buffer());
      ++value_count_;
    }
    AppendRaw<uint32_t>(static_cast<uint32_t>(LoadBigEndian(record.substr(value_bytes))), &rows_.buffer());
    ++posting_count_;
    last_ = record;
    key_bytes_ = key_bytes;
    for (Spool* const part : {&starts_, &values_, &columns_, &rows_, &bytes_}) LOCI_RETURN_IF_ERROR(part->FlushIfLarge());
    return absl::OkStatus();
  }

  void AppendText(std::string_view text) {
    AppendRaw<uint32_t>(static_cast<uint32_t>(text.size()), &bytes_.buffer());
    bytes_.buffer().append(text);
  }

  FileSystem& fs_;
  const std::string path_, staging_;
  ExternalSorter sorter_;
  std::string record_;  // Of one posting: source, name, type, value and row, in an order of bytes that is the file's.
  Spool starts_, values_, columns_, rows_, bytes_;
  std::string last_;
  size_t key_bytes_ = 0;
  int64_t column_count_ = 0, value_count_ = 0, posting_count_ = 0, record_count_ = 0;
};

}  // namespace

std::unique_ptr<MetadataColumnsBuilder> MetadataColumnsBuilder::Create(FileSystem& fs, const std::string& path,
                                                                       const std::string& staging_directory, int64_t memory_bytes) {
  return std::make_unique<Builder>(fs, path, staging_directory, memory_bytes);
}

}  // namespace loci
