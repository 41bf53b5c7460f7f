// What a disk holds after the power is cut. For tests.
//
// A program runs over a RecordingDisk, which notes every operation that changes files, from loci::FileSystem and from RocksDB's, in one
// list. DiskModel plays the list up to any moment, with or without a sync that lied, and gives the folder that would be left: the
// program need not run again for each cut.
//
//   RecordingDisk disk(root);
//   options.fs = &disk;
//   options.rocksdb_file_system = disk.rocksdb_files();
//   ... disk.Mark(1); ...
//   DiskModel model(root);
//   for (size_t i = 0; i < moment; ++i) model.Play(operations[i]);
//   model.WriteTo(folder, DiskModel::Survival::kOnlySynced, nullptr);
#ifndef LOCI_INDEX_POWER_CUT_H_
#define LOCI_INDEX_POWER_CUT_H_

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <vector>

#include "base/file.h"
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
class RecordingDisk : public FileSystem {
 public:
  explicit RecordingDisk(std::string root);
  // Over the same files; may outlive this.
  std::shared_ptr<rocksdb::FileSystem> rocksdb_files() const { return rocksdb_files_; }
  // Notes that the program has reached a point.
  void Mark(int64_t number);
  std::vector<DiskOperation> operations() const;

  absl::StatusOr<std::unique_ptr<WritableFile>> NewWritableFile(const std::string& path) override;
  absl::StatusOr<std::unique_ptr<MappedFile>> Map(const std::string& path) override { return base_.Map(path); }
  absl::StatusOr<std::string> ReadFile(const std::string& path) override { return base_.ReadFile(path); }
  absl::StatusOr<int64_t> FileSize(const std::string& path) override { return base_.FileSize(path); }
  bool Exists(const std::string& path) override { return base_.Exists(path); }
  bool IsDirectory(const std::string& path) override { return base_.IsDirectory(path); }
  absl::StatusOr<std::vector<std::string>> List(const std::string& directory) override { return base_.List(directory); }
  absl::Status CreateDirectories(const std::string& directory) override;
  absl::Status Rename(const std::string& from, const std::string& to) override;
  absl::Status SyncDirectory(const std::string& directory) override;
  absl::Status DeleteFile(const std::string& path) override;
  absl::Status DeleteRecursively(const std::string& path) override;
  absl::StatusOr<std::unique_ptr<Lock>> LockFile(const std::string& path) override;

  class Recorder;  // Shared by this and by RocksDB's files.

 private:
  FileSystem& base_ = PosixFileSystem();
  const std::shared_ptr<Recorder> recorder_;
  const std::shared_ptr<rocksdb::FileSystem> rocksdb_files_;
};

// The files of a recorded program: as the program sees them and as the disk has them. What a sync has not covered, the disk may have
// or not:
// - of a file's bytes any part, cut anywhere, or zeros in their place where the file grew;
// - of a folder's changes (names made, renamed, deleted) any, but those of one name in order, and a rename in one piece; in a folder
//   where RocksDB makes files the first ones up to some moment, as journalling file systems write them: RocksDB counts on that.
// A file's sync does not cover its name, nor a folder's the contents of its files. Copyable. Used by one thread.
class DiskModel {
 public:
  // Begins with what is under `root`, all of it synced.
  explicit DiskModel(const std::string& root);

  void Play(const DiskOperation& operation);

  enum class Survival {
    kOnlySynced,  // The least.
    kAll,         // The most: as after kill -9.
    kAny,         // By chance.
  };
  // Makes `directory` (removed before, if it is there) hold what survives a cut now. `random` only for kAny.
  void WriteTo(const std::string& directory, Survival survival, std::mt19937* random) const;

  // True where no cut can show a difference, now or after any same further operations.
  bool SameOnDisk(const DiskModel& other) const;

 private:
  struct Change {  // Of a folder: `names` get these nodes, or vanish (-1).
    std::map<std::string, int> names;
    bool rocksdb = false;
    bool operator==(const Change& other) const { return names == other.names && rocksdb == other.rocksdb; }
  };
  struct Node {
    bool directory = false;
    std::string content, synced;                  // Of a file.
    std::map<std::string, int> entries, durable;  // Of a folder: what is seen, what is synced.
    std::vector<Change> pending;                  // That make `entries` of `durable`.
  };
  int NewNode(bool directory);
  int Find(const std::string& path) const;  // -1: not there.
  void Apply(const std::string& parent, Change change, bool rocksdb);
  void Load(const std::string& directory, int node);
  void WriteNode(int node, const std::string& path, Survival survival, std::mt19937* random, std::map<int, std::string>* chosen) const;
  std::string ChooseContent(const Node& node, std::mt19937* random) const;
  std::map<std::string, int> ChooseEntries(const Node& node, std::mt19937* random) const;

  std::vector<Node> nodes_;  // The root is 0.
  std::map<int64_t, int> handles_;
};

}  // namespace loci

#endif  // LOCI_INDEX_POWER_CUT_H_
