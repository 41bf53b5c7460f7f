#include "index/archive.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "base/hex.h"
#include "base/logging.h"
#include "base/status_macros.h"
#include "base/strings.h"
#include "index/limits.h"
#include "index/manifest.h"

namespace loci {
namespace {

constexpr uint32_t kHeaderKind = 1;
constexpr uint32_t kBlockKind = 2;
constexpr uint32_t kTrailerKind = 3;
constexpr int64_t kMaxHeaderBytes = 64 << 10;
constexpr int64_t kMaxTrailerBytes = 4 << 10;
constexpr int64_t kMaxPassages = int64_t{1} << 40;
constexpr size_t kChecksumBytes = 8;
constexpr size_t kMaxNameBytes = 64;
constexpr size_t kMaxIndexBytes = 256;
// Above the largest passage that a store takes: 1 MiB of text, 64 KiB each of title, of metadata's keys and of its values, and what frames them.
constexpr size_t kMaxPassageBytes = 3 << 19;
// Of a block's passages once they are parsed, where short entries of lists take twenty times their bytes.
constexpr int64_t kMaxParsedBytes = 4 * kMaxArchivePayloadBytes;
constexpr size_t kSha256Bytes = 32;

template <typename Unsigned>
void PutNumber(Unsigned number, std::string* out) {
  for (size_t i = 0; i < sizeof(Unsigned); ++i) out->push_back(static_cast<char>(number >> (8 * i)));
}

template <typename Unsigned>
Unsigned GetNumber(std::string_view bytes) {
  Unsigned number = 0;
  for (size_t i = 0; i < sizeof(Unsigned); ++i) number |= static_cast<Unsigned>(static_cast<uint8_t>(bytes[i])) << (8 * i);
  return number;
}

int64_t MaxPayloadBytes(uint32_t kind) {
  return kind == kHeaderKind ? kMaxHeaderBytes : kind == kTrailerKind ? kMaxTrailerBytes : kMaxArchivePayloadBytes;
}

ElementType TypeOf(const storage::ArchiveHeader& header) { return static_cast<ElementType>(header.vector_type()); }

// Conversions take a count of elements and pass what is half as wide through uint16_t.
void AppendVectors(const float* vectors, size_t count, ElementType type, std::string* out) {
  const size_t begin = out->size();
  out->resize(begin + count * ElementSize(type));
  char* const data = out->data() + begin;
  if (type == ElementType::kFloat32) {
    std::memcpy(data, vectors, count * sizeof(float));
    return;
  }
  std::vector<uint16_t> halves(count);
  if (type == ElementType::kFloat16) {
    Float32ToFloat16(vectors, halves.data(), count);
  } else {
    Float32ToBfloat16(vectors, halves.data(), count);
  }
  std::memcpy(data, halves.data(), count * sizeof(uint16_t));
}

std::vector<float> ParseVectors(std::string_view bytes, size_t count, ElementType type) {
  std::vector<float> vectors(count);
  if (type == ElementType::kFloat32) {
    std::memcpy(vectors.data(), bytes.data(), count * sizeof(float));
    return vectors;
  }
  std::vector<uint16_t> halves(count);
  std::memcpy(halves.data(), bytes.data(), count * sizeof(uint16_t));
  if (type == ElementType::kFloat16) {
    Float16ToFloat32(halves.data(), vectors.data(), count);
  } else {
    Bfloat16ToFloat32(halves.data(), vectors.data(), count);
  }
  return vectors;
}

// Strings of an archive in messages.
std::string Shown(std::string_view text) { return absl::StrCat("\"", absl::CHexEscape(AbslView(text.substr(0, kMaxNameBytes))), "\""); }

std::string RawSha256(Sha256& sha256) { return absl::HexStringToBytes(sha256.HexDigest()); }

}  // namespace

ArchiveWriter::ArchiveWriter(storage::ArchiveHeader header) : header_(std::move(header)) {
  header_.set_format_version(kArchiveFormatVersion);
}

std::string ArchiveWriter::Record(uint32_t kind, std::string_view payload) {
  std::string record(kChecksumBytes, '\0');
  record.reserve(kArchiveRecordHeadBytes + payload.size());
  PutNumber(kind, &record);
  PutNumber(static_cast<uint32_t>(payload.size()), &record);
  record.append(payload);
  std::string checksum;
  PutNumber(Xxh3(std::string_view(record).substr(kChecksumBytes)), &checksum);
  record.replace(0, kChecksumBytes, checksum);
  if (kind != kTrailerKind) {
    sha256_.Update(record);
    trailer_.set_size_bytes(trailer_.size_bytes() + static_cast<int64_t>(record.size()));
  }
  return record;
}

std::string ArchiveWriter::Begin() {
  sha256_.Update(kArchiveMagic);
  trailer_.set_size_bytes(static_cast<int64_t>(kArchiveMagic.size()));
  return std::string(kArchiveMagic) + Record(kHeaderKind, header_.SerializeAsString());
}

absl::StatusOr<std::string> ArchiveWriter::Block(std::span<const loci::v1::Passage> passages, const float* vectors) {
  LOCI_CHECK(!passages.empty() && passages.size() <= kMaxArchiveBlockPassages);
  std::string payload;
  PutNumber(static_cast<uint32_t>(passages.size()), &payload);
  for (const loci::v1::Passage& passage : passages) {
    PutNumber(static_cast<uint32_t>(passage.ByteSizeLong()), &payload);
    if (!passage.AppendToString(&payload)) return absl::InternalError(absl::StrCat("passage ", Shown(passage.id()), " can't be serialised"));
  }
  AppendVectors(vectors, passages.size() * static_cast<size_t>(header_.dim()), TypeOf(header_), &payload);
  if (static_cast<int64_t>(payload.size()) > kMaxArchivePayloadBytes) {
    return ErrorWithReason(absl::FailedPreconditionError(absl::StrCat(passages.size(), " passages from ", Shown(passages.front().id()), " on have ",
                                                                      payload.size(), " bytes, the limit of an archive's block is ",
                                                                      kMaxArchivePayloadBytes)),
                           "ARCHIVE_BLOCK_TOO_LARGE", {{"id", passages.front().id()}});
  }
  trailer_.set_passage_count(trailer_.passage_count() + static_cast<int64_t>(passages.size()));
  trailer_.set_block_count(trailer_.block_count() + 1);
  return Record(kBlockKind, payload);
}

std::string ArchiveWriter::End() {
  trailer_.set_sha256(RawSha256(sha256_));
  return Record(kTrailerKind, trailer_.SerializeAsString());
}

absl::Status ArchiveReader::Damaged(std::string_view what) const {
  return ErrorWithReason(absl::DataLossError(absl::StrCat("the archive is damaged at byte ", offset_, ": ", AbslView(what))), "ARCHIVE_DAMAGED",
                         {{"offset", absl::StrCat(offset_)}});
}

absl::Status ArchiveReader::Invalid(std::string_view what) const {
  return ErrorWithReason(absl::InvalidArgumentError(absl::StrCat("the archive's record at byte ", offset_, " can't be taken: ", AbslView(what))),
                         "ARCHIVE_INVALID", {{"offset", absl::StrCat(offset_)}});
}

absl::Status ArchiveReader::NoArchive(std::string_view what) const {
  return ErrorWithReason(absl::InvalidArgumentError(absl::StrCat("not an archive of loci export: it ", AbslView(what))), "ARCHIVE_INVALID",
                         {{"offset", "0"}});
}

absl::Status ArchiveReader::Feed(std::string_view bytes) {
  LOCI_RETURN_IF_ERROR(failed_);
  // A record that lies in `bytes` as a whole is not copied.
  const bool buffered = !buffer_.empty();
  if (buffered) buffer_.append(bytes);
  std::string_view rest = buffered ? std::string_view(buffer_) : bytes;
  while (!rest.empty()) {
    size_t size = 0;
    const absl::StatusOr<bool> taken = TakeNext(rest, &size);
    if (!taken.ok()) {
      buffer_.clear();
      return failed_ = taken.status();
    }
    if (!*taken) break;
    offset_ += static_cast<int64_t>(size);
    rest.remove_prefix(size);
  }
  if (buffered) {
    buffer_.erase(0, buffer_.size() - rest.size());
  } else {
    buffer_.assign(rest);
  }
  return absl::OkStatus();
}

absl::StatusOr<bool> ArchiveReader::TakeNext(std::string_view rest, size_t* size) {
  if (part_ == Part::kEnded) return Damaged("something follows its trailer");
  if (part_ == Part::kMagic) {
    const size_t seen = std::min(rest.size(), kArchiveMagic.size());
    if (rest.substr(0, seen) != kArchiveMagic.substr(0, seen)) return NoArchive("does not begin as one");
    if (seen < kArchiveMagic.size()) return false;
    *size = seen;
    part_ = Part::kHeader;
    sha256_.Update(kArchiveMagic);
    return true;
  }
  if (rest.size() < kArchiveRecordHeadBytes) return false;
  const uint32_t kind = GetNumber<uint32_t>(rest.substr(kChecksumBytes));
  const int64_t payload_bytes = GetNumber<uint32_t>(rest.substr(kChecksumBytes + sizeof(kind)));
  const bool expected = part_ == Part::kHeader ? kind == kHeaderKind : kind == kBlockKind || kind == kTrailerKind;
  if (!expected) return Damaged(absl::StrCat("a record of kind ", kind, " does not belong there"));
  if (payload_bytes > MaxPayloadBytes(kind)) {
    return Damaged(absl::StrCat("a record of kind ", kind, " with ", payload_bytes, " bytes, the limit is ", MaxPayloadBytes(kind)));
  }
  *size = static_cast<size_t>(kArchiveRecordHeadBytes + payload_bytes);
  if (rest.size() < *size) return false;
  const std::string_view record = rest.substr(0, *size);
  if (Xxh3(record.substr(kChecksumBytes)) != GetNumber<uint64_t>(record)) return Damaged("the checksum of the record that begins there differs");
  const std::string_view payload = record.substr(kArchiveRecordHeadBytes);
  if (kind != kTrailerKind) sha256_.Update(record);
  if (kind == kHeaderKind) LOCI_RETURN_IF_ERROR(ParseHeader(payload));
  if (kind == kBlockKind) LOCI_RETURN_IF_ERROR(ParseBlock(payload));
  if (kind == kTrailerKind) LOCI_RETURN_IF_ERROR(ParseTrailer(payload));
  return true;
}

absl::Status ArchiveReader::ParseHeader(std::string_view payload) {
  storage::ArchiveHeader& header = header_;
  if (!header.ParseFromArray(payload.data(), static_cast<int>(payload.size()))) return Invalid("the header can't be parsed");
  if (header.format_version() > kArchiveFormatVersion) {
    return ErrorWithReason(absl::FailedPreconditionError(absl::StrCat("the archive has format ", header.format_version(), ", this server reads ",
                                                                      kArchiveFormatVersion, " and older")),
                           "ARCHIVE_NEWER", {{"format_version", absl::StrCat(header.format_version())}});
  }
  if (header.format_version() < 1) return Invalid(absl::StrCat("its format is ", header.format_version()));
  if (header.dim() < 1 || header.dim() > kMaxDim) return Invalid(absl::StrCat("its dimension is ", header.dim(), ", the limit is ", kMaxDim));
  if (header.vector_type() < 1 || header.vector_type() > 3) {
    return Invalid(absl::StrCat("its vectors are of type ", static_cast<int>(header.vector_type()), "; they must be float32, float16 or bfloat16"));
  }
  if (header.passage_count() < 0 || header.passage_count() > kMaxPassages) {
    return Invalid(absl::StrCat("it says to have ", header.passage_count(), " passages, the limit is ", kMaxPassages));
  }
  if (header.revision() < 0 || header.revision() > kMaxRevision) return Invalid(absl::StrCat("its revision is ", header.revision()));
  if (header.metric() != "inner_product") return Invalid(absl::StrCat("its metric is ", Shown(header.metric()), ", not \"inner_product\""));
  if (!IsHex(header.query_fingerprint(), kHalfDigits) || !IsHex(header.passage_fingerprint(), kHalfDigits)) {
    return Invalid("its encoder's fingerprint is not of 16 hex digits each half");
  }
  if (header.index().empty() || header.index().size() > kMaxIndexBytes) {
    return Invalid(absl::StrCat("its index has a name of ", header.index().size(), " bytes, the limit is ", kMaxIndexBytes));
  }
  if (header.store().size() > kMaxNameBytes || header.generation().size() > kMaxNameBytes) {
    return Invalid(absl::StrCat("it names a store or a generation by more than ", kMaxNameBytes, " bytes"));
  }
  part_ = Part::kBody;
  return sink_->TakeHeader(header);
}

absl::Status ArchiveReader::ParseBlock(std::string_view payload) {
  const ElementType type = TypeOf(header_);
  const size_t vector_bytes = static_cast<size_t>(header_.dim()) * ElementSize(type);
  constexpr size_t kLengthBytes = sizeof(uint32_t);
  if (payload.size() < kLengthBytes) return Invalid("a block that is shorter than its own head");
  const size_t count = GetNumber<uint32_t>(payload);
  payload.remove_prefix(kLengthBytes);
  if (count < 1 || count > kMaxArchiveBlockPassages) {
    return Invalid(absl::StrCat("a block of ", count, " passages; it must have 1 to ", kMaxArchiveBlockPassages));
  }
  // Neither sum overflows: count and vector_bytes have small limits.
  if (payload.size() < count * (kLengthBytes + vector_bytes)) return Invalid(absl::StrCat("a block of ", count, " passages that is too short for them"));
  if (static_cast<int64_t>(count) > header_.passage_count() - passage_count_) {
    return Damaged(absl::StrCat("it has more passages than the ", header_.passage_count(), " that its header says"));
  }
  std::vector<loci::v1::Passage> passages(count);
  int64_t parsed_bytes = 0;
  for (size_t i = 0; i < count; ++i) {
    if (payload.size() < kLengthBytes) return Invalid("a block that ends within its passages");
    const size_t length = GetNumber<uint32_t>(payload);
    payload.remove_prefix(kLengthBytes);
    if (length > payload.size()) return Invalid("a passage that is longer than its block");
    if (length > kMaxPassageBytes) {
      return Invalid(absl::StrCat("a passage of ", length, " bytes, the limit is ", kMaxPassageBytes));
    }
    loci::v1::Passage& passage = passages[i];
    if (!passage.ParseFromArray(payload.data(), static_cast<int>(length))) {
      return Invalid(absl::StrCat("passage ", passage_count_ + static_cast<int64_t>(i) + 1, " can't be parsed"));
    }
    payload.remove_prefix(length);
    parsed_bytes += static_cast<int64_t>(passage.SpaceUsedLong());
    if (parsed_bytes > kMaxParsedBytes) {
      return Invalid(absl::StrCat("a block whose passages take more than ", kMaxParsedBytes, " bytes of memory"));
    }
    const std::string& id = passage.id();
    if (id.empty() || id.size() > kMaxStoredIdBytes) return Invalid(absl::StrCat("an id of ", id.size(), " bytes; it must have 1 to ", kMaxStoredIdBytes));
    if (id <= last_id_) return Invalid(absl::StrCat("id ", Shown(id), " comes after ", Shown(last_id_), "; ids must go up, each once"));
    last_id_ = id;
  }
  if (payload.size() != count * vector_bytes) {
    return Invalid(absl::StrCat("a block with ", payload.size(), " bytes of vectors; it must have ", count * vector_bytes));
  }
  std::vector<float> vectors = ParseVectors(payload, count * static_cast<size_t>(header_.dim()), type);
  const float limit = LargestStorable(type);
  for (size_t i = 0; i < vectors.size(); ++i) {
    if (!(std::abs(vectors[i]) <= limit)) {
      const size_t row = i / static_cast<size_t>(header_.dim());
      return Invalid(absl::StrCat("the vector of ", Shown(passages[row].id()), " has ", vectors[i], " at position ",
                                  i % static_cast<size_t>(header_.dim())));
    }
  }
  ++block_count_;
  passage_count_ += static_cast<int64_t>(count);
  return sink_->TakeBlock(std::move(passages), std::move(vectors));
}

absl::Status ArchiveReader::ParseTrailer(std::string_view payload) {
  storage::ArchiveTrailer trailer;
  if (!trailer.ParseFromArray(payload.data(), static_cast<int>(payload.size()))) return Invalid("the trailer can't be parsed");
  if (trailer.passage_count() != passage_count_ || header_.passage_count() != passage_count_) {
    return Damaged(absl::StrCat("it has ", passage_count_, " passages, its header says ", header_.passage_count(), " and its trailer ",
                                trailer.passage_count()));
  }
  if (trailer.block_count() != block_count_) return Damaged(absl::StrCat("it has ", block_count_, " blocks, its trailer says ", trailer.block_count()));
  if (trailer.size_bytes() != offset_) return Damaged(absl::StrCat("its trailer says that ", trailer.size_bytes(), " bytes come before it"));
  if (trailer.sha256().size() != kSha256Bytes || trailer.sha256() != RawSha256(sha256_)) return Damaged("the SHA-256 of all before it differs");
  part_ = Part::kEnded;
  return absl::OkStatus();
}

absl::Status ArchiveReader::Finish() {
  LOCI_RETURN_IF_ERROR(failed_);
  if (part_ == Part::kEnded) return absl::OkStatus();
  const int64_t end = offset_ + static_cast<int64_t>(buffer_.size());
  if (end == 0) return failed_ = NoArchive("is empty");
  return failed_ = Damaged(absl::StrCat("it is cut short: it ends at byte ", end, " before its trailer, with ", passage_count_, " passages read"));
}

}  // namespace loci
