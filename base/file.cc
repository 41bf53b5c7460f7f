#include "base/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pwd.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <optional>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "base/mapping_guard.h"
#include "base/status_macros.h"
#include "base/strings.h"

namespace loci {
namespace {

absl::Status ErrnoStatus(int error, std::string_view operation, const std::string& path) {
  const std::string message = absl::StrCat(AbslView(operation), " ", path, ": ", std::generic_category().message(error));
  switch (error) {
    case ENOENT:
      return absl::NotFoundError(message);
    case EEXIST:
      return absl::AlreadyExistsError(message);
    case ENOSPC:
    case EDQUOT:
    case EMFILE:
    case ENFILE:
    case ENOMEM:
      return absl::ResourceExhaustedError(message);
    case EROFS:
    case EACCES:
    case EPERM:
    case EISDIR:
    case ENOTDIR:
    case ENOTEMPTY:
      return absl::FailedPreconditionError(message);
    case ENAMETOOLONG:
      return absl::InvalidArgumentError(message);
    default:
      return absl::InternalError(message);
  }
}

std::string UserName(uid_t user) {
  passwd entry{};
  passwd* found = nullptr;
  char buffer[4096];
  if (getpwuid_r(user, &entry, buffer, sizeof(buffer), &found) == 0 && found != nullptr) return absl::StrCat(entry.pw_name, " (", user, ")");
  return absl::StrCat(user);
}

// ", and /var/lib/loci belongs to the user loci (100)" where what is in the way is another user's than this process's; else empty.
std::string OwnerOf(const std::string& path) {
  struct stat info {};
  std::string seen = path;  // As far as this process can look.
  while (::stat(seen.c_str(), &info) != 0) {
    const size_t slash = seen.rfind('/');
    if (slash == std::string::npos || slash == 0) return "";
    seen.resize(slash);
  }
  return info.st_uid == ::geteuid() ? "" : absl::StrCat(", and ", seen, " belongs to the user ", UserName(info.st_uid));
}

// Why a file that is to be locked can't be opened: most often it is another user's.
absl::Status AnothersFile(int error, const std::string& path) {
  const absl::Status status = ErrnoStatus(error, "cannot open", path);
  const std::string owner = error == EACCES || error == EPERM ? OwnerOf(path) : "";
  if (owner.empty()) return status;
  return absl::Status(status.code(), absl::StrCat(status.message(), owner, "; this process is of the user ", UserName(::geteuid())));
}

class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }
  int release() { return std::exchange(fd_, -1); }

 private:
  int fd_;
};

int OpenRetrying(const std::string& path, int flags, mode_t mode = 0) {
  int fd;
  do {
    fd = ::open(path.c_str(), flags | O_CLOEXEC, mode);
  } while (fd < 0 && errno == EINTR);
  return fd;
}

class PosixWritableFile : public WritableFile {
 public:
  PosixWritableFile(std::string path, int fd) : path_(std::move(path)), fd_(fd) { buffer_.reserve(kBufferBytes); }
  ~PosixWritableFile() override { (void)Close(); }

  absl::Status Append(std::string_view data) override {
    LOCI_RETURN_IF_ERROR(CheckUsable());
    if (buffer_.size() + data.size() > kBufferBytes) LOCI_RETURN_IF_ERROR(Flush());
    if (data.size() >= kBufferBytes) return Write(data);
    buffer_.append(data);
    return absl::OkStatus();
  }

  absl::Status Sync() override {
    LOCI_RETURN_IF_ERROR(CheckUsable());
    LOCI_RETURN_IF_ERROR(Flush());
    int result;
    do {
      result = ::fdatasync(fd_);
    } while (result != 0 && errno == EINTR);
    if (result != 0) return Fail("cannot sync");
    return absl::OkStatus();
  }

