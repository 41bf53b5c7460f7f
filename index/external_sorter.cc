#include "index/external_sorter.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <queue>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace loci {
namespace {

constexpr size_t kFlushBytes = 1 << 20;

// A run: records of length (u32, little-endian) and bytes.
class RunReader {
 public:
  explicit RunReader(std::unique_ptr<MappedFile> file) : file_(std::move(file)), rest_(file_->data()) {}
  std::string_view record() const { return record_; }
  absl::Status Check() const { return file_->Check(); }  // Once all was read.
  // False at the end.
  bool Next() {
    uint32_t size = 0;
    if (rest_.size() < sizeof(size)) return false;
    std::memcpy(&size, rest_.data(), sizeof(size));
    record_ = rest_.substr(sizeof(size), size);
    rest_.remove_prefix(std::min(rest_.size(), sizeof(size) + size));
    return true;
  }

 private:
  std::unique_ptr<MappedFile> file_;
  std::string_view rest_;
  std::string_view record_;
};

}  // namespace

ExternalSorter::ExternalSorter(FileSystem& fs, std::string directory, int64_t memory_bytes)
    : fs_(fs), directory_(std::move(directory)), memory_bytes_(memory_bytes) {}

absl::Status ExternalSorter::Add(std::string_view record) {
  const size_t used = bytes_.size() + record.size() + (records_.size() + 1) * sizeof(records_[0]);
  if (!records_.empty() && static_cast<int64_t>(used) > memory_bytes_) LOCI_RETURN_IF_ERROR(WriteRun());
  records_.emplace_back(bytes_.size(), record.size());
  bytes_.append(record);
  return absl::OkStatus();
}

void ExternalSorter::SortRecords() {
  const std::string_view bytes = bytes_;
  std::sort(records_.begin(), records_.end(),
            [bytes](const auto& a, const auto& b) { return bytes.substr(a.first, a.second) < bytes.substr(b.first, b.second); });
}

absl::Status ExternalSorter::WriteRun() {
  LOCI_RETURN_IF_ERROR(fs_.CreateDirectories(directory_));
  SortRecords();
  const std::string path = JoinPath(directory_, absl::StrCat("run-", runs_.size()));
  LOCI_ASSIGN_OR_RETURN(const std::unique_ptr<WritableFile> file, fs_.NewWritableFile(path));
  std::string buffer;
  for (const auto& [begin, length] : records_) {
    const uint32_t size = static_cast<uint32_t>(length);
    buffer.append(reinterpret_cast<const char*>(&size), sizeof(size));
    buffer.append(bytes_, begin, length);
    if (buffer.size() < kFlushBytes) continue;
    LOCI_RETURN_IF_ERROR(file->Append(buffer));
    buffer.clear();
  }
  LOCI_RETURN_IF_ERROR(file->Append(buffer));
  LOCI_RETURN_IF_ERROR(file->Close());
  runs_.push_back(path);
  bytes_.clear();
  records_.clear();
  return absl::OkStatus();
}

absl::Status ExternalSorter::ForEachSorted(const std::function<absl::Status(std::string_view)>& visit) {
  if (runs_.empty()) {
    SortRecords();
    for (const auto& [begin, length] : records_) LOCI_RETURN_IF_ERROR(visit(std::string_view(bytes_).substr(begin, length)));
    return absl::OkStatus();
  }
  LOCI_RETURN_IF_ERROR(WriteRun());
  bytes_.shrink_to_fit();
  records_.shrink_to_fit();
  std::vector<RunReader> readers;
  for (const std::string& path : runs_) {
    LOCI_ASSIGN_OR_RETURN(std::unique_ptr<MappedFile> file, fs_.Map(path));
    readers.emplace_back(std::move(file));
  }
  const auto later = [&](size_t a, size_t b) { return readers[a].record() > readers[b].record(); };
  std::priority_queue<size_t, std::vector<size_t>, decltype(later)> next(later);
  for (size_t i = 0; i < readers.size(); ++i) {
    if (readers[i].Next()) next.push(i);
  }
  while (!next.empty()) {
    const size_t first = next.top();
    next.pop();
    LOCI_RETURN_IF_ERROR(visit(readers[first].record()));
    if (readers[first].Next()) next.push(first);
  }
  for (const RunReader& reader : readers) LOCI_RETURN_IF_ERROR(reader.Check());
  return absl::OkStatus();
}

}  // namespace loci
