// RocksDB's files without its syncs, for a folder that means nothing until it is whole: one that is thrown away after any end of the
// process, or that SyncFiles makes durable at the end, each file once.
#ifndef LOCI_INDEX_UNSYNCED_FILE_SYSTEM_H_
#define LOCI_INDEX_UNSYNCED_FILE_SYSTEM_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "rocksdb/file_system.h"

namespace loci {

// `files` with syncs of files and of folders that do nothing. Thread-safe, as `files`.
std::shared_ptr<rocksdb::FileSystem> NewUnsyncedFileSystem(std::shared_ptr<rocksdb::FileSystem> files);

// Syncs the contents of the files in `directory`, which are closed; not their names.
absl::Status SyncFiles(rocksdb::FileSystem& files, const std::string& directory, const std::vector<std::string>& names);

}  // namespace loci

#endif  // LOCI_INDEX_UNSYNCED_FILE_SYSTEM_H_