  absl::Status Close() override {
    if (fd_ < 0) return error_;
    absl::Status status = error_.ok() ? Flush() : error_;
    if (::close(std::exchange(fd_, -1)) != 0 && status.ok() && errno != EINTR) status = Fail("cannot close");
    return status;
  }

 private:
  static constexpr size_t kBufferBytes = 64 << 10;

  absl::Status CheckUsable() const {
    if (!error_.ok()) return error_;
    if (fd_ < 0) return absl::FailedPreconditionError(absl::StrCat("cannot write ", path_, ": it is closed"));
    return absl::OkStatus();
  }

  // After a failure nothing more is written: what is on disk is unknown, and a later Sync that said OK would lie.
  absl::Status Fail(std::string_view operation) {
    error_ = ErrnoStatus(errno, operation, path_);
    return error_;
  }

  absl::Status Flush() {
    LOCI_RETURN_IF_ERROR(Write(buffer_));
    buffer_.clear();
    return absl::OkStatus();
  }

  absl::Status Write(std::string_view data) {
    while (!data.empty()) {
      const ssize_t written = ::write(fd_, data.data(), data.size());
      if (written < 0) {
        if (errno == EINTR) continue;
        return Fail("cannot write");
      }
      data.remove_prefix(static_cast<size_t>(written));
    }
    return absl::OkStatus();
  }

  const std::string path_;
  int fd_;
  std::string buffer_;
  absl::Status error_;
};

class PosixMappedFile : public MappedFile {
 public:
  PosixMappedFile(std::string path, void* address, size_t size) : path_(std::move(path)), address_(address), size_(size) {
    if (size_ > 0) guard_.emplace(address_, size_);
  }
  ~PosixMappedFile() override {
    guard_.reset();
    if (size_ > 0) ::munmap(address_, size_);
  }

  absl::Status Check() const override {
    if (!guard_.has_value() || !guard_->lost()) return absl::OkStatus();
    return ErrorWithReason(absl::DataLossError(absl::StrCat(path_, " could not be read while it was open: it was cut short, or its disk failed")),
                           "FILE_DAMAGED", {{"file", path_.substr(path_.rfind('/') + 1)}});
  }

  std::string_view data() const override { return {static_cast<const char*>(address_), size_}; }

  void Warm() const override {
    if (size_ == 0) return;
    (void)::madvise(address_, size_, MADV_WILLNEED);
    const volatile char* bytes = static_cast<const char*>(address_);
    for (size_t i = 0; i < size_; i += 4096) (void)bytes[i];
  }

 private:
  const std::string path_;
  void* const address_;
  const size_t size_;
  std::optional<MappingGuard> guard_;
};

class PosixLock : public FileSystem::Lock {
 public:
  explicit PosixLock(int fd) : descriptor_(fd) {}

 private:
  Descriptor descriptor_;  // Closing it frees the lock.
};

