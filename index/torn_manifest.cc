#include "index/torn_manifest.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/logging.h"
#include "base/strings.h"

namespace loci {
namespace {

using rocksdb::IODebugContext;
using rocksdb::IOOptions;
using rocksdb::IOStatus;

// RocksDB's format of logs: blocks, with pieces of records that do not cross them: masked CRC-32C of type and content (4 bytes,
// little-endian), length of the content (2 bytes), type (1 byte), content. What is left of a block and too short for that is not used.
constexpr size_t kBlockBytes = 32 << 10;
constexpr size_t kHeaderBytes = 7;
constexpr size_t kTypeAt = 6;
enum PieceType : unsigned char { kFull = 1, kFirst, kMiddle, kLast };

constexpr std::array<uint32_t, 256> MakeCrcTable() {
  std::array<uint32_t, 256> table{};
  for (uint32_t i = 0; i < 256; ++i) {
    uint32_t crc = i;
    for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78u : 0);
    table[i] = crc;
  }
  return table;
}
constexpr std::array<uint32_t, 256> kCrcTable = MakeCrcTable();

uint32_t MaskedCrc(std::string_view bytes) {
  uint32_t crc = ~0u;
  for (const char byte : bytes) crc = crc >> 8 ^ kCrcTable[(crc ^ static_cast<unsigned char>(byte)) & 0xff];
  crc = ~crc;
  return (crc >> 15 | crc << 17) + 0xa282ead8u;
}

unsigned char ByteAt(std::string_view bytes, size_t at) { return static_cast<unsigned char>(bytes[at]); }
size_t LengthAt(std::string_view piece) { return ByteAt(piece, 4) | static_cast<size_t>(ByteAt(piece, 5)) << 8; }
bool ChecksumFits(std::string_view piece) {
  uint32_t crc = 0;
  for (int i = 3; i >= 0; --i) crc = crc << 8 | ByteAt(piece, static_cast<size_t>(i));
  return crc == MaskedCrc(piece.substr(kTypeAt));
}

// The bytes from `at` to the end of the block.
std::string_view RestOfBlock(std::string_view content, size_t at) { return content.substr(at, kBlockBytes - at % kBlockBytes); }

// The bytes of the piece at `at`; 0 where no whole one is there.
size_t WholePieceAt(std::string_view content, size_t at) {
  const std::string_view rest = RestOfBlock(content, at);
  if (rest.size() < kHeaderBytes) return 0;
  const unsigned char type = ByteAt(rest, kTypeAt);
  const size_t bytes = kHeaderBytes + LengthAt(rest);
  return type >= kFull && type <= kLast && bytes <= rest.size() && ChecksumFits(rest.substr(0, bytes)) ? bytes : 0;
}

absl::Status Damaged(size_t at, std::string_view how) {
  return absl::DataLossError(absl::StrCat("damaged at byte ", at, ", where ", AbslView(how)));
}

class StringFile : public rocksdb::FSSequentialFile {
 public:
  explicit StringFile(std::string content) : content_(std::move(content)) {}
  IOStatus Read(size_t bytes, const IOOptions&, rocksdb::Slice* result, char* scratch, IODebugContext*) override {
    bytes = std::min(bytes, content_.size() - at_);
    std::memcpy(scratch, content_.data() + at_, bytes);
    *result = rocksdb::Slice(scratch, bytes);
    at_ += bytes;
    return IOStatus::OK();
  }
  IOStatus Skip(uint64_t bytes) override {
    at_ += std::min<uint64_t>(bytes, content_.size() - at_);
    return IOStatus::OK();
  }

 private:
  const std::string content_;
  size_t at_ = 0;
};

class TornManifestFileSystem : public rocksdb::FileSystemWrapper {
 public:
  using FileSystemWrapper::FileSystemWrapper;
  const char* Name() const override { return "TornManifestFileSystem"; }

  IOStatus NewSequentialFile(const std::string& path, const rocksdb::FileOptions& options,
                             std::unique_ptr<rocksdb::FSSequentialFile>* result, IODebugContext* context) override {
    if (!std::string_view(path).substr(path.rfind('/') + 1).starts_with("MANIFEST-")) {
      return target()->NewSequentialFile(path, options, result, context);
    }
    rocksdb::FileOptions buffered = options;
    buffered.use_direct_reads = false;
    std::unique_ptr<rocksdb::FSSequentialFile> file;
    IOStatus status = target()->NewSequentialFile(path, buffered, &file, context);
    std::string content, scratch(kBlockBytes, '\0');
    for (rocksdb::Slice read; status.ok();) {
      status = file->Read(scratch.size(), IOOptions(), &read, scratch.data(), context);
      if (!status.ok() || read.empty()) break;
      content.append(read.data(), read.size());
    }
    if (!status.ok()) return status;
    const absl::StatusOr<size_t> whole = WholeManifestBytes(content);
    if (!whole.ok()) return IOStatus::Corruption(path, std::string(whole.status().message()));
    if (*whole < content.size()) {
      LogWarning("torn_manifest", absl::StrCat(path, ": passing over ", content.size() - *whole, " torn bytes behind byte ", *whole));
      content.resize(*whole);
    }
    *result = std::make_unique<StringFile>(std::move(content));
    return IOStatus::OK();
  }
};

}  // namespace

absl::StatusOr<size_t> WholeManifestBytes(std::string_view content) {
  size_t at = 0, whole = 0;
  for (bool in_record = false; at < content.size();) {
    const size_t left = kBlockBytes - at % kBlockBytes;
    if (left < kHeaderBytes) {
      at = std::min(at + left, content.size());
      continue;
    }
    const size_t bytes = WholePieceAt(content, at);
    if (bytes == 0) break;
    const unsigned char type = ByteAt(content, at + kTypeAt);
    if (in_record != (type == kMiddle || type == kLast)) return Damaged(at, "a piece of another record follows");
    at += bytes;
    in_record = type == kFirst || type == kMiddle;
    if (!in_record) whole = at;
  }
  if (at == content.size()) return whole;
  for (size_t behind = at + 1; behind < content.size(); ++behind) {
    if (WholePieceAt(content, behind) > 0) return Damaged(at, absl::StrCat("a whole record follows at byte ", behind));
  }
  const std::string_view rest = content.substr(at);
  if (rest.size() < kHeaderBytes) return whole;
  const size_t bytes = kHeaderBytes + LengthAt(rest);
  if (at % kBlockBytes + bytes > kBlockBytes) return Damaged(at, "a record is longer than its block");
  if (bytes > rest.size()) {
    if (ChecksumFits(rest)) return Damaged(at, "a record is whole but for its length");
    return whole;
  }
  const size_t last_nonzero = rest.find_last_not_of('\0');
  if (last_nonzero != std::string_view::npos && last_nonzero + 1 >= bytes) return Damaged(at, "a record's checksum differs");
  return whole;
}

std::shared_ptr<rocksdb::FileSystem> NewTornManifestFileSystem(std::shared_ptr<rocksdb::FileSystem> files) {
  return std::make_shared<TornManifestFileSystem>(std::move(files));
}

}  // namespace loci
