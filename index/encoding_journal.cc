#include "index/encoding_journal.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/checksum.h"
#include "base/logging.h"
#include "base/status_macros.h"
#include "index/raw_bytes.h"

namespace loci {
namespace {

constexpr std::string_view kMagic = "LOCIENC1";
constexpr uint32_t kFormatVersion = 2;
constexpr size_t kHeaderBytes = 64;
constexpr size_t kHalfBytes = 16;
constexpr size_t kDimOffset = 12, kHalfOffset = 16, kBegunOffset = kHalfOffset + kHalfBytes;
constexpr size_t kPrecisionOffset = kBegunOffset + sizeof(int64_t), kPrecisionBytes = 16;
constexpr int64_t kMaxDim = 1 << 20;
constexpr int kNumberDigits = 8;

int64_t RecordBytes(int64_t dim) { return static_cast<int64_t>(sizeof(ContentHash) + sizeof(float) * dim + sizeof(uint64_t)); }

std::string Header(const EncodingJournal::Options& options, int64_t begun_unix_us) {
  std::string header(kMagic);
  AppendRaw(kFormatVersion, &header);
  AppendRaw(static_cast<uint32_t>(options.dim), &header);
  header += options.passage_half.substr(0, kHalfBytes);
  header.resize(kBegunOffset);
  AppendRaw(begun_unix_us, &header);
  header += options.precision.substr(0, kPrecisionBytes);
  header.resize(kHeaderBytes - sizeof(uint64_t));
  AppendRaw(Xxh3(header), &header);
  return header;
}

std::string PrecisionIn(std::string_view header) {
  const std::string_view field = header.substr(kPrecisionOffset, kPrecisionBytes);
  return std::string(field.substr(0, field.find('\0')));
}

// The number of a file that has one for its name, else 0.
int64_t NumberOf(const std::string& name) {
  int64_t number = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), number);
  return error == std::errc() && end == name.data() + name.size() && name.size() == kNumberDigits ? number : 0;
}

}  // namespace

EncodingJournal::EncodingJournal(Options options)
    : options_(std::move(options)),
      record_bytes_(RecordBytes(options_.dim)) {}

EncodingJournal::~EncodingJournal() = default;

std::vector<EncodingJournal::File> EncodingJournal::ListFiles(const Options& options) {
  std::vector<File> files;
  const absl::StatusOr<std::vector<std::string>> names = options.fs->List(options.directory);
  if (!names.ok()) return files;  // The first one.
  const int64_t now_us = options.clock->UnixMicros();
  std::vector<std::string> dropped;
  int64_t bytes = 0, records = 0;
  for (auto name = names->rbegin(); name != names->rend(); ++name) {  // Newest first: what is too much is the oldest.
    File file{.path = JoinPath(options.directory, *name), .number = NumberOf(*name)};
    if (file.number == 0) continue;
    absl::StatusOr<std::unique_ptr<MappedFile>> mapped = options.fs->Map(file.path);
    if (!mapped.ok()) {
      LogWarning("ingest", absl::StrCat("what was encoded before is not read: ", mapped.status().message()));
      files.push_back(std::move(file));  // Its number is taken.
      continue;
    }
    const std::string_view data = (*mapped)->data();
    const std::string_view header = data.substr(0, kHeaderBytes);
    constexpr size_t kSummedBytes = kHeaderBytes - sizeof(uint64_t);
    const bool known = header.size() == kHeaderBytes && header.substr(0, kMagic.size()) == kMagic &&
                       LoadRaw<uint32_t>(header.data() + kMagic.size()) == kFormatVersion &&
                       LoadRaw<uint64_t>(header.data() + kSummedBytes) == Xxh3(header.substr(0, kSummedBytes));
    file.dim = known ? LoadRaw<uint32_t>(header.data() + kDimOffset) : 0;
    const int64_t begun_us = known ? LoadRaw<int64_t>(header.data() + kBegunOffset) : 0;
    if (file.dim > 0 && file.dim <= kMaxDim && begun_us >= now_us - options.max_age_us &&
        static_cast<int64_t>(files.size()) < options.max_files) {
      file.records = (static_cast<int64_t>(data.size()) - static_cast<int64_t>(kHeaderBytes)) / RecordBytes(file.dim);
      const std::string precision = PrecisionIn(header);
      const bool is_wanted = !options.delete_others ||
                             (header.substr(kHalfOffset, kHalfBytes) == options.passage_half.substr(0, kHalfBytes) && precision == options.precision);
      bytes += is_wanted ? static_cast<int64_t>(data.size()) : 0;
      records += is_wanted ? file.records : 0;
      if (is_wanted && bytes <= options.max_bytes && records <= options.max_records) {
        file.passage_half = header.substr(kHalfOffset, kHalfBytes);
        file.precision = precision;
        file.mapped = *std::move(mapped);
        files.push_back(std::move(file));
        continue;
      }
    }
    dropped.push_back(file.path);
  }
  for (const std::string& path : dropped) {
    const absl::Status deleted = options.fs->DeleteFile(path);
    LogInfo("ingest", absl::StrCat(path, ", of an ingest that was interrupted, is old, damaged, too much or of another encoder: ",
                                   deleted.ok() ? "deleted" : deleted.message()));
  }
  std::reverse(files.begin(), files.end());
  return files;
}

