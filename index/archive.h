// An archive: the passages and vectors of one view of a store in one stream of bytes, for back-up and for moving a store to another server.
// A view is written as if its writes had been folded into its body: each passage once, in the order of their ids, with the vector that it
// is scored with. No index is in it: whoever reads it builds one.
//
// Format, little-endian:
//   archive := magic "LOCIARC1"  record(header)  record(block)*  record(trailer)          ; and nothing after it
//   record  := u64(XXH3 of the rest of the record)  u32(kind)  u32(payload bytes)  payload
//   kind    := 1 header | 2 block | 3 trailer
//   header  := storage.ArchiveHeader
//   block   := u32(passages, 1 to 4,096)  { u32(bytes)  loci.v1.Passage }*  vector*        ; a vector a passage, dim elements of vector_type
//   trailer := storage.ArchiveTrailer                                                      ; with the SHA-256 of all before its record
// A payload has at most 16 MiB (a header 64 KiB, a trailer 4 KiB). It is not compressed: text packs well, so pipe it through zstd or gzip.
#ifndef LOCI_INDEX_ARCHIVE_H_
#define LOCI_INDEX_ARCHIVE_H_

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/checksum.h"
#include "base/vector_type.h"
#include "proto/loci/storage/storage.pb.h"
#include "proto/loci/v1/common.pb.h"

namespace loci {

inline constexpr int kArchiveFormatVersion = 1;
inline constexpr std::string_view kArchiveMagic = "LOCIARC1";
inline constexpr int kArchiveRecordHeadBytes = 16;
inline constexpr int64_t kMaxArchivePayloadBytes = 16 << 20;
inline constexpr int kMaxArchiveBlockPassages = 4'096;

// Makes the bytes of an archive, record by record. Used by one thread at a time.
class ArchiveWriter {
 public:
  // `header` says how many passages there will be; its format_version is filled in.
  explicit ArchiveWriter(storage::ArchiveHeader header);

  std::string Begin();  // First, once.
  // `vectors` [passages.size(), dim]; ids larger than all before, and in order. FAILED_PRECONDITION where a passage is too large for a block,
  // naming it: give few enough at a time that a block is of about 1 MiB.
  absl::StatusOr<std::string> Block(std::span<const loci::v1::Passage> passages, const float* vectors);
  std::string End();  // Last, once.

 private:
  std::string Record(uint32_t kind, std::string_view payload);  // Counted and hashed.

  storage::ArchiveHeader header_;
  Sha256 sha256_;
  storage::ArchiveTrailer trailer_;
};

// Where what is read of an archive goes. Used by one thread at a time.
class ArchiveSink {
 public:
  virtual ~ArchiveSink() = default;
  virtual absl::Status TakeHeader(const storage::ArchiveHeader& header) = 0;  // Once, first.
  // At least one passage; `vectors` [passages.size(), dim], finite, and within what the header's vector_type can hold.
  virtual absl::Status TakeBlock(std::vector<loci::v1::Passage> passages, std::vector<float> vectors) = 0;
};

// Reads an archive from whoever it comes, as its bytes come: memory is bounded by a record, 64 MiB of parsed passages and what one call
// brings, whatever the archive says of its sizes. A record's checksum is compared before anything in it is parsed. What the sink was given is only whole once Finish
// is OK. Errors, after which the reader and what the sink was given can only be dropped:
//   INVALID_ARGUMENT, reason ARCHIVE_INVALID, with `offset` 0: it is no archive: empty, or begins otherwise
//   DATA_LOSS, reason ARCHIVE_DAMAGED, with `offset` (where the record begins): it is cut short, a checksum differs, counts differ
//   FAILED_PRECONDITION, reason ARCHIVE_NEWER: a format that this program does not know
//   INVALID_ARGUMENT, reason ARCHIVE_INVALID, with `offset`: checksums fit, but what is in it can't be: dimension, type, ids out of order or
//     twice, a vector that is not finite, a passage that can't be parsed, or is longer than any that a store takes
//   and those of the sink.
// Used by one thread at a time.
class ArchiveReader {
 public:
  explicit ArchiveReader(ArchiveSink* sink) : sink_(sink) {}  // Borrowed.

  absl::Status Feed(std::string_view bytes);
  absl::Status Finish();  // The bytes have ended.

  int64_t passage_count() const { return passage_count_; }  // Given to the sink.
  const storage::ArchiveHeader& header() const { return header_; }  // Once the sink has it.

 private:
  enum class Part { kMagic, kHeader, kBody, kEnded };

  // Takes one record, or the magic, off `rest`. False: it is not whole yet.
  absl::StatusOr<bool> TakeNext(std::string_view rest, size_t* size);
  absl::Status ParseHeader(std::string_view payload);
  absl::Status ParseBlock(std::string_view payload);
  absl::Status ParseTrailer(std::string_view payload);
  absl::Status Damaged(std::string_view what) const;
  absl::Status Invalid(std::string_view what) const;
  absl::Status NoArchive(std::string_view what) const;

  ArchiveSink* const sink_;
  absl::Status failed_;
  Part part_ = Part::kMagic;
  std::string buffer_;   // What came and was not taken.
  int64_t offset_ = 0;   // Of the first byte that was not taken.
  Sha256 sha256_;        // Of all records but the trailer.
  storage::ArchiveHeader header_;
  int64_t passage_count_ = 0;
  int64_t block_count_ = 0;
  std::string last_id_;
};

}  // namespace loci

#endif  // LOCI_INDEX_ARCHIVE_H_
