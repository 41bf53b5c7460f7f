// A FileSystem over another one: what a test's file layer begins with, to change only what it is about.
#ifndef LOCI_INDEX_FORWARDING_FILE_SYSTEM_H_
#define LOCI_INDEX_FORWARDING_FILE_SYSTEM_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/file.h"

namespace loci {

// Thread-safe, as the base is.
class ForwardingFileSystem : public FileSystem {
 public:
  explicit ForwardingFileSystem(FileSystem& base = PosixFileSystem()) : base_(base) {}

  absl::StatusOr<std::unique_ptr<WritableFile>> NewWritableFile(const std::string& path) override { return base_.NewWritableFile(path); }
  absl::StatusOr<std::unique_ptr<MappedFile>> Map(const std::string& path) override { return base_.Map(path); }
  absl::StatusOr<std::string> ReadFile(const std::string& path) override { return base_.ReadFile(path); }
  absl::StatusOr<int64_t> FileSize(const std::string& path) override { return base_.FileSize(path); }
  bool Exists(const std::string& path) override { return base_.Exists(path); }
  bool IsDirectory(const std::string& path) override { return base_.IsDirectory(path); }
  absl::StatusOr<std::vector<std::string>> List(const std::string& directory) override { return base_.List(directory); }
  absl::Status CreateDirectories(const std::string& directory) override { return base_.CreateDirectories(directory); }
  absl::Status Rename(const std::string& from, const std::string& to) override { return base_.Rename(from, to); }
  absl::Status SyncDirectory(const std::string& directory) override { return base_.SyncDirectory(directory); }
  absl::Status DeleteFile(const std::string& path) override { return base_.DeleteFile(path); }
  absl::Status DeleteRecursively(const std::string& path) override { return base_.DeleteRecursively(path); }
  absl::StatusOr<std::unique_ptr<Lock>> LockFile(const std::string& path) override { return base_.LockFile(path); }

 protected:
  FileSystem& base_;
};

}  // namespace loci

#endif  // LOCI_INDEX_FORWARDING_FILE_SYSTEM_H_