class PosixFiles : public FileSystem {
 public:
  absl::StatusOr<std::unique_ptr<WritableFile>> NewWritableFile(const std::string& path) override {
    const int fd = OpenRetrying(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    if (fd < 0) return ErrnoStatus(errno, "cannot create", path);
    return std::make_unique<PosixWritableFile>(path, fd);
  }

  absl::StatusOr<std::unique_ptr<MappedFile>> Map(const std::string& path) override {
    const Descriptor file(OpenRetrying(path, O_RDONLY | O_NONBLOCK));
    if (file.get() < 0) return ErrnoStatus(errno, "cannot open", path);
    struct stat info;
    if (::fstat(file.get(), &info) != 0) return ErrnoStatus(errno, "cannot stat", path);
    if (S_ISDIR(info.st_mode)) return ErrnoStatus(EISDIR, "cannot map", path);
    if (!S_ISREG(info.st_mode)) {
      return absl::FailedPreconditionError(absl::StrCat("cannot map ", path, ": it is not a regular file"));
    }
    const size_t size = static_cast<size_t>(info.st_size);
    if (size == 0) return std::make_unique<PosixMappedFile>(path, nullptr, 0);
    void* const address = ::mmap(nullptr, size, PROT_READ, MAP_SHARED, file.get(), 0);
    if (address == MAP_FAILED) return ErrnoStatus(errno, "cannot map", path);
    return std::make_unique<PosixMappedFile>(path, address, size);
  }

  absl::StatusOr<std::string> ReadFile(const std::string& path) override {
    const Descriptor file(OpenRetrying(path, O_RDONLY | O_NONBLOCK));
    if (file.get() < 0) return ErrnoStatus(errno, "cannot open", path);
    struct stat info;
    if (::fstat(file.get(), &info) != 0) return ErrnoStatus(errno, "cannot stat", path);
    if (S_ISDIR(info.st_mode)) return ErrnoStatus(EISDIR, "cannot read", path);
    if (!S_ISREG(info.st_mode)) {
      return absl::FailedPreconditionError(absl::StrCat("cannot read ", path, ": it is not a regular file"));
    }
    // The size is a hint: what lies in /proc has none.
    std::string content;
    size_t used = 0;
    content.resize(info.st_size > 0 ? static_cast<size_t>(info.st_size) + 1 : 4096);
    while (true) {
      if (used == content.size()) content.resize(2 * content.size());
      const ssize_t count = ::read(file.get(), content.data() + used, content.size() - used);
      if (count < 0) {
        if (errno == EINTR) continue;
        return ErrnoStatus(errno, "cannot read", path);
      }
      if (count == 0) break;
      used += static_cast<size_t>(count);
    }
    content.resize(used);
    return content;
  }

  absl::StatusOr<int64_t> FileSize(const std::string& path) override {
    struct stat info;
    if (::stat(path.c_str(), &info) != 0) return ErrnoStatus(errno, "cannot stat", path);
    if (S_ISDIR(info.st_mode)) return ErrnoStatus(EISDIR, "cannot take the size of", path);
    return static_cast<int64_t>(info.st_size);
  }

  bool Exists(const std::string& path) override {
    struct stat info;
    return ::stat(path.c_str(), &info) == 0;
  }

  bool IsDirectory(const std::string& path) override {
    struct stat info;
    return ::stat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode);
  }

  absl::StatusOr<std::vector<std::string>> List(const std::string& directory) override {
    DIR* const stream = ::opendir(directory.c_str());
    if (stream == nullptr) return ErrnoStatus(errno, "cannot list", directory);
    std::vector<std::string> names;
    errno = 0;
    while (const dirent* entry = ::readdir(stream)) {
      const std::string_view name = entry->d_name;
      if (name != "." && name != "..") names.emplace_back(name);
      errno = 0;
    }
    const int error = errno;
    ::closedir(stream);
    if (error != 0) return ErrnoStatus(error, "cannot list", directory);
    std::sort(names.begin(), names.end());
    return names;
  }

  absl::Status CreateDirectories(const std::string& directory) override {
    if (directory.empty() || IsDirectory(directory)) return absl::OkStatus();
    const std::string parent = std::filesystem::path(directory).parent_path().string();
    if (parent != directory) LOCI_RETURN_IF_ERROR(CreateDirectories(parent));
    if (::mkdir(directory.c_str(), 0755) != 0) {
      // "a/" names "a", which the parent's turn has just made; another thread may have made it as well.
      if (errno == EEXIST && IsDirectory(directory)) return absl::OkStatus();
      return ErrnoStatus(errno == EEXIST ? ENOTDIR : errno, "cannot create", directory);
    }
    return absl::OkStatus();
  }

  absl::Status Rename(const std::string& from, const std::string& to) override {
    if (::rename(from.c_str(), to.c_str()) != 0) {
      return ErrnoStatus(errno, "cannot rename", absl::StrCat(from, " to ", to));
    }
    return absl::OkStatus();
  }

