#include "index/recording_disk.h"

#include <algorithm>
#include <cctype>
#include <mutex>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace loci {
namespace {

using Kind = DiskOperation::Kind;
using rocksdb::FileOptions;
using rocksdb::IODebugContext;
using rocksdb::IOOptions;
using rocksdb::IOStatus;
using rocksdb::Slice;

// Names with what differs from run to run taken out.
std::string KindOfPath(const std::string& path) {
  std::string kind;
  for (size_t begin = 0; begin <= path.size();) {
    const size_t end = std::min(path.find('/', begin), path.size());
    const std::string part = path.substr(begin, end - begin);
    if (!kind.empty()) kind += '/';
    if (part.size() == 20 && part[8] == '-' && part[15] == '-') {
      kind += "<generation>";
    } else {
      for (const char c : part) {
        if (std::isdigit(static_cast<unsigned char>(c)) == 0) {
          kind += c;
        } else if (kind.empty() || kind.back() != '#') {
          kind += '#';
        }
      }
    }
    begin = end + 1;
  }
  return kind.empty() ? "(root)" : kind;
}

}  // namespace

std::string DiskOperation::Label() const {
  static constexpr const char* kNames[] = {"make folder", "create", "open", "link", "rename", "delete",
                                           "write", "append to", "truncate", "sync", "sync folder", "mark"};
  return absl::StrCat(rocksdb ? "rocksdb " : "", kNames[static_cast<int>(kind)], " ", KindOfPath(path));
}

// Thread-safe. An operation is done and noted under one lock, so that the list has the order in which things happened.
class RecordingDisk::Recorder {
 public:
  explicit Recorder(std::string root) : root_(std::move(root)) {}

  std::recursive_mutex& mutex() { return mutex_; }
  int64_t NewHandle() {
    std::lock_guard<std::recursive_mutex> lock(mutex_);
    return ++handles_;
  }
  // The path is absolute here.
  void Note(DiskOperation operation) {
    std::lock_guard<std::recursive_mutex> lock(mutex_);
    if (operation.kind != Kind::kMark && !Relative(&operation.path)) return;
    if (!operation.to.empty() && !Relative(&operation.to)) return;
    operations_.push_back(std::move(operation));
  }
  void Note(Kind kind, const std::string& path, bool rocksdb, const std::string& to = "") {
    DiskOperation operation;
    operation.kind = kind;
    operation.path = path;
    operation.to = to;
    operation.rocksdb = rocksdb;
    Note(std::move(operation));
  }
  void NoteFile(Kind kind, const std::string& path, int64_t handle, bool rocksdb, std::string_view data = {}, int64_t offset = 0) {
    DiskOperation operation;
    operation.kind = kind;
    operation.path = path;
    operation.handle = handle;
    operation.rocksdb = rocksdb;
    operation.data = std::string(data);
    operation.offset = offset;
    Note(std::move(operation));
  }
  std::vector<DiskOperation> operations() const {
    std::lock_guard<std::recursive_mutex> lock(mutex_);
    return operations_;
  }

 private:
  bool Relative(std::string* path) const {
    while (path->size() > 1 && path->back() == '/') path->pop_back();
    if (*path == root_) {
      path->clear();
      return true;
    }
    if (path->compare(0, root_.size() + 1, root_ + "/") != 0) return false;
    *path = path->substr(root_.size() + 1);
    return true;
  }

  const std::string root_;
  mutable std::recursive_mutex mutex_;
  int64_t handles_ = 0;
  std::vector<DiskOperation> operations_;
};

namespace {

using Recorder = RecordingDisk::Recorder;
using Guard = std::lock_guard<std::recursive_mutex>;

class RecordingFile : public WritableFile {
 public:
  RecordingFile(std::unique_ptr<WritableFile> file, std::shared_ptr<Recorder> recorder, std::string path, int64_t handle)
      : file_(std::move(file)), recorder_(std::move(recorder)), path_(std::move(path)), handle_(handle) {}
  absl::Status Append(std::string_view data) override {
    Guard lock(recorder_->mutex());
    LOCI_RETURN_IF_ERROR(file_->Append(data));
    recorder_->NoteFile(Kind::kAppend, path_, handle_, false, data);
    return absl::OkStatus();
  }
  absl::Status Sync() override {
    Guard lock(recorder_->mutex());
    LOCI_RETURN_IF_ERROR(file_->Sync());
    recorder_->NoteFile(Kind::kSyncFile, path_, handle_, false);
    return absl::OkStatus();
  }
  absl::Status Close() override { return file_->Close(); }

