// The durable writes of a store, by revision. A RocksDB of its own under stores/<store>/writes.
//
//   LOCI_ASSIGN_OR_RETURN(auto log, WriteLog::Open(directory, {}));
//   LOCI_RETURN_IF_ERROR(log->Append(8, records));                      // on OK they outlive a power cut
//   LOCI_RETURN_IF_ERROR(log->Read(5, 8, [&](const storage::WriteRecord& record) { ... }));
#ifndef LOCI_INDEX_WRITE_LOG_H_
#define LOCI_INDEX_WRITE_LOG_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "proto/loci/storage/storage.pb.h"

namespace rocksdb {
class FileSystem;
}  // namespace rocksdb

namespace loci {

struct WriteLogOptions {
  bool create_if_missing = true;
  // RocksDB's files; null: the operating system's. For tests that fail them.
  std::shared_ptr<rocksdb::FileSystem> file_system;
  // After how many bytes in memory RocksDB writes a table; 0: a few MiB. For tests that need many tables.
  size_t table_bytes = 0;
};

// A record of the log: the `ordinal`-th, from 0 on, of the request of `revision`.
struct WritePlace {
  int64_t revision = 0;
  uint32_t ordinal = 0;
  friend bool operator==(const WritePlace&, const WritePlace&) = default;
};

// Format, integers little-endian but in keys:
//   key   := revision (8 bytes, big-endian) ordinal-in-its-request (4 bytes, big-endian)
//   value := XXH3 of key and rest (8 bytes) previous_revision (8 bytes) record_count-of-its-request (4 bytes) storage.WriteRecord
//   trim  := key 0xff -> XXH3 of the rest (8 bytes) trimmed_upto (8 bytes) last_revision (8 bytes)
//   writes/ACKNOWLEDGED := slot slot      ; slot := revision (8 bytes) XXH3 of these (8 bytes); the larger valid one counts
//
// RocksDB 7.8 takes a damaged length near the end of its log for a write that was cut off, and drops all that follows without a
// word. So each request names the one before it, which shows a hole, and ACKNOWLEDGED holds a revision that the log must
// reach, which shows a lost end (it is written after each append, unsynced: after a power cut it may lag, but never leads).
// Opened with kPointInTimeRecovery and WAL tracking in RocksDB's manifest, after a look without writing at what that would drop: only
// an append that the power cut, which is the last one (no record of up to 32 KiB lies behind it) and not named by ACKNOWLEDGED, may go. All
// other damage is DATA_LOSS, never skipped, and leaves the files as they are. The last record of RocksDB's MANIFEST, where torn, is passed
// over (index/torn_manifest.h): it was not synced, so the log that it says is flushed is there still. Where it was synced, that log is
// missed: by RocksDB, which tracks it, by ACKNOWLEDGED, or as a hole.
// Appended to, given vectors, trimmed and recovered by one thread at a time; reads are thread-safe.
class WriteLog {
 public:
  static absl::StatusOr<std::unique_ptr<WriteLog>> Open(const std::string& directory, WriteLogOptions options = {});
  virtual ~WriteLog() = default;

  virtual int64_t last_revision() const = 0;  // Of the last acknowledged append, also where it is trimmed; 0: none.

  // Writes all records of one request (at least one), atomically and synced. All carry `revision`, which is above last_revision().
  // On an error nothing counts as written, though the bytes may be on disk: a restart before the next Append or Recover may
  // find the request whole. So a revision that failed is not given to another request.
  virtual absl::Status Append(int64_t revision, const std::vector<storage::WriteRecord>& records) = 0;

  // Gives records that were acknowledged a vector of one more passage half, or another of one that they have: `vectors` beside `places`. All or
  // none, synced. Passes over what was trimmed. After an error each record has its vector or has it not, and is whole.
  virtual absl::Status AddVectors(std::span<const WritePlace> places, std::span<const storage::WriteVector> vectors) = 0;

  // After a failed Append: opens the files anew and removes what it may have left. Does nothing where none failed.
  // Append, AddVectors and Trim do it by themselves.
  virtual absl::Status Recover() = 0;

  // Calls `visit` with the records of revisions in (after, upto], in order. Stops at the first error, and returns it. `visit` may
  // not append to this log. DATA_LOSS for a damaged or missing record; OUT_OF_RANGE where `after` is below what was trimmed.
  virtual absl::Status Read(int64_t after, int64_t upto,
                            const std::function<absl::Status(const storage::WriteRecord&)>& visit) const = 0;
  virtual absl::StatusOr<int64_t> CountRequests(int64_t after, int64_t upto) const = 0;  // Distinct revisions in (after, upto].
  virtual absl::Status Trim(int64_t upto) = 0;  // Forgets revisions <= upto.
};

}  // namespace loci

#endif  // LOCI_INDEX_WRITE_LOG_H_
