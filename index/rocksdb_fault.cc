#include "index/rocksdb_fault.h"

#include <string>
#include <utility>

namespace loci {
namespace {

using rocksdb::IODebugContext;
using rocksdb::IOOptions;
using rocksdb::IOStatus;
using rocksdb::Slice;

// Counts one operation. OK, or the failure.
IOStatus Count(RocksDbFaults& faults) {
  const int64_t number = faults.operations.fetch_add(1);
  if (number < faults.fail_from || number >= faults.fail_to) return IOStatus::OK();
  return faults.kind == RocksDbFaults::Kind::kNoSpace ? IOStatus::NoSpace("injected: no space") : IOStatus::IOError("injected");
}

class FaultyWritableFile : public rocksdb::FSWritableFileOwnerWrapper {
 public:
  FaultyWritableFile(std::unique_ptr<rocksdb::FSWritableFile> file, RocksDbFaults* faults)
      : rocksdb::FSWritableFileOwnerWrapper(std::move(file)), faults_(*faults) {}

  IOStatus Append(const Slice& data, const IOOptions& options, IODebugContext* context) override {
    const IOStatus status = Count(faults_);
    if (!status.ok()) return Fail(status, data, options, context);
    return FSWritableFileOwnerWrapper::Append(data, options, context);
  }
  IOStatus Append(const Slice& data, const IOOptions& options, const rocksdb::DataVerificationInfo& info,
                  IODebugContext* context) override {
    const IOStatus status = Count(faults_);
    if (!status.ok()) return Fail(status, data, options, context);
    return FSWritableFileOwnerWrapper::Append(data, options, info, context);
  }
  IOStatus Sync(const IOOptions& options, IODebugContext* context) override {
    const IOStatus status = Count(faults_);
    return status.ok() ? FSWritableFileOwnerWrapper::Sync(options, context) : status;
  }
  IOStatus Fsync(const IOOptions& options, IODebugContext* context) override {
    const IOStatus status = Count(faults_);
    return status.ok() ? FSWritableFileOwnerWrapper::Fsync(options, context) : status;
  }

 private:
  IOStatus Fail(const IOStatus& status, const Slice& data, const IOOptions& options, IODebugContext* context) {
    if (faults_.tear) (void)FSWritableFileOwnerWrapper::Append(Slice(data.data(), data.size() / 2), options, context);
    return status;
  }
  RocksDbFaults& faults_;
};

class FaultyDirectory : public rocksdb::FSDirectoryWrapper {
 public:
  FaultyDirectory(std::unique_ptr<rocksdb::FSDirectory> directory, RocksDbFaults* faults)
      : rocksdb::FSDirectoryWrapper(std::move(directory)), faults_(*faults) {}
  IOStatus Fsync(const IOOptions& options, IODebugContext* context) override {
    const IOStatus status = Count(faults_);
    return status.ok() ? FSDirectoryWrapper::Fsync(options, context) : status;
  }
  IOStatus FsyncWithDirOptions(const IOOptions& options, IODebugContext* context,
                               const rocksdb::DirFsyncOptions& directory_options) override {
    const IOStatus status = Count(faults_);
    return status.ok() ? FSDirectoryWrapper::FsyncWithDirOptions(options, context, directory_options) : status;
  }

 private:
  RocksDbFaults& faults_;
};

class FaultyFileSystem : public rocksdb::FileSystemWrapper {
 public:
  explicit FaultyFileSystem(RocksDbFaults* faults)
      : rocksdb::FileSystemWrapper(rocksdb::FileSystem::Default()), faults_(*faults) {}
  const char* Name() const override { return "FaultyFileSystem"; }

  IOStatus NewWritableFile(const std::string& path, const rocksdb::FileOptions& options,
                           std::unique_ptr<rocksdb::FSWritableFile>* result, IODebugContext* context) override {
    IOStatus status = Count(faults_);
    if (status.ok()) status = target()->NewWritableFile(path, options, result, context);
    if (status.ok()) *result = std::make_unique<FaultyWritableFile>(std::move(*result), &faults_);
    return status;
  }
  IOStatus RenameFile(const std::string& from, const std::string& to, const IOOptions& options, IODebugContext* context) override {
    const IOStatus status = Count(faults_);
    return status.ok() ? target()->RenameFile(from, to, options, context) : status;
  }
  IOStatus NewDirectory(const std::string& path, const IOOptions& options, std::unique_ptr<rocksdb::FSDirectory>* result,
                        IODebugContext* context) override {
    const IOStatus status = target()->NewDirectory(path, options, result, context);
    if (status.ok()) *result = std::make_unique<FaultyDirectory>(std::move(*result), &faults_);
    return status;
  }

 private:
  RocksDbFaults& faults_;
};

}  // namespace

std::shared_ptr<rocksdb::FileSystem> NewFaultyRocksDbFileSystem(RocksDbFaults* faults) {
  return std::make_shared<FaultyFileSystem>(faults);
}

}  // namespace loci