  absl::Status SyncDirectory(const std::string& directory) override {
    const Descriptor folder(OpenRetrying(directory, O_RDONLY | O_DIRECTORY));
    if (folder.get() < 0) return ErrnoStatus(errno, "cannot open", directory);
    // Some file systems can't sync a folder, and say EINVAL: there is nothing more to do on them.
    if (::fsync(folder.get()) != 0 && errno != EINVAL) return ErrnoStatus(errno, "cannot sync", directory);
    return absl::OkStatus();
  }

  absl::Status DeleteFile(const std::string& path) override {
    if (::unlink(path.c_str()) != 0) return ErrnoStatus(errno, "cannot delete", path);
    return absl::OkStatus();
  }

  absl::Status DeleteRecursively(const std::string& path) override {
    std::error_code error;
    std::filesystem::remove_all(path, error);
    if (error) return ErrnoStatus(error.value(), "cannot delete", path);
    return absl::OkStatus();
  }

  absl::StatusOr<std::unique_ptr<Lock>> LockFile(const std::string& path) override {
    Descriptor file(OpenRetrying(path, O_RDWR | O_CREAT, 0644));
    if (file.get() < 0) return AnothersFile(errno, path);
    int result;
    do {
      result = ::flock(file.get(), LOCK_EX | LOCK_NB);
    } while (result != 0 && errno == EINTR);
    if (result != 0) {
      if (errno == EWOULDBLOCK) {
        return absl::FailedPreconditionError(absl::StrCat("cannot lock ", path, ": another process has it locked", OwnerOf(path)));
      }
      return ErrnoStatus(errno, "cannot lock", path);
    }
    return std::make_unique<PosixLock>(file.release());
  }
};

}  // namespace

FileSystem& PosixFileSystem() {
  static FileSystem* const files = new PosixFiles();
  return *files;
}

absl::Status WriteFileAtomically(FileSystem& fs, const std::string& path, std::string_view content) {
  const std::string temporary = absl::StrCat(path, ".tmp");
  const auto write = [&]() -> absl::Status {
    LOCI_ASSIGN_OR_RETURN(std::unique_ptr<WritableFile> file, fs.NewWritableFile(temporary));
    LOCI_RETURN_IF_ERROR(file->Append(content));
    LOCI_RETURN_IF_ERROR(file->Sync());
    LOCI_RETURN_IF_ERROR(file->Close());
    return fs.Rename(temporary, path);
  };
  if (absl::Status status = write(); !status.ok()) {
    (void)fs.DeleteFile(temporary);
    return status;
  }
  return fs.SyncDirectory(ParentPath(path));
}

absl::Status CreateDirectoriesSynced(FileSystem& fs, const std::string& path) {
  if (path.empty() || fs.IsDirectory(path)) return absl::OkStatus();
  const std::string parent = ParentPath(path);
  if (parent != path) LOCI_RETURN_IF_ERROR(CreateDirectoriesSynced(fs, parent));
  LOCI_RETURN_IF_ERROR(fs.CreateDirectories(path));
  return fs.SyncDirectory(parent);
}

std::string ParentPath(std::string_view path) {
  while (path.size() > 1 && path.back() == '/') path.remove_suffix(1);
  const size_t slash = path.rfind('/');
  if (slash == std::string_view::npos) return ".";
  path = path.substr(0, slash);
  while (path.size() > 1 && path.back() == '/') path.remove_suffix(1);
  return path.empty() ? "/" : std::string(path);
}

std::string JoinPath(std::string_view a, std::string_view b) {
  if (a.empty()) return std::string(b);
  while (a.size() > 1 && a.back() == '/') a.remove_suffix(1);
  while (!b.empty() && b.front() == '/') b.remove_prefix(1);
  std::string path(a);
  if (b.empty()) return path;
  if (path.back() != '/') path.push_back('/');
  path.append(b);
  return path;
}

}  // namespace loci
