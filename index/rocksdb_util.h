// What every RocksDB of ours shares: errors as absl::Status, and a log that goes nowhere.
#ifndef LOCI_INDEX_ROCKSDB_UTIL_H_
#define LOCI_INDEX_ROCKSDB_UTIL_H_

#include <memory>
#include <string_view>

#include "absl/status/status.h"

namespace rocksdb {
class Logger;
class Status;
}  // namespace rocksdb

namespace loci {

// DATA_LOSS for corruption, RESOURCE_EXHAUSTED for a full disk, FAILED_PRECONDITION where a lock is held, NOT_FOUND, else INTERNAL.
// `what` says what was tried: "cannot append to the write log stores/default/writes".
absl::Status FromRocksDb(const rocksdb::Status& status, std::string_view what);

// An information log that keeps nothing: RocksDB's own would write files of its own into the folder.
std::shared_ptr<rocksdb::Logger> SilentRocksDbLogger();

}  // namespace loci

#endif  // LOCI_INDEX_ROCKSDB_UTIL_H_
