// The durable writes of a store, by revision. A RocksDB of its own under stores/<store>/writes.
#ifndef LOCI_INDEX_WRITE_LOG_H_
#define LOCI_INDEX_WRITE_LOG_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "proto/loci/storage/storage.pb.h"

namespace loci {

// Key: revision (8 bytes, big-endian) + ordinal in its request (4 bytes, big-endian) -> XXH3 of the rest (8 bytes) + storage.WriteRecord.
// Opened with kTolerateCorruptedTailRecords and WAL tracking in the manifest: a damaged record is DATA_LOSS, never skipped.
// Used by one writer at a time; reads are thread-safe.
class WriteLog {
 public:
  static absl::StatusOr<std::unique_ptr<WriteLog>> Open(const std::string& directory);
  virtual ~WriteLog() = default;

  virtual int64_t last_revision() const = 0;  // 0 where nothing was written.

  // Writes all records of one request, atomically and synced. All carry `revision`, which is above last_revision().
  virtual absl::Status Append(int64_t revision, const std::vector<storage::WriteRecord>& records) = 0;

  // Calls `visit` with the records of revisions in (after, upto], in order. Stops at the first error, and returns it.
  virtual absl::Status Read(int64_t after, int64_t upto,
                            const std::function<absl::Status(const storage::WriteRecord&)>& visit) const = 0;
  virtual absl::StatusOr<int64_t> CountRequests(int64_t after, int64_t upto) const = 0;  // Distinct revisions in (after, upto].
  virtual absl::Status Trim(int64_t upto) = 0;  // Forgets revisions <= upto.
};

}  // namespace loci

#endif  // LOCI_INDEX_WRITE_LOG_H_
