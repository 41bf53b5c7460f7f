// The operations of a program that change files, in one list: those of loci::FileSystem and those of RocksDB. For tests.
//
//   RecordingDisk disk(root);
//   options.fs = &disk;
//   options.rocksdb_file_system = disk.rocksdb_files();
//   ... disk.Mark(1); ...
//   for (const DiskOperation& operation : disk.operations()) ...    // index/disk_model.h: what a power cut would leave.
#ifndef LOCI_INDEX_RECORDING_DISK_H_
#define LOCI_INDEX_RECORDING_DISK_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "index/forwarding_file_system.h"
#include "rocksdb/file_system.h"

namespace loci {

struct DiskOperation {
  enum class Kind { kMakeDirectory, kCreate, kOpen, kLink, kRename, kDelete, kWrite, kAppend, kTruncate, kSyncFile, kSyncDirectory, kMark };
  Kind kind = Kind::kMark;
  std::string path;      // Under the root, relative. kWrite, kAppend, kTruncate and kSyncFile: the name that the file was opened by.
  std::string to;        // kLink, kRename.
  int64_t handle = 0;    // Of an open file.
  int64_t offset = 0;    // kWrite; kTruncate: the new size; kMark: its number.
  std::string data;      // kWrite, kAppend.
  bool rocksdb = false;  // By RocksDB.

  bool is_sync() const { return kind == Kind::kSyncFile || kind == Kind::kSyncDirectory; }
  // "rocksdb sync s/<generation>/passages/#.sst": the same for the same step of another run.
  std::string Label() const;
};

// The operating system's files under `root`, a folder that is there, recorded; what is outside of it is not. Thread-safe.
class RecordingDisk : public ForwardingFileSystem {
 public:
  explicit RecordingDisk(std::string root);
  // Over the same files; may outlive this.
  std::shared_ptr<rocksdb::FileSystem> rocksdb_files() const { return rocksdb_files_; }
  // Notes that the program has reached a point.
  void Mark(int64_t number);
  std::vector<DiskOperation> operations() const;

  absl::StatusOr<std::unique_ptr<WritableFile>> NewWritableFile(const std::string& path) override;
  absl::Status CreateDirectories(const std::string& directory) override;
  absl::Status Rename(const std::string& from, const std::string& to) override;
  absl::Status SyncDirectory(const std::string& directory) override;
  absl::Status DeleteFile(const std::string& path) override;
  absl::Status DeleteRecursively(const std::string& path) override;
  absl::StatusOr<std::unique_ptr<Lock>> LockFile(const std::string& path) override;

  class Recorder;  // Shared by this and by RocksDB's files.

 private:
  const std::shared_ptr<Recorder> recorder_;
  const std::shared_ptr<rocksdb::FileSystem> rocksdb_files_;
};

}  // namespace loci

#endif  // LOCI_INDEX_RECORDING_DISK_H_
