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

namespace loci {
namespace {

constexpr std::string_view kMagic = "LOCIENC1";
constexpr uint32_t kFormatVersion = 1;
constexpr size_t kHeaderBytes = 64;
constexpr size_t kHalfBytes = 16;
constexpr int kNumberDigits = 8;

template <typename T>
void AppendRaw(T value, std::string* out) {
  out->append(reinterpret_cast<const char*>(&value), sizeof(value));
}

template <typename T>
T LoadRaw(const char* data) {
  T value;
  std::memcpy(&value, data, sizeof(value));
  return value;
}

std::string Header(const EncodingJournal::Options& options) {
  std::string header(kMagic);
  AppendRaw(kFormatVersion, &header);
  AppendRaw(static_cast<uint32_t>(options.dim), &header);
  header += options.passage_half.substr(0, kHalfBytes);
  header.resize(kHeaderBytes - sizeof(uint64_t));
  AppendRaw(Xxh3(header), &header);
  return header;
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
      record_bytes_(static_cast<int64_t>(sizeof(ContentHash) + sizeof(float) * options_.dim + sizeof(uint64_t))) {}

EncodingJournal::~EncodingJournal() = default;

std::unique_ptr<EncodingJournal> EncodingJournal::Open(Options options) {
  std::unique_ptr<EncodingJournal> journal(new EncodingJournal(std::move(options)));
  const absl::StatusOr<std::vector<std::string>> names = journal->options_.fs->List(journal->options_.directory);
  if (!names.ok()) return journal;  // The first one.
  for (const std::string& name : *names) {
    const int64_t number = NumberOf(name);
    if (number == 0) continue;
    journal->next_number_ = number + 1;
    journal->ReadFile(JoinPath(journal->options_.directory, name));
  }
  std::sort(journal->places_.begin(), journal->places_.end());
  return journal;
}

void EncodingJournal::ReadFile(const std::string& path) {
  absl::StatusOr<std::unique_ptr<MappedFile>> mapped = options_.fs->Map(path);
  if (!mapped.ok()) {
    LogWarning("ingest", absl::StrCat("what was encoded before is not read: ", mapped.status().message()));
    return;
  }
  const std::string_view data = (*mapped)->data();
  size_bytes_ += static_cast<int64_t>(data.size());
  if (data.substr(0, kHeaderBytes) != Header(options_)) return;  // Damaged, of a newer format or of another encoder.
  const int64_t count = (static_cast<int64_t>(data.size()) - static_cast<int64_t>(kHeaderBytes)) / record_bytes_;
  if (count == 0) return;
  places_.reserve(places_.size() + static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) {
    const char* const record = data.data() + kHeaderBytes + i * record_bytes_;
    places_.push_back({{LoadRaw<uint64_t>(record), LoadRaw<uint64_t>(record + 8)}, static_cast<int64_t>(files_.size()) << 32 | i});
  }
  files_.push_back(*std::move(mapped));
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
}

std::string EncodingJournal::FilePath(int64_t number) const {
  return JoinPath(options_.directory, absl::StrFormat("%0*d", kNumberDigits, number));
}

absl::Status EncodingJournal::StartFile() {
  LOCI_RETURN_IF_ERROR(options_.fs->CreateDirectories(options_.directory));
  LOCI_ASSIGN_OR_RETURN(out_, options_.fs->NewWritableFile(FilePath(next_number_++)));
  LOCI_RETURN_IF_ERROR(out_->Append(Header(options_)));
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
  size_bytes_ = 0;
  return options_.fs->DeleteRecursively(options_.directory);
}

}  // namespace loci