 private:
  const std::unique_ptr<WritableFile> file_;
  const std::shared_ptr<Recorder> recorder_;
  const std::string path_;
  const int64_t handle_;
};

// What RocksDB's two kinds of files that are written have in common. `Wrapper` owns a `File` and passes everything on to it.
template <typename Wrapper, typename File>
class RocksFile : public Wrapper {
 public:
  RocksFile(std::unique_ptr<File> file, std::shared_ptr<Recorder> recorder, std::string path, int64_t handle)
      : Wrapper(std::move(file)), recorder_(std::move(recorder)), path_(std::move(path)), handle_(handle) {}
  IOStatus Sync(const IOOptions& options, IODebugContext* context) override {
    Guard lock(recorder_->mutex());
    return Noted(Wrapper::Sync(options, context), Kind::kSyncFile, {});
  }
  IOStatus Fsync(const IOOptions& options, IODebugContext* context) override {
    Guard lock(recorder_->mutex());
    return Noted(Wrapper::Fsync(options, context), Kind::kSyncFile, {});
  }

 protected:
  IOStatus Noted(IOStatus status, Kind kind, const Slice& data, uint64_t offset = 0) {
    if (status.ok()) recorder_->NoteFile(kind, path_, handle_, true, {data.data(), data.size()}, static_cast<int64_t>(offset));
    return status;
  }
  const std::shared_ptr<Recorder> recorder_;

 private:
  const std::string path_;
  const int64_t handle_;
};

class RocksWritableFile : public RocksFile<rocksdb::FSWritableFileOwnerWrapper, rocksdb::FSWritableFile> {
 public:
  using RocksFile::RocksFile;
  IOStatus Append(const Slice& data, const IOOptions& options, IODebugContext* context) override {
    Guard lock(recorder_->mutex());
    return Noted(FSWritableFileOwnerWrapper::Append(data, options, context), Kind::kAppend, data);
  }
  IOStatus Append(const Slice& data, const IOOptions& options, const rocksdb::DataVerificationInfo& info,
                  IODebugContext* context) override {
    Guard lock(recorder_->mutex());
    return Noted(FSWritableFileOwnerWrapper::Append(data, options, info, context), Kind::kAppend, data);
  }
  IOStatus PositionedAppend(const Slice& data, uint64_t offset, const IOOptions& options, IODebugContext* context) override {
    Guard lock(recorder_->mutex());
    return Noted(FSWritableFileOwnerWrapper::PositionedAppend(data, offset, options, context), Kind::kWrite, data, offset);
  }
  IOStatus PositionedAppend(const Slice& data, uint64_t offset, const IOOptions& options, const rocksdb::DataVerificationInfo& info,
                            IODebugContext* context) override {
    Guard lock(recorder_->mutex());
    return Noted(FSWritableFileOwnerWrapper::PositionedAppend(data, offset, options, info, context), Kind::kWrite, data, offset);
  }
  IOStatus Truncate(uint64_t size, const IOOptions& options, IODebugContext* context) override {
    Guard lock(recorder_->mutex());
    return Noted(FSWritableFileOwnerWrapper::Truncate(size, options, context), Kind::kTruncate, {}, size);
  }
};

class RocksRandomRWFile : public RocksFile<rocksdb::FSRandomRWFileOwnerWrapper, rocksdb::FSRandomRWFile> {
 public:
  using RocksFile::RocksFile;
  IOStatus Write(uint64_t offset, const Slice& data, const IOOptions& options, IODebugContext* context) override {
    Guard lock(recorder_->mutex());
    return Noted(FSRandomRWFileOwnerWrapper::Write(offset, data, options, context), Kind::kWrite, data, offset);
  }
};

class RocksDirectory : public rocksdb::FSDirectoryWrapper {
 public:
  RocksDirectory(std::unique_ptr<rocksdb::FSDirectory> directory, std::shared_ptr<Recorder> recorder, std::string path)
      : FSDirectoryWrapper(std::move(directory)), recorder_(std::move(recorder)), path_(std::move(path)) {}
  IOStatus Fsync(const IOOptions& options, IODebugContext* context) override {
    Guard lock(recorder_->mutex());
    IOStatus status = FSDirectoryWrapper::Fsync(options, context);
    if (status.ok()) recorder_->Note(Kind::kSyncDirectory, path_, true);
    return status;
  }
  IOStatus FsyncWithDirOptions(const IOOptions& options, IODebugContext* context,
                               const rocksdb::DirFsyncOptions& directory_options) override {
    Guard lock(recorder_->mutex());
    IOStatus status = FSDirectoryWrapper::FsyncWithDirOptions(options, context, directory_options);
    if (status.ok()) recorder_->Note(Kind::kSyncDirectory, path_, true);
    return status;
  }

