// Files behind an interface, so that a test can fail them, fill the disk, or drop what was not synced.
#ifndef LOCI_BASE_FILE_H_
#define LOCI_BASE_FILE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace loci {

// A file being written from its beginning.
// Used by one thread: the writer.
class WritableFile {
 public:
  virtual ~WritableFile() = default;
  virtual absl::Status Append(std::string_view data) = 0;
  // fdatasync or stronger: on OK what was appended outlives a power cut, once the folder entry is synced too.
  virtual absl::Status Sync() = 0;
  virtual absl::Status Close() = 0;  // Does not sync. Also done by the destructor, which ignores errors.
};

// A whole file mapped read-only. Immutable after construction.
class MappedFile {
 public:
  virtual ~MappedFile() = default;
  virtual std::string_view data() const = 0;  // Page-aligned; empty for an empty file.
  // DATA_LOSS, reason FILE_DAMAGED with `file`, where bytes of data() could not be read since the file was mapped, because it was cut short or
  // its disk failed: they read as zeros. Looked at when data() has been read.
  virtual absl::Status Check() const = 0;
  // Reads every page once, so that the first query does not. Advisory.
  virtual void Warm() const = 0;
};

// Thread-safe.
class FileSystem {
 public:
  virtual ~FileSystem() = default;

  // NOT_FOUND names a missing path; other failures carry errno's text. ENOSPC is RESOURCE_EXHAUSTED, EROFS and EACCES
  // FAILED_PRECONDITION.
  virtual absl::StatusOr<std::unique_ptr<WritableFile>> NewWritableFile(const std::string& path) = 0;  // Truncates.
  // Map and ReadFile refuse what is not a regular file (FAILED_PRECONDITION): a FIFO or device could block for ever.
  virtual absl::StatusOr<std::unique_ptr<MappedFile>> Map(const std::string& path) = 0;
  virtual absl::StatusOr<std::string> ReadFile(const std::string& path) = 0;
  virtual absl::StatusOr<int64_t> FileSize(const std::string& path) = 0;
  virtual bool Exists(const std::string& path) = 0;  // File or folder.
  virtual bool IsDirectory(const std::string& path) = 0;
  // Names (not paths) in a folder, sorted, without "." and "..".
  virtual absl::StatusOr<std::vector<std::string>> List(const std::string& directory) = 0;
  virtual absl::Status CreateDirectories(const std::string& directory) = 0;         // OK if it is there. Syncs nothing.
  virtual absl::Status Rename(const std::string& from, const std::string& to) = 0;  // Replaces `to`, atomically.
  virtual absl::Status SyncDirectory(const std::string& directory) = 0;
  virtual absl::Status DeleteFile(const std::string& path) = 0;
  virtual absl::Status DeleteRecursively(const std::string& path) = 0;  // OK if nothing is there.

  // Takes an exclusive lock on the file `path` (made if absent) until the handle dies. FAILED_PRECONDITION where another
  // process, or another handle of this one, has it.
  class Lock {
   public:
    virtual ~Lock() = default;
  };
  virtual absl::StatusOr<std::unique_ptr<Lock>> LockFile(const std::string& path) = 0;
};

// The operating system's files. Never destroyed.
FileSystem& PosixFileSystem();

// write-temp (`path`.tmp: one writer of a path at a time), sync, rename, sync of the folder: after a crash `path` has the old
// content or the new one.
absl::Status WriteFileAtomically(FileSystem& fs, const std::string& path, std::string_view content);

// Makes the folder `path` and those above it that are missing, one by one, and syncs the parent of each that it makes, so that all
// of them outlive a power cut. OK if it is there. After an error some of them may be there, not synced.
absl::Status CreateDirectoriesSynced(FileSystem& fs, const std::string& path);

// The folder that `path` lies in: "a/b/c/" -> "a/b", "/a" -> "/", "a" -> ".".
std::string ParentPath(std::string_view path);

// "a" + "b/c" -> "a/b/c"; one slash between the parts.
std::string JoinPath(std::string_view a, std::string_view b);

}  // namespace loci

#endif  // LOCI_BASE_FILE_H_