void EncodingJournal::DeleteExpired(const Options& options) { ListFiles(options); }

std::unique_ptr<EncodingJournal> EncodingJournal::Open(Options options) {
  std::unique_ptr<EncodingJournal> journal(new EncodingJournal(std::move(options)));
  for (File& file : ListFiles(journal->options_)) {
    journal->next_number_ = file.number + 1;
    if (file.mapped != nullptr) journal->ReadFile(std::move(file));
  }
  std::sort(journal->places_.begin(), journal->places_.end());
  return journal;
}

void EncodingJournal::ReadFile(File file) {
  const std::string_view data = file.mapped->data();
  size_bytes_ += static_cast<int64_t>(data.size());
  file_records_ += file.records;
  if (file.dim != options_.dim || file.passage_half != options_.passage_half.substr(0, kHalfBytes) || file.precision != options_.precision) return;
  if (file.records == 0) return;
  places_.reserve(places_.size() + static_cast<size_t>(file.records));
  for (int64_t i = 0; i < file.records; ++i) {
    const char* const record = data.data() + kHeaderBytes + i * record_bytes_;
    places_.push_back({{LoadRaw<uint64_t>(record), LoadRaw<uint64_t>(record + 8)}, static_cast<int64_t>(files_.size()) << 32 | i});
  }
  files_.push_back(std::move(file.mapped));
}

bool EncodingJournal::Find(const ContentHash& hash, float* vector) const {
  const auto [begin, end] = std::equal_range(places_.begin(), places_.end(), Place{hash, 0});
  for (auto place = begin; place != end; ++place) {
    const char* const record =
        files_[static_cast<size_t>(place->record >> 32)]->data().data() + kHeaderBytes + (place->record & 0xffffffff) * record_bytes_;
    const size_t body_bytes = static_cast<size_t>(record_bytes_) - sizeof(uint64_t);
    if (LoadRaw<uint64_t>(record + body_bytes) != Xxh3({record, body_bytes})) continue;
    std::memcpy(vector, record + sizeof(ContentHash), sizeof(float) * static_cast<size_t>(options_.dim));
    return true;
  }
  return false;
}

void EncodingJournal::Append(std::span<const ContentHash> hashes, const float* vectors) {
  if (stopped_ || hashes.empty()) return;
  const int64_t bytes = static_cast<int64_t>(hashes.size()) * record_bytes_;
  if (size_bytes_ + bytes + static_cast<int64_t>(kHeaderBytes) > options_.max_bytes) {
    return StopWriting(absl::OutOfRangeError(absl::StrCat(options_.directory, " has ", size_bytes_, " bytes, the limit is ", options_.max_bytes)));
  }
  if (file_records_ + static_cast<int64_t>(hashes.size()) > options_.max_records) {
    return StopWriting(
        absl::OutOfRangeError(absl::StrCat(options_.directory, " has ", file_records_, " records, the limit is ", options_.max_records)));
  }
  if (out_ == nullptr) {
    if (const absl::Status started = StartFile(); !started.ok()) return StopWriting(started);
  }
  std::string records;
  records.reserve(static_cast<size_t>(bytes));
  for (size_t i = 0; i < hashes.size(); ++i) {
    const size_t start = records.size();
    AppendRaw(hashes[i].high, &records);
    AppendRaw(hashes[i].low, &records);
    records.append(reinterpret_cast<const char*>(vectors + i * options_.dim), sizeof(float) * static_cast<size_t>(options_.dim));
    AppendRaw(Xxh3(std::string_view(records).substr(start)), &records);
  }
  if (const absl::Status appended = out_->Append(records); !appended.ok()) {
    // Most likely the disk is full: what was kept makes room for what must be written.
    const std::string path = FilePath(next_number_ - 1);
    StopWriting(appended);
    if (const absl::Status deleted = options_.fs->DeleteFile(path); !deleted.ok()) LogWarning("ingest", deleted.ToString());
    return;
  }
  size_bytes_ += bytes;
  file_records_ += static_cast<int64_t>(hashes.size());
}

std::string EncodingJournal::FilePath(int64_t number) const {
  return JoinPath(options_.directory, absl::StrFormat("%0*d", kNumberDigits, number));
}

absl::Status EncodingJournal::StartFile() {
  LOCI_RETURN_IF_ERROR(options_.fs->CreateDirectories(options_.directory));
  LOCI_ASSIGN_OR_RETURN(out_, options_.fs->NewWritableFile(FilePath(next_number_++)));
  LOCI_RETURN_IF_ERROR(out_->Append(Header(options_, options_.clock->UnixMicros())));
  size_bytes_ += static_cast<int64_t>(kHeaderBytes);
  return absl::OkStatus();
}

void EncodingJournal::StopWriting(const absl::Status& status) {
  LogWarning("ingest", absl::StrCat("what is encoded is no longer kept for the case that the ingest is interrupted: ", status.message()));
  stopped_ = true;
  out_.reset();
}

absl::Status EncodingJournal::Clear() {
  out_.reset();
  files_.clear();
  places_.clear();
  places_.shrink_to_fit();
  size_bytes_ = file_records_ = 0;
  return options_.fs->DeleteRecursively(options_.directory);
}

}  // namespace loci