 private:
  const std::shared_ptr<Recorder> recorder_;
  const std::string path_;
};

class RocksFiles : public rocksdb::FileSystemWrapper {
 public:
  explicit RocksFiles(std::shared_ptr<Recorder> recorder)
      : FileSystemWrapper(rocksdb::FileSystem::Default()), recorder_(std::move(recorder)) {}
  const char* Name() const override { return "RecordingDisk"; }

  IOStatus NewWritableFile(const std::string& path, const FileOptions& options, std::unique_ptr<rocksdb::FSWritableFile>* result,
                           IODebugContext* context) override {
    Guard lock(recorder_->mutex());
    return Wrap(target()->NewWritableFile(path, options, result, context), Kind::kCreate, path, result);
  }
  IOStatus ReopenWritableFile(const std::string& path, const FileOptions& options, std::unique_ptr<rocksdb::FSWritableFile>* result,
                              IODebugContext* context) override {
    Guard lock(recorder_->mutex());
    return Wrap(target()->ReopenWritableFile(path, options, result, context), Kind::kOpen, path, result);
  }
  IOStatus ReuseWritableFile(const std::string&, const std::string&, const FileOptions&, std::unique_ptr<rocksdb::FSWritableFile>*,
                             IODebugContext*) override {
    return IOStatus::NotSupported("RecordingDisk: files are not reused");
  }
  IOStatus NewRandomRWFile(const std::string& path, const FileOptions& options, std::unique_ptr<rocksdb::FSRandomRWFile>* result,
                           IODebugContext* context) override {
    Guard lock(recorder_->mutex());
    IOStatus status = target()->NewRandomRWFile(path, options, result, context);
    if (!status.ok()) return status;
    const int64_t handle = recorder_->NewHandle();
    recorder_->NoteFile(Kind::kOpen, path, handle, true);
    *result = std::make_unique<RocksRandomRWFile>(std::move(*result), recorder_, path, handle);
    return status;
  }
  IOStatus NewMemoryMappedFileBuffer(const std::string&, std::unique_ptr<rocksdb::MemoryMappedFileBuffer>*) override {
    return IOStatus::NotSupported("RecordingDisk: mappings are not recorded");
  }
  IOStatus NewDirectory(const std::string& path, const IOOptions& options, std::unique_ptr<rocksdb::FSDirectory>* result,
                        IODebugContext* context) override {
    IOStatus status = target()->NewDirectory(path, options, result, context);
    if (status.ok()) *result = std::make_unique<RocksDirectory>(std::move(*result), recorder_, path);
    return status;
  }
  IOStatus DeleteFile(const std::string& path, const IOOptions& options, IODebugContext* context) override {
    Guard lock(recorder_->mutex());
    return Noted(target()->DeleteFile(path, options, context), Kind::kDelete, path);
  }
  IOStatus Truncate(const std::string&, size_t, const IOOptions&, IODebugContext*) override {
    return IOStatus::NotSupported("RecordingDisk: a file is truncated only while it is open");
  }
  IOStatus CreateDir(const std::string& path, const IOOptions& options, IODebugContext* context) override {
    Guard lock(recorder_->mutex());
    return Noted(target()->CreateDir(path, options, context), Kind::kMakeDirectory, path);
  }
  IOStatus CreateDirIfMissing(const std::string& path, const IOOptions& options, IODebugContext* context) override {
    Guard lock(recorder_->mutex());
    if (target()->FileExists(path, options, context).ok()) return target()->CreateDirIfMissing(path, options, context);
    return CreateDir(path, options, context);
  }
  IOStatus DeleteDir(const std::string& path, const IOOptions& options, IODebugContext* context) override {
    Guard lock(recorder_->mutex());
    return Noted(target()->DeleteDir(path, options, context), Kind::kDelete, path);
  }
  IOStatus RenameFile(const std::string& from, const std::string& to, const IOOptions& options, IODebugContext* context) override {
    Guard lock(recorder_->mutex());
    return Noted(target()->RenameFile(from, to, options, context), Kind::kRename, from, to);
  }
  IOStatus LinkFile(const std::string& from, const std::string& to, const IOOptions& options, IODebugContext* context) override {
    Guard lock(recorder_->mutex());
    return Noted(target()->LinkFile(from, to, options, context), Kind::kLink, from, to);
  }
  IOStatus LockFile(const std::string& path, const IOOptions& options, rocksdb::FileLock** result, IODebugContext* context) override {
    Guard lock(recorder_->mutex());
    IOStatus status = target()->LockFile(path, options, result, context);
    if (status.ok()) recorder_->NoteFile(Kind::kOpen, path, recorder_->NewHandle(), true);
    return status;
  }

 private:
  IOStatus Noted(IOStatus status, Kind kind, const std::string& path, const std::string& to = "") {
    if (status.ok()) recorder_->Note(kind, path, true, to);
    return status;
  }
  IOStatus Wrap(IOStatus status, Kind kind, const std::string& path, std::unique_ptr<rocksdb::FSWritableFile>* result) {
    if (!status.ok()) return status;
    const int64_t handle = recorder_->NewHandle();
    recorder_->NoteFile(kind, path, handle, true);
    *result = std::make_unique<RocksWritableFile>(std::move(*result), recorder_, path, handle);
    return status;
  }
  const std::shared_ptr<Recorder> recorder_;
};

}  // namespace

RecordingDisk::RecordingDisk(std::string root)
    : recorder_(std::make_shared<Recorder>(std::move(root))), rocksdb_files_(std::make_shared<RocksFiles>(recorder_)) {}

void RecordingDisk::Mark(int64_t number) {
  DiskOperation operation;
  operation.kind = Kind::kMark;
  operation.offset = number;
  recorder_->Note(std::move(operation));
}
std::vector<DiskOperation> RecordingDisk::operations() const { return recorder_->operations(); }

absl::StatusOr<std::unique_ptr<WritableFile>> RecordingDisk::NewWritableFile(const std::string& path) {
  Guard lock(recorder_->mutex());
  LOCI_ASSIGN_OR_RETURN(std::unique_ptr<WritableFile> file, base_.NewWritableFile(path));
  const int64_t handle = recorder_->NewHandle();
  recorder_->NoteFile(Kind::kCreate, path, handle, false);
  return std::make_unique<RecordingFile>(std::move(file), recorder_, path, handle);
}
absl::Status RecordingDisk::CreateDirectories(const std::string& directory) {
  Guard lock(recorder_->mutex());
  if (directory.empty() || base_.IsDirectory(directory)) return absl::OkStatus();
  const std::string parent = ParentPath(directory);
  if (parent != directory) LOCI_RETURN_IF_ERROR(CreateDirectories(parent));
  LOCI_RETURN_IF_ERROR(base_.CreateDirectories(directory));
  recorder_->Note(Kind::kMakeDirectory, directory, false);
  return absl::OkStatus();
}
absl::Status RecordingDisk::Rename(const std::string& from, const std::string& to) {
  Guard lock(recorder_->mutex());
  LOCI_RETURN_IF_ERROR(base_.Rename(from, to));
  recorder_->Note(Kind::kRename, from, false, to);
  return absl::OkStatus();
}
absl::Status RecordingDisk::SyncDirectory(const std::string& directory) {
  Guard lock(recorder_->mutex());
  LOCI_RETURN_IF_ERROR(base_.SyncDirectory(directory));
  recorder_->Note(Kind::kSyncDirectory, directory, false);
  return absl::OkStatus();
}
absl::Status RecordingDisk::DeleteFile(const std::string& path) {
  Guard lock(recorder_->mutex());
  LOCI_RETURN_IF_ERROR(base_.DeleteFile(path));
  recorder_->Note(Kind::kDelete, path, false);
  return absl::OkStatus();
}
absl::Status RecordingDisk::DeleteRecursively(const std::string& path) {
  Guard lock(recorder_->mutex());
  if (base_.IsDirectory(path)) {
    LOCI_ASSIGN_OR_RETURN(const std::vector<std::string> names, base_.List(path));
    for (const std::string& name : names) LOCI_RETURN_IF_ERROR(DeleteRecursively(JoinPath(path, name)));
  }
  if (!base_.Exists(path)) return absl::OkStatus();
  LOCI_RETURN_IF_ERROR(base_.DeleteRecursively(path));
  recorder_->Note(Kind::kDelete, path, false);
  return absl::OkStatus();
}
absl::StatusOr<std::unique_ptr<FileSystem::Lock>> RecordingDisk::LockFile(const std::string& path) {
  Guard lock(recorder_->mutex());
  LOCI_ASSIGN_OR_RETURN(std::unique_ptr<Lock> held, base_.LockFile(path));
  recorder_->NoteFile(Kind::kOpen, path, recorder_->NewHandle(), false);
  return held;
}

}  // namespace loci
